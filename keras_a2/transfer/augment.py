"""Random crops and flips as boxes, so that one batched resize does them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Range of the crop's area and aspect ratio, and which flips keep an image's meaning."""

    area: tuple[float, float] = (1.0, 1.0)
    aspect: float = 1.0
    flip_x: bool = False
    flip_y: bool = False


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(area=(0.8, 1.0)),  # writing and scans: a flip changes the class
    "crop": Augmentation(area=(0.35, 1.0), aspect=4 / 3, flip_x=True),  # photographs
    "wide_crop": Augmentation(area=(0.25, 1.0), aspect=4 / 3, flip_x=True),  # pretraining: many images, small objects
    "flips": Augmentation(flip_x=True, flip_y=True),  # microscopes, cells, satellites: no up or down
}


def boxes(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` boxes ``(y1, x1, y2, x2)`` in units of the image's side, float32 ``(n, 4)``; reversed ends flip."""
    how = AUGMENTATIONS[kind]
    area = rng.uniform(*how.area, n)
    ratio = np.exp(rng.uniform(-np.log(how.aspect), np.log(how.aspect), n))
    height = np.minimum(np.sqrt(area / ratio), 1)
    width = np.minimum(np.sqrt(area * ratio), 1)
    y, x = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    ends = [y, x, y + height, x + width]
    if how.flip_x:
        flip = rng.random(n) < 0.5
        ends[1], ends[3] = np.where(flip, ends[3], ends[1]), np.where(flip, ends[1], ends[3])
    if how.flip_y:
        flip = rng.random(n) < 0.5
        ends[0], ends[2] = np.where(flip, ends[2], ends[0]), np.where(flip, ends[0], ends[2])
    return np.stack(ends, axis=1).astype(np.float32)


def crop(images, boxes, size: int):
    """Cut each image ``(batch, height, width, 3)`` at its box and resize it: float32 ``(batch, size, size, 3)``."""
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), [size, size])
