"""From measured forecasters to published versions: SavedModel, figures, card, predictions, report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2 import litert, report, runs, saved_model
from keras_a2.console import console
from keras_a2.recurrent import figures, present
from keras_a2.recurrent import model as models
from keras_a2.recurrent.baselines import Ridge
from keras_a2.recurrent.data import CALENDAR, Windows
from keras_a2.recurrent.measure import Result
from keras_a2.recurrent.train import Forecaster

VERIFIED_WINDOWS = 64
TOLERANCE = 1e-4
MAX_PREDICTIONS = 3_000_000  # numbers in predictions.csv; more are thinned to forecasts that do not overlap


def state_file(folder: Path, seed: int, cell: str) -> Path:
    """Where one cell with one seed keeps its state."""
    return runs.state_file(folder, f"seed{seed}-{cell}")


def describe(windows: Windows) -> None:
    """Say what was found, and what was filled or dropped."""
    facts = windows.facts
    console.print(
        f"{windows.name}: {len(windows.values)} rows, {len(windows.inputs)} inputs, "
        f"target {', '.join(windows.targets[:8])}; "
        + ", ".join(f"{len(windows.origins[split])} {split}" for split in windows.origins)
        + " windows"
    )
    if facts["missing_values"] or facts["windows_dropped"]:
        console.print(
            f"note: {facts['missing_values']} missing values, {facts['grid_rows_added']} absent rows; gaps of at most "
            f"{facts['max_gap']} steps were filled from the past, {facts['windows_dropped']} windows dropped"
        )


def publish(
    run: runs.Run, config, windows: Windows, trained: dict[str, list[Forecaster]], ridge: Ridge, result: Result
) -> None:
    """Print the comparison and publish one version per cell: its best seed, if so chosen beside ridge regression.

    Args:
        trained: cell -> one forecaster per seed.
        ridge: the fitted baseline.
    """
    present.show(result.metrics)
    for cell, seeds in trained.items():
        name = config.name or f"recurrent-{windows.name}-{cell}"
        if config.name and len(trained) > 1:
            name = f"{config.name}-{cell}"
        with saved_model.FreshProcess() as fresh, run.publishing(name) as folder:
            _fill(folder, fresh, config, windows, cell, seeds, ridge, result, name)
        console.print(f"published {run.version} (open {run.version / 'report.html'})")


def _fill(folder: Path, fresh, config, windows, cell, seeds, ridge: Ridge, result: Result, name: str) -> None:
    number = int(np.argmin([f.history.best["validation_mae"] for f in seeds]))
    chosen = result.metrics["published"][cell]
    best = seeds[number] if chosen == cell else seeds[number].with_ridge(ridge)
    predicted = result.predicted[chosen][number]
    model = models.assemble(best.network, windows, best.channel_independent, best.options, best.ridge)
    saved_model.export(model, models.endpoints(model, windows), folder)
    pictures = _figures(folder / "figures", windows, cell, chosen, best, predicted, result)
    _predictions(windows, predicted).to_csv(folder / "predictions.csv", index=False, float_format="%.5g")
    _example(windows).to_csv(folder / "example.csv", index=windows.time is not None)
    rows = [{"seed": k, "model": cell, **row} for k, f in enumerate(seeds) for row in f.history.table()]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    some = windows.origins["test"][:VERIFIED_WINDOWS]
    expected = windows.to_unit(best.forecast(windows, some))
    expected = expected[..., 0] if len(windows.targets) == 1 else expected
    check = fresh.verify(folder, [windows.raw(some)], [expected], TOLERANCE)
    metrics = result.metrics | {"saved_model_check": check}
    runs.write_json(folder / "metrics.json", metrics)
    card = _card(windows, cell, metrics, name)
    if config.litert:
        card["litert"] = litert.export(folder, windows.raw(some))
    runs.write_json(folder / "model.json", card)
    present.page(config, windows, chosen, name, metrics, pictures, folder / "report.html")


def _card(windows: Windows, cell: str, metrics: dict, name: str) -> dict:
    chosen = metrics["published"][cell]
    test = metrics["models"][chosen]["test"]
    return {
        "experiment": "recurrent",
        "task": "forecasting",
        "name": name,
        "cell": cell,
        "forecaster": chosen,
        "inputs": windows.inputs,
        "targets": windows.targets,
        "unit": windows.unit,
        "look_back": windows.look_back,
        "horizon": windows.horizon,
        "every": windows.every,
        "first_lead": windows.first_lead,
        "max_gap": windows.facts["max_gap"],
        "spacing_seconds": None if windows.step is None else windows.step.total_seconds(),
        "input": "float32 windows in the columns' own units (batch, look_back, inputs), oldest row first",
        "output": "forecasts in the targets' units (batch, horizon) or (batch, horizon, targets)",
        "data": {"name": windows.name, "sha256": windows.sha256, "citation": windows.facts["citation"]},
        "weights": {"origin": "random"},
        "headline": f"MAE {report.number(test['mae'])} {windows.unit}, skill {report.percent(test['skill'])}",
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


def _predictions(windows: Windows, forecast: np.ndarray) -> pd.DataFrame:
    """One row per test window and target: the origin, each lead's truth and each lead's forecast, in units."""
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
        frames.append(pd.concat([frame, truth, predicted], axis=1))
    return pd.concat(frames)


def _figures(
    folder: Path, windows: Windows, cell: str, chosen: str, best: Forecaster, predicted: np.ndarray, result: Result
) -> list[tuple[str, Path]]:
    folder.mkdir()
    by_lead = {name: np.abs(e * windows.target_scale).mean(axis=(0, 2)).tolist() for name, e in result.errors.items()}
    shown = {chosen: predicted}
    pictures = [("Error by lead of every model and baseline", folder / "error_by_lead.png")]
    figures.error_by_lead(windows, by_lead, pictures[0][1])
    pictures.append(("Three weeks of forecasts against truth", folder / "weeks.png"))
    figures.weeks(windows, shown, pictures[-1][1])
    pictures.append(("Best, typical and worst test window", folder / "forecasts.png"))
    figures.forecasts(windows, shown, pictures[-1][1])
    pictures.append(("Validation error by epoch", folder / "learning_curves.png"))
    figures.learning_curves({cell: best.history}, pictures[-1][1])
    if windows.time is not None and windows.step < pd.Timedelta("1D"):
        pictures.append(("Residuals by hour of the day", folder / "residuals_by_hour.png"))
        figures.residuals_by_hour(windows, predicted - windows.wanted(windows.origins["test"]), pictures[-1][1])
    return pictures
