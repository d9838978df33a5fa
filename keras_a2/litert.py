"""A published model as LiteRT files, float32 and int8, and what each loses and costs."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_a2 import deployment, machine
from keras_a2.console import console
from keras_a2.errors import UserError
from keras_a2.files import whole

ASSERTED = 16  # items of the first batch, compared with the Keras model
TOLERANCE = 1e-3  # relative to the largest answer


def export(folder: Path, items: np.ndarray) -> dict:
    """Write ``model.tflite`` and ``model.int8.tflite`` into a version folder and measure them on ``items``.

    A classifier's file takes float32 pixels 0-255 already at the model's size ``(1, size, size, 3)``; a forecaster's
    takes one raw window ``(1, look_back, inputs)``, in float32: where a level is far above its changes, the largest
    difference on the card says what that loses.

    Args:
        items: test inputs in the file's own shape, ``(n, ...)``.

    Returns:
        file name -> size in bytes and what ``deployment.measure`` says.

    Raises:
        UserError: the converter cannot take this model, or TensorFlow has none.
    """
    with machine.silence():
        from ai_edge_litert.interpreter import Interpreter

    model = deployment.deployable(folder)
    expected = deployment.answers(model, items)
    network, items = deployment.single_precision(model), items.astype(np.float32)
    contents, facts = {}, {}
    for name, quantise in {"model.tflite": False, "model.int8.tflite": True}.items():
        try:
            with machine.silence():
                content = convert(network, items.shape[1:], quantise)
                interpreter = Interpreter(model_content=content, num_threads=machine.cores())
                interpreter.allocate_tensors()
        except NoConverter as error:
            raise UserError(f"{error}; pip install tensorflow==2.21.0 to write LiteRT files") from error
        except Exception as error:  # the converter raises its own and TensorFlow's
            raise UserError(f"{folder} cannot be converted to LiteRT ({str(error).splitlines()[0][:120]})") from error
        contents[name] = content
        facts[name] = {"bytes": len(content), "input": "float32"} | deployment.measure(
            _asker(interpreter), items, expected
        )
    for name, content in contents.items():
        with whole(folder / name) as path:
            path.write_bytes(content)
    return facts


class NoConverter(Exception):
    """TensorFlow's converter is gone: its removal is announced, and ai-edge-litert has none of its own yet."""


def convert(model, item: tuple[int, ...], quantise: bool = False) -> bytes:
    """``model`` in inference mode as a LiteRT file for one float32 item ``(1, *item)``, its weights constants.

    Raises:
        NoConverter: this TensorFlow has none.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    lite = getattr(tf, "lite", None)
    if not hasattr(lite, "TFLiteConverter"):
        raise NoConverter(f"TensorFlow {tf.__version__} has no LiteRT converter")
    function = tf.function(lambda x: model(x, training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(tf.TensorSpec((1, *item), tf.float32)))
    converter = lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [lite.Optimize.DEFAULT] if quantise else []
    return converter.convert()


class Parallel:
    """A Keras model in inference mode as LiteRT: the same function, several times faster on a CPU than ``predict``.

    One interpreter per core, each working through single items: an item's activations stay in the core's cache, which
    is faster than batches shared by the cores. The first batch is compared with the model's own answers. Where
    TensorFlow has no converter the model itself answers.
    """

    def __init__(self, model, item: tuple[int, ...]):
        self._ask: list = []
        self._model = model  # until the first batch was compared
        try:
            with machine.silence():
                content = convert(model, item)
        except NoConverter as error:
            _note(f"{error}; Keras takes its place, several times slower on a CPU")
            self._keras = _compiled(model, item)
            return
        with machine.silence():
            from ai_edge_litert.interpreter import Interpreter

            self._interpreters = [Interpreter(model_content=content, num_threads=1) for _ in range(machine.cores())]
            for interpreter in self._interpreters:
                interpreter.allocate_tensors()
        self._ask = [_asker(interpreter) for interpreter in self._interpreters]
        self._pool = ThreadPoolExecutor(len(self._ask))

    def __call__(self, items: np.ndarray) -> np.ndarray:
        """Answers ``(n, ...)`` to ``n`` items.

        Raises:
            UserError: those to the first batch are not the model's.
        """
        items = np.asarray(items, np.float32)
        if not self._ask:
            return np.asarray(self._keras(items))
        answers: list = [None] * len(items)

        def work(number: int) -> None:
            for i in range(number, len(items), len(self._ask)):
                answers[i] = self._ask[number](items[i : i + 1])

        list(self._pool.map(work, range(len(self._ask))))
        found = np.concatenate(answers)
        if self._model is not None:
            assert_same(self._model, items[:ASSERTED], found[:ASSERTED])
            self._model = None
        return found


@functools.cache
def _note(text: str) -> None:
    """Say it once in a process."""
    console.print(f"note: {text}")


def _compiled(model, item: tuple[int, ...]):
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *item), tf.float32)]
    return tf.function(lambda x: model(x, training=False), input_signature=signature)


def assert_same(model, items: np.ndarray, answers: np.ndarray) -> None:
    """Raise ``UserError`` where LiteRT's answers are not the model's own."""
    expected = np.asarray(model(items, training=False))
    error = np.abs(answers - expected).max() / max(np.abs(expected).max(), 1e-12)
    if not error <= TOLERANCE:
        raise UserError(
            f"LiteRT's answers differ from the Keras model's by {error:.1e}, more than {TOLERANCE}; "
            "please report this with the versions of tensorflow and ai-edge-litert"
        )


def _asker(interpreter):
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def ask(item: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, item)
        interpreter.invoke()
        return interpreter.get_tensor(sink)

    return ask
