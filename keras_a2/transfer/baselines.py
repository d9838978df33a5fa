"""What the network is compared with: the commonest class, and logistic regression on small pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from keras_a2.transfer.data import Images, class_shares

GREY_PIXELS, COLOUR_PIXELS = 24, 16  # side of the baseline's thumbnails
PIXEL_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C on pixels standardised as a whole


def predict(images: Images) -> dict[str, np.ndarray]:
    """Predicted classes of the test images by each baseline ``(test images,)``."""
    majority = np.bincount(images.labels[images.train]).argmax()
    return {"majority": np.full(len(images.test), majority), "pixels": pixels(images, [images.train])[0]}


def pixels(images: Images, trained_on: Sequence[np.ndarray]) -> np.ndarray:
    """Test predictions of logistic regression on thumbnails, its strength chosen on validation.

    Args:
        trained_on: the training images of each fit, by index.

    Returns:
        Predicted classes ``(fits, test images)``.
    """
    grey = bool((np.ptp(images.store.read(images.train[:32]), axis=-1) <= 2).all())
    splits = (images.train, images.validation, images.test)
    weights = None
    if images.shares is not None:  # see ``train.class_weights``
        weights = images.shares / class_shares(images.labels[images.train], len(images.classes))
    parts = [_thumbnails(images, part, grey) for part in splits]
    labels, answers = images.labels, np.zeros((len(trained_on), len(images.test)), int)
    for predicted, indices in zip(answers, map(np.sort, trained_on), strict=True):
        of_each = None if weights is None else weights[labels[indices]]
        train = parts[0][np.isin(images.train, indices)]
        mean, scale = train.mean(axis=0), train.std() or 1.0
        train, validation, test = ((part - mean) / scale for part in (train, *parts[1:]))
        best_accuracy = -1.0
        model = LogisticRegression(max_iter=100, warm_start=True, tol=1e-3)
        for strength in PIXEL_STRENGTHS:
            model.set_params(C=strength)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(train, labels[indices], of_each)
            accuracy = model.score(validation, labels[images.validation])
            if accuracy > best_accuracy:
                best_accuracy, predicted[:] = accuracy, model.predict(test)
    return answers


def _thumbnails(images: Images, indices: np.ndarray, grey: bool) -> np.ndarray:
    """Pixels of small pictures, in a row each: ``(len(indices), 576 or 768)`` float32."""
    size, mode = (GREY_PIXELS, "L") if grey else (COLOUR_PIXELS, "RGB")

    def reduced(pixels: np.ndarray) -> np.ndarray:
        pictures = (Image.fromarray(image).resize((size, size), Image.Resampling.BOX) for image in pixels)
        return np.array([np.asarray(picture.convert(mode), np.float32).ravel() for picture in pictures])

    return images.store.compute(reduced, indices)
