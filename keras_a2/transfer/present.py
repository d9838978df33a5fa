"""A transfer run's result in words: the table on the screen and the report page."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as RichTable

from keras_a2 import page
from keras_a2.console import console
from keras_a2.transfer.data import Images

SCREEN_CLASSES = 25  # of more, the classification reports are on the page only


def result_rows(metrics: dict) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per arm and baseline."""
    header = ["", "test accuracy", "95 % interval", "balanced", "macro F1", "calibration error", "seconds"]
    rows = []
    for name, arm in metrics["arms"].items():
        test = arm["test"]
        label = "pretrained" if name == "pretrained" else "scratch (random weights)"
        rows.append(
            [
                label,
                page.percent(test["accuracy"]),
                page.interval(test["accuracy_ci95"]),
                page.percent(test["balanced_accuracy"]),
                f"{test['macro_f1']:.3f}",
                f"{test['ece']:.3f}",
                f"{arm['seconds']:.0f}",
            ]
        )
    labels = {"pixels": "logistic regression on pixels", "majority": "majority class"}
    for name, label in labels.items():
        rows.append([label, page.percent(metrics["baselines"][name]["test"]["accuracy"]), "", "", "", "", ""])
    return header, rows


VERDICTS = {"better": "better than", "worse": "worse than", "not shown": "not shown to differ from"}


def headline(metrics: dict) -> str:
    """The result in one or two sentences, with what it started from."""
    arm = metrics["arms"]["pretrained"]
    seeds = len(arm["test"].get("accuracy_seeds", [0]))
    text = (
        f"From {arm['weights']['origin']} weights: {page.percent(arm['test']['accuracy'])} of {arm['test']['n']} "
        f"test images right ({'one seed' if seeds == 1 else f'mean of {seeds} seeds'}, "
        f"95 % interval {page.interval(arm['test']['accuracy_ci95'])})."
    )
    if "difference" in metrics:
        d = metrics["difference"]
        text += (
            f" That is {VERDICTS[d['verdict']]} random initialisation: {100 * d['accuracy']:+.1f} points "
            f"({page.interval(d['ci95'], unit='')}; {d['test']}, p {page.p_text(d['p_value'])})."
        )
    return text


def of_seed(metrics: dict) -> str:
    """Says which seed is described, where there are several."""
    several = "accuracy_seeds" in metrics["arms"]["pretrained"]["test"]
    return f", seed {metrics['published_seed']}" if several else ""


def show(metrics: dict, reports: dict[str, str]) -> None:
    header, rows = result_rows(metrics)
    table = RichTable(*header, title=f"{metrics['data']['name']}: test split, read once")
    for row in rows:
        table.add_row(*row)
    if len(metrics["data"]["classes"]) <= SCREEN_CLASSES:
        for name, text in reports.items():
            console.print(f"\nclassification report, {name}{of_seed(metrics)}\n{text}", markup=False)
    console.print(table)
    if len(metrics["data"]["classes"]) > SCREEN_CLASSES and metrics["most_confused"]:
        pairs = [f"{p['truth']} → {p['prediction']} ({p['n']})" for p in metrics["most_confused"][:5]]
        console.print(f"most confused (true → predicted): {', '.join(pairs)}; the report page has every class")
    console.print(headline(metrics))


def write_page(config, name: str, images: Images, metrics: dict, reports: dict[str, str], pictures, path: Path) -> None:
    header, rows = result_rows(metrics)
    compared = {"scratch": metrics.get("difference"), **metrics["difference_to_baselines"]}
    differences = [
        [
            f"pretrained{'' if other == 'scratch' else of_seed(metrics)} less {other}",
            f"{100 * d['accuracy']:+.1f}",
            page.interval(d["ci95"], unit=""),
            page.p_text(d["p_value"]),
            d["verdict"],
        ]
        for other, d in compared.items()
        if d
    ]
    phases = [
        [
            arm_name,
            phase["name"].replace("_", " "),
            str(phase["epochs"]),
            str(phase["best_epoch"]),
            page.percent(phase["validation_accuracy"]),
            f"{phase['seconds']:.1f}",
            phase["note"],
        ]
        for arm_name, arm in metrics["arms"].items()
        for phase in arm["phases"]
    ]
    content = page.Page(
        title=f"Transfer on {images.name}",
        headline=headline(metrics),
        tables=[
            page.Table("Result on the test split", header, rows, "Intervals: Wilson. The test split was read once."),
            page.Table(
                "Differences on the same images",
                ["", "points", "95 % interval", "p", "verdict"],
                differences,
                "Paired bootstrap over test images; p: McNemar's exact test, or for several seeds a sign-flip test of "
                'the share of seeds that get an image right. "Better" and "worse": interval and test agree.',
            ),
            page.Table(
                f"Phases{of_seed(metrics)}",
                ["arm", "phase", "epochs", "kept", "validation accuracy", "seconds", "note"],
                phases,
                "Epoch 0 is the state before the phase; the epoch kept has the lowest validation loss.",
            ),
        ],
        figures=pictures,
        texts=[(f"Classification report, {arm}{of_seed(metrics)}", text) for arm, text in reports.items()],
        commands=[
            ("Run it again", metrics["environment"]["command"]),
            ("Predict", f"python experiments/predict.py {config.output / name} IMAGE_OR_FOLDER"),
        ],
        facts=[
            ("Data", page.flatten(metrics["data"])),
            ("Configuration", page.flatten(metrics["config"])),
            ("Environment", page.flatten(metrics["environment"])),
        ],
    )  # fmt: skip
    page.write(content, path)
