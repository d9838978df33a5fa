"""Training on windows gathered inside the compiled step, from the one array of rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_a2 import runs, training
from keras_a2.averaging import Average
from keras_a2.recurrent import model as models
from keras_a2.recurrent.baselines import Ridge
from keras_a2.recurrent.data import Windows

EVALUATION_BATCH = 1024
SHARES = 4  # of a batch: a fixed number, not the cores', so that sums do not depend on the machine
LEAST_SHARE = 32  # windows
CEILING = 100  # standard deviations of the target: no forecast, but weights that blew up


@dataclass(frozen=True)
class Settings:
    """What training needs to know; the script's configuration fills it."""

    units: int
    layers: int
    dropout: float
    input_dropout: float
    segment: int
    channel_independent: bool
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    loss: str
    ema: float
    seed: int


@dataclass
class Forecaster:
    """A trained network, alone or beside ridge regression, with the interface of the baselines."""

    name: str
    network: keras.Sequential
    options: dict
    channel_independent: bool
    predict: Callable
    history: training.History
    seconds: float
    ridge: Ridge | None = None  # fitted; the forecast is then the mean of the two

    def with_ridge(self, ridge: Ridge) -> Forecaster:
        """The same network, forecasting the mean of its own and ridge regression's forecasts."""
        return replace(self, ridge=ridge)

    @property
    def parameters(self) -> int:
        return models.parameters(self.network)

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        own = forecast(self.predict, windows, origins)
        return own if self.ridge is None else beside(own, self.ridge.forecast(windows, origins))


def beside(own: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """The mean of a network's forecasts and ridge regression's.

    Forecasts that err differently make a mean with a smaller error (Bates & Granger 1969, The Combination of
    Forecasts); equal weights are hard to beat (Clemen 1989, Combining forecasts: A review).
    """
    return (own + linear) / 2


def state_file(folder: Path, seed: int, cell: str) -> Path:
    """Where one cell with one seed keeps its state."""
    return runs.state_file(folder, f"seed{seed}-{cell}")


def train(cell: str, windows: Windows, settings: Settings, state: Path | None = None, log=None) -> Forecaster:
    """Train one cell with early stopping; the epoch with the lowest validation error is kept."""
    started = time.perf_counter()
    keras.utils.set_random_seed(settings.seed)
    shared = settings.channel_independent
    options = network_options(cell, windows, settings)
    network = models.build(**options)
    samples = sample_list(windows, "train", shared)
    steps = max(len(samples) // settings.batch_size, 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(settings.epochs * steps - steps, 1),
        warmup_target=settings.learning_rate,
        warmup_steps=steps,
        alpha=0.01,
    )
    optimizer = keras.optimizers.Adam(schedule, clipnorm=1.0)
    optimizer.build(network.trainable_variables)
    average = Average(network, settings.ema)
    step = make_step(network, optimizer, windows, settings, average)
    predict = make_predict(network, windows, shared)

    def train_epoch(epoch: int, report) -> float:
        order = np.random.default_rng([settings.seed, epoch]).permutation(samples)
        size = min(settings.batch_size, len(order))
        losses = []
        for start in range(0, len(order) - size + 1, size):
            losses.append(step(tf.constant(order[start : start + size])))
            if len(losses) % 8 == 0:
                report((start + size) / len(order))
        return float(np.mean([float(loss) for loss in losses]))

    def validate() -> dict:
        with average.swapped_in():
            error = forecast(predict, windows, windows.origins["validation"]) - windows.wanted(
                windows.origins["validation"]
            )
        with np.errstate(over="ignore"):  # a diverged forecast is reported by the loop
            squared = np.square(error).mean()
        return {"validation_mae": float(np.abs(error).mean()), "validation_mse": float(squared)}

    monitored = f"validation_{settings.loss}"
    history = training.fit(
        cell,
        train_epoch=train_epoch,
        validate=validate,
        score=lambda row: -row[monitored],
        weights=average.shown,
        state=[*network.weights, *optimizer.variables, *training.random_states(network), average.count],
        epochs=settings.epochs,
        patience=settings.patience,
        ceiling=CEILING if settings.loss == "mae" else CEILING**2,
        path=state,
        on_epoch=log and (lambda row: log(cell, row)),
    )
    average.copy_to_model()
    return Forecaster(cell, network, options, shared, predict, history, history.earlier + time.perf_counter() - started)


def network_options(cell: str, windows: Windows, settings: Settings) -> dict:
    """What ``model.build`` needs for these windows."""
    shared = settings.channel_independent
    return {
        "cell": cell,
        "look_back": windows.look_back,
        "features": 1 if shared else 2 * len(windows.inputs),
        "steady": 0 if shared else len(windows.inputs),  # as models.relative lays them out
        "outputs": windows.horizon * (1 if shared else len(windows.targets)),
        "units": settings.units,
        "layers": settings.layers,
        "dropout": settings.dropout,
        "input_dropout": settings.input_dropout,
        "segment": settings.segment,
    }


def sample_list(windows: Windows, split: str, channel_independent: bool) -> np.ndarray:
    """Training samples ``(n, 2)``: origin, and target number (0 throughout when all targets are forecast together)."""
    origins = windows.origins[split].astype(np.int32)
    numbers = range(len(windows.targets)) if channel_independent else [0]
    return np.concatenate([np.stack([origins, np.full_like(origins, k)], axis=1) for k in numbers])


def make_step(network, optimizer, windows: Windows, settings: Settings, average: Average):
    """One training step on samples ``(batch, 2)``: each share of them gathers its windows and finds its gradients."""
    gather = _gather_own if settings.channel_independent else _gather_joint
    values, truth = tf.constant(windows.values), tf.constant(windows.truth)
    variables, seeds = network.trainable_variables, network.non_trainable_variables  # the latter are dropout's

    @tf.function(jit_compile=models.scanned(network), autograph=False)
    def loss_and_gradients(samples, seeds):
        seen, change = gather(values, truth, samples, windows)
        with tf.GradientTape() as tape:
            predicted, seeds = network.stateless_call(variables, seeds, seen, training=True)
            error = predicted - change
            loss = tf.reduce_mean(tf.abs(error) if settings.loss == "mae" else tf.square(error))
        return loss, tape.gradient(loss, variables), seeds

    @tf.function(autograph=False)
    def step(samples):
        parts = shares(samples, network)
        # Each share draws its own dropout; no share writes what another reads, so they run side by side.
        found = [loss_and_gradients(part, [seed + number for seed in seeds]) for number, part in enumerate(parts)]
        weights = [part.shape[0] / samples.shape[0] for part in parts]
        losses, gradients, (after, *_) = zip(*found, strict=True)
        mean = [tf.add_n([w * g for w, g in zip(weights, each, strict=True)]) for each in zip(*gradients, strict=True)]
        optimizer.apply(mean, variables)
        average.update()
        for seed, value in zip(seeds, after, strict=True):
            seed.assign(value)
        return tf.add_n([w * loss for w, loss in zip(weights, losses, strict=True)])

    return step


def shares(samples: tf.Tensor, network: keras.Sequential) -> list[tf.Tensor]:
    """A batch in parts for the cores to work on side by side; TensorFlow's own loops share out each product instead."""
    n = samples.shape[0]
    count = max(min(SHARES, n // LEAST_SHARE), 1) if models.scanned(network) else 1
    return tf.split(samples, [n // count + (number < n % count) for number in range(count)])


def _gather_joint(values, truth, samples, windows: Windows):
    """Relative inputs ``(batch, look_back, 2 * inputs)`` and changes ``(batch, horizon * targets)``."""
    origins = samples[:, :1]
    seen = tf.gather(values, origins + windows.past.astype(np.int32))
    last = tf.gather(seen[:, -1:], windows.target_columns, axis=2)
    change = tf.gather(truth, origins + windows.future.astype(np.int32)) - last
    return models.relative(seen, windows), tf.reshape(change, (-1, windows.horizon * len(windows.targets)))


def _gather_own(values, truth, samples, windows: Windows):
    """One target's own past less its last value ``(batch, look_back, 1)``, and its change ``(batch, horizon)``."""
    origins, numbers = samples[:, :1], samples[:, 1:]
    columns = tf.gather(tf.constant(windows.target_columns, tf.int32), numbers)
    past = origins + windows.past.astype(np.int32)
    future = origins + windows.future.astype(np.int32)
    seen = tf.gather_nd(values, tf.stack([past, tf.broadcast_to(columns, tf.shape(past))], axis=-1))
    wanted = tf.gather_nd(truth, tf.stack([future, tf.broadcast_to(numbers, tf.shape(future))], axis=-1))
    last = seen[:, -1:]
    return (seen - last)[..., tf.newaxis], wanted - last


def make_predict(network, windows: Windows, channel_independent: bool):
    """``EVALUATION_BATCH`` origins to standardised forecasts ``(EVALUATION_BATCH, horizon, targets)``."""
    values = tf.constant(windows.values)
    columns, n = windows.target_columns, len(windows.targets)

    @tf.function(jit_compile=models.scanned(network), autograph=False)
    def of_share(origins):
        seen = tf.gather(values, origins[:, tf.newaxis] + windows.past.astype(np.int32))
        own = tf.gather(seen, columns, axis=2)
        last = own[:, -1:]
        if channel_independent:
            flat = tf.reshape(tf.transpose(own - last, (0, 2, 1)), (-1, windows.look_back, 1))
            change = tf.transpose(tf.reshape(network(flat, training=False), (-1, n, windows.horizon)), (0, 2, 1))
        else:
            change = tf.reshape(network(models.relative(seen, windows), training=False), (-1, windows.horizon, n))
        return last + change

    @tf.function(input_signature=[tf.TensorSpec((EVALUATION_BATCH,), tf.int32)], autograph=False)
    def predict(origins):
        return tf.concat([of_share(part) for part in shares(origins, network)], axis=0)

    return predict


def forecast(predict, windows: Windows, origins: np.ndarray) -> np.ndarray:
    """Run ``predict`` over all origins in batches: ``(n, horizon, targets)`` float32."""
    full = np.resize(origins.astype(np.int32), -(-len(origins) // EVALUATION_BATCH) * EVALUATION_BATCH)
    return np.concatenate([predict(part) for part in full.reshape(-1, EVALUATION_BATCH)])[: len(origins)]
