"""A look at the images before training: labels that are probably wrong, nearly equal pictures, odd ones out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import brute
from scipy.special import expit, log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from keras_a2.transfer import duplicates, model
from keras_a2.transfer.data import Images, note

FOLDS = 5
PENALTY = 1e-2  # L2, per image: a stronger one than the head's, so that no wrong label is learnt
ITERATIONS = 60
WRONG = 0.25  # probability; of 5 % planted wrong labels it finds three quarters, and two of three suspects are wrong
ODD_NEIGHBOURS, ODD = 5, 4.0  # robust standard deviations of the logarithm of the distance
TEXTS = {"label": "probably wrong label(s)", "duplicate": "pair(s) of nearly equal pictures", "odd": "odd one(s) out"}


def examine(images: Images, weights: model.Weights, make: model.Compute, drop: bool) -> Images:
    """The images with a table of ``suspects``, sorted by kind and score; a line says how many there are.

    Labels and oddness are judged on the training and validation images, by the features of the frozen backbone. Of the
    test images only the pictures are compared with the others.

    Args:
        make: computes the features: ``train.keras_features``, or a faster one.
        drop: leave the suspects out of the training images. Validation and test stay as they are: without the difficult
            ones they would promise too much.
    """
    indices = np.concatenate([images.train, images.validation])
    features = compute_features(images, indices, weights, make)
    judged = [wrong_labels(features, images.labels[indices]), odd_ones_out(features)]
    judged = [rows.assign(image=indices[rows["image"]]) for rows in judged]
    suspects = pd.concat([*judged, near_duplicates(images)], ignore_index=True)
    if len(suspects):
        shown = ", ".join(f"{n} {text}" for text, n in zip(TEXTS.values(), counts(suspects).values(), strict=True) if n)
        note(f"audit: {shown}; the report shows them, audit.csv names them" + "; left out of training" * drop)
    return replace(images, suspects=suspects, train=without(images, suspects) if drop else images.train)


def without(images: Images, suspects: pd.DataFrame) -> np.ndarray:
    """The training images that are no suspects; a class that would have none left stays as it is."""
    both = np.concatenate([suspects["image"], suspects.loc[suspects["kind"] == "duplicate", "other"]])
    train, labels = images.train, images.labels[images.train]
    stays = ~np.isin(train, both)
    return train[stays | ~np.isin(labels, labels[stays])]


def counts(suspects: pd.DataFrame) -> dict[str, int]:
    """Number of suspects by kind, as ``metrics.json`` has it."""
    return {kind: int((suspects["kind"] == kind).sum()) for kind in TEXTS}


def rows(images: Images) -> pd.DataFrame:
    """The content of ``audit.csv``: names instead of numbers, empty where there is no other image or no suggestion."""
    suspects = images.suspects
    names, classes = np.array([*images.source.item_names, ""], object), np.array([*images.classes, ""], object)
    labels, split = np.append(images.labels, -1), np.array(["left out"] * len(images.labels) + [""], object)
    for part in ("train", "validation", "test"):
        split[getattr(images, part)] = part
    columns = {"kind": suspects["kind"], "score": suspects["score"]}
    for column, prefix in (("image", ""), ("other", "other_")):
        image = suspects[column].to_numpy()
        columns |= {
            f"{prefix}item": names[image],
            f"{prefix}split": split[image],
            f"{prefix}class": classes[labels[image]],
        }
    return pd.DataFrame(columns | {"suggested_class": classes[suspects["suggested"]]})


def compute_features(images: Images, indices: np.ndarray, weights: model.Weights, make: model.Compute) -> np.ndarray:
    """Features of the frozen backbone, standardised: ``(len(indices), features)`` float32."""
    backbone, size = model.plain_backbone(weights.alpha), images.store.size
    model.load_weights(backbone, weights)
    features = images.store.compute(make(backbone, (size, size, 3)), indices)
    mean, variance = model.moments(features)
    return (features - mean) / np.sqrt(np.maximum(variance, 1e-12))


def wrong_labels(features: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Images whose label is wrong with a probability above ``WRONG``, and the class suggested.

    Each image is judged by logistic regression that was fitted without it. Classes with fewer than ``FOLDS`` images are
    not judged.

    Args:
        features: standardised ``(n, features)``.
        labels: ``(n,)``.
    """
    judged = np.flatnonzero(np.bincount(labels)[labels] >= FOLDS)
    classes, given = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return table("label", np.empty(0, int))
    regression = LogisticRegression(C=FOLDS / (FOLDS - 1) / (PENALTY * len(judged)), max_iter=ITERATIONS, tol=1e-3)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    # One thread, and few steps, as in ``model.solve``.
    with warnings.catch_warnings(), np.errstate(divide="ignore"), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        logits = cross_val_predict(regression, features[judged], given, cv=folds, method="predict_log_proba")
    probability = mislabelled(np.maximum(logits, -100), given)
    likely = np.where(np.arange(len(classes)) == given[:, np.newaxis], -np.inf, logits).argmax(axis=1)
    wrong = probability > WRONG
    return table("label", judged[wrong], probability[wrong], suggested=classes[likely[wrong]])


def mislabelled(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability ``(n,)`` that each label is wrong, given logits ``(n, classes)`` of a model that did not see it.

    A label is wrong with one probability, the noise rate, and then any other class with the same probability. The rate
    and the temperature of the logits have the highest likelihood (noise of this kind: Natarajan et al. 2013, Learning
    with Noisy Labels, NeurIPS).
    """
    rows, others = np.arange(len(labels)), logits.shape[1] - 1

    def joint(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of each label, as a right one and as a wrong one."""
        sharpness, rate = np.exp(np.clip(parameters[0], -5, 5)), expit(parameters[1])
        right = np.exp(log_softmax(sharpness * logits, axis=1)[rows, labels])
        return (1 - rate) * right, rate / others * (1 - right)

    def loss(parameters: np.ndarray) -> float:
        return -float(np.log(np.sum(joint(parameters), axis=0) + 1e-300).mean())

    # A grid first: blunt logits without noise are often a second, worse minimum.
    right, wrong = joint(brute(loss, (slice(-2, 3, 1), slice(-6, 0, 1.5))))
    return wrong / (right + wrong + 1e-300)


def near_duplicates(images: Images) -> pd.DataFrame:
    """Pairs of nearly equal pictures that stand in two splits or in two classes; the score is their correlation."""
    part = np.full(len(images.labels), -1)
    for number, indices in enumerate((images.train, images.validation, images.test)):
        part[indices] = number
    used = np.flatnonzero(part >= 0)
    pairs, correlation = duplicates.near(images.store, used)
    first, second = used[pairs].T
    first, second = np.where(part[first] <= part[second], (first, second), (second, first))  # train comes first
    matter = (part[first] != part[second]) | (images.labels[first] != images.labels[second])
    return table("duplicate", first[matter], correlation[matter], other=second[matter])


def odd_ones_out(features: np.ndarray) -> pd.DataFrame:
    """Images far from all others: the score is the distance to the nearest, in robust standard deviations."""
    k = min(ODD_NEIGHBOURS, len(features) - 1)
    distance, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors()
    far = np.log(distance.mean(axis=1) + 1e-6)
    spread = 1.4826 * np.median(np.abs(far - np.median(far)))  # a normal distribution's standard deviation
    score = (far - np.median(far)) / max(spread, 1e-6)
    return table("odd", np.flatnonzero(score > ODD), score[score > ODD])


def table(
    kind: str,
    image: np.ndarray,
    score: np.ndarray | float = 0.0,
    other: np.ndarray | int = -1,
    suggested: np.ndarray | int = -1,
) -> pd.DataFrame:
    """Rows of suspects of one kind, the highest score first; -1 where there is no other image or no suggestion."""
    rows = pd.DataFrame({"kind": kind, "image": image, "other": other, "suggested": suggested, "score": score})
    return rows.astype({"other": int, "suggested": int, "score": float}).sort_values("score", ascending=False)
