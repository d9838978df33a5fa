"""The scores and the reference forecasts of the M4 competition, for many series at once.

Makridakis, Spiliotis & Assimakopoulos 2020, The M4 Competition: 100,000 time series and 61 forecasting methods,
International Journal of Forecasting 36(1). All series forecast the same number of steps; histories differ in length.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import special, stats
from statsmodels.tsa.seasonal import seasonal_decompose
from statsmodels.tsa.stattools import acf

from keras_a2.page import verdict
from keras_a2.recurrent import intervals

SEASONALITY_QUANTILE = 1.645  # one-sided 95 % of the normal distribution
LEAST_SEASONS = 3  # a shorter history is not tested for a season
LEAST_ROWS = 5  # of a history that Theta is fitted to
RESAMPLES = 2000


def smape(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Symmetric mean absolute percentage error of each series ``(n,)``, 0 to 200; 0 / 0 counts as no error.

    Args:
        truth, forecast: ``(n, horizon)``.
    """
    size = np.abs(truth) + np.abs(forecast)
    return 200 * np.mean(np.abs(truth - forecast) / np.where(size > 0, size, 1), axis=1)


def mase(truth: np.ndarray, forecast: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Mean absolute scaled error of each series ``(n,)`` (Hyndman & Koehler 2006); NaN where its scale is 0.

    Args:
        truth, forecast: ``(n, horizon)``.
        scale: ``seasonal_scale`` of each history ``(n,)``.
    """
    return np.mean(np.abs(truth - forecast), axis=1) / _positive(scale)


def msis(truth: np.ndarray, lower: np.ndarray, upper: np.ndarray, scale: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Mean scaled interval score of each series ``(n,)`` (Gneiting & Raftery 2007): width, and what lies outside.

    Args:
        truth, lower, upper: ``(n, horizon)``.
        scale: as for ``mase``.
        level: share of the truth that the interval is to cover.
    """
    return np.mean(intervals.interval_score(truth, lower, upper, 100 * level), axis=1) / _positive(scale)


def owa(smapes: np.ndarray, mases: np.ndarray, naive2_smapes: np.ndarray, naive2_mases: np.ndarray) -> float:
    """Overall weighted average: the mean of both errors, each relative to that of Naive2; 1 is as good as Naive2.

    Args:
        smapes, mases, naive2_smapes, naive2_mases: of each series ``(n,)``; NaN is left out.
    """
    ratios = [np.nanmean(smapes) / np.nanmean(naive2_smapes), np.nanmean(mases) / np.nanmean(naive2_mases)]
    return float(np.mean(ratios))


def seasonal_scale(history: np.ndarray, season: int) -> float:
    """Mean absolute change from one season to the next, within the history ``(rows,)``; 0 where it is too short."""
    changes = np.abs(history[season:] - history[:-season])
    return float(changes.mean()) if len(changes) else 0.0


def _positive(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, scale, np.nan)


def naive(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The last value ``(horizon,)``, whatever the season."""
    return np.full(horizon, history[-1], np.float64)


def seasonal_naive(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The last season again and again ``(horizon,)``; the last value where the history is shorter."""
    return (
        naive(history, season, horizon)
        if len(history) < season
        else np.resize(history[-season:], horizon).astype(float)
    )


def naive2(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The last value, seasonally adjusted where the history is seasonal ``(horizon,)``.

    The adjustment is the competition's classical multiplicative decomposition; the additive one for a history that is
    not positive throughout, which the competition had none of.
    """
    if not is_seasonal(history, season):
        return naive(history, season, horizon)
    positive = history.min() > 0
    model = "multiplicative" if positive else "additive"
    factors = seasonal_decompose(history, model=model, period=season).seasonal
    ahead = np.resize(factors[-season:], horizon)
    return history[-1] / factors[-1] * ahead if positive else history[-1] - factors[-1] + ahead


def theta(history: np.ndarray, season: int, horizon: int) -> np.ndarray:
    """The Theta method of statsmodels, on the seasonally adjusted history where it is seasonal ``(horizon,)``.

    Assimakopoulos & Nikolopoulos 2000, International Journal of Forecasting 16(4). The last value where a history has
    no five rows or never changes, for then there is nothing to fit.
    """
    if len(history) < LEAST_ROWS or np.ptp(history) == 0:
        return naive(history, season, horizon)
    from statsmodels.tsa.forecasting.theta import ThetaModel  # half a second

    model = ThetaModel(history, period=season, deseasonalize=is_seasonal(history, season))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a likelihood did not converge
        return np.asarray(model.fit().forecast(horizon), np.float64)


def is_seasonal(history: np.ndarray, season: int) -> bool:
    """The competition's test: the autocorrelation at the season is beyond Bartlett's 90 % limits of what comes before.

    Args:
        season: steps; 1 is no season.
    """
    if season < 2 or len(history) < LEAST_SEASONS * season or np.ptp(history) == 0:
        return False
    correlation = acf(history, nlags=season, fft=False)
    limit = SEASONALITY_QUANTILE * np.sqrt((1 + 2 * np.sum(correlation[1:-1] ** 2)) / len(history))
    return bool(abs(correlation[-1]) > limit)


def naive_intervals(history: np.ndarray, horizon: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the naive forecast ``(horizon,)``: a normal random walk's, as the competition's."""
    deviation = np.sqrt(np.mean(np.diff(history) ** 2)) if len(history) > 1 else 0.0
    half = special.ndtri((1 + level) / 2) * deviation * np.sqrt(np.arange(1, horizon + 1))
    return history[-1] - half, history[-1] + half


def share_better(errors: np.ndarray, reference: np.ndarray) -> dict:
    """The share of series on which a forecaster has a smaller error than a reference; ties count half.

    Args:
        errors, reference: of each series ``(n,)``; series with NaN are left out.

    Returns:
        ``share_better``, its 95 % bootstrap interval over series ``share_better_ci95``, ``wilcoxon_p_value`` of the
        signed-rank test on the errors (Wilcoxon 1945), ``verdict``.
    """
    valid = np.isfinite(errors) & np.isfinite(reference)
    difference = reference[valid] - errors[valid]
    wins = (np.sign(difference) + 1) / 2
    share = interval = p_value = None
    if len(wins) >= 2:
        options = {"n_resamples": RESAMPLES, "method": "percentile", "random_state": 0, "batch": 100}
        ends = stats.bootstrap((wins,), np.mean, **options).confidence_interval
        share, interval = float(wins.mean()), [float(end) for end in ends]
        p_value = float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0
    return {
        "share_better": share,
        "share_better_ci95": interval,
        "wilcoxon_p_value": p_value,
        "verdict": verdict(interval and [end - 0.5 for end in interval], p_value),
    }


def calibrate(residuals: np.ndarray, level: float, neighbours: int = 3) -> np.ndarray:
    """Ends of an interval around a forecast, of each lead ``(2, horizon)``, in units of the window's spread.

    ``intervals.quantiles`` of residuals on windows that the forecaster was not trained on, averaged over the leads next
    to each, for the outermost are noisy.

    Args:
        residuals: truth less forecast, in units of the spread ``(n, horizon)``; at least one.
        level: share to cover.
        neighbours: leads on either side.
    """
    one = np.ones((len(residuals), 1))
    ends = intervals.quantiles(residuals[..., np.newaxis], one, intervals.probabilities([100 * level]))[..., 0]
    padded = np.pad(ends, ((0, 0), (neighbours, neighbours)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * neighbours + 1, axis=1).mean(axis=2)
