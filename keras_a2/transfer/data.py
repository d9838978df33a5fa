"""Images to arrays: decoded once into a store, checked, split, and streamed in batches, augmented or not."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.progress import track

from keras_a2.console import console
from keras_a2.errors import UserError, printable
from keras_a2.machine import cores
from keras_a2.transfer import duplicates
from keras_a2.transfer.decode import UnreadableImage, decode, encoding, read_bytes
from keras_a2.transfer.sources import Options, Source

if TYPE_CHECKING:
    import tensorflow as tf

MEMORY_LIMIT = 1 * 2**30  # bytes of decoded images kept in memory; more go to a file
MAX_UNREADABLE = 0.05
COMPUTED_BATCH = 64
# Columns of the audit's table: the kind, the image, another one that is nearly equal, the class suggested instead.
SUSPECT = ("kind", "image", "other", "suggested", "score")


class PixelStore:
    """Decoded images, ``(n, size, size, 3)`` uint8: in memory when small, else in a temporary file read by row.

    A file is read with ``pread`` rather than mapped, so that resident memory stays that of a few batches.
    """

    def __init__(self, n: int, size: int, folder: Path | None = None, memory_limit: int = MEMORY_LIMIT):
        self.size = size
        self._row = size * size * 3
        fits = n * self._row <= memory_limit
        self._array = np.zeros((n if fits else 0, size, size, 3), np.uint8)
        self._file = None
        if not fits:
            # Nameless: gone with the process, however that ends.
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._file.fileno(), 0, n * self._row)
                else:  # macOS: a disk that is too small is noticed when it is full
                    os.ftruncate(self._file.fileno(), n * self._row)
            except OSError as error:
                raise UserError(
                    f"{n} images at {size} px need {n * self._row / 2**30:.1f} GB of disk in {folder} "
                    f"({error.strerror}); make room, or lower --image-size"
                ) from error

    def write(self, index: int, image: np.ndarray) -> None:
        """Store the image ``(size, size, 3)`` uint8."""
        if self._file is None:
            self._array[index] = image
        else:
            os.pwrite(self._file.fileno(), image.tobytes(), index * self._row)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The images at ``indices``, ``(len(indices), size, size, 3)`` uint8."""
        if self._file is None:
            return self._array[indices]
        rows = [os.pread(self._file.fileno(), self._row, int(i) * self._row) for i in indices]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, self.size, self.size, 3)

    def compute(self, function: Callable[[np.ndarray], np.ndarray], indices: np.ndarray) -> np.ndarray:
        """``function`` of the images at ``indices``, one batch at a time: ``(len(indices), ...)``."""
        batches = np.array_split(indices, -(-len(indices) // COMPUTED_BATCH))
        return np.concatenate([function(self.read(batch)) for batch in batches])


@dataclass
class Images:
    """A data set ready for training: readable images in a store, and the index of each split."""

    source: Source
    store: PixelStore
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    sha256: str
    shares: np.ndarray | None = None  # of the classes in the training split, where it was thinned afterwards
    skipped: list[str] = field(default_factory=list)  # 'file: reason'
    duplicates: list[str] = field(default_factory=list)  # left out of train: a held-out image shows the same picture
    held_out_duplicates: list[str] = field(default_factory=list)  # left out of validation or test: likewise
    conflicts: list[str] = field(default_factory=list)  # 'cats/1.jpg = dogs/7.png': one picture, two classes
    suspects: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SUSPECT))  # see ``audit.examine``

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.source.name

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self.source.classes

    @property
    def labels(self) -> np.ndarray:
        """Class of each image of the source, readable or not."""
        return self.source.labels

    def summary(self) -> dict:
        """What ``metrics.json`` and the report say about the data."""
        return {
            "name": self.name,
            "classes": self.classes,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "sha256": self.sha256,
            "citation": self.source.citation,
            "notes": self.source.notes,
            "left_out": self.source.left_out,
            "skipped": self.skipped,
            "duplicates_removed_from_train": self.duplicates,
            "duplicates_removed_from_validation_and_test": self.held_out_duplicates,
            "label_conflicts": self.conflicts,
        }


def load(
    source: Source, options: Options, seed: int, folder: Path | None = None, memory_limit: int = MEMORY_LIMIT
) -> Images:
    """Decode every image once, leave out what is unreadable, and split.

    Args:
        folder: of the file that holds the decoded images, where they are larger than ``memory_limit`` bytes.

    Raises:
        UserError: more than 5 % unreadable, a class too small for the split, or an empty split.
    """
    store = PixelStore(len(source.items), options.image_size, folder, memory_limit)
    decoded = dict(enumerate(decode_all(source, store, options.fit)))
    facts = {i: answer for i, answer in decoded.items() if isinstance(answer, Facts)}
    skipped = [f"{source.item_names[i]}: {reason}" for i, reason in decoded.items() if i not in facts]
    if len(skipped) > MAX_UNREADABLE * len(source.items):
        raise UserError(
            f"{len(skipped)} of {len(source.items)} images cannot be read, more than {MAX_UNREADABLE:.0%} "
            f"(first: {skipped[0]}); repair or remove them"
        )
    readable = np.array(list(facts), int)
    picture = duplicates.pictures(store, readable, list(facts.values()))
    distinct = _one_of_each(source, readable, picture)
    train, validation, test = split(source, distinct, seed, options.validation_fraction, options.test_fraction)
    # Copies within train do no harm, and may be there to balance the classes.
    train = readable[np.isin(picture, picture[np.isin(readable, train)])]
    copies = np.setdiff1d(readable, np.concatenate([train, validation, test]))
    held_out = np.zeros(len(copies), bool) if source.given is None else source.given[copies] != "train"
    _check_split(source, {"train": train, "validation": validation, "test": test})
    shares = None
    if options.train_per_class:
        shares = class_shares(source.labels[train], len(source.classes))
        train = few_per_class(train, source.labels, options.train_per_class, seed)
    digest = "".join(f"{image.file}{source.labels[i]}" for i, image in facts.items())
    names = np.array(source.item_names, object)
    shown = pd.DataFrame({"name": names[readable], "label": source.labels[readable]}).groupby(picture)
    return Images(
        source,
        store,
        train,
        validation,
        test,
        sha256=_sha256(digest.encode()),
        shares=shares,
        skipped=skipped,
        duplicates=names[copies[~held_out]].tolist(),
        held_out_duplicates=names[copies[held_out]].tolist(),
        conflicts=[" = ".join(images["name"]) for _, images in shown if images["label"].nunique() > 1],
    )


def load_and_describe(source: Source, options: Options, seed: int, folder: Path) -> Images:
    """``load``; then print what there is and what was left out."""
    images = load(source, options, seed, folder)
    console.print(
        f"{images.name}: {len(images.classes)} classes; {len(images.train)} images to train on, "
        f"{len(images.validation)} for validation, {len(images.test)} for the test"
    )
    copies = len(images.duplicates) + len(images.held_out_duplicates)
    absent = len(images.classes) - len(np.unique(images.labels[images.test]))
    if source.left_out:
        note(f"left out: {source.left_out}")
    if images.skipped:
        note(f"{len(images.skipped)} unreadable file(s) skipped (first: {images.skipped[0]}); the report names them")
    if copies:
        note(f"{copies} image(s) removed: copies of a validation or test image; the report names them")
    if images.conflicts:
        note(f"{len(images.conflicts)} picture(s) in two classes (first: {images.conflicts[0]}); the report names them")
    if absent:
        note(f"{absent} of {len(images.classes)} classes have no test image; balanced accuracy and F1 leave them out")
    return images


def note(line: str) -> None:
    """Print a line that a person should know of."""
    console.print(f"note: {line}")


def _one_of_each(source: Source, readable: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The first image of each picture, sorted; of a test image and its copies elsewhere the test image."""
    rank = {"test": 0, "validation": 1, "train": 2}
    split_rank = np.array([0 if source.given is None else rank[source.given[i]] for i in readable])
    order = np.lexsort([readable, split_rank])
    return np.sort(readable[order][np.unique(picture[order], return_index=True)[1]])


class Facts(NamedTuple):
    """What is known of a readable image beside its pixels."""

    file: str  # hash of the file's content
    pixels: str  # hash of the pixels in the store
    encoding: int  # see ``decode.encoding``


def decode_all(source: Source, store: PixelStore, fit: str = "squash") -> list[Facts | str]:
    """Decode every image of the source into the store, with a progress bar.

    Args:
        fit: how an image becomes a square, see ``decode.decode``.

    Returns:
        The facts of each image, or the reason why it cannot be read.
    """
    items = range(len(source.items))
    answers: list[Facts | str] = []

    def one(i: int) -> Facts | str:
        item = source.items[i]
        try:
            content = item if isinstance(item, np.ndarray) else read_bytes(item)
            pixels = decode(content, store.size, fit)
            store.write(i, pixels)
            raw = content.tobytes() if isinstance(content, np.ndarray) else content
            return Facts(_sha256(raw), _sha256(pixels.tobytes()), encoding(content))
        except UnreadableImage as error:
            return str(error)

    chunks = [items[start : start + 256] for start in items[::256]]  # so that Ctrl-C and errors come through promptly
    with ThreadPoolExecutor(cores()) as pool:
        for chunk in track(chunks, escape(printable(f"reading {source.name}")), console=console, transient=True):
            answers += pool.map(one, chunk)
    return answers


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def split(
    source: Source, readable: np.ndarray, seed: int, validation_fraction: float, test_fraction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of train, validation and test: as the data give them, the rest stratified and seeded."""
    strata = source.labels if source.strata is None else source.strata
    if source.given is None:
        _check_classes(source, readable)
        rest, test = _stratified(readable, strata, test_fraction, seed)
    else:
        given = source.given[readable]
        rest, test = readable[given != "test"], readable[given == "test"]
    if source.given is not None and "validation" in source.given:
        validates = source.given[rest] == "validation"
        train, validation = rest[~validates], rest[validates]
    else:
        train, validation = _stratified(rest, strata, validation_fraction, seed + 1)
    return train, validation, test


def _stratified(indices: np.ndarray, strata: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    groups = strata[indices]
    n = max(round(fraction * len(indices)), 1)
    names = np.unique(groups)
    if n < len(names):
        # Fewer than one of each: every k-th image, the classes in random order, is from each in proportion to its size.
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(indices))
        order = shuffled[
            np.argsort(rng.permutation(len(names))[np.searchsorted(names, groups[shuffled])], kind="stable")
        ]
        chosen = order[((np.arange(n) + rng.random()) * len(indices) / n).astype(int)]
        return np.sort(np.delete(indices, chosen)), np.sort(indices[chosen])
    try:
        first, second = train_test_split(indices, test_size=n, stratify=groups, random_state=seed)
    except ValueError as error:
        raise UserError(f"the images cannot be split: {error}; add images to the small classes") from error
    return np.sort(first), np.sort(second)


def _check_classes(source: Source, readable: np.ndarray) -> None:
    counts = np.bincount(source.labels[readable], minlength=len(source.classes))
    for name, count in zip(source.classes, counts, strict=True):
        if count < 4:
            raise UserError(
                f"class {name!r} has {count} distinct readable image(s); train, validation and test together "
                "need at least 4: add images or remove the class"
            )


def _check_split(source: Source, splits: dict[str, np.ndarray]) -> None:
    for name, indices in splits.items():
        if len(indices) == 0:
            raise UserError(f"the {name} split of {source.name} is empty; add images to it")
    present = set(source.labels[splits["train"]].tolist())
    missing = [name for label, name in enumerate(source.classes) if label not in present]
    if missing:
        raise UserError(f"class {missing[0]!r} has no image left to train on; add images or remove the class")


def few_per_class(train: np.ndarray, labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """At most ``n`` training indices of each class."""
    order = np.random.default_rng([seed, 2]).permutation(train)
    return np.sort(np.concatenate([order[labels[order] == label][:n] for label in np.unique(labels[train])]))


def class_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class among the labels ``(classes,)``."""
    return np.bincount(labels, minlength=classes) / len(labels)


@dataclass(frozen=True)
class Augmentation:
    """Range of the crop's area and aspect ratio, and which flips keep an image's meaning."""

    area: tuple[float, float] = (1.0, 1.0)
    aspect: float = 1.0
    flip_x: bool = False
    flip_y: bool = False


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(area=(0.8, 1.0)),  # writing and scans: a flip changes the class
    "crop": Augmentation(area=(0.35, 1.0), aspect=4 / 3, flip_x=True),  # photographs
    "wide_crop": Augmentation(area=(0.25, 1.0), aspect=4 / 3, flip_x=True),  # pretraining: many images, small objects
    "flips": Augmentation(flip_x=True, flip_y=True),  # microscopes, cells, satellites: no up or down
}


def boxes(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` boxes ``(y1, x1, y2, x2)`` in units of the image's side, float32 ``(n, 4)``; reversed ends flip."""
    allowed = AUGMENTATIONS[kind]
    area = rng.uniform(*allowed.area, n)
    ratio = np.exp(rng.uniform(-np.log(allowed.aspect), np.log(allowed.aspect), n))
    height = np.minimum(np.sqrt(area / ratio), 1)
    width = np.minimum(np.sqrt(area * ratio), 1)
    y, x = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    ends = [y, x, y + height, x + width]
    if allowed.flip_x:
        flip = rng.random(n) < 0.5
        ends[1], ends[3] = np.where(flip, ends[3], ends[1]), np.where(flip, ends[1], ends[3])
    if allowed.flip_y:
        flip = rng.random(n) < 0.5
        ends[0], ends[2] = np.where(flip, ends[2], ends[0]), np.where(flip, ends[0], ends[2])
    return np.stack(ends, axis=1).astype(np.float32)


def crop(images: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
    """Cut each image ``(batch, height, width, 3)`` at its box and resize it: float32 ``(batch, size, size, 3)``."""
    import tensorflow as tf

    images = tf.cast(images, tf.float32)
    return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), [size, size])


def batches(
    images: Images, indices: np.ndarray, batch_size: int, crops: np.ndarray | None = None, whole: bool = False
) -> tf.data.Dataset:
    """A ``tf.data.Dataset`` of pixels float32 ``(batch, size, size, 3)`` and labels int32, read ahead.

    Args:
        indices: images in the order in which they come.
        crops: the part of each that is shown, see ``boxes``; None shows all of it.
        whole: leave out a last batch that is smaller.
    """
    import tensorflow as tf

    size = images.store.size

    def read(i: tf.Tensor, label: tf.Tensor, box: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.numpy_function(images.store.read, [i], tf.uint8)
        pixels.set_shape((None, size, size, 3))
        return tf.cast(pixels, tf.float32) if box is None else crop(pixels, box, size), label

    parts = [indices.astype(np.int64), images.labels[indices].astype(np.int32)]
    dataset = tf.data.Dataset.from_tensor_slices(tuple(parts if crops is None else [*parts, crops]))
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread may sleep on at the end, and an epoch waits for it
    batched = dataset.batch(batch_size, drop_remainder=whole).map(read, num_parallel_calls=2)
    return batched.prefetch(2).with_options(options)


def draw(images: Images, per_class: float, seed: int) -> np.ndarray:
    """Indices of ``per_class`` training images per class on average, in the proportions of the training split.

    Of one seed the smaller draws are part of the larger; every class is in each.
    """
    order = np.random.default_rng([seed, 7]).permutation(images.train)
    first = np.unique(images.labels[order], return_index=True)[1]
    order = np.concatenate([order[first], np.delete(order, first)])
    return np.sort(order[: max(round(per_class * len(images.classes)), len(first))])


def with_few(images: Images, per_class: float, seed: int) -> Images:
    """The images, with ``draw`` of them to train on."""
    return replace(images, train=draw(images, per_class, seed))
