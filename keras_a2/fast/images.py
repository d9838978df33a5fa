"""The image network faster on a CPU: frozen blocks outside the step, a step written by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_a2.fast import litert


def split(backbone: keras.Model, blocks: list[list[keras.Layer]]) -> tuple[keras.Model | None, keras.Model]:
    """The leading blocks that are frozen, and the rest of the backbone; both share its layers.

    The frozen blocks are the dearest (large images), and outside the training step they need no gradients.

    Args:
        blocks: the backbone's layers, block by block; the last of each has the block's output.

    Returns:
        None and the whole backbone where the first block trains, and on a GPU, which needs no help.
    """
    first = next((i for i, block in enumerate(blocks) if any(layer.trainable_weights for layer in block)), 0)
    if first == 0 or tf.config.list_logical_devices("GPU"):
        return None, backbone
    border = blocks[first - 1][-1].output
    return keras.Model(backbone.input, border), keras.Model(border, backbone.output)


def compiled_epoch(
    network: keras.Model, batches: Callable[[int], Any], average: Any = None, frozen: keras.Model | None = None
) -> Callable[[int, Callable[[float], None]], float]:
    """An epoch by one traced step; it starts sooner than ``fit`` and stalls on nothing.

    Under a ``tf.distribute`` strategy each device works on its share of the batch; Keras's optimizer adds up their
    gradients, so that the step is the same on any number of devices.

    Args:
        network: compiled with a loss ``(labels, outputs) -> (n,)``.
        batches: epoch -> data set of inputs and labels.
        average: of the network's weights; ``update`` is called after each step.
        frozen: leading blocks of fixed weights, which run through LiteRT before the step.

    Returns:
        ``(epoch, report) -> mean loss``; ``report`` is called with the share of the epoch that is done.
    """
    variables, strategy = network.trainable_variables, tf.distribute.get_strategy()
    network.optimizer.build(variables)

    def on_one_device(inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        n = tf.cast(tf.shape(labels)[0], tf.float32)
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            mine = slice(context.replica_id_in_sync_group, None, context.num_replicas_in_sync)
            inputs, labels = inputs[mine], labels[mine]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network.loss(labels, network(inputs, training=True))) / n
        network.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function(reduce_retracing=True)
    def step(inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        losses = strategy.run(on_one_device, args=(inputs, labels))
        if average is not None:
            average.update()
        return strategy.reduce("SUM", losses, axis=None)

    @functools.cache
    def interpreters(item: tuple[int, ...]) -> litert.Parallel:
        return litert.Parallel(frozen, item)

    def first_blocks(inputs: tf.Tensor) -> np.ndarray:
        return interpreters(tuple(inputs.shape[1:]))(inputs.numpy())

    def train_epoch(epoch: int, report: Callable[[float], None]) -> float:
        data = batches(epoch)
        total, losses = int(data.cardinality()), []
        for inputs, labels in data:
            losses.append(step(inputs if frozen is None else first_blocks(inputs), labels))
            report(len(losses) / total)
        return float(np.mean([float(loss) for loss in losses]))

    return train_epoch
