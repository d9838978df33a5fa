"""Pictures of a transfer run."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from keras_a2.errors import printable
from keras_a2.transfer import evaluate
from keras_a2.transfer.data import Images
from keras_a2.transfer.train import Arm

COLOURS = {"pretrained": "#0f62a8", "scratch": "#b8561c"}
READABLE_CLASSES = 25  # of more, the most confused pairs instead of the matrix
SHOWN_CLASSES = 50
plt.rcParams["text.parse_math"] = False  # a class may be called 'a$_$b'


def comparison(metrics: dict, path: Path) -> None:
    """Test accuracy of both arms with its interval, and of the baselines."""
    bars = [
        (name, arm["test"]["accuracy"], arm["test"]["accuracy_ci95"], COLOURS[name])
        for name, arm in metrics["arms"].items()
    ]
    names = {"pixels": "logistic regression\non pixels", "majority": "majority class"}
    bars += [(label, metrics["baselines"][name]["test"]["accuracy"], None, "#9aa3ab") for name, label in names.items()]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for k, (_, value, ends, colour) in enumerate(bars):
        axes.barh(k, 100 * value, color=colour, height=0.6)
        if ends:
            axes.plot([100 * end for end in ends], [k, k], color="black", lw=2)
        right = 100 * (ends[1] if ends else value)
        axes.text(right + 1, k, f"{100 * value:.1f}", va="center")
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy (%), black: 95 % interval", xlim=(0, 109), title=metrics["data"]["name"])
    _save(figure, path)


def learning_curves(arms: dict[str, Arm], path: Path) -> None:
    """Validation accuracy by epoch, the phase boundary marked."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
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
    _save(figure, path)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: list[str], path: Path) -> None:
    """Confusion matrix in per cent of the true class; of more than ``READABLE_CLASSES`` the most confused pairs."""
    n = len(classes)
    if n > READABLE_CLASSES:
        _confused_pairs(evaluate.confused(labels, predicted)[:READABLE_CLASSES], labels, classes, path)
        return
    counts = confusion_matrix(labels, predicted, labels=np.arange(n))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.45 * n + 2.5, 4, 14))
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n), classes, rotation=90 if n > 4 else 0, fontsize=9)
    axes.set_yticks(range(n), classes, fontsize=9)
    for i, j in np.ndindex(n, n):
        if counts[i, j]:
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=colour)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, test split")
    _save(figure, path)


def _confused_pairs(pairs: list[tuple[int, int, int]], labels: np.ndarray, classes: list[str], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.26 * len(pairs) + 1.5), layout="constrained")
    axes.barh(range(len(pairs)), [n for *_, n in pairs], color=COLOURS["pretrained"], height=0.7)
    for k, (true, _, n) in enumerate(pairs):
        axes.text(n, k, f" {n} of {(labels == true).sum()}", va="center", fontsize=8)
    names = [f"{_short(classes[true])} → {_short(classes[said])}" for true, said, _ in pairs]
    axes.set_yticks(range(len(pairs)), names, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    title = "Most confused pairs (true → predicted)" if pairs else "No mistakes"
    axes.set(xlabel="test images", title=f"{title}, test split")
    _save(figure, path)


def mistakes(images: Images, probability: np.ndarray, path: Path, rows: int = 3, columns: int = 6) -> None:
    """The most confident mistakes on the test split, as a picture sheet."""
    labels, predicted = images.labels[images.test], probability.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probability[wrong, predicted[wrong]])][: rows * columns]
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.6 * rows), layout="constrained", squeeze=False)
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
    figure.suptitle("Most confident mistakes (true class above)" if len(wrong) else "No mistakes on the test split")
    _save(figure, path)


def per_class_f1(labels: np.ndarray, predictions: dict[str, np.ndarray], classes: list[str], path: Path) -> None:
    """F1 of every class that is in the test split or predicted, sorted by the first arm; of many, the lowest."""
    present = np.unique(np.concatenate([labels, *predictions.values()]))
    scores = {
        name: f1_score(labels, predicted, labels=present, average=None, zero_division=0)
        for name, predicted in predictions.items()
    }
    order = np.argsort(next(iter(scores.values())), kind="stable")[:SHOWN_CLASSES]
    n = len(order)
    figure, axes = plt.subplots(figsize=(6, 0.22 * n + 1.5), layout="constrained")
    for name, values in scores.items():
        axes.plot(values[order], np.arange(n), "o", color=COLOURS[name], label=name, ms=5)
    axes.set_yticks(np.arange(n), [_short(classes[present[i]]) for i in order], fontsize=9)
    title = (
        "F1 by class, test split" if n == len(present) else f"The {n} lowest F1 of {len(present)} classes, test split"
    )
    axes.set(xlabel="F1", xlim=(-0.02, 1.02), title=title)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _short(name: str, length: int = 24) -> str:
    """A name cut to fit, its end kept; on one line."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= length else "…" + name[1 - length :]


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
