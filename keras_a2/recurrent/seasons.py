"""The season of a series, from the means of its phases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from keras_a2.recurrent.times import DAY, YEAR

if TYPE_CHECKING:
    from keras_a2.recurrent.data import Windows

MAX_SEASON_SHARE = 3  # a season must fit this often into the training rows
MAX_SEASON = 2016  # two weeks of 10-minute steps
USUAL_SHARE = 0.9  # of the best period's gain, for which a day is preferred
SEASON_ROWS = 20_000  # the last training rows, so many at most


def training_rows(windows: Windows) -> np.ndarray:
    """The first target's last training rows, gaps filled."""
    end = windows.bounds["train"][1]
    return pd.Series(windows.truth[max(end - SEASON_ROWS, 0) : end, 0]).ffill().bfill().to_numpy(np.float64)


def season_of(values: np.ndarray, step: pd.Timedelta | None) -> int:
    """The season of a series ``(rows,)``: the period whose phases have the most unlike means.

    Each period is judged on the series less its moving average over that period, as classical decomposition does: by
    the log-likelihood that a mean for each phase gains, less the Bayesian information criterion's price of the means
    (Schwarz 1978). What is left of a multiple is compared on the same rows, for a strong harmonic hides its period. A
    day (for steps of a day: a week) is preferred to a period that gains hardly more.

    Returns:
        steps per season; 1 when nothing repeats.
    """
    series = pd.Series(values).ffill().bfill().to_numpy()[-SEASON_ROWS:]
    limit = min(len(series) // MAX_SEASON_SHARE, MAX_SEASON)
    if limit < 2 or np.ptp(series) == 0:
        return 1
    gains = np.array([0.0, 0.0, *(_gain(_less_average(series, period), period) for period in range(2, limit + 1))])
    usual, season = _usual_season(step), int(np.argmax(gains))
    if gains[season] <= 0:
        return 1
    if usual is not None and usual <= limit and gains[usual] >= USUAL_SHARE * gains[season]:
        return usual
    for multiple in range(2 * season, limit + 1, season):
        rest = _less_average(series, multiple)
        if _gain(rest, multiple) > _gain(rest, season):
            return multiple
    return season


def _less_average(series: np.ndarray, period: int) -> np.ndarray:
    """A series less its centred moving average over a period, without ``period // 2`` rows at either end."""
    total = np.concatenate([[0.0], np.cumsum(series - series.mean())])
    average = (total[period:] - total[:-period]) / period
    if period % 2 == 0:
        average = (average[1:] + average[:-1]) / 2
    first = period // 2
    return series[first : first + len(average)] - series.mean() - average


def _gain(rest: np.ndarray, period: int) -> float:
    """Twice the log-likelihood that the means of the phases gain, less the criterion's price of so many means."""
    phase = np.arange(len(rest)) % period
    total = np.square(rest).sum()
    explained = (np.bincount(phase, rest) ** 2 / np.bincount(phase)).sum()
    left = max(1 - explained / total, 1e-12) if total > 0 else 1.0
    return float(-len(rest) * np.log(left) - (period - 1) * np.log(len(rest)))


def _usual_season(step: pd.Timedelta | None) -> int | None:
    """Steps of a day, for days of a week, for weeks, months and quarters of a year."""
    if step is None:
        return None
    cycles = (DAY, 7 * DAY, YEAR)
    return next((round(cycle / step) for cycle in cycles if step < cycle), None)
