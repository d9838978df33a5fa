"""Forecasts to figures: what validation chooses; then the test split's errors, skill, intervals and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import fft, stats

from keras_a2 import runs, training
from keras_a2.page import verdict
from keras_a2.recurrent.baselines import Baseline, combine
from keras_a2.recurrent.data import Windows

if TYPE_CHECKING:
    from keras_a2.recurrent.train import Forecaster

WITH_RIDGE = "+ridge"
LEAST_INDEPENDENT = 10  # stretches of windows; fewer cannot tell
CORRELATION_TIMES = 3


@dataclass
class Choices:
    """What validation decides."""

    published: dict[str, str]  # cell -> its own name, or that of its mean with ridge regression
    best_naive: str
    best_naive_by_lead: list[str]
    metrics: dict[str, dict]  # every model and baseline -> its figures on validation
    best_seed: dict[str, int]  # every model -> position of its seed with the lowest loss


@dataclass
class Published:
    """What is published of a cell: its best seed on validation, alone or in the mean with ridge regression."""

    cell: str
    name: str  # as in the table: gru or gru+ridge
    seed: int
    forecaster: Forecaster
    ridge: Baseline | None
    forecast: np.ndarray  # of the test split, standardised (n, horizon, targets)


def on_validation(
    combining: bool | None,
    loss: str,
    windows: Windows,
    baselines: Sequence[Baseline],
    trained: dict[str, list[Forecaster]],
) -> Choices:
    """Choose the naive to beat, each cell's best seed, and whether it is published alone or with ridge regression.

    Args:
        combining: publish the mean with ridge regression, or never; None: where its ``loss`` is lower.
        loss: ``mae`` or ``mse``, which training minimised.
        baselines: fitted; the naive ones among them compete for being the reference.
        trained: cell -> one forecaster per seed.
    """
    linear, baseline_errors = _of_baselines(windows, "validation", baselines)
    figures, best_seed = {name: metrics(windows, error) for name, error in baseline_errors.items()}, {}
    for name, _, forecasts in _of_networks(windows, "validation", trained, linear):
        by_seed = [metrics(windows, errors(windows, forecast, "validation")) for forecast in forecasts]
        figures[name] = training.over_seeds(by_seed)
        best_seed[name] = int(np.argmin([each[f"{loss}_standardized"] for each in by_seed]))
    naive = {name: error for name, error in baseline_errors.items() if name != "ridge"}
    published = {}
    for cell in trained:
        pair = (cell, cell + WITH_RIDGE)
        by_loss = min(pair, key=lambda name: figures[name][f"{loss}_standardized"])
        published[cell] = by_loss if combining is None else pair[combining]
    overall = min(naive, key=lambda name: figures[name]["mae_standardized"])
    return Choices(published, overall, best_by_lead(naive), figures, best_seed)


def on_test(
    config: dict[str, Any],
    windows: Windows,
    baselines: Sequence[Baseline],
    trained: dict[str, list[Forecaster]],
    choices: Choices,
) -> tuple[dict[str, Any], list[Published]]:
    """Read the test split: errors, skill and verdicts of everything.

    Args:
        config: what is recorded; its ``seed`` is the first.

    Returns:
        the content of ``metrics.json``, and what is to be published, one per cell.
    """
    linear, references = _of_baselines(windows, "test", baselines)
    best_naive = merge_by_lead(references, choices.best_naive_by_lead)
    lines = {
        name: {"validation": choices.metrics[name], "test": metrics(windows, error)}
        for name, error in references.items()
    }
    naive = {name: error for name, error in references.items() if name != "ridge"}
    lines["ridge"]["test"] |= _comparisons(windows, [references["ridge"]], best_naive, naive)
    ridge = next(baseline for baseline in baselines if baseline.name == "ridge")
    published, models = [], {}
    for name, seeds, forecasts in _of_networks(windows, "test", trained, linear):
        by_seed = [errors(windows, forecast, "test") for forecast in forecasts]
        best = choices.best_seed[name]
        cell = name.removesuffix(WITH_RIDGE)
        if choices.published[cell] == name:
            combined = None if name == cell else ridge
            published.append(Published(cell, name, config["seed"] + best, seeds[best], combined, forecasts[best]))
        models[name] = {
            "seconds": sum(f.seconds for f in seeds),
            "best_seed": config["seed"] + best,  # of this seed: what follows up to validation, and what is published
            "epochs": seeds[best].history.epochs,
            "best_epoch": seeds[best].history.best_epoch,
            "parameters": seeds[best].parameters,
            "mae_by_hour": by_time(windows, by_seed[best], "hour"),
            "mae_by_month": by_time(windows, by_seed[best], "month"),
            "validation": choices.metrics[name],
            "test": training.over_seeds([metrics(windows, error) for error in by_seed])
            | _comparisons(windows, by_seed, best_naive, references),
        }
    of_best_naive = metrics(windows, best_naive)
    summary = {
        "experiment": "recurrent",
        "config": config,
        "environment": runs.environment(),
        "data": windows.summary(),
        "baselines": lines,
        "best_naive": choices.best_naive,
        "best_naive_by_lead": choices.best_naive_by_lead,
        "best_naive_test": of_best_naive,
        "hardest_naive": _hardest(lines, of_best_naive),
        "published": choices.published,
        "models": models,
    }
    return summary, published


def _of_baselines(
    windows: Windows, split: str, baselines: Sequence[Baseline]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ridge regression's standardised forecasts, and the errors of every baseline by name."""
    forecasts = {b.name: b.forecast(windows, windows.origins[split]) for b in baselines}
    return forecasts["ridge"], {name: errors(windows, f, split) for name, f in forecasts.items()}


def _of_networks(
    windows: Windows, split: str, trained: dict[str, list[Forecaster]], linear: np.ndarray
) -> Iterator[tuple[str, list[Forecaster], list[np.ndarray]]]:
    """Each network alone and with ridge regression: name, its seeds, and their standardised forecasts.

    Args:
        linear: ridge regression's forecasts of the split.
    """
    for cell, seeds in trained.items():
        own = [forecaster.forecast(windows, windows.origins[split]) for forecaster in seeds]
        yield cell, seeds, own
        yield cell + WITH_RIDGE, seeds, [combine(forecast, linear) for forecast in own]


def _comparisons(
    windows: Windows, by_seed: list[np.ndarray], best_naive: np.ndarray, references: dict[str, np.ndarray]
) -> dict:
    """One forecaster's test errors, one array per seed, compared with the best naive and with each reference."""
    others = {f"against_{name}": compare_errors(windows, by_seed, error) for name, error in references.items()}
    return compare_errors(windows, by_seed, best_naive) | others


def _hardest(baselines: dict[str, dict], best_naive: dict) -> str:
    """The naive with the lowest test error, ``best_naive`` unless a single one is lower: what the headline quotes.

    Validation chose the best naive of each lead; where another season changes the order, that would be too easy.
    """
    by_name = {name: line["test"]["mae_standardized"] for name, line in baselines.items() if name != "ridge"}
    single = min(by_name, key=by_name.__getitem__)
    return single if by_name[single] <= best_naive["mae_standardized"] else "best_naive"


def errors(windows: Windows, forecast: np.ndarray, split: str) -> np.ndarray:
    """Standardised errors ``(n, horizon, targets)`` of a forecast of a split."""
    return forecast - windows.actual(windows.origins[split])


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


def compare_errors(windows: Windows, errors: list[np.ndarray], reference: np.ndarray) -> dict:
    """``compare`` for the test windows' errors ``(n, horizon, targets)``, one array per seed, and a reference's."""
    day = 1 if windows.step is None else int(np.ceil(pd.Timedelta("1D") / windows.step))
    losses = np.stack([np.abs(e).mean(axis=(1, 2), dtype=np.float64) for e in errors])
    return compare(losses, np.abs(reference).mean(axis=(1, 2), dtype=np.float64), int(windows.future[-1]), day)


def by_time(windows: Windows, error: np.ndarray, part: str) -> dict[str, float]:
    """MAE in the target's unit by ``hour`` of the day or ``month`` of the forecast time; empty without times."""
    if windows.time is None:
        return {}
    rows = windows.origins["test"][:, np.newaxis] + windows.future
    when = getattr(windows.time, part).to_numpy()[rows].ravel()
    raw = np.abs(error * windows.target_scale).mean(axis=2).ravel()
    return {str(key): float(value) for key, value in pd.Series(raw).groupby(when).mean().items()}
