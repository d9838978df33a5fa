"""The frozen backbone's features of a whole split, computed once, several augmented views of each image."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import litert
from keras_a2.errors import UserError
from keras_a2.transfer.augment import boxes, crop
from keras_a2.transfer.data import Images, batches

BATCH = 64
ASSERTED = 16  # images of each call's first batch, compared with the Keras model
TOLERANCE = 1e-3  # relative to the largest feature, between the extractor and the Keras model


class Extractor(litert.Parallel):
    """The frozen backbone: pixels 0-255 ``(n, size, size, 3)`` to features ``(n, features)``."""

    def __init__(self, backbone: keras.Model, size: int):
        super().__init__(backbone, (size, size, 3))
        self.backbone = backbone
        self.features: int = backbone.output_shape[-1]


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
                assert_same(extractor.backbone, pixels[:ASSERTED], out[view, :ASSERTED])
        done += len(batch)
        report(done * views, len(indices) * views)
    return out


def _view_boxes(view: int, n: int, augment: str, seed: int) -> np.ndarray:
    return boxes("none" if view == 0 else augment, n, np.random.default_rng([seed, 3, view]))


def assert_same(backbone: keras.Model, pixels: np.ndarray, features: np.ndarray) -> None:
    """Raise ``UserError`` where LiteRT's features are not the model's own."""
    expected = np.asarray(backbone(tf.cast(pixels, tf.float32), training=False))
    error = np.abs(features - expected).max() / max(np.abs(expected).max(), 1e-12)
    if not error <= TOLERANCE:
        raise UserError(
            f"the feature extractor differs from the Keras model by {error:.1e}, more than {TOLERANCE}; "
            "please report this with the versions of tensorflow and ai-edge-litert"
        )
