"""The comparison: what validation chooses, then every figure of the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_a2 import runs, training
from keras_a2.recurrent import evaluate
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.train import Forecaster, Settings, beside

BESIDE_RIDGE = "+ridge"


@dataclass
class Choices:
    """What validation decides."""

    published: dict[str, str]  # cell -> its own name, or that of its mean with ridge regression
    best_naive: str
    best_naive_by_lead: list[str]
    metrics: dict[str, dict]  # every model and baseline -> its figures on validation


@dataclass
class Result:
    """Everything measured on the test split, read once."""

    metrics: dict
    errors: dict[str, np.ndarray]  # name -> standardised test errors (n, horizon, targets), of the first seed
    predicted: dict[str, list[np.ndarray]]  # what is published -> standardised forecasts, one per seed


def on_validation(
    combine: bool | None, loss: str, windows: Windows, baselines: list, trained: dict[str, list[Forecaster]]
) -> Choices:
    """Choose the naive to beat, and for each cell whether the network is published alone or beside ridge regression.

    Args:
        combine: publish the mean with ridge regression, or never; None: where its ``loss`` is lower.
        baselines: fitted; the naive ones among them compete for being the reference.
        trained: cell -> one forecaster per seed.
    """
    linear, found = _of_baselines(windows, "validation", baselines)
    metrics = {name: evaluate.metrics(windows, error) for name, error in found.items()}
    for name, _, forecasts in _of_networks(windows, "validation", trained, linear):
        errors = [evaluate.errors(windows, forecast, "validation") for forecast in forecasts]
        metrics[name] = training.over_seeds([evaluate.metrics(windows, error) for error in errors])
    naive = {name: error for name, error in found.items() if name != "ridge"}
    published = {}
    for cell in trained:
        pair = (cell, cell + BESIDE_RIDGE)
        by_loss = min(pair, key=lambda name: metrics[name][f"{loss}_standardized"])
        published[cell] = by_loss if combine is None else pair[combine]
    overall = min(naive, key=lambda name: metrics[name]["mae"])
    return Choices(published, overall, evaluate.best_by_lead(naive), metrics)


def on_test(
    config,
    settings: Settings,
    windows: Windows,
    baselines: list,
    trained: dict[str, list[Forecaster]],
    choices: Choices,
) -> Result:
    """Read the test split: errors, skill and significance of everything, in the form of ``metrics.json``."""
    linear, references = _of_baselines(windows, "test", baselines)
    best_naive = evaluate.merge_by_lead(references, choices.best_naive_by_lead)
    lines = {
        name: {"validation": choices.metrics[name], "test": evaluate.metrics(windows, error)}
        for name, error in references.items()
    }
    lines["ridge"]["test"] |= evaluate.against(windows, references["ridge"], best_naive)
    errors, predicted, models = dict(references), {}, {}
    for name, seeds, forecasts in _of_networks(windows, "test", trained, linear):
        found = [evaluate.errors(windows, forecast, "test") for forecast in forecasts]
        errors[name] = found[0]
        if name in choices.published.values():
            predicted[name] = forecasts
        models[name] = {
            "seconds": sum(f.seconds for f in seeds),
            "epochs": seeds[0].history.epochs,
            "best_epoch": seeds[0].history.best_epoch,
            "parameters": seeds[0].parameters,
            "validation": choices.metrics[name],
            "test": training.over_seeds([_compared(windows, error, best_naive, references) for error in found]),
            "mae_by_hour": evaluate.by_time(windows, errors[name], "hour"),
            "mae_by_month": evaluate.by_time(windows, errors[name], "month"),
        }
    summary = {
        "experiment": "recurrent",
        "config": dataclasses.asdict(config)
        | dataclasses.asdict(settings)
        | {"seed": config.seed, "output": str(config.output)},
        "environment": runs.environment(),
        "data": windows.summary(),
        "baselines": lines,
        "best_naive": choices.best_naive,
        "best_naive_by_lead": choices.best_naive_by_lead,
        "best_naive_test": evaluate.metrics(windows, best_naive),
        "published": choices.published,
        "models": models,
    }
    return Result(summary, errors, predicted)


def _of_baselines(windows: Windows, split: str, baselines: list) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ridge regression's standardised forecasts, and the errors of every baseline by name."""
    forecasts = {b.name: b.forecast(windows, windows.origins[split]) for b in baselines}
    return forecasts["ridge"], {name: evaluate.errors(windows, f, split) for name, f in forecasts.items()}


def _of_networks(
    windows: Windows, split: str, trained: dict[str, list[Forecaster]], linear: np.ndarray
) -> Iterator[tuple[str, list[Forecaster], list[np.ndarray]]]:
    """Each network alone and beside ridge: name, its seeds, and their standardised forecasts.

    Args:
        linear: ridge regression's forecasts of the split.
    """
    for cell, seeds in trained.items():
        own = [forecaster.forecast(windows, windows.origins[split]) for forecaster in seeds]
        yield cell, seeds, own
        yield cell + BESIDE_RIDGE, seeds, [beside(forecast, linear) for forecast in own]


def _compared(windows: Windows, error: np.ndarray, best_naive: np.ndarray, references: dict[str, np.ndarray]) -> dict:
    """Figures of one forecast's test errors, alone and against the best naive and every baseline."""
    others = {f"against_{name}": evaluate.against(windows, error, other) for name, other in references.items()}
    return evaluate.metrics(windows, error) | evaluate.against(windows, error, best_naive) | others
