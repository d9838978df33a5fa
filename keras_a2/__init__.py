"""Two experiments on Keras: transfer learning on images, and recurrent forecasting of series.

``keras_a2.train_images(folder)`` and ``keras_a2.train_series(table, target)`` train and publish a model,
``keras_a2.load(folder)`` loads one that was published.
"""

from keras_a2.api import train_images, train_series
from keras_a2.errors import UserError
from keras_a2.inference import load

__all__ = ["UserError", "load", "train_images", "train_series"]
