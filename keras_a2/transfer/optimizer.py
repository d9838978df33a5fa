"""AdamW with a rate for each variable, and the rates of a network's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_a2.transfer.model import BLOCKS, block_number


class LayerwiseAdamW(keras.optimizers.Optimizer):
    """AdamW (Loshchilov & Hutter 2019) with one rate multiplier per variable, in the order it is built with.

    The multiplier is part of the variable's rate, so it holds for the weight decay too; biases and batch norm's
    scales and shifts do not decay. TensorFlow's own operation makes the step in one pass over a variable.
    """

    def __init__(self, multipliers: Sequence[float], weight_decay: float, learning_rate: Any):
        super().__init__(learning_rate)  # Keras's own decay knows one rate only
        self.multipliers, self.kernel_decay = multipliers, weight_decay
        self.slots: dict = {}

    def build(self, variables: list[keras.Variable]) -> None:
        """Give each variable its moments, its multiplier and its decay."""
        super().build(variables)
        devices = tf.distribute.get_strategy().experimental_local_results  # a variable's copy on each device
        for variable, multiplier in zip(variables, self.multipliers, strict=True):
            decay = 0.0 if variable.name in ("bias", "gamma", "beta") else self.kernel_decay
            moments = [self.add_variable_from_reference(variable, name) for name in ("momentum", "velocity")]
            parts = [devices(part.value) for part in (variable, *moments)]
            self.slots |= {part.ref(): (m, v, multiplier, decay) for part, m, v in zip(*parts, strict=True)}

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """One step of one variable, with the constants of Kingma & Ba 2015."""
        m, v, multiplier, decay = self.slots[variable.ref()]
        rate, step = learning_rate * multiplier, tf.cast(self.iterations + 1, tf.float32)
        if decay:
            variable.assign_sub(variable * (decay * rate))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=m.handle, v=v.handle, beta1_power=0.9**step, beta2_power=0.999**step, lr=rate,
            beta1=0.9, beta2=0.999, epsilon=1e-7, grad=gradient,
        )  # fmt: skip


def rate_multipliers(network: keras.Model, decay: float) -> list[float]:
    """``decay ** (blocks from the head)`` of each trainable variable (Howard & Ruder 2018).

    Args:
        network: the backbone, then the head.
    """
    backbone, head = network.layers
    of_layer = {v.path: layer for layer in backbone.layers for v in layer.trainable_variables}
    depths = [BLOCKS - block_number(of_layer[v.path]) for v in backbone.trainable_variables]
    return [decay**depth for depth in depths] + [1.0] * len(head.trainable_variables)
