"""Whether one forecast is better than another: tests and intervals for autocorrelated losses."""

from __future__ import annotations

import numpy as np
from scipy import fft, stats

from keras_a2.page import verdict

LEAST_INDEPENDENT = 10  # stretches of windows; fewer cannot tell
CORRELATION_TIMES = 3


def compare(losses: np.ndarray, reference: np.ndarray, ahead: int, day: int = 1) -> dict:
    """Skill of a forecast against a reference on the same windows, its 95 % interval, a test, and the verdict.

    Overlapping forecasts err alike, so the uncertainty comes from slow cosines (see ``standard_error``), as many as
    there are independent stretches; Student's t has as many degrees of freedom. The interval is the delta method's for
    a ratio of means. With several seeds it is conditional on them: of windows, not of initialisations.

    Args:
        losses: loss of each window in time order, one row per seed ``(seeds, n)``.
        reference: loss of the reference ``(n,)``.
        ahead: windows so far apart do not overlap.
        day: windows per day, if their errors may follow the hour.

    Returns:
        ``skill`` (1 - mean loss / mean reference; None if the reference never errs), ``skill_ci95``, ``dm_p_value``
        (Diebold & Mariano 1995 with fixed-smoothing critical values, Coroneo & Iacone 2020), both None below
        ``LEAST_INDEPENDENT`` stretches, ``independent_windows``, ``verdict``; with several seeds ``skill_seeds``.
    """
    losses, reference = np.asarray(losses, np.float64), np.asarray(reference, np.float64)
    loss, scale = losses.mean(axis=0), reference.mean()
    if scale == 0:
        skill, linear = None, reference - loss
    else:
        skill = 1 - loss.mean() / scale
        linear = ((1 - skill) * reference - loss) / scale  # each window's part in the error of skill
    count = min(independent_stretches(series, ahead, day) for series in (reference - loss, linear))
    interval = p_value = None
    if count >= LEAST_INDEPENDENT:
        p_value = diebold_mariano(loss, reference, count)
    if p_value is not None and skill is not None:
        half = stats.t.ppf(0.975, count) * standard_error(linear, count)
        interval = [float(skill - half), float(min(skill + half, 1))]
    answer = {
        "skill": None if skill is None else float(skill),
        "skill_ci95": interval,
        "dm_p_value": p_value,
        "independent_windows": count,
        "verdict": verdict(interval, p_value),
    }
    if len(losses) > 1 and skill is not None:
        answer["skill_seeds"] = (1 - losses.mean(axis=1) / scale).tolist()
    return answer


def independent_stretches(series: np.ndarray, ahead: int, day: int = 1) -> int:
    """How many stretches of the series ``(n,)`` are long enough to be nearly independent of each other.

    A stretch has at least ``2 * ahead`` windows, a day, and three correlation times ``(1 + r) / (1 - r)``, where ``r``
    is that of a first-order autoregression with the autocorrelation that the series shows ``ahead`` windows apart,
    corrected for its bias (Kendall 1954). Three are what keeps false verdicts below 7 % (see the tests).
    """
    n = len(series)
    if n <= ahead:
        return 0
    r = 0.0
    if np.ptp(series) > 0:
        centred = series - series.mean()
        r = float(centred[ahead:] @ centred[:-ahead] / (centred @ centred))
        r = float(np.clip(r + (1 + 3 * r) * ahead / n, 0, 1 - 1e-6)) ** (1 / ahead)
    return int(n / max(2 * ahead, day, CORRELATION_TIMES * (1 + r) / (1 - r)))


def standard_error(series: np.ndarray, count: int) -> float:
    """Standard error of the mean of an autocorrelated series, from its ``count`` slowest cosines.

    The equal-weighted cosine estimate (Müller 2004; Lazarus, Lewis, Stock & Watson 2018): the mean over its standard
    error follows Student's t with ``count`` degrees of freedom. With all ``n - 1`` cosines it is the usual one.
    """
    cosines = fft.dct(np.asarray(series, np.float64), norm="ortho")[1 : count + 1]
    return float(np.sqrt(np.mean(cosines**2) / len(series)))


def diebold_mariano(model: np.ndarray, naive: np.ndarray, count: int) -> float:
    """Two-sided p-value that both have the same expected loss.

    Args:
        model, naive: loss of each forecast ``(n,)``, in time order.
        count: independent stretches, at most ``n - 1``.
    """
    difference = np.asarray(model, np.float64) - naive
    if np.ptp(difference) == 0:
        return 1.0 if difference[0] == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference.mean()) / standard_error(difference, count), count))
