"""What the fine-tune phase adds to Keras's optimisers: rates by depth."""

from __future__ import annotations

import keras


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter 2019) with one rate multiplier per variable, in the order it was built with."""

    def __init__(self, multipliers: list[float], **options):
        super().__init__(**options)
        self._multipliers = multipliers

    def update_step(self, gradient, variable, learning_rate):
        multiplier = self._multipliers[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * multiplier)


def rate_multipliers(backbone: keras.Model, head: keras.Model, decay: float) -> list[float]:
    """``decay ** (blocks from the head)`` of each trainable variable, backbone first (Howard & Ruder 2018)."""
    last = max(block_number(layer.name) for layer in backbone.layers)
    depth = {
        v.path: last - block_number(layer.name) + 1 for layer in backbone.layers for v in layer.trainable_variables
    }
    return [decay ** depth[v.path] for v in backbone.trainable_variables] + [1.0] * len(head.trainable_variables)


def block_number(name: str) -> int:
    """Position by Keras's layer names: stem 0, ``expanded_conv`` 1 to ``expanded_conv_10`` 11, last convolution 12."""
    if name.startswith("expanded_conv"):
        number = name.split("_")[2]
        return int(number) + 1 if number.isdigit() else 1
    return 12 if name.startswith("conv_1") else 0
