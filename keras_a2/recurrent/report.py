"""A forecaster's run for people: tables, sentences, pictures, page, and the files of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table as RichTable

from keras_a2 import page, runs
from keras_a2.console import console
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.evaluate import COMBINED, Published, errors
from keras_a2.recurrent.times import CALENDAR
from keras_a2.training import History

MAX_PREDICTIONS = 3_000_000  # numbers in predictions.csv; more are thinned to forecasts that do not overlap
COLOURS = {
    "persistence": "#9aa3ab", "seasonal_naive": "#c9a227", "ridge": "#5f7d4f",
    "simple_rnn": "#b8561c", "lstm": "#7a3e9d", "gru": "#0f62a8",
}  # fmt: skip
plain_text = matplotlib.rc_context({"text.parse_math": False})  # a column may be called US$_$, which is no formula
NOTE = (
    "Validation: mean absolute error there; choices are made by the standardised one, the loss of training. "
    "Skill: 1 - MAE / MAE of the naive that was best on validation at each lead, with a 95 % interval for "
    'autocorrelated errors. "Better" and "worse": the interval and a Diebold-Mariano test agree. '
    '"Too short to tell": fewer than ten independent stretches of test windows. "+ combined": naive, '
    "ridge regression and network, weighted by validation. p-values and the skill against each baseline stand in "
    "metrics.json. The test split was read once."
)


def describe(windows: Windows) -> None:
    """Print which times, spacing, target and inputs were read, how, and what was filled or dropped."""
    facts, time, column = windows.facts, windows.time, windows.facts["time_column"]
    if time is None or windows.step is None:
        left_out = f"{column} is left out" if column else "no column with times was detected"
        read = f"no times ({left_out}), rows count as even steps"
    else:
        read = f"{f'times {column}'.strip()} from {time[0]} to {time[-1]}, every {windows.spacing()}"
    counts = ", ".join(f"{len(origins)} {split}" for split, origins in windows.origins.items())
    console.print(
        f"{windows.name}: {len(windows.values)} rows; {read}\n"
        f"target {_short(windows.targets)}; inputs {_short(windows.inputs)}; {counts} windows"
    )
    for note in facts["notes"]:
        console.print(f"note: {note}")
    if facts["missing_values"] or facts["windows_dropped"]:
        filled = f"gaps of at most {facts['max_gap']} steps were" if facts["max_gap"] else "no gap was"
        console.print(
            f"note: {facts['missing_values']} missing values, {facts['grid_rows_added']} absent rows; {filled} filled "
            f"from the past, {facts['windows_dropped']} windows dropped"
        )


def _short(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def headline(metrics: dict, name: str) -> str:
    """The result of one model in a sentence that claims no more than its intervals and tests."""
    test, unit = metrics["models"][name]["test"], metrics["data"]["unit"]
    comparison, reference, error = _hardest(metrics, name)
    clauses = [_clause(comparison, f"{reference}, the best naive on the test split", error)]
    if metrics["hardest_naive"] != "best_naive":
        clauses.append(_clause(test, "the naive chosen on validation", metrics["best_naive_test"]["mae"]))
    clauses.append(_clause(test["against_ridge"], "ridge regression", metrics["baselines"]["ridge"]["test"]["mae"]))
    seeds = f", mean of {len(test['mae_seeds'])} seeds" if "mae_seeds" in test else ""
    error_text = f"mean absolute error {page.amount(test['mae'], unit)}{seeds}"
    if metrics["models"][name].get("combination", {}).get("naive") == 1:
        error_text = f"the naive forecast itself, as validation shows no gain over it: {error_text}"
    return f"{page.label(name)}: {error_text}; {'; '.join(clauses)} (95 % intervals)."


def card_headline(metrics: dict, name: str) -> str:
    """The same in a few words: error, and skill against the hardest naive on the test split."""
    error = page.amount(metrics["models"][name]["test"]["mae"], metrics["data"]["unit"])
    return f"MAE {error}; {_clause(*_hardest(metrics, name))}"


def _hardest(metrics: dict, name: str) -> tuple[dict, str, float]:
    """The comparison with the hardest naive on the test split, its name and its error."""
    test, hardest = metrics["models"][name]["test"], metrics["hardest_naive"]
    if hardest == "best_naive":
        return test, "the best naive of each lead", metrics["best_naive_test"]["mae"]
    return test[f"against_{hardest}"], page.label(hardest), metrics["baselines"][hardest]["test"]["mae"]


def _clause(comparison: dict, reference: str, error: float) -> str:
    """A comparison with a reference whose error is ``error``, in words."""
    reference += f" ({page.number(error)})"
    if comparison["verdict"] == "too short to tell":
        return f"too few independent test windows to tell it from {reference}: skill {_skill(comparison)}"
    if comparison["verdict"] == "not shown":
        return f"no evidence that it beats {reference}: skill {_skill(comparison)}"
    low, high = sorted(abs(100 * end) for end in comparison["skill_ci95"])
    change = "lower" if comparison["skill"] > 0 else "HIGHER"
    return f"{abs(100 * comparison['skill']):.1f} % ({low:.1f} to {high:.1f}) {change} than {reference}"


def _skill(comparison: dict) -> str:
    """Skill with its interval, as far as there are any."""
    skill = "none" if comparison["skill"] is None else page.percent(comparison["skill"])
    interval = comparison["skill_ci95"]
    return skill if interval is None else f"{skill} ({page.interval(interval, unit='')})"


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per model and baseline."""
    unit = metrics["data"]["unit"]
    columns = {"skill": "skill (95 %)"}
    if metrics["hardest_naive"] != "best_naive":
        columns[f"against_{metrics['hardest_naive']}"] = f"against {page.label(metrics['hardest_naive'])}"
    columns["against_ridge"] = "against ridge"
    header = ["", "validation", page.with_unit("MAE", unit), "MAE std", "MSE std", *columns.values(), "seconds"]
    rows = []
    measured = metrics["models"] | metrics["baselines"] | {"best naive per lead": {"test": metrics["best_naive_test"]}}
    for name, model in measured.items():
        test = model["test"]
        row = [
            page.label(name),
            page.number(model["validation"]["mae"], 4) if "validation" in model else "",
            page.number(test["mae"], 4),
            f"{test['mae_standardized']:.4f}",
            f"{test['mse_standardized']:.4f}",
        ]
        comparisons = [test if key == "skill" else test.get(key, {}) for key in columns]
        row += [f"{_skill(each)}\n{each['verdict']}" if "verdict" in each else "" for each in comparisons]
        rows.append([*row, f"{model['seconds']:.0f}" if "seconds" in model else ""])
    return header, rows


def show(metrics: dict) -> None:
    """Print the comparison, and what is published in a sentence each."""
    header, rows = result_rows(metrics)
    table = RichTable(*header, title=f"{metrics['data']['name']}: {metrics['data']['test']} test windows, read once")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for model in metrics["published"].values():
        console.print(headline(metrics, model))


def card(windows: Windows, published: Published, metrics: dict, name: str) -> dict[str, Any]:
    """The content of ``model.json``: what a user of the model needs to know."""
    return {
        "experiment": "recurrent",
        "task": "forecasting",
        "name": name,
        "cell": published.cell,
        "forecaster": published.name,
        "seed": published.seed,
        "inputs": windows.inputs,
        "targets": windows.targets,
        "unit": windows.unit,
        "typical_errors": typical_errors(windows, published.forecast),
        "look_back": windows.look_back,
        "horizon": windows.horizon,
        "every": windows.every,
        "first_lead": windows.first_lead,
        "max_gap": windows.facts["max_gap"],
        "known": windows.known,
        "holidays": windows.holidays,
        "spacing_seconds": None if windows.step is None else windows.step.total_seconds(),
        "freq": None if windows.freq is None else windows.freq.freqstr,
        "input": "float64 windows in the columns' own units (batch, look_back, inputs), oldest row first",
        "output": "forecasts in the targets' units (batch, horizon) or (batch, horizon, targets)",
        "levels": metrics["levels"],
        "combination": metrics["combination"],
        "refit": metrics["refit"],
        "data": {
            "name": windows.name,
            "sha256": windows.sha256,
            "citation": windows.facts["citation"],
            "rows": len(windows.values),
            "first": None if windows.time is None else str(windows.time[0]),
            "last": None if windows.time is None else str(windows.time[-1]),
        },
        "weights": {"origin": "random"},
        "headline": card_headline(metrics, published.name),
        "saved_model_check": metrics["saved_model_check"],
        "environment": metrics["environment"],
    }


def write(
    folder: Path,
    windows: Windows,
    published: Published,
    histories: dict[int, History],
    metrics: dict,
    home: Path,
    litert: dict | None = None,
) -> None:
    """Write figures, card, predictions, an example input, the history, pictures and the page into a version's folder.

    Args:
        histories: seed -> its history.
        metrics: ``saved_model_check`` included.
        home: the folder of the model's versions.
        litert: what ``deployment.export_litert`` measured.
    """
    runs.write_json(folder / "metrics.json", metrics)
    facts = card(windows, published, metrics, home.name) | ({} if litert is None else {"litert": litert})
    runs.write_json(folder / "model.json", facts)
    predictions(windows, published.forecast).to_csv(folder / "predictions.csv", index=False)
    _example(windows).to_csv(folder / "example.csv", index=windows.time is not None)
    epochs = ((seed, row) for seed, history in histories.items() for row in history.table())
    rows = [{"seed": seed, "model": published.cell, **row} for seed, row in epochs]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    tables = [page.Table("Result on the test split", *result_rows(metrics), NOTE)]
    for part in ("hour", "month"):
        values = metrics["models"][published.name][f"mae_by_{part}"]
        if len(values) > 1:
            title = page.with_unit(f"MAE by {part} of the forecast time", windows.unit)
            tables.append(page.Table(title, list(values), [page.column(values.values())]))
    content = page.Page(
        title=f"{page.label(published.name)} on {windows.name}",
        headline=headline(metrics, published.name),
        tables=tables,
        figures=_pictures(folder / "figures", windows, published, metrics),
        metrics=metrics,
        use=f"python experiments/predict.py {home} SERIES.csv",
    )
    page.write(content, folder / "report.html")


def typical_errors(windows: Windows, forecast: np.ndarray) -> list[float]:
    """The digits of a forecast follow from its error, not from its level.

    Returns:
        per target the mean absolute error of the test split or, if smaller, the standard deviation, in its unit.
    """
    error = np.abs(errors(windows, forecast, "test")).mean(axis=(0, 1))
    return (np.where(error > 0, np.minimum(error, 1), 1) * windows.target_scale).tolist()


def predictions(windows: Windows, forecast: np.ndarray) -> pd.DataFrame:
    """One row per test window and target: the origin, each lead's truth and each lead's forecast, in units.

    Args:
        forecast: standardised, of all test windows ``(n, horizon, targets)``.
    """
    thinning = int(windows.future[-1]) if forecast.size * 2 > MAX_PREDICTIONS else 1
    origins, typical = windows.origins["test"][::thinning], typical_errors(windows, forecast)
    kinds = {"truth": windows.actual(origins), "forecast": forecast[::thinning]}
    start = origins if windows.time is None else windows.time[origins].astype(str)
    frames = []
    for k, target in enumerate(windows.targets):
        numbers = {
            f"{kind}_{lead}": column
            for kind, values in kinds.items()
            for lead, column in zip(windows.leads, windows.to_unit(values)[:, :, k].T, strict=True)
        }
        digits = page.decimals(typical[k], page.FILE_DIGITS)
        frames.append(pd.DataFrame({"origin": start, "target": target} | numbers).round(digits))
    return pd.concat(frames)


def _example(windows: Windows) -> pd.DataFrame:
    """The last window of the test split in its own units: an input to try the published model on."""
    rows = windows.origins["test"][-1] + np.arange(windows.past[0], 1)
    measured = [name for name in windows.inputs if name not in CALENDAR]
    index = None if windows.time is None else windows.time[rows].rename("time")
    raw = windows.values[rows] * windows.scale + windows.mean
    return pd.DataFrame(raw, columns=windows.inputs, index=index)[measured]


def _pictures(folder: Path, windows: Windows, published: Published, metrics: dict) -> list[tuple[str, Path]]:
    """Draw every picture: caption and file."""
    folder.mkdir()
    by_lead = {name: line["test"]["mae_by_lead"] for name, line in (metrics["baselines"] | metrics["models"]).items()}
    name, forecast, history = published.name, published.forecast, published.forecaster.history
    drawn = {
        "Error by lead of every model and baseline": ("error_by_lead", error_by_lead(windows, by_lead)),
        "Successive forecasts against truth": ("successive", successive(windows, name, forecast)),
        "Validation error by epoch": ("learning_curves", learning_curves(published.cell, history)),
    }  # fmt: skip
    for file, figure in drawn.values():
        figure.savefig(folder / f"{file}.png", dpi=120)
    return [(caption, folder / f"{file}.png") for caption, (file, _) in drawn.items()]


@plain_text
def error_by_lead(windows: Windows, by_lead: dict[str, list[float]]) -> Figure:
    """MAE against lead for every model and baseline."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in by_lead.items():
        style = ":" if name.endswith(COMBINED) else "-" if name in ("simple_rnn", "lstm", "gru") else "--"
        marker = "o" if windows.horizon == 1 else None
        axes.plot(windows.leads, values, style, marker=marker, color=_colour(name), label=page.label(name))
    label = page.with_unit("mean absolute error", windows.unit)
    if not windows.unit and len(windows.targets) == 1:
        label += f", {windows.targets[0]}"
    axes.set(xlabel=f"lead ({_steps(windows, windows.every)})", ylabel=label, title="Error by lead, test split")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


@plain_text
def successive(windows: Windows, name: str, forecast: np.ndarray, days: int = 21) -> Figure:
    """The first days of the test split (or two forecasts, if longer), forecast again at the end of every horizon.

    Args:
        forecast: standardised, of all test windows ``(n, horizon, targets)``.
    """
    origins, ahead = windows.origins["test"], int(windows.future[-1])
    steps = windows.horizon if windows.step is None else int(np.ceil(pd.Timedelta(days=days) / windows.step))
    picked: list[int] = []
    for i, origin in enumerate(origins):
        if (not picked or origin >= origins[picked[-1]] + ahead) and origin - origins[0] <= max(steps, ahead):
            picked.append(i)
    truth, predicted = windows.to_unit(windows.actual(origins[picked])), windows.to_unit(forecast[picked])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    for k, i in enumerate(picked):
        x = origins[i] + windows.future
        x = x if windows.time is None else windows.time[x].tz_localize(None)  # Matplotlib would show UTC
        axes.plot(x, truth[k, :, 0], color="black", lw=1.6, label=None if k else "truth")
        axes.plot(x, predicted[k, :, 0], color=_colour(name), lw=1, label=None if k else page.label(name))
    title = f"A forecast every {ahead} {_steps(windows)}, test split"
    axes.set(ylabel=page.with_unit(windows.targets[0], windows.unit), title=title)
    axes.legend(frameon=False, ncols=4)
    if windows.time is not None:
        figure.autofmt_xdate()
    return figure


def learning_curves(cell: str, history: History) -> Figure:
    """Validation error by epoch; a circle marks the best epoch."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    values = [row["validation_mae"] for row in history.rows]
    axes.plot(values, color=_colour(cell), marker=".", label=page.label(cell))
    axes.plot(history.best_epoch, values[history.best_epoch], "o", color=_colour(cell), fillstyle="none", ms=10)
    axes.set(xlabel="epoch (0: before training)", ylabel="validation MAE (standardised)", title="Learning curve")
    return figure


def _colour(name: str) -> str:
    """A network has one colour, alone and combined."""
    return COLOURS[name.removesuffix(COMBINED)]


def _steps(windows: Windows, rows: int = 1) -> str:
    """What so many rows count: ``hours``, ``steps of 15 minutes``."""
    if windows.freq is None:
        return "steps"
    step = windows.spacing(rows)
    return f"{step[2:]}s" if step.startswith("1 ") else f"steps of {step}"
