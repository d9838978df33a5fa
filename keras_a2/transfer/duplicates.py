"""Which images show one picture: the same pixels, whatever the format, or the same picture compressed another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from keras_a2.transfer.data import Facts, PixelStore

THUMBNAIL, SKETCH = 32, 16
NEIGHBOURS = 16
# Root mean square differences of two thumbnails, in standard deviations of the picture. Photographs compressed as JPEG
# of quality 50 differ from the original by up to 0.035 in brightness, the two most alike of 2,624 solar cells by 0.065.
BRIGHTNESS, COLOUR = 0.05, 0.1
SKETCHES = 0.1  # the coarse search admits twice as much
# Correlation of two sketches from which two pictures may be nearly equal, and how much nearer each other than their
# neighbours they must then be: among solar cells many are as alike as two copies of a photograph.
CORRELATION, NEARER, OTHERS = 0.95, 0.03, 5
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
    distance, neighbour = _neighbours(store, indices[first])
    pairs = [
        (a, b)
        for a, b in ((a, neighbour[a, column]) for a, column in np.argwhere(distance < SKETCHES**2))
        if encodings[a] != encodings[b] and _same(store.read(indices[first][[a, b]]))
    ]
    a, b = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (a, b)), shape=(len(first), len(first)))
    return connected_components(graph, directed=False)[1][number]


def near(store: PixelStore, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of nearly equal pictures: copies that were resized, compressed or edited a little.

    Two pictures are nearly equal where they are far nearer each other than their other neighbours are (the ratio test
    of Lowe 2004, IJCV 60, section 7.1).

    Returns:
        Positions in ``indices`` ``(n, 2)``, the first the lower, and the correlation of brightness ``(n,)``.
    """
    distance, neighbour = _neighbours(store, indices)
    limit = np.minimum(NEARER * distance[:, [min(OTHERS, distance.shape[1]) - 1]], 2 * (1 - CORRELATION))
    first, column = np.nonzero(distance < limit)
    pairs = np.sort(np.stack([first, neighbour[first, column]], axis=1), axis=1)
    pairs, index = np.unique(pairs, axis=0, return_index=True)
    return pairs, 1 - distance[first, column][index] / 2


def _neighbours(store: PixelStore, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of the sketches nearest to each image's, the nearest first, and their positions."""
    k = min(NEIGHBOURS, len(indices) - 1)
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean")
    return search.fit(store.compute(_sketches, indices)).kneighbors()


def _sketches(images: np.ndarray) -> np.ndarray:
    """Brightness of 16 x 16 fields of each image ``(n, size, size, 3)``, centred and of length one: ``(n, 256)``."""
    fields = np.array([_reduced(image, SKETCH) @ LUMA for image in images]).reshape(len(images), -1)
    fields -= fields.mean(axis=1, keepdims=True)
    return fields / np.maximum(np.linalg.norm(fields, axis=1, keepdims=True), 0.5 * SKETCH)


def _same(two: np.ndarray) -> bool:
    colours = np.array([_reduced(image, THUMBNAIL) for image in two])
    return all(
        np.sqrt(np.mean((a - b) ** 2)) <= limit * min(a.std(), b.std())
        for (a, b), limit in (((colours @ LUMA), BRIGHTNESS), (colours, COLOUR))
    )


def _reduced(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX), np.float32)
