"""Two experiments on Keras: transfer learning on images, and recurrent forecasting of series.

``keras_a2.load(folder)`` loads what they publish.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keras_a2.errors import UserError

if TYPE_CHECKING:
    from keras_a2.recurrent.predict import Forecaster
    from keras_a2.transfer.predict import Classifier

__all__ = ["UserError", "load"]


def load(folder: str | Path) -> Classifier | Forecaster:
    """Load the latest version of a published model (or a version folder); see its ``predict``.

    Raises:
        UserError: no such folder, or a damaged or half-copied one.
    """
    from keras_a2 import inference  # TensorFlow only when a model is wanted

    return inference.load(folder)
