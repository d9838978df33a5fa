"""A recurrent run's result in words: the table on the screen and the report page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as RichTable

from keras_a2 import page
from keras_a2.console import console
from keras_a2.recurrent.data import Windows, spacing


def describe(windows: Windows) -> None:
    """Say what was taken for times, spacing, target and inputs, how it was read, and what was filled or dropped."""
    facts, time = windows.facts, windows.time
    if time is None:
        left_out = (
            f"{facts['time_column']} is left out" if facts["time_column"] else "no column with times was detected"
        )
        taken = f"no times ({left_out}), rows count as even steps"
    else:
        column = f"times {facts['time_column']}".strip()
        taken = f"{column} from {time[0]} to {time[-1]}, every {spacing(windows.step)}"
    console.print(
        f"{windows.name}: {len(windows.values)} rows; {taken}\ntarget {_short(windows.targets)}; "
        f"inputs {_short(windows.inputs)}; "
        + ", ".join(f"{len(windows.origins[split])} {split}" for split in windows.origins)
        + " windows"
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
    quoted, reference, error = _hardest(metrics, name)
    clauses = [_claim(quoted, f"{reference}, the best naive on the test split", error)]
    if metrics["hardest_naive"] != "best_naive":
        clauses.append(_claim(test, "the naive chosen on validation", metrics["best_naive_test"]["mae"]))
    clauses.append(_claim(test["against_ridge"], "ridge regression", metrics["baselines"]["ridge"]["test"]["mae"]))
    seeds = len(test.get("mae_seeds", [0]))
    return (
        f"{page.label(name)}: mean absolute error {page.amount(test['mae'], unit)}"
        f"{f', mean of {seeds} seeds' if seeds > 1 else ''}; {'; '.join(clauses)} (95 % intervals)."
    )


def card_headline(metrics: dict, name: str) -> str:
    """The same in a few words: error, and skill against the hardest naive on the test split."""
    test = metrics["models"][name]["test"]
    comparison, reference, _ = _hardest(metrics, name)
    text = f"MAE {page.amount(test['mae'], metrics['data']['unit'])}; "
    if comparison["verdict"] not in ("better", "worse"):
        return f"{text}against {reference}: {comparison['verdict']}"
    return f"{text}{_gain(comparison)} than {reference}"


def _hardest(metrics: dict, name: str) -> tuple[dict, str, float]:
    """The comparison with the hardest naive on the test split, its name and its error."""
    test, hardest = metrics["models"][name]["test"], metrics["hardest_naive"]
    if hardest == "best_naive":
        return test, "the best naive of each lead", metrics["best_naive_test"]["mae"]
    return test[f"against_{hardest}"], page.label(hardest), metrics["baselines"][hardest]["test"]["mae"]


def _claim(comparison: dict, reference: str, error: float) -> str:
    reference += f" ({page.number(error)})"
    if comparison["verdict"] == "too short to tell":
        return f"too few independent test windows to tell it from {reference}: skill {_skill(comparison)}"
    if comparison["verdict"] == "not shown":
        return f"no evidence that it beats {reference}: skill {_skill(comparison)}"
    low, high = sorted(abs(100 * end) for end in comparison["skill_ci95"])
    gain = _gain(comparison).replace(" %", f" % ({low:.1f} to {high:.1f})")
    return f"{gain} than {reference}"


def _gain(comparison: dict) -> str:
    return f"{abs(100 * comparison['skill']):.1f} % {'lower' if comparison['skill'] > 0 else 'HIGHER'}"


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per model and baseline."""
    unit = metrics["data"]["unit"]
    against = {"skill": "skill (95 %)"}
    if metrics["hardest_naive"] != "best_naive":
        against[f"against_{metrics['hardest_naive']}"] = f"against {page.label(metrics['hardest_naive'])}"
    against["against_ridge"] = "against ridge"
    header = ["", "validation", page.with_unit("MAE", unit), "MAE std", "MSE std", *against.values(), "seconds"]
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
        comparisons = [test if key == "skill" else test.get(key, {}) for key in against]
        row += [f"{_skill(each)}, {each['verdict']}" if "verdict" in each else "" for each in comparisons]
        rows.append([*row, f"{model['seconds']:.0f}" if "seconds" in model else ""])
    return header, rows


def _skill(comparison: dict) -> str:
    """Skill with its interval, as far as there are any."""
    skill = "none" if comparison["skill"] is None else page.percent(comparison["skill"])
    interval = comparison["skill_ci95"]
    return skill if interval is None else f"{skill} ({page.interval(interval, unit='')})"


def show(metrics: dict) -> None:
    """Print the comparison, and what is published in a sentence each."""
    header, rows = result_rows(metrics)
    table = RichTable(*header, title=f"{metrics['data']['name']}: {metrics['data']['test']} test windows, read once")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for model in metrics["published"].values():
        console.print(headline(metrics, model))


def write_page(config, windows: Windows, model: str, name: str, metrics: dict, pictures, path: Path) -> None:
    header, rows = result_rows(metrics)
    tables = [
        page.Table(
            "Result on the test split",
            header,
            rows,
            "Validation: mean absolute error there; choices are made by the standardised one, the loss of training. "
            "Skill: 1 - MAE / MAE of the naive that was best on validation at each lead, with a 95 % interval for "
            'autocorrelated errors. "Better" and "worse": the interval and a Diebold-Mariano test agree. '
            '"Too short to tell": fewer than ten independent stretches of test windows. "+ ridge": the mean of the '
            "network's forecast and ridge regression's. p-values and the skill against each baseline stand in "
            "metrics.json. The test split was read once.",
        )
    ]
    for part in ("hour", "month"):
        values = metrics["models"][model][f"mae_by_{part}"]
        if len(values) > 1:
            row = [page.number(value) for value in values.values()]
            title = page.with_unit(f"MAE by {part} of the forecast time", windows.unit)
            tables.append(page.Table(title, list(values), [row]))
    content = page.Page(
        title=f"{page.label(model)} on {windows.name}",
        headline=headline(metrics, model),
        tables=tables,
        figures=pictures,
        commands=[
            ("Run it again", metrics["environment"]["command"]),
            ("Forecast", f"python experiments/predict.py {config.output / name} SERIES.csv"),
        ],
        facts=[
            ("Data", page.flatten(metrics["data"])),
            ("Configuration", page.flatten(metrics["config"])),
            ("Environment", page.flatten(metrics["environment"])),
        ],
    )
    page.write(content, path)
