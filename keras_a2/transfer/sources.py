"""Where images come from: packages, Keras's cache or download, a person's folder, or a table of labels."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from keras_a2.errors import UserError
from keras_a2.files import download, keras_cache
from keras_a2.machine import silence
from keras_a2.settings import Count, Fraction, Range
from keras_a2.transfer.decode import EXTENSIONS
from keras_a2.transfer.walk import LeftOut, images_below

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Options:
    """The images and their splits."""

    data: str = "elpv"
    """elpv, elpv4, digits, cifar100, flowers, cats_vs_dogs; a folder with a folder per class; or a labels.csv."""
    image_size: Annotated[int, Range(32, 1024)] = 128
    """Side in pixels of the square that images are resized to; larger is better and slower."""
    train_per_class: Count | None = None
    """Use at most N training images per class."""
    test_fraction: Fraction = 0.25
    """Share of the images for the final test, if the data have no test split."""
    validation_fraction: Fraction = 0.15
    """Share of the training images on which every choice is made, if the data have no validation split."""
    fit: Literal["squash", "pad", "crop"] = "squash"
    """How an image becomes a square: squashed, padded with grey, or cropped to its middle."""
    drop_suspects: bool = False
    """Train without the images that the audit suspects; it always lists them in the report and in audit.csv."""


OFFLINE = "; connect once, or use --data elpv, digits or a folder"
# As in keras/src/datasets/cifar100.py.
CIFAR100_ARCHIVE = "cifar-100-python-target_archive"
CIFAR100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"


@dataclass(frozen=True)
class Archive:
    """Photographs that Keras downloads: the archive in its cache, and the folder with the images inside."""

    file: str
    url: str
    sha256: str  # empty where none is published: the number of images tells a whole archive
    folder: str
    images: int
    citation: str
    splits: dict[str, str] = field(default_factory=dict)  # split -> its folder, where they are not called so


ARCHIVES = {
    "flowers": Archive(
        "flower_photos.tgz",
        "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
        "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
        "flower_photos",
        3670,
        "The TensorFlow team 2019, Flowers; photographs under CC BY 2.0 by those named in LICENSE.txt",
    ),
    "cats_vs_dogs": Archive(
        "cats_and_dogs.zip",
        "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip",
        "",
        "cats_and_dogs_filtered",
        3000,
        "Elson et al. 2007, Asirra (ACM CCS); the part that TensorFlow's tutorial of transfer learning takes",
        {"train": "train", "test": "validation"},
    ),
}
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
# 'train2017' or 'Test_set': nearly one of these names.
LIKE_A_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_FOLDERS)})(?:[-_ ]?(?:set|data|images))?(?![a-z])")
MOST_SPLITS = 4  # different words in a column of splits
TABLES = {".csv", ".tsv"}
CLASS_COLUMNS = {"class", "label", "category", "target"}  # what decides where several columns could be the class


@dataclass
class Source:
    """Labelled images before anything is read or split.

    ``items`` are paths or uint8 arrays; ``labels`` index ``classes``; ``strata`` (default: the labels) are kept in
    proportion by the split; ``given`` names the split of each item where the data come with one.
    """

    name: str
    classes: list[str]
    items: Sequence[Path | np.ndarray] | np.ndarray
    labels: np.ndarray
    item_names: list[str]
    strata: np.ndarray | None = None
    given: np.ndarray | None = None
    augment: str = "crop"
    citation: str = ""
    notes: list[str] = field(default_factory=list)
    left_out: str = ""  # files and folders that were passed over, in one line


def find(data: str) -> Source:
    """The images called ``data``: a known name, a folder, or a table of labels.

    Raises:
        UserError: unknown, not installed, not to be downloaded, no folder, or fewer than two classes.
    """
    named: dict[str, Callable[[], Source]] = {
        "elpv": elpv,
        "elpv4": partial(elpv, classes=4),
        "digits": digits,
        "cifar100": cifar100,
    }
    named |= {name: partial(archive, name) for name in ARCHIVES}
    if data in named:
        return named[data]()
    path = Path(data).expanduser()
    if path.suffix.lower() in TABLES and path.is_file():
        return table(path)
    try:
        return folder(path)
    except UserError as error:
        raise UserError(f"{error}{_table_inside(path)}") from error


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
    with silence():
        import keras

    with download("CIFAR-100", keras_cache() / "datasets" / CIFAR100_ARCHIVE, CIFAR100_SHA256, OFFLINE):
        (x, y), (x_test, y_test) = keras.datasets.cifar100.load_data()
    return Source(
        name="cifar100",
        classes=CIFAR100,
        items=np.concatenate([x, x_test]),
        labels=np.concatenate([y, y_test]).ravel(),
        item_names=[f"train-{i:05d}" for i in range(len(x))] + [f"test-{i:05d}" for i in range(len(x_test))],
        given=np.array(["train"] * len(x) + ["test"] * len(x_test)),
        citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    )


def archive(name: str) -> Source:
    """The photographs of one of ``ARCHIVES``, from Keras's cache or its download.

    Raises:
        UserError: not to be downloaded, or not what was published.
    """
    with silence():
        import keras

    known, cache = ARCHIVES[name], keras_cache()
    with download(name, cache / "datasets" / known.file, known.sha256, OFFLINE):
        unpacked = keras.utils.get_file(
            known.file, known.url, file_hash=known.sha256 or None, extract=True, cache_dir=cache
        )
        root = Path(unpacked) / known.folder
        source = folder(root, {split: root / path for split, path in known.splits.items()} or None)
        if len(source.items) != known.images:
            raise UserError(f"{len(source.items)} images instead of {known.images}")
    return replace(source, name=name, citation=known.citation)


def folder(root: Path, splits: dict[str, Path] | None = None) -> Source:
    """One folder per class, or folders of the splits (``train/``, ``test/``, ``valid/`` ...) above the class folders.

    A folder that holds nothing but one folder of folders stands for that one. Images below a class folder belong to the
    class, however deep they lie.

    Args:
        splits: split -> its folder, where that is known; None goes by the folders' names.

    Raises:
        UserError: no such folder, fewer than two classes, or folders that look like splits and cannot be.
    """
    if root.is_file():
        raise UserError(
            f"{root} is a file; --data takes a folder of images or a table of labels, so unpack an archive first"
        )
    if not root.is_dir():
        raise UserError(
            f"no such folder or data set: {root}; --data takes elpv, elpv4, digits, cifar100, {', '.join(ARCHIVES)}, "
            "a folder of images, or a table of labels (.csv)"
        )
    left_out = LeftOut()
    inside = left_out.folders_of(root)
    if len(inside) == 1 and not left_out.outside and _holds_class_folders(inside[0]):
        return folder(inside[0])
    splits = _split_folders(root, inside) if splits is None else splits
    if splits:
        left_out.folders |= {f"{path.name}/" for path in set(inside) - set(splits.values())}
    rows = []  # split, class and file of each image
    for split, part in (splits or {"": root}).items():
        for path in left_out.folders_of(part) if splits else inside:
            files = images_below(path, left_out)
            # macOS writes 'é' as two characters.
            rows += [(split, unicodedata.normalize("NFC", path.name), file) for file in files]
            below = {file.relative_to(root).parent for file in files} - {path.relative_to(root)}
            left_out.names |= {f"{folder}/" for folder in below}
            if not files:
                left_out.empty.append(f"{path.relative_to(root)}/")
    classes, labels = np.unique([name for _, name, _ in rows], return_inverse=True)
    given = {split for split, *_ in rows}
    for split in splits:
        if split not in given and rows:
            raise UserError(
                f"{splits[split]} has no class folders with images; sort its images into them, or remove it"
            )
    if len(classes) < 2:
        raise UserError(
            f"{root} has {len(classes)} folder(s) with images; at least two classes are needed: one folder of images "
            f"({' '.join(sorted(EXTENSIONS))}) per class, named after it"
            + (f" (left out: {left_out})" if str(left_out) else "")
        )
    return Source(
        name=root.resolve().name,
        classes=classes.tolist(),
        items=[file for *_, file in rows],
        labels=labels,
        item_names=[str(file.relative_to(root)) for *_, file in rows],
        given=np.array([split for split, *_ in rows]) if splits else None,
        left_out=str(left_out),
    )


def table(path: Path) -> Source:
    """Images named in a table of labels: a column of files, one of classes, and perhaps one of splits.

    A file has its path from the table's folder, or its name alone where only one below that folder is called so; with
    or without its suffix.

    Raises:
        UserError: no table, no such columns, a row without a class, fewer than two classes, or splits without a test.
    """
    root, rows = path.parent, _read_table(path)
    images = {_key(file.relative_to(root).as_posix()): file for file in images_below(root, LeftOut())}
    called = defaultdict(set)
    for name, file in images.items():
        for short in (name.rsplit(".", 1)[0], _key(file.name), _key(file.stem)):
            called[short].add(file)
    images = {name: files.pop() for name, files in called.items() if len(files) == 1} | images
    if any(_key(column) in images for column in rows):
        raise UserError(f"{path} has no header; write the names of its columns into a first line")
    # A column of few different values, such as the labels 0 and 1 beside 0.png and 1.png, is none of files.
    of_files = max(rows, key=lambda column: len(images.keys() & set(map(_key, rows[column]))))
    if 2 * sum(_key(value) in images for value in rows[of_files]) < len(rows) or not len(rows):
        raise UserError(
            f"no column of {path} names images in {root}; one must give the path of each from there, like cats/1.jpg"
        )
    rest = [column for column in rows if column != of_files]
    of_splits = [column for column in rest if {value.casefold() for value in rows[column]} <= set(SPLIT_FOLDERS)][:1]
    rest = [column for column in rest if column not in of_splits]
    of_classes = [column for column in rest if column.casefold() in CLASS_COLUMNS]
    of_classes = of_classes or [column for column in rest if 2 <= rows[column].nunique() <= len(rows) / 2]
    if len(of_classes) != 1:
        raise UserError(
            f"{path}: one column besides {of_files!r} must be the class, not {len(of_classes)}; call it 'class', or "
            "leave only the columns of the files, the classes and the splits"
        )
    if not of_splits:
        _refuse_other_splits(path, rows[[column for column in rest if column not in of_classes]])
    labels = rows[of_classes[0]]
    if (labels == "").any():
        raise UserError(f"{path}: {rows[of_files][labels == ''].iloc[0]} has no class; give it one, or remove the row")
    given = np.array([SPLIT_FOLDERS[value.casefold()] for value in rows[of_splits[0]]]) if of_splits else None
    missing = {"train", "test"} - set(["train", "test"] if given is None else given)
    if missing:
        raise UserError(
            f"{path}: no row of column {of_splits[0]!r} is {' or '.join(sorted(missing))}; remove the column"
        )
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{path} has one class only; at least two are needed")
    items = [images.get(_key(value), root / value) for value in rows[of_files]]  # what is missing is unreadable later
    others = len(set(images.values()) - set(items))
    return Source(
        name=root.resolve().name,
        classes=classes.tolist(),
        items=items,
        labels=numbers,
        item_names=[str(item.relative_to(root) if item.is_relative_to(root) else item) for item in items],
        given=given,
        left_out=f"{others} image{'s' * (others > 1)} that {path.name} does not name" if others else "",
    )


def _refuse_other_splits(path: Path, rows: pd.DataFrame) -> None:
    """Raise ``UserError`` where a column gives splits in other words: its test images would be trained on."""
    for column in rows:
        words = set(rows[column])
        unknown = sorted(word for word in words if word.casefold() not in SPLIT_FOLDERS)
        alike = [match[1] for word in words if (match := LIKE_A_SPLIT.fullmatch(word.casefold()))]
        if len(words) <= MOST_SPLITS and any(SPLIT_FOLDERS[name] == "train" for name in alike):
            raise UserError(
                f"{path}: column {column!r} looks like splits, but has {unknown[0]!r}; write train, validation or test "
                "into each row, or remove the column"
            )


def _read_table(path: Path) -> pd.DataFrame:
    """The cells of a CSV file as texts, whichever of tab, semicolon and comma separates them."""
    import pandas as pd  # a tenth of a second, which --help does not need

    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max("\t;,", key=header.count)
        rows = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # not UTF-8, or pandas' own
        raise UserError(f"{path} is no table that can be read ({str(error).splitlines()[0]})") from error
    return rows.rename(columns=str.strip).apply(lambda column: column.str.strip())


def _key(name: str) -> str:
    """A file's name in one way of writing it: macOS writes 'é' as two characters, Windows a path with backslashes."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _table_inside(root: Path) -> str:
    """What to do with a folder that was refused and holds a table of labels; empty where there is none."""
    for path in sorted(root.glob("*.[ct]sv")) if root.is_dir() else []:
        with suppress(UserError):
            table(path)
            return f"; or pass its table of labels: --data {path}"
    return ""


def _split_folders(root: Path, inside: list[Path]) -> dict[str, Path]:
    """Split -> its folder, where the folders inside ``root`` are splits; empty where they are classes."""
    exact = [path for path in inside if path.name.casefold() in SPLIT_FOLDERS]
    names = " and ".join(f"{path.name}/" for path in exact)
    splits: dict[str, Path] = {}
    for path in exact:
        split = SPLIT_FOLDERS[path.name.casefold()]
        if split in splits:
            raise UserError(
                f"{root}: {splits[split].name}/ and {path.name}/ are both the {split} split; leave one of them there"
            )
        splits[split] = path
    if len(exact) < 2:  # a class may well be called 'train' or 'test'
        similar = {path.name: match[1] for path in inside if (match := LIKE_A_SPLIT.search(path.name.casefold()))}
        meant = {SPLIT_FOLDERS[word] for word in similar.values()}
        if "train" in meant and len(meant) > 1:
            names = " and ".join(f"{name}/" for name in similar)
            raise UserError(f"{root}: {names} look like splits, not classes; call them train, validation and test")
        if "train" in splits and _holds_class_folders(exact[0]):
            raise UserError(
                f"{root} has {names} with class folders in it but no test/; add test/, "
                "or put the class folders side by side"
            )
        return {}
    if "train" not in splits:
        raise UserError(f"{root} has {names} but no train/; add it, or rename the folders if they are classes")
    if "test" not in splits:
        raise UserError(
            f"{root} has {names} but no test/; rename {splits['validation'].name}/ to test/ (validation images are "
            f"then taken from {splits['train'].name}/), or put the class folders side by side"
        )
    return splits


def _holds_class_folders(path: Path) -> bool:
    inside = LeftOut()
    folders = inside.folders_of(path)
    return not inside.outside and (len(folders) > 1 or any(map(_holds_class_folders, folders)))


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
