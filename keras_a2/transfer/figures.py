"""The charts and picture sheets of a transfer run's report."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix, f1_score

from keras_a2 import charts, page
from keras_a2.charts import COLOUR, Chart, styled
from keras_a2.errors import printable
from keras_a2.page import Card, Sheet
from keras_a2.transfer import calibrate, evaluate
from keras_a2.transfer.data import Images
from keras_a2.transfer.evaluate import Arms, Results
from keras_a2.transfer.maps import Mapper, overlay

ARMS = {"pretrained": "pretrained", "frozen": "pretrained, frozen", "scratch": "scratch (random weights)"}
BASELINES = {"pixels": "logistic regression on pixels", "majority": "majority class"}
CURVES = {"frozen": ARMS["frozen"], "scratch": ARMS["scratch"], "pixels": BASELINES["pixels"]}
COLOURS = {"pretrained": COLOUR["blue"], "frozen": COLOUR["sky"], "scratch": COLOUR["orange"]}
READABLE_CLASSES = 12  # of more, the most confused pairs instead of the matrix
SHOWN_CLASSES = 25
MISTAKES, EXAMPLES = 12, 100  # pictures at most; examples with their maps of few classes only
MAPPED_CLASSES = 12
SUSPECTS = {
    "label": (
        "Probably wrong labels",
        "Training and validation images: the given class, and the likeliest other one with the probability that the "
        "given one is wrong.",
    ),
    "duplicate": ("Nearly equal pictures", "In two splits or in two classes, pair by pair."),
    "odd": ("Odd ones out", "Training and validation images unlike all others."),
}


def draw(folder: Path, results: Results, seed: str) -> list[Chart]:
    """Draw the charts of the published seed, with PNG files of them in ``folder``.

    Args:
        seed: says which seed is described, where there are several.
    """
    images, labels = results.images, results.labels
    probabilities = results.probabilities[results.best]
    predicted = {name: probabilities[name].argmax(axis=1) for name in results.published}
    raw = calibrate.probabilities(results.logits[results.best]["pretrained"])
    reliable = {"before calibration": raw, "calibrated": probabilities["pretrained"]}
    confused = (
        f"Confusion matrix of the pretrained network{seed}: a row is a true class, the diagonal is right."
        if len(images.classes) <= READABLE_CLASSES
        else f"The most confused classes (true → predicted) of the pretrained network{seed}."
    )
    drawn = {
        "comparison": (
            comparison(results.metrics),
            "Test accuracy with 95 % intervals. Where intervals overlap, see the paired differences instead.",
        ),
        "learning_curves": (
            learning_curves(results.published),
            f"Training (dashed) against validation (solid){seed}; circle: the epoch kept; dotted: the backbone is "
            "unfrozen. Training figures are of augmented images with dropout and label smoothing, so they may be worse "
            "than validation. Training that improves while validation does not is overfitting.",
        ),
        "confusion": (confusion(labels, predicted["pretrained"], images.classes), confused),
        "per_class_f1": (
            per_class_f1(labels, predicted, images.classes),
            f"F1 of each class{seed}, the lowest at the top: the classes to look at first.",
        ),
        "reliability": (
            reliability(labels, reliable),
            f"Accuracy by stated probability{seed}. On the dotted line 80 % means 80 %. Above it the network is right "
            "more often than it says, below it less often. A larger dot is more images; a small one says little.",
        ),
    }
    if "learning_curve" in results.metrics:
        curve = accuracy_by_images(results.metrics)
        drawn["accuracy_by_images"] = (
            curve,
            "Test accuracy with 95 % intervals by number of training images per class. The gap between the lines is "
            "what pretraining is worth; a line that still rises says that more photos would help.",
        )
    return charts.save(folder, drawn)


@styled
def comparison(metrics: dict[str, Any]) -> Figure:
    """Test accuracy of the networks with its interval, and of the baselines."""
    tests = {name: arm["test"] for name, arm in metrics["arms"].items()}
    tests |= {name: baseline["test"] for name, baseline in metrics["baselines"].items()}
    figure, (axes,) = charts.figure(0.4 * len(tests) + 0.9)
    for row, (name, test) in enumerate(tests.items()):
        value = 100 * test["accuracy"]
        ends = [100 * end for end in test.get("accuracy_ci95", [])]
        axes.barh(row, value, color=COLOURS.get(name, COLOUR["grey"]), height=0.6)
        axes.plot(ends, [row] * len(ends), color=COLOUR["ink"], lw=2)
        axes.text(max([value, *ends]) + 1, row, f"{value:.1f}", va="center")
    labels = [(ARMS | BASELINES)[name].replace(" (random", "\n(random").replace(" on", "\non") for name in tests]
    axes.set_yticks(range(len(tests)), labels)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy (%)", xlim=(0, 112))
    return figure


@styled
def accuracy_by_images(metrics: dict[str, Any]) -> Figure:
    """Test accuracy of each arm by images per class, with its interval."""
    rows = pd.DataFrame(metrics["learning_curve"])
    figure, (axes,) = charts.figure()
    for number, (arm, points) in enumerate(rows.groupby("arm", sort=False)):
        points = points.sort_values("per_class")
        y = 100 * points["accuracy"].to_numpy()
        ends = 100 * np.array(points["interval"].tolist()).T
        colour = COLOURS.get(str(arm), COLOUR["grey"])
        spread = [y - ends[0], ends[1] - y]
        x = points["per_class"] * (1 + 0.04 * (number - 1))  # intervals side by side, not on top of each other
        axes.errorbar(x, y, spread, color=colour, marker="o", ms=4, capsize=3, label=CURVES[str(arm)])
    axes.set(xscale="log", xlabel="training images per class", ylabel="test accuracy (%)")
    sizes = sorted(set(rows["per_class"]))
    sizes = [a for a, b in pairwise([*sizes, np.inf]) if b > 1.5 * a]  # labels that do not touch
    axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@styled
def learning_curves(arms: Arms) -> Figure:
    """Loss and accuracy by epoch, in training and in validation, the phase boundary marked."""
    figure, (losses, accuracies) = charts.figure(4.4, rows=2)
    for axes, figure_name, scale in ((losses, "loss", 1), (accuracies, "accuracy", 100)):
        for name, arm in arms.items():
            start = 0
            for number, phase in enumerate(arm.phases):
                rows, colour, label = phase.history.rows, COLOURS[name], "" if number else name
                x = np.array([start + row["epoch"] for row in rows])
                validation = scale * np.array([row[f"validation_{figure_name}"] for row in rows])
                training = scale * np.array([row.get(figure_name, np.nan) for row in rows])
                best = phase.history.best_epoch
                axes.plot(x, training, "--", color=colour, marker=".", ms=3, label=label and f"{label}: training")
                axes.plot(x, validation, color=colour, marker=".", label=label and f"{label}: validation")
                axes.plot(x[best], validation[best], "o", color=colour, fillstyle="none", ms=9)
                start = x[-1]
                if phase.name == "head" and len(arm.phases) > 1:
                    axes.axvline(start, color=COLOUR["dim"], lw=0.8, ls=":")
        axes.set_ylabel(figure_name if scale == 1 else f"{figure_name} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    accuracies.set_xlabel("epoch (0: before training)")
    return figure


@styled
def confusion(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> Figure:
    """Confusion matrix, coloured by share of the true class; of more than ``READABLE_CLASSES`` the confused pairs."""
    n = len(classes)
    if n > READABLE_CLASSES:
        return _confused_pairs(evaluate.confused(labels, predicted)[:READABLE_CLASSES], labels, classes)
    counts = confusion_matrix(labels, predicted, labels=np.arange(n))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = charts.figure(1.6 + 0.3 * n)
    names = [_short(name, 14) for name in classes]
    for i, j in zip(*np.nonzero(counts), strict=True):
        # A rectangle that lets the page's colour through: the count on it is readable on light and dark.
        axes.fill_between([j - 0.5, j + 0.5], i - 0.5, i + 0.5, color=COLOUR["blue"], alpha=0.65 * share[i, j], lw=0)
        axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=9)
    axes.set_xticks(range(n), names, rotation=90 if n > 4 else 0, fontsize=9)
    axes.set_yticks(range(n), names, fontsize=9)
    axes.set(xlabel="predicted", ylabel="true", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    return figure


def _confused_pairs(pairs: list[tuple[int, int, int]], labels: np.ndarray, classes: list[str]) -> Figure:
    figure, (axes,) = charts.figure(0.2 * len(pairs) + 0.9)
    axes.barh(range(len(pairs)), [n for *_, n in pairs], color=COLOURS["pretrained"], height=0.7)
    for k, (true, _, n) in enumerate(pairs):
        text = f"{n} of {(labels == true).sum()}"
        axes.annotate(text, (n, k), (3, 0), textcoords="offset points", va="center", fontsize=9)
    names = [f"{_short(classes[true], 18)} → {_short(classes[said], 18)}" for true, said, _ in pairs]
    axes.set_yticks(range(len(pairs)), names, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("test images" if pairs else "no mistakes")
    return figure


@styled
def per_class_f1(labels: np.ndarray, predictions: dict[str, np.ndarray], classes: list[str]) -> Figure:
    """F1 of every class that is in the test split or predicted, sorted by the first arm; of many, the lowest."""
    present = np.unique(np.concatenate([labels, *predictions.values()]))
    scores = pd.DataFrame(
        {name: f1_score(labels, p, labels=present, average=None, zero_division=0) for name, p in predictions.items()},
        index=[_short(classes[i]) for i in present],
    )
    shown = scores.sort_values(scores.columns[0], kind="stable")[:SHOWN_CLASSES]
    figure, (axes,) = charts.figure(0.17 * len(shown) + 1.1)
    for name in shown:
        axes.plot(shown[name], range(len(shown)), "o", color=COLOURS[name], label=name, ms=5)
    axes.set_yticks(range(len(shown)), shown.index)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    more = f" ({len(shown)} lowest of {len(scores)} classes)" if len(shown) < len(scores) else ""
    axes.set(xlabel=f"F1{more}", xlim=(-0.02, 1.02))
    axes.grid(axis="x")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@styled
def reliability(labels: np.ndarray, probabilities: dict[str, np.ndarray]) -> Figure:
    """Accuracy by confidence, and how many images have it."""
    figure, (axes,) = charts.figure(3.6)
    axes.plot([0, 100], [0, 100], color=COLOUR["dim"], lw=0.8, ls=":")
    for (name, probability), colour in zip(probabilities.items(), (COLOUR["grey"], COLOUR["blue"]), strict=True):
        confidence, accuracy, n = calibrate.reliability(labels, probability).T
        error = calibrate.expected_calibration_error(labels, probability)
        axes.scatter(100 * confidence, 100 * accuracy, 8 + 300 * n / n.sum(), color=colour, alpha=0.7)
        axes.scatter([], [], 40, color=colour, label=f"{name}: error {error:.3f}")
    axes.set(xlabel="stated probability (%)", ylabel="accuracy (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def sheets(results: Results, mapper: Mapper) -> list[Sheet]:
    """An example of every class in the test split, and the most confident mistakes, as pictures with maps.

    Args:
        mapper: pixels ``(n, size, size, 3)`` and classes ``(n,)`` -> what each place adds to their logits.
    """
    images, probability = results.images, results.probabilities[results.best]["pretrained"]
    labels, predicted = results.labels, probability.argmax(axis=1)
    rng = np.random.default_rng(0)
    present = np.unique(labels)[:EXAMPLES]
    several = max(1, MAPPED_CLASSES // len(present) // 2)  # of each class, where there are few
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:several] for label in present]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-probability[wrong, predicted[wrong]])][:MISTAKES]
    mapped = len(present) <= MAPPED_CLASSES
    right = " Right: the same picture, brighter where it speaks for the predicted class."
    examples = _cards(images, np.concatenate(drawn), probability, mapper if mapped else None)
    mistakes = _cards(images, worst, probability, mapper)
    advice = "Look for wrong labels, and for places that should not matter."
    return [
        Sheet("Examples of every class", "Drawn at random from the test split." + right * mapped, examples),
        Sheet("Most confident mistakes", advice + right, mistakes),
    ]


def _cards(images: Images, positions: np.ndarray, probability: np.ndarray, mapper: Mapper | None) -> list[Card]:
    """Of test images: true class, predicted class with its probability, and the file."""
    if not len(positions):
        return []
    rows = images.test[positions]
    pictures, labels, predicted = images.store.read(rows), images.labels[rows], probability[positions].argmax(axis=1)
    mapped = [None] * len(rows) if mapper is None else list(overlay(pictures, mapper(pictures, predicted)))
    cards = []
    for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
        true, said = (_short(images.classes[label]) for label in (labels[i], predicted[i]))
        verdict = f"{true}, said {said}:" if true != said else true
        share = page.percent(probability[position, predicted[i]])
        cards.append(Card(pictures[i], [f"{verdict} {share}", _short(images.source.item_names[row], 34)], mapped[i]))
    return cards


def suspects(images: Images) -> list[Sheet]:
    """What the audit suspects, a sheet of each kind; see ``audit.examine``."""
    sheets = []
    for kind, (title, note) in SUSPECTS.items():
        rows = images.suspects[images.suspects["kind"] == kind][:MISTAKES]
        cards = []
        for _, image, other, suggested, score in rows.itertuples(index=False):
            said = {
                "label": f"looks like {images.classes[suggested]} {page.percent(score)}",
                "duplicate": f"correlation {score:.3f}",
            }
            for shown in (image, other)[: 1 + (other >= 0)]:
                lines = [images.classes[images.labels[shown]], said.get(kind, ""), images.source.item_names[shown]]
                cards.append(
                    Card(images.store.read(np.array([shown]))[0], [_short(line, 34) for line in lines if line])
                )
        if cards:
            sheets.append(Sheet(title, f"{note} audit.csv lists all.", cards))
    return sheets


def _short(name: str, length: int = 24) -> str:
    """A name cut to fit, its end kept; on one line."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= length else "…" + name[1 - length :]
