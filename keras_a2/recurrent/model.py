"""The Sequential forecasters, and the exported model around them: raw units in, raw units out."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_a2.errors import UserError
from keras_a2.recurrent import scan
from keras_a2.recurrent.baselines import Ridge
from keras_a2.recurrent.data import CALENDAR, Windows

CELLS = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
SCANNED = {"simple_rnn": scan.SimpleRNN, "lstm": scan.LSTM, "gru": scan.GRU}


def scanned(network: keras.Sequential) -> bool:
    """Whether its recurrent layers are those of ``scan``, so that XLA can compile it."""
    return any(isinstance(layer, scan.Scanned) for layer in network.layers)


def build(
    cell: str,
    *,
    look_back: int,
    features: int,
    outputs: int,
    units: int,
    steady: int = 0,
    layers: int = 1,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    segment: int = 0,
    portable: bool = False,
) -> keras.Sequential:
    """A Sequential network from standardised windows ``(batch, look_back, features)`` to ``(batch, outputs)``.

    Args:
        steady: the last so many features are the same at every step of a window; the compiled loops use it.
        input_dropout: share of the features that a training window lacks from end to end (Gal & Ghahramani 2016, arXiv
            1512.05287, section 3): the forecaster must not lean on any one of them.
        segment: feed the recurrent layer so many steps at a time, through a dense layer (SegRNN, arXiv 2308.11200,
            section 4.1); 0 feeds single steps.
        portable: Keras's own layers, without the kernels that only a GPU has: the saved model runs anywhere. Otherwise
            what trains fastest: compiled loops (``scan``), but on a GPU cuDNN, and for a few segments Keras's own loop.

    Raises:
        UserError: the look-back is not a multiple of the segment.
    """
    network = keras.Sequential([keras.Input((look_back, features))], name=cell)
    if input_dropout:
        network.add(keras.layers.SpatialDropout1D(input_dropout))
    if segment:
        if look_back % segment:
            raise UserError(f"--segment {segment} does not divide the look-back of {look_back}; choose a divisor")
        network.add(keras.layers.Reshape((look_back // segment, segment * features)))
        network.add(keras.layers.Dense(units, activation="relu"))
    options = {"use_cudnn": False} if portable and cell != "simple_rnn" else {}
    gpu = bool(tf.config.list_physical_devices("GPU"))
    recurrent = CELLS if portable or gpu or segment else SCANNED
    for number in range(layers):
        if recurrent is SCANNED:
            options = {"steady": steady if number == 0 else 0}
        network.add(recurrent[cell](units, return_sequences=number < layers - 1, **options))
    network.add(keras.layers.Dropout(dropout))
    # A zero kernel forecasts no change: training starts as persistence.
    network.add(keras.layers.Dense(outputs, kernel_initializer="zeros" if not segment else "glorot_uniform"))
    return network


def relative(seen, windows: Windows):
    """Each measured column as its difference from the last row, beside the last row itself: shape and level apart.

    Args:
        seen: standardised inputs ``(batch, look_back, inputs)``.

    Returns:
        ``(batch, look_back, 2 * inputs)``; calendar columns stay as they are.
    """
    last = seen[:, -1:, :]
    measured = np.array([name not in CALENDAR for name in windows.inputs], np.float32)
    return ops.concatenate([seen - last * measured, ops.repeat(last, windows.look_back, axis=1)], axis=-1)


def assemble(
    network: keras.Sequential, windows: Windows, channel_independent: bool, options: dict, ridge: Ridge | None = None
) -> keras.Model:
    """The model that is saved: raw windows ``(batch, look_back, inputs)`` to forecasts in the targets' units.

    Both are float64, for float32 has no digits left where a level is far above its changes: a meter at 1.2e8 would
    move in steps of 8. The mean is subtracted before anything is float32, and added last.

    Args:
        ridge: a fitted one; the model's forecast is then the mean of the two.

    Returns ``(batch, horizon)`` for one target, else ``(batch, horizon, targets)``. Scaling, the last value and its
    addition are inside; only layers and operations of Keras are used.
    """
    portable = build(**options, portable=True)
    portable.set_weights(network.get_weights())
    columns = windows.target_columns.tolist()
    raw = keras.Input((windows.look_back, len(windows.inputs)), dtype="float64", name="windows")
    scaled = keras.layers.Rescaling(1.0, -windows.mean, dtype="float64", name="centre")(raw)
    scaled = keras.layers.Rescaling(1 / windows.scale, dtype="float64", name="standardise")(scaled)
    scaled = ops.cast(scaled, "float32")
    last = ops.take(scaled[:, -1:, :], columns, axis=-1)  # (batch, 1, targets)
    if channel_independent:
        own = ops.transpose(ops.take(scaled, columns, axis=-1) - last, (0, 2, 1))
        own = ops.reshape(own, (-1, windows.look_back, 1))
        change = _with_ridge(portable(own), own, ridge)
        change = ops.transpose(ops.reshape(change, (-1, len(columns), windows.horizon)), (0, 2, 1))
    else:
        change = _with_ridge(portable(relative(scaled, windows)), scaled, ridge)
        change = keras.layers.Reshape((windows.horizon, len(columns)))(change)
    to_unit = keras.layers.Rescaling(windows.target_scale, windows.target_mean, dtype="float64", name="to_unit")
    forecast = to_unit(last + change)
    if len(columns) == 1:
        forecast = keras.layers.Reshape((windows.horizon,), dtype="float64", name="forecast")(forecast)
    return keras.Model(raw, forecast, name="forecaster")


def _with_ridge(change, seen, ridge: Ridge | None):
    """The mean of the network's change and that of ridge regression, which here is one dense layer."""
    if ridge is None:
        return change
    if not ridge.channel_independent:
        seen = ops.take(seen, ridge.columns.tolist(), axis=-1)
    flat = keras.layers.Flatten()(seen)
    weights = ridge.weights()
    dense = keras.layers.Dense(change.shape[-1], use_bias=len(weights) == 2, name="ridge")
    linear = dense(flat)
    dense.set_weights(weights)
    return keras.layers.Average(name="mean")([change, linear])


def parameters(network: keras.Model) -> int:
    return int(sum(np.prod(w.shape) for w in network.trainable_weights))


def endpoints(model: keras.Model, windows: Windows) -> dict:
    """Signature of the SavedModel: ``serve`` takes raw windows."""
    shape = (None, windows.look_back, len(windows.inputs))
    return {"serve": (lambda seen: model(seen, training=False), [tf.TensorSpec(shape, tf.float64, name="windows")])}
