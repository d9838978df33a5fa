"""The new head: standardise the features, drop some, one dense layer; its convex solution comes first."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)  # L2 penalties per image, from strong to weak
ITERATIONS = 120
VARIANCE_FLOOR = 0.05  # of the mean variance


def build(features: int, classes: int, dropout: float) -> keras.Model:
    """Features ``(batch, features)`` to logits ``(batch, classes)``."""
    return keras.Sequential(
        [
            keras.Input((features,)),
            # Fixed scaling: batch norm that never trains. Its weights load and copy like any other layer's.
            keras.layers.BatchNormalization(center=False, scale=False, trainable=False, name="standardise"),
            keras.layers.Dropout(dropout, name="dropout"),
            keras.layers.Dense(classes, name="logits"),
        ],
        name="head",
    )


def standardise(head: keras.Model, features: np.ndarray) -> None:
    """Fit the head's scaling on training features ``(n, features)``.

    The variance has a floor: a feature that hardly varies on the training images would otherwise be blown up as soon as
    fine-tuning shifts it.
    """
    variance = features.var(axis=0)
    head.get_layer("standardise").set_weights(
        [features.mean(axis=0), np.maximum(variance, VARIANCE_FLOOR * variance.mean())]
    )


def solve(
    train: np.ndarray, train_labels: np.ndarray, validation: np.ndarray, validation_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Multinomial logistic regression on standardised features, its L2 strength chosen on the validation split.

    The optimum of a convex loss has no learning rate to tune, and a head that is already good keeps fine-tuning from
    distorting the features (LP-FT: Kumar et al. 2022, arXiv 2202.10054, section 3).

    Args:
        train, validation: standardised features ``(n, features)``; every class occurs in ``train_labels``.

    Returns:
        kernel ``(features, classes)``, bias ``(classes,)`` and the chosen strength, per image.
    """
    model = LogisticRegression(warm_start=True, max_iter=ITERATIONS, tol=1e-3)
    best = None
    # One thread: sums cut among several are rounded by how many there are, and figures would depend on the machine.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bounded number of steps is also a regulariser
        for strength in STRENGTHS:
            model.set_params(C=1 / (strength * len(train)))
            model.fit(train, train_labels)
            loss = log_loss(validation_labels, model.predict_proba(validation), labels=model.classes_)
            if best is not None and loss >= best[0]:
                break
            best = (loss, model.coef_.copy(), model.intercept_.copy(), strength)
    _, kernel, bias, strength = best
    if len(model.classes_) == 2:  # scikit-learn keeps the log-odds of the second class only
        kernel, bias = np.vstack([-kernel, kernel]) / 2, np.concatenate([-bias, bias]) / 2
    return kernel.T.astype(np.float32), bias.astype(np.float32), strength
