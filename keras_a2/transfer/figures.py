"""The pictures of a transfer run's report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, f1_score

from keras_a2.errors import printable
from keras_a2.transfer import calibrate, evaluate
from keras_a2.transfer.data import Images
from keras_a2.transfer.evaluate import Arms, Results

ARMS = {"pretrained": "pretrained", "frozen": "pretrained, frozen", "scratch": "scratch (random weights)"}
BASELINES = {"pixels": "logistic regression on pixels", "majority": "majority class"}
CURVES = {"frozen": ARMS["frozen"], "scratch": ARMS["scratch"], "pixels": BASELINES["pixels"]}
COLOURS = {"pretrained": "#0f62a8", "frozen": "#7fb2dd", "scratch": "#b8561c"}
READABLE_CLASSES = 25  # of more, the most confused pairs instead of the matrix
SHOWN_CLASSES = 50


def draw(folder: Path, results: Results, seed: str) -> list[tuple[str, Path]]:
    """Draw the pictures of the published seed into ``folder``: caption and file of each.

    Args:
        seed: says which seed is described, where there are several.
    """
    folder.mkdir()
    images, labels = results.images, results.labels
    probabilities = results.probabilities[results.best]
    predicted = {name: probabilities[name].argmax(axis=1) for name in results.published}
    matrix = "Confusion matrix" if len(images.classes) <= READABLE_CLASSES else "The most confused classes"
    captions = {
        "comparison": "Test accuracy of both arms and the baselines",
        "learning_curves": f"Validation accuracy by epoch{seed}; the dotted line is where the backbone is unfrozen",
        "confusion": f"{matrix} of the pretrained arm{seed} on the test split",
        "mistakes": f"The pretrained arm's most confident mistakes{seed} on the test split",
        "per_class_f1": f"F1 by class{seed} on the test split",
        "reliability": f"Confidence and accuracy{seed} on the test split, before and after calibration",
    }
    if "learning_curve" in results.metrics:
        captions = {"accuracy_by_images": "Test accuracy by number of training images", **captions}
        accuracy_by_images(results.metrics, folder / "accuracy_by_images.png")
    comparison(results.metrics, folder / "comparison.png")
    learning_curves(results.published, folder / "learning_curves.png")
    confusion(labels, predicted["pretrained"], images.classes, folder / "confusion.png")
    mistakes(images, probabilities["pretrained"], folder / "mistakes.png")
    per_class_f1(labels, predicted, images.classes, folder / "per_class_f1.png")
    raw = calibrate.Calibration(1.0, 0.0, 0.0).probabilities(results.logits[results.best]["pretrained"])
    curves = {"before calibration": raw, "calibrated": probabilities["pretrained"]}
    reliability(labels, curves, folder / "reliability.png")
    return [(caption, folder / f"{name}.png") for name, caption in captions.items()]


def comparison(metrics: dict[str, Any], path: Path) -> None:
    """Test accuracy of both arms with its interval, and of the baselines."""
    tests = {name: arm["test"] for name, arm in metrics["arms"].items()}
    tests |= {label: metrics["baselines"][name]["test"] for name, label in BASELINES.items()}
    with _drawing(path, (7, 4)) as axes:
        for row, (name, test) in enumerate(tests.items()):
            value = 100 * test["accuracy"]
            ends = [100 * end for end in test.get("accuracy_ci95", [])]
            axes.barh(row, value, color=COLOURS.get(name, "#9aa3ab"), height=0.6)
            axes.plot(ends, [row] * len(ends), color="black", lw=2)
            axes.text(max([value, *ends]) + 1, row, f"{value:.1f}", va="center")
        axes.set_yticks(range(len(tests)), list(tests))
        axes.invert_yaxis()
        axes.set(xlabel="test accuracy (%), black: 95 % interval", xlim=(0, 109), title=metrics["data"]["name"])


def accuracy_by_images(metrics: dict[str, Any], path: Path) -> None:
    """Test accuracy of each arm by images per class, with its interval."""
    rows = pd.DataFrame(metrics["learning_curve"])
    with _drawing(path, (7, 4)) as axes:
        for arm, points in rows.groupby("arm", sort=False):
            points = points.sort_values("per_class")
            y = 100 * points["accuracy"].to_numpy()
            ends = 100 * np.array(points["interval"].tolist()).T
            colour = COLOURS.get(arm, "#9aa3ab")
            axes.errorbar(
                points["per_class"],
                y,
                [y - ends[0], ends[1] - y],
                color=colour,
                marker="o",
                capsize=3,
                label=CURVES[arm],
            )
        axes.set(xscale="log", xlabel="training images per class", ylabel="test accuracy (%)")
        sizes = sorted(set(rows["per_class"]))
        axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.legend(frameon=False)


def learning_curves(arms: Arms, path: Path) -> None:
    """Validation accuracy by epoch, the phase boundary marked."""
    with _drawing(path, (7, 4)) as axes:
        for name, arm in arms.items():
            colour, start = COLOURS[name], 0
            for phase in arm.phases:
                label, style = f"{name}: {phase.name.replace('_', ' ')}", "--" if phase.name == "head" else "-"
                x = [start + row["epoch"] for row in phase.history.rows]
                y = [100 * row["validation_accuracy"] for row in phase.history.rows]
                kept = phase.history.best_epoch
                axes.plot(x, y, style, color=colour, marker=".", label=label)
                axes.plot(x[kept], y[kept], "o", color=colour, fillstyle="none", ms=10)
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
    scores = pd.DataFrame(
        {name: f1_score(labels, p, labels=present, average=None, zero_division=0) for name, p in predictions.items()},
        index=[_short(classes[i]) for i in present],
    )
    shown = scores.sort_values(scores.columns[0], kind="stable")[:SHOWN_CLASSES]
    with _drawing(path, (6, 0.22 * len(shown) + 1.5)) as axes:
        for name in shown:
            axes.plot(shown[name], range(len(shown)), "o", color=COLOURS[name], label=name, ms=5)
        axes.set_yticks(range(len(shown)), shown.index, fontsize=9)
        lowest = f"The {len(shown)} lowest F1 of {len(scores)} classes" if len(shown) < len(scores) else "F1 by class"
        axes.set(xlabel="F1", xlim=(-0.02, 1.02), title=f"{lowest}, test split")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False)


def reliability(labels: np.ndarray, probabilities: dict[str, np.ndarray], path: Path) -> None:
    """Accuracy by confidence, and how many images have it."""
    with _drawing(path, (5, 5)) as axes:
        axes.plot([0, 100], [0, 100], color="grey", lw=0.8, ls=":")
        for (name, probability), colour in zip(probabilities.items(), ("#9aa3ab", COLOURS["pretrained"]), strict=True):
            confidence, accuracy, n = calibrate.reliability(labels, probability).T
            error = calibrate.expected_calibration_error(labels, probability)
            axes.plot(100 * confidence, 100 * accuracy, color=colour, lw=1, label=f"{name}: error {error:.3f}")
            axes.scatter(100 * confidence, 100 * accuracy, 10 + 300 * n / n.sum(), color=colour, alpha=0.7)
        axes.set(xlabel="confidence (%), larger: more images", ylabel="accuracy (%)", title="Reliability, test split")
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
