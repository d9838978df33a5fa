"""Forecasters that learn little or nothing, with the interface of the clever ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy import optimize, signal
from scipy.linalg import eigh

from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.model import FARTHEST, frame, frames
from keras_a2.recurrent.panel import Panel
from keras_a2.recurrent.seasons import training_rows

RIDGE_STRENGTHS = tuple(10.0**k for k in range(-6, 4))  # per training window, on standardised inputs
RIDGE_COLUMNS = 4096  # a wider flattened window keeps the targets' own past only
CHUNK = 1024
DISCOUNTS, HARMONICS, STARTS = (1.0, 0.98, 0.9), (1, 2, 3), 3  # of smoothers
LEAST_GAIN = 0.95  # of squared error, for which a smoother is preferred to persistence
MANY = 50_000  # training windows that are drawn from many series

Solver = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]


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
    """Ridge regression from the flattened window to all leads at once, shrunk towards a smoother.

    The larger the strength, the nearer the regression is to the linear forecast that it starts from: persistence, or a
    level with harmonics of the season, fitted to the window by discounted least squares and continued (general
    exponential smoothing, Brown 1963). A short series cannot teach a regression its season; the start knows it. Start,
    strength and whether there is an intercept for each lead (a drift) are chosen on the validation windows of all
    folds.

    Fitted from the Gram matrix in chunks, so memory does not grow with the series. With ``channel_independent`` one
    regression is shared by the targets, each seeing its own past less its last value. Many series share one as well; it
    sees what the network sees (``model.frame``), clipped, and starts from the last season.
    """

    name = "ridge"

    def __init__(self, channel_independent: bool = False, season: int = 1):
        self.channel_independent, self.season = channel_independent, season
        self.columns = np.zeros(0, int)  # of the inputs, that it sees
        self.strength = 0.0
        self.kernel, self.bias = np.zeros((0, 0)), np.zeros(0)  # from the flattened columns to changes
        self.errors = np.zeros((0, 0))  # sums of squares by fold and candidate, on validation
        self._start, self._intercept, self._centred = np.zeros((0, 0)), False, True

    def fit(self, folds: Sequence[Windows | Panel]) -> list[Ridge]:
        """Learn from the training windows of each fold, with the choices that all folds' validation windows prefer.

        Returns:
            one regression per fold; the last is this one.
        """
        last = folds[-1]
        wide = last.look_back * len(last.inputs) > RIDGE_COLUMNS
        own_past = self.channel_independent or wide
        self.columns = last.target_columns if own_past else np.arange(len(last.inputs))
        if wide and not self.channel_independent and not isinstance(last, Panel):
            self.columns = np.union1d(self.columns, [last.inputs.index(name) for name in last.ahead]).astype(int)
        if isinstance(last, Panel):
            self._centred, starts = False, [np.zeros((last.look_back * last.features, last.horizon))]
        else:
            self._centred = not self.channel_independent
            starts = [self._embed(start, last) for start in _smoothers(last, self.season)]
        solvers = [self._solver(fold) for fold in folds]
        errors = np.array([self._errors(fold, solve, starts, last) for fold, solve in zip(folds, solvers, strict=True)])
        errors[:, 0] *= LEAST_GAIN  # persistence, unless a smoother is clearly better
        best, strength, intercept = np.unravel_index(int(errors.sum(axis=0).argmin()), errors.shape[1:])
        self._start, self.strength, self._intercept = starts[best], RIDGE_STRENGTHS[strength], bool(intercept)
        self.errors = errors.reshape(len(folds), -1)
        fitted = [*(copy.copy(self) for _ in folds[:-1]), self]
        for each, solve in zip(fitted, solvers, strict=True):
            each.kernel, each.bias = self._learnt(solve)
        return fitted

    def _errors(
        self, fold: Windows | Panel, solve: Solver, starts: list[np.ndarray], last: Windows | Panel
    ) -> np.ndarray:
        """Sums of squared validation errors, without and with an intercept ``(starts, strengths, 2)``."""
        errors = np.zeros((len(starts), len(RIDGE_STRENGTHS), 2))
        if len(fold.origins["validation"]) == 0:
            return errors
        validation = _Sums.of(self._designs(fold, fold.origins["validation"]))
        unit = np.square(fold.target_scale / last.target_scale)  # folds have scales of their own
        weight = unit.mean() if self.channel_independent else np.tile(unit, fold.horizon)
        for i, start in enumerate(starts):
            for j, strength in enumerate(RIDGE_STRENGTHS):
                kernel, bias = solve(start, strength)
                errors[i, j] = (weight * validation.squared_error(kernel, np.outer((0, 1), bias))).sum(axis=1)
        return errors

    def _learnt(self, solve: Solver) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias as chosen."""
        kernel, bias = solve(self._start, self.strength)
        return kernel, bias if self._intercept else np.zeros_like(bias)

    def refit(self, windows: Windows | Panel) -> Ridge:
        """The same regression learnt from the training windows of ``windows``, whose scale must be the same."""
        fitted = copy.copy(self)
        fitted.kernel, fitted.bias = self._learnt(self._solver(windows))
        return fitted

    def forecast(self, windows: Windows | Panel, origins: np.ndarray) -> np.ndarray:
        """Standardised forecasts ``(n, horizon, targets)``."""
        change = np.concatenate([x @ self.kernel + self.bias for x, _ in self._designs(windows, origins)])
        if self.channel_independent:
            change = change.reshape(-1, len(windows.targets), windows.horizon).transpose(0, 2, 1)
        level, spread = frames(windows, origins)
        return (level + change.reshape(len(origins), windows.horizon, -1) * spread).astype(np.float32)

    def dense(self, windows: Windows | Panel, weight: float, own: np.ndarray | None = None) -> list[np.ndarray]:
        """Kernel and bias of a dense layer from the flattened regressors to changes from the level of a window.

        Args:
            weight: of this regression; it is added to
            own: a linear forecast of each target from its own window, weighted ``(look_back, horizon)``.
        """
        weights = [weight * self.kernel, weight * self.bias]
        if own is not None and not isinstance(windows, Panel):
            weights[0] = self._embed(own, windows) + weights[0]
        return weights

    def _embed(self, own: np.ndarray, windows: Windows) -> np.ndarray:
        """A forecast from a target's own window ``(look_back, horizon)`` as a kernel from the flattened columns."""
        if self.channel_independent:
            return own.copy()
        own = own.copy()
        own[-1] -= own.sum(axis=0)  # to a change from the last value
        kernel = np.zeros((windows.look_back, len(self.columns), windows.horizon, len(windows.targets)))
        for k, column in enumerate(windows.target_columns):
            kernel[:, np.flatnonzero(self.columns == column)[0], :, k] = own
        return kernel.reshape(windows.look_back * len(self.columns), -1)

    def _solver(self, windows: Windows | Panel) -> Solver:
        """(start, strength) -> kernel and bias of the regression that is shrunk towards the kernel ``start``."""
        sums = _Sums.of(self._designs(windows, _training_origins(windows)))
        centred = 1.0 if self._centred else 0.0
        x_mean, y_mean = centred * sums.x / sums.n, centred * sums.y / sums.n
        values, vectors = eigh(sums.gram / sums.n - np.outer(x_mean, x_mean))
        values = np.maximum(values, 0)[:, np.newaxis]
        projected = vectors.T @ (sums.cross / sums.n - np.outer(x_mean, y_mean))

        def solve(start: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
            kernel = start + vectors @ ((projected - values * (vectors.T @ start)) / (values + strength))
            return kernel, y_mean - x_mean @ kernel

        return solve

    def _designs(self, windows: Windows | Panel, origins: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Regressors and changes from the level of a window, ``CHUNK`` windows at a time."""
        for start in range(0, len(origins), CHUNK):
            part = origins[start : start + CHUNK]
            if isinstance(windows, Panel):
                inputs, level, spread = map(np.asarray, frame(windows.seen(part), windows))
                both = inputs, (windows.actual(part) - level) / spread
                x, y = (np.clip(values, -FARTHEST, FARTHEST).reshape(len(part), -1) for values in both)
                yield x.astype(np.float64), y.astype(np.float64)
                continue
            seen = windows.seen(part).astype(np.float64)
            last = seen[:, -1:, windows.target_columns]
            change = windows.actual(part) - last
            if self.channel_independent:
                own = (seen[..., windows.target_columns] - last).transpose(0, 2, 1)
                yield own.reshape(-1, windows.look_back), change.transpose(0, 2, 1).reshape(-1, windows.horizon)
            else:
                yield seen[..., self.columns].reshape(len(part), -1), change.reshape(len(part), -1)


def _training_origins(windows: Windows | Panel) -> np.ndarray:
    """The training windows that a regression learns from ``(n,)``: all, or of many series ``MANY`` drawn by chance."""
    return windows.draw(np.random.default_rng(0), MANY) if isinstance(windows, Panel) else windows.origins["train"]


@dataclass
class _Sums:
    """What a regression of ``y`` on ``x`` needs to know of its rows, however many."""

    gram: np.ndarray
    cross: np.ndarray
    x: np.ndarray
    y: np.ndarray
    squares: np.ndarray  # of y, by column
    n: int

    @classmethod
    def of(cls, designs: Iterator[tuple[np.ndarray, np.ndarray]]) -> _Sums:
        """The sums over parts ``x (rows, regressors)`` and ``y (rows, outputs)``."""
        total: list[Any] = []
        for x, y in designs:
            part = [x.T @ x, x.T @ y, x.sum(axis=0), y.sum(axis=0), np.square(y).sum(axis=0), len(x)]
            total = [a + b for a, b in zip(total, part, strict=True)] if total else part
        return cls(*total)

    def squared_error(self, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Sum of squared errors of ``x @ kernel + bias`` by column ``(..., outputs)``, the shape of ``bias``."""
        without = self.squares + (kernel * (self.gram @ kernel - 2 * self.cross)).sum(axis=0)
        return np.maximum(without + bias * (self.n * bias + 2 * (self.x @ kernel - self.y)), 0)  # rounded below 0


def _smoothers(windows: Windows, season: int) -> list[np.ndarray]:
    """Persistence, and the ``STARTS`` smoothers with the lowest squared error in the windows before the test split.

    Each is a linear forecast from a target's own window ``(look_back, horizon)``. The periods are ``season`` and the
    strongest of the training rows' spectrum, which need not be whole.
    """
    persistence = np.zeros((windows.look_back, windows.horizon))
    persistence[-1] = 1
    periods = [season, *_periods(windows)]
    span = windows.every * windows.look_back
    kernels = []
    for discount in DISCOUNTS:
        memory = np.inf if discount == 1 else windows.every / (1 - discount)
        kernels.append(smoother(windows, 1, 0, discount))
        kernels += [
            smoother(windows, period, count, discount)
            for count in HARMONICS
            for period in periods
            if 2 * count <= period <= min(span, memory)
        ]
    origins = np.concatenate([windows.origins["train"], windows.origins["validation"]])
    origins = origins[:: max(len(origins) // CHUNK, 1)]
    own = windows.seen(origins)[..., windows.target_columns].transpose(0, 2, 1)
    truth = windows.actual(origins).transpose(0, 2, 1)
    errors = [np.square(own @ kernel.astype(np.float32) - truth).mean() for kernel in kernels]
    return [persistence, *(kernels[k] for k in np.argsort(errors)[:STARTS])]


def smoother(windows: Windows, period: float, harmonics: int, discount: float) -> np.ndarray:
    """A level and harmonics of a period, fitted to a window by least squares and continued, as a matrix.

    Args:
        period: in rows.
        discount: weight of a step of the window relative to the next.

    Returns:
        ``(look_back, horizon)``.
    """

    def basis(rows: np.ndarray) -> np.ndarray:
        angles = 2 * np.pi * np.outer(rows, np.arange(1, harmonics + 1)) / period
        return np.hstack([np.ones((len(rows), 1)), np.cos(angles), np.sin(angles)])

    by_row = discount ** (1 / windows.every)
    root = np.sqrt(by_row ** -windows.past.astype(np.float64))[:, np.newaxis]
    return (basis(windows.future) @ np.linalg.pinv(root * basis(windows.past)) * root.T).T


def _periods(windows: Windows) -> list[float]:
    """Periods of the two highest peaks in the spectrum of the first target's training rows, to fractions of a row."""
    series = training_rows(windows)
    n = len(series)
    taper = signal.detrend(series) * signal.windows.hann(n)
    power = np.abs(np.fft.rfft(taper, 4 * n)) ** 2
    frequency = np.fft.rfftfreq(4 * n)
    peaks, _ = signal.find_peaks(np.where((frequency >= 2.5 / n) & (frequency <= 0.45), power, 0))
    rows, periods = np.arange(n), []
    for peak in peaks[np.argsort(-power[peaks])][:2]:
        result = optimize.minimize_scalar(
            lambda f: -np.abs(np.exp(-2j * np.pi * f * rows) @ taper),
            bounds=(frequency[peak - 1], frequency[peak + 1]),
            method="bounded",
        )
        periods.append(float(1 / result.x))
    return periods
