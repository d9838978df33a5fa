"""Which images show one picture: the same pixels, whatever the format, or the same picture compressed another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from keras_a2.transfer.data import PixelStore

THUMBNAIL, SKETCH = 32, 8
NEIGHBOURS = 16
# Root mean square differences of two thumbnails, in standard deviations of the picture. Photographs compressed as JPEG
# of quality 50 differ from the original by up to 0.035 in brightness, the two most alike of 2,624 solar cells by 0.065.
BRIGHTNESS, COLOUR = 0.05, 0.1
SKETCHES = 0.1 * SKETCH  # the coarse search admits twice as much
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def pictures(store: PixelStore, indices: np.ndarray, pixels: dict[int, str], encodings: dict[int, int]) -> np.ndarray:
    """The picture that each image shows, numbered: ``(len(indices),)``.

    Two images show one picture where their decoded pixels are equal; or where they are nearly equal and the files are
    encoded differently. Files of one encoding are taken at their word: frames of a fixed camera may be as alike.

    Args:
        pixels: hash of the decoded pixels of each image.
        encodings: what a file's header says of its encoding, see ``decode.encoding``.
    """
    _, first, number = np.unique([pixels[i] for i in indices], return_index=True, return_inverse=True)
    of_each: list[set] = [set() for _ in first]
    for i, picture in zip(indices, number, strict=True):
        of_each[picture].add(encodings[i])
    if all(encoding == of_each[0] for encoding in of_each):
        return number
    pairs = _alike(store, indices[first], of_each)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][number]


def _alike(store: PixelStore, indices: np.ndarray, encodings: list[set]) -> np.ndarray:
    """Pairs ``(n, 2)`` of positions in ``indices`` that show one picture, encoded differently."""
    sketches = np.concatenate([_sketches(store, part) for part in np.array_split(indices, len(indices) // 256 + 1)])
    k = min(NEIGHBOURS + 1, len(indices))
    _, near = cKDTree(sketches).query(sketches, k, distance_upper_bound=SKETCHES)
    pairs = np.array([(a, b) for a, row in enumerate(near) for b in row[row < len(indices)] if a != b]).reshape(-1, 2)
    return np.array(
        [
            (a, b)
            for a, b in np.unique(np.sort(pairs, axis=1), axis=0)
            if encodings[a] != encodings[b] and _same(store.read(indices[[a, b]]))
        ],
        int,
    ).reshape(-1, 2)


def _sketches(store: PixelStore, indices: np.ndarray) -> np.ndarray:
    """Brightness of 8 x 8 fields of each image, standardised: ``(len(indices), 64)``."""
    fields = np.array([_reduced(image, SKETCH) @ LUMA for image in store.read(indices)]).reshape(len(indices), -1)
    return (fields - fields.mean(axis=1, keepdims=True)) / np.maximum(fields.std(axis=1, keepdims=True), 0.5)


def _same(two: np.ndarray) -> bool:
    colours = np.array([_reduced(image, THUMBNAIL) for image in two])
    return all(
        np.sqrt(np.mean((a - b) ** 2)) <= limit * min(a.std(), b.std())
        for (a, b), limit in (((colours @ LUMA), BRIGHTNESS), (colours, COLOUR))
    )


def _reduced(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX), np.float32)
