"""A transfer run for people: the table on the screen, the tables of predictions and epochs, the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_a2 import page
from keras_a2.console import console, print_table
from keras_a2.experiments import command
from keras_a2.transfer import audit, evaluate, figures
from keras_a2.transfer.evaluate import Results
from keras_a2.transfer.familiar import FALSE_ALARMS
from keras_a2.transfer.figures import ARMS, BASELINES, CURVES
from keras_a2.transfer.maps import Mapper

SCREEN_CLASSES = 25  # of more, the classification reports are on the page only
CLAIMS = {"difference": "That is {} random initialisation", "difference_frozen": "It is {} the frozen backbone"}
VERDICTS = {"better": "better than", "worse": "worse than", "not shown": "not shown to differ from"}


def show(results: Results) -> None:
    """Print the comparison, and the classification reports of not too many classes."""
    metrics = results.metrics
    header, rows = result_rows(metrics)
    few = len(metrics["data"]["classes"]) <= SCREEN_CLASSES
    for title, text in _classification_reports(results) if few else []:
        console.print(f"\n{title}\n{text}")
    print_table(f"{metrics['data']['name']}: test split, read once", header, rows)
    if not few and metrics["most_confused"]:
        pairs = [f"{p['truth']} → {p['prediction']} ({p['n']})" for p in metrics["most_confused"][:5]]
        console.print(f"most confused (true → predicted): {', '.join(pairs)}; the report page has every class")
    for sentence in curve_sentences(metrics):
        console.print(sentence)


def write(folder: Path, results: Results, mapper: Mapper, published: Path) -> None:
    """Write ``predictions.csv``, ``history.csv``, ``audit.csv``, the figures and ``report.html`` into ``folder``.

    Args:
        mapper: see ``describe.mapper``.
        published: the model's folder, for the command on the page.
    """
    metrics, seed = results.metrics, of_seed(results.metrics)
    # Names of files may hold undecodable bytes.
    predictions(results).to_csv(folder / "predictions.csv", index=False, errors="backslashreplace")
    history(results).to_csv(folder / "history.csv", index=False)
    audit.rows(results.images).to_csv(folder / "audit.csv", index=False, errors="backslashreplace")
    content = page.Page(
        title=f"Transfer on {metrics['data']['name']}",
        headline=headline(metrics),
        tables=[
            page.Table(
                "Result on the test split", *result_rows(metrics), "Intervals: Wilson. The test split was read once."
            ),
            _differences(metrics, seed),
            _phases(metrics, seed),
            _coursework(metrics),
            *([_curve_table(metrics)] if "learning_curve" in metrics else []),
            _answers(metrics, results.unfamiliar[1], seed),
        ],
        charts=figures.draw(folder / "figures", results, seed),
        metrics=metrics,
        use=use(published),
        home=published,
        guide=guide(results),
        sheets=[*figures.sheets(results, mapper), *figures.suspects(results.images)],
        texts=_classification_reports(results),
    )
    page.write(content, folder / "report.html")


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


def use(published: Path) -> str:
    """The command that uses the published model."""
    return f"{command('predict')} {published} IMAGE_OR_FOLDER"


def guide(results: Results) -> list[str]:
    """How to read the page, and what unfreezing changed, in paragraphs."""
    metrics, labels = results.metrics, results.labels
    paragraphs = [
        "The same network is trained twice: from pretrained weights, first with a frozen backbone (phase 1), then "
        "unfrozen (phase 2); and from random initialisation, the control. Every choice was made on validation images; "
        "the test images were read once, at the end. Quote the test accuracy with its interval, and claim a difference "
        'only where the verdict is "better" or "worse".'
    ]
    if "difference_frozen" in metrics:
        frozen, tuned = (results.probabilities[results.best][name].argmax(axis=1) for name in ("frozen", "pretrained"))
        gained, lost = ((a == labels) & (b != labels) for a, b in ((tuned, frozen), (frozen, tuned)))
        head, tuned_phase = metrics["arms"]["pretrained"]["phases"]
        paragraphs.append(
            f"What unfreezing changed{of_seed(metrics)}: {tuned_phase['trained_parameters']:,} instead of "
            f"{head['trained_parameters']:,} parameters were trained. Of {len(labels)} test images {gained.sum()} "
            f"became right and {lost.sum()} wrong. {tuned_phase['note']}".strip()
        )
    return paragraphs


def _differences(metrics: dict[str, Any], seed: str) -> page.Table:
    arms = {"scratch": metrics.get("difference"), "frozen": metrics.get("difference_frozen")}
    rows = [
        [f"pretrained{'' if other in arms else seed} less {BASELINES.get(other, other)}", f"{100 * d['accuracy']:+.1f}",
         page.interval(d["ci95"], unit=""), page.p_text(d["p_value"]), d["verdict"]]
        for other, d in (arms | metrics["difference_to_baselines"]).items() if d
    ]  # fmt: skip
    return page.Table(
        "Differences on the same images",
        ["", "points", "95 % interval", "p", "verdict"],
        rows,
        "Paired bootstrap over test images; p: McNemar's exact test, or for several seeds a sign-flip test of "
        'the share of seeds that get an image right. "Better" and "worse": interval and test agree.',
    )


def _phases(metrics: dict[str, Any], seed: str) -> page.Table:
    config = metrics["config"]
    rates = {
        "head": config["head_learning_rate"],
        "fine_tune": config["learning_rate"],
        "scratch": config["scratch_learning_rate"],
    }
    rows = [
        [f"{name}: {p['name'].replace('_', ' ')}", f"{p['trained_parameters']:,}", f"{p['frozen_parameters']:,}",
         f"{rates[p['name']]:g}", str(p["epochs"]), str(p["best_epoch"]), page.percent(p["validation_accuracy"]),
         f"{p['seconds_per_epoch']:.1f}", f"{p['seconds']:.0f}"]
        for name, arm in metrics["arms"].items() if name != "frozen" for p in arm["phases"]
    ]  # fmt: skip
    header = ["phase", "trained parameters", "fixed", "peak learning rate", "epochs", "kept", "validation accuracy",
              "seconds per epoch", "in all"]  # fmt: skip
    note = (
        "Epoch 0 is the state before the phase; the epoch kept has the lowest validation loss. Fixed parameters "
        "include batch norm's statistics. In fine-tuning each earlier block's rate is "
        f"{config['layer_decay']:g} times the next one's."
    )
    return page.Table(f"Phases{seed}", header, rows, note)


def _coursework(metrics: dict[str, Any]) -> page.Table:
    """The table of the coursework that the experiment comes from, with the same rows of this run."""
    claims = {"pretrained": ("83 %", "55 to 95 %"), "scratch": ("12.58 %", "")}
    rows = [
        [ARMS[name], *claims[name], page.percent(arm["test"]["accuracy"]), page.interval(arm["test"]["accuracy_ci95"]),
         str(sum(phase["epochs"] for phase in arm["phases"]))]
        for name, arm in metrics["arms"].items() if name in claims
    ]  # fmt: skip
    header = ["", "coursework: accuracy", "95 % interval", "here: test accuracy", "95 % interval", "epochs"]
    note = (
        "The coursework reported 83 % on 12 test images (10 of them right), and 12.58 % after 10 epochs from random "
        f"initialisation. It had other images; here {metrics['arms']['pretrained']['test']['n']} are tested. Accuracy "
        "at chance from random initialisation is often batch norm whose moving statistics lag behind; here they do not."
    )
    return page.Table("As the coursework reported it", header, rows, note)


def _answers(metrics: dict[str, Any], unfamiliar: float | None, seed: str) -> page.Table:
    def lowest(shares: dict[str, float]) -> str:
        return ", ".join(f"{name} {page.percent(shares[name])}" for name in sorted(shares, key=shares.__getitem__)[:3])

    rows = [
        [ARMS[name], f"{t['temperature']:.2f}", f"{t['ece_uncalibrated']:.3f}", f"{t['ece']:.3f}",
         page.percent(t["sets"]["level"]), page.percent(t["sets"]["coverage"]), f"{t['sets']['mean_size']:.2f}",
         lowest(t["sets"]["coverage_by_class"])]
        for name, arm in metrics["arms"].items() for t in [arm["test"]]
    ]  # fmt: skip
    header = ["", "temperature", "error before", "and after", "coverage promised", "reached", "classes in a set",
              f"lowest coverage of a class{seed}"]  # fmt: skip
    marked = (
        "There are too few validation images for a mark of unfamiliar pictures."
        if unfamiliar is None
        else f"Unfamiliar pictures are marked at a false-alarm rate of {page.percent(FALSE_ALARMS)}, set on the "
        f"validation images; of the test images, which are all familiar, {page.percent(unfamiliar)} are marked."
    )
    note = (
        "The logits are divided by the temperature. A set holds every class from one probability on, and always the "
        "most probable one. Both were fitted on the validation images. The promise is for all images together. "
    )
    return page.Table("Calibration, sets of classes, unfamiliar pictures", header, rows, note + marked)


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
