"""A transfer run for people: the table on the screen, pictures, the tables of predictions and epochs, the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table
from sklearn.metrics import confusion_matrix, f1_score

from keras_a2 import page
from keras_a2.console import console
from keras_a2.errors import printable
from keras_a2.transfer import evaluate
from keras_a2.transfer.data import Images
from keras_a2.transfer.evaluate import Arms, Probabilities

ARMS = {"pretrained": "pretrained", "scratch": "scratch (random weights)"}
BASELINES = {"pixels": "logistic regression on pixels", "majority": "majority class"}
COLOURS = {"pretrained": "#0f62a8", "scratch": "#b8561c"}
READABLE_CLASSES = 25  # of more, the most confused pairs instead of the matrix
SHOWN_CLASSES = 50
SCREEN_CLASSES = 25  # of more, the classification reports are on the page only
VERDICTS = {"better": "better than", "worse": "worse than", "not shown": "not shown to differ from"}


def show(metrics: dict[str, Any], images: Images, probabilities: list[Probabilities]) -> None:
    """Print the comparison, the classification reports of not too many classes, and the result in words.

    Args:
        metrics: see ``evaluate.summarise``.
        probabilities: of each seed and arm ``(test images, classes)``.
    """
    header, rows = result_rows(metrics)
    table = Table(*header, title=f"{metrics['data']['name']}: test split, read once")
    for row in rows:
        table.add_row(*row)
    if len(metrics["data"]["classes"]) <= SCREEN_CLASSES:
        for title, text in _classification_reports(metrics, images, probabilities):
            console.print(f"\n{title}\n{text}", markup=False)
    console.print(table)
    if len(metrics["data"]["classes"]) > SCREEN_CLASSES and metrics["most_confused"]:
        pairs = [f"{p['truth']} → {p['prediction']} ({p['n']})" for p in metrics["most_confused"][:5]]
        console.print(f"most confused (true → predicted): {', '.join(pairs)}; the report page has every class")
    console.print(headline(metrics))


def write(
    folder: Path,
    published: Path,
    metrics: dict[str, Any],
    images: Images,
    arms: list[Arms],
    probabilities: list[Probabilities],
    baselines: dict[str, np.ndarray],
) -> None:
    """Write ``predictions.csv``, ``history.csv``, the figures and ``report.html`` into ``folder``.

    Args:
        published: the model's folder, for the command on the page.
        arms, probabilities: of each seed.
        baselines: name -> predicted classes of the test images.
    """
    best = published_position(metrics)
    # Names of files may hold undecodable bytes.
    table = predictions(images, probabilities, baselines, best, metrics["config"]["seed"])
    table.to_csv(folder / "predictions.csv", index=False, errors="backslashreplace")
    history(arms, metrics["config"]["seed"]).to_csv(folder / "history.csv", index=False)
    pictures = figures(folder / "figures", images, arms[best], probabilities[best], metrics)
    reports = _classification_reports(metrics, images, probabilities)
    page.write(_page(published, metrics, reports, pictures), folder / "report.html")


def published_position(metrics: dict[str, Any]) -> int:
    """Of the published seed among the seeds."""
    return metrics["published_seed"] - metrics["config"]["seed"]


def _classification_reports(
    metrics: dict[str, Any], images: Images, probabilities: list[Probabilities]
) -> list[tuple[str, str]]:
    labels, published = images.labels[images.test], probabilities[published_position(metrics)]
    return [
        (f"Classification report, {name}{of_seed(metrics)}", evaluate.report(labels, p, images.classes))
        for name, p in published.items()
    ]


def result_rows(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The comparison as texts: header and one row per arm and baseline."""
    header = ["", "test accuracy", "95 % interval", "balanced", "macro F1", "calibration error", "seconds"]
    rows = []
    for name, arm in metrics["arms"].items():
        t = arm["test"]
        accuracy = [
            page.percent(t["accuracy"]),
            page.interval(t["accuracy_ci95"]),
            page.percent(t["balanced_accuracy"]),
        ]
        rows.append([ARMS[name], *accuracy, f"{t['macro_f1']:.3f}", f"{t['ece']:.3f}", f"{arm['seconds']:.0f}"])
    for name, label in BASELINES.items():
        rows.append([label, page.percent(metrics["baselines"][name]["test"]["accuracy"]), *[""] * 5])
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
    if "difference" in metrics:
        d = metrics["difference"]
        text += (
            f" That is {VERDICTS[d['verdict']]} random initialisation: {100 * d['accuracy']:+.1f} points "
            f"({page.interval(d['ci95'], unit='')}; {d['test']}, p {page.p_text(d['p_value'])})."
        )
    return text


def of_seed(metrics: dict[str, Any]) -> str:
    """Says which seed is described, where there are several."""
    several = "accuracy_seeds" in metrics["arms"]["pretrained"]["test"]
    return f", seed {metrics['published_seed']}" if several else ""


def _page(
    published: Path, metrics: dict[str, Any], reports: list[tuple[str, str]], pictures: list[tuple[str, Path]]
) -> page.Page:
    header, rows = result_rows(metrics)
    seed = of_seed(metrics)
    compared = {"scratch": metrics.get("difference"), **metrics["difference_to_baselines"]}
    differences = [
        [f"pretrained{'' if other == 'scratch' else seed} less {other}", f"{100 * d['accuracy']:+.1f}",
         page.interval(d["ci95"], unit=""), page.p_text(d["p_value"]), d["verdict"]]
        for other, d in compared.items() if d
    ]  # fmt: skip
    phases = [
        [name, p["name"].replace("_", " "), str(p["epochs"]), str(p["best_epoch"]),
         page.percent(p["validation_accuracy"]), f"{p['seconds']:.1f}", p["note"]]
        for name, arm in metrics["arms"].items() for p in arm["phases"]
    ]  # fmt: skip
    return page.Page(
        title=f"Transfer on {metrics['data']['name']}",
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
                f"Phases{seed}",
                ["arm", "phase", "epochs", "kept", "validation accuracy", "seconds", "note"],
                phases,
                "Epoch 0 is the state before the phase; the epoch kept has the lowest validation loss.",
            ),
        ],
        figures=pictures,
        texts=reports,
        commands=[
            ("Run it again", metrics["environment"]["command"]),
            ("Predict", f"python experiments/predict.py {published} IMAGE_OR_FOLDER"),
        ],
        facts=[
            ("Data", page.flatten(metrics["data"])),
            ("Configuration", page.flatten(metrics["config"])),
            ("Environment", page.flatten(metrics["environment"])),
        ],
    )  # fmt: skip


def predictions(
    images: Images,
    probabilities: list[Probabilities],
    baselines: dict[str, np.ndarray],
    best: int,
    first_seed: int,
) -> pd.DataFrame:
    """A row per test image: what is published, then each arm, seed and baseline, so that anybody can compare them."""
    names = np.array(images.classes)
    published = probabilities[best]["pretrained"]
    table = {
        "item": [images.source.item_names[i] for i in images.test],
        "truth": names[images.labels[images.test]],
        "prediction": names[published.argmax(axis=1)],
        "probability": published.max(axis=1),
    }
    for seed, arms in enumerate(probabilities, first_seed):
        for arm, probability in arms.items():
            table[f"prediction_{arm}_seed{seed}"] = names[probability.argmax(axis=1)]
            table[f"probability_{arm}_seed{seed}"] = probability.max(axis=1)
    table |= {f"prediction_{name}": names[predicted] for name, predicted in baselines.items()}
    return pd.DataFrame(table)


def history(arms: list[Arms], first_seed: int) -> pd.DataFrame:
    rows = [
        {"seed": seed, "arm": name, "phase": phase.name, **row}
        for seed, trained in enumerate(arms, first_seed)
        for name, arm in trained.items()
        for phase in arm.phases
        for row in phase.history.table()
    ]
    return pd.DataFrame(rows)


def figures(
    folder: Path, images: Images, arms: Arms, probabilities: Probabilities, metrics: dict[str, Any]
) -> list[tuple[str, Path]]:
    """Draw the pictures of the published seed into ``folder``: caption and file of each."""
    folder.mkdir()
    labels = images.labels[images.test]
    predicted = {name: p.argmax(axis=1) for name, p in probabilities.items()}
    seed = of_seed(metrics)
    matrix = "Confusion matrix" if len(images.classes) <= READABLE_CLASSES else "The most confused classes"
    pictures = [
        ("Test accuracy of both arms and the baselines", folder / "comparison.png"),
        (
            f"Validation accuracy by epoch{seed}; the dotted line is where the backbone is unfrozen",
            folder / "learning_curves.png",
        ),
        (f"{matrix} of the pretrained arm{seed} on the test split", folder / "confusion.png"),
        (f"The pretrained arm's most confident mistakes{seed} on the test split", folder / "mistakes.png"),
        (f"F1 by class{seed} on the test split", folder / "per_class_f1.png"),
    ]
    comparison(metrics, pictures[0][1])
    learning_curves(arms, pictures[1][1])
    confusion(labels, predicted["pretrained"], images.classes, pictures[2][1])
    mistakes(images, probabilities["pretrained"], pictures[3][1])
    per_class_f1(labels, predicted, images.classes, pictures[4][1])
    return pictures


def comparison(metrics: dict[str, Any], path: Path) -> None:
    """Test accuracy of both arms with its interval, and of the baselines."""
    bars = [
        (name, arm["test"]["accuracy"], arm["test"]["accuracy_ci95"], COLOURS[name])
        for name, arm in metrics["arms"].items()
    ]
    bars += [
        (label, metrics["baselines"][name]["test"]["accuracy"], None, "#9aa3ab") for name, label in BASELINES.items()
    ]
    with _drawing(path, (7, 4)) as axes:
        for k, (_, value, ends, colour) in enumerate(bars):
            axes.barh(k, 100 * value, color=colour, height=0.6)
            if ends:
                axes.plot([100 * end for end in ends], [k, k], color="black", lw=2)
            right = 100 * (ends[1] if ends else value)
            axes.text(right + 1, k, f"{100 * value:.1f}", va="center")
        axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
        axes.invert_yaxis()
        axes.set(xlabel="test accuracy (%), black: 95 % interval", xlim=(0, 109), title=metrics["data"]["name"])


def learning_curves(arms: Arms, path: Path) -> None:
    """Validation accuracy by epoch, the phase boundary marked."""
    with _drawing(path, (7, 4)) as axes:
        for name, arm in arms.items():
            start = 0
            for phase in arm.phases:
                rows = phase.history.rows
                x = [start + row["epoch"] for row in rows]
                style = "-" if phase.name != "head" else "--"
                axes.plot(
                    x, [100 * row["validation_accuracy"] for row in rows], style, color=COLOURS[name], marker=".",
                    label=f"{name}: {phase.name.replace('_', ' ')}",
                )  # fmt: skip
                best = phase.history.best_epoch
                axes.plot(
                    x[best], 100 * rows[best]["validation_accuracy"], "o", color=COLOURS[name], fillstyle="none", ms=10
                )
                start = x[-1]
                if phase.name == "head":
                    axes.axvline(start, color="grey", lw=0.8, ls=":")
                    axes.annotate(" unfrozen", (start, 0.02), xycoords=("data", "axes fraction"), color="grey")
        axes.set(xlabel="epoch", ylabel="validation accuracy (%)", title="Learning curves (circle: the epoch kept)")
        axes.legend(frameon=False)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: list[str], path: Path) -> None:
    """Confusion matrix in per cent of the true class; of more than ``READABLE_CLASSES`` the most confused pairs."""
    n = len(classes)
    if n > READABLE_CLASSES:
        _confused_pairs(evaluate.confused(labels, predicted)[:READABLE_CLASSES], labels, classes, path)
        return
    counts = confusion_matrix(labels, predicted, labels=np.arange(n))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.45 * n + 2.5, 4, 14))
    with _drawing(path, (side, side)) as axes:
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(n), classes, rotation=90 if n > 4 else 0, fontsize=9)
        axes.set_yticks(range(n), classes, fontsize=9)
        for i, j in np.ndindex(n, n):
            if counts[i, j]:
                colour = "white" if share[i, j] > 0.5 else "black"
                axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=colour)
        axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, test split")


def _confused_pairs(pairs: list[tuple[int, int, int]], labels: np.ndarray, classes: list[str], path: Path) -> None:
    with _drawing(path, (8, 0.26 * len(pairs) + 1.5)) as axes:
        axes.barh(range(len(pairs)), [n for *_, n in pairs], color=COLOURS["pretrained"], height=0.7)
        for k, (true, _, n) in enumerate(pairs):
            axes.text(n, k, f" {n} of {(labels == true).sum()}", va="center", fontsize=8)
        names = [f"{_short(classes[true])} → {_short(classes[said])}" for true, said, _ in pairs]
        axes.set_yticks(range(len(pairs)), names, fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        title = "Most confused pairs (true → predicted)" if pairs else "No mistakes"
        axes.set(xlabel="test images", title=f"{title}, test split")


def mistakes(images: Images, probability: np.ndarray, path: Path, rows: int = 3, columns: int = 6) -> None:
    """The most confident mistakes on the test split, as a picture sheet."""
    labels, predicted = images.labels[images.test], probability.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probability[wrong, predicted[wrong]])][: rows * columns]
    with _drawing(path, (2 * columns, 2.6 * rows), rows, columns) as axes:
        for axis in axes.flat:
            axis.axis("off")
        pictures = images.store.read(images.test[worst])
        for axis, i, picture in zip(axes.flat, worst, pictures, strict=False):
            axis.imshow(picture)
            said, truth = images.classes[predicted[i]], images.classes[labels[i]]
            title = f"{_short(truth)}\nsaid {_short(said)} {probability[i, predicted[i]]:.0%}"
            axis.set_title(title, fontsize=8)
            name = images.source.item_names[images.test[i]]
            axis.text(0.5, -0.03, _short(name, 34), transform=axis.transAxes, ha="center", va="top", fontsize=6)
        axes.flat[0].figure.suptitle(
            "Most confident mistakes (true class above)" if len(wrong) else "No mistakes on the test split"
        )


def per_class_f1(labels: np.ndarray, predictions: dict[str, np.ndarray], classes: list[str], path: Path) -> None:
    """F1 of every class that is in the test split or predicted, sorted by the first arm; of many, the lowest."""
    present = np.unique(np.concatenate([labels, *predictions.values()]))
    scores = {
        name: f1_score(labels, predicted, labels=present, average=None, zero_division=0)
        for name, predicted in predictions.items()
    }
    order = np.argsort(next(iter(scores.values())), kind="stable")[:SHOWN_CLASSES]
    n = len(order)
    with _drawing(path, (6, 0.22 * n + 1.5)) as axes:
        for name, values in scores.items():
            axes.plot(values[order], np.arange(n), "o", color=COLOURS[name], label=name, ms=5)
        axes.set_yticks(np.arange(n), [_short(classes[present[i]]) for i in order], fontsize=9)
        title = (
            "F1 by class, test split"
            if n == len(present)
            else f"The {n} lowest F1 of {len(present)} classes, test split"
        )
        axes.set(xlabel="F1", xlim=(-0.02, 1.02), title=title)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False)


def _short(name: str, length: int = 24) -> str:
    """A name cut to fit, its end kept; on one line."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= length else "…" + name[1 - length :]


@contextmanager
def _drawing(path: Path, size: tuple[float, float], rows: int = 1, columns: int = 1) -> Iterator[Any]:
    """The axes of a figure of ``size`` inches, which is written to ``path`` at the end."""
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be called 'a$_$b'
        figure = Figure(size, layout="constrained")
        yield figure.subplots(rows, columns)
        figure.savefig(path, dpi=120)
