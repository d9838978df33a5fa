"""Training and forecasting with the windows gathered inside the compiled step, a batch shared out to the cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_a2.fast.loops import compiled_loops, is_compiled
from keras_a2.training import Average

Epoch = Callable[[int, Callable[[float], None]], float]
Gather = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
PREDICTED = 1024  # samples at once, at most
PARTS = 4  # of a batch: a fixed number, not the cores', so that sums do not depend on the machine
PHILOX = 1  # TensorFlow's number for the generator of Salmon et al. 2011
LEAST_PART = 32  # samples; forecasts are made of a multiple of it at once


def compiled(
    network: keras.Sequential, loss: str, order: Callable[[int], np.ndarray], gather: Gather, average: Average
) -> tuple[Epoch, Callable[[np.ndarray], np.ndarray]]:
    """An epoch of training and the forecasts of a network that Keras has compiled, by a twin with compiled loops.

    The same as Keras's ``fit`` and ``predict`` on the same batches, but for dropout's draws.

    Args:
        loss: ``mae`` or ``mse``.
        order: epoch -> samples of its batches ``(steps, batch, 2)``.
        gather: samples ``(batch, 2)`` -> inputs of the network, and its targets; TensorFlow's operations only.
        average: updated after every step.

    Returns:
        ``(epoch, report) -> mean loss``, where ``report`` is called with the share of the epoch that is done; and
        samples ``(n, 2)`` -> what the network answers to their inputs ``(n, outputs)``.
    """
    twin = compiled_loops(network)
    return _epoch(twin, network.optimizer, loss, order, gather, average), _predict(twin, gather)


def _epoch(
    network: keras.Sequential,
    optimizer: keras.optimizers.Optimizer,
    loss: str,
    order: Callable[[int], np.ndarray],
    gather: Gather,
    average: Average,
) -> Epoch:
    """``(epoch, report) -> mean loss`` of one traced step."""
    model, dropouts = _with_noise(network) if is_compiled(network) else (network, {})
    variables, seeds = model.trainable_variables, model.non_trainable_variables  # the latter are dropout's

    @tf.function(jit_compile=is_compiled(network), autograph=False)
    def loss_and_gradients(samples: tf.Tensor, noise: list, seeds: list) -> tuple:
        inputs, targets = gather(samples)
        with tf.GradientTape() as tape:
            outputs, seeds = model.stateless_call(
                variables, seeds, [inputs, *noise] if noise else inputs, training=True
            )
            error = outputs - targets
            mean = tf.reduce_mean(tf.abs(error) if loss == "mae" else tf.square(error))
        return mean, tape.gradient(mean, variables), seeds

    @tf.function(autograph=False)
    def step(samples: tf.Tensor) -> tf.Tensor:
        parts, drawn = _parts(samples, network), [layer.seed_generator.next() for layer in dropouts]
        results = []
        for number, part in enumerate(parts):  # each draws its own dropout
            shapes = [(part.shape[0], *shape) for shape in dropouts.values()]
            draws = zip(drawn, dropouts, shapes, strict=True)
            noise = [dropout_noise(seed + number, layer.rate, shape) for seed, layer, shape in draws]
            # No part writes what another reads, so they run at the same time.
            results.append(loss_and_gradients(part, noise, [seed + number for seed in seeds]))
        weights = [part.shape[0] / samples.shape[0] for part in parts]
        losses, gradients, (after, *_) = zip(*results, strict=True)
        mean = [tf.add_n([w * g for w, g in zip(weights, each, strict=True)]) for each in zip(*gradients, strict=True)]
        optimizer.apply(mean, variables)
        average.update()
        for seed, value in zip(seeds, after, strict=True):
            seed.assign(value)
        return tf.add_n([w * loss for w, loss in zip(weights, losses, strict=True)])

    def train_epoch(epoch: int, report: Callable[[float], None]) -> float:
        batches, losses = order(epoch), []
        for samples in batches:
            losses.append(step(tf.constant(samples)))
            if len(losses) % 8 == 0:
                report(len(losses) / len(batches))
        return float(np.mean([float(loss) for loss in losses]))

    return train_epoch


def _with_noise(network: keras.Sequential) -> tuple[keras.Model, dict[keras.layers.Dropout, tuple]]:
    """A twin that takes what its dropout layers multiply by as further inputs; these layers, and the shape of each."""
    inputs = outputs = keras.Input(network.input_shape[1:])
    noise: dict[keras.layers.Dropout, Any] = {}
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout) and layer.rate:
            *steps, width = outputs.shape[1:]
            if isinstance(layer, keras.layers.SpatialDropout1D):  # the same at every step
                steps = [1]
            noise[layer] = keras.Input((*steps, width))
            outputs = outputs * noise[layer]
        else:
            outputs = layer(outputs)
    twin = keras.Model([inputs, *noise.values()] if noise else inputs, outputs)
    return twin, {layer: each.shape[1:] for layer, each in noise.items()}


def dropout_noise(seed: tf.Tensor, rate: float, shape: tuple[int, ...]) -> tf.Tensor:
    """What Keras's dropout multiplies by where XLA compiles it, the same bits, but drawn outside of XLA.

    XLA takes some 0.3 microseconds for a random number, several times where it is used several times: a third of a
    SimpleRNN's training.

    Args:
        seed: of the layer's generator ``(2,)``.
    """
    seed = tf.cast(tf.math.floormod(seed, tf.int32.max - 1), tf.int32)  # as Keras does
    start = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=start.key, counter=start.counter, alg=PHILOX, dtype=tf.uint32
    )
    # XLA makes a float of [1, 2) of the highest bits; TensorFlow's own uniform numbers are made of the lowest.
    mantissa = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))
    uniform = tf.bitcast(tf.bitwise.bitwise_or(mantissa, tf.constant(0x3F800000, tf.uint32)), tf.float32) - 1
    return tf.where(uniform >= rate, 1 / (1 - rate), 0.0)


def _predict(network: keras.Sequential, gather: Gather) -> Callable[[np.ndarray], np.ndarray]:
    """Samples ``(n, 2)`` to outputs ``(n, outputs)``, in equal batches of ``PREDICTED`` at most."""

    @tf.function(jit_compile=is_compiled(network), autograph=False)
    def of_part(samples: tf.Tensor) -> tf.Tensor:
        return network(gather(samples)[0], training=False)

    @tf.function(autograph=False)
    def of_batch(samples: tf.Tensor) -> tf.Tensor:
        return tf.concat([of_part(part) for part in _parts(samples, network)], axis=0)

    def predict(samples: np.ndarray) -> np.ndarray:
        count = -(-len(samples) // PREDICTED)
        size = -(-len(samples) // (count * LEAST_PART)) * LEAST_PART  # few sizes: each is compiled
        full = np.resize(samples, (count, size, 2))
        return np.concatenate([of_batch(tf.constant(part)) for part in full])[: len(samples)]

    return predict


def _parts(samples: tf.Tensor, network: keras.Sequential) -> list[tf.Tensor]:
    """A batch in parts for the cores to work on at the same time; Keras's own loops share out each product instead."""
    n = samples.shape[0]
    count = max(min(PARTS, n // LEAST_PART), 1) if is_compiled(network) else 1
    return tf.split(samples, [n // count + (number < n % count) for number in range(count)])
