"""Pretraining the bundled backbone: a teacher's features and classes, of the same crops that the student sees."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from pretraining.teacher import split

MOMENTUM = 0.99
BATCH = 250
LATEST = "latest.weights.h5"


@dataclass(frozen=True)
class Settings:
    """What pretraining needs to know; the script's configuration fills it."""

    sizes: tuple[int, ...]  # pixels of the images of each epoch
    batch_size: int
    learning_rate: float
    weight_decay: float
    ema: float
    feature_weight: float
    class_weight: float
    teacher_size: int
    seed: int


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


def load(
    source: Source,
    size: int,
    held_out_per_class: int,
    views: int,
    grey: float,
    mixed: float,
    seed: int,
    on_image: Callable[[int, int], None],
) -> Pool:
    """Decode the images once and hold some of each class out.

    Args:
        grey: share of the crops that are shown without colour.
        mixed: share of the crops into which another image is mixed.

    Raises:
        UserError: an unreadable image, or a class with nothing left to train on.
    """
    store = PixelStore(len(source.items), size)
    reasons = decode_all(source, store, on_image).reasons
    if reasons:
        first = min(reasons)
        raise UserError(f"{source.item_names[first]}: {reasons[first]}; repair or remove it")
    rng = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    for label, name in enumerate(source.classes):
        members = rng.permutation(np.flatnonzero(source.labels == label))
        if len(members) <= held_out_per_class:
            raise UserError(f"class {name!r} has {len(members)} images; more than {held_out_per_class} are needed")
        chosen.append(members[:held_out_per_class])
    held_out = np.sort(np.concatenate(chosen))
    train = np.setdiff1d(np.arange(len(source.items)), held_out)
    drawn = [draw("wide_crop", train, grey, mixed, np.random.default_rng([seed, view])) for view in range(views)]
    return Pool(store, train, held_out, drawn, draw("none", held_out, 0.0, 0.0, rng))


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
    pixels = crop(images, crops[:, :4], size)
    grey = crops[:, 4, tf.newaxis, tf.newaxis, tf.newaxis] > 0
    return tf.where(grey, tf.image.rgb_to_grayscale(pixels), pixels)


class Teacher:
    """A classifier's features of the views, computed once: each view's are a file of ``folder``, written whole."""

    def __init__(self, classifier: keras.Model, pool: Pool, size: int, folder: Path):
        self._network, self.kernel, self.bias = split(classifier)
        self._pool, self._size, self._folder = pool, size, folder
        self._extractor: litert.Parallel | None = None

    def view(self, number: int) -> np.ndarray:
        """Features of training view ``number``, float16 ``(len(train), features)``, read from the disk by row."""
        return self._features(f"view{number}", self._pool.views[number])

    def held_out(self) -> np.ndarray:
        """Features of the held-out images, float16 ``(len(held_out), features)``."""
        return self._features("held_out", self._pool.whole)

    def _features(self, name: str, view: View) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        if not path.exists():
            self._extractor = self._extractor or litert.Parallel(self._network, (self._size, self._size, 3))
            parts = [
                self._extractor(show(self._pool.store, view, slice(start, start + BATCH), self._size))
                for start in range(0, len(view.share), BATCH)
            ]
            with whole(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate(parts).astype(np.float16))
        return np.load(path, mmap_mode="r")


def pretrain(pool: Pool, teacher: Teacher, settings: Settings, folder: Path) -> tuple[keras.Model, training.History]:
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
    keras.utils.set_random_seed(settings.seed)
    backbone = models.plain_backbone(models.BUNDLED_ALPHA)
    models.set_momentum(backbone, MOMENTUM)
    features, classes = teacher.kernel.shape
    maps = [keras.layers.Dense(features, name="feature"), keras.layers.Dense(classes, name="class")]
    model = keras.Model(backbone.input, [layer(backbone.output) for layer in maps])
    steps = len(pool.train) // settings.batch_size
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps * (len(settings.sizes) - 1), 1), warmup_target=settings.learning_rate, warmup_steps=steps
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    average = Average(model, settings.ema)
    held_out = teacher.held_out()
    step, measure = _make_functions(model, optimizer, average, teacher, held_out, settings)
    epoch_now = [1]

    def train_epoch(epoch: int, report: Callable[[float], None]) -> float:
        epoch_now[0] = epoch
        number = (epoch - 1) % len(pool.views)
        view, targets = pool.views[number], teacher.view(number)
        order = np.random.default_rng([settings.seed, 99, epoch]).permutation(len(pool.train))
        losses = []
        for start in range(0, steps * settings.batch_size, settings.batch_size):
            rows = order[start : start + settings.batch_size]
            losses.append(float(step(show(pool.store, view, rows, settings.sizes[epoch - 1]), targets[rows])))
            report((start + settings.batch_size) / len(order))
        return float(np.mean(losses))

    def validate() -> dict:
        size, sums = settings.sizes[epoch_now[0] - 1], np.zeros(3)
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
        epochs=len(settings.sizes),
        path=folder / "pretrain.npz",
        on_epoch=lambda row: console.print(row),
    )
    average.copy_to_model()
    return backbone, history


def _make_functions(
    model: keras.Model,
    optimizer: keras.Optimizer,
    average: Average,
    teacher: Teacher,
    held_out: np.ndarray,
    settings: Settings,
):
    """A training step ``(pixels, features) -> loss``, and the sums over a batch of error, divergence and agreement."""
    mean = held_out.astype(np.float32).mean(axis=0)
    scale = held_out.astype(np.float32).std(axis=0) + 1e-3

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
            loss = tf.reduce_mean(settings.feature_weight * error + settings.class_weight * divergence)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        average.update()
        return loss

    @tf.function
    def measure(pixels: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.stack(compare(pixels, features, False)), axis=1)

    return step, measure


def save_half(network: keras.Model, path: Path) -> None:
    """Write the backbone's weights as float16 HDF5 under Keras's own layer names; the file appears whole."""
    import h5py

    plain = models.plain_backbone(models.BUNDLED_ALPHA)
    plain.set_weights(network.get_weights())
    with tempfile.TemporaryDirectory() as folder, whole(path) as temporary:
        single = Path(folder, "single.weights.h5")
        plain.save_weights(single)
        with h5py.File(single, "r") as source, h5py.File(temporary, "w") as target:

            def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
                if isinstance(node, h5py.Dataset):
                    target.create_dataset(name, data=node[()].astype(np.float16), compression="gzip", shuffle=True)
                else:
                    target.require_group(name).attrs.update(node.attrs)

            source.visititems(copy)
            target.attrs.update(source.attrs)
