"""A run over many series for people: table, sentences, pictures, page, and the files of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keras_a2 import charts, page
from keras_a2.charts import COLOUR, styled
from keras_a2.console import console, print_table
from keras_a2.errors import printable
from keras_a2.recurrent import scores
from keras_a2.recurrent.figures import COLOURS, learning_curves
from keras_a2.recurrent.panel import Panel
from keras_a2.recurrent.panel_evaluate import LEVEL, PERCENT, Published, Task

NOTE = (
    "Over all series, the test rows of each, read once: sMAPE, MASE, OWA (1 is as good as Naive2) and MSIS of "
    f"{PERCENT} % intervals as in the M4 competition, the intervals' coverage, and the share of series with a smaller "
    "error than the naive that was best on validation, with a bootstrap interval over series; a verdict needs that and "
    'a Wilcoxon signed-rank test. "+ ridge": a mean with ridge regression over all series, its weight chosen on '
    "validation. A series too short for the network is forecast by the seasonal naive. "
)
OVERLAP = "Series that overlap in time are not independent: one may show the network what happened to another."
COMMON_DATES = "All series are split at the same dates: what is tested happened after all that was learnt from."

GUIDE = (
    "One network learnt from every series; each was forecast over its test rows, which were read once. OWA is the mean "
    "of sMAPE and MASE relative to Naive2: below 1 is better than a naive that knows the season."
)
TO_FILE = " --output forecast.csv"  # further options in the command that uses the model


def describe(windows: Panel) -> None:
    """Print what was read, how, and what was left out."""
    facts, rows = windows.facts, windows.rows
    lengths = f"{facts['shortest']} to {facts['longest']} rows"
    console.print(
        f"{windows.name}: {len(rows.names)} series of {lengths}, {len(rows.values)} in all; target {rows.target}; "
        f"{'a season of ' + str(windows.season) if windows.season > 1 else 'no season'}; "
        f"{'logarithms, for all values are positive' if windows.positive else 'no logarithms'}\n"
        + ", ".join(f"{len(origins)} {split}" for split, origins in windows.origins.items())
        + f" windows; the test takes the last {facts['test_windows'] * windows.horizon} "
        + ("steps of the dates, the same for all series" if facts["common_dates"] else "rows of each series")
    )
    for note in rows.notes:
        console.print(f"note: {note}")
    if facts["too_short"]:
        console.print(
            f"note: {facts['too_short']} series are shorter than {windows.look_back + windows.horizon} rows: left out "
            "of training, forecast by the seasonal naive"
        )
    ended = int((windows.behind > (facts["test_windows"] - 1) * windows.horizon).sum())
    if ended:
        console.print(f"note: {ended} series ended before a whole test window: learnt from, not scored")
    if facts["missing_values"]:
        filled = f"gaps of at most {facts['max_gap']} steps were" if facts["max_gap"] else "no gap was"
        console.print(
            f"note: {facts['missing_values']} missing values; {filled} filled from the past, "
            f"{facts['windows_dropped']} windows dropped"
        )


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per model and baseline."""
    naive = page.label(metrics["best_naive"])
    header = ["", "validation OWA", "sMAPE", "MASE", "OWA", "MSIS", "coverage", f"better than {naive}", "seconds"]
    rows = []
    for name, line in (metrics["models"] | metrics["baselines"]).items():
        test = line["test"]
        rows.append([
            page.label(name), f"{line['validation']['owa']:.3f}", f"{test['smape']:.3f}", f"{test['mase']:.3f}",
            f"{test['owa']:.3f}", page.number(test["msis"], 4), page.percent(test["coverage"][PERCENT]),
            "" if name == metrics["best_naive"] else _share(test),
            f"{line['seconds']:.0f}" if "seconds" in line else "",
        ])  # fmt: skip
    return header, rows


def _share(test: dict) -> str:
    share, ends = test["share_better_than_naive"], test["share_better_than_naive_ci95"]
    return (
        test["verdict"]
        if share is None
        else f"{page.percent(share)} ({page.interval(ends, unit='')})\n{test['verdict']}"
    )


def headline(metrics: dict, name: str) -> str:
    """The result of a published model in a sentence that claims no more than its interval and test."""
    naive = page.label(metrics["best_naive"])
    test, count = metrics["models"][name]["test"], metrics["data"]["series_scored"]
    share = test["share_better_than_naive"]
    figures = ", ".join(f"{label} {test[label.lower()]:.3f}" for label in ("OWA", "sMAPE", "MASE"))
    text = f"{page.label(name)} on {count} series: {figures}"
    if test["verdict"] == "too short to tell":
        return f"{text}; too few series to compare it with {naive}."
    ends = page.interval(test["share_better_than_naive_ci95"])
    shown = "" if test["verdict"] in ("better", "worse") else f"no evidence that it beats {naive}: "
    return f"{text}; {shown}a smaller error than {naive} on {page.percent(share)} of the series (95 %: {ends})."


introduction = headline


def show(metrics: dict) -> None:
    """Print the comparison."""
    header, rows = result_rows(metrics)
    print_table(f"{metrics['data']['name']}: the test rows of every series, read once", header, rows)


def card(windows: Panel, published: Published, metrics: dict) -> dict[str, Any]:
    """What ``model.json`` says of many series and their model."""
    config, step = metrics["config"], windows.rows.step
    return {
        "task": "forecasting many series",
        "many_series": {
            "season": windows.season,
            "logarithms": windows.positive,
            "column": config["series"],
            "wide": config["wide"],
            "freq": config["freq"],
            "step_seconds": step.total_seconds() if isinstance(step, pd.Timedelta) else None,
            "spacing": windows.rows.spacing or None,
        },
        "input": "float64 windows in the target's unit (batch, look_back, 1), oldest row first",
        "output": "serve: forecasts (batch, horizon); serve_intervals: lower and upper ends (batch, horizon, 2)",
        "headline": headline(metrics, published.name),
    }


def tables(metrics: dict, name: str) -> list[page.Table]:
    """The page's tables but that of the training; the same for every published model ``name``."""
    note = NOTE + (COMMON_DATES if metrics["data"]["common_dates"] else OVERLAP)
    return [page.Table("Result on the test rows of every series", *result_rows(metrics), note)]


def draw(windows: Panel, published: Published, metrics: dict) -> dict[str, tuple[Figure, str]]:
    """Every chart: name of its file -> figure and caption."""
    task, cell, forecast = published.task, published.cell, published.forecast
    return {
        "error_by_lead": (
            error_by_lead(task, forecast, cell),
            "Error by lead over all series: the network should be below every dashed line, most of all far ahead. "
            "A line that leaves the chart errs more.",
        ),
        "forecasts": (
            examples(task, forecast, published.interval),
            "A test window that is forecast better than 95 % of all, a median one, and one of the worst 5 %: the truth "
            "should stay inside the band.",
        ),
        "learning_curves": (
            learning_curves(cell, published.histories[0], metrics["config"]["loss"]),
            "Training (with dropout) against validation, before the validation rows were added to the training; "
            "circle: the best epoch.",
        ),
    }


def predictions(windows: Panel, published: Published, metrics: dict) -> pd.DataFrame:
    """One row per series and test window, ``cutoff`` the last known time or row: its scores, then of each lead truth,
    forecast and ends of the interval, in the unit.
    """
    task, forecast, interval = published.task, published.forecast, published.interval
    best_naive = metrics["best_naive"]
    rows = windows.rows
    after = rows.ends[task.numbers + 1] - 1 - task.origins
    columns: dict[str, Any] = {
        "unique_id": [rows.names[i] for i in task.numbers],
        "cutoff": [rows.times_after(i, np.array([-n]))[0] for i, n in zip(task.numbers, after, strict=True)],
        "smape": scores.smape(task.truth, forecast).round(4),
        "mase": scores.mase(task.truth, forecast, task.scale).round(4),
        "msis": scores.msis(task.truth, *interval, task.scale, LEVEL).round(4),
        f"{best_naive}_mase": scores.mase(task.truth, task.simple[best_naive], task.scale).round(4),
    }
    digits = np.array([page.decimals(scale, page.FILE_DIGITS) if scale > 0 else 6 for scale in task.scale])
    power = 10.0 ** np.minimum(digits, 12)[:, np.newaxis]
    kinds = {
        "truth": task.truth, "forecast": forecast, f"lower_{PERCENT}": interval[0], f"upper_{PERCENT}": interval[1]
    }  # fmt: skip
    for kind, values in kinds.items():
        rounded = np.round(values * power) / power
        columns |= {f"{kind}_{lead}": column for lead, column in zip(windows.leads, rounded.T, strict=True)}
    return pd.DataFrame(columns)


def example(windows: Panel) -> pd.DataFrame:
    """The first series that the network sees, up to its test rows: an input to try the published model on."""
    origin = int(windows.origins["test"][0])
    i = int(windows.series_of(np.array([origin]))[0])
    values = windows.rows.history(i, origin + 1)
    return pd.DataFrame({"unique_id": windows.rows.names[i], "ds": np.arange(1, len(values) + 1), "y": values})


@styled
def error_by_lead(task: Task, forecast: np.ndarray, cell: str) -> Figure:
    """Mean scaled error against lead, of what is published and of the naives."""
    figure, (axes,) = charts.figure()
    scale = np.where(task.scale > 0, task.scale, np.nan)[:, np.newaxis]
    colours = COLOURS | {"naive": COLOURS["persistence"], "naive2": COLOUR["purple"], "theta": COLOUR["green"]}
    best = np.inf
    for name, values in {page.label(cell): forecast, **task.simple}.items():
        style = "--" if name in task.simple else "-"
        colour = colours.get(name, COLOURS[cell])
        error = np.nanmean(np.abs(task.truth - values) / scale, axis=0)
        axes.plot(task.windows.leads, error, style, color=colour, label=page.label(name))
        best = min(best, error.max())
    top = 2.5 * best if 0 < best < np.inf else None
    axes.set(xlabel="lead (steps)", ylabel="mean absolute scaled error", ylim=(0, top))
    axes.grid()
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@styled
def examples(task: Task, forecast: np.ndarray, interval: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Three test windows with their forecasts and intervals: better than 95 %, than half, and than 5 % of them."""
    windows, errors = task.windows, scores.mase(task.truth, forecast, task.scale)
    order = np.argsort(np.nan_to_num(errors, nan=np.inf))
    order = order[np.isfinite(errors[order])]
    figure, panels = charts.figure(5.2, rows=3)
    for axes, share in zip(panels, (0.05, 0.5, 0.95), strict=True):
        i = order[int(share * (len(order) - 1))] if len(order) else 0
        known = windows.rows.history(task.numbers[i], task.origins[i] + 1)[-4 * windows.horizon :]
        axes.plot(np.arange(1 - len(known), 1), known, color=COLOUR["ink"], lw=0.8)
        axes.plot(windows.leads, task.truth[i], color=COLOUR["ink"], lw=1.4, label="truth")
        axes.plot(windows.leads, forecast[i], color=COLOURS["gru"], label="forecast")
        charts.interval(axes, windows.leads, interval[0][i], interval[1][i], COLOURS["gru"], f"{PERCENT} %")
        axes.axvline(0, color=COLOUR["dim"], lw=0.8, ls=":")
        axes.set_title(f"{printable(windows.rows.names[task.numbers[i]])}: MASE {errors[i]:.2f}", loc="left")
    panels[0].legend(ncols=3)
    panels[-1].set_xlabel("steps (0: the last row that was read)")
    return figure
