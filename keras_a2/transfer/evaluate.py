"""Predictions to figures: accuracy with its interval, report, calibration, baselines, and the paired comparison."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from scipy import special, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, classification_report, f1_score, top_k_accuracy_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from keras_a2 import training
from keras_a2.page import verdict
from keras_a2.transfer.backbone import set_batch_norm
from keras_a2.transfer.data import Images
from keras_a2.transfer.train import Arm, make_predict, predict_split

GREY_PIXELS, COLOUR_PIXELS = 24, 16  # side of the baseline's thumbnails
PIXEL_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C on pixels standardised as a whole
RESAMPLES = 9999


def metrics(labels: np.ndarray, probabilities: list[np.ndarray]) -> dict:
    """Test figures of one classifier: means over its seeds, and one Wilson interval.

    With several seeds the interval is that of their mean accuracy on ``n`` images, not on ``n`` times the seeds: the
    images are the same.

    Args:
        labels: true classes ``(n,)``.
        probabilities: of each seed ``(n, classes)``, rows summing to one.
    """
    figures = training.over_seeds([_figures(labels, probability) for probability in probabilities])
    correct = figures["accuracy"] * len(labels)
    interval = proportion_confint(correct, len(labels), method="wilson")
    return figures | {"accuracy_ci95": [float(end) for end in interval]}


def _figures(labels: np.ndarray, probability: np.ndarray) -> dict:
    predicted, classes = probability.argmax(axis=1), probability.shape[1]
    correct = int((predicted == labels).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is absent from a small test split
        balanced = balanced_accuracy_score(labels, predicted)
    return {
        "n": len(labels),
        "accuracy": correct / len(labels),
        "balanced_accuracy": float(balanced),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "top5_accuracy": (
            float(top_k_accuracy_score(labels, probability, k=5, labels=np.arange(classes))) if classes > 5 else 1.0
        ),
        "ece": expected_calibration_error(labels, probability),
    }


def expected_calibration_error(labels: np.ndarray, probability: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    confidence = probability.max(axis=1)
    correct = probability.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(correct[index == b].sum() - confidence[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(labels))


def report(labels: np.ndarray, probability: np.ndarray, classes: list[str]) -> str:
    """scikit-learn's classification report over the whole test split, of the classes that are there or predicted."""
    predicted = probability.argmax(axis=1)
    present = np.union1d(labels, predicted)
    return classification_report(
        labels,
        predicted,
        labels=present,
        target_names=[classes[i] for i in present],
        digits=3,
        zero_division=0,
    )


def confused(labels: np.ndarray, predicted: np.ndarray) -> list[tuple[int, int, int]]:
    """Mistaken pairs of classes, the most frequent first: true class, predicted class, number of images."""
    wrong = predicted != labels
    pairs, counts = np.unique(np.column_stack([labels[wrong], predicted[wrong]]), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(a), int(b), int(n)) for (a, b), n in zip(pairs[order], counts[order], strict=True)]


def compare(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict:
    """Accuracy of ``first`` less that of ``second`` on the same images, with a paired 95 % interval and a test.

    With several seeds each image counts once, with the share of the seeds that get it right; interval and p-value are
    then conditional on the seeds. McNemar's exact test is the sign-flip test for one seed.

    Args:
        first, second: predicted classes, one row per seed ``(seeds, n)``.

    Returns:
        ``accuracy`` (difference), ``ci95`` (percentile bootstrap over images), ``p_value``, ``test`` (its name),
        ``verdict``; with several seeds ``accuracy_seeds``.
    """
    a, b = first == labels, second == labels
    difference = a.mean(axis=0) - b.mean(axis=0)
    if np.ptp(difference) == 0:
        interval = [float(difference[0])] * 2  # every image alike: nothing to resample
    else:
        answer = stats.bootstrap(
            (difference,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=100, rng=np.random.default_rng(0)
        )
        interval = [float(end) for end in answer.confidence_interval]
    if len(a) == len(b) == 1:
        table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
        test, p_value = "McNemar's exact test", float(mcnemar(table, exact=True).pvalue)
    else:
        test, p_value = "sign-flip permutation test", sign_flip(difference)
    result = {
        "accuracy": float(difference.mean()),
        "ci95": interval,
        "p_value": p_value,
        "test": test,
        "verdict": verdict(interval, p_value),
    }
    if len(a) > 1 and len(a) == len(b):
        result["accuracy_seeds"] = (a.mean(axis=1) - b.mean(axis=1)).tolist()
    return result


def sign_flip(difference: np.ndarray) -> float:
    """Two-sided p-value that paired differences ``(n,)`` are as likely to have the other sign (Fisher 1935)."""
    difference = difference[difference != 0]
    if len(difference) == 0:
        return 1.0
    answer = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, batch=100,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(answer.pvalue)


def majority(images: Images) -> np.ndarray:
    """Predictions for the test split: always the commonest training class."""
    return np.full(len(images.test), np.bincount(images.labels[images.train]).argmax())


def pixels(images: Images) -> np.ndarray:
    """Test predictions of logistic regression on thumbnails, its strength chosen on validation, fitted on train."""
    grey = _is_grey(images)
    train, validation, test = (
        _thumbnails(images, part, grey) for part in (images.train, images.validation, images.test)
    )
    mean, scale = train.mean(axis=0), train.std() or 1.0
    train, validation, test = ((part - mean) / scale for part in (train, validation, test))
    best = (-1.0, None)
    model = LogisticRegression(max_iter=100, warm_start=True, tol=1e-3)
    for strength in PIXEL_STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, images.labels[images.train])
        accuracy = model.score(validation, images.labels[images.validation])
        if accuracy > best[0]:
            best = (accuracy, model.predict(test))
    return best[1]


def _is_grey(images: Images) -> bool:
    sample = images.store.read(images.train[:32])
    return bool((np.ptp(sample, axis=-1) <= 2).all())


def _thumbnails(images: Images, indices: np.ndarray, grey: bool) -> np.ndarray:
    size = GREY_PIXELS if grey else COLOUR_PIXELS
    rows = []
    for start in range(0, len(indices), 256):
        for image in images.store.read(indices[start : start + 256]):
            picture = Image.fromarray(image).resize((size, size), Image.Resampling.BOX)
            rows.append(np.asarray(picture.convert("L") if grey else picture, np.float32).ravel())
    return np.array(rows)


def predict(arm: Arm, images: Images, indices: np.ndarray) -> np.ndarray:
    """Class probabilities ``(len(indices), classes)`` in inference mode."""
    return special.softmax(predict_split(make_predict(arm), images, indices).astype(np.float64), axis=1)


def batch_statistics_accuracy(arm: Arm, images: Images) -> dict:
    """Validation accuracy with the moving statistics and with each batch's own: far apart, batch norm was not ready."""
    labels = images.labels[images.validation]
    moving = float((predict(arm, images, images.validation).argmax(axis=1) == labels).mean())
    before = arm.backbone.get_weights()
    set_batch_norm(arm.backbone, "train")
    order = np.random.default_rng(0).permutation(len(images.validation))  # a batch of one class would be no fair batch
    predicted = np.empty(len(order), int)
    for rows in np.array_split(order, max(len(order) // 64, 1)):
        pixels = images.store.read(images.validation[rows]).astype(np.float32)
        predicted[rows] = np.asarray(arm.head(arm.backbone(pixels, training=True), training=False)).argmax(axis=1)
    arm.backbone.set_weights(before)
    return {"moving_statistics": moving, "batch_statistics": float((predicted == labels).mean())}
