"""From trained forecasters to published versions: metrics, figures, card, predictions, SavedModel, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2 import litert, report, runs, saved_model, training
from keras_a2.console import console
from keras_a2.recurrent import evaluate, figures, present
from keras_a2.recurrent import model as models
from keras_a2.recurrent.data import CALENDAR, Windows
from keras_a2.recurrent.train import Forecaster, Settings

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


def choose(
    combine: bool | None,
    windows: Windows,
    loss: str,
    alone: dict[str, list[Forecaster]],
    beside_ridge: dict[str, list[Forecaster]],
) -> dict[str, list[Forecaster]]:
    """For each cell what is published: the network alone or its mean with ridge regression, if not told by validation.

    Args:
        alone, beside_ridge: cell -> one forecaster per seed.
    """
    chosen = {}
    for cell in alone:
        pair = (alone[cell], beside_ridge[cell])
        if combine is None:
            chosen[cell] = min(pair, key=lambda forecasters: evaluate.validation_loss(windows, forecasters, loss))
        else:
            chosen[cell] = pair[combine]
    return chosen


@dataclasses.dataclass
class Result:
    """Everything measured on the test split, read once."""

    metrics: dict
    errors: dict[str, np.ndarray]  # name -> standardised test errors (n, horizon, targets)
    predicted: dict[str, np.ndarray]  # networks, alone and beside ridge: standardised forecasts of the first seed


def measure(
    config, settings: Settings, windows: Windows, baselines: list, trained: list[dict[str, list[Forecaster]]]
) -> Result:
    """Choose the naive on validation, then read the test split: errors, skill and significance of everything.

    Args:
        baselines: fitted; the naive ones among them compete for being the reference.
        trained: networks alone, and beside ridge: cell -> one forecaster per seed.
    """
    naive = [b for b in baselines if b.name != "ridge"]
    validation = {
        b.name: evaluate.errors(windows, b.forecast(windows, windows.origins["validation"]), "validation")
        for b in naive
    }
    best = evaluate.best_by_lead(validation)
    overall = min(validation, key=lambda name: np.abs(validation[name]).mean())

    test = windows.origins["test"]
    errors = {b.name: evaluate.errors(windows, b.forecast(windows, test), "test") for b in baselines}
    reference = evaluate.merge_by_lead(errors, best)
    summary = {
        "experiment": "recurrent",
        "config": dataclasses.asdict(config)
        | dataclasses.asdict(settings)
        | {"seed": config.seed, "output": str(config.output)},
        "environment": runs.environment(),
        "data": windows.summary(),
        "baselines": {name: {"test": evaluate.metrics(windows, error)} for name, error in errors.items()},
        "best_naive": overall,
        "best_naive_by_lead": best,
        "best_naive_test": evaluate.metrics(windows, reference),
        "models": {},
    }
    summary["baselines"]["ridge"]["test"] |= evaluate.against(windows, errors["ridge"], reference)
    predicted, names = {}, list(summary["baselines"])
    for seeds in (group[cell] for cell in trained[0] for group in trained):
        name = seeds[0].name
        forecasts = [f.forecast(windows, test) for f in seeds]
        tests = []
        for forecast in forecasts:
            error = evaluate.errors(windows, forecast, "test")
            others = {f"against_{other}": evaluate.against(windows, error, errors[other]) for other in names}
            tests.append(evaluate.metrics(windows, error) | evaluate.against(windows, error, reference) | others)
        predicted[name] = forecasts[0]
        errors[name] = evaluate.errors(windows, forecasts[0], "test")
        summary["models"][name] = {
            "seconds": sum(f.seconds for f in seeds),
            "epochs": seeds[0].history.epochs,
            "best_epoch": seeds[0].history.best_epoch,
            "parameters": seeds[0].parameters,
            "test": training.over_seeds(tests),
            "mae_by_hour": evaluate.by_time(windows, errors[name], "hour"),
            "mae_by_month": evaluate.by_time(windows, errors[name], "month"),
        }
    return Result(summary, errors, predicted)


def publish(run: runs.Run, config, windows: Windows, chosen: dict[str, list[Forecaster]], result: Result) -> None:
    """Print the comparison and publish one version per cell.

    Args:
        chosen: cell -> one forecaster per seed.
    """
    present.show(result.metrics, [seeds[0].name for seeds in chosen.values()])
    for cell, seeds in chosen.items():
        best = min(seeds, key=lambda f: f.history.best["validation_mae"])
        name = config.name or f"recurrent-{windows.name}-{cell}"
        if config.name and len(chosen) > 1:
            name = f"{config.name}-{cell}"
        with saved_model.FreshProcess() as fresh, run.publishing(name) as folder:
            _fill(folder, fresh, config, windows, cell, seeds, best, result, name)
        console.print(f"published {run.version} (open {run.version / 'report.html'})")


def _fill(folder: Path, fresh, config, windows, cell, seeds, best: Forecaster, result: Result, name: str) -> None:
    model = models.assemble(best.network, windows, best.channel_independent, best.options, best.ridge)
    saved_model.export(model, models.endpoints(model, windows), folder)
    pictures = _figures(folder / "figures", windows, cell, seeds[0], result)
    _predictions(windows, result.predicted[best.name]).to_csv(
        folder / "predictions.csv", index=False, float_format="%.5g"
    )
    _example(windows).to_csv(folder / "example.csv", index=windows.time is not None)
    rows = [{"seed": k, "model": cell, **row} for k, f in enumerate(seeds) for row in f.history.table()]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    some = windows.origins["test"][:VERIFIED_WINDOWS]
    expected = windows.to_unit(best.forecast(windows, some))
    expected = expected[..., 0] if len(windows.targets) == 1 else expected
    check = fresh.verify(folder, [windows.raw(some)], [expected], TOLERANCE)
    metrics = result.metrics | {"saved_model_check": check}
    runs.write_json(folder / "metrics.json", metrics)
    card = _card(windows, cell, best.name, metrics, name)
    if config.litert:
        card["litert"] = litert.export(folder, windows.raw(some))
    runs.write_json(folder / "model.json", card)
    present.page(config, windows, best.name, name, metrics, pictures, folder / "report.html")


def _card(windows: Windows, cell: str, forecaster: str, metrics: dict, name: str) -> dict:
    test = metrics["models"][forecaster]["test"]
    return {
        "experiment": "recurrent",
        "task": "forecasting",
        "name": name,
        "cell": cell,
        "forecaster": forecaster,
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
    folder: Path, windows: Windows, cell: str, forecaster: Forecaster, result: Result
) -> list[tuple[str, Path]]:
    folder.mkdir()
    by_lead = {name: np.abs(e * windows.target_scale).mean(axis=(0, 2)).tolist() for name, e in result.errors.items()}
    shown = {forecaster.name: result.predicted[forecaster.name]}
    pictures = [("Error by lead of every model and baseline", folder / "error_by_lead.png")]
    figures.error_by_lead(windows, by_lead, pictures[0][1])
    pictures.append(("Three weeks of forecasts against truth", folder / "weeks.png"))
    figures.weeks(windows, shown, pictures[-1][1])
    pictures.append(("Best, typical and worst test window", folder / "forecasts.png"))
    figures.forecasts(windows, shown, pictures[-1][1])
    pictures.append(("Validation error by epoch", folder / "learning_curves.png"))
    figures.learning_curves({cell: forecaster.history}, pictures[-1][1])
    if windows.time is not None and windows.step < pd.Timedelta("1D"):
        pictures.append(("Residuals by hour of the day", folder / "residuals_by_hour.png"))
        figures.residuals_by_hour(windows, result.errors[forecaster.name], pictures[-1][1])
    return pictures
