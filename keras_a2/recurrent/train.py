"""The mechanics of training: defaults that depend on the data, batches of windows, Keras's epoch, validation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import jobs, machine, settings, training
from keras_a2.errors import UserError
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.model import frame, frames
from keras_a2.recurrent.panel import Panel, load
from keras_a2.recurrent.seasons import season_of, training_rows
from keras_a2.training import Average

EPOCH_STEPS = 32  # a series with fewer full batches is short: it gets smaller ones and more epochs
LEAST_BATCH = 16
FOLDS = 3  # of a short series
SHORT_STEPS, SHORT_EPOCHS = 2000, 250  # training steps of a short series, and most epochs for them
SAMPLED_STEPS = 250  # batches of an epoch at most, of many series: their windows are drawn by chance
FEW_INPUTS = 8  # a network with fewer cannot spare so many of them while it trains
CEILING = {"mae": 100, "mse": 100**2}  # standard deviations of the target: weights that blew up, no forecast


def resolve(config: Any, windows: Windows | Panel) -> Any:
    """The script's configuration with every default that depends on the data in place of None.

    Args:
        config: has the groups ``series``, ``network``, ``training`` and ``forecast``.

    Raises:
        UserError: options that the windows do not allow.
    """
    windows.backtest(config.forecast.backtest)  # refuses blocks that are too short before anything is trained
    defaults = _of_many(config, windows) if isinstance(windows, Panel) else _of_one(config, windows)
    return settings.fill(config, **defaults, jobs=1)


def _of_one(config: Any, windows: Windows) -> dict[str, Any]:
    """The defaults of a single series."""
    shared, season = config.network.channel_independent, config.series.season
    season = season or season_of(training_rows(windows), windows.step)
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
    return {
        "season": season,
        "folds": folds,
        "channel_independent": shared,
        "segment": season if shared and whole_seasons and season > 1 else 0,
        "input_dropout": 0.0 if shared or windows.known else 0.4 if len(windows.inputs) >= FEW_INPUTS else 0.2,
        "epochs": epochs,
        "patience": max(epochs // 4, 4),
        "batch_size": batch_size,
        "learning_rate": 1e-3,
    }


def _of_many(config: Any, windows: Panel) -> dict[str, Any]:
    """The defaults of many series."""
    epochs = 12 if config.training.epochs is None else config.training.epochs
    segments = [steps for steps in (windows.season, windows.horizon) if steps > 1 and windows.look_back % steps == 0]
    return {
        "season": windows.season,
        "folds": 1,
        "channel_independent": False,
        "segment": segments[0] if segments else 0,
        "input_dropout": 0.0,
        "epochs": epochs,
        "patience": epochs + 1,  # the best epoch counts, but the last training, without validation, goes through all
        "batch_size": 128,
        "learning_rate": 3e-3,
    }


class Batches:
    """The training windows of each step, and what the network takes and learns of them.

    A sample ``(2,)`` is an origin and the number of a target; the number is 0 when all targets are forecast together.
    """

    def __init__(self, windows: Windows | Panel, channel_independent: bool, size: int, seed: int):
        self.windows, self.channel_independent, self.seed = windows, channel_independent, seed
        self.samples = samples_of(windows, windows.origins["train"], channel_independent)
        self.size = min(size, len(self.samples))
        self.steps = len(self.samples) // self.size
        values, truth = windows.values, windows.truth
        if channel_independent:  # the targets' columns end to end: a sample's rows are then counted from its target's
            values, truth = values[:, windows.target_columns].T.reshape(-1, 1), truth.T.reshape(-1, 1)
        if isinstance(windows, Panel):
            self.steps = min(self.steps, SAMPLED_STEPS)
        self._values, self._truth = tf.constant(values), tf.constant(truth)

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch's batches ``(steps, batch, 2)``: all, but for the last part of a batch.

        Of many series they are drawn by chance: ``Panel.draw``.
        """
        windows, count, generator = self.windows, self.steps * self.size, np.random.default_rng([self.seed, epoch])
        if isinstance(windows, Panel):
            samples = samples_of(windows, windows.draw(generator, count), False)
        else:
            samples = generator.permutation(self.samples)
        return samples[:count].reshape(self.steps, self.size, 2)

    def gather(self, samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What the network takes and learns of these samples ``(batch, 2)``.

        Returns:
            inputs ``(batch, look_back, features)``, and what it is to answer ``(batch, horizon * targets)``: changes
            from the level of a window (``model.frame``). Where channels are independent one target's.
        """
        windows, rows = self.windows, samples[:, :1]
        if self.channel_independent:
            rows += samples[:, 1:] * len(windows.values)
        seen = tf.gather(self._values, rows + windows.past.astype(np.int32))
        truth = tf.gather(self._truth, rows + windows.future.astype(np.int32))
        inputs, level, spread = frame(seen, windows, self.channel_independent)
        return inputs, tf.reshape((truth - level) / spread, (-1, windows.horizon * truth.shape[-1]))


def samples_of(windows: Windows | Panel, origins: np.ndarray, channel_independent: bool) -> np.ndarray:
    """Samples ``(n, 2)`` of origins ``(n,)``, or of each target after the other ``(targets * n, 2)``."""
    numbers = range(len(windows.targets)) if channel_independent else [0]
    return np.concatenate([np.stack([origins, np.full_like(origins, k)], axis=1) for k in numbers]).astype(np.int32)


@dataclasses.dataclass
class Forecaster:
    """A network and its training, with the interface of the baselines.

    ``predict`` takes samples ``(n, 2)`` to changes from the last row ``(n, outputs)``.
    """

    name: str
    network: keras.Model
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

    def forecast(self, windows: Windows | Panel, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)`` of the windows with these origins ``(n,)``."""
        change = self.predict(samples_of(windows, origins, self.channel_independent))
        if self.channel_independent:
            change = change.reshape(len(windows.targets), len(origins), windows.horizon).transpose(1, 2, 0)
        level, spread = frames(windows, origins)
        return level + change.reshape(len(origins), windows.horizon, len(windows.targets)) * spread

    def validate(self, windows: Windows | Panel, average: Average) -> dict[str, float]:
        """Mean absolute and squared error of the averaged weights on the validation windows, standardised."""
        origins = windows.origins["validation"]
        with average.swapped_in():
            error = self.forecast(windows, origins) - windows.actual(origins)
        with np.errstate(over="ignore"):  # the loop reports a diverged forecast
            squared = np.square(error).mean()
        return {"validation_mae": float(np.abs(error).mean()), "validation_mse": float(squared)}


def every_cell(
    train_network: Callable[..., Forecaster], config: Any, folds: Sequence[Windows | Panel], folder: Path
) -> dict[str, list[list[Forecaster]]]:
    """Train on every fold: cell -> for each seed one forecaster per fold. The last is measured on the test split.

    Args:
        train_network: the script's, (cell, windows, config, seed, folder, part) -> the cell trained; with ``--jobs``
            processes of their own call it first and leave its state in ``folder``, where it is resumed.
        config: the script's, resolved.
    """
    cells = ["simple_rnn", "lstm", "gru"] if config.network.cell == "all" else [config.network.cell]
    seeds, parts = range(config.run.seed, config.run.seed + config.run.seeds), _by_part(folds)
    every = itertools.product(cells, seeds, parts)
    tasks = [{"config": config, "cell": cell, "seed": seed, "part": part} for cell, seed, part in every]
    jobs.spread(partial(_in_process, train_network), tasks, config.run.jobs, folder)

    def on_folds(cell: str, seed: int) -> list[Forecaster]:
        return [train_network(cell, fold, config, seed, folder, part) for part, fold in parts.items()]

    return {cell: [on_folds(cell, seed) for seed in seeds] for cell in cells}


def _by_part(folds: Sequence[Windows | Panel]) -> dict[str, Windows | Panel]:
    """Name of a fold's training -> the fold; the last one's name is empty."""
    return {f"-fold{number}" if number < len(folds) else "": fold for number, fold in enumerate(folds, 1)}


def _in_process(
    train_network: Callable[..., Forecaster], config: Any, cell: str, seed: int, part: str, folder: Path
) -> None:
    """One training of ``--jobs``, in a process of its own."""
    machine.configure_tensorflow(config.run.seed, config.run.deterministic)
    folds = load(config).folds(config.forecast.folds)
    train_network(cell, _by_part(folds)[part], config, seed, folder, part)


def mean_of(forecasters: Sequence[Forecaster]) -> Forecaster:
    """The forecasters of several seeds as one: the mean of what they answer."""
    first = forecasters[0]
    if len(forecasters) == 1:
        return first
    inputs = keras.Input(first.network.input_shape[1:])
    for seed, each in enumerate(forecasters):
        each.network.name = f"{each.name}_{seed}"  # in a model every name is unique
    network = keras.Model(inputs, keras.layers.Average(name="seeds")([each.network(inputs) for each in forecasters]))

    def predict(samples: np.ndarray) -> np.ndarray:
        return np.mean([each.predict(samples) for each in forecasters], axis=0)

    return dataclasses.replace(first, network=network, predict=predict)


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
