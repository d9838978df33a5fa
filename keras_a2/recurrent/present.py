"""A recurrent run's result in words: the table on the screen and the report page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as RichTable

from keras_a2 import report
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
    """The result of one model in a sentence that claims no more than its intervals."""
    test, unit = metrics["models"][name]["test"], metrics["data"]["unit"]
    ridge = metrics["baselines"]["ridge"]["test"]
    return (
        f"{report.label(name)}: mean absolute error {report.amount(test['mae'], unit)}; "
        f"{_verdict(test, 'the best naive baseline', metrics['best_naive_test'])}; "
        f"{_verdict(test['against_ridge'], 'ridge regression', ridge)} (95 % intervals)."
    )


def _verdict(comparison: dict, reference: str, test: dict) -> str:
    skill, (low, high) = comparison["skill"], comparison["skill_ci95"]
    reference += f" ({report.number(test['mae'])})"
    if low <= 0 <= high:
        return f"no evidence that it beats {reference}: skill {_skill(comparison)}"
    span = f"({100 * low:.1f} to {100 * high:.1f})" if skill > 0 else f"({-100 * high:.1f} to {-100 * low:.1f})"
    return f"{abs(100 * skill):.1f} % {span} {'lower' if skill > 0 else 'HIGHER'} than {reference}"


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per model and baseline."""
    unit = metrics["data"]["unit"]
    header = [
        "",
        "validation",
        report.with_unit("MAE", unit),
        "MAE std",
        "MSE std",
        "skill (95 %)",
        "DM p",
        "against ridge (95 %)",
        "seconds",
    ]
    rows = []
    found = metrics["models"] | metrics["baselines"] | {"best naive per lead": {"test": metrics["best_naive_test"]}}
    for name, model in found.items():
        test = model["test"]
        row = [
            report.label(name),
            report.number(model["validation"]["mae"], 4) if "validation" in model else "",
            report.number(test["mae"], 4),
            f"{test['mae_standardized']:.4f}",
            f"{test['mse_standardized']:.4f}",
        ]
        row += [_skill(test), report.p_text(test["dm_p_value"]) if "skill" in test else ""]
        seconds = f"{model['seconds']:.0f}" if "seconds" in model else ""
        rows.append([*row, _skill(test.get("against_ridge", {})), seconds])
    return header, rows


def _skill(test: dict) -> str:
    """Skill with its interval, or nothing where there is none."""
    return (
        f"{report.percent(test['skill'])} ({report.interval(test['skill_ci95'], unit='')})" if "skill" in test else ""
    )


def show(metrics: dict) -> None:
    """Print the comparison, and what is published in a sentence each."""
    header, rows = result_rows(metrics)
    table = RichTable(*header, title=f"{metrics['data']['name']}: {metrics['data']['test']} test windows, read once")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for model in metrics["published"].values():
        console.print(headline(metrics, model))


def page(config, windows: Windows, model: str, name: str, metrics: dict, pictures, path: Path) -> None:
    header, rows = result_rows(metrics)
    tables = [
        report.Table(
            "Result on the test split",
            header,
            rows,
            "Validation: mean absolute error there; choices are made by the standardised one, the loss of training. "
            "Skill: 1 - MAE / MAE of the naive that was best on validation at each lead; circular block "
            'bootstrap. "+ ridge": the mean of the network\'s forecast and '
            "ridge regression's. Skill against each baseline stands in metrics.json. "
            "DM: Diebold-Mariano test with the Harvey-Leybourne-Newbold correction. The test split was read once.",
        )
    ]
    for part in ("hour", "month"):
        values = metrics["models"][model][f"mae_by_{part}"]
        if len(values) > 1:
            row = [report.number(value) for value in values.values()]
            title = report.with_unit(f"MAE by {part} of the forecast time", windows.unit)
            tables.append(report.Table(title, list(values), [row]))
    content = report.Page(
        title=f"{report.label(model)} on {windows.name}",
        headline=headline(metrics, model),
        tables=tables,
        figures=pictures,
        commands=[
            ("Run it again", metrics["environment"]["command"]),
            ("Forecast", f"python experiments/predict.py {config.output / name} SERIES.csv"),
        ],
        facts=[
            ("Data", report.flatten(metrics["data"])),
            ("Configuration", report.flatten(metrics["config"])),
            ("Environment", report.flatten(metrics["environment"])),
        ],
    )
    report.write(content, path)
