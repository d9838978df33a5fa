"""A published classifier in use: paths or arrays in, classes out, streaming."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2 import deployment
from keras_a2.errors import UserError
from keras_a2.fast import litert
from keras_a2.machine import cores
from keras_a2.saved_model import SavedModel
from keras_a2.transfer.decode import EXTENSIONS, UnreadableImage, decode, read_bytes
from keras_a2.transfer.sources import LeftOut, images_below

BATCH = 32
MANY = 2000  # files from which converting the model to LiteRT, a few seconds, pays
TOLERANCE = 1e-3  # between the probabilities of the SavedModel and of LiteRT


@dataclass(frozen=True)
class Prediction:
    """One image's classes, most probable first; or why it could not be read."""

    file: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


class Classifier:
    """A published image classifier: ``classes``, ``version``, ``image_size`` and ``predict``."""

    def __init__(self, saved: SavedModel):
        self.saved = saved
        self.card = saved.card
        self.version = saved.version
        self.classes: list[str] = self.card["classes"]
        self.image_size: int = self.card["image_size"]

    def predict(self, images: np.ndarray | str | Path | Sequence[str | Path]) -> np.ndarray | pd.DataFrame:
        """Class probabilities of an array of images, or a table for files and folders.

        Args:
            images: uint8 ``(batch, height, width, 3)`` or ``(height, width, 3)``; or paths of images or folders.

        Returns:
            ``(batch, classes)`` for arrays; for paths a table with file, class, probability and error.
        """
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
                raise UserError(
                    f"images must be uint8 (batch, height, width, 3), not {images.dtype} {images.shape}; "
                    "pixels run from 0 to 255"
                )
            return self.saved(images[np.newaxis] if images.ndim == 3 else images)
        paths = [images] if isinstance(images, str | Path) else list(images)
        rows = [
            {
                "file": p.file,
                "class": p.classes[0] if p.classes else None,
                "probability": p.probabilities[0] if p.classes else None,
                "error": p.error,
            }
            for p in self.stream(find_images(paths))
        ]
        return pd.DataFrame(rows, columns=["file", "class", "probability", "error"])

    def stream(self, files: Sequence[Path], top: int = 1) -> Iterator[Prediction]:
        """Predictions in the order of ``files``; the next batch is decoded while the model works on this one.

        Raises:
            UserError: of many files, for which the model is converted to LiteRT: its answers to the first are others.
        """
        answer = self._converted() if len(files) >= MANY else self.saved
        decoded = self.decode_all(files)
        while batch := list(islice(decoded, BATCH)):
            yield from self._predict_decoded(batch, top, answer)

    def _converted(self) -> Callable[[np.ndarray], np.ndarray]:
        """The SavedModel's function through LiteRT; asserted on the first batch. Without ``model.keras``, itself."""
        if not (self.saved.folder / "model.keras").exists():
            return self.saved
        fast = litert.Parallel(deployment.deployable(self.saved.folder), (self.image_size, self.image_size, 3))
        asserted = False

        def answer(images: np.ndarray) -> np.ndarray:
            nonlocal asserted
            answers = fast(images)
            if not asserted and not np.abs(answers - self.saved(images)).max() <= TOLERANCE:
                raise UserError(
                    f"{self.saved.folder}: model.keras and the SavedModel differ by more than {TOLERANCE}; "
                    "were they published together? Copy the whole folder again"
                )
            asserted = True
            return answers

        return answer

    def decode_all(self, files: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | str]]:
        """Each file with its pixels at the model's size, or the reason why not; a few are decoded ahead."""
        waiting = iter(files)
        with ThreadPoolExecutor(cores()) as pool:
            ahead = deque((path, pool.submit(self._decode, path)) for path in islice(waiting, 2 * BATCH))
            while ahead:
                path, future = ahead.popleft()
                ahead.extend((path, pool.submit(self._decode, path)) for path in islice(waiting, 1))
                yield path, future.result()

    def deployed_inputs(self, items: Sequence[Path], limit: int, _time: str | None = None) -> np.ndarray:
        """Up to ``limit`` readable images at the model's size ``(n, size, size, 3)``."""
        decoded = (self._decode(path) for path in find_images(items))
        images = list(islice((image for image in decoded if not isinstance(image, str)), limit))
        if not images:
            raise UserError("none of the items is a readable image to measure the exported model on")
        return np.stack(images)

    def _decode(self, path: Path) -> np.ndarray | str:
        try:
            return decode(read_bytes(path), self.image_size)
        except UnreadableImage as error:
            return str(error)

    def _predict_decoded(self, decoded: list[tuple[Path, np.ndarray | str]], top: int, answer) -> Iterator[Prediction]:
        images = [image for _, image in decoded if not isinstance(image, str)]
        answers = iter(answer(np.stack(images)) if images else [])
        for path, image in decoded:
            if isinstance(image, str):
                yield Prediction(str(path), error=image)
                continue
            probability = next(answers)
            best = np.argsort(-probability)[:top]
            yield Prediction(
                str(path), tuple(self.classes[i] for i in best), tuple(float(probability[i]) for i in best)
            )


def find_images(paths: Sequence[str | Path], left_out: LeftOut | None = None) -> list[Path]:
    """The files named, and every image below the folders named, sorted within each.

    Args:
        left_out: counts the other files.

    Raises:
        UserError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    left_out = left_out or LeftOut()
    for path in map(Path, paths):
        if path.is_dir():
            inside = images_below(path, left_out)
            if not inside:
                raise UserError(f"{path} holds no image ({', '.join(sorted(EXTENSIONS))})")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"no such file or folder: {path}")
    return files
