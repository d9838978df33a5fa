"""The mechanics of training: defaults that depend on the data, batches of windows, Keras's epoch, validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import settings, training
from keras_a2.errors import UserError
from keras_a2.recurrent import baselines
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.model import relative
from keras_a2.training import Average

EPOCH_STEPS = 32  # a series with fewer full batches is short: it gets smaller ones and more epochs
LEAST_BATCH = 16
FOLDS = 3  # of a short series
SHORT_STEPS, SHORT_EPOCHS = 2000, 250  # training steps of a short series, and most epochs for them
FEW_INPUTS = 8  # a network with fewer cannot spare so many of them while it trains
CEILING = {"mae": 100, "mse": 100**2}  # standard deviations of the target: weights that blew up, no forecast


def resolve(config: Any, windows: Windows) -> Any:
    """The script's configuration with every default that depends on the data in place of None.

    Args:
        config: has the groups ``series``, ``network``, ``training`` and ``forecast``.
    """
    shared, season = config.network.channel_independent, config.series.season or baselines.find_season(windows)
    if shared is None:
        shared = len(windows.targets) > 1 and not windows.known
    elif shared and windows.known:
        raise UserError("--channel-independent shows a network its target's own past only: leave it out, or --known")
    whole_seasons = windows.look_back % season == 0 and windows.look_back >= 2 * season
    samples = len(samples_of(windows, windows.origins["train"], shared))
    most, epochs = (512, 10) if shared else (128, 16)
    batch_size = most
    while batch_size > LEAST_BATCH and samples < EPOCH_STEPS * batch_size:
        batch_size //= 2
    if batch_size < most:
        epochs = max(epochs, min(-(-SHORT_STEPS // max(samples // batch_size, 1)), SHORT_EPOCHS))
    epochs = epochs if config.training.epochs is None else config.training.epochs
    folds = config.forecast.folds
    if folds is None:
        folds = FOLDS if batch_size < most and windows.has_folds(FOLDS) else 1
    return settings.fill(
        config,
        season=season,
        folds=folds,
        channel_independent=shared,
        segment=season if shared and whole_seasons and season > 1 else 0,
        input_dropout=0.0 if shared or windows.known else 0.4 if len(windows.inputs) >= FEW_INPUTS else 0.2,
        epochs=epochs,
        patience=max(epochs // 4, 4),
        batch_size=batch_size,
        learning_rate=1e-3,
    )


class Batches:
    """The training windows of each step, and what the network takes and learns of them.

    A sample ``(2,)`` is an origin and the number of a target; the number is 0 when all targets are forecast together.
    """

    def __init__(self, windows: Windows, channel_independent: bool, size: int, seed: int):
        self.windows, self.channel_independent, self.seed = windows, channel_independent, seed
        self.samples = samples_of(windows, windows.origins["train"], channel_independent)
        self.size = min(size, len(self.samples))
        self.steps = len(self.samples) // self.size
        values, truth = windows.values, windows.truth
        if channel_independent:  # the targets' columns end to end: a sample's rows are then counted from its target's
            values, truth = values[:, windows.target_columns].T.ravel(), truth.T.ravel()
        self._values, self._truth = tf.constant(values), tf.constant(truth)

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch's batches ``(steps, batch, 2)``; the last part of a batch is left out."""
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        return shuffled[: self.steps * self.size].reshape(self.steps, self.size, 2)

    def gather(self, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What the network takes and learns of these samples ``(batch, 2)``.

        Returns:
            relative inputs ``(batch, look_back, 2 * inputs)`` and changes from the last row
            ``(batch, horizon * targets)``; where channels are independent one target's past less its last value
            ``(batch, look_back, 1)`` and its changes ``(batch, horizon)``.
        """
        windows, rows = self.windows, samples[:, :1]
        if self.channel_independent:
            rows += samples[:, 1:] * len(windows.values)
        seen = tf.gather(self._values, rows + windows.past.astype(np.int32))
        truth = tf.gather(self._truth, rows + windows.future.astype(np.int32))
        if self.channel_independent:
            last = seen[:, -1:]
            return (seen - last)[..., tf.newaxis], truth - last
        last = tf.gather(seen[:, -1:], windows.target_columns, axis=2)
        return relative(seen, windows), tf.reshape(truth - last, (-1, windows.horizon * len(windows.targets)))


def samples_of(windows: Any, origins: np.ndarray, channel_independent: bool) -> np.ndarray:
    """Samples ``(n, 2)`` of origins ``(n,)``, or of each target after the other ``(targets * n, 2)``."""
    numbers = range(len(windows.targets)) if channel_independent else [0]
    return np.concatenate([np.stack([origins, np.full_like(origins, k)], axis=1) for k in numbers]).astype(np.int32)


@dataclasses.dataclass
class Forecaster:
    """A network and its training, with the interface of the baselines.

    ``predict`` takes samples ``(n, 2)`` to changes from the last row ``(n, outputs)``.
    """

    name: str
    network: keras.Sequential
    channel_independent: bool
    predict: Callable[[np.ndarray], np.ndarray]
    history: training.History = dataclasses.field(default_factory=training.History)

    @property
    def seconds(self) -> float:
        """How long it was trained."""
        return sum(self.history.seconds)

    @property
    def parameters(self) -> int:
        """Trainable weights of the network."""
        return sum(int(np.prod(weight.shape)) for weight in self.network.trainable_weights)

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)`` of the windows with these origins ``(n,)``."""
        change = self.predict(samples_of(windows, origins, self.channel_independent))
        if self.channel_independent:
            change = change.reshape(len(windows.targets), len(origins), windows.horizon).transpose(1, 2, 0)
        last = windows.values[origins][:, np.newaxis, windows.target_columns]
        return last + change.reshape(len(origins), windows.horizon, len(windows.targets))

    def validate(self, windows: Windows, average: Average) -> dict[str, float]:
        """Mean absolute and squared error of the averaged weights on the validation windows, standardised."""
        origins = windows.origins["validation"]
        with average.swapped_in():
            error = self.forecast(windows, origins) - windows.actual(origins)
        with np.errstate(over="ignore"):  # the loop reports a diverged forecast
            squared = np.square(error).mean()
        return {"validation_mae": float(np.abs(error).mean()), "validation_mse": float(squared)}


def keras_epoch(
    network: keras.Sequential, batches: Batches, average: Average
) -> Callable[[int, Callable[[float], None]], float]:
    """An epoch of Keras's ``fit`` on a compiled network: ``(epoch, report) -> mean loss``."""

    def train_epoch(epoch: int, report: Callable[[float], None]) -> float:
        def after_step(step: int, logs: dict | None = None) -> None:
            average.update()
            report((step + 1) / batches.steps)

        dataset = tf.data.Dataset.from_tensor_slices(batches.order(epoch)).map(batches.gather).prefetch(2)
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=after_step)
        options = {"initial_epoch": epoch - 1, "epochs": epoch, "shuffle": False, "verbose": 0}
        return float(network.fit(dataset, callbacks=[callback], **options).history["loss"][0])

    return train_epoch


def keras_predict(network: keras.Sequential, batches: Batches) -> Callable[[np.ndarray], np.ndarray]:
    """Keras's ``predict``: samples ``(n, 2)`` to the network's outputs ``(n, outputs)``."""

    def predict(samples: np.ndarray) -> np.ndarray:
        dataset = tf.data.Dataset.from_tensor_slices(samples).batch(1024).map(lambda part: batches.gather(part)[0])
        return network.predict(dataset, verbose=0)

    return predict


def state_of(network: keras.Sequential, average: Average) -> list:
    """What a resumed training needs besides the averaged weights: weights, optimizer, dropout's seeds, the count."""
    network.optimizer.build(network.trainable_variables)
    return [*network.weights, *network.optimizer.variables, *training.random_states(network), average.count]
