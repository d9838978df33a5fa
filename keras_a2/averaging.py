"""A moving average of a model's weights, evaluated and kept instead of the last step's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf


class Average:
    """Exponential moving average of a model's weights, batch-norm statistics included.

    The effective decay grows from 0.1 to ``decay`` (``(1 + t) / (10 + t)``), so that a short training is not held at
    its start. ``decay`` 0 turns it off: the weights themselves are shown.
    """

    def __init__(self, model: keras.Model, decay: float):
        self._live = list(model.weights)
        self._decay = decay
        self.count = keras.Variable(0.0, trainable=False)
        copies = (keras.Variable(np.array(w), dtype=w.dtype, trainable=False) for w in self._live)
        self.shown = self._live if not decay else list(copies)

    def update(self) -> None:
        if self.shown is self._live:
            return
        self.count.assign_add(1.0)
        decay = tf.minimum(self._decay, (1 + self.count) / (10 + self.count))
        for shown, live in zip(self.shown, self._live, strict=True):
            if live.dtype.startswith("float"):
                shown.assign_sub((shown - live) * (1 - decay))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        if self.shown is self._live:
            yield
            return
        live = [np.array(w) for w in self._live]
        self.copy_to_model()
        try:
            yield
        finally:
            for variable, value in zip(self._live, live, strict=True):
                variable.assign(value)

    def keep(self, variables: list) -> None:
        """Inside ``swapped_in``: make what the model has in ``variables`` part of the average."""
        wanted = {id(v) for v in variables}
        for live, shown in zip(self._live, self.shown, strict=True):
            if id(live) in wanted and live is not shown:
                shown.assign(live)

    def copy_to_model(self) -> None:
        for live, shown in zip(self._live, self.shown, strict=True):
            if live is not shown:
                live.assign(shown)
