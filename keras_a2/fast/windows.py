"""Training and forecasting with the windows gathered inside the compiled step, a batch shared out to the cores."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_a2.fast.loops import compiled_loops, is_compiled
from keras_a2.training import Average

Epoch = Callable[[int, Callable[[float], None]], float]
Gather = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
PREDICTED = 1024  # samples at once, at most
PARTS = 4  # of a batch: a fixed number, not the cores', so that sums do not depend on the machine
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
    variables, seeds = network.trainable_variables, network.non_trainable_variables  # the latter are dropout's

    @tf.function(jit_compile=is_compiled(network), autograph=False)
    def loss_and_gradients(samples: tf.Tensor, seeds: list) -> tuple:
        inputs, targets = gather(samples)
        with tf.GradientTape() as tape:
            outputs, seeds = network.stateless_call(variables, seeds, inputs, training=True)
            error = outputs - targets
            mean = tf.reduce_mean(tf.abs(error) if loss == "mae" else tf.square(error))
        return mean, tape.gradient(mean, variables), seeds

    @tf.function(autograph=False)
    def step(samples: tf.Tensor) -> tf.Tensor:
        parts = _parts(samples, network)
        # Each part draws its own dropout; no part writes what another reads, so they run at the same time.
        results = [loss_and_gradients(part, [seed + number for seed in seeds]) for number, part in enumerate(parts)]
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
