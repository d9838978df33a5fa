"""Forecasts of many series to figures: what validation chooses, then the test rows of every series, read once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from keras_a2 import runs, training
from keras_a2.recurrent import scores, train
from keras_a2.recurrent.baselines import Ridge
from keras_a2.recurrent.combination import Combination
from keras_a2.recurrent.model import frames
from keras_a2.recurrent.panel import Panel, blocks

LEVEL = 0.95
PERCENT = f"{LEVEL:.0%}".rstrip("%")
RIDGE, WITH_RIDGE = "ridge", "+ridge"
NAIVES = ("naive", "seasonal_naive", "naive2")  # of all baselines, those that are to be beaten
WEIGHTS = np.round(np.arange(0, 1.01, 0.1), 1)  # of ridge regression in the mean with a network
Baseline = Callable[[np.ndarray, int, int], np.ndarray]  # history, season, horizon -> forecast (horizon,)


@dataclass
class Task:
    """The windows of all series and folds whose truth was measured and which have a row before them: ``n`` in all."""

    windows: Panel
    fold: np.ndarray  # (n,) ascending
    numbers: np.ndarray  # (n,) of the series
    origins: np.ndarray  # (n,) last known row
    seen: np.ndarray  # (n,) whether the network has a whole window to see
    truth: np.ndarray  # (n, horizon), in the target's unit, as all forecasts here
    scale: np.ndarray  # (n,) of the scaled errors
    simple: dict[str, np.ndarray]  # baseline -> (n, horizon)
    random_walk: tuple[np.ndarray, np.ndarray]  # ends of the naive's interval (n, horizon)

    def __post_init__(self) -> None:
        level, spread = frames(self.windows, self.origins[self.seen])
        self.level, self.spread = level[..., 0], spread[..., 0]

    def forecast(self, by_fold: Sequence[Ridge | train.Forecaster]) -> np.ndarray:
        """What the forecasters of each fold say of its windows ``(seen, horizon)``, standardised."""
        origins, fold = self.origins[self.seen], self.fold[self.seen]
        answers = [each.forecast(self.windows, origins[fold == k])[..., 0] for k, each in enumerate(by_fold)]
        return np.concatenate(answers)

    def in_unit(self, standardised: np.ndarray) -> np.ndarray:
        """Of all windows ``(n, horizon)``; the seasonal naive stands in where a window is too short."""
        answer = self.simple["seasonal_naive"].copy()
        answer[self.seen] = self.windows.in_unit(self.origins[self.seen], standardised)
        return answer

    def standardised(self, forecast: np.ndarray) -> np.ndarray:
        """A forecast in the target's unit ``(n, horizon)`` of the series with a whole window, standardised."""
        numbers = self.numbers[self.seen][:, np.newaxis]
        values = forecast[self.seen]
        if self.windows.positive:
            values = np.log(np.maximum(values, np.finfo(float).tiny))
        return (values - self.windows.own_mean[numbers]) / self.windows.own_scale[numbers]

    def interval(self, standardised: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends ``(n, horizon)`` in the target's unit, from what ``scores.calibrate`` gave ``(2, horizon)``."""
        lower, upper = (array.copy() for array in self.random_walk)
        for end, relative in ((lower, ends[0]), (upper, ends[1])):
            end[self.seen] = self.windows.in_unit(self.origins[self.seen], standardised + relative * self.spread)
        return lower, upper

    def owa(self, forecast: np.ndarray) -> float:
        """The competition's overall weighted average of a forecast ``(n, horizon)``."""
        errors = [
            self.by_series(error)
            for each in (forecast, self.simple["naive2"])
            for error in (scores.smape(self.truth, each), scores.mase(self.truth, each, self.scale))
        ]
        return scores.owa(*errors)

    def by_series(self, values: np.ndarray) -> np.ndarray:
        """The mean of each series over its windows ``(series,)``, of values ``(n,)``; NaN is left out."""
        return pd.Series(values).groupby(self.numbers).mean().to_numpy()


@dataclass
class Choices:
    """What validation decides."""

    best_naive: str
    weight: dict[str, float]  # cell -> weight of ridge regression in what is published
    ends: dict[str, np.ndarray]  # every model and baseline -> ends of its interval (2, horizon)
    metrics: dict[str, dict]
    baselines: Sequence[Baseline]
    spread: None = None  # as of a single series; here every window has its own


@dataclass
class Published:
    """What is published of a cell: ridge regression and the mean of its seeds, weighted."""

    cell: str
    name: str  # as in the table: gru+ridge
    seed: int  # the first
    combination: Combination
    task: Task
    forecast: np.ndarray  # of the test windows, in the target's unit (n, horizon)
    interval: tuple[np.ndarray, np.ndarray]  # its ends (n, horizon)
    quantiles: np.ndarray  # the same as ``model.assemble`` takes them (2, horizon, 1)
    histories: list[training.History]  # of the last fold that validates, one per seed

    def refit(self, windows: Panel, train_network: Callable[..., train.Forecaster]) -> Combination:
        """The combination with ridge regression and networks trained again on every row.

        Args:
            train_network: (windows, part=, seed=) -> the cell trained on the training windows.
        """
        every, seeds = windows.on_all_rows(), range(self.seed, self.seed + len(self.histories))
        networks = [train_network(every, part="-refit", seed=seed) for seed in seeds]
        return replace(self.combination, ridge=self.combination.ridge.refit(every), network=train.mean_of(networks))


def cut(windows: Panel, measured: Sequence[Sequence[int]], baselines: Sequence[Baseline]) -> Task:
    """The windows that figures are of.

    Args:
        measured: of each fold, the steps that are left after the origins of its windows: see ``panel.blocks``.
        baselines: ``scores.seasonal_naive`` and ``scores.naive2`` among them.
    """
    rows, horizon, season = windows.rows, windows.horizon, windows.season
    parts = []
    for k, left in ((k, left) for k, block in enumerate(measured) for left in block):
        after = left - windows.behind  # rows of each series
        i = np.flatnonzero((after >= horizon) & (after < rows.lengths))
        parts.append((np.full(len(i), k), i, rows.ends[i + 1] - 1 - after[i]))
    fold, numbers, origins = map(np.concatenate, zip(*parts, strict=True))
    truth = rows.values[origins[:, np.newaxis] + 1 + np.arange(horizon)]
    known = [rows.history(i, origin + 1) for i, origin in zip(numbers, origins, strict=True)]
    whole = np.isfinite(truth).all(axis=1) & np.array([len(history) > 0 for history in known], bool)
    fold, numbers, origins, truth = fold[whole], numbers[whole], origins[whole], truth[whole]
    known = list(itertools.compress(known, whole))
    simple = {each.__name__: np.array([each(history, season, horizon) for history in known]) for each in baselines}
    lower, upper = np.array([scores.naive_intervals(history, horizon, LEVEL) for history in known]).transpose(1, 0, 2)
    scale = np.array([scores.seasonal_scale(history, season) for history in known])
    seen = np.isin(origins, windows.candidates)
    return Task(windows, fold, numbers, origins, seen, truth, scale, simple, (lower, upper))


def naives(season: int, classical: bool) -> list[Baseline]:
    """What a network has to beat, as in the M4 competition; ``classical`` adds Theta."""
    return [scores.naive, scores.seasonal_naive, scores.naive2, *([scores.theta] if classical else [])]


def on_validation(
    loss: str,
    windows: Panel,
    folds: Sequence[Panel],
    baselines: Sequence[Baseline],
    season: int,
    ridges: Sequence[Ridge],
    trained: Mapping[str, list[list[train.Forecaster]]],
) -> Choices:
    """Choose the naive to beat and the weight of ridge regression, and fit every interval.

    Args:
        loss, season: as ``evaluate.on_validation``; here the OWA decides, and the season is that of ``windows``.
        folds: the last is for the test: it validates nothing.
        baselines: the ``NAIVES`` and others.
        ridges: one per fold.
        trained: cell -> for each seed one forecaster per fold; the mean of the seeds counts.
    """
    *validated, _ = blocks(windows.horizon, windows.parts, len(folds) - 1)
    task = cut(windows, validated, baselines)
    answers, weight = {RIDGE: task.forecast(ridges[:-1])}, {}
    for cell, seeds in trained.items():
        answers[cell] = np.mean([task.forecast(by_fold[:-1]) for by_fold in seeds], axis=0)
        by_weight = [task.owa(task.in_unit(_mean(answers[cell], answers[RIDGE], w))) for w in WEIGHTS]
        weight[cell] = float(WEIGHTS[int(np.argmin(by_weight))])
        answers[cell + WITH_RIDGE] = _mean(answers[cell], answers[RIDGE], weight[cell])
    answers = {name: task.standardised(forecast) for name, forecast in task.simple.items()} | answers
    truth = task.standardised(task.truth)
    ends = {name: scores.calibrate((truth - answer) / task.spread, LEVEL) for name, answer in answers.items()}
    best_naive = min(NAIVES, key=lambda name: task.owa(task.simple[name]))
    figures = {name: measure(task, name, answer, ends[name], best_naive) for name, answer in answers.items()}
    return Choices(best_naive, weight, ends, figures, baselines)


def on_test(
    config: dict[str, Any],
    windows: Panel,
    levels: Sequence[float],
    ridge: Ridge,
    trained: Mapping[str, list[list[train.Forecaster]]],
    choices: Choices,
) -> tuple[dict[str, Any], list[Published]]:
    """Read the test rows of every series: the scores of everything.

    Args:
        config: what is recorded.
        levels: as ``evaluate.on_test``; here there is one, ``LEVEL``.
        ridge: of the last fold.
        trained: as ``on_validation``; those of the last fold are measured.

    Returns:
        the content of ``metrics.json``, and what is to be published, one per cell.
    """
    task = cut(windows, blocks(windows.horizon, windows.parts, 0), choices.baselines)
    answers = {name: task.standardised(forecast) for name, forecast in task.simple.items()}
    answers[RIDGE] = task.forecast([ridge])
    baselines, published = list(answers), []
    for cell, seeds in trained.items():
        last, weight = [by_fold[-1] for by_fold in seeds], choices.weight[cell]
        answers[cell] = np.mean([task.forecast([each]) for each in last], axis=0)
        answers[cell + WITH_RIDGE] = _mean(answers[cell], answers[RIDGE], weight)
        name = cell + WITH_RIDGE if weight else cell
        combination = Combination((0.0, weight, round(1 - weight, 1)), None, ridge, train.mean_of(last))
        forecast, interval = output(task, name, answers[name], choices.ends[name])
        quantiles, histories = choices.ends[name][..., np.newaxis], [by_fold[-2].history for by_fold in seeds]
        published.append(
            Published(cell, name, config["seed"], combination, task, forecast, interval, quantiles, histories)
        )
    lines: dict[str, dict[str, Any]] = {
        name: {
            "validation": choices.metrics[name],
            "test": measure(task, name, answer, choices.ends[name], choices.best_naive),
        }
        for name, answer in answers.items()
    }
    for winner in published:
        last = [by_fold[-1] for by_fold in trained[winner.cell]]
        for name in (winner.cell, winner.cell + WITH_RIDGE):
            lines[name] = {
                "seconds": sum(each.seconds for each in last),
                "epochs": last[0].history.epochs,
                "parameters": last[0].parameters,
                "combination": winner.combination.named_weights(),
            } | lines[name]
    summary = {
        "experiment": "recurrent",
        "config": config,
        "environment": runs.environment(),
        "data": windows.summary()
        | {"series_scored": len(set(task.numbers)), "series_seen": len(set(task.numbers[task.seen]))},
        "baselines": {name: lines[name] for name in baselines},
        "best_naive": choices.best_naive,
        "published": {winner.cell: winner.name for winner in published},
        "levels": [100 * LEVEL],
        "models": {name: line for name, line in lines.items() if name not in baselines},
    }
    return summary, published


def measure(task: Task, name: str, standardised: np.ndarray, ends: np.ndarray, best_naive: str) -> dict[str, Any]:
    """The scores of one forecaster over all series, and the share of series on which it beats the best naive.

    Those of a series are means over its windows.
    """
    forecast, (lower, upper) = output(task, name, standardised, ends)
    errors, reference = (
        task.by_series(scores.mase(task.truth, each, task.scale)) for each in (forecast, task.simple[best_naive])
    )
    better = scores.share_better(errors, reference)
    inside = ((task.truth >= lower) & (task.truth <= upper)).mean(axis=1)
    return {
        "smape": float(task.by_series(scores.smape(task.truth, forecast)).mean()),
        "mase": float(np.nanmean(errors)),
        "owa": task.owa(forecast),
        "msis": float(np.nanmean(task.by_series(scores.msis(task.truth, lower, upper, task.scale, LEVEL)))),
        "coverage": {PERCENT: float(task.by_series(inside).mean())},
        "share_better_than_naive": better.pop("share_better"),
        **{key.replace("share_better", "share_better_than_naive"): value for key, value in better.items()},
    }


def output(
    task: Task, name: str, standardised: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """A forecaster's forecast and interval in the target's unit ``(n, horizon)``; the naive's is a random walk's."""
    if name == "naive":
        return task.simple[name], task.random_walk
    forecast = task.simple.get(name)
    forecast = task.in_unit(standardised) if forecast is None else forecast
    return forecast, task.interval(standardised, ends)


def _mean(own: np.ndarray, linear: np.ndarray, weight: float) -> np.ndarray:
    return (1 - weight) * own + weight * linear
