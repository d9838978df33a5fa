"""The network's inputs, and the exported model around it: raw units in, raw units out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_a2 import saved_model
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.panel import LEAST_SPREAD, Panel

if TYPE_CHECKING:
    from keras_a2.recurrent.combination import Combination
    from keras_a2.recurrent.intervals import Spread

VERIFIED = 64  # test windows
TOLERANCE = 1e-4  # standard deviations of the target
TOLERANCE_OF_MANY = 1e-3  # of a window's spread
ROUNDING = 1e-6  # standardised units, below which float32 has no digits left
FARTHEST = 30.0  # spreads: ridge regression over many series, which squares its errors, sees no more
CHUNK = 4096  # windows at once
Tensor = Any  # of Keras, TensorFlow or NumPy: what ``keras.ops`` takes


def relative(seen: Tensor, windows: Windows) -> Tensor:
    """Each measured column as its difference from the last row, then the last row itself: shape and level apart.

    Args:
        seen: standardised inputs ``(batch, look_back, inputs)``.

    Returns:
        ``(batch, look_back, features)``; columns known in advance and the calendar stay as they are. Every step shows
        what is known of all the rows that are forecast: a network that reads it once would have to remember it.
    """
    repeated: list[Tensor] = []
    measured = np.where(windows.given, 0, 1).astype(np.float32)
    if windows.ahead:
        count = len(windows.inputs) - len(windows.ahead)  # they are the last
        known = seen[:, -windows.shown :, count:]
        repeated = [ops.reshape(known, (-1, 1, windows.shown * len(windows.ahead)))]
        seen, measured = seen[..., :count], measured[:count]
    last = seen[:, -1:, :]
    repeated = [ops.repeat(each, windows.look_back, axis=1) for each in [last, *repeated]]
    return ops.concatenate([seen - last * measured, *repeated], axis=-1)


def frame(seen: Tensor, windows: Windows | Panel, own_past: bool = False) -> tuple[Tensor, Tensor, Tensor | float]:
    """What the network sees of windows, and the level and spread that its answer is relative to.

    Args:
        seen: standardised inputs ``(batch, look_back, inputs)``.
        own_past: they are the past of one target; it is all that the network sees.

    Returns:
        inputs ``(batch, look_back, features)``; and level ``(batch, horizon or 1, targets)`` and spread, with which
        ``level + spread * answer`` is the forecast ``(batch, horizon, targets)``. Of a single series the level is the
        last row and the spread 1; each of many series has its own: ``_of_many``.
    """
    if isinstance(windows, Panel):
        return _of_many(seen, windows.season, windows.horizon)
    if own_past:
        return seen - seen[:, -1:], seen[:, -1:], 1.0
    return relative(seen, windows), ops.take(seen[:, -1:], windows.target_columns, axis=2), 1.0


def _of_many(seen: Tensor, season: int, horizon: int) -> tuple[Tensor, Tensor, Tensor | float]:
    """The ``frame`` of windows of many series: series of any size teach the same network.

    Salinas et al. 2020, DeepAR, arXiv 1704.04110; Smyl 2020, doi 10.1016/j.ijforecast.2019.03.017.

    Args:
        seen: ``(batch, look_back, 1)``, logarithms where the series are positive.

    Returns:
        inputs ``(batch, look_back, 2)``: each step less that of the last season in units of the spread, and less the
        last season's mean in units of the standard deviation; the last season repeated over the horizon
        ``(batch, horizon, 1)``; and the mean absolute change from season to season ``(batch, 1, 1)``.
    """
    look_back = seen.shape[1]
    last = seen[:, look_back - season :]
    deviation = ops.std(seen, axis=1, keepdims=True) + ROUNDING
    spread = ops.mean(ops.abs(seen[:, season:] - seen[:, : look_back - season]), axis=1, keepdims=True)
    spread = ops.maximum(spread, LEAST_SPREAD * deviation)
    repeated = ops.tile(last, (1, -(-look_back // season), 1))
    change = (seen - repeated[:, repeated.shape[1] - look_back :]) / spread
    shape = (seen - ops.mean(last, axis=1, keepdims=True)) / deviation
    return ops.concatenate([change, shape], axis=-1), ops.tile(last, (1, -(-horizon // season), 1))[:, :horizon], spread


def frames(windows: Windows | Panel, origins: np.ndarray) -> tuple[np.ndarray, Any]:
    """The level ``(n, horizon or 1, targets)`` and the spread of ``frame`` for windows with these origins ``(n,)``."""
    if not isinstance(windows, Panel):
        return windows.values[origins][:, np.newaxis, windows.target_columns], 1.0
    parts = np.array_split(origins, max(-(-len(origins) // CHUNK), 1))
    measured = [[np.asarray(each) for each in frame(windows.seen(part), windows)[1:]] for part in parts]
    level, spread = (np.concatenate(each) for each in zip(*measured, strict=True))
    return level, spread


def assemble(
    combination: Combination, windows: Windows | Panel, spread: Spread | None, quantiles: np.ndarray
) -> tuple[keras.Model, keras.Model]:
    """The models that are saved: raw windows ``(batch, look_back, inputs)`` to forecasts, and to their intervals.

    All are float64 outside, for float32 has no digits left where a level is far above its changes: a meter at 1.2e8
    would move in steps of 8. The mean is subtracted before anything is float32, and added last. Only layers and
    operations of Keras are used, without the kernels that only a GPU has: the saved model runs anywhere.

    Args:
        combination: its naive and its ridge regression become one dense layer, the network's layers part of the model.
        spread: of a window's intervals; None for many series, where it is that of ``frame``.
        quantiles: of residuals by lead, divided by the spread of their windows ``(2 * levels, horizon, targets)``.

    Returns:
        a model to ``(batch, horizon)`` for one target, else ``(batch, horizon, targets)``; and a model to the ends of
        the intervals, with one more dimension ``2 * levels``.
    """
    columns, shared = windows.target_columns.tolist(), combination.ridge.channel_independent
    raw = keras.Input((windows.look_back, len(windows.inputs)), dtype="float64", name="windows")
    scaled, to_unit = _scaled(raw, windows)
    own = ops.take(scaled, columns, axis=-1)  # (batch, look_back, targets)
    if shared:
        past = ops.reshape(ops.transpose(own, (0, 2, 1)), (-1, windows.look_back, 1))
        inputs = frame(past, windows, own_past=True)[0]
        level, scale, seen = own[:, -1:, :], 1.0, inputs
    else:
        inputs, level, scale = frame(scaled, windows)
        seen = ops.take(scaled, combination.ridge.columns.tolist(), axis=-1)
    if isinstance(windows, Panel):
        seen = ops.clip(inputs, -FARTHEST, FARTHEST)
    change = _weighted(combination, windows, seen, inputs)
    if shared:
        change = ops.transpose(ops.reshape(change, (-1, len(columns), windows.horizon)), (0, 2, 1))
    else:
        change = keras.layers.Reshape((windows.horizon, len(columns)))(change)
    forecast = ops.cast(level + change * scale, "float64")
    factor = scale if spread is None else _factor(own, spread)[:, np.newaxis]  # (batch, 1, targets)
    widths = np.moveaxis(quantiles, 0, 1).astype(np.float64)  # (horizon, ends, targets)
    ends = forecast[:, :, np.newaxis] + ops.cast(factor, "float64")[:, np.newaxis] * widths
    forecast, ends = to_unit(forecast), ops.transpose(to_unit(ends), (0, 1, 3, 2))
    if len(columns) == 1:
        forecast = keras.layers.Reshape((windows.horizon,), dtype="float64", name="forecast")(forecast)
        ends = keras.layers.Reshape((windows.horizon, len(quantiles)), dtype="float64", name="intervals")(ends)
    return keras.Model(raw, forecast, name="forecaster"), keras.Model(raw, ends, name="intervals")


def _scaled(raw: Tensor, windows: Windows | Panel) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Windows as the network's inputs are scaled, in float32; and the way back, ``(batch, ..., targets)`` in float64.

    Windows of many series, also of one that was never seen, are scaled each by its own mean and deviation.
    """
    if not isinstance(windows, Panel):
        scaled = keras.layers.Rescaling(1.0, -windows.mean, dtype="float64", name="centre")(raw)
        scaled = keras.layers.Rescaling(1 / windows.scale, dtype="float64", name="standardise")(scaled)
        to_unit = keras.layers.Rescaling(windows.target_scale, windows.target_mean, dtype="float64", name="to_unit")
        return ops.cast(scaled, "float32"), to_unit
    values = ops.log(raw) if windows.positive else raw
    centre = ops.mean(values[:, windows.look_back - windows.season :], axis=1, keepdims=True)  # (batch, 1, 1)
    size = ops.std(values, axis=1, keepdims=True)
    size = ops.where(size > 0, size, ops.ones_like(size))

    def back(scaled: Tensor) -> Tensor:
        ones = (-1, *[1] * (len(scaled.shape) - 1))
        answer = scaled * ops.reshape(size, ones) + ops.reshape(centre, ones)
        return ops.exp(answer) if windows.positive else answer

    return ops.cast((values - centre) / size, "float32"), back


def _factor(own: Tensor, spread: Spread) -> Tensor:
    """As ``intervals.Spread``, of standardised windows of the targets ``(batch, look_back, targets)``."""
    moves = 0 * own[:, -1, :]
    if own.shape[1] > spread.lag:
        moves = ops.mean(ops.abs(own[:, spread.lag :, :] - own[:, : -spread.lag, :]), axis=1)
    return 0.5 + 0.5 * moves / spread.typical.astype(np.float32)


def _weighted(combination: Combination, windows: Windows | Panel, seen: Tensor, relative: Tensor) -> Tensor:
    """The combined change from the level ``(batch, outputs)``.

    Args:
        seen: what ridge regression takes ``(batch, look_back, columns)``.
        relative: what the network takes ``(batch, look_back, features)``.
    """
    of_naive, of_ridge, of_network = combination.weights
    change: Tensor = 0
    if of_naive or of_ridge:
        naive = combination.naive
        own = None if naive is None else of_naive * naive.kernel(windows.look_back)
        weights = combination.ridge.dense(windows, of_ridge, own)
        dense = keras.layers.Dense(weights[0].shape[1], name="naive_and_ridge")
        change = dense(keras.layers.Flatten()(seen))
        dense.set_weights(weights)
    if of_network and combination.network is not None:
        network = combination.network.network
        for part in [network, *network.layers]:  # of the mean of several seeds: their networks
            for layer in getattr(part, "layers", []):
                if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
                    layer.use_cudnn = False
        change = change + of_network * network(relative)
    return change


def export(
    process: saved_model.FreshProcess,
    combination: Combination,
    windows: Windows | Panel,
    spread: Spread | None,
    quantiles: np.ndarray,
    folder: Path,
) -> dict:
    """Write ``model.keras`` and the SavedModel, and compare its forecasts in a fresh process with the combination's.

    Args:
        combination, spread, quantiles: as ``assemble`` takes them.

    Returns:
        how many windows were compared, and the largest difference.

    Raises:
        UserError: the SavedModel does not load, or its forecasts differ.
    """
    model, intervals = assemble(combination, windows, spread, quantiles)
    saved_model.export(model, signatures(model, intervals), folder)
    origins, tolerance = windows.origins["test"][:VERIFIED], TOLERANCE
    forecast = combination.forecast(windows, origins)  # standardised (VERIFIED, horizon, targets)
    if isinstance(windows, Panel):
        in_unit, tolerance = windows.in_unit(origins, forecast[..., 0]), TOLERANCE_OF_MANY
        scale = frames(windows, origins)[1][:, 0] * windows.own_scale[windows.series_of(origins)][:, np.newaxis]
        scale = scale * in_unit if windows.positive else scale  # a small change of a logarithm is a relative one
    else:
        in_unit, scale = windows.to_unit(forecast), windows.target_scale
    expected = in_unit.reshape(-1, *model.output_shape[1:])
    return process.verify(folder, [example(windows)], [expected], tolerance, scale)


def example(windows: Windows | Panel) -> np.ndarray:
    """The first test windows in their own units ``(n, look_back, inputs)``."""
    return windows.raw(windows.origins["test"][:VERIFIED])


def signatures(model: keras.Model, intervals: keras.Model) -> dict[str, tuple]:
    """Signatures of the SavedModel: ``serve`` and ``serve_intervals``, of raw windows ``(batch, look_back, inputs)``.

    The intervals are the lower and the upper end of each level in turn, in ascending order of the levels.
    """
    windows = tf.TensorSpec(model.input_shape, tf.float64, name="windows")
    endpoints = {"serve": model, "serve_intervals": intervals}
    return {name: (saved_model.with_constants(each), [windows]) for name, each in endpoints.items()}
