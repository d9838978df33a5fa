"""The frozen backbone's features of a whole split, computed once, several augmented views of each image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_a2 import litert
from keras_a2.errors import UserError
from keras_a2.runs import cores, silence
from keras_a2.transfer.augment import boxes, crop
from keras_a2.transfer.data import Images, batches

BATCH = 64
ASSERTED = 16  # images of each call's first batch, compared with the Keras model
TOLERANCE = 1e-3  # relative to the largest feature, between the extractor and the Keras model


class Extractor:
    """The frozen backbone as LiteRT models: the same function, several times faster on a CPU than ``predict``.

    One interpreter per core, each working through single images: an image's activations stay in the core's cache, which
    is faster than batches shared by the cores.
    """

    def __init__(self, backbone: keras.Model, size: int):
        self.backbone = backbone
        self.features: int = backbone.output_shape[-1]
        frozen = litert.freeze(backbone, (1, size, size, 3))
        with silence():
            content = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
            self._interpreters = [Interpreter(model_content=content, num_threads=1) for _ in range(cores())]
            for interpreter in self._interpreters:
                interpreter.allocate_tensors()
        self._input = self._interpreters[0].get_input_details()[0]["index"]
        self._output = self._interpreters[0].get_output_details()[0]["index"]
        self._pool = ThreadPoolExecutor(len(self._interpreters))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features ``(n, features)`` of pixels 0-255 ``(n, size, size, 3)``."""
        images = np.asarray(images, np.float32)
        out = np.empty((len(images), self.features), np.float32)
        workers = len(self._interpreters)

        def work(number: int) -> None:
            interpreter = self._interpreters[number]
            for i in range(number, len(images), workers):
                interpreter.set_tensor(self._input, images[i : i + 1])
                interpreter.invoke()
                out[i] = interpreter.get_tensor(self._output)[0]

        list(self._pool.map(work, range(workers)))
        return out


def extract(
    extractor: Extractor,
    images: Images,
    indices: np.ndarray,
    *,
    views: int = 1,
    augment: str = "none",
    seed: int = 0,
    report=lambda done, total: None,
) -> np.ndarray:
    """Features ``(views, len(indices), features)``; view 0 is the plain image, the others are augmented.

    Raises:
        UserError: the extractor's features are not the model's (asserted on the first batch of every call).
    """
    out = np.empty((views, len(indices), extractor.features), np.float32)
    where = [_view_boxes(view, len(indices), augment, seed) for view in range(views)]
    done = 0
    for batch, _ in batches(images.store, indices, images.labels, BATCH).as_numpy_iterator():
        for view in range(views):
            rows = slice(done, done + len(batch))
            pixels = batch if view == 0 else crop(batch, where[view][rows], images.store.size).numpy()
            out[view, rows] = extractor(pixels)
            if done == 0:
                _assert_same(extractor.backbone, pixels[:ASSERTED], out[view, :ASSERTED])
        done += len(batch)
        report(done * views, len(indices) * views)
    return out


def _view_boxes(view: int, n: int, augment: str, seed: int) -> np.ndarray:
    return boxes("none" if view == 0 else augment, n, np.random.default_rng([seed, 3, view]))


def _assert_same(backbone: keras.Model, pixels: np.ndarray, features: np.ndarray) -> None:
    expected = np.asarray(backbone(tf.cast(pixels, tf.float32), training=False))
    error = np.abs(features - expected).max() / max(np.abs(expected).max(), 1e-12)
    if not error <= TOLERANCE:
        raise UserError(
            f"the feature extractor differs from the Keras model by {error:.1e}, more than {TOLERANCE}; "
            "please report this with the versions of tensorflow and ai-edge-litert"
        )
