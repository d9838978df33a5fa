"""A Keras model in inference mode as LiteRT: the same function, several times faster on a CPU than ``predict``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_a2 import machine
from keras_a2.console import console
from keras_a2.errors import UserError
from keras_a2.saved_model import with_constants

ASSERTED = 16  # items of the first batch, compared with the Keras model
TOLERANCE = 1e-3  # relative to the largest answer

Function = Callable[[np.ndarray], np.ndarray]


class NoConverter(Exception):
    """TensorFlow's converter is gone: its removal is announced, and ai-edge-litert has none of its own yet."""


def convert(model: Any, item: tuple[int, ...], quantise: bool = False) -> bytes:
    """A Keras model in inference mode as a LiteRT file for one float32 item ``(1, *item)``, its weights constants.

    Args:
        quantise: store the weights in int8 (dynamic-range quantisation).

    Raises:
        NoConverter: this TensorFlow has none.
    """
    import tensorflow as tf

    lite: Any = getattr(tf, "lite", None)
    if not hasattr(lite, "TFLiteConverter"):
        raise NoConverter(f"TensorFlow {tf.__version__} has no LiteRT converter")
    signature = [tf.TensorSpec((1, *item), tf.float32)]
    answer = tf.function(with_constants(model), input_signature=signature)
    converter = lite.TFLiteConverter.from_concrete_functions([answer.get_concrete_function()])
    converter.optimizations = [lite.Optimize.DEFAULT] if quantise else []
    return converter.convert()


def interpret(content: bytes, threads: int) -> Function:
    """The function of one item ``(1, ...)`` that a LiteRT file holds, on this number of threads."""
    with machine.silence():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def answer(item: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, item)
        interpreter.invoke()
        return interpreter.get_tensor(sink)

    return answer


class Parallel:
    """A Keras model as one LiteRT interpreter per core, each working through single items.

    An item's activations stay in the core's cache, which is faster than batches shared by the cores. The first batch
    is compared with the model's own answers. Where TensorFlow has no converter the model itself answers.
    """

    def __init__(self, model: Any, item: tuple[int, ...]):
        self._model = model
        self._compared = False
        self._interpreters: list[Function] = []
        try:
            with machine.silence():
                content = convert(model, item)
        except NoConverter as error:
            _print_once(f"note: {error}; Keras takes its place, several times slower on a CPU")
            return
        self._interpreters = [interpret(content, threads=1) for _ in range(machine.cores())]
        self._pool = ThreadPoolExecutor(len(self._interpreters))

    def __call__(self, items: np.ndarray) -> np.ndarray:
        """Answers ``(n, ...)`` to items ``(n, ...)``.

        Raises:
            UserError: those to the first batch are not the model's.
        """
        items = np.asarray(items, np.float32)
        if not self._interpreters:
            return self._model.predict(items, verbose=0)
        single: list[Any] = [None] * len(items)

        def work(core: int) -> None:
            for i in range(core, len(items), len(self._interpreters)):
                single[i] = self._interpreters[core](items[i : i + 1])

        list(self._pool.map(work, range(len(self._interpreters))))
        answers = np.concatenate(single)
        if not self._compared:
            assert_same(self._model, items[:ASSERTED], answers[:ASSERTED])
            self._compared = True
        return answers


@functools.cache
def _print_once(text: str) -> None:
    """Print a line the first time that it is asked for."""
    console.print(text)


def assert_same(model: Any, items: np.ndarray, answers: np.ndarray) -> None:
    """Raise ``UserError`` where LiteRT's answers are not the model's own."""
    expected = np.asarray(model(items, training=False))
    error = np.abs(answers - expected).max() / max(np.abs(expected).max(), 1e-12)
    if not error <= TOLERANCE:
        raise UserError(
            f"LiteRT's answers differ from the Keras model's by {error:.1e}, more than {TOLERANCE}; "
            "please report this with the versions of tensorflow and ai-edge-litert"
        )
