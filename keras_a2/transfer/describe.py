"""What a classifier knows of an image besides its class: features, where it looks, and a description of its kind."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_a2.saved_model import with_constants
from keras_a2.transfer import model as models
from keras_a2.transfer.calibrate import quantile
from keras_a2.transfer.data import Images
from keras_a2.transfer.familiar import FALSE_ALARMS, FILE, Familiarity
from keras_a2.transfer.maps import Mapper

DESCRIBED = 9  # of the backbone's blocks, the first: later ones see less and less of what no photograph has
TRAINING_IMAGES = 4000  # enough for a covariance of 300 channels


def describing(model: keras.Model) -> keras.Model:
    """A published classifier with more outputs: a dictionary of them, from the same input.

    Args:
        model: see ``model.assemble``; with or without its resizing.

    Returns:
        ``probabilities`` ``(batch, classes)``; ``features`` ``(batch, features)``, the pooled ones;
        ``description`` ``(batch, channels)``, the mean of every channel after the first ``DESCRIBED`` blocks;
        ``maps`` ``(batch, height, width, classes)``: what each place adds to each logit. The mean of a map and the
        head's bias are the logit, before it is divided by the temperature (Zhou et al. 2016, arXiv 1512.04150).
    """
    position = next(i for i, layer in enumerate(model.layers) if isinstance(layer, keras.Model))
    backbone, before, after = model.layers[position], model.layers[1:position], model.layers[position + 1 :]
    pool = backbone.layers[-1]
    named = [layer for layer in backbone.layers if layer.name.startswith(("conv", "expanded_conv"))]
    ends = {models.block_number(layer): layer.output for layer in named}  # the last of each
    image = keras.Input(model.input.shape[1:], dtype=model.input.dtype)
    x = image
    for layer in before:
        x = layer(x)
    places, *channels = keras.Model(backbone.input, [pool.input, *(ends[i] for i in range(DESCRIBED))])(x)
    x = features = pool(places)
    for layer in after:
        x = layer(x)
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.Dense):
            places = _at_each_place(layer, places)
    description = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(channel) for channel in channels])
    return keras.Model(image, {"probabilities": x, "features": features, "description": description, "maps": places})


def _at_each_place(layer: keras.Layer, places: keras.KerasTensor) -> keras.KerasTensor:
    """An affine layer of the head before pooling instead of after it, without the bias of the last one."""
    config, weights = layer.get_config(), layer.get_weights()
    if isinstance(layer, keras.layers.Dense):
        config, weights = config | {"use_bias": False}, weights[:1]
    copy = layer.__class__.from_config(config | {"name": f"{layer.name}_at_each_place"})
    answer = copy(places)
    copy.set_weights(weights)
    return answer


def signatures(network: keras.Model, size: int) -> dict[str, tuple]:
    """Of the SavedModel, see ``model.signatures``; ``describe`` gives what ``describing`` does."""
    resize = network.get_layer("resize")
    pixels = tf.TensorSpec((None, size, size, 3), tf.float32)
    answer = with_constants(describing(keras.Model(resize.output, network.output)))
    return models.signatures(resize, size, tf.function(answer, input_signature=[pixels]))


def mapper(network: keras.Model) -> Mapper:
    """Class activation maps by a published classifier: what each place adds to the logits of the classes asked for."""
    described = describing(network)

    def maps(pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        places = described.predict(pixels, verbose=0)["maps"]
        return places[np.arange(len(classes)), :, :, classes]

    return maps


def in_one(model: keras.Model) -> keras.Model:
    """``describing`` for LiteRT: probabilities and description side by side in one output."""
    described = describing(model)
    parts = [described.output[name] for name in ("probabilities", "description")]
    return keras.Model(described.input, keras.layers.Concatenate()(parts))


def publish(
    folder: Path, network: keras.Model, images: Images, make: models.Compute
) -> tuple[float | None, float | None]:
    """Fit the score on training and validation images, and write its file into ``folder``.

    Args:
        network: that is published there.
        make: computes descriptions: ``train.keras_features``, or a faster one.

    Returns:
        The threshold and the share of the test images above it; None of too few validation images.
    """
    size, classes = images.store.size, len(images.classes)
    answer = make(in_one(keras.Model(network.get_layer("resize").output, network.output)), (size, size, 3))

    def described(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = images.store.compute(answer, indices)
        return both[:, classes:], both[:, :classes]

    some = np.random.default_rng(0).permutation(images.train)[:TRAINING_IMAGES]
    validation = described(images.validation)
    familiarity = Familiarity.fit(described(some)[0], *validation)
    familiarity.save(folder / FILE)
    threshold = quantile(familiarity.unfamiliarity(*validation), 1 - FALSE_ALARMS)
    if threshold == np.inf:
        return None, None
    return threshold, float((familiarity.unfamiliarity(*described(images.test)) > threshold).mean())
