"""A recurrent run's result in words: the table on the screen and the report page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as RichTable

from keras_a2 import report
from keras_a2.console import console
from keras_a2.recurrent.data import Windows


def headline(metrics: dict, cell: str) -> str:
    """The result of one cell in a sentence that claims no more than its interval."""
    test, unit = metrics["models"][cell]["test"], metrics["data"]["unit"]
    skill, (low, high) = test["skill"], test["skill_ci95"]
    error = f"{cell.replace('_', ' ')}: mean absolute error {report.number(test['mae'])} {unit}"
    naive = f"the best naive baseline ({report.number(metrics['best_naive_test']['mae'])})"
    span = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %, Diebold-Mariano p {report.p_text(test['dm_p_value'])}"
    if low <= 0 <= high:
        return f"{error}; no evidence that it beats {naive}: skill {100 * skill:.1f} %, {span}."
    verdict = "lower" if skill > 0 else "HIGHER"
    return f"{error}, {abs(100 * skill):.1f} % {verdict} than {naive}; {span}."


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per model and baseline."""
    unit = metrics["data"]["unit"]
    header = ["", f"MAE ({unit})", "MAE std", "MSE std", "skill", "95 % interval", "DM p", "seconds"]
    rows = []
    tests = [(name, model["test"], f"{model['seconds']:.0f}") for name, model in metrics["models"].items()]
    tests += [(name, model["test"], "") for name, model in metrics["baselines"].items()]
    tests.append(("best naive per lead", metrics["best_naive_test"], ""))
    for name, test, seconds in tests:
        row = [
            name.replace("_", " "),
            report.number(test["mae"], 4),
            f"{test['mae_standardized']:.4f}",
            f"{test['mse_standardized']:.4f}",
        ]
        if "skill" in test:
            row += [
                report.percent(test["skill"]),
                report.interval(test["skill_ci95"]),
                report.p_text(test["dm_p_value"]),
            ]
        else:
            row += ["", "", ""]
        rows.append([*row, seconds])
    return header, rows


def show(metrics: dict) -> None:
    header, rows = result_rows(metrics)
    table = RichTable(*header, title=f"{metrics['data']['name']}: {metrics['data']['test']} test windows, read once")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for cell in metrics["models"]:
        console.print(headline(metrics, cell))


def page(config, windows: Windows, cell: str, name: str, metrics: dict, pictures, path: Path) -> None:
    header, rows = result_rows(metrics)
    tables = [
        report.Table(
            "Result on the test split",
            header,
            rows,
            "Skill: 1 - MAE / MAE of the naive that was best on validation at each lead; circular block "
            "bootstrap. Skill against each baseline stands in metrics.json. "
            "DM: Diebold-Mariano test with the Harvey-Leybourne-Newbold correction. The test split was read once.",
        )
    ]
    for part in ("hour", "month"):
        values = metrics["models"][cell][f"mae_by_{part}"]
        if values:
            row = [report.number(value) for value in values.values()]
            tables.append(report.Table(f"MAE by {part} of the forecast time ({windows.unit})", list(values), [row]))
    content = report.Page(
        title=f"{cell.replace('_', ' ')} on {windows.name}",
        headline=headline(metrics, cell),
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
