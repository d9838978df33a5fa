"""Any image file to upright RGB of the model's size, defended against hostile files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
MAX_PIXELS = 100_000_000  # 300 MB as RGB; a larger header is taken for a decompression bomb
MAX_BYTES = 200 * 2**20
GREY = 127  # of the bars beside a padded image: 0 once the network has scaled its pixels

ImageFile.LOAD_TRUNCATED_IMAGES = False


class UnreadableImage(ValueError):
    """The reason why a file is not an image that can be used, in a few words."""


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most ``MAX_BYTES``.

    Raises:
        UnreadableImage: no regular file, too large, empty, or not permitted.
    """
    try:
        if not path.is_file():
            raise UnreadableImage("not a regular file")
        size = path.stat().st_size
        if size == 0:
            raise UnreadableImage("empty file")
        if size > MAX_BYTES:
            raise UnreadableImage(f"file of {size / 2**20:.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or "cannot be read") from error


def decode(content: bytes | np.ndarray, size: int | None, fit: str = "squash") -> np.ndarray:
    """Decode an image file's content (or take an array) and make it a square.

    Args:
        content: the bytes of a JPEG, PNG, BMP, GIF (first frame), WebP or TIFF (first page) file, or an array
            ``(height, width[, 1 or 3])`` of uint8.
        size: pixels of the square's side; None keeps the image's own size.
        fit: ``squash``, ``pad`` with grey, or ``crop`` to the middle, as ``keras.layers.Resizing`` does.

    Returns:
        uint8 array ``(size, size, 3)``, resized with an antialiased triangle filter as ``tf.image.resize`` does.

    Raises:
        UnreadableImage: not an image, truncated, or with more than ``MAX_PIXELS`` pixels.
    """
    if isinstance(content, np.ndarray):
        return _square(Image.fromarray(np.squeeze(content)).convert("RGB"), size, fit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels")
            if size and image.format == "JPEG":
                image.draft(None, (2 * size, 2 * size))  # libjpeg decodes a large photo at 1/2, 1/4 or 1/8
            return _square(_to_rgb(ImageOps.exif_transpose(image)), size, fit)
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged files, all of them mean 'unreadable'
        raise UnreadableImage("not a readable image") from error


def encoding(content: bytes | np.ndarray) -> int:
    """A number for the format, size, mode and quantisation that the header of a readable file names."""
    if isinstance(content, np.ndarray):
        return hash(content.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    tables = getattr(image, "quantization", None) or {}
    return hash((image.format, image.size, image.mode, *((k, tuple(table)) for k, table in sorted(tables.items()))))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # convert() would clip these values at 255 instead of scaling them.
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        if image.mode != "F" or values.max() > 255:  # 16 bits
            values = values / 257
        elif values.max() <= 1:
            values = values * 255
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int | None, fit: str) -> np.ndarray:
    if size and image.size != (size, size):
        if fit == "pad" and max(image.size) ** 2 > MAX_PIXELS:  # a strip of few pixels, whose square is a bomb
            image = image.reduce(-(-max(image.size) // int(MAX_PIXELS**0.5)))
        if fit != "squash":
            side = max(image.size) if fit == "pad" else min(image.size)
            left, top = (int((side - length) / 2) for length in image.size)  # negative: outside the crop
            shape = (image.width + 2 * left, image.height + 2 * top) if fit == "pad" else (side, side)
            square = Image.new("RGB", shape, (GREY, GREY, GREY))
            square.paste(image, (left, top))
            image = square
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)
