"""Forecasts to figures: what validation chooses; then the test split's errors, intervals, skill and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from keras_a2 import runs, training
from keras_a2.errors import UserError
from keras_a2.recurrent import intervals
from keras_a2.recurrent.baselines import Baseline, Persistence, Ridge, SeasonalNaive
from keras_a2.recurrent.combination import Combination, WindowNaive, choose_weights, combine, luck
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.intervals import Residuals
from keras_a2.recurrent.verdicts import LEAST_INDEPENDENT, compare, independent_stretches, standard_error

if TYPE_CHECKING:
    from keras_a2.recurrent.train import Forecaster

RIDGE, COMBINED, BEST_NAIVE = "ridge", "+combined", "best_naive"


@dataclass
class Choices:
    """What validation decides, and its residuals, which the intervals come from."""

    best_naive: str
    best_naive_by_lead: list[str]
    metrics: dict[str, dict]  # every model and baseline -> its figures on validation
    best_seed: dict[str, int]  # every model and baseline -> position of its seed with the lowest loss
    weights: dict[str, list[tuple[float, float, float]]]  # cell -> of naive, ridge and network, one per seed
    naives: Sequence[Baseline]
    naive: WindowNaive  # the best of them by lead, as far as a window reaches
    season: int
    spread: intervals.Spread
    residuals: dict[str, list[Residuals]]  # of every model and baseline, one per seed


@dataclass
class Published:
    """What is published of a cell: the combination with its best seed on validation."""

    cell: str
    name: str  # as in the table: gru+combined
    seed: int
    forecaster: Forecaster
    combination: Combination
    forecast: np.ndarray  # of the test split, standardised (n, horizon, targets)
    ends: np.ndarray  # of its intervals, lower and upper of each level in turn (2 * levels, n, horizon, targets)
    quantiles: np.ndarray  # those ends after the last row, divided by the spread (2 * levels, horizon, targets)
    epochs: int  # after which validation was best, the mean of the folds
    histories: list[training.History]  # of the last fold, one per seed

    def refit(self, windows: Windows, train: Callable[..., Forecaster]) -> Combination:
        """The combination with ridge regression and network trained again on every row.

        Args:
            train: (windows, part=, epochs=) -> the cell trained on the training split of the windows.
        """
        every, network = windows.on_all_rows(), None
        if self.combination.weights[2]:
            network = train(every, part="-refit", epochs=self.epochs)
        return replace(self.combination, ridge=self.combination.ridge.refit(every), network=network)


def naives(season: int, classical: bool) -> list[Baseline]:
    """What a network has to beat: the last value, and the last season. (``classical`` is for many series.)"""
    return [Persistence(), SeasonalNaive(season)]


def on_validation(
    loss: str,
    windows: Windows,
    folds: Sequence[Windows],
    naives: Sequence[Baseline],
    season: int,
    ridges: Sequence[Ridge],
    trained: dict[str, list[list[Forecaster]]],
) -> Choices:
    """Choose the naive to beat, each cell's best seed, and the weights that it is published with.

    Args:
        loss: ``mae`` or ``mse``, which training minimised.
        folds: whose validation windows all count alike.
        naives: of which the best by lead is the reference; ``season`` is theirs, in rows.
        ridges: one per fold.
        trained: cell -> for each seed one forecaster per fold.
    """
    origins = np.concatenate([fold.origins["validation"] for fold in folds])
    truth = windows.actual(origins)
    simple = {each.name: each.forecast(windows, origins) for each in naives}
    by_lead = best_by_lead({name: forecast - truth for name, forecast in simple.items()})
    naive = WindowNaive(windows, season, by_lead)
    inside, linear = naive.forecast(windows, origins), pooled(windows, folds, ridges)
    own = {cell: [pooled(windows, folds, by_fold) for by_fold in seeds] for cell, seeds in trained.items()}
    weights = {
        cell: [
            choose_weights([inside, linear, each], truth, loss, *reach(windows), luck(ridges[-1], by_fold, loss))
            for each, by_fold in zip(own[cell], seeds, strict=True)
        ]
        for cell, seeds in trained.items()
    }
    forecasts = with_combined(simple, inside, linear, own, weights)
    figures, best_seed = {}, {}
    for name, by_seed in forecasts.items():
        measured = [metrics(windows, forecast - truth) for forecast in by_seed]
        figures[name] = training.over_seeds(measured)
        best_seed[name] = int(np.argmin([each[f"{loss}_standardized"] for each in measured]))
    forecasts[BEST_NAIVE] = [merge_by_lead(simple, by_lead)]
    spread = intervals.Spread.of(windows, season)
    factors = spread(windows, origins)
    return Choices(
        best_naive=min(simple, key=lambda name: figures[name]["mae_standardized"]),
        best_naive_by_lead=by_lead,
        metrics=figures,
        best_seed=best_seed,
        weights=weights,
        naives=naives,
        naive=naive,
        season=season,
        spread=spread,
        residuals={name: [Residuals(truth - each, factors) for each in by_seed] for name, by_seed in forecasts.items()},
    )


def with_combined(
    simple: dict[str, np.ndarray],
    naive: np.ndarray,
    linear: np.ndarray,
    own: dict[str, list[np.ndarray]],
    weights: dict[str, list[tuple[float, float, float]]],
) -> dict[str, list[np.ndarray]]:
    """The forecasts of every model and baseline by name, one per seed, the combinations among them.

    Args:
        simple: of the naives; ``naive`` is the one in the combinations, and ``linear`` ridge regression.
        own: cell -> of its network, one per seed; ``weights`` likewise.
    """
    forecasts = {name: [forecast] for name, forecast in simple.items()} | {RIDGE: [linear]}
    for cell, by_seed in own.items():
        pairs = zip(weights[cell], by_seed, strict=True)
        forecasts |= {cell: by_seed, cell + COMBINED: [combine(w, [naive, linear, each]) for w, each in pairs]}
    return forecasts


def pooled(windows: Windows, folds: Sequence[Windows], forecasters: Sequence[Baseline | Forecaster]) -> np.ndarray:
    """The forecasts of each fold's validation windows, standardised as ``windows`` are ``(n, horizon, targets)``."""
    raw = [
        fold.to_unit(forecaster.forecast(fold, fold.origins["validation"]))
        for fold, forecaster in zip(folds, forecasters, strict=True)
    ]
    return (np.concatenate(raw) - windows.target_mean) / windows.target_scale


def on_test(
    config: dict[str, Any],
    windows: Windows,
    levels: list[float],
    ridge: Ridge,
    trained: dict[str, list[list[Forecaster]]],
    choices: Choices,
) -> tuple[dict[str, Any], list[Published]]:
    """Read the test split: errors, intervals, skill and verdicts of everything.

    Args:
        config: what is recorded; its ``seed`` is the first.
        levels: of the intervals, in per cent.
        ridge: of the last fold.
        trained: as ``on_validation``; those of the last fold are measured.

    Returns:
        the content of ``metrics.json``, and what is to be published, one per cell.
    """
    last = {cell: [by_fold[-1] for by_fold in seeds] for cell, seeds in trained.items()}
    origins = windows.origins["test"]
    truth, factors = windows.actual(origins), choices.spread(windows, origins)
    naives = {each.name: each.forecast(windows, origins) for each in choices.naives}
    own = {cell: [forecaster.forecast(windows, origins) for forecaster in seeds] for cell, seeds in last.items()}
    forecasts = with_combined(
        naives, choices.naive.forecast(windows, origins), ridge.forecast(windows, origins), own, choices.weights
    )
    forecasts[BEST_NAIVE] = [merge_by_lead(naives, choices.best_naive_by_lead)]
    scale = intervals.naive_scale(windows, choices.season)
    error = {name: [each - truth for each in by_seed] for name, by_seed in forecasts.items()}
    lines: dict[str, dict] = {}
    crps: dict[str, list[np.ndarray]] = {}
    for name, by_seed in error.items():
        scored = [
            score(windows, levels, past, Residuals(-each, factors), scale)
            for past, each in zip(choices.residuals[name], by_seed, strict=True)
        ]
        crps[name] = [each.crps for each in scored]
        figures = [metrics(windows, each) | scores.figures for each, scores in zip(by_seed, scored, strict=True)]
        inside = np.mean([each.inside for each in scored], axis=0)
        lines[name] = {"test": training.over_seeds(figures)}
        lines[name]["test"]["coverage_ci95"] = {
            f"{level:g}": mean_interval(windows, each) for level, each in zip(levels, inside, strict=True)
        }
    of_best_naive = lines.pop(BEST_NAIVE)["test"]
    for name, line in lines.items():
        line["validation"] = choices.metrics[name]
        if name not in naives:
            test, others = line["test"], [other for other in (*naives, RIDGE) if other != name]
            test |= compare_errors(windows, error[name], error[BEST_NAIVE][0])
            test |= {f"against_{other}": compare_errors(windows, error[name], error[other][0]) for other in others}
            test["crps_against_best_naive"] = compare(np.stack(crps[name]), crps[BEST_NAIVE][0], *reach(windows))
    published = []
    for cell, seeds in last.items():
        for name in (cell, cell + COMBINED):
            best = choices.best_seed[name]
            lines[name] = {
                "seconds": sum(forecaster.seconds for forecaster in seeds),
                "best_seed": config["seed"] + best,  # what follows up to validation, and what is published, is its
                "epochs": seeds[best].history.epochs,
                "best_epoch": seeds[best].history.best_epoch,
                "parameters": seeds[best].parameters,
                "mae_by_hour": by_time(windows, error[name][best], "hour"),
                "mae_by_month": by_time(windows, error[name][best], "month"),
            } | lines[name]
        combination = Combination(choices.weights[cell][best], choices.naive, ridge, seeds[best])
        lines[name]["combination"] = combination.named_weights()
        forecast = forecasts[name][best]
        past, new = choices.residuals[name][best], Residuals(truth - forecast, factors)
        paths = np.concatenate([interval(windows, level, past, new) for level in levels])
        published.append(
            Published(
                cell=cell,
                name=name,
                seed=config["seed"] + best,
                forecaster=seeds[best],
                combination=combination,
                forecast=forecast,
                ends=forecast + paths[:, :-1] * factors[:, np.newaxis],
                quantiles=paths[:, -1],
                epochs=round(np.mean([each.history.best_epoch for each in trained[cell][best]])),
                histories=[forecaster.history for forecaster in seeds],
            )
        )
    # Validation chose the best naive of each lead. Where the test split turns the order, a single naive is harder.
    single = {name: lines[name]["test"]["mae_standardized"] for name in naives}
    hardest = min(single, key=single.__getitem__)
    summary = {
        "experiment": "recurrent",
        "config": config,
        "environment": runs.environment(),
        "data": windows.summary(),
        "baselines": {name: lines[name] for name in (*naives, RIDGE)},
        "best_naive": choices.best_naive,
        "best_naive_by_lead": choices.best_naive_by_lead,
        "best_naive_test": of_best_naive,
        "naive_in_window": not choices.naive.short,
        "hardest_naive": hardest if single[hardest] <= of_best_naive["mae_standardized"] else BEST_NAIVE,
        "published": {winner.cell: winner.name for winner in published},
        "levels": levels,
        "models": {name: line for name, line in lines.items() if name not in (*naives, RIDGE)},
    }
    return summary, published


@dataclass
class Scored:
    """The scores of a forecaster's intervals: figures, and what intervals of figures need, window by window."""

    figures: dict[str, Any]
    crps: np.ndarray  # (n,), standardised
    inside: np.ndarray  # share of each window's values inside each level's interval (levels, n)


def score(windows: Windows, levels: list[float], past: Residuals, new: Residuals, scale: np.ndarray) -> Scored:
    """Scores of the intervals that begin with the residuals of validation and follow those of the test split.

    Args:
        past, new: of validation's and the test split's windows.
        scale: of MASE ``(targets,)``, standardised.

    Returns:
        with the figures ``coverage``, also by lead and by month, ``width_by_lead``, ``crps``, ``mase`` and ``msis``.
    """
    crps, inside, figures = np.zeros(new.values.shape), [], dict[str, Any]()
    by = {name: dict[str, Any]() for name in ("coverage", "coverage_by_lead", "coverage_by_month", "width_by_lead")}
    for level in sorted({*intervals.GRID, *levels}):
        path = interval(windows, level, past, new)[:, :-1]
        lower, upper = path * new.spread[:, np.newaxis]
        if level in intervals.GRID:
            for end, probability in zip((lower, upper), intervals.probabilities([level]), strict=True):
                crps += intervals.pinball(new.values, end, probability) / len(intervals.GRID)
        if level == intervals.SCORED:
            by_value = intervals.interval_score(new.values, lower, upper, level)
            figures["msis"] = float((by_value.mean(axis=(0, 1)) / scale).mean())
        if level in levels:
            covered, key = (lower <= new.values) & (new.values <= upper), f"{level:g}"
            inside.append(covered.mean(axis=(1, 2)))
            by["coverage"][key] = float(covered.mean())
            by["coverage_by_lead"][key] = covered.mean(axis=(0, 2)).tolist()
            by["coverage_by_month"][key] = by_time(windows, covered, "month", unit=False)
            by["width_by_lead"][key] = ((upper - lower) * windows.target_scale).mean(axis=(0, 2)).tolist()
    figures |= {
        "crps": float((crps * windows.target_scale).mean()),
        "crps_standardized": float(crps.mean()),
        "mase": float((np.abs(new.values).mean(axis=(0, 1)) / scale).mean()),
    }
    return Scored(figures | by, crps.mean(axis=(1, 2)), np.array(inside))


def interval(windows: Windows, level: float, past: Residuals, new: Residuals) -> np.ndarray:
    """Ends of an interval of the test windows' residuals, divided by their spread, as they would have been in use.

    Returns:
        at each origin, and when the last value is known ``(2, n + 1, horizon, targets)``.
    """
    origins = windows.origins["test"]
    start = intervals.quantiles(*past, intervals.probabilities([level]))
    rows = np.append(origins, origins[-1] + windows.future[-1])
    return intervals.adapted(start, level, *new, origins, windows.future, rows)


def levels(text: str) -> list[float]:
    """The levels of ``--levels``, ascending.

    Raises:
        UserError: not numbers between 0 and 100.
    """
    try:
        numbers = sorted({float(part) for part in text.split(",")})
    except ValueError:
        numbers = [0.0]
    if not 0 < numbers[0] <= numbers[-1] < 100:
        raise UserError(f"--levels {text!r} are not per cents between 0 and 100, such as 80,95")
    return numbers


def of_winner(metrics: dict, winner: Published, refit: bool, folds: int, backtest: list[dict]) -> dict:
    """``metrics.json`` of one published model: the figures of all, and what is true of this one."""
    line = metrics["models"][winner.name]
    return metrics | {
        "verdict": line["test"]["verdict"],
        "combination": line["combination"],
        "refit": refit,
        "folds": folds,
        "backtest": backtest,
    }


def backtest(
    winner: Published, choices: Choices, blocks: Sequence[Windows], train: Callable[..., Forecaster]
) -> list[dict[str, Any]]:
    """Train the recipe again before each block of the test split (``Windows.backtest``), and measure it there.

    Args:
        train: (windows, part=) -> the cell trained on the windows.

    Returns:
        rows and times of each block, and the mean absolute errors of the combination, with its weights as chosen, and
        of the best naive, in units.
    """
    answers = []
    for number, block in enumerate(blocks, 1):
        ridge = Ridge(winner.combination.ridge.channel_independent, choices.season)
        ridge.fit([block])
        network = train(block, part=f"-backtest{number}") if winner.combination.weights[2] else None
        combination = replace(winner.combination, ridge=ridge, network=network)
        origins = block.origins["test"]
        by_name = {each.name: errors(block, each.forecast(block, origins), "test") for each in choices.naives}
        ends = [int(origins[0] + block.future[0]), int(origins[-1] + block.future[-1])]
        answers.append(
            {
                "rows": ends,
                "times": [] if block.time is None else [str(block.time[end]) for end in ends],
                "windows": len(origins),
                "mae": metrics(block, errors(block, combination.forecast(block, origins), "test"))["mae"],
                "best_naive_mae": metrics(block, merge_by_lead(by_name, choices.best_naive_by_lead))["mae"],
            }
        )
    return answers


def mean_interval(windows: Windows, series: np.ndarray) -> list[float] | None:
    """A 95 % interval of the mean of an autocorrelated share ``(n,)``; None where there are too few stretches."""
    count = independent_stretches(series, *reach(windows))
    if count < LEAST_INDEPENDENT:
        return None
    half = stats.t.ppf(0.975, count) * standard_error(series, count)
    return [float(max(series.mean() - half, 0)), float(min(series.mean() + half, 1))]


def reach(windows: Windows) -> tuple[int, int]:
    """Windows so far apart do not overlap, and windows per day: as ``verdicts.compare`` takes them."""
    day = 1 if windows.step is None else int(np.ceil(pd.Timedelta("1D") / windows.step))
    return int(windows.future[-1]), day


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


def compare_errors(windows: Windows, errors: list[np.ndarray], reference: np.ndarray) -> dict:
    """``compare`` for the test windows' errors ``(n, horizon, targets)``, one array per seed, and a reference's."""
    losses = np.stack([np.abs(e).mean(axis=(1, 2), dtype=np.float64) for e in errors])
    return compare(losses, np.abs(reference).mean(axis=(1, 2), dtype=np.float64), *reach(windows))


def by_time(windows: Windows, error: np.ndarray, part: str, unit: bool = True) -> dict[str, float]:
    """Mean of absolute errors by ``hour`` of the day or ``month`` of the forecast time; empty without times.

    Args:
        error: of the test windows ``(n, horizon, targets)``, standardised.
        unit: in the target's unit.
    """
    if windows.time is None:
        return {}
    rows = windows.origins["test"][:, np.newaxis] + windows.future
    parts = getattr(windows.time, part).to_numpy()[rows].ravel()
    raw = np.abs(error * (windows.target_scale if unit else 1.0)).mean(axis=2).ravel()
    return {str(key): float(value) for key, value in pd.Series(raw).groupby(parts).mean().items()}
