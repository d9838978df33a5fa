"""Images to arrays: decoded once into a store, checked, split, and streamed in batches."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from keras_a2.errors import UserError
from keras_a2.machine import cores
from keras_a2.transfer import duplicates
from keras_a2.transfer.decode import UnreadableImage, decode, encoding, read_bytes
from keras_a2.transfer.sources import Source

MEMORY_LIMIT = 1 * 2**30  # bytes of decoded images kept in memory; more go to a file
MAX_UNREADABLE = 0.05


class PixelStore:
    """Decoded images, ``(n, size, size, 3)`` uint8: in memory when small, else in a temporary file read by row.

    A file is read with ``pread`` rather than mapped, so that resident memory stays that of a few batches.
    """

    def __init__(self, n: int, size: int, folder: Path | None = None, memory_limit: int = MEMORY_LIMIT):
        self.size = size
        self._row = size * size * 3
        self._array = self._file = None
        if n * self._row <= memory_limit:
            self._array = np.zeros((n, size, size, 3), np.uint8)
        else:
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
        if self._array is not None:
            self._array[index] = image
        else:
            os.pwrite(self._file.fileno(), image.tobytes(), index * self._row)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The images at ``indices``, ``(len(indices), size, size, 3)`` uint8."""
        if self._array is not None:
            return self._array[indices]
        rows = [os.pread(self._file.fileno(), self._row, int(i) * self._row) for i in indices]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, self.size, self.size, 3)


@dataclass
class Images:
    """A data set ready for training: readable images in a store, and the index of each split."""

    source: Source
    store: PixelStore
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    sha256: str
    skipped: list[str] = field(default_factory=list)  # 'file: reason'
    duplicates: list[str] = field(default_factory=list)  # left out of train: a held-out image shows the same picture
    held_out_duplicates: list[str] = field(default_factory=list)  # left out of validation or test: likewise
    conflicts: list[str] = field(default_factory=list)  # 'cats/1.jpg = dogs/7.png': one picture, two classes

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def classes(self) -> list[str]:
        return self.source.classes

    @property
    def labels(self) -> np.ndarray:
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
    source: Source,
    size: int,
    *,
    seed: int,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.25,
    train_per_class: int | None = None,
    folder: Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
    on_image=lambda done, total: None,
) -> Images:
    """Decode every image once, leave out what is unreadable, and split.

    Raises:
        UserError: more than 5 % unreadable, a class too small for the split, or an empty split.
    """
    store = PixelStore(len(source.items), size, folder, memory_limit)
    decoded = decode_all(source, store, on_image)
    reasons = decoded.reasons
    skipped = [f"{source.item_names[i]}: {reason}" for i, reason in sorted(reasons.items())]
    if len(skipped) > MAX_UNREADABLE * len(source.items):
        raise UserError(
            f"{len(skipped)} of {len(source.items)} images cannot be read, more than {MAX_UNREADABLE:.0%} "
            f"(first: {skipped[0]}); repair or remove them"
        )
    readable = np.array([i for i in range(len(source.items)) if i not in reasons], int)
    picture = duplicates.pictures(store, readable, decoded.pixels, decoded.encodings)
    distinct = _one_of_each(source, readable, picture)
    train, validation, test = split(source, distinct, seed, validation_fraction, test_fraction)
    # Copies within train do no harm, and may be there to balance the classes.
    train = readable[np.isin(picture, picture[np.isin(readable, train)])]
    copies = np.setdiff1d(readable, np.concatenate([train, validation, test]))
    held_out = np.zeros(len(copies), bool) if source.given is None else source.given[copies] != "train"
    if train_per_class:
        train = few_per_class(train, source.labels, train_per_class, seed)
    digest = "".join(f"{decoded.files[i]}{source.labels[i]}" for i in readable)
    _check_split(source, {"train": train, "validation": validation, "test": test})
    return Images(
        source,
        store,
        train,
        validation,
        test,
        hashlib.sha256(digest.encode()).hexdigest(),
        skipped,
        [source.item_names[i] for i in copies[~held_out]],
        [source.item_names[i] for i in copies[held_out]],
        _conflicts(source, readable, picture),
    )


def _one_of_each(source: Source, readable: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """The first image of each picture, sorted; of a test image and its copies elsewhere the test image."""
    rank = {"test": 0, "validation": 1, "train": 2}
    split_rank = np.zeros(len(readable)) if source.given is None else [rank[name] for name in source.given[readable]]
    order = np.lexsort([readable, split_rank])
    return np.sort(readable[order][np.unique(picture[order], return_index=True)[1]])


def _conflicts(source: Source, readable: np.ndarray, picture: np.ndarray) -> list[str]:
    order = np.argsort(picture, kind="stable")
    shown_by = np.split(readable[order], np.flatnonzero(np.diff(picture[order])) + 1)
    return [
        " = ".join(source.item_names[i] for i in images) for images in shown_by if len(set(source.labels[images])) > 1
    ]


@dataclass
class Decoded:
    """What is known of each image beside its pixels, by index."""

    files: dict[int, str] = field(default_factory=dict)  # hash of the file's content
    pixels: dict[int, str] = field(default_factory=dict)  # hash of the pixels in the store
    encodings: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)  # of the unreadable ones


def decode_all(source: Source, store: PixelStore, on_image) -> Decoded:
    """Fill the store; hashes of each readable image, and the reason for each that is not."""
    decoded = Decoded()

    def one(i: int) -> None:
        item = source.items[i]
        try:
            content = item if isinstance(item, np.ndarray) else read_bytes(item)
            pixels = decode(content, store.size)
            store.write(i, pixels)
            decoded.encodings[i] = encoding(content)
            decoded.pixels[i] = hashlib.sha256(pixels.tobytes()).hexdigest()
            raw = content.tobytes() if isinstance(content, np.ndarray) else content
            decoded.files[i] = hashlib.sha256(raw).hexdigest()
        except UnreadableImage as error:
            decoded.reasons[i] = str(error)

    with ThreadPoolExecutor(cores()) as pool:
        total, waiting = len(source.items), iter(range(len(source.items)))
        done = 0
        while chunk := list(islice(waiting, 256)):  # bounded, so that Ctrl-C and errors come through promptly
            list(pool.map(one, chunk))
            done += len(chunk)
            on_image(done, total)
    return decoded


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
        held = source.given[rest] == "validation"
        train, validation = rest[~held], rest[held]
    else:
        train, validation = _stratified(rest, strata, validation_fraction, seed + 1)
    return train, validation, test


def _stratified(indices: np.ndarray, strata: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    groups = strata[indices]
    held = max(round(fraction * len(indices)), 1)
    names = np.unique(groups)
    if held < len(names):
        # Fewer than one of each: every k-th image, the classes in random order, is from each in proportion to its size.
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(indices))
        order = shuffled[
            np.argsort(rng.permutation(len(names))[np.searchsorted(names, groups[shuffled])], kind="stable")
        ]
        chosen = order[((np.arange(held) + rng.random()) * len(indices) / held).astype(int)]
        return np.sort(np.delete(indices, chosen)), np.sort(indices[chosen])
    try:
        first, second = train_test_split(indices, test_size=held, stratify=groups, random_state=seed)
    except ValueError as error:
        raise UserError(f"the images cannot be split: {error}; add images to the small classes") from error
    return np.sort(first), np.sort(second)


def _check_classes(source: Source, readable: np.ndarray) -> None:
    counts = Counter(source.labels[readable].tolist())
    for label, name in enumerate(source.classes):
        if counts[label] < 4:
            raise UserError(
                f"class {name!r} has {counts[label]} distinct readable image(s); train, validation and test together "
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


def batches(store: PixelStore, indices: np.ndarray, labels: np.ndarray, batch_size: int, drop_remainder=False):
    """A ``tf.data.Dataset`` of ``(images uint8, labels int32)`` in the order of ``indices``, read ahead."""
    import tensorflow as tf

    def read(i):
        images = tf.numpy_function(store.read, [i], tf.uint8)
        images.set_shape((None, store.size, store.size, 3))
        return images

    dataset = tf.data.Dataset.from_tensor_slices((indices.astype(np.int64), labels[indices].astype(np.int32)))
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread may sleep on at the end, and an epoch waits for it
    return dataset.map(lambda i, y: (read(i), y), num_parallel_calls=2).prefetch(2).with_options(options)
