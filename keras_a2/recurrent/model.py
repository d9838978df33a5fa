"""The network's inputs, and the exported model around it: raw units in, raw units out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_a2 import saved_model
from keras_a2.recurrent.data import Windows

if TYPE_CHECKING:
    from keras_a2.recurrent.combination import Combination
    from keras_a2.recurrent.intervals import Spread

VERIFIED = 64  # test windows
TOLERANCE = 1e-4  # standard deviations of the target


def relative(seen: Any, windows: Windows) -> Any:
    """Each measured column as its difference from the last row, then the last row itself: shape and level apart.

    Args:
        seen: standardised inputs ``(batch, look_back, inputs)``.

    Returns:
        ``(batch, look_back, features)``; columns known in advance and the calendar stay as they are. Every step shows
        what is known of all the rows that are forecast: a network that reads it once would have to remember it.
    """
    repeated: list[Any] = []
    measured = np.where(windows.given, 0, 1).astype(np.float32)
    if windows.ahead:
        count = len(windows.inputs) - len(windows.ahead)  # they are the last
        known = seen[:, -windows.shown :, count:]
        repeated = [ops.reshape(known, (-1, 1, windows.shown * len(windows.ahead)))]
        seen, measured = seen[..., :count], measured[:count]
    last = seen[:, -1:, :]
    repeated = [ops.repeat(each, windows.look_back, axis=1) for each in [last, *repeated]]
    return ops.concatenate([seen - last * measured, *repeated], axis=-1)


def assemble(
    combination: Combination, windows: Windows, spread: Spread, quantiles: np.ndarray
) -> tuple[keras.Model, keras.Model]:
    """The models that are saved: raw windows ``(batch, look_back, inputs)`` to forecasts, and to their intervals.

    All are float64 outside, for float32 has no digits left where a level is far above its changes: a meter at 1.2e8
    would move in steps of 8. The mean is subtracted before anything is float32, and added last. Only layers and
    operations of Keras are used, without the kernels that only a GPU has: the saved model runs anywhere.

    Args:
        combination: its naive and its ridge regression become one dense layer, the network's layers part of the model.
        quantiles: of residuals by lead, divided by the spread of their windows ``(2 * levels, horizon, targets)``.

    Returns:
        a model to ``(batch, horizon)`` for one target, else ``(batch, horizon, targets)``; and a model to the ends of
        the intervals, with one more dimension ``2 * levels``.
    """
    columns, shared = windows.target_columns.tolist(), combination.ridge.channel_independent
    raw = keras.Input((windows.look_back, len(windows.inputs)), dtype="float64", name="windows")
    scaled = keras.layers.Rescaling(1.0, -windows.mean, dtype="float64", name="centre")(raw)
    scaled = keras.layers.Rescaling(1 / windows.scale, dtype="float64", name="standardise")(scaled)
    scaled = ops.cast(scaled, "float32")
    own = ops.take(scaled, columns, axis=-1)  # (batch, look_back, targets)
    last = own[:, -1:, :]
    if shared:
        past = ops.reshape(ops.transpose(own - last, (0, 2, 1)), (-1, windows.look_back, 1))
        change = _weighted(combination, windows, past, past)
        change = ops.transpose(ops.reshape(change, (-1, len(columns), windows.horizon)), (0, 2, 1))
    else:
        seen = ops.take(scaled, combination.ridge.columns.tolist(), axis=-1)
        change = _weighted(combination, windows, seen, relative(scaled, windows))
        change = keras.layers.Reshape((windows.horizon, len(columns)))(change)
    to_unit = keras.layers.Rescaling(windows.target_scale, windows.target_mean, dtype="float64", name="to_unit")
    forecast = to_unit(last + change)
    moves = 0 * last[:, 0, :]
    if windows.look_back > spread.lag:
        moves = ops.mean(ops.abs(own[:, spread.lag :, :] - own[:, : -spread.lag, :]), axis=1)
    factor = 0.5 + 0.5 * moves / spread.typical.astype(np.float32)
    widths = (np.moveaxis(quantiles, 0, -1) * windows.target_scale[:, np.newaxis]).astype(np.float64)
    ends = forecast[..., np.newaxis] + ops.cast(factor, "float64")[:, np.newaxis, :, np.newaxis] * widths
    if len(columns) == 1:
        forecast = keras.layers.Reshape((windows.horizon,), dtype="float64", name="forecast")(forecast)
        ends = keras.layers.Reshape((windows.horizon, len(quantiles)), dtype="float64", name="intervals")(ends)
    return keras.Model(raw, forecast, name="forecaster"), keras.Model(raw, ends, name="intervals")


def _weighted(combination: Combination, windows: Windows, seen: Any, relative: Any) -> Any:
    """The combined change from the last value ``(batch, outputs)``.

    Args:
        seen: what ridge regression takes ``(batch, look_back, columns)``.
        relative: what the network takes ``(batch, look_back, features)``.
    """
    of_naive, of_ridge, of_network = combination.weights
    change: Any = 0
    if of_naive or of_ridge:
        weights = combination.ridge.dense(windows, of_ridge, of_naive * combination.naive.kernel(windows.look_back))
        dense = keras.layers.Dense(weights[0].shape[1], name="naive_and_ridge")
        change = dense(keras.layers.Flatten()(seen))
        dense.set_weights(weights)
    if of_network and combination.network is not None:
        for layer in combination.network.network.layers:
            if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
                layer.use_cudnn = False
        change = change + of_network * combination.network.network(relative)
    return change


def export(
    process: saved_model.FreshProcess,
    model: keras.Model,
    intervals: keras.Model,
    windows: Windows,
    forecast: np.ndarray,
    folder: Path,
) -> dict:
    """Write ``model.keras`` and the SavedModel, and compare its forecasts in a fresh process with those of training.

    Args:
        forecast: of the first test windows, standardised ``(VERIFIED, horizon, targets)``.

    Returns:
        how many windows were compared, and the largest difference.

    Raises:
        UserError: the SavedModel does not load, or its forecasts differ.
    """
    saved_model.export(model, signatures(model, intervals), folder)
    expected = windows.to_unit(forecast).reshape(-1, *model.output_shape[1:])
    return process.verify(folder, [example(windows)], [expected], TOLERANCE, windows.target_scale)


def example(windows: Windows) -> np.ndarray:
    """The first test windows in their own units ``(n, look_back, inputs)``."""
    return windows.raw(windows.origins["test"][:VERIFIED])


def signatures(model: keras.Model, intervals: keras.Model) -> dict[str, tuple]:
    """Signatures of the SavedModel: ``serve`` and ``serve_intervals``, of raw windows ``(batch, look_back, inputs)``.

    The intervals are the lower and the upper end of each level in turn, in ascending order of the levels.
    """
    windows = tf.TensorSpec(model.input_shape, tf.float64, name="windows")
    endpoints = {"serve": model, "serve_intervals": intervals}
    return {name: (saved_model.with_constants(each), [windows]) for name, each in endpoints.items()}
