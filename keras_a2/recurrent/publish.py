"""From measured forecasters to published versions: SavedModel, figures, card, predictions, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2 import deployment, page, runs, saved_model
from keras_a2.console import console
from keras_a2.recurrent import evaluate, figures, present
from keras_a2.recurrent import model as models
from keras_a2.recurrent.baselines import Ridge
from keras_a2.recurrent.data import CALENDAR, Windows
from keras_a2.recurrent.measure import Result
from keras_a2.recurrent.train import Forecaster

VERIFIED_WINDOWS = 64
TOLERANCE = 1e-4
MAX_PREDICTIONS = 3_000_000  # numbers in predictions.csv; more are thinned to forecasts that do not overlap


@dataclass
class Pick:
    """What is published of a cell: its best seed on validation, if so chosen beside ridge regression."""

    cell: str
    name: str  # as in the table: gru or gru+ridge
    seed: int
    forecaster: Forecaster
    predicted: np.ndarray  # its standardised forecasts of the test split (n, horizon, targets)


def publish(
    run: runs.Run, config, windows: Windows, trained: dict[str, list[Forecaster]], ridge: Ridge, result: Result
) -> None:
    """Print the comparison and publish one version per cell.

    Args:
        trained: cell -> one forecaster per seed.
        ridge: the fitted baseline.
    """
    present.show(result.metrics)
    for cell, seeds in trained.items():
        name = config.name or runs.folder_name(f"recurrent-{windows.name}-{cell}")
        if config.name and len(trained) > 1:
            name = f"{config.name}-{cell}"
        with saved_model.FreshProcess() as fresh, run.publishing(name) as folder:
            _fill(folder, fresh, config, windows, _pick(cell, seeds, ridge, result), seeds, result, name)
        console.print(f"published {run.version} (open {run.version / 'report.html'})")


def _pick(cell: str, seeds: list[Forecaster], ridge: Ridge, result: Result) -> Pick:
    name = result.metrics["published"][cell]
    seed = result.metrics["models"][name]["best_seed"]
    best = seeds[seed - result.metrics["config"]["seed"]]
    forecaster = best if name == cell else best.with_ridge(ridge)
    return Pick(cell, name, seed, forecaster, result.predicted[name])


def _fill(folder: Path, fresh, config, windows, pick: Pick, seeds, result: Result, name: str) -> None:
    best = pick.forecaster
    model = models.assemble(best.network, windows, best.channel_independent, best.options, best.ridge)
    saved_model.export(model, models.endpoints(model, windows), folder)
    pictures = _figures(folder / "figures", windows, pick, result)
    predictions(windows, pick.predicted).to_csv(folder / "predictions.csv", index=False)
    _example(windows).to_csv(folder / "example.csv", index=windows.time is not None)
    numbered = enumerate(seeds, config.seed)
    rows = [{"seed": seed, "model": pick.cell, **row} for seed, f in numbered for row in f.history.table()]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    some = windows.origins["test"][:VERIFIED_WINDOWS]
    expected = windows.to_unit(best.forecast(windows, some))
    expected = expected[..., 0] if len(windows.targets) == 1 else expected
    check = fresh.verify(folder, [windows.raw(some)], [expected], TOLERANCE, windows.target_scale)
    metrics = result.metrics | {"saved_model_check": check}
    runs.write_json(folder / "metrics.json", metrics)
    card = _card(windows, pick, metrics, name)
    if config.litert:
        card["litert"] = deployment.export_litert(folder, windows.raw(some))
    runs.write_json(folder / "model.json", card)
    present.write_page(config, windows, pick.name, name, metrics, pictures, folder / "report.html")


def _card(windows: Windows, pick: Pick, metrics: dict, name: str) -> dict:
    return {
        "experiment": "recurrent",
        "task": "forecasting",
        "name": name,
        "cell": pick.cell,
        "forecaster": pick.name,
        "seed": pick.seed,
        "inputs": windows.inputs,
        "targets": windows.targets,
        "unit": windows.unit,
        "typical_errors": typical_errors(windows, pick.predicted),
        "look_back": windows.look_back,
        "horizon": windows.horizon,
        "every": windows.every,
        "first_lead": windows.first_lead,
        "max_gap": windows.facts["max_gap"],
        "spacing_seconds": None if windows.step is None else windows.step.total_seconds(),
        "input": "float64 windows in the columns' own units (batch, look_back, inputs), oldest row first",
        "output": "forecasts in the targets' units (batch, horizon) or (batch, horizon, targets)",
        "data": {"name": windows.name, "sha256": windows.sha256, "citation": windows.facts["citation"]},
        "weights": {"origin": "random"},
        "headline": present.card_headline(metrics, pick.name),
        "saved_model_check": metrics["saved_model_check"],
        "environment": metrics["environment"],
    }


def _example(windows: Windows) -> pd.DataFrame:
    """The last window of the test split in its own units: an input to try the published model on."""
    origin = int(windows.origins["test"][-1])
    rows = np.arange(origin + windows.past[0], origin + 1)
    raw = windows.values[rows] * windows.scale + windows.mean
    measured = [name for name in windows.inputs if name not in CALENDAR]
    frame = pd.DataFrame(raw, columns=windows.inputs)[measured]
    if windows.time is not None:
        frame.index = windows.time[rows].rename("time")
    return frame


def typical_errors(windows: Windows, forecast: np.ndarray) -> list[float]:
    """The digits of a forecast follow from its error, not from its level.

    Returns:
        per target the mean absolute error of the test split or, if smaller, the standard deviation, in its unit.
    """
    error = np.abs(evaluate.errors(windows, forecast, "test")).mean(axis=(0, 1))
    return (np.where(error > 0, np.minimum(error, 1), 1) * windows.target_scale).tolist()


def predictions(windows: Windows, forecast: np.ndarray) -> pd.DataFrame:
    """One row per test window and target: the origin, each lead's truth and each lead's forecast, in units.

    Args:
        forecast: standardised, of all test windows ``(n, horizon, targets)``.
    """
    errors = typical_errors(windows, forecast)
    origins = windows.origins["test"]
    keep = np.arange(len(origins))
    if forecast.size * 2 > MAX_PREDICTIONS:
        keep = keep[:: int(windows.future[-1])]
    wanted, got = windows.to_unit(windows.wanted(origins[keep])), windows.to_unit(forecast[keep])
    start = origins[keep] if windows.time is None else windows.time[origins[keep]].astype(str)
    leads = windows.leads
    frames = []
    for k, target in enumerate(windows.targets):
        frame = pd.DataFrame({"origin": start, "target": target})
        truth = pd.DataFrame(wanted[:, :, k], columns=[f"truth_{lead}" for lead in leads])
        predicted = pd.DataFrame(got[:, :, k], columns=[f"forecast_{lead}" for lead in leads])
        digits = page.decimals(errors[k], page.FILE_DIGITS)
        frames.append(pd.concat([frame, truth.round(digits), predicted.round(digits)], axis=1))
    return pd.concat(frames)


def _figures(folder: Path, windows: Windows, pick: Pick, result: Result) -> list[tuple[str, Path]]:
    folder.mkdir()
    measured = result.metrics["baselines"] | result.metrics["models"]
    by_lead = {name: of["test"]["mae_by_lead"] for name, of in measured.items()}
    shown = {pick.name: pick.predicted}
    pictures = [("Error by lead of every model and baseline", folder / "error_by_lead.png")]
    figures.error_by_lead(windows, by_lead, pictures[0][1])
    pictures.append(("Successive forecasts against truth", folder / "successive.png"))
    figures.successive(windows, shown, pictures[-1][1])
    pictures.append(("A very good (98 % are worse), the median and the worst test window", folder / "forecasts.png"))
    figures.forecasts(windows, shown, pictures[-1][1])
    pictures.append(("Validation error by epoch", folder / "learning_curves.png"))
    figures.learning_curves({pick.cell: pick.forecaster.history}, pictures[-1][1])
    if windows.time is not None and windows.step < pd.Timedelta("1D"):
        pictures.append(("Residuals by hour of the day", folder / "residuals_by_hour.png"))
        figures.residuals_by_hour(windows, evaluate.errors(windows, pick.predicted, "test"), pictures[-1][1])
    return pictures
