"""How usual an image is for a classifier: a score of pictures that no class was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FILE = "unfamiliar.npz"
FALSE_ALARMS = 0.05  # share of usual images that are called unfamiliar


@dataclass(frozen=True)
class Familiarity:
    """How usual an image is: the squared Mahalanobis distance of its description, and the certainty of its class.

    The description holds the mean of every channel after the backbone's early blocks. Its distance shows another kind
    of picture; a low largest probability shows another class of the same kind (Hendrycks & Gimpel 2017,
    arXiv 1610.02136). Each is standardised on held-out images, and their sum is the score.
    """

    mean: np.ndarray  # (d,)
    whitening: np.ndarray  # (d, d): descriptions less the mean, times this, have unit covariance
    centre: np.ndarray  # (2,) of both measures
    spread: np.ndarray

    @classmethod
    def fit(cls, description: np.ndarray, held_out: np.ndarray, probability: np.ndarray) -> Familiarity:
        """Estimate it, the covariance shrunk (Ledoit & Wolf 2004).

        Args:
            description: of training images ``(n, d)``; ``held_out`` ``(m, d)`` of others, ``probability``
                ``(m, classes)`` theirs.
        """
        from sklearn.covariance import ledoit_wolf  # takes a second, and a published model is used without it

        mean, deviation = description.mean(axis=0), description.std(axis=0) + 1e-6
        covariance, _ = ledoit_wolf((description - mean) / deviation, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-6)) / deviation[:, np.newaxis]
        measures = cls(mean, whitening, np.zeros(2), np.ones(2)).measures(held_out, probability)
        return cls(mean, whitening, measures.mean(axis=0), measures.std(axis=0) + 1e-6)

    def measures(self, description: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Logarithm of the squared distance, and how far from certain the class is: ``(n, 2)``."""
        distance = (((description - self.mean) @ self.whitening) ** 2).sum(axis=1)
        return np.stack([np.log(distance + 1e-6), -probability.max(axis=1)], axis=1)

    def unfamiliarity(self, description: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """The score ``(n,)``, higher for what is less like the training images."""
        return ((self.measures(description, probability) - self.centre) / self.spread).sum(axis=1)

    def save(self, path: Path) -> None:
        """Write the arrays, float32, to an ``.npz`` file."""
        arrays: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in vars(self).items()}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Familiarity:
        """Read what ``save`` wrote; nothing is unpickled."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{name: saved[name] for name in cls.__dataclass_fields__})
