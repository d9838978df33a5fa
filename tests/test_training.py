"""The epoch loop: best weights, early stopping, resume, divergence."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from keras_a2 import training
from keras_a2.errors import UserError


def run(losses: list[float], tmp_path=None, stop_after: int | None = None, **options):
    """A 'training' whose weight counts the epochs and whose validation follows ``losses`` (first: before training)."""
    weight = tf.Variable(0.0)

    def train_epoch(epoch, report):
        if stop_after is not None and epoch > stop_after:
            raise KeyboardInterrupt
        weight.assign_add(1.0)
        return 1.0

    history = training.fit(
        "test",
        train_epoch=train_epoch,
        validate=lambda: {"validation_loss": losses[int(weight.numpy())]},
        score=lambda row: -row["validation_loss"],
        weights=[weight],
        state=[],
        epochs=len(losses) - 1,
        path=tmp_path,
        **options,
    )
    return history, float(weight.numpy())


def test_the_best_epoch_is_kept_the_earliest_of_equals():
    history, weight = run([9, 5, 3, 3, 4])
    assert (history.best_epoch, weight, history.epochs) == (2, 2.0, 4)


def test_the_state_before_training_can_win():
    assert run([1, 2, 3])[1] == 0.0


def test_early_stopping():
    assert run([9, 5, 6, 7, 8, 1], patience=2)[0].epochs == 3


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_resume_ends_like_the_uninterrupted_run(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(training, "SAVED_EVERY", seconds)
    losses = [9, 5, 3, 8, 2, 7]
    whole = run(losses)
    with pytest.raises(KeyboardInterrupt):
        run(losses, tmp_path / "s.npz", stop_after=2)
    resumed = run(losses, tmp_path / "s.npz")
    assert resumed[0].rows == whole[0].rows
    assert (resumed[0].best_epoch, resumed[1]) == (whole[0].best_epoch, whole[1])


def test_quick_epochs_do_not_each_write_their_state(tmp_path, monkeypatch):
    losses, path, written, save = [9, 5, 3, 8, 2, 7], tmp_path / "s.npz", [], training._save
    monkeypatch.setattr(training, "_save", lambda path, *rest: written.append(rest[0].epochs) or save(path, *rest))
    ended = run(losses, path)
    assert written == [1, 5]
    assert run(losses, path, stop_after=0)[0].rows == ended[0].rows  # nothing is left to train


def shown(bars, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), soft_wrap=True)
    console.print(bars.get_renderable())
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_narrow_terminal_cuts_only_the_note_of_the_progress(width):
    bars = training.progress(Console(width=width, file=io.StringIO()))
    row = training._note({"epoch": 3, "loss": 0.12354, "validation_loss": 0.123, "validation_accuracy": 0.9})
    validation = "val. loss 0.1230  val. accuracy 0.9000"
    assert row == f"{validation}  loss 0.1235"
    bars.add_task("simple-rnn", total=16, completed=16, note=row, took=3725)
    bars.add_task("fine-tune", total=10, completed=0, note="compiling")
    finished, running = shown(bars, width)
    assert len(finished) == width
    assert finished.startswith("simple-rnn " + 12 * "━" + " 16/16 took 62:05 val. loss 0.1")
    assert (validation in finished) == (width >= 80)
    assert (row in finished) == (width == 100)
    assert running.startswith("fine-tune ")
    assert "0/10" in running
    assert "-:--" in running
    assert "compiling" in running


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:-9], lambda b: b"no zip"])
def test_a_damaged_state_starts_its_stage_again_and_says_so(tmp_path, damage, capsys):
    losses, path = [9, 5, 3, 8, 2, 7], tmp_path / "s.npz"
    whole = run(losses)
    with pytest.raises(KeyboardInterrupt):
        run(losses, path, stop_after=3)
    path.write_bytes(damage(path.read_bytes()))
    again = run(losses, path)
    assert (again[0].rows, again[1]) == (whole[0].rows, whole[1])
    assert "s.npz is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_names_the_epoch(bad):
    with pytest.raises(UserError, match="diverged in epoch 2"):
        run([9, 5, bad])


def test_over_seeds_keeps_every_value():
    assert training.over_seeds([{"a": 1.0, "n": 4}]) == {"a": 1.0, "n": 4}
    both = training.over_seeds([{"a": 1.0, "n": 4, "d": {"b": 0.0}}, {"a": 2.0, "n": 4, "d": {"b": 1.0}}])
    assert both == {"a": 1.5, "a_seeds": [1.0, 2.0], "n": 4, "d": {"b": 0.5, "b_seeds": [0.0, 1.0]}}


def test_average_of_constant_weights_is_the_constant_and_follows_a_change():
    import keras

    from keras_a2.training import Average

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    average = Average(model, 0.9)
    before = np.array(model.weights[0])
    average.update()
    np.testing.assert_allclose(np.array(average.averaged[0]), before, rtol=1e-6)
    model.weights[0].assign(before + 1)
    for _ in range(200):
        average.update()
    with average.swapped_in():
        np.testing.assert_allclose(np.array(model.weights[0]), before + 1, rtol=1e-4)
