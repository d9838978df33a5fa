"""Forecasters that learn little or nothing, with the interface of the clever ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import signal
from scipy.linalg import eigh
from statsmodels.tsa.stattools import acf

from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.times import DAY, YEAR

RIDGE_STRENGTHS = tuple(10.0**k for k in range(-6, 2))  # per training window, on standardised inputs
RIDGE_COLUMNS = 4096  # a wider flattened window keeps the targets' own past only
CHUNK = 1024
MAX_SEASON_SHARE = 3  # a season must fit this often into the training rows
MAX_SEASON = 2016  # two weeks of 10-minute steps
SEASON_PEAK = 0.7
SEASON_ROWS = 200_000  # the last training rows, so many at most


class Baseline(Protocol):
    """What is compared with the networks."""

    name: str

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)`` of the windows with these origins ``(n,)``."""


class Persistence:
    """The last observed value, at every lead."""

    name = "persistence"

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        last = windows.values[origins][:, windows.target_columns]
        return np.repeat(last[:, np.newaxis], windows.horizon, axis=1)


class SeasonalNaive:
    """The last measured value of the lead's phase: one season before it, or as many as needed.

    A season may reach back beyond the window, into rows that were not checked for gaps. Where one was not measured, the
    season before it stands in, and persistence where there is none: what a forecaster in use would do, and a fairer
    reference than the filled value.
    """

    name = "seasonal_naive"

    def __init__(self, season: int):
        self.season = season

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        phase = np.arange(len(windows.truth)) % self.season
        measured = pd.DataFrame(windows.truth).groupby(phase).ffill().to_numpy()  # the last of its phase, at each row
        back = windows.future - self.season * np.ceil(windows.future / self.season).astype(int)
        rows = origins[:, np.newaxis] + back
        seasonal = np.where(rows[..., np.newaxis] < 0, np.nan, measured[np.maximum(rows, 0)])
        return np.where(np.isnan(seasonal), Persistence().forecast(windows, origins), seasonal)


class Ridge:
    """Ridge regression from the flattened window to the change from the last value, all leads at once.

    Fitted from the Gram matrix in chunks, so memory does not grow with the series; its strength is chosen on
    validation. With ``channel_independent`` one regression is shared by the targets, each seeing its own past less its
    last value.
    """

    name = "ridge"

    def __init__(self, channel_independent: bool = False):
        self.channel_independent = channel_independent
        self.strength: float | None = None
        self.columns = np.zeros(0, int)  # of the inputs, that it sees
        self._kernel = np.zeros((0, 0))

    def fit(self, windows: Windows) -> None:
        """Learn from the training windows and choose the strength by the validation windows."""
        wide = windows.look_back * len(windows.inputs) > RIDGE_COLUMNS
        own_past = self.channel_independent or wide
        self.columns = windows.target_columns if own_past else np.arange(len(windows.inputs))
        if wide and not self.channel_independent:
            self.columns = np.union1d(self.columns, [windows.inputs.index(name) for name in windows.ahead]).astype(int)
        gram, cross, n = np.zeros(()), np.zeros(()), 0
        for x, y in self._designs(windows, windows.origins["train"]):
            gram, cross, n = gram + x.T @ x, cross + x.T @ y, n + len(x)
        gram, cross = gram / n, cross / n
        if not self.channel_independent:  # the intercept, whose regressor is the last, is not penalised
            mean, level = gram[-1, :-1], cross[-1]
            gram, cross = gram[:-1, :-1] - np.outer(mean, mean), cross[:-1] - np.outer(mean, level)
        values, vectors = eigh(gram)
        projected = vectors.T @ cross
        kernels = [vectors @ (projected / (values + strength)[:, np.newaxis]) for strength in RIDGE_STRENGTHS]
        if not self.channel_independent:
            kernels = [np.vstack([kernel, level - mean @ kernel]) for kernel in kernels]
        errors = np.zeros(len(kernels))
        for x, y in self._designs(windows, windows.origins["validation"]):
            errors += [((x @ kernel - y) ** 2).sum() for kernel in kernels]
        best = int(np.argmin(errors))
        self.strength, self._kernel = RIDGE_STRENGTHS[best], kernels[best]

    def forecast(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        change = np.concatenate([x @ self._kernel for x, _ in self._designs(windows, origins)])
        if self.channel_independent:
            change = change.reshape(-1, len(windows.targets), windows.horizon).transpose(0, 2, 1)
        last = windows.values[origins][:, np.newaxis, windows.target_columns]
        return (last + change.reshape(len(origins), windows.horizon, -1)).astype(np.float32)

    def weights(self) -> list[np.ndarray]:
        """Kernel and, unless channels are independent, bias of a dense layer from the flattened ``columns``."""
        return [self._kernel] if self.channel_independent else [self._kernel[:-1], self._kernel[-1]]

    def _designs(self, windows: Windows, origins: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Regressors and changes from the last value, ``CHUNK`` windows at a time."""
        for start in range(0, len(origins), CHUNK):
            part = origins[start : start + CHUNK]
            seen = windows.seen(part).astype(np.float64)
            last = seen[:, -1:, windows.target_columns]
            change = windows.actual(part) - last
            if self.channel_independent:
                own = (seen[..., windows.target_columns] - last).transpose(0, 2, 1)
                yield own.reshape(-1, windows.look_back), change.transpose(0, 2, 1).reshape(-1, windows.horizon)
            else:
                x = seen[..., self.columns].reshape(len(part), -1)
                yield np.hstack([x, np.ones((len(part), 1))]), change.reshape(len(part), -1)


def combine(own: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """The mean of a network's forecasts and ridge regression's, of any shape.

    Forecasts that err differently make a mean with a smaller error (Bates & Granger 1969, The Combination of
    Forecasts); equal weights are hard to beat (Clemen 1989, Combining forecasts: A review).
    """
    return (own + linear) / 2


def find_season(windows: Windows) -> int:
    """The season of the first target's training rows, by the autocorrelation of their changes.

    Once the autocorrelation has fallen below zero, its peaks are candidates; of those that reach ``SEASON_PEAK`` of the
    highest the shortest is the season, for the others repeat it. A day (for steps of a day: a week) is preferred to a
    candidate that is hardly higher. Changes rather than levels are correlated, so that a trend is no season.

    Returns:
        steps per season; 1 when nothing repeats.
    """
    end = windows.bounds["train"][1]
    series = pd.Series(windows.truth[max(end - SEASON_ROWS, 0) : end, 0]).ffill().bfill().to_numpy()
    limit = min(len(series) // MAX_SEASON_SHARE, MAX_SEASON)
    if limit < 4 or np.ptp(series) == 0:
        return 1
    correlation = acf(np.diff(series), nlags=limit, fft=True)
    peaks, _ = signal.find_peaks(correlation, height=0)
    peaks = peaks[peaks >= np.argmax(correlation < 0)]
    if len(peaks) == 0:
        return 1
    shortest = int(peaks[correlation[peaks] >= SEASON_PEAK * correlation[peaks].max()][0])
    usual = _usual_season(windows.step)
    if usual is not None and usual < limit and correlation[usual] >= 0.9 * correlation[shortest]:
        return usual
    return shortest


def _usual_season(step: pd.Timedelta | None) -> int | None:
    """Steps of a day, for days of a week, for weeks, months and quarters of a year."""
    if step is None:
        return None
    cycles = (DAY, 7 * DAY, YEAR)
    return next((round(cycle / step) for cycle in cycles if step < cycle), None)
