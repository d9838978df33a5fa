"""A transfer run for people: the table on the screen, the tables of predictions and epochs, the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from keras_a2 import page
from keras_a2.console import console
from keras_a2.transfer import evaluate, figures
from keras_a2.transfer.evaluate import Results
from keras_a2.transfer.figures import ARMS, BASELINES, CURVES

SCREEN_CLASSES = 25  # of more, the classification reports are on the page only
CLAIMS = {"difference": "That is {} random initialisation", "difference_frozen": "It is {} the frozen backbone"}
VERDICTS = {"better": "better than", "worse": "worse than", "not shown": "not shown to differ from"}


def show(results: Results) -> None:
    """Print the comparison, the classification reports of not too many classes, and the result in words."""
    metrics = results.metrics
    header, rows = result_rows(metrics)
    table = Table(*header, title=f"{metrics['data']['name']}: test split, read once")
    for row in rows:
        table.add_row(*row)
    few = len(metrics["data"]["classes"]) <= SCREEN_CLASSES
    for title, text in _classification_reports(results) if few else []:
        console.print(f"\n{title}\n{text}")
    console.print(table)
    if not few and metrics["most_confused"]:
        pairs = [f"{p['truth']} → {p['prediction']} ({p['n']})" for p in metrics["most_confused"][:5]]
        console.print(f"most confused (true → predicted): {', '.join(pairs)}; the report page has every class")
    console.print(headline(metrics))
    for sentence in curve_sentences(metrics):
        console.print(sentence)


def write(folder: Path, results: Results, published: Path) -> None:
    """Write ``predictions.csv``, ``history.csv``, the figures and ``report.html`` into ``folder``.

    Args:
        published: the model's folder, for the command on the page.
    """
    # Names of files may hold undecodable bytes.
    predictions(results).to_csv(folder / "predictions.csv", index=False, errors="backslashreplace")
    history(results).to_csv(folder / "history.csv", index=False)
    pictures = figures.draw(folder / "figures", results, of_seed(results.metrics))
    page.write(_page(results, pictures, published), folder / "report.html")


def _classification_reports(results: Results) -> list[tuple[str, str]]:
    seed, classes, probabilities = of_seed(results.metrics), results.images.classes, results.probabilities[results.best]
    return [
        (f"Classification report, {name}{seed}", evaluate.report(results.labels, probabilities[name], classes))
        for name in results.published
    ]


def result_rows(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per arm and baseline; of two classes the recall of either."""
    two = metrics["data"]["classes"] if len(metrics["data"]["classes"]) == 2 else []
    recalls = [f"recall: {name}" for name in two] or ["lowest recall"]
    header = ["", "test accuracy", "95 % interval", "balanced", *recalls, "macro F1", "calibration error", "seconds"]

    def cells(test: dict[str, Any]) -> list[str]:
        ends = page.interval(test["accuracy_ci95"]) if "accuracy_ci95" in test else ""
        recall = test["recall"]
        shown = [page.percent(recall[name]) if name in recall else "" for name in two] or [
            page.percent(min(recall.values()))
        ]
        return [page.percent(test["accuracy"]), ends, page.percent(test["balanced_accuracy"]), *shown]

    rows = []
    for name, arm in metrics["arms"].items():
        test = arm["test"]
        more = [f"{test['macro_f1']:.3f}", f"{test['ece']:.3f}", f"{arm['seconds']:.0f}"]
        rows.append([ARMS[name], *cells(test), *more])
    rows += [[label, *cells(metrics["baselines"][name]["test"]), "", "", ""] for name, label in BASELINES.items()]
    return header, rows


def headline(metrics: dict[str, Any]) -> str:
    """The result in one or two sentences, with what it started from."""
    arm = metrics["arms"]["pretrained"]
    seeds = len(arm["test"].get("accuracy_seeds", [0]))
    text = (
        f"From {arm['weights']['origin']} weights: {page.percent(arm['test']['accuracy'])} of {arm['test']['n']} "
        f"test images right ({'one seed' if seeds == 1 else f'mean of {seeds} seeds'}, "
        f"95 % interval {page.interval(arm['test']['accuracy_ci95'])})."
    )
    for key, claim in CLAIMS.items():
        if key in metrics:
            d = metrics[key]
            text += (
                f" {claim.format(VERDICTS[d['verdict']])}: {100 * d['accuracy']:+.1f} points "
                f"({page.interval(d['ci95'], unit='')}; {d['test']}, p {page.p_text(d['p_value'])})."
            )
    return text


def curve_sentences(metrics: dict[str, Any]) -> list[str]:
    """What the learning curve says: what pretraining is worth in photos, and what twice the photos would bring."""
    sentences = []
    points = metrics.get("learning_curve_equivalent", [])
    matched = [p for p in points[:-1] if p["equivalent"]] or [p for p in points if p["at_least"]][:1]
    if matched:
        p = matched[-1]
        claim = f"is more accurate than random initialisation with all {p['at_least'] or 0:.0f}"
        if p["equivalent"]:
            low, high = p["interval"]
            ends = f"{'fewer' if low is None else f'{low:.0f}'} to {'more than all' if high is None else f'{high:.0f}'}"
            claim = f"does what random initialisation does with about {p['equivalent']:.0f} ({ends})"
        sentences.append(f"The frozen pretrained backbone with {p['per_class']:.0f} training images per class {claim}.")
    if "learning_curve_doubling" in metrics:
        d = metrics["learning_curve_doubling"]
        check, gain = d["check"], f"{100 * d['gain']:+.1f} points ({page.interval(d['interval'], unit='')})"
        predicted = f"{page.percent(check['predicted'])} ({page.interval(check['interval'])})"
        sentences.append(
            f"Twice the photos: about {gain} for the frozen backbone. From {check['from_per_class']:.0f} per class the "
            f"same law predicts {predicted} for all of them; measured: {page.percent(check['measured'])}."
        )
    return sentences


def of_seed(metrics: dict[str, Any]) -> str:
    """Says which seed is described, where there are several."""
    several = "accuracy_seeds" in metrics["arms"]["pretrained"]["test"]
    return f", seed {metrics['published_seed']}" if several else ""


def _page(results: Results, pictures: list[tuple[str, Path]], published: Path) -> page.Page:
    metrics = results.metrics
    header, rows = result_rows(metrics)
    seed = of_seed(metrics)
    arms = {"scratch": metrics.get("difference"), "frozen": metrics.get("difference_frozen")}
    differences = [
        [f"pretrained{'' if other in arms else seed} less {other}", f"{100 * d['accuracy']:+.1f}",
         page.interval(d["ci95"], unit=""), page.p_text(d["p_value"]), d["verdict"]]
        for other, d in (arms | metrics["difference_to_baselines"]).items() if d
    ]  # fmt: skip
    phases = [
        [name, p["name"].replace("_", " "), str(p["epochs"]), str(p["best_epoch"]),
         page.percent(p["validation_accuracy"]), f"{p['seconds']:.1f}", p["note"]]
        for name, arm in metrics["arms"].items() for p in arm["phases"]
    ]  # fmt: skip
    tables = [
        page.Table("Result on the test split", header, rows, "Intervals: Wilson. The test split was read once."),
        page.Table(
            "Differences on the same images",
            ["", "points", "95 % interval", "p", "verdict"],
            differences,
            "Paired bootstrap over test images; p: McNemar's exact test, or for several seeds a sign-flip test of "
            'the share of seeds that get an image right. "Better" and "worse": interval and test agree.',
        ),
        page.Table(
            f"Phases{seed}",
            ["arm", "phase", "epochs", "kept", "validation accuracy", "seconds", "note"],
            phases,
            "Epoch 0 is the state before the phase; the epoch kept has the lowest validation loss.",
        ),
    ]
    if "learning_curve" in metrics:
        tables.insert(2, _curve_table(metrics))
    sets = [
        [ARMS[name], f"{t['temperature']:.2f}", f"{t['ece_uncalibrated']:.3f}", f"{t['ece']:.3f}",
         page.percent(t["sets"]["level"]), page.percent(t["sets"]["coverage"]), f"{t['sets']['mean_size']:.2f}",
         ", ".join(f"{c} {page.percent(share)}" for c, share in _lowest(t["sets"]["coverage_by_class"]))]
        for name, arm in metrics["arms"].items() for t in [arm["test"]]
    ]  # fmt: skip
    tables.append(
        page.Table(
            "Calibration and sets of classes",
            ["", "temperature", "error before", "and after", "coverage promised", "reached", "classes in a set",
             f"lowest coverage of a class{seed}"],
            sets,
            "The logits are divided by the temperature. A set holds every class from one probability on, and always "
            "the most probable one. Both were fitted on the validation images. The promise is for all images together.",
        )
    )  # fmt: skip
    use = f"python experiments/predict.py {published} IMAGE_OR_FOLDER"
    title, texts = f"Transfer on {metrics['data']['name']}", _classification_reports(results)
    return page.Page(title, headline(metrics), tables, pictures, metrics, use, texts)


def _curve_table(metrics: dict[str, Any]) -> page.Table:
    cells = {
        (row["per_class"], row["arm"]): f"{page.percent(row['accuracy'])} ({page.interval(row['interval'])})"
        for row in metrics["learning_curve"]
    }
    arms = {row["arm"]: CURVES[row["arm"]] for row in metrics["learning_curve"]}
    sizes = sorted({size for size, _ in cells})
    rows = [[f"{size:.0f}", *(cells.get((size, arm), "") for arm in arms)] for size in sizes]
    note = "Test accuracy. Each part of the training images has their proportions of classes. " + " ".join(
        curve_sentences(metrics)
    )
    return page.Table("Accuracy by number of training images", ["images per class", *arms.values()], rows, note)


def _lowest(shares: dict[str, float], n: int = 3) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: item[1])[:n]


def predictions(results: Results) -> pd.DataFrame:
    """A row per test image: what is published, then each arm, seed and baseline, so that anybody can compare them."""
    source, names = results.images.source, np.array(results.images.classes)
    published = results.probabilities[results.best]["pretrained"]
    table = {
        "item": [source.item_names[i] for i in results.images.test],
        "truth": names[results.labels],
        "prediction": names[published.argmax(axis=1)],
        "probability": published.max(axis=1),
    }
    for seed, probabilities in enumerate(results.probabilities, results.metrics["config"]["seed"]):
        for arm, probability in probabilities.items():
            table[f"prediction_{arm}_seed{seed}"] = names[probability.argmax(axis=1)]
            table[f"probability_{arm}_seed{seed}"] = probability.max(axis=1)
    table |= {f"prediction_{name}": names[predicted] for name, predicted in results.baselines.items()}
    return pd.DataFrame(table)


def history(results: Results) -> pd.DataFrame:
    """A row per epoch of every phase, arm and seed."""
    return pd.DataFrame(
        {"seed": seed, "arm": name, "phase": phase.name, **row}
        for seed, arms in enumerate(results.arms, results.metrics["config"]["seed"])
        for name, arm in arms.items()
        for phase in arm.phases
        for row in phase.history.table()
    )
