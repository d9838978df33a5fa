"""Intervals from residuals that were out of sample, and the scores of intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_a2.recurrent.data import Windows

GRID = 20  # quantiles that the CRPS is computed from
SCORED = 95.0  # per cent, of the interval score


@dataclass
class Spread:
    """How restless a window is: the factor by which its intervals are wider than those of others.

    Half of it is the window's mean absolute change over ``lag`` steps (a season, if the window has two), relative to
    the typical one of the training windows; the other half is constant, so that no factor is near zero.
    """

    lag: int
    typical: np.ndarray  # (targets,)

    @classmethod
    def of(cls, windows: Windows, season: int) -> Spread:
        """Learn the typical change from the training windows, 2,000 of them at most."""
        steps, left = divmod(season, windows.every)
        lag = steps if not left and 0 < 2 * steps <= windows.look_back else 1
        origins = windows.origins["train"]
        change = _mean_change(windows, origins[:: max(len(origins) // 2000, 1)], lag)
        typical = change.mean(axis=0)
        return cls(lag, np.where(typical > 0, typical, 1.0))

    def __call__(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Factors ``(n, targets)`` of the windows with these origins ``(n,)``."""
        return 0.5 + 0.5 * _mean_change(windows, origins, self.lag) / self.typical


def _mean_change(windows: Windows, origins: np.ndarray, lag: int) -> np.ndarray:
    """Mean absolute change of each target over ``lag`` steps, within each window ``(n, targets)``; 0 in one step."""
    if windows.look_back <= lag:
        return np.zeros((len(origins), len(windows.targets)))
    own, rows = windows.values[:, windows.target_columns].astype(np.float64), lag * windows.every
    change = np.abs(own[rows:] - own[:-rows])  # from each row to the one ``rows`` later
    return np.mean([change[origins + row - rows] for row in windows.past[lag:]], axis=0)


def probabilities(levels: list[float]) -> np.ndarray:
    """Of the lower and the upper end of each level in per cent ``(2 * levels,)``."""
    return np.array([p for level in levels for p in (0.5 - level / 200, 0.5 + level / 200)])


def quantiles(residuals: np.ndarray, spread: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Quantiles of the residuals by lead and target, each divided by its window's spread.

    Split-conformal (Vovk, Gammerman & Shafer 2005), normalised (Lei et al. 2018): the ranks are those of ``n + 1``
    residuals, the new one included, rounded outwards; where that is beyond the largest, the largest.

    Args:
        residuals: truth less forecast, out of sample ``(n, horizon, targets)``.
        spread: of their windows ``(n, targets)``.
        wanted: probabilities ``(quantiles,)``.

    Returns:
        ``(quantiles, horizon, targets)``.
    """
    ordered = np.sort(residuals / spread[:, np.newaxis], axis=0)
    n = len(ordered)
    ranks = np.where(wanted < 0.5, np.floor((n + 1) * wanted), np.ceil((n + 1) * wanted)).astype(int)
    return ordered[np.clip(ranks, 1, n) - 1]


def grid() -> np.ndarray:
    """The probabilities in the middle of ``GRID`` equal parts."""
    return (np.arange(GRID) + 0.5) / GRID


def crps(residuals: np.ndarray, spread: np.ndarray, of_grid: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score: twice the mean pinball loss over a grid of quantiles (Gneiting 2011).

    Args:
        residuals: truth less forecast ``(n, horizon, targets)``.
        spread: ``(n, targets)``.
        of_grid: ``quantiles`` of ``grid()`` ``(GRID, horizon, targets)``.

    Returns:
        ``(n, horizon, targets)``.
    """
    total = np.zeros(residuals.shape)
    for probability, quantile in zip(grid(), of_grid, strict=True):
        above = residuals - quantile * spread[:, np.newaxis]
        total += np.maximum(probability * above, (probability - 1) * above)
    return 2 * total / len(of_grid)


def interval_score(residuals: np.ndarray, lower: np.ndarray, upper: np.ndarray, level: float) -> np.ndarray:
    """Width, and ``2 / alpha`` times the distance of what lies outside (Gneiting & Raftery 2007), any shape.

    Divided by the in-sample error of the seasonal naive it is the M4 competition's MSIS.
    """
    outside = np.maximum(lower - residuals, 0) + np.maximum(residuals - upper, 0)
    return upper - lower + 2 / (1 - level / 100) * outside


def naive_scale(windows: Windows, season: int) -> np.ndarray:
    """Mean absolute change over a season in the training rows ``(targets,)``, standardised: the scale of MASE.

    Hyndman & Koehler 2006. 1 for a target that never changes over a season.
    """
    truth = windows.truth[: windows.bounds["train"][1]].astype(np.float64)
    change = np.abs(truth[season:] - truth[:-season])
    measured = np.isfinite(change)
    scale = np.where(measured, change, 0).sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    return np.where(scale > 0, scale, 1.0)
