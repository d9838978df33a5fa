"""Folders and splits that do not leak."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_a2.errors import UserError
from keras_a2.transfer import data, sources
from keras_a2.transfer.decode import UnreadableImage, read_bytes

SIZE_16 = sources.Options(image_size=16)
SIZE_32 = sources.Options(image_size=32)


def test_odd_names_and_loops_of_folders(photos):
    names = ["a b.png", "it's.png", 'say "x".png', "größe 写真.png", "two\nlines.png", "-dash.png", "%s{}.png"]
    for name in names:
        shutil.copy(photos / "left" / "0.png", photos / "left" / name)
    (photos / "left" / "again").symlink_to(photos)
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    assert sum("left" in name for name in images.source.item_names) == 12 + len(names)
    assert images.skipped == []


def test_a_folder_or_a_loop_is_no_image(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path in (tmp_path, tmp_path / "loop.png", tmp_path / "absent.png"):
        with pytest.raises(UnreadableImage):
            read_bytes(path)


def test_split_is_disjoint_complete_stratified_and_seeded(photos):
    source = sources.folder(photos)
    images = data.load(source, SIZE_16, seed=3)
    parts = [set(images.train), set(images.validation), set(images.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 24
    assert all(np.ptp(np.bincount(images.labels[list(part)])) <= 1 for part in parts)
    again = data.load(source, SIZE_16, seed=3)
    assert (again.test == images.test).all()
    assert again.sha256 == images.sha256
    assert (data.load(source, SIZE_16, seed=4).test != images.test).any()


def test_identical_files_leave_train(photos):
    for i in range(4):  # four copies of one picture: the split must part some of them
        shutil.copy(photos / "left" / "0.png", photos / "left" / f"copy{i}.png")
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    kept = {images.source.item_names[i] for i in images.train}
    held = {images.source.item_names[i] for i in np.concatenate([images.validation, images.test])}
    copies = {"left/0.png", *(f"left/copy{i}.png" for i in range(4))}
    assert images.duplicates
    assert not (kept & copies and held & copies)


def pictures(n: int, side: int = 80) -> list[Image.Image]:
    """Smooth pictures with more light and shade than colour, as photographs are."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 206, (n, 6, 6, 1)) + rng.integers(0, 50, (n, 6, 6, 3))
    return [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in small.astype(np.uint8)]


def test_a_picture_in_many_formats_stands_in_one_split_and_counts_once(tmp_path):
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    for number, picture in enumerate(pictures(24)):
        name = "left" if number % 2 else "right"
        for suffix in ("png", "bmp", "tiff", "gif", "jpg", "webp"):
            picture.save(tmp_path / name / f"{number:02d}.{suffix}")
    images = data.load(sources.folder(tmp_path), SIZE_32, seed=0)
    shown = [
        [Path(images.source.item_names[i]).stem for i in part]
        for part in (images.train, images.validation, images.test)
    ]
    assert len(set.union(*map(set, shown))) == sum(len(set(part)) for part in shown) == 24
    assert len(images.test) == len(set(shown[2])) == 6
    assert len(images.validation) == len(set(shown[1]))
    assert len(images.train) == 6 * len(set(shown[0]))
    assert len(images.duplicates) == 5 * (len(images.validation) + len(images.test))


def test_pictures_alike_in_one_encoding_or_in_brightness_are_no_copies(tmp_path):
    rng = np.random.default_rng(0)
    scene = np.asarray(pictures(1)[0]).astype(int)
    for name in ("shut", "open"):
        (tmp_path / name).mkdir()
        for i in range(8):  # frames of a fixed camera
            frame = (scene + rng.integers(-2, 3, scene.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(frame).save(tmp_path / name / f"{i}.png")
    luma = scene @ [0.299, 0.587, 0.114]
    turned = luma[..., np.newaxis] + [0, -20, 104.5]  # as bright, and blue
    assert np.abs(turned @ [0.299, 0.587, 0.114] - luma).max() < 1
    Image.fromarray(turned.clip(0, 255).astype(np.uint8)).save(tmp_path / "open" / "blue.jpg", quality=95)
    images = data.load(sources.folder(tmp_path), SIZE_32, seed=0)
    assert len(images.train) + len(images.validation) + len(images.test) == 17


def test_no_digit_is_taken_for_the_copy_of_another():
    images = data.load(sources.digits(), SIZE_32, seed=0)
    assert images.duplicates == images.conflicts == []
    assert len(images.train) + len(images.validation) + len(images.test) == 1797


def test_a_picture_in_two_classes_is_named(photos):
    shutil.copy(photos / "left" / "0.png", photos / "right" / "again.png")
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    assert images.conflicts == images.summary()["label_conflicts"] == ["left/0.png = right/again.png"]


def test_copies_between_validation_and_test_leave_validation_and_count_once_in_test(photos, tmp_path):
    root = arranged(photos, tmp_path / "given", train=range(6), valid=range(6, 9), test=range(9, 12))
    for copy in ("valid/left/copy.png", "test/left/copy.png"):
        shutil.copy(root / "test" / "left" / "9.png", root / copy)
    images = data.load(sources.folder(root), SIZE_16, seed=0)
    assert (len(images.train), len(images.validation), len(images.test)) == (12, 6, 6)
    assert images.duplicates == []
    assert images.held_out_duplicates == ["test/left/copy.png", "valid/left/copy.png"]


@pytest.mark.parametrize("classes", [2, 100, 500])
def test_the_fraction_held_out_is_the_one_asked_for(classes):
    labels = np.repeat(np.arange(classes), 2000 // classes)
    source = sources.Source("s", [str(c) for c in range(classes)], [], labels, [])
    train, validation, test = data.split(source, np.arange(2000), 0, 0.1, 0.1)
    assert (len(train), len(validation), len(test)) == (1620, 180, 200)
    assert len(set(train) | set(validation) | set(test)) == 2000
    assert np.bincount(labels[test]).max() <= -(-200 // classes)
    assert len(np.unique(labels[train])) == classes
    assert not np.array_equal(test, data.split(source, np.arange(2000), 1, 0.1, 0.1)[2])


def arranged(photos: Path, root: Path, **splits: range) -> Path:
    """The photos again, below folders of the given names."""
    for split, files in splits.items():
        for name in ("left", "right"):
            (root / split / name).mkdir(parents=True)
            for i in files:
                shutil.copy(photos / name / f"{i}.png", root / split / name)
    return root


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training", "Valid", "Testing"), ("TRAIN", "dev", "TEST"), ("train", "", "Test")],
)
def test_given_splits_are_kept(photos, tmp_path, train, validation, test):
    parts = {train: range(7), test: range(9, 12)} | ({validation: range(7, 9)} if validation else {})
    images = data.load(sources.folder(arranged(photos, tmp_path / "given", **parts)), SIZE_16, seed=0)
    assert images.classes == ["left", "right"]
    assert [len(images.train), len(images.validation), len(images.test)] == ([14, 4, 6] if validation else [12, 2, 6])
    assert all(images.source.item_names[i].startswith(f"{test}/") for i in images.test)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "valid"), "train/ and valid/ but no test/; rename valid/ to test/"),
        (("train", "dev"), "no test/"),
        (("validation", "test"), "no train/"),
        (("train", "val", "valid", "test"), "val/ and valid/ are both the validation split"),
        (("Training_set", "Test_set"), "Test_set/ and Training_set/ look like splits"),
        (("train2017", "val2017"), "look like splits"),
        (("train", "more"), "train/ with class folders in it but no test/"),
    ],
)
def test_splits_that_cannot_be_are_refused(photos, tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        sources.folder(arranged(photos, tmp_path / "given", **dict.fromkeys(names, range(3))))


@pytest.mark.parametrize("names", [("bus", "train"), ("control", "test"), ("invalid", "valid")])
def test_a_class_may_be_called_like_a_split(photos, names):
    for old, new in zip(("left", "right"), names, strict=True):
        (photos / old).rename(photos / new)
    source = sources.folder(photos)
    assert source.classes == list(names)
    assert source.given is None


def test_folders_of_systems_are_no_classes(photos):
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "left/.ipynb_checkpoints"):
        shutil.copytree(photos / "right", photos / name)
    shutil.copy(photos / "left" / "0.png", photos / "left" / "._0.png")
    source = sources.folder(photos)
    assert source.classes == ["left", "right"]
    assert len(source.items) == 24
    assert source.left_out == "folders .ipynb_checkpoints/, @eaDir/, __MACOSX/"


def test_what_is_left_out_is_named(photos):
    for i in range(3):
        (photos / "left" / f"{i}.HEIC").write_bytes(b"x")
    (photos / "left" / "notes").write_text("x")
    shutil.copy(photos / "left" / "0.png", photos / "loose.png")
    (photos / "fish").mkdir()
    (photos / "fish" / "1.heic").write_bytes(b"x")
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    left_out = "4 .heic; 1 without suffix; 1 image outside the class folders; without an image: fish/"
    assert images.source.left_out == images.summary()["left_out"] == left_out


def test_a_class_of_tiffs_is_a_class(photos):
    (photos / "third").mkdir()
    for i in range(6):
        Image.open(photos / "left" / f"{i}.png").rotate(90).save(photos / "third" / f"{i}.{'tif' if i % 2 else 'TIFF'}")
    assert data.load(sources.folder(photos), SIZE_16, seed=0).classes == ["left", "right", "third"]


def test_one_unreadable_file_in_many_is_named_and_many_are_an_error(photos):
    for i in range(12, 40):
        shutil.copy(photos / "left" / "0.png", photos / "left" / f"{i}.png")
    (photos / "left" / "broken.png").write_bytes(b"no")
    images = data.load(sources.folder(photos), SIZE_16, seed=0)
    assert images.skipped == ["left/broken.png: not a readable image"]
    for i in range(5):
        (photos / "left" / f"broken{i}.png").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        data.load(sources.folder(photos), SIZE_16, seed=0)


@pytest.mark.parametrize("damage", ["absent", "one class", "small class", "train only"])
def test_folders_that_cannot_be_used(photos, damage):
    if damage == "absent":
        shutil.rmtree(photos)
    elif damage == "one class":
        shutil.rmtree(photos / "left")
    elif damage == "small class":
        for i in range(3, 12):
            (photos / "left" / f"{i}.png").unlink()
    else:
        (photos / "left").rename(photos / "train")
        (photos / "right").rename(photos / "val")
    with pytest.raises(UserError):
        data.load(sources.folder(photos), SIZE_16, seed=0)


def test_few_shot_takes_so_many_of_each_class(photos):
    images = data.load(sources.folder(photos), sources.Options(image_size=16, train_per_class=2), seed=0)
    assert np.bincount(images.labels[images.train]).tolist() == [2, 2]


@pytest.mark.parametrize("macos", [False, True])
def test_a_store_on_disk_gives_what_the_store_in_memory_gives(photos, tmp_path, monkeypatch, macos):
    if macos:
        monkeypatch.delattr(data.os, "posix_fallocate")
    source = sources.folder(photos)
    small = data.load(source, SIZE_16, seed=0)
    large = data.load(source, SIZE_16, seed=0, folder=tmp_path, memory_limit=0)
    assert large.store._file is not None
    order = np.array([5, 1, 20])
    assert (large.store.read(order) == small.store.read(order)).all()


def test_an_epoch_does_not_wait_for_autotuning(photos):
    """Its thread wakes 5.1 and 10.2 s after the start, and what reads a data set to its end may wait for that."""
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    assert data.batches(images, images.train, 2).options().autotune.enabled is False


def test_elpv_is_the_published_data_set():
    source = sources.find("elpv4")
    assert np.bincount(source.labels).tolist() == [1508, 295, 106, 715]
    assert np.bincount(sources.find("elpv").labels).tolist() == [1803, 821]  # 68.7 % functional


def test_boxes_stay_inside_and_flip():
    rng = np.random.default_rng(0)
    boxes = data.boxes("flips", 500, rng)
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6
    assert 100 < (boxes[:, 1] > boxes[:, 3]).sum() < 400
    assert not (data.boxes("shift", 500, rng)[:, 1] > data.boxes("shift", 500, rng)[:, 3]).all()


def test_the_whole_box_is_the_whole_image():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    whole = data.boxes("none", 2, np.random.default_rng(0))
    np.testing.assert_allclose(data.crop(images, whole, 8), images, atol=1e-3)
    np.testing.assert_allclose(data.crop(images, whole[:, [0, 3, 2, 1]], 8), images[:, :, ::-1], atol=1e-3)


def test_labels_of_cifar_are_a_hundred_sorted_names():
    assert len(sources.CIFAR100) == 100
    assert sorted(sources.CIFAR100) == sources.CIFAR100
    assert Path("x").suffix not in sources.EXTENSIONS


@pytest.mark.parametrize("above", ["pictures", "pictures/raw", "__MACOSX"])
def test_a_folder_around_the_classes_stands_for_them(photos, tmp_path, above):
    around = tmp_path / "around"
    shutil.copytree(photos, around / above)
    if above == "__MACOSX":
        shutil.copytree(photos, around / "pictures")
    source = sources.find(str(around))
    assert (source.classes, len(source.items), source.item_names[0]) == (["left", "right"], 24, "left/0.png")


def test_images_of_nested_folders_are_of_the_class_at_the_top_which_is_said(photos):
    for name in ("left", "right"):
        (photos / name / "camera 1").mkdir()
        shutil.copy(photos / name / "0.png", photos / name / "camera 1" / "x.JFIF")
    source = sources.folder(photos)
    assert np.bincount(source.labels).tolist() == [13, 13]
    assert source.left_out == "names of folders below the classes: left/camera 1/, right/camera 1/"


def test_one_name_written_in_two_ways_is_one_class(photos, tmp_path):
    root = arranged(photos, tmp_path / "given", train=range(9), test=range(9, 12))
    (root / "train" / "left").rename(root / "train" / "caf\u00e9")
    (root / "test" / "left").rename(root / "test" / "cafe\u0301")
    assert sources.folder(root).classes == ["caf\u00e9", "right"]


def test_what_cannot_be_read_as_a_folder_of_classes_says_what_to_do(photos, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    with pytest.raises(UserError, match=r"photos\.zip is a file; .* unpack an archive first"):
        sources.find(archive)
    for path in photos.rglob("*.png"):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(UserError, match=r"one folder of images \(.*\.jpg.*\) per class, .* 24 .heic"):
        sources.find(str(photos))


def test_a_test_folder_of_unsorted_images_is_refused_by_name(photos, tmp_path):
    root = arranged(photos, tmp_path / "given", train=range(9))
    shutil.copytree(photos / "left", root / "test")
    with pytest.raises(UserError, match="test has no class folders with images; sort its images into them"):
        sources.folder(root)
