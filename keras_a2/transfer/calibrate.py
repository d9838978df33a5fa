"""Probabilities that are true, and sets of classes that hold the truth as often as they promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

TEMPERATURES = (0.05, 20.0)
LIKELY_FACTOR = 2.0  # one standard deviation of the prior; it matters below a hundred images
BINS = 15
ENOUGH = 20  # test images of a class, to say how often its sets hold it


@dataclass(frozen=True)
class Calibration:
    """What makes logits true probabilities and sets of classes, all of it fitted on validation images.

    Attributes:
        temperature: divisor of the logits.
        level: share of the images whose set holds the true class.
        set_threshold: probability from which a class belongs to the set.
    """

    temperature: float
    level: float
    set_threshold: float

    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray, level: float) -> Calibration:
        """Logits ``(n, classes)`` and labels ``(n,)`` of images that were not trained on."""
        factor = temperature(logits, labels)
        return cls(factor, level, set_threshold(probabilities(logits, factor), labels, level))


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits ``(n, classes)`` divided by the temperature, float64."""
    return softmax((logits / temperature).astype(np.float64), axis=1)


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The divisor of the logits that makes held-out images most likely (Guo et al. 2017, arXiv 1706.04599).

    A log-normal prior around 1 keeps a few images, all of them right, from asking for certainty.

    Args:
        logits: ``(n, classes)``.
        labels: ``(n,)``, of images that were not trained on.
    """
    rows = np.arange(len(labels))

    def loss(log_factor: float) -> float:
        likelihood = log_softmax(logits.astype(np.float64) / np.exp(log_factor), axis=1)[rows, labels].sum()
        return (log_factor / np.log(LIKELY_FACTOR)) ** 2 / 2 - likelihood

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def reliability(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Mean confidence, accuracy and number of images in each of ``BINS`` equal intervals of confidence.

    Returns:
        ``(bins that are not empty, 3)``.
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == labels
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = [index == value for value in np.unique(index)]
    return np.array([[confidence[rows].mean(), correct[rows].mean(), rows.sum()] for rows in members])


def expected_calibration_error(labels: np.ndarray, probability: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    confidence, accuracy, n = reliability(labels, probability).T
    return float((n * np.abs(accuracy - confidence)).sum() / n.sum())


def quantile(scores: np.ndarray, level: float) -> float:
    """What a score of the same origin exceeds with a probability of at most ``1 - level``; infinite of too few.

    The ``ceil((n + 1) level)``-th smallest of ``n``: exact for a finite sample (Vovk et al. 2005).
    """
    rank = int(np.ceil((len(scores) + 1) * level - 1e-9))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else np.inf


def set_threshold(probability: np.ndarray, labels: np.ndarray, level: float) -> float:
    """The probability from which a class belongs to an answer set that holds the truth at ``level``.

    Threshold sets (Sadinle et al. 2019, arXiv 1609.00451): temperature scaling does not enlarge them, as it does
    adaptive sets (arXiv 2402.05806).

    Args:
        probability: ``(n, classes)`` of held-out images, ``labels`` ``(n,)``.

    Returns:
        The threshold; 0, so that every class is in the set, where the images are too few for the level.
    """
    return max(0.0, 1 - quantile(1 - probability[np.arange(len(labels)), labels], level))


def answer_sets(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Which classes are in each image's set, bool ``(n, classes)``; the most probable one always is."""
    sets = probability >= threshold
    sets[np.arange(len(sets)), probability.argmax(axis=1)] = True
    return sets


def coverage(labels: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float]:
    """Share of the images whose set holds the true class, and mean number of classes in a set."""
    sets = answer_sets(probability, threshold)
    return {"coverage": float(sets[np.arange(len(labels)), labels].mean()), "mean_size": float(sets.sum(axis=1).mean())}


def coverage_by_class(
    labels: np.ndarray, probability: np.ndarray, threshold: float, classes: list[str]
) -> dict[str, float]:
    """``coverage`` of each class with at least ``ENOUGH`` images: the promise holds for all of them together only."""
    hits = answer_sets(probability, threshold)[np.arange(len(labels)), labels]
    return {name: float(hits[labels == c].mean()) for c, name in enumerate(classes) if (labels == c).sum() >= ENOUGH}
