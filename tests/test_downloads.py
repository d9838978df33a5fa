"""Files from elsewhere: a wrong one is deleted and named, an absent network is one line."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from keras_a2 import files
from keras_a2.errors import UserError
from keras_a2.recurrent import sources as series
from keras_a2.transfer import model
from keras_a2.transfer import sources as images


@pytest.fixture
def broken_network(tmp_path, monkeypatch):
    """A cache of our own, and Keras's downloader failing as after a wrong checksum."""

    def fail(*_, **__):
        raise ValueError("Incomplete or corrupted file detected.")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", fail)
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", fail)
    monkeypatch.setattr(keras.applications, "MobileNetV3Small", fail)
    return tmp_path


@pytest.mark.parametrize(
    ("load", "path"),
    [
        (series.jena, f"datasets/{series.JENA_FILE}"),
        (images.cifar100, f"datasets/{images.CIFAR100_ARCHIVE}"),
        (lambda: images.find("flowers"), "datasets/flower_photos.tgz"),
        (lambda: images.find("cats_vs_dogs"), "datasets/cats_and_dogs.zip"),
        (lambda: model.find_weights("imagenet", 0.75), f"models/{model.IMAGENET_FILES[0.75][0]}"),
    ],
)
def test_a_wrong_file_is_deleted_and_named(broken_network, load, path):
    wrong = broken_network / path
    wrong.parent.mkdir()
    wrong.write_bytes(b"not what was meant")
    with pytest.raises(UserError, match=r"wrong file \(checksum\) and is deleted") as error:
        load()
    assert str(wrong) in str(error.value)
    assert not wrong.exists()
    with pytest.raises(UserError) as error:
        load()
    assert "and is deleted" not in str(error.value)


def archive_of(photos: Path, path: Path, name: str, *parts: str) -> str:
    """An archive of the photos below folders of the given names; its SHA-256."""
    root = path.parent / name
    for part in parts:
        shutil.copytree(photos, root / part)
    shutil.make_archive(str(path.with_suffix("")), "zip" if path.suffix == ".zip" else "gztar", path.parent, name)
    made = next(path.parent.glob(f"{path.stem}.*"))
    made.rename(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "parts"), [("flowers", [""]), ("cats_vs_dogs", ["train", "validation"])])
def test_named_photographs_are_downloaded_once_checked_and_read(photos, tmp_path, monkeypatch, name, parts):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    known = images.ARCHIVES[name]
    for folder in ("site", "cache"):
        (tmp_path / folder).mkdir()
    online = tmp_path / "site" / known.file
    digest = archive_of(photos, online, known.folder, *parts)
    small = replace(known, url=online.as_uri(), sha256=known.sha256 and digest, images=24 * len(parts))
    monkeypatch.setitem(images.ARCHIVES, name, small)
    source = images.find(name)
    assert (source.name, source.classes, len(source.items)) == (name, ["left", "right"], 24 * len(parts))
    assert source.given is None or sorted(set(source.given)) == ["test", "train"]
    online.unlink()  # from the cache
    assert images.find(name).item_names == source.item_names
    cached = tmp_path / "cache" / "datasets" / known.file
    monkeypatch.setitem(images.ARCHIVES, name, replace(small, sha256="0" * 64 if small.sha256 else "", images=25))
    for _ in range(2):  # refused and deleted; then there is none
        with pytest.raises(UserError, match=f"{name} is not in .* and cannot be downloaded"):
            images.find(name)
        assert not cached.exists()


JENA = """Date Time,p (mbar),T (degC),wv (m/s)
01.01.2009 00:10:00,996.5,-8.0,1.0
01.01.2009 00:20:00,996.6,-8.1,-9999.0
01.01.2009 00:50:00,996.7,-8.2,0.5
01.01.2009 00:20:00,996.6,-8.1,-9999.0
01.01.2009 00:40:00,996.8,-8.3,0.7
"""


def test_jena_s_rows_come_in_order_once_each_and_its_missing_wind_as_missing(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "jena.zip", "w") as archive:
        archive.writestr("jena_climate_2009_2016.csv", JENA)
    monkeypatch.setattr(keras.utils, "get_file", lambda *_, **__: tmp_path / "jena.zip")
    table = series.find("jena", None, None, None)
    assert [f"{time:%H:%M}" for time in table.time] == ["00:10", "00:20", "00:40", "00:50"]
    assert table.frame["T (degC)"].tolist() == [-8.0, -8.1, -8.3, -8.2]
    assert table.frame["wv (m/s)"].isna().tolist() == [False, True, False, False]
    assert table.notes == ["1 rows that repeat a time were left out; -9999 was read as missing."]
    as_read = series.find("jena", None, None, None, as_read=True)
    assert as_read.time is None
    assert as_read.frame["T (degC)"].tolist() == [-8.0, -8.1, -8.2, -8.1, -8.3]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_right_file_stays(tmp_path, algorithm):
    path = tmp_path / "file"
    path.write_bytes(b"right")
    digest = hashlib.new(algorithm, b"right").hexdigest()
    with pytest.raises(UserError, match="cannot be downloaded"), files.download("it", path, digest, ""):
        raise OSError("no network")
    assert path.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("URL fetch failure on https://a/b: None -- [Errno -2] Name or service not known"), "[Errno -2] Name"),
        (ValueError("Incomplete or corrupted file detected.\nmore"), "Incomplete or corrupted file detected."),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_failed_download_says_why(tmp_path, error, words):
    with pytest.raises(UserError) as failure, files.download("it", tmp_path / "file", "0" * 32, "; wait"):
        raise error
    assert f"cannot be downloaded ({words}" in str(failure.value)
    assert str(failure.value).endswith("); wait")
