"""Which images show one picture: the same pixels, whatever the format, or the same picture compressed another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from keras_a2.transfer.data import Facts, PixelStore

THUMBNAIL, SKETCH = 32, 8
NEIGHBOURS = 16
# Root mean square differences of two thumbnails, in standard deviations of the picture. Photographs compressed as JPEG
# of quality 50 differ from the original by up to 0.035 in brightness, the two most alike of 2,624 solar cells by 0.065.
BRIGHTNESS, COLOUR = 0.05, 0.1
SKETCHES = 0.1 * SKETCH  # the coarse search admits twice as much
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def pictures(store: PixelStore, indices: np.ndarray, facts: list[Facts]) -> np.ndarray:
    """The picture that each image shows, numbered: ``(len(indices),)``.

    Two images show one picture where their decoded pixels are equal; or where they are nearly equal and the files are
    encoded differently. Files of one encoding are taken at their word: frames of a fixed camera may be as alike.
    """
    _, first, number = np.unique([f.pixels for f in facts], return_index=True, return_inverse=True)
    encodings: list[set] = [set() for _ in first]
    for fact, picture in zip(facts, number, strict=True):
        encodings[picture].add(fact.encoding)
    if all(encoding == encodings[0] for encoding in encodings):
        return number
    pairs = [
        (a, b)
        for a, b in _neighbours(store, indices[first])
        if encodings[a] != encodings[b] and _same(store.read(indices[first][[a, b]]))
    ]
    a, b = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (a, b)), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][number]


def _neighbours(store: PixelStore, indices: np.ndarray) -> np.ndarray:
    """Pairs ``(n, 2)`` of positions in ``indices`` with similar sketches."""
    sketches = np.concatenate([_sketches(store, part) for part in np.array_split(indices, len(indices) // 256 + 1)])
    k = min(NEIGHBOURS + 1, len(indices))
    _, near = cKDTree(sketches).query(sketches, k, distance_upper_bound=SKETCHES)
    pairs = [(a, b) for a, row in enumerate(near) for b in row[row < len(indices)] if a != b]
    return np.unique(np.sort(np.array(pairs, int).reshape(-1, 2), axis=1), axis=0)


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
