"""Images of every kind to arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_a2.transfer.decode import UnreadableImage, decode


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (20, 10), (200, 0, 0))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
def test_every_format_comes_out_red(kind):
    pixels = decode(encoded(RED, kind), 8)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [200, 0, 0], atol=6)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_comes_out_as_rgb_of_the_right_brightness(mode):
    grey = Image.new("L", (20, 10), 255)
    if mode == "I;16":
        image, kind = Image.fromarray(np.full((10, 20), 65535, np.uint16)), "PNG"
    elif mode == "CMYK":
        image, kind = grey.convert("RGB").convert("CMYK"), "JPEG"
    else:
        image, kind = grey.convert(mode), "PNG"
    assert decode(encoded(image, kind), None).min() >= 250


def test_sixteen_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert abs(int(decode(encoded(image, "PNG"), None)[0, 0, 0]) - 127) <= 1


def test_dark_images_of_sixteen_bits_stay_dark():
    image = Image.fromarray(np.full((4, 4), 200, np.uint16))
    assert decode(encoded(image, "PNG"), None).max() == 0


def test_a_tiff_of_floats_is_scaled_from_one():
    image = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert abs(int(decode(encoded(image, "TIFF"), None)[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_the_first_page_of_a_tiff_is_read_upright(compression):
    pages = [Image.new("RGB", (20, 10), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    options = {"save_all": True, "append_images": pages[1:], "compression": compression, "tiffinfo": {0x0112: 6}}
    pixels = decode(encoded(pages[0], "TIFF", **options), None)
    assert pixels.shape == (20, 10, 3)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [200, 0, 0], atol=6)


def test_exif_rotation_is_undone():
    image = Image.new("RGB", (20, 10))
    image.paste((255, 255, 255), (0, 0, 20, 5))  # bright top
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by a quarter: the stored top is the shown right
    pixels = decode(encoded(image, "JPEG", exif=exif, quality=95), None)
    assert pixels.shape[:2] == (20, 10)
    assert pixels[:, -3:].mean() > 200 > 50 > pixels[:, :3].mean()


def test_transparent_pixels_are_white():
    assert decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), None).min() == 255


def test_resize_is_that_of_the_saved_model():
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    ours = decode(pixels, 32).astype(float)
    exported = tf.image.resize(pixels, (32, 32), antialias=True).numpy()
    assert np.abs(ours - exported).max() <= 1.5


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("shape", [(90, 70, 3), (41, 120, 3), (64, 64, 3)])
def test_an_image_becomes_a_square_as_in_the_saved_model(fit, shape):
    import keras

    from keras_a2.transfer import model

    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    backbone = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Identity()])
    head = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Identity()])
    network = model.assemble(backbone, head, 32, fit)
    resized = keras.Model(network.input, network.get_layer("resize").output)
    exported = np.asarray(resized(pixels[np.newaxis]))[0].astype(int)
    assert np.abs(decode(pixels, 32, fit) - exported).max() <= 2  # the layer rounds down


def test_the_square_around_a_strip_is_no_bomb(monkeypatch):
    strip = encoded(Image.new("RGB", (4000, 240), (200, 0, 0)), "PNG")
    expected, sides, new = decode(strip, 16, "pad").astype(int), [], Image.new
    monkeypatch.setattr("keras_a2.transfer.decode.MAX_PIXELS", 1000**2)
    monkeypatch.setattr(Image, "new", lambda mode, size, *colour: sides.append(max(size)) or new(mode, size, *colour))
    np.testing.assert_allclose(decode(strip, 16, "pad"), expected, atol=2)
    assert 0 < max(sides) <= 1000


def test_a_padded_image_keeps_its_shape_and_a_cropped_one_its_middle():
    image = Image.new("RGB", (80, 40), (0, 0, 200))
    image.paste((200, 0, 0), (20, 0, 60, 40))
    content = encoded(image, "PNG")
    padded, cropped = (decode(content, 16, fit) for fit in ("pad", "crop"))
    assert (padded[:3] == 127).all()
    assert (padded[-3:] == 127).all()
    assert (padded[6:10, 7:9] == (200, 0, 0)).all()
    assert (cropped == (200, 0, 0)).all()


def header_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose data are not there."""
    content = bytearray(encoded(RED, "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", encoded(RED, "PNG")[:40], encoded(RED, "JPEG")[:200], header_of(50_000, 50_000)],
    ids=["empty", "text", "cut png", "cut jpeg", "bomb"],
)
def test_damaged_content_is_unreadable(content):
    with pytest.raises(UnreadableImage):
        decode(content, 8)


KINDS = ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_and_cut_files_are_images_or_unreadable(data):
    content = bytearray(encoded(RED, data.draw(st.sampled_from(KINDS))))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(content[: data.draw(st.integers(0, len(content)))]), 8)
    except UnreadableImage:
        return  # any other exception fails the test
    assert pixels.shape == (8, 8, 3)


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(content, 8).mean(axis=(0, 1)), [200, 0, 0], atol=6)
