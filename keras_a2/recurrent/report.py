"""A forecaster's run for people: tables, sentences, pictures, page, and the files of predictions."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from keras_a2 import charts, page, runs
from keras_a2.console import console, print_table
from keras_a2.experiments import command
from keras_a2.recurrent import figures, panel_evaluate
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.evaluate import Published, errors
from keras_a2.recurrent.panel import Panel
from keras_a2.recurrent.times import CALENDAR
from keras_a2.training import History, means

MAX_PREDICTIONS = 3_000_000  # numbers in predictions.csv; more are thinned to forecasts that do not overlap
NOTE = (
    "Validation: mean absolute error there. MASE: MAE / that of the seasonal naive on the training rows. Skill: "
    "1 - MAE / MAE of the naive that was best on validation at each lead; its interval allows for autocorrelation. "
    '"Better" and "worse": the interval and a Diebold-Mariano test agree. "Too short to tell": fewer than ten '
    "independent stretches of test windows. p-values and the skill against each baseline stand in metrics.json. The "
    "test split was read once."
)
INTERVALS_NOTE = (
    "CRPS: the mean error of the whole forecast distribution, in the unit of the MAE; skill as above. MSIS: the M4 "
    'competition\'s score of 95 % intervals. Inside: share of test values inside their interval. "Misses its level": '
    "more than chance allows. Baselines have intervals of their own, made in the same way."
)
COURSEWORK = {"naive": 0.160, "simple_rnn": 0.160, "lstm": 0.163, "gru": 0.170}  # mean absolute errors
GUIDE = (
    "Networks, ridge regression and naive forecasts saw the same windows. Every choice was made on validation; the "
    "test split was read once, at the end. The naive is what to beat: persistence repeats the last value, the seasonal "
    "naive the value one season before. Skill is the share of its error that is saved; quote it with its interval, and "
    'claim nothing where the verdict is "not shown".'
)
TO_FILE = ""  # further options in the command that uses the model
draw = figures.draw


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
    """The result of a published model in a few sentences that claim no more than their intervals and tests."""
    line = metrics["models"][name]
    test, unit = line["test"], metrics["data"]["unit"]
    comparison, reference, error = _hardest(metrics, name)
    clauses = [_clause(comparison, f"{reference}, the best naive on the test split", error)]
    if metrics["best_naive_test"]["mae"] != error:
        clauses.append(_clause(test, "the naive chosen on validation", metrics["best_naive_test"]["mae"]))
    clauses.append(_clause(test["against_ridge"], "ridge regression", metrics["baselines"]["ridge"]["test"]["mae"]))
    seeds = f", mean of {len(test['mae_seeds'])} seeds" if "mae_seeds" in test else ""
    weights = ", ".join(f"{100 * weight:.0f} % {member}" for member, weight in line["combination"].items() if weight)
    text = f"{page.label(name)}, {weights}. "
    if line["combination"]["naive"] == 1:
        text = f"The naive forecast is published: validation does not show that {page.label(name)} beats it. "
    coverage = means(test["coverage"]).items()
    inside = " and ".join(f"{page.percent(share)} in {level} % intervals" for level, share in coverage)
    return (
        f"{text}Mean absolute error {page.amount(test['mae'], unit)}{seeds}; {'; '.join(clauses)} (95 % intervals). "
        f"Of the test values {inside}{_missed(test)}."
    )


def card_headline(metrics: dict, name: str) -> str:
    """The same in a few words: error, and skill against the hardest naive on the test split."""
    error = page.amount(metrics["models"][name]["test"]["mae"], metrics["data"]["unit"])
    naive = "the naive itself; " if metrics["models"][name]["combination"]["naive"] == 1 else ""
    return f"{naive}MAE {error}; {_clause(*_hardest(metrics, name))}"


def _missed(test: dict) -> str:
    """Which levels the coverage misses by more than chance."""
    intervals = test["coverage_ci95"]
    missed = [level for level, ends in intervals.items() if ends and not ends[0] <= float(level) / 100 <= ends[1]]
    return f"; the {' and '.join(missed)} % intervals miss their level by more than chance" if missed else ""


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


def _measured(metrics: dict) -> dict[str, dict]:
    """Name -> figures of everything that was measured on the test split."""
    return metrics["models"] | metrics["baselines"] | {"best naive per lead": {"test": metrics["best_naive_test"]}}


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per model and baseline."""
    columns = {"skill": "skill (95 %)"}
    if metrics["hardest_naive"] != "best_naive":
        columns[f"against_{metrics['hardest_naive']}"] = f"against {page.label(metrics['hardest_naive'])}"
    columns["against_ridge"] = "against ridge"
    unit = metrics["data"]["unit"]
    header = ["", "validation", page.with_unit("MAE", unit), *columns.values(), "MASE", "MAE std", "MSE std", "seconds"]
    rows = []
    for name, model in _measured(metrics).items():
        test = model["test"]
        row = [
            page.label(name),
            page.number(model["validation"]["mae"], 4) if "validation" in model else "",
            page.number(test["mae"], 4),
        ]
        comparisons = [test if key == "skill" else test.get(key, {}) for key in columns]
        row += [f"{_skill(each)}\n{each['verdict']}" if "verdict" in each else "" for each in comparisons]
        row += [page.number(test["mase"]), f"{test['mae_standardized']:.4f}", f"{test['mse_standardized']:.4f}"]
        rows.append([*row, f"{model['seconds']:.0f}" if "seconds" in model else ""])
    return header, rows


def interval_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The scores of the intervals as texts: header and one row per model and baseline."""
    header = ["", page.with_unit("CRPS", metrics["data"]["unit"]), "skill in CRPS (95 %)", "MSIS"]
    rows = []
    for name, model in _measured(metrics).items():
        test = model["test"]
        comparison = test.get("crps_against_best_naive")
        row = [
            page.label(name),
            page.number(test["crps"]),
            _skill(comparison) if comparison else "",
            page.number(test["msis"]),
        ]
        for level, share in means(test["coverage"]).items():
            ends = test["coverage_ci95"][level]
            missed = "\nmisses its level" if ends and not ends[0] <= float(level) / 100 <= ends[1] else ""
            row.append(f"{page.percent(share)}{f' ({page.interval(ends, unit=str())})' if ends else ''}{missed}")
        rows.append(row)
    return [*header, *(f"inside {level:g} %" for level in metrics["levels"])], rows


def update_rows(update: dict) -> tuple[list[str], list[list[str]]]:
    """What the version before did on rows that it had not seen, and what its test split had promised, as texts."""
    header = ["", f"promised by version {update['version']}", f"on {update['rows']} new rows"]
    if not update["windows"]:
        return header, [["MAE", page.number(update["promised_mae"]), "too few rows for a forecast"]]
    rows = [["MAE", page.number(update["promised_mae"]), page.number(update["mae"])]]
    for level, share in update["coverage"].items():
        promised = (update["promised_coverage"] or {}).get(level)
        rows.append([f"inside {level} %", "" if promised is None else page.percent(promised), page.percent(share)])
    return header, rows


def introduction(metrics: dict, name: str) -> str:
    """What the page begins with: the result of a published model, and how it came about."""
    return f"{headline(metrics, name)} {recipe(metrics)}"


def recipe(metrics: dict) -> str:
    """How the published model came about, in a few sentences."""
    folds, unit = metrics["folds"], metrics["data"]["unit"]
    text = f"The weights come from {folds} validation block{'s' if folds > 1 else ''}. "
    if metrics["refit"]:
        text += "The published model was trained again on every row; "
        text += "the figures belong to the recipe, measured on rows held out. "
    errors = [block["mae"] for block in metrics["backtest"]]
    if errors:
        naive = np.mean([block["best_naive_mae"] for block in metrics["backtest"]])
        text += (
            f"Trained again before each of {len(errors)} blocks of the test split it errs by "
            f"{page.amount(float(np.mean(errors)), unit)} on average ({page.number(min(errors))} to "
            f"{page.number(max(errors))}), the naive by {page.number(float(naive))}. "
        )
    return text.strip()


def show(metrics: dict) -> None:
    """Print the comparison."""
    title = f"{metrics['data']['name']}: {metrics['data']['test']} test windows, read once"
    for heading, (header, rows) in {title: result_rows(metrics), "Intervals": interval_rows(metrics)}.items():
        print_table(heading, header, rows)
    if not metrics["naive_in_window"]:
        console.print(
            f"A window of {metrics['config']['look_back']} steps does not reach back a season of "
            f"{metrics['config']['season']} rows: in the combination, persistence takes the place of the seasonal "
            "naive. A longer --look-back includes it."
        )


def card(windows: Windows, published: Published, metrics: dict) -> dict[str, Any]:
    """What ``model.json`` says of a single series and its model."""
    time = windows.time
    return {
        "task": "forecasting",
        "seed": published.seed,
        "typical_errors": typical_errors(windows, published.forecast),
        "known": windows.known,
        "holidays": windows.holidays,
        "spacing_seconds": None if windows.step is None else windows.step.total_seconds(),
        "freq": metrics["data"]["freq"],
        "input": "float64 windows in the columns' own units (batch, look_back, inputs), oldest row first",
        "output": "forecasts in the targets' units (batch, horizon) or (batch, horizon, targets)",
        "rows": {
            "rows": len(windows.values),
            "first": None if time is None else str(time[0]),
            "last": None if time is None else str(time[-1]),
        },
        "combination": metrics["combination"],
        "refit": metrics["refit"],
        "verdict": metrics["verdict"],
        "headline": card_headline(metrics, published.name),
    }


def write(
    pages: ModuleType,
    folder: Path,
    windows: Windows | Panel,
    published: Published | panel_evaluate.Published,
    metrics: dict,
    home: Path,
    litert: dict | None = None,
) -> None:
    """Write figures, card, predictions, an example input, the history, pictures and the page into a version's folder.

    Args:
        pages: this module, or ``panel_report`` for many series: the parts in which they differ.
        windows, published: of the ``data`` and ``evaluate`` of the same kind.
        metrics: ``saved_model_check`` included.
        home: the folder of the model's versions.
        litert: what ``deployment.export_litert`` measured.
    """
    cell, series = published.cell, metrics["data"]
    histories = dict(enumerate(published.histories, metrics["config"]["seed"]))
    runs.write_json(folder / "metrics.json", metrics)
    own = pages.card(windows, published, metrics)
    origin = {"name": windows.name, "sha256": series["sha256"], "citation": series.get("citation", "")}
    facts = {
        "experiment": "recurrent",
        "name": home.name,
        "cell": cell,
        "forecaster": published.name,
        **{name: getattr(windows, name) for name in ("inputs", "targets", "look_back", "horizon")},
        **{name: getattr(windows, name) for name in ("every", "first_lead")},
        "unit": series["unit"],
        "max_gap": series["max_gap"],
        "levels": metrics["levels"],
        "data": origin | own.pop("rows", {}),
        "weights": {"origin": "random"},
        "saved_model_check": metrics["saved_model_check"],
        "environment": metrics["environment"],
    }
    runs.write_json(folder / "model.json", facts | own | ({} if litert is None else {"litert": litert}))
    pages.predictions(windows, published, metrics).to_csv(folder / "predictions.csv", index=False)
    pages.example(windows).to_csv(folder / "example.csv", index=False)
    epochs = ((seed, row) for seed, history in histories.items() for row in history.table())
    history = pd.DataFrame([{"seed": seed, "model": cell, **row} for seed, row in epochs])
    history.to_csv(folder / "history.csv", index=False)
    content = page.Page(
        title=f"{page.label(published.name)} on {windows.name}",
        headline=pages.introduction(metrics, published.name),
        guide=[pages.GUIDE],
        tables=[*pages.tables(metrics, published.name), training_table(cell, metrics, histories)],
        charts=charts.save(folder / "figures", pages.draw(windows, published, metrics)),
        metrics=metrics,
        use=use(home) + pages.TO_FILE,
        home=home,
    )
    page.write(content, folder / "report.html")


def use(home: Path) -> str:
    """The command that uses the published model."""
    return f"{command('predict')} {home} SERIES.csv"


def training_table(cell: str, metrics: dict, histories: dict[int, History]) -> page.Table:
    """Of each seed: what was trained, how long, and which epoch was kept."""
    config, parameters = metrics["config"], metrics["models"][cell]["parameters"]
    rows = [
        [f"{page.label(cell)}, seed {seed}", f"{parameters:,}", "0", f"{config['learning_rate']:g}",
         str(history.epochs), str(history.best_epoch), f"{history.seconds_per_epoch:.1f}"]
        for seed, history in histories.items()
    ]  # fmt: skip
    header = ["network", "trained parameters", "frozen", "peak learning rate", "epochs", "kept", "seconds per epoch"]
    note = "Epoch 0 is the state before training, the forecast of no change; the epoch kept has the lowest validation "
    return page.Table("Training", header, rows, f"{note}{config['loss'].upper()}.")


def _coursework(metrics: dict) -> page.Table:
    """The table of the coursework that the experiment comes from, with the same rows of this run."""
    ours = {"naive": metrics["best_naive_test"]} | {name: line["test"] for name, line in metrics["models"].items()}
    rows = [
        [page.label(name), f"{claim:.3f}", f"{ours[name]['mae_standardized']:.3f}", ours[name].get("verdict", "")]
        for name, claim in COURSEWORK.items()
        if name in ours
    ]
    note = (
        "The coursework had another series: compare the order of the rows, not the numbers. Its networks were no "
        "better than its naive forecast, and it gave no intervals. Here MAE is in standard deviations of the target; "
        "the networks are those without ridge regression."
    )
    return page.Table("As the coursework reported it", ["", "coursework: MAE", "here: MAE", "verdict"], rows, note)


def tables(metrics: dict, name: str) -> list[page.Table]:
    """The page's tables but that of the training, for the published model ``name``."""
    line, mae = metrics["models"][name], page.with_unit("MAE", metrics["data"]["unit"])
    shown = [
        page.Table("Result on the test split", *result_rows(metrics), NOTE),
        page.Table("Intervals", *interval_rows(metrics), INTERVALS_NOTE),
        _coursework(metrics),
    ]
    months = line["mae_by_month"]
    if len(months) > 1:
        rows = [[f"inside {level} %", *map(page.percent, means(shares).values())]
                for level, shares in line["test"]["coverage_by_month"].items()]  # fmt: skip
        rows.insert(0, [mae, *page.column(months.values())])
        shown.append(page.Table("By month of the forecast time", ["", *months], rows))
    rows = []
    for block in metrics["backtest"]:
        ends, errors_of = block["times"] or block["rows"], (block["mae"], block["best_naive_mae"])
        rows.append(
            [" to ".join(map(str, ends)), str(block["windows"]), *(page.number(error, 4) for error in errors_of)]
        )
    if rows:
        title, header = "Backtest: trained again before each block of the test split", ["block", "windows", mae]
        shown.append(page.Table(title, [*header, "best naive"], rows))
    if "update" in metrics:
        shown.append(page.Table("The version before on its new rows", *update_rows(metrics["update"])))
    return shown


def typical_errors(windows: Windows, forecast: np.ndarray) -> list[float]:
    """The digits of a forecast follow from its error, not from its level.

    Returns:
        per target the mean absolute error of the test split or, if smaller, the standard deviation, in its unit.
    """
    error = np.abs(errors(windows, forecast, "test")).mean(axis=(0, 1))
    return (np.where(error > 0, np.minimum(error, 1), 1) * windows.target_scale).tolist()


def predictions(windows: Windows, published: Published, metrics: dict) -> pd.DataFrame:
    """One row per test window and target: the origin, each lead's truth, forecast and interval ends, in units."""
    forecast, ends = published.forecast, published.ends
    thinning = int(windows.future[-1]) if forecast.size * (2 + len(ends)) > MAX_PREDICTIONS else 1
    origins, typical = windows.origins["test"][::thinning], typical_errors(windows, forecast)
    kinds = {"truth": windows.actual(origins), "forecast": forecast[::thinning]}
    names = [f"{end}_{level:g}" for level in metrics["levels"] for end in ("lower", "upper")]
    kinds |= {name: end[::thinning] for name, end in zip(names, ends, strict=True)}
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


def example(windows: Windows) -> pd.DataFrame:
    """The last window of the test split in its own units: an input to try the published model on."""
    rows = windows.origins["test"][-1] + np.arange(windows.past[0], 1)
    measured = [name for name in windows.inputs if name not in CALENDAR]
    index = None if windows.time is None else windows.time[rows].rename("time")
    raw = windows.values[rows] * windows.scale + windows.mean
    rows_of_file = pd.DataFrame(raw, columns=windows.inputs, index=index)[measured]
    return rows_of_file if index is None else rows_of_file.reset_index()
