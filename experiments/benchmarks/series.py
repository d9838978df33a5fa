"""Experiment 2's rows: training of each cell, segments, the whole run, growth."""

from __future__ import annotations

import dataclasses
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
import tensorflow as tf

from benchmarks import plain
from benchmarks.measure import alternate, growth, importing, in_process, peak_bytes, rate, row, seconds
from keras_a2.averaging import Average
from keras_a2.recurrent import data, evaluate, model, sources, train

HERE = __name__
LOOK_BACK, HORIZON, UNITS, BATCH = 72, 24, 64, 128
CELLS = ("simple_rnn", "lstm", "gru")
# As the script's defaults resolve for the weather, but for the width that the rows of training have.
SETTINGS = train.Settings(
    units=UNITS, layers=1, dropout=0.3, input_dropout=0.4, segment=0, channel_independent=False, epochs=16, patience=4,
    batch_size=BATCH, learning_rate=1e-3, loss="mae", ema=0.98, seed=0,
)  # fmt: skip


def rows_recurrent(quick: bool) -> list[dict]:
    """Windows a second of each cell, against Keras's weather example and, where it is installed, PyTorch."""
    steps, rounds = (10, 1) if quick else (20, 3)
    windows, found = _weather(), []
    samples = train.sample_list(windows, "train", False)[: steps * BATCH]
    inputs = windows.values.shape[1]
    for cell in CELLS:
        ours = _our_epoch(cell, windows, samples)
        rivals = {"fit": _plain_epoch(cell, windows, len(samples))}
        if importlib.util.find_spec("torch"):
            rivals["PyTorch"] = (len(samples), _torch_epoch(cell, windows, samples))
        ours()
        for against, (count, theirs) in rivals.items():
            theirs()
            times = alternate(rate(len(samples), ours), rate(count, theirs), rounds)
            bar = 2 if against == "fit" else 1.1
            note = f"ours sees {2 * inputs} inputs a step, the other {inputs}"
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


def _our_epoch(cell: str, windows, samples, segment: int = 0):
    settings = dataclasses.replace(SETTINGS, segment=segment)
    network = model.build(**train.network_options(cell, windows, settings))
    optimizer = keras.optimizers.Adam(1e-3, clipnorm=1.0)
    optimizer.build(network.trainable_variables)
    step = train.make_step(network, optimizer, windows, settings, Average(network, settings.ema))

    def epoch() -> float:
        for i in range(0, len(samples), BATCH):
            loss = step(tf.constant(samples[i : i + BATCH]))
        return float(loss)

    return epoch


def rows_segment(quick: bool) -> list[dict]:
    """``--segment 24`` against the same cell step by step, Keras's and ours; test error of whole trainings."""
    steps, rounds = (10, 1) if quick else (40, 3)
    windows = _weather()
    samples = train.sample_list(windows, "train", False)[: steps * BATCH]
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
            trained = train.train("gru", windows, dataclasses.replace(SETTINGS, segment=segment))
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
        command = [sys.executable, script, "--cell", "gru", "--epochs", str(epochs), "--output", folder]
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
    stop = keras.callbacks.EarlyStopping(patience=SETTINGS.patience, restore_best_weights=True)
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
    train.train("gru", windows, dataclasses.replace(SETTINGS, epochs=1))
    return time.perf_counter() - started, peak_bytes()


def _target(windows) -> np.ndarray:
    """The target ``(rows,)`` with its gaps filled, as the plain jobs need it: one NaN would make every weight NaN."""
    return windows.values[:, windows.target_columns[0]]


def _weather():
    return data.prepare(sources.find("nyc_weather", None, None, None), look_back=LOOK_BACK, horizon=HORIZON)
