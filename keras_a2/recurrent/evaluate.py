"""Forecasts to figures: errors by lead, hour and month, skill with its interval, and the Diebold-Mariano test."""

from __future__ import annotations

import numpy as np
import pandas as pd
from arch.bootstrap import CircularBlockBootstrap
from scipy import stats

from keras_a2.recurrent.data import Windows

RESAMPLES = 2000


def errors(windows: Windows, forecast: np.ndarray, split: str) -> np.ndarray:
    """Standardised errors ``(n, horizon, targets)`` of a forecast of a split."""
    return forecast - windows.wanted(windows.origins[split])


def metrics(windows: Windows, error: np.ndarray) -> dict:
    """Mean absolute and squared error, standardised and in the target's unit, and by lead in its unit."""
    raw = error * windows.target_scale
    return {
        "mae": float(np.abs(raw).mean()),
        "mse": float((raw**2).mean()),
        "mae_standardized": float(np.abs(error).mean()),
        "mse_standardized": float((error.astype(np.float64) ** 2).mean()),
        "mae_by_lead": np.abs(raw).mean(axis=(0, 2)).tolist(),
    }


def best_by_lead(validation_errors: dict[str, np.ndarray]) -> list[str]:
    """The naive with the lowest validation error at each lead."""
    by_lead = {name: np.abs(error).mean(axis=(0, 2)) for name, error in validation_errors.items()}
    names = list(by_lead)
    return [names[int(np.argmin([by_lead[name][lead] for name in names]))] for lead in range(len(by_lead[names[0]]))]


def merge_by_lead(naive_errors: dict[str, np.ndarray], best: list[str]) -> np.ndarray:
    """Errors of the naive that uses the best method of each lead ``(n, horizon, targets)``."""
    return np.stack([naive_errors[name][:, lead] for lead, name in enumerate(best)], axis=1)


def skill(model: np.ndarray, naive: np.ndarray, block: int, seed: int = 0) -> dict:
    """1 - MAE(model) / MAE(naive) with a circular block bootstrap 95 % interval over windows in time order.

    Args:
        model, naive: errors ``(n, horizon, targets)`` of the same windows.
        block: windows per block; errors of overlapping windows are not independent, so at least a day and a horizon.
    """
    loss, reference = (np.abs(e).mean(axis=(1, 2)).astype(np.float64) for e in (model, naive))
    value = float(1 - loss.mean() / reference.mean())
    bootstrap = CircularBlockBootstrap(min(block, len(loss)), loss, reference, seed=seed)
    ends = bootstrap.conf_int(lambda a, b: 1 - a.mean() / b.mean(), RESAMPLES, method="percentile")
    return {"skill": value, "skill_ci95": [float(ends[0, 0]), float(ends[1, 0])]}


def diebold_mariano(model: np.ndarray, naive: np.ndarray, lags: int) -> float:
    """Two-sided p-value that both have the same expected absolute error.

    Diebold & Mariano 1995 with the correction of Harvey, Leybourne & Newbold 1997 (eq. 9) and Student's t. The
    long-run variance sums autocovariances up to ``lags - 1``; where that sum is not positive, they are weighted by
    Bartlett's triangle instead, which cannot be negative.

    Args:
        model, naive: loss of each forecast ``(n,)``, in time order.
        lags: steps ahead, so that forecasts ``lags`` apart do not overlap.
    """
    difference = np.asarray(model, np.float64) - naive
    n = len(difference)
    lags = min(lags, n // 2)
    centred = difference - difference.mean()
    covariance = np.array([centred[k:] @ centred[: n - k] / n for k in range(max(lags, 1))])
    variance = covariance[0] + 2 * covariance[1:].sum()
    if variance <= 0:
        weights = 1 - np.arange(1, len(covariance)) / len(covariance)
        variance = covariance[0] + 2 * (weights * covariance[1:]).sum()
    if variance <= 0:
        return 1.0 if difference.mean() == 0 else 0.0
    statistic = difference.mean() / np.sqrt(variance / n)
    statistic *= np.sqrt((n + 1 - 2 * lags + lags * (lags - 1) / n) / n)
    return float(2 * stats.t.sf(abs(statistic), n - 1))


def against(windows: Windows, model: np.ndarray, naive: np.ndarray) -> dict:
    """Skill, its interval and the Diebold-Mariano p-value of ``model`` against ``naive`` on the test windows."""
    day = 1 if windows.step is None else int(np.ceil(pd.Timedelta("1D") / windows.step))
    ahead = int(windows.future[-1])  # forecasts so many rows apart do not overlap
    block = max(2 * ahead, day)
    loss, reference = (np.abs(e).mean(axis=(1, 2)) for e in (model, naive))
    return skill(model, naive, block) | {"dm_p_value": diebold_mariano(loss, reference, ahead)}


def by_time(windows: Windows, error: np.ndarray, part: str) -> dict[str, float]:
    """MAE in the target's unit by ``hour`` of the day or ``month`` of the forecast time; empty without times."""
    if windows.time is None:
        return {}
    rows = windows.origins["test"][:, np.newaxis] + windows.future
    when = getattr(windows.time, part).to_numpy()[rows].ravel()
    raw = np.abs(error * windows.target_scale).mean(axis=2).ravel()
    return {str(key): float(value) for key, value in pd.Series(raw).groupby(when).mean().items()}
