"""The mechanics of both phases and of the control: defaults, features, batches, optimizer, epochs, batch statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from keras_a2 import jobs, machine, runs, settings, training
from keras_a2.console import console
from keras_a2.fast import litert
from keras_a2.training import Average
from keras_a2.transfer import audit, sources
from keras_a2.transfer import model as models
from keras_a2.transfer.data import Images, batches, boxes, class_shares, load_and_describe, with_few
from keras_a2.transfer.sources import Source

HEAD_BATCH = 256
LEAST_STEPS = 8  # of an epoch of the network; 30 to 60 in all were best for 20 and 60 solar cells
FEATURE_BATCH = 64
SMALL = 4000  # training images; below, an epoch has too few steps of 64
IMAGENET_BLOCKS = 9  # of ImageNet's weights; the four before them cost most and need least change
LONG = 10_000 * 128**2  # pixels of a run, a minute on a core: above, processes for its trainings are worth their start

Report = Callable[[float], None]
Batches = Callable[[int], tf.data.Dataset]  # of an epoch
Epoch = Callable[[int, Report], dict[str, float]]


def load(source: Source, config: Any, folder: Path, audited: bool = False) -> tuple[Images, models.Weights, Any]:
    """Images, weights, and the script's configuration with its defaults resolved for them.

    Args:
        folder: of a file with the decoded images, where they are too many for the memory.
        audited: look for suspect images, and leave them out of training with ``--drop-suspects``.
    """
    machine.configure_tensorflow(config.run.seed, config.run.deterministic)
    weights = models.find_weights(config.network.weights, config.network.alpha)
    images = load_and_describe(source, config.data, config.run.seed, folder)
    if audited:
        compute = keras_features if config.run.plain else litert.Parallel
        images = audit.examine(images, weights, compute, config.data.drop_suspects)
    return images, weights, resolve(config, images, weights)


def resolve(config: Any, images: Images, weights: models.Weights) -> Any:
    """The script's configuration with every default that depends on the data or the weights in place of None."""
    small, bundled = len(images.train) < SMALL, weights.origin == "bundled"
    return settings.fill(
        config,
        batch_size=32 if small else 64,
        augment=images.source.augment,
        # How high a rate the frozen statistics bear depends on the weights and the batch (cross-validated on elpv).
        learning_rate=(2e-3 if bundled else 2e-4) if small else 3e-4,
        # The bundled weights have seen 64 and 96 pixels only, so their first blocks have something to learn too.
        unfreeze=models.BLOCKS if bundled or weights.path is None else IMAGENET_BLOCKS,
        scratch_epochs=config.head.head_epochs + config.fine_tune.fine_tune_epochs,
        jobs=simultaneous(config, images),
    )


def simultaneous(config: Any, images: Images) -> int:
    """How many trainings run at once by default: one per core, where they take much longer than a process to start.

    One on a GPU, and of a run from Python, whose own script the processes would run again.
    """
    epochs = 2 * (config.head.head_epochs + config.fine_tune.fine_tune_epochs) * config.run.seeds
    pixels = epochs * len(images.train) * images.store.size**2
    alone = tf.config.list_logical_devices("GPU") or config.network.strategy != "none" or runs.COMMAND.get()
    return 1 if alone or pixels < LONG else machine.cores()


@dataclass
class Phase:
    """One phase of an arm: history, wall-clock seconds, numbers of trained and frozen parameters, and a note."""

    name: str
    history: training.History
    seconds: float
    trained_parameters: int
    frozen_parameters: int
    note: str = ""  # where something needs saying

    def summary(self) -> dict:
        """The phase as ``metrics.json`` has it."""
        return {
            "name": self.name,
            "epochs": self.history.epochs,
            "best_epoch": self.history.best_epoch,
            "seconds": self.seconds,
            "seconds_per_epoch": self.history.seconds_per_epoch,
            "trained_parameters": self.trained_parameters,
            "frozen_parameters": self.frozen_parameters,
            "validation_accuracy": self.history.best["validation_accuracy"],
            "note": self.note,
        }


@dataclass
class Arm:
    """A network in training, backbone and head: its data, how it came about, and the folder of its state."""

    name: str
    images: Images
    weights: models.Weights
    backbone: keras.Model
    head: keras.Model
    seed: int
    folder: Path
    class_weights: np.ndarray | None = None  # of each class's training images in every loss
    validation_weights: np.ndarray | None = None  # and of its validation images
    phases: list[Phase] = field(default_factory=list)
    frozen: list[np.ndarray] | None = None  # the network's weights before the backbone was unfrozen
    _started: float = field(default_factory=time.perf_counter)

    @cached_property
    def network(self) -> keras.Model:
        """Pixels 0-255 ``(batch, size, size, 3)`` to logits ``(batch, classes)``."""
        return keras.Sequential([self.backbone, self.head])

    @contextmanager
    def before_unfreezing(self) -> Iterator[None]:
        """Inside the block the network is what phase 1 left."""
        tuned = self.network.get_weights()
        self.network.set_weights(self.frozen)
        yield
        self.network.set_weights(tuned)

    def state(self, stage: str) -> Path:
        """The file of a phase's state; the control on few images has one of its own."""
        return runs.state_file(self.folder, f"seed{self.seed}-{stage}-{len(self.images.train)}")

    def fit(
        self,
        stage: str,
        network: keras.Model,
        epoch: Epoch,
        epochs: int,
        average: Average | None = None,
        predict: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Train ``network`` and keep its best epoch by validation loss.

        Epoch 0 is the state before: where no epoch has a lower loss, it is what is kept. Accuracy chooses nothing: a
        few images more or less right are chance.

        Args:
            network: compiled, and shares its variables with the arm.
            average: of the network's weights, measured and kept in their place.
            predict: logits of the validation images ``(n, classes)``; by default those of the arm's network.
        """
        images, shown = self.images, average or Average(network, 0.0)
        labels = images.labels[images.validation]
        predict = predict or (lambda: models.predict(self.network, images, images.validation))
        before = _losses(predict(), labels) if stage == "fine_tune" else None

        def validate() -> dict[str, float]:
            with shown.swapped_in():
                logits = predict()
            weights = None if self.validation_weights is None else self.validation_weights[labels]
            return {
                "validation_loss": float(np.average(_losses(logits, labels), weights=weights)),
                "validation_accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
            }

        history = training.fit(
            stage,
            train_epoch=epoch,
            validate=validate,
            score=lambda row: -row["validation_loss"],
            weights=shown.averaged,
            state=[*network.weights, *network.optimizer.variables, *training.random_states(network), shown.count],
            epochs=epochs,
            path=self.state(stage),
        )
        shown.copy_to_model()
        note = "" if before is None else _note(history, before, _losses(predict(), labels))
        if note:
            console.print(f"note: {note}")
        ended = time.perf_counter()
        trained = sum(int(np.prod(weight.shape)) for weight in network.trainable_variables)
        frozen = self.network.count_params() - trained
        self.phases.append(Phase(stage, history, history.earlier + ended - self._started, trained, frozen, note))
        self._started = ended


def every_arm(
    trainings: dict[str, Callable[..., Arm]],
    images: Images,
    weights: models.Weights,
    config: Any,
    folder: Path,
    few: Sequence[int] = (),
) -> tuple[list[dict[str, Arm]], dict[int, Arm]]:
    """Train every arm with every seed: of each seed the arms by name; and the controls on few images, by their number.

    Args:
        trainings: by name, the script's (images, weights, config, seed, folder) -> the arm trained; with ``--jobs``
            processes of their own call it first and leave its state in ``folder``, where it is resumed.
        config: the script's, resolved.
        few: numbers of training images per class on which the control is trained as well, with the first seed.
    """
    first, every = config.run.seed, range(config.run.seed, config.run.seed + config.run.seeds)
    shared = settings.fill(config, weights=weights.origin)  # no process looks for them, or tries the network, again
    tasks = [{"config": shared, "arm": name, "seed": seed} for seed in every for name in trainings]
    tasks += [{"config": shared, "arm": "scratch", "seed": first, "per_class": size} for size in sorted(few)[::-1]]
    jobs.spread(partial(_in_process, trainings), tasks, config.run.jobs, folder)

    def train(name: str, seed: int, part: Images = images) -> Arm:
        return trainings[name](part, weights, config, seed, folder)

    arms = [{name: train(name, seed) for name in trainings} for seed in every]
    return arms, {size: train("scratch", first, with_few(images, size, first)) for size in few}


def _in_process(
    trainings: dict[str, Callable[..., Arm]], config: Any, arm: str, seed: int, folder: Path, per_class: int = 0
) -> None:
    """One training of ``--jobs``, in a process of its own."""
    images, weights, config = load(sources.find(config.data.data), config, folder, config.data.drop_suspects)
    part = with_few(images, per_class, seed) if per_class else images
    trainings[arm](part, weights, config, seed, folder)


@dataclass
class Features:
    """The frozen backbone's features, computed when they are first asked for.

    Args:
        make: backbone and shape of an image -> function of pixels; ``keras_features``, or a faster one.
        views: number of views of each training image; view 0 is the plain image, the others are augmented.
    """

    make: models.Compute
    arm: Arm
    views: int
    augment: str

    @cached_property
    def _function(self) -> Callable[[np.ndarray], np.ndarray]:
        size = self.arm.images.store.size
        return self.make(self.arm.backbone, (size, size, 3))

    @cached_property
    def train(self) -> np.ndarray:
        """Of the training images, ``(views, n, features)``."""
        indices, seed = self.arm.images.train, self.arm.seed
        crops = [boxes(self.augment, len(indices), np.random.default_rng([seed, 3, v])) for v in range(1, self.views)]
        return self.compute(indices, [None, *crops])

    @cached_property
    def validation(self) -> np.ndarray:
        """Of the validation images, ``(n, features)``."""
        return self.compute(self.arm.images.validation)[0]

    def compute(self, indices: np.ndarray, views: Sequence[np.ndarray | None] = (None,)) -> np.ndarray:
        """Features ``(views, len(indices), features)`` of images, each view cropped as its boxes say."""
        features = np.empty((len(views), len(indices), self.arm.backbone.output_shape[-1]), np.float32)
        for out, crops in zip(features, views, strict=True):
            stream = batches(self.arm.images, indices, FEATURE_BATCH, crops).as_numpy_iterator()
            for start, (pixels, _) in zip(range(0, len(out), FEATURE_BATCH), stream, strict=True):
                out[start : start + FEATURE_BATCH] = self._function(pixels)
        return features

    def batches(self, epoch: int) -> tf.data.Dataset:
        """A view of each training image, drawn anew for each epoch: features and labels."""
        n = len(self.arm.images.train)
        rng = np.random.default_rng([self.arm.seed, 4, epoch])
        order, view = rng.permutation(n), rng.integers(self.views, size=n)
        labels = self.arm.images.labels[self.arm.images.train][order].astype(np.int32)
        return tf.data.Dataset.from_tensor_slices((self.train[view[order], order], labels)).batch(HEAD_BATCH)


def keras_features(backbone: keras.Model, _item: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Pixels to features by ``predict``."""
    return lambda pixels: backbone.predict(pixels, verbose=0)


def solve_head(arm: Arm, features: Features) -> None:
    """Give the head the convex optimum on the features; a phase that has begun, stays."""
    if not training.read_state(arm.state("head")):
        arm.head.get_layer("logits").set_weights(fit_head(features))


def fit_head(features: Features, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Set the head's scaling, and solve for its kernel and bias, by some ``rows`` of the training images."""
    arm, images = features.arm, features.arm.images
    train = features.train[:, rows].reshape(-1, features.train.shape[-1])
    models.standardise(arm.head, train)
    scale = arm.head.get_layer("standardise")
    kernel, bias, _ = models.solve(
        np.asarray(scale(train)), np.tile(images.labels[images.train][rows], features.views),
        np.asarray(scale(features.validation)), images.labels[images.validation],
        arm.class_weights, arm.validation_weights,
    )  # fmt: skip
    return kernel, bias


def passes(n: int, batch_size: int) -> int:
    """Over ``n`` training images in an epoch: several where they are few, so that it has ``LEAST_STEPS`` steps."""
    return -(-LEAST_STEPS * min(batch_size, n) // n)


def steps_per_epoch(images: Images, batch_size: int) -> int:
    """Whole batches in an epoch."""
    n = len(images.train)
    return passes(n, batch_size) * n // min(batch_size, n)


def answer_class_shares(arm: Arm) -> None:
    """Start the head at the classes' shares, whatever the features: few images may teach a network nothing better."""
    kernel, _ = arm.head.get_layer("logits").get_weights()
    shares = class_shares(arm.images.labels[arm.images.train], len(arm.images.classes))
    bias = np.log(shares if arm.class_weights is None else shares * arm.class_weights)
    arm.head.get_layer("logits").set_weights([np.zeros_like(kernel), bias.astype(np.float32)])


def augmented(images: Images, augment: str, batch_size: int, seed: int) -> Batches:
    """The whole batches of an epoch, images in random order and cropped and flipped at random."""
    n = len(images.train)
    times, size = passes(n, batch_size), min(batch_size, n)

    def of_epoch(epoch: int) -> tf.data.Dataset:
        rng = np.random.default_rng([seed, 5, epoch])
        order = np.concatenate([rng.permutation(images.train) for _ in range(times)])
        return batches(images, order, size, boxes(augment, len(order), rng), whole=True)

    return of_epoch


def class_weights(images: Images, kind: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Weights ``(classes,)`` of the training and of the validation images in the losses; None weighs all alike.

    ``balanced``: all classes count alike. Otherwise they count as they occur, also where ``--train-per-class`` left
    equal numbers of each: what is learnt from those would expect every class equally often.
    """
    classes = len(images.classes)
    train, validation = (class_shares(images.labels[part], classes) for part in (images.train, images.validation))
    if kind == "balanced":
        return 1 / classes / train, 1 / classes / np.where(validation == 0, 1, validation)
    return None if images.shares is None else images.shares / train, None


def cross_entropy(label_smoothing: float, class_weights: np.ndarray | None = None) -> Callable:
    """Loss ``(labels (n,), logits (n, classes)) -> (n,)``, some probability spread over the other classes.

    Args:
        class_weights: of each class ``(classes,)``; None weighs all images alike.
    """

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(labels, tf.int32)
        target = tf.one_hot(labels, logits.shape[-1])
        target = target * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
        losses = tf.nn.softmax_cross_entropy_with_logits(target, logits)
        return losses if class_weights is None else losses * tf.gather(tf.constant(class_weights, tf.float32), labels)

    return loss


def keras_epoch(network: keras.Model, batches: Batches, average: Average | None = None) -> Epoch:
    """An epoch by ``fit``, of a network compiled with accuracy; ``average`` is updated after each batch."""
    network.optimizer.build(network.trainable_variables)  # a resumed run restores its variables before the first epoch

    def train_epoch(epoch: int, report: Report) -> dict[str, float]:
        data = batches(epoch)
        steps = int(data.cardinality())

        def after_batch(batch: int, logs: dict | None = None) -> None:
            if average is not None:
                average.update()
            report((batch + 1) / steps)

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=after_batch)
        # The data set is in random order already.
        history = network.fit(
            data, initial_epoch=epoch - 1, epochs=epoch, callbacks=[callback], shuffle=False, verbose=0
        )
        return {name: values[0] for name, values in history.history.items()}

    return train_epoch


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image ``(n,)``."""
    return np.asarray(tf.nn.sparse_softmax_cross_entropy_with_logits(labels.astype(np.int32), logits))


def _note(history: training.History, before: np.ndarray, after: np.ndarray) -> str:
    """A sentence where the paired losses of the validation images do not show that fine-tuning helped."""
    if history.best_epoch == 0:
        return "Validation loss rose after unfreezing; the head-only model was kept."
    if stats.ttest_rel(before, after).pvalue < 0.05:
        return ""
    return (
        f"{len(before)} validation images are too few to tell whether fine-tuning helped; "
        "it was kept for its lower validation loss."
    )


def average(arm: Arm, network: keras.Model, decay: float, batch_size: int) -> Average:
    """A moving average of the network's weights.

    Batch norm's moving statistics trail it where an epoch is shorter than the average's memory; they are then estimated
    again, for the averaged weights. Statistics of a moving average of weights are not the moving average of statistics
    (Izmailov et al. 2018, arXiv 1803.05407, section 3.2); over a long epoch the two meet, over a few steps a
    well-trained network scores at chance.
    """
    trails = steps_per_epoch(arm.images, batch_size) * (1 - decay) < 1
    if trails and any(layer.trainable for layer in models.batch_norm(arm.backbone)):
        return _AverageWithStatistics(arm, network, decay)
    return Average(network, decay)


class _AverageWithStatistics(Average):
    def __init__(self, arm: Arm, network: keras.Model, decay: float):
        super().__init__(network, decay)
        self._arm = arm

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """As of ``Average``, with statistics estimated for the averaged weights."""
        with super().swapped_in():
            self.include(models.estimate_statistics(self._arm.backbone, self._arm.images, self._arm.seed))
            yield
