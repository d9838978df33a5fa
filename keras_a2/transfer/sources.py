"""Where images come from: packages, Keras's cache or download, or a person's folder."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_a2.downloads import connect_timeout, delete_wrong, keras_home, reason
from keras_a2.errors import UserError
from keras_a2.transfer.decode import EXTENSIONS

# As in keras/src/datasets/cifar100.py.
CIFAR100_ARCHIVE = "cifar-100-python-target_archive"
CIFAR100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass
class Source:
    """Labelled images before anything is read or split.

    ``items`` are paths or uint8 arrays; ``labels`` index ``classes``; ``strata`` (default: the labels) are kept in
    proportion by the split; ``given`` names the split of each item where the data come with one.
    """

    name: str
    classes: list[str]
    items: Sequence[Path | np.ndarray]
    labels: np.ndarray
    item_names: list[str]
    strata: np.ndarray | None = None
    given: np.ndarray | None = None
    augment: str = "crop"
    citation: str = ""
    notes: list[str] = field(default_factory=list)


def find(data: str, elpv_classes: int = 2) -> Source:
    """The images called ``data``: ``elpv``, ``digits``, ``cifar100``, or a folder.

    Raises:
        UserError: unknown, not installed, not to be downloaded, no folder, or fewer than two classes.
    """
    if data == "elpv":
        return elpv(elpv_classes)
    if data == "digits":
        return digits()
    if data == "cifar100":
        return cifar100()
    return folder(Path(data))


def elpv(classes: int = 2) -> Source:
    """Solar cells in electroluminescence, 300x300, from the package ``elpv-dataset`` (CC BY-NC-SA 4.0)."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise UserError(
            "the elpv images are not installed; run: pip install elpv-dataset (or use --data digits or a folder)"
        )
    root = Path(spec.origin).parent / "data"
    rows = np.genfromtxt(root / "labels.csv", dtype=None, encoding="utf-8")
    paths, probability, kind = (np.array([row[i] for row in rows]) for i in range(3))
    fourths = np.searchsorted([0.0, 0.3, 0.6, 0.9], probability, side="right") - 1  # 0, 1/3, 2/3, 1
    names = ["functional", "defective"] if classes == 2 else ["0", "1/3", "2/3", "1"]
    return Source(
        name="elpv" if classes == 2 else "elpv4",
        classes=names,
        items=[root / path for path in paths],
        labels=(probability > 0.5).astype(int) if classes == 2 else fourths,
        item_names=[str(path) for path in paths],
        strata=fourths * 2 + (kind == "mono"),
        augment="flips",
        citation="Buerhop-Lutz et al. 2018 (EU PVSEC); Deitsch et al. 2019 (Solar Energy 185); CC BY-NC-SA 4.0",
        notes=["Cells cut from one solar module may stand in two splits: the data carry no module number."],
    )


def digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return Source(
        name="digits",
        classes=[str(name) for name in bunch.target_names],
        items=list(images),
        labels=bunch.target,
        item_names=[f"digit-{i:04d}" for i in range(len(images))],
        augment="shift",
        citation="Alpaydin & Kaynak 1998 (UCI), through scikit-learn",
    )


def cifar100() -> Source:
    """CIFAR-100's 60,000 photographs, 32x32, from Keras's cache or its download."""
    import keras

    try:
        with connect_timeout():
            (x, y), (x_test, y_test) = keras.datasets.cifar100.load_data()
    except Exception as error:  # urllib, ssl, zlib and Keras each have their own
        wrong = delete_wrong(keras_home() / "datasets" / CIFAR100_ARCHIVE, CIFAR100_SHA256)
        raise UserError(
            f"CIFAR-100 is neither in {keras_home() / 'datasets'} nor could it be downloaded "
            f"({reason(error)}){wrong}; connect once, or use --data elpv, digits or a folder"
        ) from error
    return Source(
        name="cifar100",
        classes=CIFAR100,
        items=np.concatenate([x, x_test]),
        labels=np.concatenate([y, y_test]).ravel(),
        item_names=[f"train-{i:05d}" for i in range(len(x))] + [f"test-{i:05d}" for i in range(len(x_test))],
        given=np.array(["train"] * len(x) + ["test"] * len(x_test)),
        citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    )


def folder(root: Path) -> Source:
    """One folder per class, or ``train/ [validation/ or val/] test/`` above the class folders.

    Raises:
        UserError: no such folder, fewer than two classes, or ``test/`` without ``train/``.
    """
    if not root.is_dir():
        raise UserError(
            f"no such folder or data set: {root}; --data takes elpv, digits, cifar100 or a folder of images"
        )
    splits = {SPLIT_FOLDERS[p.name]: p for p in sorted(root.iterdir()) if p.is_dir() and p.name in SPLIT_FOLDERS}
    if "train" not in splits or len(splits) == 1:
        splits = {"": root}
    elif "test" not in splits:
        raise UserError(f"{root} has train/ but no test/; add it, or put the class folders side by side")
    below = {(split, p.name): images_below(p) for split, part in splits.items() for p in part.iterdir() if p.is_dir()}
    classes = sorted({name for (_, name), files in below.items() if files})
    if len(classes) < 2:
        raise UserError(
            f"{root} has {len(classes)} folder(s) with images; at least two classes are needed, one folder each"
        )
    items, labels, given = [], [], []
    for split in splits:
        for label, name in enumerate(classes):
            found = below.get((split, name), [])
            items += found
            labels += [label] * len(found)
            given += [split] * len(found)
    return Source(
        name=root.resolve().name,
        classes=classes,
        items=items,
        labels=np.array(labels),
        item_names=[str(path.relative_to(root)) for path in items],
        given=None if "" in splits else np.array(given),
    )


def images_below(folder: Path) -> list[Path]:
    """Image files below ``folder``, sorted; links to folders are not followed, so a loop cannot trap the walk."""
    found = []
    for parent, _, names in os.walk(folder, followlinks=False):
        found += [Path(parent, name) for name in names if Path(name).suffix.lower() in EXTENSIONS]
    return sorted(found)


# The fine labels in alphabetical order, as the data set numbers them.
CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split()
