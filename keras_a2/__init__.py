"""Two experiments on Keras: transfer learning on images, and recurrent forecasting of series.

``keras_a2.load(folder)`` loads what they publish.
"""

from keras_a2.errors import UserError
from keras_a2.inference import load

__all__ = ["UserError", "load"]
