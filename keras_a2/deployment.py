"""What the LiteRT and ONNX exports share: the network to convert, and what a converted file loses and costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_a2 import machine
from keras_a2.errors import UserError

LATENCY_RUNS = 60


def deployable(folder: Path):
    """The published Keras model without its resizing: LiteRT has no kernel for it, and an app has its own.

    Raises:
        UserError: the file is missing or damaged.
    """
    with machine.silence():
        import keras

    try:
        model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    except Exception as error:  # Keras raises OSError, ValueError, zipfile's own ... by where the damage is
        raise UserError(
            f"{folder / 'model.keras'} cannot be loaded (damaged or half-copied?): copy it again"
        ) from error
    position = next((i for i, layer in enumerate(model.layers) if layer.name == "resize"), None)
    if position is None:
        return model
    pixels = keras.Input(model.layers[position].output.shape[1:], name="pixels")
    x = pixels
    for layer in model.layers[position + 1 :]:
        x = layer(x)
    return keras.Model(pixels, x)


def single_precision(model):
    """``model`` with its float64 layers in float32: LiteRT has no arithmetic in float64."""
    import keras

    if model.inputs[0].dtype != "float64":
        return model

    def copied(operation):
        config = operation.get_config()
        if isinstance(operation, keras.Layer) and operation.dtype_policy.name == "float64":
            config["dtype"] = "float32"
        return type(operation).from_config(config)

    inputs = keras.Input(model.input_shape[1:], name=model.inputs[0].name)
    single = keras.models.clone_model(model, inputs, clone_function=copied)
    single.set_weights(model.get_weights())
    return single


def answers(model, items: np.ndarray) -> np.ndarray:
    """What ``model`` answers to each item by itself, ``(n, ...)``."""
    return np.concatenate([np.asarray(model(items[i : i + 1], training=False)) for i in range(len(items))])


def measure(ask: Callable[[np.ndarray], np.ndarray], items: np.ndarray, expected: np.ndarray) -> dict:
    """Agreement of a converted file with the model it came from, and its speed.

    Args:
        ask: one item ``(1, ...)`` to its answer ``(1, ...)``.
        items: ``(n, ...)``, of the type that the file takes.
        expected: the model's answers ``(n, ...)``.

    Returns:
        number of items, largest difference, share of items with the same largest output, median milliseconds an item.
    """
    single = [item[np.newaxis] for item in items]
    got = np.concatenate([np.asarray(ask(item)) for item in single]).reshape(len(items), -1)
    seconds = []
    for k in range(LATENCY_RUNS):
        started = time.perf_counter()
        ask(single[k % len(items)])
        seconds.append(time.perf_counter() - started)
    wanted = expected.reshape(len(items), -1)
    return {
        "items": len(items),
        "max_difference": float(np.abs(got - wanted).max()),
        "same_largest_output": float((got.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
        "median_milliseconds": 1000 * float(np.median(seconds)),
    }
