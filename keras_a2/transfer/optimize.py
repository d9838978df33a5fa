"""What the fine-tune phase adds to Keras's optimisers: rates by depth, and one kernel per variable."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_a2.transfer.unfreeze import block_number


class LayerwiseAdamW(keras.optimizers.Adam):
    """AdamW (Loshchilov & Hutter 2019) with one rate multiplier per variable, in the order it was built with.

    The multiplier is part of the variable's rate, so it holds for the weight decay too.

    Each variable is updated by TensorFlow's fused Adam kernel: Keras's dozen small operations for each of 150 variables
    take longer than the arithmetic of a small batch. The numbers are the same.
    """

    def __init__(self, multipliers: list[float], weight_decay: float, **options):
        super().__init__(**options)  # Keras's own decay knows one rate only
        self._multipliers, self._decay = multipliers, weight_decay

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, tf.float32) * self._multipliers[index]
        if self._use_weight_decay(variable):
            variable.assign_sub(variable * self._decay * rate)
        step = tf.cast(self.iterations.value, tf.float32) + 1
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def rate_multipliers(backbone: keras.Model, head: keras.Model, decay: float) -> list[float]:
    """``decay ** (blocks from the head)`` of each trainable variable, backbone first (Howard & Ruder 2018)."""
    last = max(block_number(layer.name) for layer in backbone.layers)
    depth = {
        v.path: last - block_number(layer.name) + 1 for layer in backbone.layers for v in layer.trainable_variables
    }
    return [decay ** depth[v.path] for v in backbone.trainable_variables] + [1.0] * len(head.trainable_variables)
