"""What the network is compared with: the commonest class, and logistic regression on small pixels."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from keras_a2.transfer.data import Images

GREY_PIXELS, COLOUR_PIXELS = 24, 16  # side of the baseline's thumbnails
PIXEL_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C on pixels standardised as a whole


def predict(images: Images) -> dict[str, np.ndarray]:
    """Predicted classes of the test images by each baseline ``(test images,)``."""
    majority = np.bincount(images.labels[images.train]).argmax()
    return {"majority": np.full(len(images.test), majority), "pixels": pixels(images)}


def pixels(images: Images) -> np.ndarray:
    """Test predictions of logistic regression on thumbnails, its strength chosen on validation, fitted on train."""
    grey = bool((np.ptp(images.store.read(images.train[:32]), axis=-1) <= 2).all())
    train, validation, test = (
        _thumbnails(images, part, grey) for part in (images.train, images.validation, images.test)
    )
    mean, scale = train.mean(axis=0), train.std() or 1.0
    train, validation, test = ((part - mean) / scale for part in (train, validation, test))
    best_accuracy, predicted = -1.0, np.zeros(len(test), int)
    model = LogisticRegression(max_iter=100, warm_start=True, tol=1e-3)
    for strength in PIXEL_STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, images.labels[images.train])
        accuracy = model.score(validation, images.labels[images.validation])
        if accuracy > best_accuracy:
            best_accuracy, predicted = accuracy, model.predict(test)
    return predicted


def _thumbnails(images: Images, indices: np.ndarray, grey: bool) -> np.ndarray:
    size, mode = (GREY_PIXELS, "L") if grey else (COLOUR_PIXELS, "RGB")
    rows = []
    for part in np.array_split(indices, len(indices) // 256 + 1):
        for image in images.store.read(part):
            picture = Image.fromarray(image).resize((size, size), Image.Resampling.BOX).convert(mode)
            rows.append(np.asarray(picture, np.float32).ravel())
    return np.array(rows)
