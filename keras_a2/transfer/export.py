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
            return resize(decode_upright(content)[tf.newaxis])[0]

        return rest(tf.map_fn(decode, contents, fn_output_signature=tf.TensorSpec((size, size, 3))), training=False)

    return {
        "serve": (serve, [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]),
        "serve_bytes": (serve_bytes, [tf.TensorSpec((None,), tf.string, name="contents")]),
    }


# In the graph: the content of a JPEG or PNG file as predict.py reads it, in TensorFlow's operations alone.
def decode_upright(content: tf.Tensor) -> tf.Tensor:
    """Upright RGB pixels ``(height, width, 3)`` uint8 of a JPEG or PNG file's content; transparency becomes white.

    Raises:
        tf.errors.InvalidArgumentError: another format, or a rotation that only XMP records.
    """
    is_png = tf.strings.substr(content, 0, 8) == b"\x89PNG\r\n\x1a\n"
    is_jpeg = tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff"
    rotation = _exif_orientation(content)
    in_xmp = tf.strings.regex_full_match(content, r"\C*tiff:Orientation(=\"|>)[2-8]\C*")
    checks = [
        tf.debugging.Assert(is_png | is_jpeg, ["serve_bytes takes JPEG and PNG files; decode others and use serve"]),
        tf.debugging.Assert((rotation > 0) | ~in_xmp, ["the image's rotation is in XMP only; turn it and use serve"]),
    ]
    with tf.control_dependencies(checks):
        image = tf.cond(is_png, lambda: _png(content), lambda: _jpeg(content))
    image = tf.cond(rotation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(_one_of(rotation, (2, 3, 6, 7)), lambda: image[:, ::-1], lambda: image)
    image = tf.cond(_one_of(rotation, (3, 4, 7, 8)), lambda: image[::-1], lambda: image)
    return tf.ensure_shape(image, (None, None, 3))


def _jpeg(content: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")


def _png(content: tf.Tensor) -> tf.Tensor:
    header = tf.io.decode_raw(tf.strings.substr(content, 24, 2), tf.uint8)
    grey_of_few_bits = (header[0] < 8) & (header[1] == 0)  # TensorFlow scales it only where no alpha is wanted
    return tf.cond(grey_of_few_bits, lambda: tf.io.decode_png(content, channels=3), lambda: _on_white(content))


def _on_white(content: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    opaque = pixels[..., 3:] / 255
    return tf.cast(tf.round(pixels[..., :3] * opaque + 255 * (1 - opaque)), tf.uint8)


def _exif_orientation(content: tf.Tensor) -> tf.Tensor:
    """The number, 1 to 8, under tag 0x0112 of the first directory (CIPA DC-008, 4.6); 0 where there is none."""
    before = tf.strings.regex_replace(content, r"(Exif\x00\x00|eXIf)(II\*\x00|MM\x00\*)\C*", "", replace_global=False)
    start, end = tf.strings.length(before), tf.strings.length(content)
    named = tf.where(tf.strings.substr(content, start, 4) == b"Exif", 6, 4)
    exif = tf.strings.substr(content, tf.minimum(start + named, end), 65536)
    # Zeros behind the end: whatever a damaged directory points to is there to be read.
    octets = tf.cast(tf.io.decode_raw(exif + b"\x00" * 16, tf.uint8), tf.int32)
    little = tf.strings.substr(exif, 0, 1) == b"I"

    def number(at, size):
        at = tf.clip_by_value(at, 0, tf.size(octets) - size)
        digits = tf.gather(octets, at[..., tf.newaxis] + tf.range(size))
        return tf.reduce_sum(tf.where(little, digits, digits[..., ::-1]) * 256 ** tf.range(size), axis=-1)

    directory = number(tf.constant(4), 4)
    entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory, 2), 4096))
    entries = tf.boolean_mask(entries, (number(entries, 2) == 0x0112) & (entries + 12 <= tf.strings.length(exif)))[:1]
    value = tf.reduce_sum(tf.where(number(entries + 2, 2) == 3, number(entries + 8, 2), number(entries + 8, 4)))
    return tf.where((start < end) & (value <= 8), tf.maximum(value, 0), 0)


def _one_of(number: tf.Tensor, numbers: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(number == tf.constant(numbers))
