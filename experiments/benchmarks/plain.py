"""What a person would use instead, in the plainest form that the documentation of Keras and PyTorch recommends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def images_from(folder: Path, size: int, batch_size: int = 32) -> tf.data.Dataset:
    """As in keras.io, "Image classification from scratch": decoded from the files in every epoch, read ahead."""
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch_size, verbose=False
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def transfer_model(size: int, classes: int, weights: Path) -> tuple[keras.Model, keras.Model]:
    """As in keras.io, "Transfer learning & fine-tuning": a frozen base, called in inference mode, and a dense layer.

    Returns:
        the base, pixels to features; and the whole, pixels ``(batch, size, size, 3)`` to logits ``(batch, classes)``.
    """
    base = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    base.load_weights(weights)
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = keras.layers.RandomFlip()(inputs)
    x = base(x, training=False)
    x = keras.layers.Dropout(0.2)(x)
    return base, keras.Model(inputs, keras.layers.Dense(classes)(x))


def compile_classifier(model: keras.Model, learning_rate: float) -> None:
    """Adam on the cross-entropy of logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])


def fit_seconds(model: keras.Model, train: tf.data.Dataset, validation: tf.data.Dataset, epochs: int) -> float:
    """Seconds of ``fit`` with validation, from two epochs: the first traces, the others take as long as the second."""
    ended = [time.perf_counter()]
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_, **__: ended.append(time.perf_counter()))
    model.fit(train, epochs=2, validation_data=validation, callbacks=[callback], verbose=0)
    first, second = ended[1] - ended[0], ended[2] - ended[1]
    return first + (epochs - 1) * second


def windows_from(
    values: np.ndarray, target: np.ndarray, look_back: int, horizon: int, batch_size: int
) -> tf.data.Dataset:
    """As in keras.io, "Timeseries forecasting for weather prediction": ``timeseries_dataset_from_array``."""
    ahead = np.lib.stride_tricks.sliding_window_view(target[look_back:], horizon)
    dataset = keras.utils.timeseries_dataset_from_array(
        values[: len(ahead) + look_back - 1], ahead, look_back, batch_size=batch_size, shuffle=True
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def forecaster(cell: str, look_back: int, inputs: int, horizon: int, units: int) -> keras.Sequential:
    """The example's network: one recurrent layer and a dense one, mean absolute error."""
    layer = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[cell]
    model = keras.Sequential([keras.Input((look_back, inputs)), layer(units), keras.layers.Dense(horizon)])
    model.compile(keras.optimizers.Adam(1e-3), "mae")
    return model


def torch_step(cell: str, inputs: int, horizon: int, units: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """One training step of the same network in PyTorch: windows ``(batch, time, inputs)`` and targets as arrays."""
    import torch

    layer = {"simple_rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](
        inputs, units, batch_first=True
    )
    head = torch.nn.Linear(units, horizon)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], 1e-3)

    def step(seen: np.ndarray, ahead: np.ndarray) -> float:
        optimizer.zero_grad()
        hidden, _ = layer(torch.from_numpy(seen))
        loss = (head(hidden[:, -1]) - torch.from_numpy(ahead)).abs().mean()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step
