"""Forecasts to figures: what validation chooses; then the test split's errors, skill, intervals and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
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

RIDGE, WITH_RIDGE = "ridge", "+ridge"
LEAST_INDEPENDENT = 10  # stretches of windows; fewer cannot tell
CORRELATION_TIMES = 3


@dataclass
class Choices:
    """What validation decides."""

    published: dict[str, str]  # cell -> its own name, or that of its mean with ridge regression
    best_naive: str
    best_naive_by_lead: list[str]
    metrics: dict[str, dict]  # every model and baseline -> its figures on validation
    best_seed: dict[str, int]  # every model and baseline -> position of its seed with the lowest loss


@dataclass
class Published:
    """What is published of a cell: its best seed on validation, alone or in the mean with ridge regression."""

    cell: str
    name: str  # as in the table: gru or gru+ridge
    seed: int
    forecaster: Forecaster
    combined: bool  # with ridge regression
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
    references = {baseline.name for baseline in baselines}
    figures, best_seed, naive = {}, {}, {}
    for name, by_seed in forecasts(windows, "validation", baselines, trained).items():
        error = [errors(windows, forecast, "validation") for forecast in by_seed]
        measured = [metrics(windows, each) for each in error]
        figures[name] = training.over_seeds(measured)
        best_seed[name] = int(np.argmin([each[f"{loss}_standardized"] for each in measured]))
        if name in references and name != RIDGE:
            naive[name] = error[0]
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
    predicted = forecasts(windows, "test", baselines, trained)
    error = {name: [errors(windows, each, "test") for each in by_seed] for name, by_seed in predicted.items()}
    references = {baseline.name: error[baseline.name][0] for baseline in baselines}
    naive = [name for name in references if name != RIDGE]
    best_naive = merge_by_lead(references, choices.best_naive_by_lead)
    lines: dict[str, dict] = {}
    for name, by_seed in error.items():
        test = training.over_seeds([metrics(windows, each) for each in by_seed])
        if name not in naive:
            others = {f"against_{other}": each for other, each in references.items() if other != name}
            test |= compare_errors(windows, by_seed, best_naive)
            test |= {key: compare_errors(windows, by_seed, each) for key, each in others.items()}
        lines[name] = {"validation": choices.metrics[name], "test": test}
    published = []
    for cell, seeds in trained.items():
        for name in (cell, cell + WITH_RIDGE):
            best = choices.best_seed[name]
            lines[name] = {
                "seconds": sum(forecaster.seconds for forecaster in seeds),
                "best_seed": config["seed"]
                + best,  # of this seed: what follows up to validation, and what is published
                "epochs": seeds[best].history.epochs,
                "best_epoch": seeds[best].history.best_epoch,
                "parameters": seeds[best].parameters,
                "mae_by_hour": by_time(windows, error[name][best], "hour"),
                "mae_by_month": by_time(windows, error[name][best], "month"),
            } | lines[name]
            if choices.published[cell] == name:
                forecast = predicted[name][best]
                published.append(Published(cell, name, config["seed"] + best, seeds[best], name != cell, forecast))
    # Validation chose the best naive of each lead. Where the test split turns the order, a single naive is harder.
    of_best_naive = metrics(windows, best_naive)
    single = {name: lines[name]["test"]["mae_standardized"] for name in naive}
    hardest = min(naive, key=single.__getitem__)
    summary = {
        "experiment": "recurrent",
        "config": config,
        "environment": runs.environment(),
        "data": windows.summary(),
        "baselines": {name: lines[name] for name in references},
        "best_naive": choices.best_naive,
        "best_naive_by_lead": choices.best_naive_by_lead,
        "best_naive_test": of_best_naive,
        "hardest_naive": hardest if single[hardest] <= of_best_naive["mae_standardized"] else "best_naive",
        "published": choices.published,
        "models": {name: line for name, line in lines.items() if name not in references},
    }
    return summary, published


def forecasts(
    windows: Windows, split: str, baselines: Sequence[Baseline], trained: dict[str, list[Forecaster]]
) -> dict[str, list[np.ndarray]]:
    """Standardised forecasts of each baseline, each network, and each network with ridge regression, one per seed."""
    origins = windows.origins[split]
    answers = {baseline.name: [baseline.forecast(windows, origins)] for baseline in baselines}
    for cell, seeds in trained.items():
        answers[cell] = [forecaster.forecast(windows, origins) for forecaster in seeds]
        answers[cell + WITH_RIDGE] = [combine(own, answers[RIDGE][0]) for own in answers[cell]]
    return answers


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
    by_lead = [np.abs(error).mean(axis=(0, 2)) for error in validation_errors.values()]
    return [list(validation_errors)[k] for k in np.argmin(by_lead, axis=0)]


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
