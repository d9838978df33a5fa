"""A published model as LiteRT files (float32 and int8) or as an ONNX file, and what each loses and costs."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_a2 import machine
from keras_a2.errors import UserError
from keras_a2.fast import litert
from keras_a2.files import whole

if TYPE_CHECKING:
    import keras

LATENCY_RUNS = 60


def export_litert(folder: Path, items: np.ndarray) -> dict:
    """Write ``model.tflite`` and ``model.int8.tflite`` into a version folder and measure them on ``items``.

    A classifier's file takes float32 pixels 0-255 already at the model's size ``(1, size, size, 3)``; a forecaster's
    takes one raw window ``(1, look_back, inputs)``, in float32: where a level is far above its changes, the largest
    difference on the card says what that loses.

    Args:
        items: test inputs in the file's own shape, ``(n, ...)``.

    Returns:
        file name -> size in bytes and what ``measure`` says.

    Raises:
        UserError: the converter cannot take this model, or TensorFlow has none.
    """
    model = deployable(folder)
    expected = answers(model, items)
    network, items = single_precision(model), items.astype(np.float32)
    contents, facts = {}, {}
    for name, quantise in {"model.tflite": False, "model.int8.tflite": True}.items():
        try:
            with machine.silence():
                contents[name] = litert.convert(network, items.shape[1:], quantise)
            interpreter = litert.interpret(contents[name], machine.cores())
        except litert.NoConverter as error:
            raise UserError(f"{error}; pip install tensorflow==2.21.0 to write LiteRT files") from error
        except Exception as error:  # the converter raises its own and TensorFlow's
            raise UserError(f"{folder} cannot be converted to LiteRT ({str(error).splitlines()[0][:120]})") from error
        facts[name] = {"bytes": len(contents[name]), "input": "float32"} | measure(interpreter, items, expected)
    for name, content in contents.items():
        with whole(folder / name) as path:
            path.write_bytes(content)
    return facts


def export_onnx(folder: Path, items: np.ndarray) -> dict:
    """Write ``model.onnx`` into a version folder, by Keras's own export, and measure it on ``items``.

    It takes what the LiteRT files take, in batches of any size: float32 pixels ``(batch, size, size, 3)`` or raw
    windows ``(batch, look_back, inputs)``, in float64.

    Returns:
        ``model.onnx`` -> size in bytes and what ``measure`` says.

    Raises:
        UserError: the extra ``[onnx]`` is not installed, or the model cannot be converted.
    """
    with machine.silence():
        try:
            import onnxruntime
            import tf2onnx  # noqa: F401  Keras's export needs it
        except ImportError as error:
            raise UserError(
                f"ONNX needs the package {error.name}, which is not installed; pip install -e '.[onnx]'"
            ) from error

    model = deployable(folder)
    expected = answers(model, items)  # Keras exports only a model that has been called
    path = folder / "model.onnx"
    with whole(path) as temporary:
        try:
            with machine.silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.export(temporary, format="onnx", verbose=False)
                session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        except Exception as error:  # tf2onnx and ONNX Runtime raise their own
            raise UserError(f"{folder} cannot be converted to ONNX ({str(error).splitlines()[0][:120]})") from error
        name = session.get_inputs()[0].name
        items = items.astype(model.inputs[0].dtype)
        facts = measure(lambda item: session.run(None, {name: item})[0], items, expected)
    return {path.name: {"bytes": path.stat().st_size} | facts}


def deployable(folder: Path) -> keras.Model:
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
    resizing = [layer for layer in model.layers if layer.name == "resize"]
    return keras.Model(resizing[0].output, model.output) if resizing else model


def single_precision(model: keras.Model) -> keras.Model:
    """``model`` with its float64 layers in float32: LiteRT has no arithmetic in float64."""
    import keras

    if model.inputs[0].dtype != "float64":
        return model
    config = json.dumps(keras.saving.serialize_keras_object(model)).replace('"float64"', '"float32"')
    single = keras.saving.deserialize_keras_object(json.loads(config))
    single.set_weights(model.get_weights())
    return single


def answers(model: keras.Model, items: np.ndarray) -> np.ndarray:
    """What ``model`` answers to each item by itself, ``(n, ...)``."""
    return np.concatenate([np.asarray(model(items[i : i + 1], training=False)) for i in range(len(items))])


def measure(answer: litert.Function, items: np.ndarray, expected: np.ndarray) -> dict:
    """Agreement of a converted file with the model it came from, and its speed.

    Args:
        answer: the converted file's function: one item ``(1, ...)`` to its answer ``(1, ...)``.
        items: ``(n, ...)``, of the type that the file takes.
        expected: the model's answers ``(n, ...)``.

    Returns:
        number of items, largest difference, share of items with the same largest output, median milliseconds an item.
    """
    single = [item[np.newaxis] for item in items]
    answered = np.concatenate([np.asarray(answer(item)) for item in single]).reshape(len(items), -1)
    seconds = []
    for k in range(LATENCY_RUNS):
        started = time.perf_counter()
        answer(single[k % len(items)])
        seconds.append(time.perf_counter() - started)
    reference = expected.reshape(len(items), -1)
    return {
        "items": len(items),
        "max_difference": float(np.abs(answered - reference).max()),
        "same_largest_output": float((answered.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        "median_milliseconds": 1000 * float(np.median(seconds)),
    }
