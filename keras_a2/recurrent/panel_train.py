"""One network for many series: windows made comparable, batches of all series, and the model that is saved.

Each window is seen relative to its own last season and in units of its own spread, so that series of any size teach the
same network (Salinas et al. 2020, DeepAR, arXiv 1704.04110; Smyl 2020, doi 10.1016/j.ijforecast.2019.03.017).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops
from scipy.linalg import eigh

from keras_a2 import settings
from keras_a2.recurrent import baselines, panel, train
from keras_a2.recurrent.panel import LEAST_SPREAD, Panel

EPOCH_STEPS = 250  # batches at most: of many series an epoch is a sample
ROUNDING = 1e-6  # standardised units, below which float32 has no digits left
FARTHEST = 30.0  # spreads: ridge regression, which squares its errors, sees no more
RIDGE_WINDOWS = 50_000
STRENGTHS = tuple(10.0**k for k in range(-4, 1))
CHUNK = 2048  # windows at once
SEASON_SERIES = 50


def load(options: Any) -> Panel:
    """The windows that the options of many series ask for.

    Raises:
        UserError: as ``panel.read`` and ``panel.prepare``.
    """
    path = Path(options.data)
    rows = panel.read(path, options.series, options.time, options.target, options.wide)
    return panel.prepare(
        rows,
        name=path.name.split(".")[0],
        look_back=options.look_back,
        horizon=options.horizon,
        season=options.season or common_season(rows, options.look_back, options.horizon),
        max_gap=options.max_gap,
    )


def common_season(rows: panel.Rows, look_back: int, horizon: int) -> int:
    """The season that most of the longest series have and that fits twice into the look-back; 1 without."""
    step = rows.step if isinstance(rows.step, pd.Timedelta) else None
    longest = np.argsort(-rows.lengths, kind="stable")[:SEASON_SERIES]
    series = (rows.values[rows.ends[i] : max(rows.ends[i + 1] - 2 * horizon, rows.ends[i])] for i in longest)
    seasons = [baselines.season_of(values, step) if len(values) else 1 for values in series]
    return int(np.bincount([season if 2 * season <= look_back else 1 for season in seasons]).argmax())


def resolve(config: Any, windows: Panel) -> Any:
    """The script's configuration with every default that depends on the data in place of None."""
    season, epochs = windows.season, 12 if config.training.epochs is None else config.training.epochs
    segments = [steps for steps in (season, windows.horizon) if steps > 1 and windows.look_back % steps == 0]
    return settings.fill(
        config,
        season=season,
        channel_independent=False,
        segment=segments[0] if segments else 0,
        input_dropout=0.0,
        epochs=epochs,
        patience=epochs + 1,
        folds=2,
        batch_size=128,
        learning_rate=3e-3,
    )


def relative(seen: Any, season: int, horizon: int) -> tuple[Any, Any, Any]:
    """What the network sees of windows, and the level and spread that its answer is relative to.

    Args:
        seen: ``(batch, look_back)``, logarithms where the series are positive.

    Returns:
        inputs ``(batch, look_back, 2)``: each step less that of the last season in units of the spread, and less the
        last season's mean in units of the standard deviation; the last season repeated over the horizon
        ``(batch, horizon)``; and the mean absolute change from season to season ``(batch, 1)``.
    """
    look_back = seen.shape[1]
    last = seen[:, look_back - season :]
    deviation = ops.std(seen, axis=1, keepdims=True) + ROUNDING
    spread = ops.mean(ops.abs(seen[:, season:] - seen[:, : look_back - season]), axis=1, keepdims=True)
    spread = ops.maximum(spread, LEAST_SPREAD * deviation)
    repeated = ops.tile(last, (1, -(-look_back // season)))
    change = (seen - repeated[:, repeated.shape[1] - look_back :]) / spread
    shape = (seen - ops.mean(last, axis=1, keepdims=True)) / deviation
    level = ops.tile(last, (1, -(-horizon // season)))[:, :horizon]
    return ops.stack([change, shape], axis=-1), level, spread


class Batches:
    """The training windows of each step, drawn by chance from all series; as ``train.Batches`` otherwise."""

    def __init__(self, windows: Panel, channel_independent: bool, size: int, seed: int):
        self.windows, self.seed = windows, seed
        self.size = min(size, len(windows.origins["train"]))
        self.steps = min(len(windows.origins["train"]) // self.size, EPOCH_STEPS)
        self._values, self._truth = tf.constant(windows.values[:, 0]), tf.constant(windows.truth[:, 0])

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch's batches ``(steps, batch, 2)``."""
        drawn = self.windows.draw(np.random.default_rng([self.seed, epoch]), self.steps * self.size)
        return train.samples_of(self.windows, drawn, False).reshape(self.steps, self.size, 2)

    def gather(self, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Inputs of the network ``(batch, look_back, 2)``, and what it is to answer ``(batch, horizon)``."""
        windows, origins = self.windows, samples[:, :1]
        seen = tf.gather(self._values, origins + windows.past.astype(np.int32))
        inputs, level, spread = relative(seen, windows.season, windows.horizon)
        truth = tf.gather(self._truth, origins + windows.leads.astype(np.int32))
        return inputs, (truth - level) / spread


class Forecaster(train.Forecaster):
    """A network over many series."""

    def forecast(self, windows: Any, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, 1)`` of the windows with these origins ``(n,)``."""
        level, spread = level_and_spread(windows, origins)
        change = self.predict(train.samples_of(windows, origins, False))
        return (level + change * spread)[..., np.newaxis]


def level_and_spread(windows: Panel, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of windows with these origins, what ``relative`` gives: ``(n, horizon)`` and ``(n, 1)``, standardised."""
    parts = [
        [np.asarray(part) for part in relative(windows.seen(some), windows.season, windows.horizon)[1:]]
        for some in np.array_split(origins, -(-len(origins) // 4096))
    ]
    level, spread = (np.concatenate(each) for each in zip(*parts, strict=True))
    return level, spread


class Ridge:
    """Ridge regression over all series, from what the network sees to what it is to answer."""

    name = "ridge"

    def __init__(self) -> None:
        self.kernel = np.zeros((0, 0))  # (2 * look_back, horizon)
        self.strength = 0.0

    def fit(self, windows: Panel) -> Ridge:
        """Learn from a sample of the training windows, and choose the strength by the validation windows."""
        drawn = windows.draw(np.random.default_rng(0), RIDGE_WINDOWS)
        gram = cross = 0.0
        for x, y in self._designs(windows, drawn):
            gram, cross = gram + x.T @ x / len(drawn), cross + x.T @ y / len(drawn)
        values, vectors = eigh(gram)
        kernels = [vectors @ (vectors.T @ cross / (values + each)[:, np.newaxis]) for each in STRENGTHS]
        errors = np.zeros(len(kernels))
        for x, y in self._designs(windows, windows.origins["validation"]):
            errors += [np.abs(x @ kernel - y).sum() for kernel in kernels]
        best = int(np.argmin(errors))
        self.strength, self.kernel = STRENGTHS[best], kernels[best]
        return self

    def forecast(self, windows: Panel, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, 1)``."""
        level, spread = level_and_spread(windows, origins)
        change = np.concatenate([x @ self.kernel for x, _ in self._designs(windows, origins)])
        return (level + change * spread)[..., np.newaxis].astype(np.float32)

    def _designs(self, windows: Panel, origins: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Regressors and changes, clipped, some windows at a time."""
        for start in range(0, len(origins), CHUNK):
            part = origins[start : start + CHUNK]
            seen, truth = windows.seen(part), windows.actual(part)[..., 0]
            inputs, level, spread = map(np.asarray, relative(seen, windows.season, windows.horizon))
            x, y = (np.clip(values, -FARTHEST, FARTHEST) for values in (inputs, (truth - level) / spread))
            yield x.reshape(len(part), -1).astype(np.float64), y.astype(np.float64)


def assemble(
    networks: list[keras.Sequential], windows: Panel, ridge: Ridge, weight: float, ends: np.ndarray
) -> tuple[keras.Model, keras.Model]:
    """The models that are saved: raw windows ``(batch, look_back, 1)`` to what comes, and to its interval.

    Float64 but for the network, whose inputs lost their level before: see ``model.assemble``.

    Args:
        networks: one per seed; their mean counts.
        weight: of ridge regression in the mean with the networks, 0 to 1.
        ends: of the interval, in units of a window's spread ``(2, horizon)``.

    Returns:
        models to forecasts ``(batch, horizon)`` and to lower and upper ends ``(batch, horizon, 2)``.
    """
    for layer in (layer for network in networks for layer in network.layers):
        if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
            layer.use_cudnn = False
    raw = keras.Input((windows.look_back, 1), dtype="float64", name="windows")
    values = keras.layers.Reshape((windows.look_back,), dtype="float64", name="values")(raw)
    values = ops.log(values) if windows.positive else values
    centre = ops.mean(values[:, windows.look_back - windows.season :], axis=1, keepdims=True)
    size = ops.std(values, axis=1, keepdims=True)
    size = ops.where(size > 0, size, ops.ones_like(size))
    inputs, level, spread = relative(ops.cast((values - centre) / size, "float32"), windows.season, windows.horizon)
    changes = [network(inputs) for network in networks]
    change = keras.layers.Average(name="seeds")(changes) if len(changes) > 1 else changes[0]
    if weight:
        dense = keras.layers.Dense(windows.horizon, use_bias=False, name="ridge")
        linear = dense(keras.layers.Flatten()(ops.clip(inputs, -FARTHEST, FARTHEST)))
        dense.set_weights([ridge.kernel])
        change = (1 - weight) * change + weight * linear

    def in_unit(relative_to_window: Any, name: str) -> Any:
        answer = ops.cast(relative_to_window, "float64") * size + centre
        answer = ops.exp(answer) if windows.positive else answer
        return keras.layers.Reshape((windows.horizon,), dtype="float64", name=name)(answer)

    forecast = level + change * spread
    lower, upper = (forecast + spread * end for end in ends.astype(np.float32))
    interval = ops.stack([in_unit(lower, "lower"), in_unit(upper, "upper")], axis=-1)
    return keras.Model(raw, in_unit(forecast, "forecast"), name="forecaster"), keras.Model(
        raw, interval, name="interval"
    )
