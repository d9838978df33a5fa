"""The epoch loop that both experiments share: best weights, early stopping, resume, progress, divergence; averages."""

from __future__ import annotations

import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from keras_a2.console import console
from keras_a2.errors import Diverged
from keras_a2.files import whole

# What wants to know how far a training is: called with ``completed`` and ``total`` epochs and a ``note``.
LISTENERS: list[Callable[[dict[str, Any]], None]] = []
SAVED_EVERY = 2.0  # seconds: an epoch of a short training takes less time than writing its state


@dataclass
class History:
    """One row per epoch (row 0 is the state before training), which of them was kept, and each epoch's seconds.

    ``earlier``: seconds that a killed process had trained before this one went on.
    """

    rows: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    seconds: list[float] = field(default_factory=lambda: [0.0])
    earlier: float = 0.0

    @property
    def best(self) -> dict:
        """The row of the best epoch."""
        return self.rows[self.best_epoch]

    @property
    def epochs(self) -> int:
        """Epochs that were trained."""
        return len(self.rows) - 1

    @property
    def seconds_per_epoch(self) -> float:
        """Their median."""
        return float(np.median(self.seconds[1:] or [0.0]))

    def table(self) -> list[dict]:
        """The rows as ``history.csv`` has them, with their seconds."""
        return [{**row, "seconds": seconds} for row, seconds in zip(self.rows, self.seconds, strict=True)]


def fit(
    stage: str,
    *,
    train_epoch: Callable[[int, Callable[[float], None]], float | dict[str, float]],
    validate: Callable[[], dict],
    score: Callable[[dict], tuple],
    weights: Sequence[Any],
    state: Sequence[Any],
    epochs: int,
    patience: int | None = None,
    ceiling: float = math.inf,
    path: Path | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> History:
    """Train for at most ``epochs`` epochs and leave the best ones' values in ``weights``.

    Args:
        stage: name for the progress line and for errors.
        train_epoch: ``(epoch, report) -> mean training loss``, or figures by name, ``loss`` among them; calls
            ``report(fraction)`` as it goes. Its randomness must come from the epoch number, so that a resumed run sees
            what the uninterrupted one would have.
        validate: measures on the validation split, by the names the history shall have.
        score: of a history row; the largest wins, the earliest of equals.
        weights: variables (``.numpy()``, ``.assign()``) that make up the model.
        state: further variables needed to go on exactly (optimizer, dropout seeds).
        patience: stop after this number of epochs without a better score.
        ceiling: a training loss above it has diverged, even if it is a number still.
        path: file that carries the state across a kill, written whole after the first epoch and the last, and after
            those between that end ``SAVED_EVERY`` seconds later than the one before that was written.

    Raises:
        Diverged: when the training or validation loss is not finite or above the ceiling, naming the epoch.
    """
    history, best = _restore(path, weights, state)
    saved = -math.inf

    def has_ended() -> bool:
        exhausted = patience is not None and history.epochs - history.best_epoch >= patience
        return history.epochs >= epochs or exhausted

    with progress() as bar:
        task = bar.add_task(stage.replace("_", "-"), total=epochs, note="")

        def show(completed: float, note: str) -> None:
            bar.update(task, completed=completed, note=note)
            for listen in LISTENERS:
                listen({"completed": completed, "total": epochs, "note": f"{stage}  {note}"})

        # The first pass through a compiled function traces and compiles it, which takes longer than some epochs.
        show(max(history.epochs, 0), "compiling")
        if not history.rows:
            history.rows.append(_row(stage, 0, validate()))
            best = [np.array(w) for w in weights]
        while not has_ended():
            epoch, started = history.epochs + 1, time.perf_counter()
            note = _note(history.rows[-1]) if epoch > 1 else ""

            def report(part: float, trained: int = history.epochs, note: str = note) -> None:
                show(trained + part, note)

            trained = train_epoch(epoch, report)
            figures = trained if isinstance(trained, dict) else {"loss": trained}
            row = _row(stage, epoch, {**figures, **validate()}, ceiling)
            history.rows.append(row)
            history.seconds.append(time.perf_counter() - started)
            if score(row) > score(history.best):
                history.best_epoch, best = epoch, [np.array(w) for w in weights]
            show(epoch, _note(row))
            if on_epoch:
                on_epoch(row)
            if path is not None and (has_ended() or time.perf_counter() - saved >= SAVED_EVERY):
                _save(path, history, weights, state, best)
                saved = time.perf_counter()
        note, took = _note(history.best), sum(history.seconds)
        bar.update(task, total=history.epochs, completed=history.epochs, note=note, took=took)
    for variable, value in zip(weights, best, strict=True):
        variable.assign(value)
    return history


class Average:
    """Exponential moving average of a model's weights, batch-norm statistics included.

    The effective decay grows from 0.1 to ``decay`` (``(1 + t) / (10 + t)``), so that a short training is not held at
    its start. ``decay`` 0 turns it off: the weights themselves stand for it.
    """

    def __init__(self, model: Any, decay: float):
        import keras

        self._live = list(model.weights)
        self._decay = decay
        self.count = keras.Variable(0.0, trainable=False)
        copies = (keras.Variable(np.array(w), dtype=w.dtype, trainable=False) for w in self._live)
        self.averaged = self._live if not decay else list(copies)

    def update(self) -> None:
        """Take a step's weights into the average."""
        import tensorflow as tf

        if self.averaged is self._live:
            return
        self.count.assign_add(1.0)
        decay = tf.minimum(self._decay, (1 + self.count) / (10 + self.count))
        for averaged, live in zip(self.averaged, self._live, strict=True):
            if live.dtype.startswith("float"):
                averaged.assign_sub((averaged - live) * (1 - decay))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        if self.averaged is self._live:
            yield
            return
        live = [np.array(w) for w in self._live]
        self.copy_to_model()
        try:
            yield
        finally:
            for variable, value in zip(self._live, live, strict=True):
                variable.assign(value)

    def include(self, variables: list) -> None:
        """Inside ``swapped_in``: make what the model has in ``variables`` part of the average."""
        included = {id(v) for v in variables}
        for live, averaged in zip(self._live, self.averaged, strict=True):
            if id(live) in included and live is not averaged:
                averaged.assign(live)

    def copy_to_model(self) -> None:
        """Give the model the averaged weights."""
        for live, averaged in zip(self._live, self.averaged, strict=True):
            if live is not averaged:
                live.assign(averaged)


def warm_up_and_decay(peak: float, epochs: int, steps: int, end: float = 0.0) -> Any:
    """Keras's schedule of a rate that rises over the first epoch of ``steps`` steps, then falls like a cosine.

    Args:
        end: what it falls to, as a share of the peak.
    """
    import keras

    return keras.optimizers.schedules.CosineDecay(
        0.0, max((epochs - 1) * steps, 1), alpha=end, warmup_target=peak, warmup_steps=steps
    )


def random_states(model: Any) -> list:
    """Dropout's seeds, so that a resumed run drops what the uninterrupted one would have dropped."""
    known = {id(w) for w in model.weights}
    return [v for v in model.variables if id(v) not in known]


def _row(stage: str, epoch: int, measured: dict, ceiling: float = math.inf) -> dict:
    for name, value in measured.items():
        if not math.isfinite(value) or (name == "loss" and value > ceiling):
            raise Diverged(
                f"{stage}: training diverged in epoch {epoch} ({name} is {value:.4g}); lower --learning-rate and run "
                "again"
            )
    return {"epoch": epoch} | {name: float(value) for name, value in measured.items()}


def _note(row: dict) -> str:
    # Of validation first: in a narrow terminal the end of the line is cut off.
    names = sorted(row, key=lambda name: not name.startswith("validation"))
    short = ((name.replace("validation_", "val. "), row[name]) for name in names if name != "epoch")
    return "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in short)


class _Clock(TimeRemainingColumn):
    """The time left; of a finished stage the time it took."""

    def render(self, task: Task) -> Text:
        """One or the other, as text."""
        if "took" not in task.fields:
            return super().render(task)
        minutes, seconds = divmod(round(task.fields["took"]), 60)
        return Text(f"took {minutes}:{seconds:02d}")


def progress(on: Console = console, transient: bool = False) -> Progress:
    """The progress lines of training: where they are too long for the terminal, only the note is cut.

    Args:
        transient: they disappear in the end.
    """
    whole, rest = (lambda: Column(no_wrap=True)), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Progress(
        TextColumn("{task.description:<10}", table_column=whole()),
        BarColumn(bar_width=12, table_column=whole()),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=whole()),
        _Clock(compact=True, table_column=whole()),
        TextColumn("{task.fields[note]}", table_column=rest),
        console=on,
        expand=True,
        transient=transient,
    )


def _save(path: Path, history: History, weights: Sequence, state: Sequence, best: Sequence) -> None:
    parts = {"weight": weights, "state": state, "best": best}
    arrays = {f"{part}_{i}": np.array(value) for part, values in parts.items() for i, value in enumerate(values)}
    facts = {"rows": history.rows, "best_epoch": history.best_epoch, "seconds": history.seconds}
    arrays["summary"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes every array for allow_pickle


def _restore(path: Path | None, weights: Sequence, state: Sequence) -> tuple[History, list[np.ndarray]]:
    saved = read_state(path)
    if not saved:
        return History(), []
    for part, variables in {"weight": weights, "state": state}.items():
        for i, variable in enumerate(variables):
            variable.assign(saved[f"{part}_{i}"])
    summary = json.loads(saved["summary"].tobytes())
    history = History(summary["rows"], summary["best_epoch"], summary["seconds"], sum(summary["seconds"]))
    return history, [saved[f"best_{i}"] for i in range(len(weights))]


def read_state(path: Path | None) -> dict[str, np.ndarray]:
    """The arrays of a stage's state file; empty where there is none. A damaged file is removed, and that is said."""
    if path is None or not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}  # reading checks every array's CRC
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        path.unlink()
        console.print(f"note: the state in {path.name} is damaged; this stage starts again from its beginning")
        return {}


def over_seeds(results: list[dict]) -> dict:
    """The mean of each figure over the seeds; with more than one, the values stand beside it as ``<name>_seeds``.

    For figures only: the mean of intervals or p-values is neither, so those are computed from all seeds' predictions.
    """
    if len(results) == 1:
        return results[0]
    summary: dict = {}
    for name, value in results[0].items():
        values = [result[name] for result in results]
        if isinstance(value, dict):
            summary[name] = over_seeds(values)
        elif isinstance(value, int):
            summary[name] = value
        else:
            summary |= {name: np.mean(values, axis=0).tolist(), f"{name}_seeds": values}
    return summary


def means(figures: dict) -> dict:
    """What ``over_seeds`` gave without the values of the single seeds."""
    return {name: value for name, value in figures.items() if not name.endswith("_seeds")}
