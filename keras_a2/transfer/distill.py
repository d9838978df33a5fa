"""Pretraining the bundled backbone: labels, and the features of a teacher that sees the same crops."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import training
from keras_a2.console import console
from keras_a2.errors import UserError
from keras_a2.transfer import backbone as backbones
from keras_a2.transfer.augment import boxes, crop
from keras_a2.transfer.data import PixelStore, decode_all
from keras_a2.transfer.features import BATCH, Extractor
from keras_a2.transfer.sources import Source

MOMENTUM = 0.99
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Settings:
    """What pretraining needs to know; the script's configuration fills it."""

    sizes: tuple[int, ...]  # pixels of the images of each epoch
    batch_size: int
    learning_rate: float
    weight_decay: float
    feature_weight: float
    label_weight: float
    views: int
    teacher_size: int
    seed: int


@dataclass
class Pool:
    """Labelled images, those held out for validation, and the crops of each training view."""

    store: PixelStore
    labels: np.ndarray
    train: np.ndarray
    held: np.ndarray
    classes: int
    views: list[np.ndarray]  # (len(train), 5): a box, and 1 where the crop is shown without colour


def load(source: Source, size: int, held_per_class: int, views: int, grey: float, seed: int, on_image) -> Pool:
    """Decode the images once and hold some of each class out.

    Args:
        grey: share of the crops that are shown without colour.

    Raises:
        UserError: an unreadable image, or a class with nothing left to train on.
    """
    store = PixelStore(len(source.items), size)
    reasons = decode_all(source, store, on_image).reasons
    if reasons:
        first = min(reasons)
        raise UserError(f"{source.item_names[first]}: {reasons[first]}; repair or remove it")
    rng = np.random.default_rng(seed)
    held = []
    for label, name in enumerate(source.classes):
        members = rng.permutation(np.flatnonzero(source.labels == label))
        if len(members) <= held_per_class:
            raise UserError(f"class {name!r} has {len(members)} images; more than {held_per_class} are needed")
        held.append(members[:held_per_class])
    held = np.sort(np.concatenate(held))
    train = np.setdiff1d(np.arange(len(source.items)), held)
    drawn = [_crops("wide_crop", len(train), grey, np.random.default_rng([seed, view])) for view in range(views)]
    return Pool(store, source.labels.astype(np.int32), train, held, len(source.classes), drawn)


def _crops(kind: str, n: int, grey: float, rng: np.random.Generator) -> np.ndarray:
    return np.column_stack([boxes(kind, n, rng), rng.random(n) < grey]).astype(np.float32)


def _whole(n: int) -> np.ndarray:
    return _crops("none", n, 0.0, np.random.default_rng(0))


def show(images, crops, size: int) -> tf.Tensor:
    """What teacher and student see of images ``(n, height, width, 3)`` at crops ``(n, 5)``: float32 pixels 0-255."""
    pixels = crop(images, crops[:, :4], size)
    grey = crops[:, 4, tf.newaxis, tf.newaxis, tf.newaxis] > 0
    return tf.where(grey, tf.image.rgb_to_grayscale(pixels), pixels)


def teacher_features(teacher: backbones.Weights, pool: Pool, settings: Settings, folder: Path, report) -> tuple:
    """The teacher's features of every view of the training images and of the whole held-out ones, float16.

    Each view is kept in a file of ``folder``, written whole, so that a killed run does not compute it again.
    """
    jobs = [(f"view{k}", pool.train, view) for k, view in enumerate(pool.views)]
    jobs.append(("held", pool.held, _whole(len(pool.held))))
    extractor, answers = None, []
    for done, (name, indices, where) in enumerate(jobs):
        path = folder / f"{name}.npy"
        if not path.exists():
            if extractor is None:
                extractor = Extractor(backbones.build(teacher), settings.teacher_size)
            features = [
                extractor(show(pool.store.read(indices[i : i + BATCH]), where[i : i + BATCH], settings.teacher_size))
                for i in range(0, len(indices), BATCH)
            ]
            temporary = folder / f"{name}.tmp.npy"
            np.save(temporary, np.concatenate(features).astype(np.float16))
            os.replace(temporary, path)
        answers.append(np.load(path))
        report(done + 1, len(jobs))
    return answers[:-1], answers[-1]


def pretrain(
    pool: Pool, features: tuple | None, settings: Settings, state: Path
) -> tuple[keras.Model, training.History]:
    """Train MobileNetV3Small, alpha 1.0, from random initialisation.

    The loss is ``feature_weight`` times the squared error of a linear map of the pooled features to the teacher's
    standardised ones (Hinton et al. 2015; FitNets, Romero et al. 2015), plus ``label_weight`` times the cross-entropy
    of the labels. The teacher has seen the same crop, as in Beyer et al. 2022 (arXiv 2106.05237).

    Args:
        features: of ``teacher_features``; None trains on labels alone.
    """
    keras.utils.set_random_seed(settings.seed)
    network = backbones.build(backbones.Weights("random", None, backbones.BUNDLED_ALPHA), momentum=MOMENTUM)
    targets, held_targets = _standardise(features, pool)
    feature = keras.layers.Dense(targets[0].shape[1], name="feature")(network.output)
    label = keras.layers.Dense(pool.classes, name="label")(network.output)
    model = keras.Model(network.input, [feature, label])
    steps = len(pool.train) // settings.batch_size
    total = steps * len(settings.sizes)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, total - steps, warmup_target=settings.learning_rate, warmup_steps=steps
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    step, predict = _make_step(model, optimizer, settings), _make_predict(model)
    epoch_now = [1]

    def train_epoch(epoch: int, report: Callable[[float], None]) -> float:
        epoch_now[0] = epoch
        order = np.random.default_rng([settings.seed, 99, epoch]).permutation(len(pool.train))
        view = (epoch - 1) % len(pool.views)
        losses = []
        for start in range(0, steps * settings.batch_size, settings.batch_size):
            rows = order[start : start + settings.batch_size]
            indices = pool.train[rows]
            batch = pool.store.read(indices), pool.views[view][rows], targets[view][rows], pool.labels[indices]
            losses.append(float(step(*batch, settings.sizes[epoch - 1])))
            report((start + settings.batch_size) / len(order))
        return float(np.mean(losses))

    def validate() -> dict:
        return _validate(predict, pool, held_targets, settings.sizes[epoch_now[0] - 1])

    history = training.fit(
        "pretrain",
        train_epoch=train_epoch,
        validate=validate,
        score=lambda row: row["epoch"],  # the last epoch: with a rate that decays to zero there is nothing to choose
        weights=model.weights,
        state=[*optimizer.variables, *training.random_states(model)],
        epochs=len(settings.sizes),
        path=state,
        on_epoch=lambda row: console.print(row),
    )
    return network, history


def _standardise(features: tuple | None, pool: Pool) -> tuple[list[np.ndarray], np.ndarray]:
    if features is None:
        return [np.zeros((len(pool.train), 1), np.float16) for _ in pool.views], np.zeros(
            (len(pool.held), 1), np.float16
        )
    views, held = features
    mean = views[0].astype(np.float32).mean(axis=0)
    scale = views[0].astype(np.float32).std(axis=0) + 1e-3
    return [((v - mean) / scale).astype(np.float16) for v in views], ((held - mean) / scale).astype(np.float16)


def _make_step(model, optimizer, settings: Settings):
    @tf.function
    def step(images, where, target, labels, size):
        pixels = show(images, where, size)
        with tf.GradientTape() as tape:
            feature, label = model(pixels, training=True)
            by_feature = tf.reduce_mean(tf.square(feature - tf.cast(target, tf.float32)))
            by_label = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, label))
            loss = settings.feature_weight * by_feature + settings.label_weight * by_label
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


def _make_predict(model):
    @tf.function
    def predict(images, where, size):
        return model(show(images, where, size), training=False)

    return predict


def _validate(predict, pool: Pool, targets: np.ndarray, size: int) -> dict:
    correct, error = 0, 0.0
    for start in range(0, len(pool.held), EVALUATION_BATCH):
        indices = pool.held[start : start + EVALUATION_BATCH]
        feature, label = predict(pool.store.read(indices), _whole(len(indices)), size)
        correct += int((np.argmax(label, axis=1) == pool.labels[indices]).sum())
        error += float(
            np.square(feature - targets[start : start + EVALUATION_BATCH].astype(np.float32)).mean(axis=1).sum()
        )
    return {"validation_accuracy": correct / len(pool.held), "validation_feature_error": error / len(pool.held)}


def save_half(network: keras.Model, path: Path) -> None:
    """Write the backbone's weights as float16 HDF5 under Keras's own layer names; the file appears whole."""
    import h5py

    plain = backbones.plain(backbones.BUNDLED_ALPHA)
    plain.set_weights(network.get_weights())
    whole = path.with_name("whole.tmp.weights.h5")
    plain.save_weights(whole)
    temporary = path.with_name("half.tmp.weights.h5")
    with h5py.File(whole, "r") as source, h5py.File(temporary, "w") as target:

        def copy(name, node):
            if isinstance(node, h5py.Dataset):
                target.create_dataset(name, data=node[()].astype(np.float16), compression="gzip", shuffle=True)
            else:
                target.require_group(name).attrs.update(node.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    whole.unlink()
    os.replace(temporary, path)
