"""A published classifier in use: paths or arrays in, classes out, streaming."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2 import deployment
from keras_a2.errors import UserError, printable
from keras_a2.fast import litert
from keras_a2.machine import cores
from keras_a2.saved_model import SavedModel
from keras_a2.transfer.calibrate import answer_sets
from keras_a2.transfer.decode import EXTENSIONS, UnreadableImage, decode, read_bytes
from keras_a2.transfer.familiar import FILE, Familiarity
from keras_a2.transfer.maps import overlay
from keras_a2.transfer.walk import LeftOut, images_below

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
    answer_set: tuple[str, ...] | None = None  # of a model that was published with a threshold
    unfamiliar: bool | None = None  # likewise
    mapped: np.ndarray | None = None  # where it looks, see ``Classifier.mapped``


class Classifier(SavedModel):
    """A published image classifier: ``classes``, ``version``, ``image_size`` and ``predict``."""

    @property
    def classes(self) -> list[str]:
        """Their names, in the order of the probabilities."""
        return self.card["classes"]

    @property
    def image_size(self) -> int:
        """Pixels of the square that images are resized to."""
        return self.card["image_size"]

    @property
    def fit(self) -> str:
        """How an image becomes a square, see ``decode.decode``."""
        return self.card.get("fit") or "squash"

    def predict(
        self, images: np.ndarray | str | Path | Sequence[str | Path], sets: bool = False
    ) -> np.ndarray | pd.DataFrame:
        """Class probabilities of an array of images, or a table for files and folders.

        Args:
            images: uint8 ``(batch, height, width, 3)`` or ``(height, width, 3)``; or paths of images or folders.
            sets: give the set of classes that holds the true one with the promised probability (``--coverage``).

        Returns:
            ``(batch, classes)`` for arrays: probabilities, or for sets which classes are in them, bool. For paths a
            table with file, class, probability and error, and with ``sets`` the set, its classes separated by ``|``.

        Raises:
            UserError: another type or shape; no such path; or sets of a model that was published without them.
        """
        if sets:
            self.check_sets()
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3 or not images.size:
                raise UserError(
                    f"images must be uint8 (batch, height, width, 3), not {images.dtype} {images.shape}; "
                    "pixels run from 0 to 255"
                )
            probability = self.serve(images[np.newaxis] if images.ndim == 3 else images)
            return answer_sets(probability, self.card["set_threshold"]) if sets else probability
        return table(self.stream(find_images(images)), sets=sets)

    def check_sets(self) -> None:
        """Raise ``UserError`` where the model has no sets of classes."""
        if self.card.get("set_threshold") is None:
            raise UserError(f"{self.folder} was published without answer sets; publish it again with this version")

    def stream(self, files: Sequence[Path], top: int = 1, maps: bool = False) -> Iterator[Prediction]:
        """Predictions in the order of ``files``; the next batch is decoded while the model works on this one.

        Args:
            maps: give each picture with its map too.

        Raises:
            UserError: of many files, for which the model is converted to LiteRT: its answers to the first are others.
        """
        answer: litert.Function | None = None
        for paths, decoded in self.decode_all(files):
            readable = [image for image in decoded if not isinstance(image, str)]
            rows: Iterator[tuple] = iter(())
            if readable:
                pixels = np.stack(readable)
                answer = answer or (self._converted(pixels) if len(files) >= MANY else self._described)
                rows = zip(answer(pixels), self.mapped(pixels) if maps else [None] * len(pixels), strict=True)
            for path, image in zip(paths, decoded, strict=True):
                if isinstance(image, str):
                    yield Prediction(str(path), error=image)
                else:
                    yield self._prediction(str(path), top, *next(rows))

    def _prediction(self, file: str, top: int, answer: np.ndarray, mapped: np.ndarray | None) -> Prediction:
        """Of one image, whose probabilities and description stand side by side in ``answer``."""
        probability, description = np.split(answer, [len(self.classes)])
        best, members, unfamiliar = np.argsort(-probability)[:top], None, None
        if (threshold := self.card.get("set_threshold")) is not None:
            inside = np.flatnonzero(answer_sets(probability[np.newaxis], threshold)[0])
            members = self._names(inside[np.argsort(-probability[inside])])
        if self.familiarity is not None:
            score = self.familiarity.unfamiliarity(description[np.newaxis], probability[np.newaxis])[0]
            unfamiliar = bool(score > self.card["unfamiliar_threshold"])
        return Prediction(file, self._names(best), tuple(probability[best].tolist()), "", members, unfamiliar, mapped)

    def _names(self, classes: np.ndarray) -> tuple[str, ...]:
        return tuple(self.classes[i] for i in classes)

    @cached_property
    def familiarity(self) -> Familiarity | None:
        """The score of unfamiliar images; None of a model that was published without one."""
        path = self.folder / FILE
        if self.card.get("unfamiliar_threshold") is None or not path.exists():
            return None
        return Familiarity.load(path)

    def _described(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, and where the score needs it the description, side by side."""
        if self.familiarity is None:
            return self.serve(images)
        answers = self.loaded.describe(images)
        return np.concatenate([answers["probabilities"], answers["description"]], axis=1)

    def mapped(self, images: np.ndarray) -> np.ndarray:
        """Pictures that are bright and warm where they speak for their most probable class (class activation maps).

        Args:
            images: uint8 ``(batch, height, width, 3)``, of which each place is mapped at the model's own resolution.

        Returns:
            uint8, of the same shape.

        Raises:
            UserError: a model of an earlier version.
        """
        self.check_maps()
        described = self.loaded.describe(images)
        likeliest = np.argmax(described["probabilities"], axis=1)
        return overlay(images, np.asarray(described["maps"])[np.arange(len(images)), :, :, likeliest])

    def check_maps(self) -> None:
        """Raise ``UserError`` where the model has no features and maps."""
        if not self.describes:
            raise UserError(f"{self.folder} was published without features and maps; publish it again")

    @property
    def describes(self) -> bool:
        """Whether it has features and maps: a model of an earlier version has none."""
        return hasattr(self.loaded, "describe")

    def embed(self, paths: str | Path | Sequence[str | Path]) -> np.ndarray:
        """The pooled features ``(images, features)``, for search and clustering, in the order of the files.

        Raises:
            UserError: no images, no such path, an unreadable image, or a model of an earlier version.
        """
        self.check_maps()
        if not (images := find_images(paths)):
            raise UserError("no images given; give paths of images or folders")
        features = []
        for files, decoded in self.decode_all(images):
            pixels = []
            for file, image in zip(files, decoded, strict=True):
                if isinstance(image, str):
                    raise UserError(f"{file} cannot be read ({image}); leave it out")
                pixels.append(image)
            features.append(np.asarray(self.loaded.describe(np.stack(pixels))["features"]))
        return np.concatenate(features)

    def _converted(self, images: np.ndarray) -> litert.Function:
        """``serve`` through LiteRT, asserted on these images. Without ``model.keras``, itself."""
        if not (self.folder / "model.keras").exists():
            return self._described
        from keras_a2.transfer.describe import in_one

        model = deployment.deployable(self.folder)
        fast = litert.Parallel(model if self.familiarity is None else in_one(model), images.shape[1:])
        if not np.abs(fast(images)[:, : len(self.classes)] - self.serve(images)).max() <= TOLERANCE:
            raise UserError(
                f"{self.folder}: model.keras and the SavedModel differ by more than {TOLERANCE}; "
                "were they published together? Copy the whole folder again"
            )
        return fast

    def decode_all(self, files: Sequence[Path]) -> Iterator[tuple[Sequence[Path], list[np.ndarray | str]]]:
        """Batches of files, and of each its pixels at the model's size or the reason why not; one is decoded ahead."""
        with ThreadPoolExecutor(cores()) as pool:
            paths, decoded = files[:BATCH], pool.map(self._decode, files[:BATCH])
            for start in range(BATCH, len(files) + BATCH, BATCH):
                ahead = files[start : start + BATCH]
                following = pool.map(self._decode, ahead)
                yield paths, list(decoded)
                paths, decoded = ahead, following

    def deployed_inputs(self, items: Sequence[Path], limit: int, _time: str | None = None) -> np.ndarray:
        """Up to ``limit`` readable images at the model's size ``(n, size, size, 3)``."""
        decoded = (self._decode(path) for path in find_images(items))
        images = list(islice((image for image in decoded if not isinstance(image, str)), limit))
        if not images:
            raise UserError("none of the items is a readable image to measure the exported model on")
        return np.stack(images)

    def _decode(self, path: Path) -> np.ndarray | str:
        try:
            return decode(read_bytes(path), self.image_size, self.fit)
        except UnreadableImage as error:
            return str(error)


def table(predictions: Iterable[Prediction], top: int = 1, sets: bool = False) -> pd.DataFrame:
    """A row per file: file, class and probability (of each rank, where there are several), set if asked for, error.

    Undecodable bytes in names, which no column of text can hold, are spelt out.
    """
    names = ["class", "probability"]
    if top > 1:
        names = [f"{name}_{rank}" for rank in range(1, top + 1) for name in names]
    rows: list[dict] = []
    for p in predictions:
        ranked = [cell for pair in zip(map(printable, p.classes), p.probabilities, strict=True) for cell in pair]
        rows.append({"file": printable(p.file), "error": p.error} | dict(zip(names, ranked, strict=False)))
        if sets:
            rows[-1]["set"] = "|".join(map(printable, p.answer_set or ()))
        if p.unfamiliar is not None:
            rows[-1]["unfamiliar"] = p.unfamiliar
    judged = any("unfamiliar" in row for row in rows)
    return pd.DataFrame(rows, columns=["file", *names, *["set"] * sets, *["unfamiliar"] * judged, "error"])


def find_images(paths: str | Path | Sequence[str | Path], left_out: LeftOut | None = None) -> list[Path]:
    """The file or files named, and every image below the folders named, sorted within each.

    Args:
        left_out: counts the other files.

    Raises:
        UserError: no paths, a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    left_out = left_out or LeftOut()
    try:
        named = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    except TypeError as error:  # bytes, None, a list of arrays
        raise UserError(f"images must be paths, or one uint8 array; {error}") from error
    for path in named:
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
