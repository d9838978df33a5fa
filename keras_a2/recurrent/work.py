"""One cell with one seed, trained in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from keras_a2 import machine, training


def train_cell(config: dict, cell: str, seed: int, folder: str) -> None:
    """Train one forecaster and leave its state file in ``folder``.

    Args:
        config: the script's configuration, as a dictionary.
    """
    options = SimpleNamespace(**config)
    machine.configure_tensorflow(options.seed, options.deterministic)
    from keras_a2.recurrent import baselines, configure, train

    windows = configure.windows(options)
    settings = configure.settings(options, windows, options.season or baselines.find_season(windows))
    train.train(cell, windows, replace(settings, seed=seed), train.state_file(Path(folder), seed, cell))


def is_finished(config: dict, cell: str, seed: int, folder: str) -> bool:
    """Whether ``folder`` holds what ``train_cell`` would leave there."""
    from keras_a2.recurrent import train

    return training.is_finished(train.state_file(Path(folder), seed, cell))
