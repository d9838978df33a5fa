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
    best_seed: dict[str, int]  # every model -> position of its seed with the lowest loss


@dataclass
class Result:
    """Everything measured on the test split, read once."""

    metrics: dict
    predicted: dict[str, np.ndarray]  # what is published -> standardised forecasts of its best seed


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
    metrics, best_seed = {name: evaluate.metrics(windows, error) for name, error in found.items()}, {}
    for name, _, forecasts in _of_networks(windows, "validation", trained, linear):
        errors = [evaluate.errors(windows, forecast, "validation") for forecast in forecasts]
        figures = [evaluate.metrics(windows, error) for error in errors]
        metrics[name] = training.over_seeds(figures)
        best_seed[name] = int(np.argmin([figure[f"{loss}_standardized"] for figure in figures]))
    naive = {name: error for name, error in found.items() if name != "ridge"}
    published = {}
    for cell in trained:
        pair = (cell, cell + BESIDE_RIDGE)
        by_loss = min(pair, key=lambda name: metrics[name][f"{loss}_standardized"])
        published[cell] = by_loss if combine is None else pair[combine]
    overall = min(naive, key=lambda name: metrics[name]["mae_standardized"])
    return Choices(published, overall, evaluate.best_by_lead(naive), metrics, best_seed)


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
    for name, error in references.items():
        if name != "ridge":
            lines["ridge"]["test"][f"against_{name}"] = evaluate.against(windows, [references["ridge"]], error)
    lines["ridge"]["test"] |= evaluate.against(windows, [references["ridge"]], best_naive)
    predicted, models = {}, {}
    for name, seeds, forecasts in _of_networks(windows, "test", trained, linear):
        found = [evaluate.errors(windows, forecast, "test") for forecast in forecasts]
        best = choices.best_seed[name]
        if name in choices.published.values():
            predicted[name] = forecasts[best]
        models[name] = {
            "seconds": sum(f.seconds for f in seeds),
            "best_seed": config.seed + best,  # of this seed: what follows up to validation, and what is published
            "epochs": seeds[best].history.epochs,
            "best_epoch": seeds[best].history.best_epoch,
            "parameters": seeds[best].parameters,
            "mae_by_hour": evaluate.by_time(windows, found[best], "hour"),
            "mae_by_month": evaluate.by_time(windows, found[best], "month"),
            "validation": choices.metrics[name],
            "test": _compared(windows, found, best_naive, references),
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
        "hardest_naive": _hardest(lines, evaluate.metrics(windows, best_naive)),
        "published": choices.published,
        "models": models,
    }
    return Result(summary, predicted)


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


def _compared(
    windows: Windows, errors: list[np.ndarray], best_naive: np.ndarray, references: dict[str, np.ndarray]
) -> dict:
    """One forecaster's test errors, one array per seed: its figures, and against the best naive and each baseline."""
    others = {f"against_{name}": evaluate.against(windows, errors, other) for name, other in references.items()}
    figures = training.over_seeds([evaluate.metrics(windows, error) for error in errors])
    return figures | evaluate.against(windows, errors, best_naive) | others


def _hardest(baselines: dict[str, dict], best_naive: dict) -> str:
    """The naive with the lowest test error, ``best_naive`` unless a single one is lower: what the headline quotes.

    Validation chose the best naive of each lead; where another season changes the order, that would be too easy.
    """
    errors = {name: line["test"]["mae_standardized"] for name, line in baselines.items() if name != "ridge"}
    single = min(errors, key=errors.__getitem__)
    return single if errors[single] <= best_naive["mae_standardized"] else "best_naive"
