"""One hand-written training step for every phase: on cached features, or end to end on augmented pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import training
from keras_a2.averaging import Average
from keras_a2.transfer.augment import boxes, crop
from keras_a2.transfer.data import Images, batches
from keras_a2.transfer.optimize import LayerwiseAdamW, rate_multipliers
from keras_a2.transfer.unfreeze import cut, lookup


@dataclass(frozen=True)
class Settings:
    """What the phases need to know; the script's configuration fills it."""

    batch_size: int
    learning_rate: float
    head_learning_rate: float
    scratch_learning_rate: float
    head_epochs: int
    fine_tune_epochs: int
    scratch_epochs: int
    batch_norm: str
    views: int
    augment: str
    dropout: float
    label_smoothing: float
    layer_decay: float
    ema: float
    weight_decay: float
    unfreeze: int
    seed: int


@dataclass
class EndToEnd:
    """Backbone and head as one network, ready to train on augmented pixels with a moving average of the weights."""

    average: Average
    state: list
    epoch: Callable[[int, Callable[[float], None]], float]


def end_to_end(
    backbone: keras.Model,
    head: keras.Model,
    images: Images,
    settings: Settings,
    learning_rate: float,
    epochs: int,
    layer_decay: float,
) -> EndToEnd:
    """Optimizer, schedule, average and the traced step; the rate warms up over the first epoch, then decays.

    Frozen blocks in front of the first that trains are no part of the step.
    """
    frozen, unfrozen = cut(backbone)
    look = lookup(frozen, images.store.size) if frozen else None
    network = keras.Sequential([unfrozen, head])
    steps = max(len(images.train) // settings.batch_size, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(epochs * steps - steps, 1), warmup_target=learning_rate, warmup_steps=steps
    )
    optimizer = LayerwiseAdamW(
        rate_multipliers(unfrozen, head, layer_decay),
        learning_rate=schedule,
        weight_decay=settings.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(network.trainable_variables)
    average = Average(network, settings.ema)
    step = make_step(network, optimizer, settings.label_smoothing, None if frozen else images.store.size, average)
    return EndToEnd(
        average,
        [*network.weights, *optimizer.variables, *training.random_states(network), average.count],
        lambda epoch, report: _pixel_epoch(step, look, images, settings, epoch, report),
    )


def _pixel_epoch(step, look, images: Images, settings: Settings, epoch: int, report) -> float:
    rng = np.random.default_rng([settings.seed, 5, epoch])
    order = rng.permutation(images.train)
    size = min(settings.batch_size, len(order))
    where = boxes(settings.augment, len(order), rng)
    losses = []
    for pixels, labels in batches(images.store, order, images.labels, size, drop_remainder=True):
        done = len(losses) * size
        if look is None:
            losses.append(step(pixels, labels, where[done : done + size]))
        else:
            losses.append(step(look(crop(pixels, where[done : done + size], images.store.size)), labels))
        report((done + size) / len(order))
    return float(np.mean([float(loss) for loss in losses]))


def make_step(model, optimizer, label_smoothing: float, size: int | None = None, average=None):
    """One traced training step; written by hand it starts sooner than ``compile`` + ``fit`` and stalls on nothing.

    Under a ``tf.distribute`` strategy each device works on its share of the batch; Keras's optimizer adds up their
    gradients, so that the step is the same on any number of devices.
    """
    variables = model.trainable_variables
    strategy = tf.distribute.get_strategy()

    def on_one_device(*batch):
        inputs, labels, where = _own_share(batch)
        if size is not None:
            inputs = crop(inputs, where, size)
        with tf.GradientTape() as tape:
            losses = _cross_entropy(labels, model(inputs, training=True), label_smoothing)
            loss = tf.reduce_sum(losses) / tf.cast(tf.shape(batch[1])[0], tf.float32)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function
    def step(inputs, labels, where=None):
        losses = strategy.run(on_one_device, args=(inputs, labels, where))
        if average is not None:
            average.update()
        return strategy.reduce("SUM", losses, axis=None)

    return step


def _own_share(batch: tuple) -> list:
    """Of each tensor, the rows that this device works on."""
    context = tf.distribute.get_replica_context()
    count, mine = context.num_replicas_in_sync, context.replica_id_in_sync_group
    return [part if part is None or count == 1 else part[mine::count] for part in batch]


def _cross_entropy(labels, logits, smoothing: float):
    target = tf.one_hot(labels, logits.shape[-1])
    target = target * (1 - smoothing) + smoothing / logits.shape[-1]
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)
