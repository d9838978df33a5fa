"""From the script's configuration to windows and training settings, its defaults resolved."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_a2.recurrent import data, sources, splits
from keras_a2.recurrent.data import Windows

if TYPE_CHECKING:
    from keras_a2.recurrent.train import Settings

WINDOW_OPTIONS = ("look_back", "horizon", "split", "max_gap", "calendar", "every", "first_lead")
# The temperature forecast of Deep Learning with Python (Chollet, 2nd ed., section 10.2): hourly steps, five days seen,
# one day ahead. The book counts rows, not times.
CHOLLET = {
    "look_back": 120,
    "horizon": 1,
    "first_lead": 24,
    "every": 6,
    "split": splits.BOOK,
    "calendar": False,
}

EPOCH_STEPS = 32  # a series with fewer full batches is short: it gets smaller ones and more epochs
LEAST_BATCH = 16
SHORT_STEPS, SHORT_EPOCHS = 2000, 250  # training steps of a short series, in so many epochs at most
FEW_INPUTS = 8  # a network with fewer cannot spare so many of them while it trains


def with_preset(config):
    """The configuration with the preset's values for its own: what a run records is what it used."""
    return dataclasses.replace(config, **CHOLLET) if config.preset == "chollet" else config


def windows(config) -> Windows:
    """The windows that the configuration asks for.

    Raises:
        UserError: as ``sources.find`` and ``data.prepare``.
    """
    as_read = config.preset == "chollet"
    table = sources.find(config.data, config.target, config.time, config.inputs, as_read=as_read)
    return data.prepare(table, **{name: getattr(config, name) for name in WINDOW_OPTIONS})


def settings(config, windows: Windows, season: int) -> Settings:
    """The part of the script's configuration that training needs, its defaults resolved for these windows."""
    from keras_a2.recurrent.train import Settings  # and TensorFlow with it, which windows do not need

    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    shared = config.channel_independent
    shared = len(windows.targets) > 1 if shared is None else shared
    samples = len(windows.origins["train"]) * (len(windows.targets) if shared else 1)
    whole_seasons = shared and windows.look_back % season == 0 and windows.look_back >= 2 * season
    batch_size, epochs = _effort(samples, 512 if shared else 128, 10 if shared else 16)
    epochs = config.epochs or epochs
    defaults = {
        "channel_independent": shared,
        "segment": season if whole_seasons and season > 1 else 0,
        "input_dropout": 0.0 if shared else 0.4 if len(windows.inputs) >= FEW_INPUTS else 0.2,
        "epochs": epochs,
        "patience": max(epochs // 4, 4),
        "batch_size": batch_size,
    }
    return Settings(**{name: defaults[name] if value is None else value for name, value in values.items()})


def _effort(samples: int, batch_size: int, epochs: int) -> tuple[int, int]:
    """Batch size and epochs: those given, unless the series is short."""
    most = batch_size
    while batch_size > LEAST_BATCH and samples < EPOCH_STEPS * batch_size:
        batch_size //= 2
    if batch_size < most:
        epochs = max(epochs, min(-(-SHORT_STEPS // max(samples // batch_size, 1)), SHORT_EPOCHS))
    return batch_size, epochs
