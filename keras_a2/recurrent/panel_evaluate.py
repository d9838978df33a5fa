"""Forecasts of many series to figures: what validation chooses, then the last rows of every series, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_a2 import runs
from keras_a2.recurrent import scores, train
from keras_a2.recurrent.panel import Panel
from keras_a2.recurrent.panel_train import Ridge, level_and_spread

LEVEL = 0.95
RIDGE, WITH_RIDGE = "ridge", "+ridge"
NAIVES = ("naive", "seasonal_naive", "naive2")
WEIGHTS = np.round(np.arange(0, 1.01, 0.1), 1)  # of ridge regression in the mean with a network


@dataclass
class Task:
    """One window of each series: the last but ``1`` (test) or ``2`` (validation) horizons are known.

    All arrays are of the ``n`` series whose truth was measured and that have a row before it.
    """

    windows: Panel
    numbers: np.ndarray  # (n,) of the series
    origins: np.ndarray  # (n,) last known row
    seen: np.ndarray  # (n,) whether the network has a whole window to see
    truth: np.ndarray  # (n, horizon), in the target's unit, as all forecasts here
    scale: np.ndarray  # (n,) of the scaled errors
    naive: dict[str, np.ndarray]  # name -> (n, horizon)
    random_walk: tuple[np.ndarray, np.ndarray]  # ends of the naive's interval (n, horizon)

    def __post_init__(self) -> None:
        self.level, self.spread = level_and_spread(self.windows, self.origins[self.seen])

    def forecast(self, forecaster: Any) -> np.ndarray:
        """What it forecasts ``(seen, horizon)``, standardised."""
        return forecaster.forecast(self.windows, self.origins[self.seen])[..., 0]

    def in_unit(self, standardised: np.ndarray) -> np.ndarray:
        """Of all series ``(n, horizon)``; the seasonal naive stands in where a window is too short."""
        answer = self.naive["seasonal_naive"].copy()
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
            (scores.smape(self.truth, each), scores.mase(self.truth, each, self.scale))
            for each in (forecast, self.naive["naive2"])
        ]
        return scores.owa(*errors[0], *errors[1])


@dataclass
class Choices:
    """What validation decides."""

    best_naive: str
    weight: dict[str, float]  # cell -> weight of ridge regression in what is published
    ends: dict[str, np.ndarray]  # every model and baseline -> ends of its interval (2, horizon)
    metrics: dict[str, dict]


def cut(windows: Panel, split: str) -> Task:
    """The windows that a split's figures are of."""
    rows, horizon, season = windows.rows, windows.horizon, windows.season
    back = horizon * {"test": 1, "validation": 2}[split]
    numbers = np.flatnonzero(rows.lengths > back)
    origins = rows.ends[numbers + 1] - 1 - back
    truth = rows.values[origins[:, np.newaxis] + 1 + np.arange(horizon)]
    known = [windows.filled(rows.ends[i], origin + 1) for i, origin in zip(numbers, origins, strict=True)]
    whole = np.isfinite(truth).all(axis=1) & np.array([len(history) > 0 for history in known], bool)
    numbers, origins, truth = numbers[whole], origins[whole], truth[whole]
    known = [history for history, there in zip(known, whole, strict=True) if there]
    naive = {
        "naive": np.array([scores.naive(history, horizon) for history in known]),
        "seasonal_naive": np.array([scores.seasonal_naive(history, season, horizon) for history in known]),
        "naive2": np.array([scores.naive2(history, season, horizon) for history in known]),
    }
    lower, upper = np.array([scores.naive_intervals(history, horizon, LEVEL) for history in known]).transpose(1, 0, 2)
    scale = np.array([scores.seasonal_scale(history, season) for history in known])
    seen = np.isin(origins, windows.origins[split])
    return Task(windows, numbers, origins, seen, truth, scale, naive, (lower, upper))


def on_validation(windows: Panel, ridge: Ridge, trained: Mapping[str, list[train.Forecaster]]) -> Choices:
    """Choose the naive to beat and the weight of ridge regression, and fit every interval.

    Args:
        trained: cell -> one forecaster per seed; their mean counts.
    """
    task = cut(windows, "validation")
    answers = {name: task.standardised(task.naive[name]) for name in NAIVES} | {RIDGE: task.forecast(ridge)}
    weight = {}
    for cell, seeds in trained.items():
        answers[cell] = np.mean([task.forecast(each) for each in seeds], axis=0)
        by_weight = [task.owa(task.in_unit(_mean(answers[cell], answers[RIDGE], w))) for w in WEIGHTS]
        best = float(WEIGHTS[int(np.argmin(by_weight))])
        answers[cell + WITH_RIDGE] = _mean(answers[cell], answers[RIDGE], best)
        weight[cell] = best
    truth = task.standardised(task.truth)
    ends = {name: scores.calibrate((truth - answer) / task.spread, LEVEL) for name, answer in answers.items()}
    owa = {name: task.owa(task.naive[name]) for name in NAIVES}
    best_naive = min(owa, key=owa.__getitem__)
    figures = {name: measure(task, name, answer, ends[name], best_naive) for name, answer in answers.items()}
    return Choices(best_naive, weight, ends, figures)


def on_test(
    config: dict[str, Any],
    windows: Panel,
    ridge: Ridge,
    trained: Mapping[str, list[train.Forecaster]],
    choices: Choices,
) -> tuple[dict[str, Any], Task, dict[str, np.ndarray]]:
    """Read the last rows of every series: the scores of everything.

    Returns:
        the content of ``metrics.json``, the windows, and the standardised forecasts ``(seen, horizon)`` by name.
    """
    task = cut(windows, "test")
    answers = {name: task.standardised(task.naive[name]) for name in NAIVES} | {RIDGE: task.forecast(ridge)}
    for cell, seeds in trained.items():
        answers[cell] = np.mean([task.forecast(each) for each in seeds], axis=0)
        answers[cell + WITH_RIDGE] = _mean(answers[cell], answers[RIDGE], choices.weight[cell])
    lines: dict[str, dict[str, Any]] = {
        name: {
            "validation": choices.metrics[name],
            "test": measure(task, name, answer, choices.ends[name], choices.best_naive),
        }
        for name, answer in answers.items()
    }
    for cell, seeds in trained.items():
        of_cell: dict[str, Any] = {
            "seconds": sum(each.seconds for each in seeds),
            "epochs": seeds[0].history.epochs,
            "parameters": seeds[0].parameters,
        }
        for name in (cell, cell + WITH_RIDGE):
            lines[name] = of_cell | lines[name]
    baselines = [*NAIVES, RIDGE]
    summary = {
        "experiment": "recurrent",
        "config": config,
        "environment": runs.environment(),
        "data": windows.summary() | {"series_scored": len(task.numbers), "series_seen": int(task.seen.sum())},
        "baselines": {name: lines[name] for name in baselines},
        "best_naive": choices.best_naive,
        "published": {cell: cell + WITH_RIDGE if weight else cell for cell, weight in choices.weight.items()},
        "combination": {cell: {"ridge": w, "network": round(1 - w, 1)} for cell, w in choices.weight.items()},
        "models": {name: line for name, line in lines.items() if name not in baselines},
    }
    return summary, task, answers


def measure(task: Task, name: str, standardised: np.ndarray, ends: np.ndarray, best_naive: str) -> dict[str, Any]:
    """The scores of one forecaster over all series, and the share of series on which it beats the best naive."""
    forecast, (lower, upper) = output(task, name, standardised, ends)
    errors = scores.mase(task.truth, forecast, task.scale)
    better = scores.share_better(errors, scores.mase(task.truth, task.naive[best_naive], task.scale))
    return {
        "smape": float(scores.smape(task.truth, forecast).mean()),
        "mase": float(np.nanmean(errors)),
        "owa": task.owa(forecast),
        "msis": float(np.nanmean(scores.msis(task.truth, lower, upper, task.scale, LEVEL))),
        "coverage": {f"{LEVEL:.0%}".rstrip("%"): float(np.mean((task.truth >= lower) & (task.truth <= upper)))},
        "share_better_than_naive": better.pop("share_better"),
        **{key.replace("share_better", "share_better_than_naive"): value for key, value in better.items()},
    }


def output(
    task: Task, name: str, standardised: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """A forecaster's forecast and interval in the target's unit ``(n, horizon)``; the naive's is a random walk's."""
    if name == "naive":
        return task.naive[name], task.random_walk
    forecast = task.naive[name] if name in NAIVES else task.in_unit(standardised)
    return forecast, task.interval(standardised, ends)


def _mean(own: np.ndarray, linear: np.ndarray, weight: float) -> np.ndarray:
    return (1 - weight) * own + weight * linear
