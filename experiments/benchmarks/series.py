"""Experiment 2's rows: training of each cell, segments, the whole run, growth."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd

import recurrent
from benchmarks import plain
from benchmarks.measure import alternate, growth, importing, in_process, peak_bytes, rate, row, seconds
from keras_a2 import settings
from keras_a2.fast.windows import compiled
from keras_a2.recurrent import data, evaluate, sources, train
from keras_a2.training import Average

HERE = __name__
LOOK_BACK, HORIZON, UNITS, BATCH = 72, 24, 64, 128
CELLS = ("simple_rnn", "lstm", "gru")


def configured(windows: data.Windows, *options: str) -> recurrent.Config:
    """The script's configuration, its defaults resolved, but for the width that the rows of training have."""
    return train.resolve(settings.parse(recurrent.Config, ["--units", str(UNITS), *options]), windows)


def rows_recurrent(quick: bool) -> list[dict]:
    """Windows a second of each cell, against Keras's weather example and, where it is installed, PyTorch."""
    steps, rounds = (10, 1) if quick else (20, 3)
    windows, found = _weather(), []
    samples = train.samples_of(windows, windows.origins["train"], False)[: steps * BATCH]
    inputs = windows.values.shape[1]
    for cell in CELLS:
        ours = _our_epoch(cell, windows, samples)
        rivals = {
            "fit": _plain_epoch(cell, windows, len(samples)),
            "ours with --plain": (len(samples), _our_epoch(cell, windows, samples, plain=True)),
        }
        if importlib.util.find_spec("torch"):
            rivals["PyTorch"] = (len(samples), _torch_epoch(cell, windows, samples))
        ours()
        for against, (count, theirs) in rivals.items():
            theirs()
            times = alternate(rate(len(samples), ours), rate(count, theirs), rounds)
            bar = {"fit": 2, "PyTorch": 1.1}.get(against)
            note = "" if "plain" in against else f"ours sees {2 * inputs} inputs a step, the other {inputs}"
            found.append(row(f"training, {cell}", against, "windows/s", *times, bar, note))
    return found


def _torch_epoch(cell: str, windows, samples):
    step = plain.torch_step(cell, windows.values.shape[1], HORIZON, UNITS)
    seen = np.lib.stride_tricks.sliding_window_view(windows.values, LOOK_BACK, axis=0).transpose(0, 2, 1)
    starts = samples[:, 0] + windows.past.min()

    def epoch() -> None:
        for i in range(0, len(samples), BATCH):
            chosen = np.ascontiguousarray(seen[starts[i : i + BATCH]])
            ahead = samples[i : i + BATCH, :1] + windows.future
            step(chosen, windows.truth[ahead, 0])

    return epoch


def _our_epoch(cell: str, windows: data.Windows, samples: np.ndarray, segment: int = 0, plain: bool = False):
    """An epoch of the script's training on these samples, or with ``plain`` of its ``--plain``."""
    config = configured(windows, "--segment", str(segment))
    network = recurrent.build_network(cell, windows, config.network)
    network.compile(keras.optimizers.Adam(1e-3, clipnorm=1.0), loss="mae")
    network.optimizer.build(network.trainable_variables)
    batches, average = train.Batches(windows, False, BATCH, 0), Average(network, config.training.ema)
    batches.samples, batches.steps = samples, len(samples) // BATCH
    if plain:
        epoch = train.keras_epoch(network, batches, average)
    else:
        epoch, _ = compiled(network, "mae", batches.order, batches.gather, average)
    return lambda: epoch(1, lambda share: None)


def rows_segment(quick: bool) -> list[dict]:
    """``--segment 24`` against the same cell step by step, Keras's and ours; test error of whole trainings."""
    steps, rounds = (10, 1) if quick else (40, 3)
    windows = _weather()
    samples = train.samples_of(windows, windows.origins["train"], False)[: steps * BATCH]
    segmented, single = _our_epoch("gru", windows, samples, 24), _our_epoch("gru", windows, samples)
    n, fit = _plain_epoch("gru", windows, len(samples))
    for warm in (segmented, single, fit):
        warm()
    ours = rate(len(samples), segmented)
    plainly = alternate(ours, rate(n, fit), rounds)
    compiled = alternate(ours, rate(len(samples), single), rounds)
    note = ""
    if not quick:
        errors = []
        for segment in (24, 0):
            trained = recurrent.train_network("gru", windows, configured(windows, "--segment", str(segment)), seed=0)
            forecast = trained.forecast(windows, windows.origins["test"])
            errors.append(evaluate.metrics(windows, evaluate.errors(windows, forecast, "test"))["mae"])
        note = f"test error {errors[0]:.2f} against {errors[1]:.2f} {windows.unit} after whole trainings"
    return [
        row("--segment 24, gru", "fit, step by step", "windows/s", *plainly, 8, note),
        row("--segment 24, gru", "our compiled loop, step by step", "windows/s", *compiled, None),
    ]


def _plain_epoch(cell: str, windows, samples: int):
    """Number of windows, and an epoch over them, of Keras's weather example."""
    values, target = windows.values, _target(windows)
    network = plain.forecaster(cell, LOOK_BACK, values.shape[1], HORIZON, UNITS)
    rows = samples + LOOK_BACK + HORIZON
    dataset = plain.windows_from(values[:rows], target[:rows], LOOK_BACK, HORIZON, BATCH)
    return sum(len(batch) for batch, _ in dataset), lambda: network.fit(dataset, verbose=0)


def rows_run(quick: bool) -> list[dict]:
    """The default run of one cell, in full, against the same job in plain Keras, in full."""
    epochs = 2 if quick else 16
    script = Path(__file__).parents[1] / "recurrent.py"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), "--cell", "gru", "--epochs", str(epochs), "--output", folder]
        ours = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
        metrics = json.loads(next(Path(folder).glob("*/*/metrics.json")).read_text())
    error = metrics["models"]["gru"]["test"]["mae_standardized"]
    theirs = importing()
    started = time.perf_counter()
    plain_error = in_process(f"{HERE}:plain_run", epochs=epochs)
    theirs += time.perf_counter() - started
    note = "ours with its baselines, tests, figures and published model; "
    note += f"test error {error:.3f} against {plain_error:.3f} standard deviations"
    return [row("recurrent.py --cell gru, whole run", "the example's job with fit", "s", [ours], [theirs], 2, note)]


def plain_run(epochs: int) -> float:
    """Mean absolute test error, standardised, of the plain job."""
    windows = _weather()
    ends = {name: int(origins.max()) for name, origins in windows.origins.items()}
    bounds = {"train": (0, ends["train"]), "validation": (ends["train"], ends["validation"])}
    bounds["test"] = (ends["validation"], len(windows.values))
    values, target = windows.values, _target(windows)
    parts = {
        name: plain.windows_from(values[a:b], target[a:b], LOOK_BACK, HORIZON, BATCH) for name, (a, b) in bounds.items()
    }
    network = plain.forecaster("gru", LOOK_BACK, windows.values.shape[1], HORIZON, 128)
    stop = keras.callbacks.EarlyStopping(patience=configured(windows).training.patience, restore_best_weights=True)
    network.fit(parts["train"], epochs=epochs, validation_data=parts["validation"], callbacks=[stop], verbose=0)
    return float(network.evaluate(parts["test"], verbose=0))


def rows_growth(quick: bool) -> list[dict]:
    """Time and memory of reading a table, cutting it into windows and one epoch, at 1, 4 and 16 times the rows."""
    return [growth(f"{HERE}:one_epoch", 500 if quick else 2000, "row")]


def one_epoch(n: int) -> tuple[float, int]:
    """Of ``n`` rows: seconds, the first step's tracing included, and peak memory."""
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(n) / 4) + rng.normal(0, 0.1, n)
    stamps = pd.date_range("2000-01-01", periods=n, freq="h")
    table = sources.Table("wave", pd.DataFrame({"load": wave, "other": -wave}), stamps, ["load"])
    started = time.perf_counter()
    windows = data.prepare(table, look_back=LOOK_BACK, horizon=HORIZON)
    recurrent.train_network("gru", windows, configured(windows, "--epochs", "1"), seed=0)
    return time.perf_counter() - started, peak_bytes()


def _target(windows) -> np.ndarray:
    """The target ``(rows,)`` with its gaps filled, as the plain jobs need it: one NaN would make every weight NaN."""
    return windows.values[:, windows.target_columns[0]]


def _weather():
    return data.prepare(sources.find("nyc_weather", None, None, None), look_back=LOOK_BACK, horizon=HORIZON)
