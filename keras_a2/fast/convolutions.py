"""Convolutions joined with their batch norm: the same numbers in fewer passes over the images.

Keras normalises by several operations, each a pass over every image, and as many for the gradient. In inference mode
batch norm is a fixed scale and shift of each channel: here the scale goes into the kernel, the shift into the
convolution's bias. In training mode one operation normalises.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def joined(network: keras.Model) -> keras.Model:
    """A twin of a network that shares its layers and variables, each convolution joined with its batch norm.

    Train the twin, and the network is trained. Pairs whose options ``Joined`` does not honour stay as they are.

    Args:
        network: a functional model, or a ``Sequential`` of layers and such models.
    """
    if isinstance(network, keras.Sequential):
        parts = [joined(part) if isinstance(part, keras.Model) else part for part in network.layers]
        return keras.Sequential([keras.Input(network.input_shape[1:]), *parts], name=network.name)
    outputs: dict[int, tuple] = {}  # of convolutions: by identity, with what they were computed from

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization) and id(inputs[0]) in outputs:
            _, convolution, images = outputs[id(inputs[0])]
            return Joined(convolution, layer)(images)
        output = layer(*inputs, **options)
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D) and _is_plain(layer):
            outputs[id(output)] = output, layer, inputs[0]
        return output

    return keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)


def _is_plain(layer: Any) -> bool:
    """Whether a convolution is a kernel and strides, nothing more."""
    return (
        not layer.use_bias
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and set(layer.dilation_rate) == {1}
        and getattr(layer, "groups", 1) == getattr(layer, "depth_multiplier", 1) == 1
    )


class Joined(keras.layers.Layer):
    """A convolution and the batch norm after it; the variables are those of the two layers."""

    def __init__(self, convolution: Any, norm: keras.layers.BatchNormalization):
        super().__init__(name=f"joined_{convolution.name}")
        self.convolution, self.norm = convolution, norm
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Images ``(batch, height, width, channels)`` to normalised ``(batch, height, width, filters)``."""
        norm = self.norm
        gamma, beta, mean, variance = (
            tf.convert_to_tensor(v) for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )
        if training and norm.trainable:
            convolved = self._convolve(images, tf.convert_to_tensor(self.convolution.kernel))
            normalised, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                convolved, gamma, beta, epsilon=norm.epsilon, is_training=True
            )
            n = tf.cast(tf.reduce_prod(tf.shape(convolved)[:-1]), tf.float32)
            # The operation estimates a population's variance, Keras's layer that of the batch.
            for moving, value in ((norm.moving_mean, mean), (norm.moving_variance, variance * (n - 1) / n)):
                moving.assign_sub((moving - value) * (1 - norm.momentum))
            return normalised
        scale = gamma * tf.math.rsqrt(variance + norm.epsilon)
        kernel = tf.convert_to_tensor(self.convolution.kernel)
        # A kernel's last axis are the filters, of a depthwise one the last but one.
        shape = (-1, 1) if isinstance(self.convolution, keras.layers.DepthwiseConv2D) else (-1,)
        convolved = self._convolve(images, kernel * tf.reshape(scale, shape))
        return tf.nn.bias_add(convolved, beta - mean * scale)

    def _convolve(self, images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        layer = self.convolution
        convolve = tf.nn.depthwise_conv2d if isinstance(layer, keras.layers.DepthwiseConv2D) else tf.nn.conv2d
        return convolve(images, kernel, (1, *layer.strides, 1), layer.padding.upper())

    def compute_output_shape(self, shape: tuple) -> tuple:
        """As the convolution's own."""
        return self.convolution.compute_output_shape(shape)
