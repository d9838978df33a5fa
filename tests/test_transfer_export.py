"""The SavedModel's reading of image files against predict.py's."""

from __future__ import annotations

import io
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_a2.transfer.decode import decode
from keras_a2.transfer.model import decode_upright, signatures

read = tf.function(decode_upright, input_signature=[tf.TensorSpec((), tf.string)])


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str) -> Image.Image:
    """A smooth picture of 50 x 40 in one of the colour modes, transparent in places where the mode can be."""
    y, x = np.mgrid[0:40, 0:50]
    rgba = np.stack([4 * x, 5 * y, 255 - 2 * x - 2 * y, 255 - 5 * x], axis=-1).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray((1000 * x + 200 * y).astype(np.uint16))
    if mode == "P, transparent":
        image = Image.fromarray(rgba[..., :3]).quantize(64)
        image.info["transparency"] = int(np.asarray(image)[0, 0])
        return image
    image = Image.fromarray(rgba)
    return (
        image.quantize(64)
        if mode == "P"
        else image.convert("RGB").convert(mode)
        if "A" not in mode
        else image.convert(mode)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P, transparent", "RGB", "RGBA", "I;16"])
def test_a_png_of_every_mode_is_read_as_predict_reads_it(mode):
    content = encoded(picture(mode), "PNG")
    expected = decode(content, None).astype(int)
    assert np.abs(read(content).numpy() - expected).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_is_read_as_predict_reads_it(depth):
    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = (8).to_bytes(4, "big") * 2 + bytes([depth, 0, 0, 0, 0])
    rows = b"".join(b"\x00" + bytes(range(17 * i, 17 * i + depth)) for i in range(8))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(read(content).numpy() - decode(content, None).astype(int)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_of_every_mode_is_read_as_predict_reads_it(mode):
    content = encoded(picture(mode), "JPEG")
    assert np.abs(read(content).numpy() - decode(content, None).astype(int)).max() <= 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_predict_turns_it(orientation, kind, order):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112], exif[0x0132] = "maker", orientation, "2024:01:01 00:00:00"
    content = encoded(picture("RGB"), kind, exif=exif.tobytes())
    expected = decode(content, None).astype(int)
    assert expected.shape[:2] == ((50, 40) if 5 <= orientation <= 8 else (40, 50))
    assert np.abs(read(content).numpy() - expected).max() <= 3


@pytest.mark.parametrize("cut", [12, 20, 26, 40])
def test_a_damaged_exif_does_not_stop_the_graph(cut):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(picture("RGB"), "JPEG", exif=exif.tobytes()[:cut])
    assert read(content).shape in [(40, 50, 3), (50, 40, 3)]


def test_a_rotation_in_xmp_alone_is_refused():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(picture("RGB"), "JPEG", xmp=xmp)
    with pytest.raises(tf.errors.InvalidArgumentError, match="XMP"):
        read(content)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_by_name_of_those_that_are_read(kind):
    with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG and PNG"):
        read(encoded(picture("RGB"), kind))


def test_the_signature_takes_a_batch_of_files_of_many_sizes():
    pool, resize = keras.layers.GlobalAveragePooling2D(), keras.layers.Resizing(8, 8, antialias=True)
    function, signature = signatures(resize, 8, lambda pixels: {"probabilities": pool(pixels)})["serve_bytes"]
    contents = [encoded(picture("RGBA"), "PNG"), encoded(picture("RGB").crop((0, 0, 20, 30)), "JPEG")]
    answers = tf.function(function, input_signature=signature)(tf.constant(contents))
    expected = [decode(content, 8).mean(axis=(0, 1)) for content in contents]
    np.testing.assert_allclose(answers, expected, atol=2)
