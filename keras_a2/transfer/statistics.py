"""Batch norm's statistics, estimated again for the weights that are there."""

from __future__ import annotations

import keras
import numpy as np

from keras_a2.transfer.backbone import FusedBatchNormalization
from keras_a2.transfer.data import Images

BATCH, IMAGES = 64, 512


def lag(backbone: keras.Model, steps_per_epoch: int, ema: float) -> bool:
    """Whether moving statistics would trail the averaged weights: an epoch is shorter than the average's memory.

    Statistics of a moving average of weights are not the moving average of statistics (Izmailov et al. 2018, arXiv
    1803.05407, section 3.2); over a long epoch the two meet, over a few steps a well-trained network scores at chance.
    """
    return steps_per_epoch * (1 - ema) < 1 and any(layer.trainable for layer in _layers(backbone))


def estimate(backbone: keras.Model, images: Images, seed: int) -> None:
    """Set mean and variance to those of training images under the present weights (AdaBN: arXiv 1603.04779)."""
    layers = _layers(backbone)
    momenta = [layer.momentum for layer in layers]
    rng = np.random.default_rng([seed, 6])
    rows = rng.permutation(images.train)[:IMAGES]
    for number, start in enumerate(range(0, max(len(rows) - BATCH, 0) + 1, BATCH)):
        for layer in layers:
            layer.momentum = number / (number + 1)  # the plain mean over the batches
        backbone(images.store.read(rows[start : start + BATCH]).astype(np.float32), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def variables(backbone: keras.Model) -> list[keras.Variable]:
    """The moving means and variances."""
    return [v for layer in _layers(backbone) for v in (layer.moving_mean, layer.moving_variance)]


def _layers(backbone: keras.Model) -> list[FusedBatchNormalization]:
    return [layer for layer in backbone.layers if isinstance(layer, FusedBatchNormalization)]
