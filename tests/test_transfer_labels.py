"""Photos beside a table of labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_a2.errors import UserError
from keras_a2.transfer import data, sources

SIZE_8 = sources.Options(image_size=8)


@pytest.fixture
def flat(photos, tmp_path) -> Path:
    """The 24 photographs of ``photos`` in one folder, without classes."""
    (tmp_path / "flat").mkdir()
    for path in photos.rglob("*.png"):
        shutil.copy(path, tmp_path / "flat" / f"{path.parent.name}{path.name}")
    return tmp_path / "flat"


def write(folder: Path, header: str, row: str = "{name},{side}", name: str = "labels.csv", first: int = 0) -> Path:
    files = sorted(folder.rglob("*.png"))[first:]
    lines = [
        row.format(name=file.name, stem=file.stem, side=file.name[:4], i=i, split=("train", "val", "test")[i % 3])
        for i, file in enumerate(files)
    ]
    (folder / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file,class", "{name},{side}"),
        ("id,breed", "{stem},{side}"),
        ("label;image", "{side}; ./{name}"),
        ("\ufefffile\tage\tlabel\tcamera", "{name}\t{i}\t{side}\tA"),
        ("index,file,side", "{i},{name},{side}"),
    ],
)
def test_the_columns_of_files_and_classes_are_detected(flat, header, row):
    source = sources.find(str(write(flat, header, row)))
    assert (source.name, source.classes, source.given) == ("flat", ["left", "righ"], None)
    assert [source.classes[label] for label in source.labels] == [name[:4] for name in source.item_names]


def test_labels_that_are_numbers_are_no_names_of_files(flat):
    for i, path in enumerate(sorted(flat.iterdir())):
        path.rename(flat / f"{i}.png")
    lines = [f"{i % 2},{i}.png,{'old' if i % 3 else 'new'}" for i in range(24)]
    (flat / "labels.csv").write_text("\n".join(["label,file,camera", *lines]))
    source = sources.find(str(flat / "labels.csv"))
    assert source.classes == ["0", "1"]
    assert source.item_names == [f"{i}.png" for i in range(24)]


@pytest.mark.parametrize("word", ["holdout", "unlabelled", ""])
def test_splits_in_other_words_are_refused_rather_than_ignored(flat, word):
    table = write(flat, "file,class,subset", "{name},{side},{split}")
    table.write_text(table.read_text().replace(",test\n", f",{word}\n"))
    with pytest.raises(UserError, match=f"column 'subset' looks like splits, but has '{word}'"):
        sources.find(str(table))


def test_a_table_gives_the_images_and_labels_of_the_folders(photos):
    lines = [f"{path.relative_to(photos).as_posix()},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (photos / "labels.csv").write_text("\n".join(["file,class", *lines]))
    by_folder, by_table = sources.folder(photos), sources.find(str(photos / "labels.csv"))
    assert by_table.items == by_folder.items
    np.testing.assert_array_equal(by_table.labels, by_folder.labels)
    assert data.load(by_table, SIZE_8, seed=0).sha256 == data.load(by_folder, SIZE_8, seed=0).sha256


def test_files_in_a_folder_below_are_named_without_it(flat):
    write(flat, "id_code,diagnosis", "{stem},{side}", "train.csv")
    (flat / "train_images").mkdir()
    for path in flat.glob("*.png"):
        path.rename(flat / "train_images" / path.name)
    source = sources.find(str(flat / "train.csv"))
    assert source.item_names[0] == "train_images/left0.png"


def test_a_column_of_splits_is_kept(flat):
    source = sources.find(str(write(flat, "file,class,fold", "{name},{side},{split}")))
    assert source.given.tolist() == ["train", "validation", "test"] * 8


def test_a_file_elsewhere_is_named_as_the_table_has_it(flat):
    table = write(flat, "file,class")
    elsewhere = "/photos of 2019/left.png"
    table.write_text(table.read_text() + f"{elsewhere},left\n")
    assert sources.find(str(table)).item_names[-1] == elsewhere


def test_what_the_table_does_not_name_is_said_and_a_missing_file_is_unreadable(flat):
    table = write(flat, "file,class", first=1)
    with table.open("a") as file:
        file.write("gone.png,left\n")
    source = sources.find(str(table))
    assert source.left_out == "1 image that labels.csv does not name"
    assert data.load(source, SIZE_8, seed=0).skipped == ["gone.png: not a regular file"]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("left0.png,left", "{name},{side}", "has no header"),
        ("file,class", "photo{i}.png,{side}", "no column of .* names images in"),
        ("file,age", "{name},{i}", "one column besides 'file' must be the class, not 0; call it 'class'"),
        ("file,side,hand", "{name},{side},{side}", "one column besides 'file' must be the class, not 2"),
        ("file,class", "{name},", "left0.png has no class"),
        ("file,class", "{name},same", "one class only"),
        ("file,class,split", "{name},{side},train", "no row of column 'split' is test; remove the column"),
        ("file,class,set", "{name},{side},{split}_set", "'set' looks like splits, but has 'test_set'; write train"),
        ("file,class", "{name},{side},more,{i}\n{name}", "labels.csv is no table|no column"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(flat, header, row, message):
    with pytest.raises(UserError, match=message) as refusal:
        sources.find(str(write(flat, header, row)))
    assert "\n" not in str(refusal.value)


def test_a_folder_beside_a_table_is_refused_by_naming_the_table(flat):
    write(flat, "file,age", "{name},{i}", "ages.csv")
    table = write(flat, "file,class", name="train.csv")
    with pytest.raises(UserError, match=f"or pass its table of labels: --data {table}$"):
        sources.find(str(flat))
    table.unlink()
    with pytest.raises(UserError, match=r"per class, named after it [^;]*$"):
        sources.find(str(flat))
