"""Pretraining the bundled backbone: a teacher's features and classes, of the same crops that the student sees."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import keras
import numpy as np
import tensorflow as tf

from keras_a2 import training
from keras_a2.console import console
from keras_a2.errors import UserError
from keras_a2.fast import litert
from keras_a2.files import whole
from keras_a2.training import Average
from keras_a2.transfer import model as models
from keras_a2.transfer.data import PixelStore, boxes, crop, decode_all
from keras_a2.transfer.sources import Source

if TYPE_CHECKING:
    from pretrain import Config

MOMENTUM = 0.99
BATCH = 250
LATEST = "latest.weights.h5"


@dataclass
class View:
    """One look at each of some images: a crop, perhaps without colour, perhaps mixed with another image's."""

    images: np.ndarray  # (n, 2): index of the image and of the one mixed into it
    crops: np.ndarray  # (n, 2, 5): the box of each, and 1 if it is shown without colour
    share: np.ndarray  # (n,): of the second image


@dataclass
class Pool:
    """Images decoded once, the views of those to train on, and the whole view of those held out."""

    store: PixelStore
    train: np.ndarray
    held_out: np.ndarray
    views: list[View]
    whole: View


def load(source: Source, config: Config) -> Pool:
    """Decode the images once and hold some of each class out.

    Raises:
        UserError: an unreadable image, or a class with nothing left to train on.
    """
    store = PixelStore(len(source.items), config.image_size)
    for name, answer in zip(source.item_names, decode_all(source, store), strict=True):
        if isinstance(answer, str):
            raise UserError(f"{name}: {answer}; repair or remove it")
    rng, count = np.random.default_rng(config.seed), config.held_out_per_class
    members = [rng.permutation(np.flatnonzero(source.labels == label)) for label in range(len(source.classes))]
    for name, images in zip(source.classes, members, strict=True):
        if len(images) <= count:
            raise UserError(f"class {name!r} has {len(images)} images; more than {count} are needed")
    held_out = np.sort(np.concatenate([images[:count] for images in members]))
    train = np.setdiff1d(np.arange(len(source.items)), held_out)
    rngs = [np.random.default_rng([config.seed, number]) for number in range(config.views)]
    views = [draw("wide_crop", train, config.grey, config.mixed, each) for each in rngs]
    return Pool(store, train, held_out, views, draw("none", held_out, 0.0, 0.0, rng))


def draw(kind: str, images: np.ndarray, grey: float, mixed: float, rng: np.random.Generator) -> View:
    """A view of each of ``images``; a mixed one has a uniform share of another image (mixup, arXiv 1710.09412)."""
    n = len(images)
    crops = np.column_stack([boxes(kind, 2 * n, rng), rng.random(2 * n) < grey]).astype(np.float32).reshape(n, 2, 5)
    share = np.where(rng.random(n) < mixed, rng.random(n), 0).astype(np.float32)
    return View(np.column_stack([images, rng.permutation(images)]), crops, share)


def show(store: PixelStore, view: View, rows: np.ndarray | slice, size: int) -> tf.Tensor:
    """The rows of a view as teacher and student see them: float32 pixels 0-255 ``(rows, size, size, 3)``."""
    images, crops, share = view.images[rows], view.crops[rows], view.share[rows]
    pixels = _show(store.read(images[:, 0]), crops[:, 0], size)
    mixed = np.flatnonzero(share)
    if not len(mixed):
        return pixels
    others = _show(store.read(images[mixed, 1]), crops[mixed, 1], size)
    change = (others - tf.gather(pixels, mixed)) * share[mixed, np.newaxis, np.newaxis, np.newaxis]
    return tf.tensor_scatter_nd_add(pixels, mixed[:, np.newaxis], change)


@tf.function(reduce_retracing=True)
def _show(images: tf.Tensor, crops: tf.Tensor, size: int) -> tf.Tensor:
    """Of each image its crop ``(size, size, 3)``, in the luminance alone where that is asked for."""
    pixels = crop(images, crops[:, :4], size)
    grey = crops[:, 4, tf.newaxis, tf.newaxis, tf.newaxis] > 0
    return tf.where(grey, tf.image.rgb_to_grayscale(pixels), pixels)


class Teacher:
    """A classifier's features of the views, computed once: each view's are a file of ``folder``, written whole."""

    def __init__(self, classifier: keras.Model, pool: Pool, size: int, folder: Path):
        last = classifier.layers[-1]
        self.kernel = np.array(last.kernel, np.float32)
        self.bias = np.array(last.bias, np.float32) if last.use_bias else np.zeros(self.kernel.shape[1], np.float32)
        self._extractor = litert.Parallel(keras.Model(classifier.input, last.input), (size, size, 3))
        self._pool, self._size, self._folder = pool, size, folder

    def view(self, number: int) -> np.ndarray:
        """Features of training view ``number``, float16 ``(len(train), features)``, read from the disk by row."""
        return self._features(f"view{number}", self._pool.views[number])

    def held_out(self) -> np.ndarray:
        """Features of the held-out images, float16 ``(len(held_out), features)``."""
        return self._features("held_out", self._pool.whole)

    def _features(self, name: str, view: View) -> np.ndarray:
        """Of a view, from its file; computed where there is none."""
        path = self._folder / f"{name}.npy"
        if not path.exists():
            starts = range(0, len(view.share), BATCH)
            pixels = (show(self._pool.store, view, slice(start, start + BATCH), self._size) for start in starts)
            features = np.concatenate([self._extractor(batch).astype(np.float16) for batch in pixels])
            with whole(path) as temporary, temporary.open("wb") as file:
                np.save(file, features)
        return np.load(path, mmap_mode="r")


def pretrain(pool: Pool, teacher: Teacher, config: Config, folder: Path) -> tuple[keras.Model, training.History]:
    """Train MobileNetV3Small, alpha 1.0, from random initialisation.

    The loss is ``feature_weight`` times the squared error of a linear map of the pooled features to the teacher's
    standardised ones (FitNets, Romero et al. 2015), plus ``class_weight`` times the divergence of another map's class
    probabilities from the teacher's (Hinton et al. 2015). The teacher has seen the same pixels, mixed images included
    (Beyer et al. 2022, arXiv 2106.05237). A view's features are computed when its first epoch begins.

    Args:
        folder: where the state is kept; after each epoch ``latest.weights.h5`` in it has the averaged weights.

    Returns:
        The network with the moving average of its weights, and the history.
    """
    keras.utils.set_random_seed(config.seed)
    backbone = models.plain_backbone(models.BUNDLED_ALPHA)
    models.set_momentum(backbone, MOMENTUM)
    features, classes = teacher.kernel.shape
    sizes = [config.image_size] * config.epochs + [config.late_image_size] * config.late_epochs
    maps = [keras.layers.Dense(features, name="feature"), keras.layers.Dense(classes, name="class")]
    model = keras.Model(backbone.input, [layer(backbone.output) for layer in maps])
    steps = len(pool.train) // config.batch_size
    schedule = training.warm_up_and_decay(config.learning_rate, len(sizes), steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    average = Average(model, config.ema)
    held_out = teacher.held_out()
    step, measure = _make_functions(model, optimizer, average, teacher, config)
    present = {"epoch": 1}

    def train_epoch(epoch: int, report: Callable[[float], None]) -> float:
        present["epoch"], losses = epoch, []
        number = (epoch - 1) % len(pool.views)
        targets = teacher.view(number)
        order = np.random.default_rng([config.seed, 99, epoch]).permutation(len(pool.train))
        for rows in order[: steps * config.batch_size].reshape(steps, config.batch_size):
            losses.append(float(step(show(pool.store, pool.views[number], rows, sizes[epoch - 1]), targets[rows])))
            report(len(losses) / steps)
        return float(np.mean(losses))

    def validate() -> dict[str, float]:
        size, sums = sizes[present["epoch"] - 1], np.zeros(3)
        with average.swapped_in():
            for start in range(0, len(held_out), BATCH):
                rows = slice(start, start + BATCH)
                sums += measure(show(pool.store, pool.whole, rows, size), held_out[rows]).numpy()
            save_half(backbone, folder / LATEST)
        names = ("validation_feature_error", "validation_divergence", "validation_agreement")
        return dict(zip(names, (sums / len(held_out)).tolist(), strict=True))

    history = training.fit(
        "pretrain",
        train_epoch=train_epoch,
        validate=validate,
        score=lambda row: row["epoch"],  # the last epoch: with a rate that decays to zero there is nothing to choose
        weights=average.averaged,
        state=[*model.weights, *optimizer.variables, *training.random_states(model), average.count],
        epochs=len(sizes),
        path=folder / "pretrain.npz",
        on_epoch=lambda row: console.print(row),
    )
    average.copy_to_model()
    return backbone, history


def _make_functions(
    model: keras.Model, optimizer: keras.Optimizer, average: Average, teacher: Teacher, config: Config
) -> tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]:
    """A training step ``(pixels, features) -> loss``, and the sums over a batch of error, divergence and agreement."""
    held_out = teacher.held_out().astype(np.float32)
    mean, scale = held_out.mean(axis=0), held_out.std(axis=0) + 1e-3

    def compare(pixels: tf.Tensor, features: tf.Tensor, train: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        features = tf.cast(features, tf.float32)
        feature, logits = model(pixels, training=train)
        target = tf.matmul(features, teacher.kernel) + teacher.bias
        error = tf.reduce_mean(tf.square(feature - (features - mean) / scale), axis=1)
        difference = tf.nn.log_softmax(target) - tf.nn.log_softmax(logits)
        divergence = tf.reduce_sum(tf.nn.softmax(target) * difference, axis=1)
        return error, divergence, tf.cast(tf.argmax(target, 1) == tf.argmax(logits, 1), tf.float32)

    @tf.function
    def step(pixels: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            error, divergence, _ = compare(pixels, features, True)
            loss = tf.reduce_mean(config.feature_weight * error + config.class_weight * divergence)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        average.update()
        return loss

    @tf.function
    def measure(pixels: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.stack(compare(pixels, features, False)), axis=1)

    return step, measure


def save_half(network: keras.Model, path: Path) -> None:
    """Write the weights as float16 HDF5 under Keras's own layer names; the file appears whole."""
    with tempfile.TemporaryDirectory() as folder, whole(path) as temporary:
        single = Path(folder, "single.weights.h5")
        network.save_weights(single)
        with h5py.File(single, "r") as source, h5py.File(temporary, "w") as target:

            def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
                if isinstance(node, h5py.Dataset):
                    target.create_dataset(name, data=node[()].astype(np.float16), compression="gzip", shuffle=True)
                else:
                    target.require_group(name).attrs.update(node.attrs)

            source.visititems(copy)
            target.attrs.update(source.attrs)
