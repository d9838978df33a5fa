"""Which of the backbone's blocks train, and the frozen ones before them as a fast function of their own."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_a2.fast import litert

BLOCKS = 13  # stem, eleven inverted residuals, last convolution
IMAGENET_BLOCKS = 9  # of ImageNet's weights; the four before them cost most and need least change


def freeze_all_but(backbone: keras.Model, blocks: int) -> None:
    """Leave only the last ``blocks`` blocks trainable."""
    for layer in backbone.layers:
        if block_number(layer.name) < BLOCKS - blocks:
            layer.trainable = False


def block_number(name: str) -> int:
    """Position by Keras's layer names: stem 0, ``expanded_conv`` 1 to ``expanded_conv_10`` 11, last convolution 12."""
    if name.startswith("expanded_conv"):
        number = name.split("_")[2]
        return int(number) + 1 if number.isdigit() else 1
    return 12 if name.startswith("conv_1") else 0


def cut(backbone: keras.Model) -> tuple[keras.Model | None, keras.Model]:
    """The leading blocks that are frozen, and the rest; both share their layers with ``backbone``.

    The first is None, and the second ``backbone``, where no block in front is frozen, or on a GPU, which needs no help.
    """
    first = min((block_number(layer.name) for layer in backbone.layers if layer.trainable_weights), default=0)
    if first == 0 or tf.config.list_logical_devices("GPU"):
        return None, backbone
    border = max(
        (layer for layer in backbone.layers if layer.name.startswith(("expanded_conv", "conv"))),
        key=lambda layer: (block_number(layer.name) < first, backbone.layers.index(layer)),
    ).output
    return keras.Model(backbone.input, border), keras.Model(border, backbone.output)


def lookup(frozen: keras.Model, size: int) -> litert.Parallel:
    """What frozen blocks make of pixels ``(batch, size, size, 3)``.

    They are the dearest blocks (large images), and outside the training step they need no gradients.
    """
    return litert.Parallel(frozen, (size, size, 3))
