"""Part 2: SimpleRNN, LSTM and GRU forecasters against the best naive baseline.

python experiments/recurrent.py --cell gru                         the weather
python experiments/recurrent.py --data sales.csv --target revenue  a series
python experiments/recurrent.py --data shops.csv --horizon 14      many series
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import DisallowNone

from keras_a2 import machine, runs, settings, training
from keras_a2.console import console
from keras_a2.recurrent import splits
from keras_a2.settings import Count, CountOrZero, Positive, Share

if TYPE_CHECKING:  # TensorFlow takes seconds to import: functions import what they need, so that --help is quick
    import keras

    from keras_a2.recurrent.data import Windows
    from keras_a2.recurrent.panel import Panel
    from keras_a2.recurrent.train import Forecaster
    from keras_a2.saved_model import FreshProcess


@dataclass(frozen=True)
class NetworkOptions:
    """The Sequential network."""

    cell: Literal["simple_rnn", "lstm", "gru", "all"] = "all"
    """The recurrent layer; all trains the three, one published model each."""
    units: Count = 128
    """Width of the recurrent layer."""
    layers: Count = 1
    """Number of stacked recurrent layers."""
    dropout: Share = 0.3
    """Share of the recurrent layer's outputs dropped while training."""
    input_dropout: Share | None = None
    """Share of inputs dropped, each for a whole window; by default 0.4; 0.2 with fewer than 8; 0 with --known."""
    segment: CountOrZero | None = None
    """Steps fed at a time (SegRNN), or 0: one by one; by default 0, or a season if channels are independent."""
    channel_independent: DisallowNone[bool | None] = None
    """Share one network over the targets, each seeing its own past only (SegRNN); by default with several targets."""


@dataclass(frozen=True)
class TrainingOptions:
    """How the network is trained."""

    epochs: CountOrZero | None = None
    """Most epochs; by default 16; 10 if channels are independent; up to 250 for a short series; 12 for many."""
    patience: Count | None = None
    """Stop after N epochs without a better validation error; by default a quarter of the epochs, at least 4."""
    batch_size: Count | None = None
    """Windows per step; by default 128, or 512 where channels are independent; down to 16 for a short series."""
    learning_rate: Positive | None = None
    """Peak rate (Adam, warm-up, cosine decay); by default 1e-3, or 3e-3 for many series."""
    loss: Literal["mae", "mse"] = "mae"
    """Loss that training minimises and by which validation chooses the epoch."""
    ema: Share = 0.98
    """Decay of the moving average of the weights that is evaluated and published; 0 turns it off."""


@dataclass(frozen=True)
class ForecastOptions:
    """Measurements, and the published model."""

    folds: Count | None = None
    """Train on N growing parts of the rows, each validated on those that follow; by default 3 of a short series."""
    backtest: CountOrZero = 0
    """Divide the test split into N blocks, train again before each, and report the error of each."""
    levels: str = "80,95"
    """Levels of the intervals, in per cent."""
    classical: bool = False
    """Compare with the Theta method as well (statsmodels; many series only, about 0.1 s per window)."""
    refit: bool = True
    """Publish the recipe trained again on all rows after it was measured; --no-refit: the measured model."""


@dataclass(frozen=True)
class Config:
    """Train recurrent forecasters, compare them with naive forecasts, publish them."""

    series: splits.Options = field(default_factory=splits.Options)
    network: NetworkOptions = NetworkOptions()
    training: TrainingOptions = TrainingOptions()
    forecast: ForecastOptions = ForecastOptions()
    run: runs.Options = field(default_factory=runs.Options)


def build_network(cell: str, windows: Windows | Panel, options: NetworkOptions) -> keras.Sequential:
    """From a standardised window ``(batch, look_back, features)`` to the changes from its last row, lead by lead."""
    from keras import Input, Sequential, layers

    recurrent = {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}[cell]
    # One target's own past; or every input, as its difference from the window's last row and as that row itself;
    # and at every step what is known of the rows that are forecast.
    features = 1 if options.channel_independent else windows.features
    outputs = windows.horizon * (1 if options.channel_independent else len(windows.targets))
    network = Sequential([Input((windows.look_back, features))], name=cell)
    if options.input_dropout:  # a window lacks an input from end to end: the network must not lean on any one of them
        network.add(layers.SpatialDropout1D(options.input_dropout))
    if options.segment:
        network.add(layers.Reshape((windows.look_back // options.segment, options.segment * features)))
        network.add(layers.Dense(options.units, activation="relu"))
    for number in range(options.layers):
        network.add(recurrent(options.units, return_sequences=number < options.layers - 1))
    network.add(layers.Dropout(options.dropout))
    # A zero kernel forecasts no change: training starts as persistence.
    network.add(layers.Dense(outputs, kernel_initializer="glorot_uniform" if options.segment else "zeros"))
    return network


def train_network(
    cell: str,
    windows: Windows | Panel,
    config: Config,
    seed: int,
    folder: Path | None = None,
    part: str = "",
    epochs: int | None = None,
) -> Forecaster:
    """Train one cell with early stopping and restore the epoch with the lowest validation error.

    Args:
        folder: keeps the state across a kill, in a file named after cell, seed and ``part``.
        epochs: number of epochs, without validation; None stops early.
    """
    import keras

    from keras_a2.fast.windows import compiled
    from keras_a2.recurrent import train
    from keras_a2.training import Average

    options, shared = config.training, config.network.channel_independent
    keras.utils.set_random_seed(seed)
    network = build_network(cell, windows, config.network)
    batches = train.Batches(windows, shared, options.batch_size, seed)
    rate = training.warm_up_and_decay(options.learning_rate, options.epochs, batches.steps, end=0.01)
    network.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss=options.loss)
    average = Average(network, options.ema)  # of the weights: it is what is validated and published
    one_epoch, predict = train.keras_epoch(network, batches, average), train.keras_predict(network, batches)
    if not config.run.plain:  # the same, faster: a twin of the network with compiled loops shares its variables
        one_epoch, predict = compiled(network, options.loss, batches.order, batches.gather, average)
    forecaster = train.Forecaster(cell, network, shared, predict)
    validated = epochs is None and len(windows.origins["validation"]) > 0
    forecaster.history = training.fit(
        f"{cell}{part}",
        train_epoch=one_epoch,
        validate=lambda: forecaster.validate(windows, average) if validated else {},
        score=lambda row: -row[f"validation_{options.loss}"] if validated else row["epoch"],
        epochs=options.epochs if epochs is None else epochs,
        patience=options.patience if validated else None,  # early stopping
        ceiling=train.CEILING[options.loss],
        weights=average.averaged,
        state=train.state_of(network, average),
        path=folder and runs.state_file(folder, f"seed{seed}-{cell}{part}"),
    )
    average.copy_to_model()
    return forecaster


def publish(
    winner: Any,
    windows: Windows | Panel,
    choices: Any,
    metrics: dict[str, Any],
    pages: Any,
    config: Config,
    run: runs.Run,
    process: FreshProcess,
) -> None:
    """Publish a cell: SavedModel, model.keras, model.json, metrics.json, report.html, predictions.csv, history.csv."""
    from keras_a2 import deployment
    from keras_a2.recurrent import evaluate, model, report

    part = "" if winner.cell == config.network.cell else f"-{winner.cell}"  # of a given name, for --cell all
    home = config.run.output / runs.published_name(config.run, f"recurrent-{windows.name}-{winner.cell}", part)
    train_again = partial(train_network, winner.cell, config=config, seed=winner.seed, folder=run.work)
    with run.publishing(home.name) as folder:
        blocks = evaluate.backtest(winner, choices, windows.backtest(config.forecast.backtest), train_again)
        # What is published learns from every row; the figures are those of the recipe.
        combination = winner.refit(windows, train_again) if config.forecast.refit else winner.combination
        # Raw windows in, forecasts and intervals in the targets' units out: scaling is inside.
        verified = model.export(process, combination, windows, choices.spread, winner.quantiles, folder)
        own = evaluate.of_winner(metrics, winner, config.forecast.refit, config.forecast.folds, blocks)
        litert = deployment.export_litert(folder, model.example(windows)) if config.run.litert else None
        report.write(pages, folder, windows, winner, own | {"saved_model_check": verified}, home, litert)
    console.print(f"open {run.version / 'report.html'}; use the model: {report.use(home)}")
    console.print(pages.headline(metrics, winner.name))


def main(config: Config, update: dict[str, Any] | None = None) -> None:
    """The experiment; ``update`` is what ``predict.py --update`` measured, for ``metrics.json`` and the report."""
    settings.check(config)
    from keras_a2.recurrent import panel

    config = replace(config, series=splits.with_preset(config.series))
    windows = panel.load(config)  # of one series, or of many in a file
    name = runs.published_name(config.run, f"recurrent-{windows.name}-{config.network.cell}")
    with runs.Run(config, name, config.run.output, config.run.resume) as run:
        machine.configure_tensorflow(config.run.seed, config.run.deterministic)
        from keras_a2 import saved_model
        from keras_a2.recurrent import baselines, evaluate, panel_evaluate, panel_report, report, train

        many = isinstance(windows, panel.Panel)
        score, pages = (panel_evaluate, panel_report) if many else (evaluate, report)
        pages.describe(windows)
        config = train.resolve(config, windows)  # numbers for the defaults that depend on the data
        run.check_inputs(data=windows.summary(), network=config.network, training=config.training)
        levels, season = evaluate.levels(config.forecast.levels), config.series.season
        # Ridge regression and each cell learn from the rows before the test split: on one part, or on growing ones.
        folds = windows.folds(config.forecast.folds)
        naives = score.naives(season, config.forecast.classical)  # the last value, the last season; of many, Naive2 too
        ridges = baselines.Ridge(config.network.channel_independent, season).fit(folds)
        trained = train.every_cell(train_network, config, folds, run.work)
        with saved_model.FreshProcess() as process:  # imports TensorFlow while the forecasts are measured
            # Which naive is to be beaten, which seed is published, combined with what, how wide its intervals are.
            choices = score.on_validation(config.training.loss, windows, folds, naives, season, ridges, trained)
            # Every choice is made: the test split is read here, once, to compare the cells with ridge and the naives.
            metrics, winners = score.on_test(settings.flat(config), windows, levels, ridges[-1], trained, choices)
            metrics |= {"update": update} if update else {}
            pages.show(metrics)
            for winner in winners:
                publish(winner, windows, choices, metrics, pages, config, run, process)


if __name__ == "__main__":
    runs.command_line(Config, main)
