"""Part 2: SimpleRNN, LSTM and GRU forecasters against the best naive baseline.

python experiments/recurrent.py --cell gru                          the weather of New York, 24 hours ahead
python experiments/recurrent.py --data sales.csv --target revenue   your own series
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import DisallowNone

from keras_a2 import jobs, machine, runs, settings, training
from keras_a2.errors import UserError
from keras_a2.settings import Count, CountOrZero, Positive, Seed, Share


@dataclass(frozen=True)
class Config:
    """Train Sequential recurrent forecasters, compare them with naive baselines, and publish them."""

    cell: Literal["simple_rnn", "lstm", "gru", "all"] = "all"
    """The recurrent layer; all trains the three, one published model each."""
    data: str = "nyc_weather"
    """nyc_weather, jena, or a .csv or .parquet file with one row per time step."""
    target: str | None = None
    """COLUMN[,COLUMN...] to forecast, or all; needed for a file."""
    time: str | None = None
    """Column with the times; found by itself where there is one. none: leave times out and count rows, for months,
    business days and other uneven steps."""
    inputs: str | None = None
    """COLUMN[,COLUMN...] to learn from beside the targets; by default every column."""
    preset: Literal["none", "chollet"] = "none"
    """chollet: the protocol of Deep Learning with Python, for --data jena only: hourly, 120 steps, 24 h ahead,
    50/25/25, by row number and not by time; it replaces --look-back and the like."""
    split: str = "0.6,0.2,0.2"
    """Train, validation, test in time order: three fractions or three row counts."""
    every: Count = 1
    """Rows from one step of a window to the next (6: hourly windows from 10-minute rows)."""
    max_gap: CountOrZero = 12
    """Fill gaps of at most so many steps from the past (0: none); windows that touch longer ones are dropped."""
    calendar: bool = True
    """Add hour and day of the year as inputs where the data have times."""

    look_back: Count = 72
    """Steps that the forecaster sees."""
    horizon: Count = 24
    """Steps that it forecasts, all at once."""
    first_lead: Count = 1
    """The first step ahead that is forecast."""
    season: Count | None = None
    """Steps per season of the seasonal naive; by default found in the training rows."""
    units: Count = 128
    """Width of the recurrent layer."""
    layers: Count = 1
    """Recurrent layers on top of each other."""
    dropout: Share = 0.3
    """Share of the recurrent layer's outputs dropped while training."""
    input_dropout: Share | None = None
    """Share of the inputs dropped while training, each for a whole window; by default 0.4, or 0.2 of fewer than 8
    inputs, or 0 where channels are independent (there is one)."""
    segment: CountOrZero | None = None
    """Feed the recurrent layer so many steps at a time (SegRNN), a divisor of the look-back; 0 is step by step. By
    default one season where channels are independent, else 0."""
    channel_independent: DisallowNone[bool | None] = None
    """Share one network over the targets, each seeing its own past only (SegRNN); by default with several targets."""

    epochs: CountOrZero | None = None
    """Epochs at most; by default 16, or 10 where channels are independent (each window is then many samples); up to
    250 for a short series, so that there are 2,000 steps."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation error; by default a quarter of the epochs, at least 4."""
    batch_size: Count | None = None
    """Windows per step; by default 128, or 512 where channels are independent; down to 16 for a short series."""
    learning_rate: Positive = 1e-3
    """Peak rate (Adam, warm-up, cosine decay)."""
    loss: Literal["mae", "mse"] = "mae"
    """What training minimises, and what validation chooses the epoch by."""
    ema: Share = 0.98
    """Decay of the moving average of the weights that is evaluated and kept; 0 turns it off."""
    combine: DisallowNone[bool | None] = None
    """Publish the mean of the network's and ridge regression's forecasts, or the network's alone; by default whichever
    has the lower validation error."""
    seed: Seed = 0
    """Seed of the initialisation and of the order of windows."""
    seeds: Count = 1
    """Repeat training with so many seeds and report the mean and every value."""
    jobs: Count | Literal["ray"] = 1
    """Train so many cells and seeds at once, each on its own cores; ray: on the cluster of RAY_ADDRESS ([cluster])."""
    deterministic: bool = False
    """Ask TensorFlow for deterministic kernels, where the machine's are not already."""
    litert: bool = False
    """Also write model.tflite and model.int8.tflite, measured against the SavedModel on test items."""
    name: str | None = None
    """Name to publish under; by default recurrent-<data>-<cell>."""
    output: Path = Path("saved_models")
    """Folder of published models."""
    resume: bool = False
    """Resume a run of the same options and data that was interrupted or failed."""


def main(config: Config) -> None:
    check(config)
    from keras_a2.recurrent import configure, present

    config = configure.with_preset(config)
    windows = configure.windows(config)
    name = config.name or runs.folder_name(f"recurrent-{windows.name}-{config.cell}")
    with runs.Run(config, name, config.output, config.resume) as run:
        machine.configure_tensorflow(config.seed, config.deterministic)
        # TensorFlow takes seconds to import, so after every check.
        from keras_a2.recurrent import baselines, measure, publish, train

        present.describe(windows)
        season = config.season or baselines.find_season(windows)
        resolved = configure.settings(config, windows, season)
        cells = ["simple_rnn", "lstm", "gru"] if config.cell == "all" else [config.cell]
        run.check_inputs(data=windows.summary(), settings=resolved)
        ridge = baselines.Ridge(resolved.channel_independent)
        references = [baselines.Persistence(), baselines.SeasonalNaive(season), ridge]
        for reference in references:
            reference.fit(windows)

        seeds = range(config.seed, config.seed + config.seeds)
        if config.jobs != 1:
            tasks = [{"config": config, "cell": cell, "seed": seed} for seed in seeds for cell in cells]
            jobs.spread(train_cell, tasks, config.jobs, run.work, is_finished)
        trained = {cell: [] for cell in cells}
        for cell in cells:
            for seed in seeds:
                state = train.state_file(run.work, seed, cell)
                trained[cell].append(train.train(cell, windows, replace(resolved, seed=seed), state))
        choices = measure.on_validation(config.combine, resolved.loss, windows, references, trained)

        # Every choice is made: the test split is read here, once.
        result = measure.on_test(config, resolved, windows, references, trained, choices)
        publish.publish(run, config, windows, trained, ridge, result)


def train_cell(config: Config, cell: str, seed: int, folder: Path) -> None:
    """In a process of its own: train one forecaster and leave its state file in ``folder``."""
    machine.configure_tensorflow(config.seed, config.deterministic)
    from keras_a2.recurrent import baselines, configure, train

    windows = configure.windows(config)
    resolved = configure.settings(config, windows, config.season or baselines.find_season(windows))
    train.train(cell, windows, replace(resolved, seed=seed), train.state_file(folder, seed, cell))


def is_finished(config: Config, cell: str, seed: int, folder: Path) -> bool:
    """Whether ``folder`` holds what ``train_cell`` would leave there."""
    from keras_a2.recurrent import train

    return training.is_finished(train.state_file(folder, seed, cell))


def check(config: Config) -> None:
    """Refuse what cannot work before anything is loaded; None stands for a default that is resolved later."""
    settings.check(config)
    if config.preset == "chollet" and config.data != "jena":
        raise UserError(
            f"--preset chollet cuts rows as the book does for --data jena, not for {config.data}: leave it out, or set "
            "--every, --look-back, --first-lead and --horizon"
        )
    if config.segment and config.look_back % config.segment:
        raise UserError(f"--segment {config.segment} does not divide --look-back {config.look_back}; choose a divisor")


if __name__ == "__main__":
    runs.command_line(Config, main)
