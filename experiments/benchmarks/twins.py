"""Each script as it is against itself with ``--plain``: what everything in keras_a2/fast buys of a whole run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.measure import row, seconds

RUN_EPOCHS = 2  # of each phase that trains the backbone; the others take as long as the second
EPOCHS = {"fine_tune": 10, "scratch": 12}  # of transfer.py's default run


def rows_transfer(quick: bool) -> list[dict]:
    """The default run, from two epochs of each unfrozen phase; the others are added at the second's length."""
    options = ["--weights", "bundled", "--fine-tune-epochs", str(RUN_EPOCHS), "--scratch-epochs", str(RUN_EPOCHS)]
    options += ["--train-per-class", "30"] if quick else []
    times, accuracies = [], []
    for more in ([], ["--plain"]):
        with tempfile.TemporaryDirectory() as folder:
            time = _run("transfer", [*options, *more, "--output", folder])
            history = pd.read_csv(next(Path(folder).glob("*/*/history.csv")))
            metrics = json.loads(next(Path(folder).glob("*/*/metrics.json")).read_text())
        second = history[history["epoch"] == RUN_EPOCHS].set_index("phase")["seconds"]
        times.append(time + sum((epochs - RUN_EPOCHS) * float(second[phase]) for phase, epochs in EPOCHS.items()))
        accuracies.append(metrics["arms"]["pretrained"]["test"]["accuracy"])
    note = f"test accuracy after {RUN_EPOCHS} epochs {accuracies[0]:.3f}, plain {accuracies[1]:.3f}"
    return [row("transfer.py, default run", "the same with --plain", "s", times[:1], times[1:], 1.2, note)]


def rows_recurrent(quick: bool) -> list[dict]:
    """The default run of one cell, in full."""
    times, errors = [], []
    for more in ([], ["--plain"]):
        with tempfile.TemporaryDirectory() as folder:
            options = ["--cell", "gru", "--epochs", "2" if quick else "16", *more, "--output", folder]
            times.append(_run("recurrent", options))
            metrics = json.loads(next(Path(folder).glob("*/*/metrics.json")).read_text())
        errors.append(metrics["models"]["gru"]["test"]["mae"])
    note = f"test error {errors[0]:.3f}, plain {errors[1]:.3f}"
    return [row("recurrent.py --cell gru, whole run", "the same with --plain", "s", times[:1], times[1:], 1.2, note)]


def _run(script: str, options: list[str]) -> float:
    command = [sys.executable, str(Path(__file__).parents[1] / f"{script}.py"), *options]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))
