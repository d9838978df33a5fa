"""Whole runs of the scripts: time to the accuracy that the documentation's job ends with, to the end, and --plain."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from benchmarks import plain
from benchmarks.images import SIZE, write
from benchmarks.measure import importing, in_process, row
from benchmarks.series import HORIZON, LOOK_BACK, target_of, weather
from keras_a2.errors import UserError
from keras_a2.transfer import data, model, sources

TRANSFER = ("transfer", "--weights", "bundled")
RECURRENT = ("recurrent", "--cell", "gru")
# The documentation's job on the solar cells, run once in full: it had 241 of the 295 validation images right at the end
# of its last epoch, and at no earlier one.
GOAL, HEAD_EPOCHS, FINE_TUNE_EPOCHS = 241 / 295, 2, 10
EXAMPLE_EPOCHS, PATIENCE = 16, 4  # of the documentation's forecaster: those of ours
POLL = 0.1  # seconds


def rows_transfer(quick: bool) -> list[dict]:
    """Seconds until the validation accuracy that the plain job ends with; and until the script's end."""
    few = 30 if quick else None
    goal = 0.5 if quick else GOAL
    options = ["--train-per-class", str(few), "--fine-tune-epochs", "1"] if quick else []
    reached, whole, metrics = run(*TRANSFER, *options, goal=goal)
    theirs = in_process(f"{__name__}:plain_transfer", per_class=few)
    note = f"ours ends at {metrics['arms']['pretrained']['phases'][-1]['validation_accuracy']:.3f}"
    note += f"; theirs needs {HEAD_EPOCHS} + {FINE_TUNE_EPOCHS} epochs, of each phase two are run"
    to_goal = f"transfer.py, to {100 * goal:.1f} % on validation"
    return [
        row(to_goal, "the same job with fit", "s", [reached], [theirs], 5, note),
        row("transfer.py, default run, control and page too", "90 s", "s", [whole], [90.0], None if quick else 1),
    ]


def plain_transfer(per_class: int | None) -> float:
    """Seconds until the documentation's job has ``GOAL``."""
    images = data.load(sources.find("elpv"), sources.Options(image_size=SIZE, train_per_class=per_class), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        write(images, Path(folder))
        whole, started = importing(), time.perf_counter()
        train, validation = (plain.images_from(Path(folder, name), SIZE) for name in ("train", "validation"))
        base, classifier = plain.transfer_model(SIZE, len(images.classes), model.BUNDLED)
        plain.compile_classifier(classifier, 1e-3)
        whole += time.perf_counter() - started + plain.fit_seconds(classifier, train, validation, HEAD_EPOCHS)
        base.trainable = True
        plain.compile_classifier(classifier, 1e-5)
        return whole + plain.fit_seconds(classifier, train, validation, FINE_TUNE_EPOCHS)


def rows_recurrent(quick: bool) -> list[dict]:
    """The default run of one cell against the documentation's forecaster, trained and tested as long."""
    _, whole, metrics = run(*RECURRENT, *["--epochs", "2"] * quick)
    theirs, error = in_process(f"{__name__}:plain_recurrent", epochs=2 if quick else EXAMPLE_EPOCHS)
    ours = metrics["models"]["gru"]["test"]["mae_standardized"]
    note = "ours with its baselines, tests, figures and published model; "
    note += f"test error {ours:.3f} against {error:.3f} standard deviations"
    name = "recurrent.py --cell gru, whole run"
    return [
        row(name, "the example's job with fit", "s", [whole], [theirs], 2, note),
        row(name, "20 s", "s", [whole], [20.0], None if quick else 1),
    ]


def plain_recurrent(epochs: int) -> tuple[float, float]:
    """Seconds of Keras's weather example on our series, and its mean absolute test error, standardised."""
    windows, whole = weather(), importing()
    ends = [0, *(int(windows.origins[name].max()) for name in ("train", "validation")), len(windows.values)]
    values, target = windows.values, target_of(windows)
    started = time.perf_counter()
    train, validation, test = (
        plain.windows_from(values[a:b], target[a:b], LOOK_BACK, HORIZON, 128) for a, b in itertools.pairwise(ends)
    )
    network = plain.forecaster("gru", LOOK_BACK, values.shape[1], HORIZON, 128)
    stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    network.fit(train, epochs=epochs, validation_data=validation, callbacks=[stop], verbose=0)
    error = float(network.evaluate(test, verbose=0))
    return whole + time.perf_counter() - started, error


def rows_plain(quick: bool) -> list[dict]:
    """Both scripts against themselves with --plain: everything in keras_a2/fast, of a whole run."""
    rows = []
    short = {"transfer": "--train-per-class 30 --fine-tune-epochs 1 --scratch-epochs 1", "recurrent": "--epochs 2"}
    for script, *options in (TRANSFER, RECURRENT):
        more = short[script].split() if quick else []
        (_, ours, mine), (_, theirs, plains) = (run(script, *options, *more, *twin) for twin in ([], ["--plain"]))
        figures = [_test_figure(metrics) for metrics in (mine, plains)]
        note = f"test {figures[0]}, plain {figures[1]}"
        rows.append(row(f"{script}.py {' '.join(options)}", "the same with --plain", "s", [ours], [theirs], 1.2, note))
    return rows


def _test_figure(metrics: dict) -> str:
    """Of either experiment."""
    if "arms" in metrics:
        return f"accuracy {metrics['arms']['pretrained']['test']['accuracy']:.3f}"
    return f"error {metrics['models']['gru']['test']['mae']:.3f}"


def run(script: str, *options: str, goal: float = 2.0) -> tuple[float, float, dict]:
    """A run of a script: seconds until its pretrained network first has ``goal``, and until its end; its metrics.

    Raises:
        UserError: the script failed, or never had the goal.
    """
    reached = None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, str(Path(__file__).parents[1] / f"{script}.py"), *options, "--output", temporary]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                if reached is None and any(accuracy >= goal for accuracy in _accuracies(folder)):
                    reached = time.perf_counter() - started
                time.sleep(POLL)
            whole = time.perf_counter() - started
            if process.returncode:
                raise UserError(f"{script}.py failed: {process.stderr.read() if process.stderr else ''}")
        metrics = json.loads(next(folder.glob("*/*/metrics.json")).read_text(encoding="utf-8"))
    if goal <= 1 and reached is None:
        raise UserError(f"{script}.py never reached {goal} on validation")
    return reached or whole, whole, metrics


def _accuracies(folder: Path) -> Iterator[float]:
    """Validation accuracies so far of the pretrained network, from the state files of a run in progress."""
    for path in folder.rglob("*.npz"):
        if "scratch" in path.stem:
            continue
        try:
            with np.load(path) as state:
                rows = json.loads(state["summary"].tobytes())["rows"]
        except (OSError, ValueError, zipfile.BadZipFile):  # replaced or removed this moment
            continue
        yield from (row["validation_accuracy"] for row in rows if "validation_accuracy" in row)
