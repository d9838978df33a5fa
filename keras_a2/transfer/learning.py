"""The learning curve: accuracy by number of training images, what pretraining is worth, and what more photos would be.

The pretrained arm of the curve keeps its backbone frozen: its features are computed once, so that a head on a part of
the images costs next to nothing. The control is trained anew for each size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.isotonic import isotonic_regression

from keras_a2.fast import litert
from keras_a2.transfer import baselines, model
from keras_a2.transfer.data import Images, draw
from keras_a2.transfer.evaluate import Results
from keras_a2.transfer.train import Arm, Features, fit_head, keras_features, passes

SIZES = (10, 100, 1000, 30, 300, 3000)  # images per class, those first that tell most
SHARE = 0.25  # of the run's cost that the control's trainings may have by default
FIT_CELLS = 10**6  # rows times classes of a head that is fitted by default
DRAWS = 5  # of 10 training images per class and fewer, for the arms that cost little; one of 100 and more
RESAMPLES = 2000
FITTED_POINTS = 3  # the largest sizes, through which the power law goes

Correct = dict[str, dict[float, np.ndarray]]  # arm -> images per class -> right or wrong (draws, test images)


def parse(sizes: str) -> list[int] | None:
    """The sizes that ``--learning-curve`` names, such as ``10,30,100``; None for ``auto``."""
    return None if sizes == "auto" else sorted({int(size) for size in sizes.split(",") if size != "none"})


def sizes(images: Images, config: Any) -> list[int]:
    """The numbers of images per class on which the control is trained as well.

    Args:
        config: the script's, resolved.
    """
    asked = parse(config.control.learning_curve)
    if not config.control.scratch:
        return []
    if asked is None:
        epochs = config.fine_tune.fine_tune_epochs, config.control.scratch_epochs
        return affordable(images, config.network.batch_size, *epochs)
    return [size for size in asked if size * len(images.classes) < len(images.train)]


def affordable(images: Images, batch_size: int, tuned_epochs: int, scratch_epochs: int) -> list[int]:
    """The sizes whose controls cost less than a quarter of the run, a training step as much as three predictions."""
    n, classes, validation = len(images.train), len(images.classes), len(images.validation)
    budget = SHARE * (tuned_epochs + scratch_epochs) * (3 * n + validation)
    sizes = []
    for size in SIZES:
        few = size * classes
        cost = scratch_epochs * (3 * few * passes(few, batch_size) + validation)
        if cost <= budget and 2 * few < n:
            budget -= cost
            sizes.append(size)
    return sorted(sizes)


def measure(results: Results, controls: dict[int, Arm], config: Any) -> dict[str, Any]:
    """The learning curve's parts of ``metrics.json``; none where none was asked for.

    Args:
        controls: by the number of training images per class.
        config: the script's.
    """
    images, labels, seed, classes = results.images, results.labels, config.run.seed, len(results.images.classes)
    full, asked = len(images.train) / classes, parse(config.control.learning_curve)
    if asked == []:
        return {}
    right = {name: results.predicted(name) == labels for name in results.probabilities[0]}
    arm = results.published["pretrained"]
    with arm.before_unfreezing():
        make = keras_features if config.run.plain else litert.Parallel
        features = Features(make, arm, config.head.views, config.network.augment)
        if asked is None:
            small = [float(size) for size in sorted(SIZES) if 2 * size < full] + [full / 2]
            small = [size for size in small if size * classes**2 * features.views <= FIT_CELLS]
        else:
            small = [float(size) for size in asked if size < full]
        correct: Correct = {
            "frozen": frozen(features, small, seed) | {full: right.get("frozen", right["pretrained"])},
            "scratch": control(controls) | ({full: right["scratch"]} if "scratch" in right else {}),
            "pixels": thumbnails(images, small, seed) | {full: results.baselines["pixels"][np.newaxis] == labels},
        }
    return summarise({name: points for name, points in correct.items() if points}, full)


def draws(images: Images, per_class: float, seed: int) -> list[np.ndarray]:
    """Several draws of few images, which differ much in what can be learnt from them."""
    return [draw(images, per_class, seed + number) for number in range(int(np.clip(10 * DRAWS / per_class, 1, DRAWS)))]


def frozen(features: Features, sizes: list[float], seed: int) -> dict[float, np.ndarray]:
    """Which test images heads on the frozen backbone's features get right.

    Args:
        features: of an arm that is not unfrozen yet.
    """
    images, correct = features.arm.images, {}
    position = np.full(len(images.labels), -1)
    position[images.train] = np.arange(len(images.train))
    test, labels = features.compute(images.test)[0], images.labels
    scale = features.arm.head.get_layer("standardise")
    for size in sizes:
        answers = []
        for rows in draws(images, size, seed):
            kernel, bias = fit_head(features, position[rows])
            logits = np.asarray(scale(test)) @ kernel + bias
            answers.append(logits.argmax(axis=1) == labels[images.test])
        correct[size] = np.stack(answers)
    return correct


def thumbnails(images: Images, sizes: list[float], seed: int) -> dict[float, np.ndarray]:
    """Which test images logistic regression on thumbnails gets right."""
    truth = images.labels[images.test]
    return {size: baselines.pixels(images, draws(images, size, seed)) == truth for size in sizes}


def control(arms: dict[int, Arm]) -> dict[float, np.ndarray]:
    """Which test images the controls get right that were trained on this number of images per class."""
    correct = {}
    for size, arm in arms.items():
        images = arm.images
        logits = model.predict(arm.network, images, images.test)
        correct[float(size)] = logits.argmax(axis=1)[np.newaxis] == images.labels[images.test]
    return correct


def summarise(correct: Correct, full: float) -> dict[str, Any]:
    """``learning_curve`` of ``metrics.json``, a row per arm and size, and what follows from it.

    Args:
        full: images per class of the whole training split, the last point of each arm.
    """
    n = next(iter(next(iter(correct.values())).values())).shape[1]
    # The same resampled test images for every point, so that the differences between points are paired; and resampled
    # draws of the training images.
    rng = np.random.default_rng(0)
    weights = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    rows, samples = [], {}
    for arm, points in correct.items():
        accuracies = []
        for size, right in sorted(points.items()):
            drawn = rng.integers(len(right), size=(len(right), RESAMPLES))
            accuracies.append(np.take_along_axis(right @ weights.T, drawn, axis=0).mean(axis=0))
            ends = np.quantile(accuracies[-1], [0.025, 0.975]).tolist()
            rows.append({"per_class": size, "arm": arm, "accuracy": float(right.mean()), "interval": ends})
        samples[arm] = np.array(sorted(points)), np.stack(accuracies, axis=1)
    summary: dict[str, Any] = {"learning_curve": rows}
    if "scratch" in correct:
        summary["learning_curve_equivalent"] = equivalent(*samples["frozen"], *samples["scratch"])
    if len(correct["frozen"]) > FITTED_POINTS:
        summary["learning_curve_doubling"] = doubling(*samples["frozen"], full)
    return summary


def equivalent(sizes: np.ndarray, accuracy: np.ndarray, other: np.ndarray, others: np.ndarray) -> list[dict[str, Any]]:
    """How many images per class another arm needs for this arm's accuracy, at each size of this arm.

    The other's curve is made monotone and interpolated over the logarithm of the size.

    Args:
        sizes, other: images per class, rising.
        accuracy, others: of each resample and size ``(resamples, sizes)``.

    Returns:
        ``per_class``, ``equivalent`` (median; None: more than the other has) and ``interval`` (None likewise) of each.
    """
    needed = np.empty_like(accuracy)
    for row, (own, theirs) in enumerate(zip(accuracy, others, strict=True)):
        rising = isotonic_regression(theirs) + np.arange(len(theirs)) * 1e-9
        log_sizes = np.interp(own, rising, np.log(other), left=-np.inf, right=np.inf)
        needed[row] = np.exp(log_sizes)
    ends = np.quantile(needed, [0.025, 0.5, 0.975], axis=0, method="nearest").T

    def within(value: float) -> float | None:
        return float(value) if 0 < value < np.inf else None

    return [
        {"per_class": float(size), "equivalent": within(middle), "interval": [within(low), within(high)],
         "at_least": float(other[-1]) if middle == np.inf else None}
        for size, (low, middle, high) in zip(sizes, ends, strict=True)
    ]  # fmt: skip


def doubling(sizes: np.ndarray, accuracy: np.ndarray, full: float) -> dict[str, Any]:
    """What twice the photos would add, by a power law of the error (Hestness et al. 2017, arXiv 1712.00409).

    The law's exponent is fitted to the largest sizes. The same law without the last point predicts that point.

    Args:
        accuracy: of each resample and size ``(resamples, sizes)``.
    """
    gains = _doubled(sizes, accuracy) - accuracy[:, -1]
    earlier = accuracy[:, :-1]
    factor = np.log2(full / sizes[-2])
    predicted = _doubled(sizes[:-1], earlier, factor)
    low, high = np.quantile(gains, [0.025, 0.975])
    return {
        "gain": float(gains.mean()),
        "interval": [float(low), float(high)],
        "check": {
            "from_per_class": float(sizes[-2]),
            "predicted": float(predicted.mean()),
            "interval": [float(end) for end in np.quantile(predicted, [0.025, 0.975])],
            "measured": float(accuracy[:, -1].mean()),
        },
    }


def _doubled(sizes: np.ndarray, accuracy: np.ndarray, doublings: float = 1.0) -> np.ndarray:
    """Accuracy ``(resamples,)`` after this number of doublings of the last size."""
    error = np.log(np.maximum(1 - accuracy[:, -FITTED_POINTS:], 1e-4))
    x = np.log2(sizes[-FITTED_POINTS:])
    slope = np.minimum(np.polyfit(x, error.T, 1)[0], 0)
    return 1 - np.exp(error[:, -1] + slope * doublings)
