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
    from keras_a2.recurrent.baselines import Ridge

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
    network: keras.Sequential, windows: Windows, channel_independent: bool, ridge: Ridge | None = None
) -> keras.Model:
    """The model that is saved: raw windows ``(batch, look_back, inputs)`` to forecasts in the targets' units.

    Both are float64, for float32 has no digits left where a level is far above its changes: a meter at 1.2e8 would
    move in steps of 8. The mean is subtracted before anything is float32, and added last. Only layers and operations
    of Keras are used, without the kernels that only a GPU has: the saved model runs anywhere.

    Args:
        network: from standardised windows to the change from their last row; its layers become part of the model.
        ridge: a fitted ``baselines.Ridge`` or None; with one, the model's forecast is then the mean of the two.

    Returns:
        a model to ``(batch, horizon)`` for one target, else ``(batch, horizon, targets)``.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.LSTM | keras.layers.GRU):
            layer.use_cudnn = False
    columns = windows.target_columns.tolist()
    raw = keras.Input((windows.look_back, len(windows.inputs)), dtype="float64", name="windows")
    scaled = keras.layers.Rescaling(1.0, -windows.mean, dtype="float64", name="centre")(raw)
    scaled = keras.layers.Rescaling(1 / windows.scale, dtype="float64", name="standardise")(scaled)
    scaled = ops.cast(scaled, "float32")
    last = ops.take(scaled[:, -1:, :], columns, axis=-1)  # (batch, 1, targets)
    if channel_independent:
        own = ops.transpose(ops.take(scaled, columns, axis=-1) - last, (0, 2, 1))
        own = ops.reshape(own, (-1, windows.look_back, 1))
        change = _with_ridge(network(own), own, ridge)
        change = ops.transpose(ops.reshape(change, (-1, len(columns), windows.horizon)), (0, 2, 1))
    else:
        change = _with_ridge(network(relative(scaled, windows)), scaled, ridge)
        change = keras.layers.Reshape((windows.horizon, len(columns)))(change)
    to_unit = keras.layers.Rescaling(windows.target_scale, windows.target_mean, dtype="float64", name="to_unit")
    forecast = to_unit(last + change)
    if len(columns) == 1:
        forecast = keras.layers.Reshape((windows.horizon,), dtype="float64", name="forecast")(forecast)
    return keras.Model(raw, forecast, name="forecaster")


def _with_ridge(change: Any, seen: Any, ridge: Ridge | None) -> Any:
    """The mean of the network's change and that of ridge regression, which here is one dense layer."""
    if ridge is None:
        return change
    if not ridge.channel_independent:
        seen = ops.take(seen, ridge.columns.tolist(), axis=-1)
    weights = ridge.weights()
    dense = keras.layers.Dense(change.shape[-1], use_bias=len(weights) == 2, name="ridge")
    linear = dense(keras.layers.Flatten()(seen))
    dense.set_weights(weights)
    return keras.layers.Average(name="mean")([change, linear])


def export(
    process: saved_model.FreshProcess, model: keras.Model, windows: Windows, forecast: np.ndarray, folder: Path
) -> dict:
    """Write ``model.keras`` and the SavedModel, and compare its forecasts in a fresh process with those measured.

    Args:
        forecast: of the test windows, standardised ``(n, horizon, targets)``.

    Returns:
        how many windows were compared, and the largest difference.

    Raises:
        UserError: the SavedModel does not load, or its forecasts differ.
    """
    saved_model.export(model, signatures(model), folder)
    expected = windows.to_unit(forecast[:VERIFIED]).reshape(-1, *model.output_shape[1:])
    return process.verify(folder, [example(windows)], [expected], TOLERANCE, windows.target_scale)


def example(windows: Windows) -> np.ndarray:
    """The first test windows in their own units ``(n, look_back, inputs)``."""
    return windows.raw(windows.origins["test"][:VERIFIED])


def signatures(model: keras.Model) -> dict[str, tuple]:
    """Signature of the SavedModel: ``serve`` takes raw windows ``(batch, look_back, inputs)``."""
    windows = tf.TensorSpec(model.input_shape, tf.float64, name="windows")
    return {"serve": (saved_model.with_constants(model), [windows])}
