"""The two phases, head and fine-tune, and the scratch control."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from keras_a2 import training
from keras_a2.console import console
from keras_a2.transfer import backbone as backbones
from keras_a2.transfer import features, head, statistics
from keras_a2.transfer.data import Images, batches
from keras_a2.transfer.step import Settings, end_to_end, make_step
from keras_a2.transfer.unfreeze import freeze_all_but

HEAD_BATCH = 256
EVALUATION_BATCH = 64


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
    """Phase ``head`` on cached features, then phase ``fine_tune``; of the two the lower validation loss is kept."""
    keras.utils.set_random_seed(settings.seed)
    steps = max(len(images.train) // settings.batch_size, 1)
    network = backbones.build(weights, momentum=backbones.momentum_for(steps))
    if settings.batch_norm == "train":
        # A head that is fitted under another data set's statistics would be thrown off by the first step.
        backbones.set_batch_norm(network, "train")
        statistics.estimate(network, images, settings.seed)
    arm = Arm("pretrained", weights, network, _new_head(network, images, settings))
    arm.phases.append(train_head(arm, images, settings, state("head"), log))
    if settings.fine_tune_epochs:
        arm.phases.append(fine_tune(arm, images, settings, state("fine_tune"), log))
    return arm


def train_scratch(images: Images, alpha: float, settings: Settings, state: Callable[[str], Path], log=None) -> Arm:
    """The same network from random initialisation: batch norm in training mode, its own learning rate."""
    keras.utils.set_random_seed(settings.seed)  # whatever was trained before
    weights = backbones.Weights("random", None, alpha)
    steps = max(len(images.train) // settings.batch_size, 1)
    network = backbones.build(weights, momentum=backbones.momentum_for(steps))
    arm = Arm("scratch", weights, network, _new_head(network, images, settings))
    started = time.perf_counter()
    backbones.set_batch_norm(network, "train")
    history = _train_network(
        "scratch", arm, images, settings, settings.scratch_learning_rate, settings.scratch_epochs, 1.0, state, log,
        make_predict(arm),
    )  # fmt: skip
    arm.phases.append(Phase("scratch", history, history.earlier + time.perf_counter() - started))
    return arm


def _new_head(network: keras.Model, images: Images, settings: Settings) -> keras.Model:
    return head.build(network.output_shape[-1], len(images.classes), settings.dropout)


def train_head(arm: Arm, images: Images, settings: Settings, state: Path | None, log=None) -> Phase:
    """Train the head on features computed once: first its convex optimum, then epochs over the augmented views.

    A head whose state file says that it is finished costs no pass over the images.
    """
    started = time.perf_counter()

    @functools.cache
    def cached() -> tuple[np.ndarray, np.ndarray]:
        options = {"augment": settings.augment, "seed": settings.seed}
        extractor = features.Extractor(arm.backbone, images.store.size)
        views = features.extract(extractor, images, images.train, views=settings.views, **options)
        return views, features.extract(extractor, images, images.validation)[0]

    if not training.read_state(state):
        _solve_head(arm.head, images, *cached())
    history = _train_head_epochs(arm.head, images, cached, settings, state, log)
    return Phase("head", history, history.earlier + time.perf_counter() - started)


def _solve_head(model: keras.Model, images: Images, views: np.ndarray, held: np.ndarray) -> None:
    everything = views.reshape(-1, views.shape[-1])
    head.standardise(model, everything)
    scale = model.get_layer("standardise")
    labels = np.tile(images.labels[images.train], len(views))
    kernel, bias, _ = head.solve(
        np.asarray(scale(everything)), labels, np.asarray(scale(held)), images.labels[images.validation]
    )
    model.get_layer("logits").set_weights([kernel, bias])


def _train_head_epochs(model, images, cached, settings, state, log) -> training.History:
    labels, n = images.labels[images.train], len(images.train)
    optimizer = keras.optimizers.Adam(settings.head_learning_rate)
    optimizer.build(model.trainable_variables)
    step = make_step(model, optimizer, settings.label_smoothing)

    def train_epoch(epoch: int, report) -> float:
        rng = np.random.default_rng([settings.seed, 4, epoch])
        order, view = rng.permutation(n), rng.integers(settings.views, size=n)
        views, losses = cached()[0], []
        for start in range(0, n, HEAD_BATCH):
            rows = order[start : start + HEAD_BATCH]
            losses.append(float(step(views[view[rows], rows], labels[rows].astype(np.int32))))
            report(min(start + HEAD_BATCH, n) / n)
        return float(np.mean(losses))

    return training.fit(
        "head",
        train_epoch=train_epoch,
        validate=lambda: _measure(np.asarray(model(cached()[1], training=False)), images.labels[images.validation]),
        score=lambda row: -row["validation_loss"],  # the head is convex: its loss says more than its accuracy
        weights=model.weights,
        state=[*optimizer.variables, *training.random_states(model)],
        epochs=settings.head_epochs,
        path=state,
        on_epoch=log and (lambda row: log("head", row)),
    )


def fine_tune(arm: Arm, images: Images, settings: Settings, state: Path, log=None) -> Phase:
    """Unfreeze the backbone at a low rate that warms up and decays, lower for earlier blocks.

    Epoch 0 of the history is the head-only model: when no epoch has a lower validation loss, it is what is kept.
    """
    started = time.perf_counter()
    backbones.set_batch_norm(arm.backbone, settings.batch_norm)
    freeze_all_but(arm.backbone, settings.unfreeze)
    predict, labels = make_predict(arm), images.labels[images.validation]
    before = _losses(predict_split(predict, images, images.validation), labels)
    history = _train_network(
        "fine_tune", arm, images, settings, settings.learning_rate, settings.fine_tune_epochs, settings.layer_decay,
        lambda _: state, log, predict,
    )  # fmt: skip
    if history.best_epoch == 0:
        note = "Validation loss rose after unfreezing; the head-only model was kept."
    else:
        note = _doubt(before, _losses(predict_split(predict, images, images.validation), labels))
    if note:
        console.print(f"note: {note}")
    return Phase("fine_tune", history, history.earlier + time.perf_counter() - started, note)


def _doubt(before: np.ndarray, after: np.ndarray) -> str:
    """A sentence where the paired losses of the validation images do not show that fine-tuning helped."""
    if stats.ttest_rel(before, after).pvalue < 0.05:
        return ""
    return (
        f"{len(before)} validation images are too few to tell whether fine-tuning helped; "
        "it was kept for its lower validation loss."
    )


def _train_network(stage, arm, images, settings, learning_rate, epochs, layer_decay, state, log, predict):
    trained = end_to_end(arm.backbone, arm.head, images, settings, learning_rate, epochs, layer_decay)
    held_labels = images.labels[images.validation]

    lagging = statistics.lag(arm.backbone, len(images.train) // settings.batch_size, settings.ema)

    def validate() -> dict:
        with trained.average.swapped_in():
            if lagging:
                statistics.estimate(arm.backbone, images, settings.seed)
                trained.average.keep(statistics.variables(arm.backbone))
            return _measure(predict_split(predict, images, images.validation), held_labels)

    history = training.fit(
        stage,
        train_epoch=trained.epoch,
        validate=validate,
        score=lambda row: -row["validation_loss"],  # a few images more or less right are chance
        weights=trained.average.shown,
        state=trained.state,
        epochs=epochs,
        path=state(stage),
        on_epoch=log and (lambda row: log(stage, row)),
    )
    trained.average.copy_to_model()
    return history


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
    return {
        "validation_loss": float(np.mean(_losses(logits, labels))),
        "validation_accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
    }


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image ``(n,)``."""
    return np.asarray(tf.nn.sparse_softmax_cross_entropy_with_logits(labels.astype(np.int32), logits))
