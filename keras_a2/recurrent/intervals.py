"""Intervals from residuals that were out of sample, and the scores of intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_a2.recurrent.data import Windows

GRID = (5.0, 15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0, 85.0, 95.0)  # levels whose 20 ends the CRPS is computed from
SCORED = 95.0  # per cent, of the interval score
RATE = 0.2  # how far an end moves, in widths of its interval and per row ahead


class Residuals(NamedTuple):
    """Truth less forecast of windows in time order, standardised, and how restless each window is."""

    values: np.ndarray  # (n, horizon, targets)
    spread: np.ndarray  # (n, targets)


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


def quantiles(residuals: np.ndarray, spread: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Quantiles of the residuals by lead and target, each divided by its window's spread.

    Split-conformal (Vovk, Gammerman & Shafer 2005), normalised (Lei et al. 2018): the ranks are those of ``n + 1``
    residuals, the new one included, rounded outwards; where that is beyond the largest, the largest.

    Args:
        residuals: truth less forecast, out of sample ``(n, horizon, targets)``.
        spread: of their windows ``(n, targets)``.
        shares: probabilities ``(quantiles,)``.

    Returns:
        ``(quantiles, horizon, targets)``.
    """
    ordered = np.sort(residuals / spread[:, np.newaxis], axis=0)
    n = len(ordered)
    ranks = np.where(shares < 0.5, np.floor((n + 1) * shares), np.ceil((n + 1) * shares)).astype(int)
    return ordered[np.clip(ranks, 1, n) - 1]


def follow(
    excess: np.ndarray, ends: np.ndarray, origins: np.ndarray, future: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """How far each end of an interval has moved at a row, by the values that are known there.

    Each value moves the ends of its lead by the gradient of their pinball losses, so that their coverage comes right in
    the long run whatever the series does: quantile tracking (Angelopoulos, Candès & Tibshirani 2023), a simpler form
    of adaptive conformal inference (Gibbs & Candès 2021). Values so many rows ahead stray together for as many rows, so
    that far leads move slowly. The rate was chosen on the second halves of seven series' validation splits.

    Args:
        excess: how far each value lies above each end of its interval, in widths of it
            ``(n, horizon, targets, ends)``; NaN counts for nothing.
        ends: their probabilities ``(ends,)``.
        origins: of the windows, ascending ``(n,)``.
        future: rows that are forecast, relative to the origin ``(horizon,)``.
        rows: at which the ends are asked for, ascending ``(m,)``; a value counts from its own row on.

    Returns:
        in widths ``(m, horizon, targets, ends)``.
    """
    time = np.arange(min(origins[0], rows[0]), rows[-1] + 1)
    due = time[:, np.newaxis] - future  # the origin whose value at each lead becomes known
    number = np.searchsorted(origins, due).clip(max=len(origins) - 1)
    known = (origins[number] == due)[..., np.newaxis, np.newaxis]
    leads, rate = np.arange(len(future)), RATE / future[:, np.newaxis, np.newaxis]
    moved, path = np.zeros(excess.shape[1:]), np.empty((len(time), *excess.shape[1:]), np.float32)
    for step in range(len(time)):
        if known[step].any():
            above = excess[number[step], leads]
            moved += np.where(known[step] & ~np.isnan(above), rate * (ends - (above < moved)), 0)
        path[step] = moved
    return path[rows - time[0]]


def adapted(
    start: np.ndarray, level: float, residuals: np.ndarray, spread: np.ndarray, origins: np.ndarray,
    future: np.ndarray, rows: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Ends of an interval that begin as ``start`` and ``follow`` the residuals, each divided by its window's spread.

    Args:
        start: lower and upper end, as of ``quantiles`` ``(2, horizon, targets)``.
        residuals, spread: of the windows with these origins ``(n, horizon, targets)``, ``(n, targets)``.

    Returns:
        at each of the rows ``(2, m, horizon, targets)``.
    """
    width = start[1] - start[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # an interval without width stays as it is
        excess = (residuals / spread[:, np.newaxis] - start[:, np.newaxis]) / width
    moved = follow(np.moveaxis(excess, 0, -1), probabilities([level]), origins, future, rows)
    return start[:, np.newaxis] + np.moveaxis(moved, -1, 0) * width


def pinball(residuals: np.ndarray, end: np.ndarray, probability: float) -> np.ndarray:
    """Pinball loss of a quantile, any shape. Twice its mean over the ends of ``GRID`` is the CRPS (Gneiting 2011)."""
    above = residuals - end
    return np.maximum(probability * above, (probability - 1) * above)


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
