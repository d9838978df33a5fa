"""The two phases, head and fine-tune, and the scratch control, on one hand-written training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import training
from keras_a2.averaging import Average
from keras_a2.console import console
from keras_a2.transfer import backbone as backbones
from keras_a2.transfer import features, head
from keras_a2.transfer.augment import boxes, crop
from keras_a2.transfer.data import Images, batches
from keras_a2.transfer.optimize import LayerwiseAdamW, block_number, rate_multipliers

HEAD_BATCH = 256
EVALUATION_BATCH = 64
ADAPTATION_STEPS, ADAPTATION_BATCH = 30, 64


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
    unfreeze: int | None
    seed: int


@dataclass
class Phase:
    """One phase of an arm: its history and wall-clock seconds, and a sentence where something needs saying."""

    name: str
    history: training.History
    seconds: float
    note: str = ""

    def summary(self) -> dict:
        return {
            "name": self.name,
            "epochs": self.history.epochs,
            "best_epoch": self.history.best_epoch,
            "seconds": self.seconds,
            "validation_accuracy": self.history.best["validation_accuracy"],
            "note": self.note,
        }


@dataclass
class Arm:
    """A trained network: backbone, head, and how it came about."""

    name: str
    weights: backbones.Weights
    backbone: keras.Model
    head: keras.Model
    phases: list[Phase] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)


def train_pretrained(
    images: Images, weights: backbones.Weights, settings: Settings, state: Callable[[str], Path], log=None
) -> Arm:
    """Phase ``head`` on cached features, then phase ``fine_tune``; the better of the two by validation is kept."""
    steps = max(len(images.train) // settings.batch_size, 1)
    network = backbones.build(weights, momentum=backbones.momentum_for(steps))
    if settings.batch_norm == "train":
        adapt_statistics(network, images, settings)
    arm = Arm("pretrained", weights, network, _new_head(network, images, settings))
    arm.phases.append(train_head(arm, images, settings, state("head"), log))
    if settings.fine_tune_epochs:
        arm.phases.append(fine_tune(arm, images, settings, state("fine_tune"), log))
    return arm


def train_scratch(images: Images, alpha: float, settings: Settings, state: Callable[[str], Path], log=None) -> Arm:
    """The same network from random initialisation: batch norm in training mode, its own learning rate."""
    weights = backbones.Weights("random", None, alpha)
    steps = max(len(images.train) // settings.batch_size, 1)
    network = backbones.build(weights, momentum=backbones.momentum_for(steps))
    arm = Arm("scratch", weights, network, _new_head(network, images, settings))
    started = time.perf_counter()
    backbones.set_batch_norm(network, "train")
    history = _train_network(
        "scratch", arm, images, settings, settings.scratch_learning_rate, settings.scratch_epochs, 1.0, state, log
    )
    arm.phases.append(Phase("scratch", history, time.perf_counter() - started))
    return arm


def adapt_statistics(network: keras.Model, images: Images, settings: Settings) -> None:
    """Estimate batch norm's statistics again on the training images (AdaBN: Li et al. 2016, arXiv 1603.04779).

    A head that was fitted under another data set's statistics would be thrown off by the first step in training mode.
    """
    backbones.set_batch_norm(network, "train")
    rng = np.random.default_rng([settings.seed, 6])
    for _ in range(ADAPTATION_STEPS):
        rows = rng.choice(images.train, min(ADAPTATION_BATCH, len(images.train)), replace=False)
        network(images.store.read(rows).astype(np.float32), training=True)


def _new_head(network: keras.Model, images: Images, settings: Settings) -> keras.Model:
    return head.build(network.output_shape[-1], len(images.classes), settings.dropout)


def train_head(arm: Arm, images: Images, settings: Settings, state: Path, log=None) -> Phase:
    """Train the head on features computed once: first its convex optimum, then epochs over the augmented views."""
    started = time.perf_counter()
    options = {"augment": settings.augment, "seed": settings.seed}
    cached = features.extract(arm.backbone, images, images.train, views=settings.views, **options)
    held = features.extract(arm.backbone, images, images.validation)[0]
    labels, held_labels = images.labels[images.train], images.labels[images.validation]
    head.standardise(arm.head, cached.reshape(-1, cached.shape[-1]))
    scale = arm.head.get_layer("standardise")
    everything = np.asarray(scale(cached.reshape(-1, cached.shape[-1])))
    kernel, bias, _ = head.solve(everything, np.tile(labels, settings.views), np.asarray(scale(held)), held_labels)
    arm.head.get_layer("logits").set_weights([kernel, bias])
    history = _train_head_epochs(arm.head, cached, labels, held, held_labels, settings, state, log)
    return Phase("head", history, time.perf_counter() - started)


def _train_head_epochs(model, cached, labels, held, held_labels, settings, state, log) -> training.History:
    views, n, _ = cached.shape
    optimizer = keras.optimizers.Adam(settings.head_learning_rate)
    optimizer.build(model.trainable_variables)
    step = _make_step(model, optimizer, settings.label_smoothing)

    def train_epoch(epoch: int, report) -> float:
        rng = np.random.default_rng([settings.seed, 4, epoch])
        order, view = rng.permutation(n), rng.integers(views, size=n)
        losses = []
        for start in range(0, n, HEAD_BATCH):
            rows = order[start : start + HEAD_BATCH]
            losses.append(float(step(cached[view[rows], rows], labels[rows].astype(np.int32))))
            report(min(start + HEAD_BATCH, n) / n)
        return float(np.mean(losses))

    return training.fit(
        "head",
        train_epoch=train_epoch,
        validate=lambda: _measure(np.asarray(model(held, training=False)), held_labels),
        score=lambda row: -row["validation_loss"],  # the head is convex: its loss says more than its accuracy
        weights=model.weights,
        state=[*optimizer.variables, *training.random_states(model)],
        epochs=settings.head_epochs,
        path=state,
        on_epoch=log and (lambda row: log("head", row)),
    )


def fine_tune(arm: Arm, images: Images, settings: Settings, state: Path, log=None) -> Phase:
    """Unfreeze the backbone at a low rate that warms up and decays, lower for earlier blocks.

    Epoch 0 of the history is the head-only model: when no epoch beats it on validation, it is what is kept.
    """
    started = time.perf_counter()
    backbones.set_batch_norm(arm.backbone, settings.batch_norm)
    freeze_all_but(arm.backbone, settings.unfreeze)
    history = _train_network(
        "fine_tune", arm, images, settings, settings.learning_rate, settings.fine_tune_epochs, settings.layer_decay,
        lambda _: state, log,
    )  # fmt: skip
    note = ""
    if history.best_epoch == 0:
        note = "Validation accuracy fell after unfreezing; the head-only model was kept."
        console.print(f"note: {note}")
    return Phase("fine_tune", history, time.perf_counter() - started, note)


def freeze_all_but(backbone: keras.Model, blocks: int | None) -> None:
    """Leave only the last ``blocks`` blocks trainable (the last convolution counts as one); None: all of them."""
    if blocks is None:
        return
    last = max(block_number(layer.name) for layer in backbone.layers)
    for layer in backbone.layers:
        if block_number(layer.name) <= last - blocks:
            layer.trainable = False


def _train_network(stage, arm, images, settings, learning_rate, epochs, layer_decay, state, log) -> training.History:
    """Train backbone and head end to end on augmented pixels, with a moving average of the weights."""
    network = keras.Sequential([arm.backbone, arm.head])
    steps = max(len(images.train) // settings.batch_size, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(epochs * steps - steps, 1), warmup_target=learning_rate, warmup_steps=steps
    )
    optimizer = LayerwiseAdamW(
        rate_multipliers(arm.backbone, arm.head, layer_decay),
        learning_rate=schedule,
        weight_decay=settings.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(network.trainable_variables)
    average = Average(network, settings.ema)
    step = _make_step(network, optimizer, settings.label_smoothing, images.store.size, average)
    predict = make_predict(arm)
    held_labels = images.labels[images.validation]

    def validate() -> dict:
        with average.swapped_in():
            return _measure(predict_split(predict, images, images.validation), held_labels)

    history = training.fit(
        stage,
        train_epoch=lambda epoch, report: _pixel_epoch(step, images, settings, epoch, report),
        validate=validate,
        score=lambda row: (row["validation_accuracy"], -row["validation_loss"]),
        weights=average.shown,
        state=[*network.weights, *optimizer.variables, *training.random_states(network), average.count],
        epochs=epochs,
        path=state(stage),
        on_epoch=log and (lambda row: log(stage, row)),
    )
    average.copy_to_model()
    return history


def _pixel_epoch(step, images: Images, settings: Settings, epoch: int, report) -> float:
    rng = np.random.default_rng([settings.seed, 5, epoch])
    order = rng.permutation(images.train)
    size = min(settings.batch_size, len(order))
    where = boxes(settings.augment, len(order), rng)
    losses = []
    for pixels, labels in batches(images.store, order, images.labels, size, drop_remainder=True):
        done = len(losses) * size
        losses.append(step(pixels, labels, where[done : done + size]))
        report((done + size) / len(order))
    return float(np.mean([float(loss) for loss in losses]))


def _make_step(model, optimizer, label_smoothing: float, size: int | None = None, average=None):
    """One traced training step; written by hand it starts sooner than ``compile`` + ``fit`` and stalls on nothing."""
    variables = model.trainable_variables

    @tf.function
    def step(inputs, labels, where=None):
        if size is not None:
            inputs = crop(inputs, where, size)
        with tf.GradientTape() as tape:
            loss = _cross_entropy(labels, model(inputs, training=True), label_smoothing)
        optimizer.apply(tape.gradient(loss, variables), variables)
        if average is not None:
            average.update()
        return loss

    return step


def _cross_entropy(labels, logits, smoothing: float):
    target = tf.one_hot(labels, logits.shape[-1])
    target = target * (1 - smoothing) + smoothing / logits.shape[-1]
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))


def make_predict(arm: Arm):
    """Pixels ``(batch, size, size, 3)`` to logits ``(batch, classes)`` in inference mode, traced once."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
    def predict(pixels):
        return arm.head(arm.backbone(tf.cast(pixels, tf.float32), training=False), training=False)

    return predict


def predict_split(predict, images: Images, indices: np.ndarray) -> np.ndarray:
    """Logits ``(len(indices), classes)``."""
    stream = batches(images.store, indices, images.labels, EVALUATION_BATCH)
    return np.concatenate([np.asarray(predict(pixels)) for pixels, _ in stream])


def _measure(logits: np.ndarray, labels: np.ndarray) -> dict:
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels.astype(np.int32), logits)
    return {
        "validation_loss": float(np.mean(loss)),
        "validation_accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
    }
