"""Where a classifier looks: class activation maps over pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

WARM = np.array([255, 120, 0], np.float32)
DARKEST, STRONGEST = 0.45, 0.55  # of a picture's brightness where a map is lowest; of the colour where it is highest

Mapper = Callable[[np.ndarray, np.ndarray], np.ndarray]  # pixels and a class of each image -> maps (n, height, width)


def overlay(pictures: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Pictures that are bright and warm where their map is high, and dark where it is low.

    Args:
        pictures: ``(n, height, width, 3)`` uint8.
        maps: ``(n, rows, columns)`` of any size and scale; each is stretched from its lowest to its highest value.

    Returns:
        ``(n, height, width, 3)`` uint8.
    """
    answer = np.empty_like(pictures)
    for out, picture, places in zip(answer, pictures, maps, strict=True):
        share = (places - places.min()) / max(np.ptp(places), 1e-9)
        resized = Image.fromarray(share.astype(np.float32)).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
        heat = np.clip(np.asarray(resized), 0, 1)[..., np.newaxis]
        bright = picture * (DARKEST + (1 - DARKEST) * heat)
        warmth = STRONGEST * heat**2
        out[:] = (1 - warmth) * bright + warmth * WARM
    return answer
