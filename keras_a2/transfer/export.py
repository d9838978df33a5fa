"""The trained network as one plain Keras model: any image in, probabilities out, nothing of this package inside."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_a2.transfer import backbone as backbones
from keras_a2.transfer.train import Arm


def assemble(arm: Arm, size: int) -> keras.Model:
    """uint8 images of any size ``(batch, height, width, 3)`` to probabilities ``(batch, classes)``."""
    network = backbones.plain(arm.weights.alpha)
    network.set_weights(arm.backbone.get_weights())
    image = keras.Input((None, None, 3), dtype="uint8", name="images")
    resized = keras.layers.Resizing(size, size, antialias=True, name="resize")(image)
    x = network(resized)
    for layer in arm.head.layers:
        copy = layer.__class__.from_config(layer.get_config())
        x = copy(x)
        copy.set_weights(layer.get_weights())
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x), name="transfer")


def endpoints(model: keras.Model, size: int) -> dict:
    """Signatures of the SavedModel: ``serve`` takes pixels, ``serve_bytes`` the content of image files."""

    resize = model.get_layer("resize")
    rest = keras.Model(resize.output, model.output)

    def serve(images):
        return model(images, training=False)

    def serve_bytes(contents):
        def decode(content):
            image = tf.io.decode_image(content, channels=3, expand_animations=False)
            image.set_shape((None, None, 3))
            return resize(image[tf.newaxis])[0]

        return rest(tf.map_fn(decode, contents, fn_output_signature=tf.TensorSpec((size, size, 3))), training=False)

    return {
        "serve": (serve, [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]),
        "serve_bytes": (serve_bytes, [tf.TensorSpec((None,), tf.string, name="contents")]),
    }
