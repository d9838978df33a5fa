"""The frozen backbone's features of a whole split, computed once, several augmented views of each image."""

from __future__ import annotations

import keras
import numpy as np

from keras_a2.fast import litert
from keras_a2.transfer.augment import boxes, crop
from keras_a2.transfer.data import Images, batches

BATCH = 64


class Extractor(litert.Parallel):
    """The frozen backbone: pixels 0-255 ``(n, size, size, 3)`` to features ``(n, features)``."""

    def __init__(self, backbone: keras.Model, size: int):
        super().__init__(backbone, (size, size, 3))
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
        UserError: the extractor's features are not the model's.
    """
    out = np.empty((views, len(indices), extractor.features), np.float32)
    where = [_view_boxes(view, len(indices), augment, seed) for view in range(views)]
    done = 0
    for batch, _ in batches(images.store, indices, images.labels, BATCH).as_numpy_iterator():
        for view in range(views):
            rows = slice(done, done + len(batch))
            pixels = batch if view == 0 else crop(batch, where[view][rows], images.store.size).numpy()
            out[view, rows] = extractor(pixels)
        done += len(batch)
        report(done * views, len(indices) * views)
    return out


def _view_boxes(view: int, n: int, augment: str, seed: int) -> np.ndarray:
    return boxes("none" if view == 0 else augment, n, np.random.default_rng([seed, 3, view]))
