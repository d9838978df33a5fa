"""Experiment 2's rows: training of each cell, and the windows of many series."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import keras
import numpy as np

import recurrent
from benchmarks import plain
from benchmarks.measure import peak_bytes, rates, row
from keras_a2 import settings
from keras_a2.fast.windows import compiled
from keras_a2.recurrent import data, panel, panel_sources, sources, train
from keras_a2.recurrent.splits import Options
from keras_a2.training import Average

LOOK_BACK, HORIZON, UNITS, BATCH = 72, 24, 64, 128


def rows_recurrent(quick: bool) -> list[dict]:
    """Windows a second of each cell, against Keras's weather example and, where it is installed, PyTorch."""
    steps, rounds = (10, 1) if quick else (20, 3)
    windows, rows = weather(), []
    samples = train.samples_of(windows, windows.origins["train"], False)[: steps * BATCH]
    inputs = windows.values.shape[1]
    note = f"ours sees {2 * inputs} inputs a step, the other {inputs}"
    fits = {cell: _plain_epoch(cell, windows, len(samples)) for cell in ("simple_rnn", "lstm", "gru")}
    torch = importlib.util.find_spec("torch")
    for cell, segment in (("simple_rnn", 0), ("lstm", 0), ("gru", 0), ("gru", 24)):
        name = f"training, {cell}" + f", --segment {segment}" * (segment > 0)
        ours = _our_epoch(cell, windows, samples, segment)
        rivals: list[tuple[str, int, Callable, float]] = [("fit", *fits[cell], 8 if segment else 2)]
        if torch and not segment:
            rivals.append(("PyTorch", len(samples), _torch_epoch(cell, windows, samples), 1.1))
        ours()
        for against, count, theirs, bar in rivals:
            theirs()
            measured = rates(ours, theirs, (len(samples), count), rounds)
            rows.append(row(name, against, "windows/s", *measured, bar, note))
    return rows


def rows_many(quick: bool) -> list[dict]:
    """Seconds per 1,000 series of cutting windows, against a tenth of the series: time is linear, and memory small."""
    count, rows, measured = 10_000 if quick else 100_000, 100, {}
    for many in (count // 10, count):
        values = np.exp(np.random.default_rng(0).normal(0, 0.1, (many, rows)).cumsum(axis=1)).ravel()
        series = panel_sources.Rows([str(i) for i in range(many)], np.arange(many + 1) * rows, values, None, None, "y")
        before, started = peak_bytes(), time.perf_counter()
        windows = panel.prepare(series, "made", Options(look_back=28, horizon=14, season=7, origins="last"))
        config = train.resolve(settings.parse(recurrent.Config, ["--units", "32", "--epochs", "1"]), windows)
        cut = time.perf_counter() - started
        recurrent.train_network("gru", windows, config, 0)
        megabytes = (peak_bytes() - before) / 2**20
        measured[many] = [1000 * cut / many]
    note = f"{values.nbytes / 2**20:.0f} MiB of values; with 250 training steps {megabytes:.0f} MiB more at the peak"
    return [
        row(f"windows of {count:,} series", f"{count // 10:,}", "s", measured[count], measured[count // 10], 0.8, note)
    ]


def _our_epoch(cell: str, windows: data.Windows, samples: np.ndarray, segment: int) -> Callable[[], object]:
    """An epoch of the script's training on these samples ``(n, 2)``."""
    options = ["--units", str(UNITS), "--segment", str(segment)]
    config = train.resolve(settings.parse(recurrent.Config, options), windows)
    network = recurrent.build_network(cell, windows, config.network)
    network.compile(keras.optimizers.Adam(1e-3, clipnorm=1.0), loss="mae")
    network.optimizer.build(network.trainable_variables)
    batches = train.Batches(windows, False, BATCH, 0)
    batches.samples, batches.steps = samples, len(samples) // BATCH
    epoch, _ = compiled(network, "mae", batches.order, batches.gather, Average(network, config.training.ema))
    return lambda: epoch(1, lambda share: None)


def _plain_epoch(cell: str, windows: data.Windows, samples: int) -> tuple[int, Callable[[], object]]:
    """Number of windows, about ``samples``, and an epoch over them, of Keras's weather example."""
    values, target = windows.values, target_of(windows)
    network = plain.forecaster(cell, LOOK_BACK, values.shape[1], HORIZON, UNITS)
    rows = samples + LOOK_BACK + HORIZON
    dataset = plain.windows_from(values[:rows], target[:rows], LOOK_BACK, HORIZON, BATCH)
    return sum(len(batch) for batch, _ in dataset), lambda: network.fit(dataset, verbose=0)


def _torch_epoch(cell: str, windows: data.Windows, samples: np.ndarray) -> Callable[[], object]:
    """An epoch of the same layer in PyTorch on the same windows, its batches cut by NumPy."""
    step = plain.torch_step(cell, windows.values.shape[1], HORIZON, UNITS)
    seen = np.lib.stride_tricks.sliding_window_view(windows.values, LOOK_BACK, axis=0).transpose(0, 2, 1)

    def epoch() -> None:
        for origins in samples[:, :1].reshape(-1, BATCH, 1):
            inputs = np.ascontiguousarray(seen[origins[:, 0] + windows.past.min()])
            step(inputs, windows.truth[origins + windows.future, 0])

    return epoch


def target_of(windows: data.Windows) -> np.ndarray:
    """The target ``(rows,)`` with its gaps filled, as the plain jobs need it: one NaN would make every weight NaN."""
    return windows.values[:, windows.target_columns[0]]


def weather() -> data.Windows:
    """The default series, cut as the default run cuts it."""
    return data.prepare(sources.find("nyc_weather", None, None, None), Options(look_back=LOOK_BACK, horizon=HORIZON))
