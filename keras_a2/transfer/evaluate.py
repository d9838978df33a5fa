"""Predictions to figures: accuracy with its interval, calibration, the paired comparison, and ``metrics.json``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image
from scipy import stats
from sklearn.metrics import classification_report, f1_score, recall_score, roc_auc_score, top_k_accuracy_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from keras_a2 import deployment, runs, saved_model, training
from keras_a2.page import percent, verdict
from keras_a2.transfer import audit, calibrate, data, model
from keras_a2.transfer.calibrate import Calibration, expected_calibration_error
from keras_a2.transfer.data import Images
from keras_a2.transfer.train import Arm

RESAMPLES = 9999
VERIFIED_ITEMS = 64
TOLERANCE = 1e-3  # softmax through another resize order differs in the last digits of float32 only

Arms = dict[str, Arm]
Probabilities = dict[str, np.ndarray]  # of each arm, (test images, classes)


@dataclass
class Results:
    """What arms and baselines made of the test split, and every figure that follows from it.

    Attributes:
        arms, calibrations, logits: of each seed, by name; logits are ``(test images, classes)``.
        baselines: predicted classes of the test images, by name.
        best: position of the seed that is published: the lowest validation loss of the pretrained arm.
        unfamiliar: see ``describe.publish``.
        metrics: the content of ``metrics.json``.
    """

    images: Images
    arms: list[Arms]
    calibrations: list[dict[str, Calibration]]
    logits: list[dict[str, np.ndarray]]
    baselines: dict[str, np.ndarray]
    best: int = 0
    unfamiliar: tuple[float | None, float | None] = (None, None)
    metrics: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def probabilities(self) -> list[Probabilities]:
        """Calibrated, of each seed."""
        return [
            {name: calibrate.probabilities(values, calibrations[name].temperature) for name, values in logits.items()}
            for calibrations, logits in zip(self.calibrations, self.logits, strict=True)
        ]

    @property
    def labels(self) -> np.ndarray:
        """True classes of the test images."""
        return self.images.labels[self.images.test]

    def predicted(self, name: str) -> np.ndarray:
        """Classes that an arm predicts, of each seed ``(seeds, test images)``."""
        return np.stack([probabilities[name].argmax(axis=1) for probabilities in self.probabilities])

    @property
    def published(self) -> Arms:
        """The arms of the published seed."""
        return self.arms[self.best]


def calibrate_all(images: Images, arms: list[Arms], level: float) -> list[dict[str, Calibration]]:
    """The calibration of each seed's arms, on the validation images.

    Args:
        level: of the sets of classes.
    """
    labels = images.labels[images.validation]
    return [
        {name: Calibration.fit(logits, labels, level) for name, logits in _logits(trained, images, images.validation)}
        for trained in arms
    ]


def read_test_split(
    images: Images,
    arms: list[Arms],
    calibrations: list[dict[str, Calibration]],
    baselines: dict[str, np.ndarray],
    options: dict[str, Any],
) -> Results:
    """Logits of the test images by each arm of each seed, and the figures.

    Args:
        options: every option with its resolved value.
    """
    logits = [dict(_logits(trained, images, images.test)) for trained in arms]
    best = min(range(len(arms)), key=lambda i: arms[i]["pretrained"].phases[-1].history.best["validation_loss"])
    results = Results(images, arms, calibrations, logits, baselines, best)
    results.metrics = _summarise(results, options)
    return results


def _logits(arms: Arms, images: Images, indices: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Of each arm, and of what it was before its backbone was unfrozen."""
    for arm in arms.values():
        yield arm.name, model.predict(arm.network, images, indices)
        if len(arm.phases) > 1:
            with arm.before_unfreezing():
                yield "frozen", model.predict(arm.network, images, indices)


def _summarise(results: Results, options: dict[str, Any]) -> dict[str, Any]:
    """Phases and differences to baselines are those of the published seed."""
    images, labels = results.images, results.labels
    summary: dict[str, Any] = {
        "experiment": "transfer",
        "config": options,
        "environment": runs.environment(),
        "data": images.summary(),
        "audit": audit.counts(images.suspects),
        "published_seed": options["seed"] + results.best,
        "baselines": {},
        "arms": {},
    }
    for name, classes in results.baselines.items():
        recalls = recall(labels, classes, images.classes)
        test = {"accuracy": float((classes == labels).mean()), "recall": recalls}
        test["balanced_accuracy"] = float(np.mean(list(recalls.values())))
        summary["baselines"][name] = {"test": test}
    predicted = {}
    for name in results.probabilities[results.best]:
        arm = results.published["pretrained" if name == "frozen" else name]
        phases = slice(1 if name == "frozen" else None)
        predicted[name] = results.predicted(name)
        summary["arms"][name] = {
            "weights": arm.weights.summary(),
            "seconds": sum(phase.seconds for arms in results.arms for phase in arms[arm.name].phases[phases]),
            "phases": [phase.summary() for phase in arm.phases[phases]],
            "test": metrics(labels, [p[name] for p in results.probabilities])
            | {"recall": recall(labels, predicted[name], images.classes)}
            | _calibration(results, name),
        }
        if name == "scratch" or (name == "pretrained" and options["batch_norm"] == "train"):
            summary["arms"][name]["batch_statistics_accuracy"] = batch_statistics_accuracy(arm, images)
    for other, title in (("scratch", "difference"), ("frozen", "difference_frozen")):
        if other in predicted:
            summary[title] = compare(labels, predicted["pretrained"], predicted[other])
    published = predicted["pretrained"][results.best]
    summary["difference_to_baselines"] = {
        name: compare(labels, published[np.newaxis], p[np.newaxis]) for name, p in results.baselines.items()
    }
    summary["most_confused"] = [
        {"truth": images.classes[a], "prediction": images.classes[b], "n": n}
        for a, b, n in confused(labels, published)[:25]
    ]
    return summary


def _calibration(results: Results, name: str) -> dict[str, Any]:
    """What calibration changed for one arm, and its sets of classes; by class those of the published seed."""
    labels, figures, by_class = results.labels, [], []
    for seed, calibrations in enumerate(results.calibrations):
        fitted, probability = calibrations[name], results.probabilities[seed][name]
        sets = calibrate.coverage(labels, probability, fitted.set_threshold)
        error = expected_calibration_error(labels, calibrate.probabilities(results.logits[seed][name]))
        figures.append({"temperature": fitted.temperature, "ece_uncalibrated": error, "sets": sets})
        by_class.append(calibrate.coverage_by_class(labels, probability, fitted.set_threshold, results.images.classes))
    summary = training.over_seeds(figures)
    summary["sets"] |= {"level": fitted.level, "coverage_by_class": by_class[results.best]}
    return summary


def write(
    folder: Path, results: Results, name: str, network: keras.Model, process: saved_model.FreshProcess, litert: bool
) -> None:
    """Verify the exported model; write ``metrics.json``, the card ``model.json``, and on request the LiteRT files.

    Args:
        name: of the published model.
        network: that was exported to ``folder``.
    """
    images, metrics = results.images, results.metrics
    metrics["arms"]["pretrained"]["test"]["called_unfamiliar"] = results.unfamiliar[1]
    metrics["saved_model_check"] = verify(process, folder, network, results)
    runs.write_json(folder / "metrics.json", metrics)
    pretrained = metrics["arms"]["pretrained"]
    calibration = results.calibrations[results.best]["pretrained"]
    card = {
        "experiment": "transfer",
        "task": "image classification",
        "name": name,
        "classes": images.classes,
        "input": "uint8 images of any size (batch, height, width, 3), or JPEG and PNG files through serve_bytes",
        "output": "class probabilities (batch, classes)",
        "image_size": images.store.size,
        "fit": metrics["config"]["fit"],
        "data": {"name": images.name, "sha256": images.sha256, "citation": images.source.citation},
        "weights": pretrained["weights"],
        "temperature": calibration.temperature,
        "set_level": calibration.level,
        "set_threshold": calibration.set_threshold,
        "unfamiliar_threshold": results.unfamiliar[0],
        "seed": metrics["published_seed"],
        "headline": f"accuracy {percent(pretrained['test']['accuracy'])}",
        "saved_model_check": metrics["saved_model_check"],
        "environment": metrics["environment"],
    }
    if litert:
        card["litert"] = deployment.export_litert(folder, images.store.read(images.test[:VERIFIED_ITEMS]))
    runs.write_json(folder / "model.json", card)


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
    predicted, classes, present = probability.argmax(axis=1), probability.shape[1], np.unique(labels)
    return {
        "n": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall_score(labels, predicted, labels=present, average="macro")),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "top5_accuracy": (
            float(top_k_accuracy_score(labels, probability, k=5, labels=np.arange(classes))) if classes > 5 else 1.0
        ),
        "ece": expected_calibration_error(labels, probability),
    } | ({"auc": float(roc_auc_score(labels, probability[:, 1]))} if classes == len(present) == 2 else {})


def recall(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Share of each class's images that are recognised, of the classes that occur; the mean over several seeds.

    Args:
        labels: true classes ``(n,)``.
        predicted: ``(n,)`` or ``(seeds, n)``.
    """
    return {classes[label]: float((predicted[..., labels == label] == label).mean()) for label in np.unique(labels)}


def report(labels: np.ndarray, probability: np.ndarray, classes: list[str]) -> str:
    """scikit-learn's classification report over the whole test split, of the classes that are there or predicted."""
    predicted = probability.argmax(axis=1)
    present = np.union1d(labels, predicted)
    names = [classes[i] for i in present]
    return classification_report(labels, predicted, labels=present, target_names=names, digits=3, zero_division=0)


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
    result = {"accuracy": float(difference.mean()), "ci95": interval, "p_value": p_value, "test": test}
    result["verdict"] = verdict(interval, p_value)
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


def batch_statistics_accuracy(arm: Arm, images: Images) -> dict[str, float]:
    """Validation accuracy with the moving statistics and with each batch's own: far apart, batch norm was not ready."""
    labels = images.labels[images.validation]
    moving = float((model.predict(arm.network, images, images.validation).argmax(axis=1) == labels).mean())
    weights = arm.backbone.get_weights()
    arm.backbone.trainable = True  # batch norm that is frozen keeps to its moving statistics
    order = np.random.default_rng(0).permutation(len(images.validation))  # a batch of one class would be no fair batch
    predicted = np.empty(len(order), int)
    for rows in np.array_split(order, max(len(order) // 64, 1)):
        pixels = images.store.read(images.validation[rows]).astype(np.float32)
        predicted[rows] = np.asarray(arm.head(arm.backbone(pixels, training=True), training=False)).argmax(axis=1)
    arm.backbone.set_weights(weights)
    return {"moving_statistics": moving, "batch_statistics": float((predicted == labels).mean())}


def verify(process: saved_model.FreshProcess, folder: Path, network: keras.Model, results: Results) -> dict[str, Any]:
    """The published model, in a fresh process, on test images: as the run saw them, and from their own size.

    Raises:
        UserError: its probabilities are not those of ``network`` and of the run.
    """
    images, probability = results.images, results.probabilities[results.best]["pretrained"]
    size, verified = images.store.size, images.test[:VERIFIED_ITEMS]
    differences = []
    for i, item in enumerate(images.source.items[j] for j in verified[:16]):
        content = item if isinstance(item, np.ndarray) else data.read_bytes(item)
        own_size = np.asarray(network(data.decode(content, None)[np.newaxis], training=False))[0]
        differences.append(np.abs(own_size - probability[i]).max())
    # Lossless files, so that a decoder's rounding is no difference: one opaque, one with an alpha channel.
    pictures = [Image.fromarray(pixels) for pixels in images.store.read(verified[:2])]
    files = [_png(picture.convert(mode)) for picture, mode in zip(pictures, ("RGB", "RGBA"), strict=False)]
    inputs = [images.store.read(verified), *(np.frombuffer(content, np.uint8) for content in files)]
    decoded = np.stack([data.decode(content, size) for content in files])
    expected = [probability[: len(verified)], *np.asarray(network(decoded, training=False))[:, np.newaxis]]
    check = process.verify(folder, inputs, expected, TOLERANCE)
    return check | {"own_size_items": len(differences), "own_size_max_difference": float(max(differences))}


def _png(picture: Image.Image) -> bytes:
    if picture.mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size).point(lambda value: 255 * (value > 127)))
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter turn, to be undone
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()
