"""The forecast that is published: naive, ridge regression and network, weighted by what validation shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from keras_a2.recurrent.baselines import Ridge
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.panel import Panel
from keras_a2.recurrent.verdicts import independent_stretches, standard_error

if TYPE_CHECKING:
    from keras_a2.recurrent.train import Forecaster

TENTHS = 10
LEAST_STRETCHES = 3
ONE_SIDED = 0.9  # probability of the quantile that a gain must exceed to count


class WindowNaive:
    """The best naive of each lead, as far as the window reaches: every lead repeats one row of it.

    Where a lead's season begins before the window, persistence stands in.
    """

    name = "naive"

    def __init__(self, windows: Windows, season: int, best_by_lead: list[str]):
        back = windows.future - season * np.ceil(windows.future / season).astype(int)
        steps, left = np.divmod(back, windows.every)
        inside = (left == 0) & (steps > -windows.look_back) & (np.array(best_by_lead) == "seasonal_naive")
        self.row = windows.look_back - 1 + np.where(inside, steps, 0)  # (horizon,) of the window
        # Whether persistence stands in somewhere.
        self.short = bool((~inside & (np.array(best_by_lead) == "seasonal_naive")).any())

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        rows = origins[:, np.newaxis] + windows.past[self.row]
        return windows.values[rows][..., windows.target_columns]

    def kernel(self, look_back: int) -> np.ndarray:
        """The same as a matrix from a target's window to its forecast ``(look_back, horizon)``."""
        return (np.arange(look_back)[:, np.newaxis] == self.row).astype(np.float64)


@dataclass
class Combination:
    """A convex combination with the interface of the baselines.

    Forecasts that err differently make a mean with a smaller error (Bates & Granger 1969; Clemen 1989).
    """

    weights: tuple[float, float, float]  # of naive, ridge and network
    naive: WindowNaive | None  # None of many series
    ridge: Ridge
    network: Forecaster | None  # None where its weight is 0 and it was not trained again

    def forecast(self, windows: Windows | Panel, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        total = np.zeros((len(origins), windows.horizon, len(windows.targets)), np.float32)
        members: tuple[Any, ...] = (self.naive, self.ridge, self.network)
        for weight, member in zip(self.weights, members, strict=True):
            if weight and member is not None:
                total += np.float32(weight) * member.forecast(windows, origins)
        return total

    def named_weights(self) -> dict[str, float]:
        """The weights as ``metrics.json`` has them."""
        return dict(zip(("naive", "ridge", "network"), self.weights, strict=True))


def combine(weights: tuple[float, float, float], forecasts: list[np.ndarray]) -> np.ndarray:
    """The weighted sum of three forecasts of any shape."""
    return weights[0] * forecasts[0] + weights[1] * forecasts[1] + weights[2] * forecasts[2]


def optimism(errors: np.ndarray, used: np.ndarray | np.intp) -> float:
    """By which share the error of a fold would be higher if the other folds had chosen the candidate.

    The lowest of many errors is too low an estimate, even of a random walk's (Cawley & Talbot 2010, JMLR 11, on
    choosing and judging by the same rows). It is the geometric mean of the folds: each alone is luck, and short ones
    have larger errors.

    Args:
        errors: of each candidate in each fold ``(folds, candidates)``; a fold without windows has zeros.
        used: the candidate that each fold's forecasts come from ``(folds,)``, or one for all.
    """
    folds = np.arange(len(errors))
    others = [np.delete(errors, fold, axis=0).mean(axis=0).argmin() for fold in folds]
    ours = errors[folds, used]
    ratio = np.divide(errors[folds, others], ours, out=np.ones(len(errors)), where=ours > 0)
    return float(stats.gmean(ratio)) - 1


def luck(ridge: Ridge, trained: Sequence[Forecaster], loss: str) -> tuple[float, float]:
    """The ``optimism`` of ridge regression's choices, and of early stopping. A single fold cannot tell: 0.

    Args:
        trained: a network of each fold, with its validation errors by epoch; one that had ended stays as it was.
        loss: ``mae`` or ``mse``.
    """
    if len(trained) == 1:
        return 0.0, 0.0
    squared = optimism(ridge.errors, ridge.errors.sum(axis=0).argmin())
    curves = [[row[f"validation_{loss}"] for row in each.history.rows] for each in trained]
    longest = max(map(len, curves))
    errors = np.array([curve + curve[-1:] * (longest - len(curve)) for curve in curves])
    return squared if loss == "mse" else (1 + squared) ** 0.5 - 1, optimism(errors, errors.argmin(axis=1))


def choose_weights(
    forecasts: list[np.ndarray],
    truth: np.ndarray,
    loss: str,
    ahead: int,
    day: int = 1,
    bias: tuple[float, float] = (0.0, 0.0),
) -> tuple[float, float, float]:
    """Weights of naive, ridge and network by the validation windows, shrunk towards the naive.

    Ridge regression and network share in the best tenths. Their gain over the naive is tested as ``verdicts.compare``
    does, with at least ``LEAST_STRETCHES`` stretches. Where its statistic ``t`` is below ``q``, Student's quantile of a
    one-sided test at 10 %, the gain is luck and the naive alone remains; from ``2 q`` on there is no naive, and their
    share between is ``2 (1 - q / t)`` (firm shrinkage, Gao & Bruce 1997).

    Args:
        forecasts: of naive, ridge and network, each ``(n, horizon, targets)``.
        truth: ``(n, horizon, targets)``, on the same scale.
        loss: ``mae`` or ``mse``.
        ahead, day: as ``verdicts.compare``.
        bias: see ``luck``; the parts of ridge and network in the loss count for so much more.
    """

    def losses(forecast: np.ndarray) -> np.ndarray:
        error = forecast - truth
        return (np.abs(error) if loss == "mae" else error**2).mean(axis=(1, 2), dtype=np.float64)

    added = [share * losses(forecast) for share, forecast in zip(bias, forecasts[1:], strict=True)]

    def losses_of(weights: tuple[float, float, float]) -> np.ndarray:
        return losses(combine(weights, forecasts)) + weights[1] * added[0] + weights[2] * added[1]

    candidates = [(0.0, (TENTHS - i) / TENTHS, i / TENTHS) for i in range(TENTHS + 1)]
    best = min(candidates, key=lambda weights: losses_of(weights).mean())
    gain = losses(forecasts[0]) - losses_of(best)
    count = min(max(independent_stretches(gain, ahead, day), LEAST_STRETCHES), len(gain) - 1)
    if count < LEAST_STRETCHES or gain.mean() <= 0:
        return 1.0, 0.0, 0.0
    least = stats.t.ppf(ONE_SIDED, count) * standard_error(gain, count)
    share = float(np.clip(2 * (1 - least / gain.mean()), 0, 1))
    return 1 - share, share * best[1], share * best[2]
