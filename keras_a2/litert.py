"""A published model as LiteRT files, float32 and int8, and what each loses and costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from keras_a2 import runs
from keras_a2.errors import UserError

LATENCY_RUNS = 60


def export(folder: Path, items: np.ndarray) -> dict:
    """Write ``model.tflite`` and ``model.int8.tflite`` into a version folder and measure them on ``items``.

    A classifier's file takes float32 pixels 0-255 already at the model's size ``(1, size, size, 3)``; a forecaster's
    takes one raw window ``(1, look_back, inputs)``.

    Args:
        items: test inputs in the file's own shape, ``(n, ...)``.

    Returns:
        file name -> size in bytes, largest difference to the SavedModel's output, share of items with the same largest
        output, and median latency of one item in milliseconds.

    Raises:
        UserError: the converter cannot take this model.
    """
    with runs.silence():
        import keras
        import tensorflow as tf
        from ai_edge_litert.interpreter import Interpreter

    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    if any(layer.name == "resize" for layer in model.layers):
        model = _without_resize(model)
    expected = np.concatenate([np.asarray(model(items[i : i + 1], training=False)) for i in range(len(items))])
    frozen = freeze(model, (1, *items.shape[1:]))
    facts = {}
    for name, quantise in {"model.tflite": False, "model.int8.tflite": True}.items():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantise else []
        try:
            with runs.silence():
                content = converter.convert()
                interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
                interpreter.allocate_tensors()
        except Exception as error:  # the converter raises its own and TensorFlow's
            raise UserError(f"{folder} cannot be converted to LiteRT ({str(error).splitlines()[0][:120]})") from error
        (folder / name).write_bytes(content)
        facts[name] = {"bytes": len(content)} | _measure(interpreter, items, expected)
    return facts


def _without_resize(model):
    """The network behind the resizing: LiteRT has no kernel for antialiased resizing, and an app has its own."""
    import keras

    layers = model.layers
    position = next(i for i, layer in enumerate(layers) if layer.name == "resize")
    pixels = keras.Input(layers[position].output.shape[1:], name="pixels")
    x = pixels
    for layer in layers[position + 1 :]:
        x = layer(x)
    return keras.Model(pixels, x)


def freeze(model, shape: tuple[int, ...]):
    """``model`` in inference mode, of float32 ``shape``, its weights constants: what the converter takes."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda x: model(x, training=False))
    return convert_variables_to_constants_v2(function.get_concrete_function(tf.TensorSpec(shape, tf.float32)))


def _measure(interpreter, items: np.ndarray, expected: np.ndarray) -> dict:
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def ask(item: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, item[np.newaxis].astype(np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(sink)[0]

    answers = np.stack([ask(item) for item in items])
    seconds = []
    for k in range(LATENCY_RUNS):
        started = time.perf_counter()
        ask(items[k % len(items)])
        seconds.append(time.perf_counter() - started)
    flat, wanted = answers.reshape(len(items), -1), expected.reshape(len(items), -1)
    return {
        "items": len(items),
        "max_difference": float(np.abs(flat - wanted).max()),
        "same_largest_output": float((flat.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
        "median_milliseconds": 1000 * float(np.median(seconds)),
    }
