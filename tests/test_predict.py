"""Published models in use: what is refused before loading, edited cards, and the files that are written."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from conftest import load_script
from keras_a2 import deployment, inference, settings
from keras_a2.errors import UserError
from keras_a2.saved_model import export
from keras_a2.transfer.predict import Prediction

CARD = {"version": 1, "task": "", "data": {}}
CLASSIFIER = CARD | {"experiment": "transfer", "classes": ["cat", "dog"], "image_size": 32}
FORECASTER = CARD | {
    "experiment": "recurrent", "inputs": ["load", "wind"], "targets": ["load"], "unit": "°C", "look_back": 5,
    "horizon": 4, "every": 1, "first_lead": 1, "max_gap": 12, "spacing_seconds": 3600.0,
}  # fmt: skip


def publish(folder: Path, model, signature: tf.TensorSpec, card: dict) -> Path:
    folder.mkdir(parents=True)
    export(model, {"serve": (model, [signature])}, folder)
    (folder / "model.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A network that has not learnt anything, published as one that has."""
    layers = [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
    folder = tmp_path_factory.mktemp("models") / "cats" / "1"
    return publish(folder, keras.Sequential(layers), tf.TensorSpec((None, None, None, 3), tf.uint8), CLASSIFIER)


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory) -> Path:
    layers = [keras.Input((5, 2)), keras.layers.Flatten(), keras.layers.Dense(4)]
    folder = tmp_path_factory.mktemp("models") / "load" / "1"
    return publish(folder, keras.Sequential(layers), tf.TensorSpec((None, 5, 2), tf.float32), FORECASTER)


@pytest.fixture
def rows(tmp_path) -> Path:
    time = pd.date_range("2024-01-01", periods=20, freq="h")
    pd.DataFrame({"time": time, "load": np.arange(20.0), "wind": 1.0}).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("classifier", ["cat.png", "--figure", "f.png"], "--figure is for forecasters"),
        ("forecaster", ["rows.csv", "--top", "2"], "--top is for classifiers"),
        ("forecaster", ["rows.csv", "cat.png"], "takes one series, and 2 files were given"),
        ("forecaster", ["rows.csv", "--output", "./rows.csv"], "would be overwritten"),
        ("forecaster", ["rows.csv", "--figure", "f.txt"], "must end in .png, .pdf or .svg"),
        ("forecaster", ["gone.csv"], "no such file or folder: gone.csv"),
    ],
)
def test_what_cannot_be_done_is_refused_before_loading(model, arguments, message, tmp_path, rows, monkeypatch):
    version = tmp_path / "model" / "1"
    version.mkdir(parents=True)  # the card alone: loading it would be another error
    (version / "model.json").write_text(json.dumps(CLASSIFIER if model == "classifier" else FORECASTER))
    (tmp_path / "cat.png").write_bytes(b"")
    before = rows.read_bytes()
    monkeypatch.chdir(tmp_path)
    script = load_script("predict")
    with pytest.raises(UserError, match=re.escape(message)):
        script.main(settings.parse(script.Config, ["model", *arguments]))
    assert rows.read_bytes() == before


def edited(folder: Path, copy: Path, **fields) -> Path:
    shutil.copytree(folder, copy)
    card = json.loads((copy / "model.json").read_text()) | fields
    (copy / "model.json").write_text(json.dumps({k: v for k, v in card.items() if v != "absent"}))
    return copy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("classes", value) for value in (["cat"], ["cat", "cat"], ["cat", 1], [], "cats", None)],
        *[("image_size", value) for value in (100_000, 31, 64.0, True, "absent")],
        ("experiment", "other"),
        ("version", -1),
    ],
)
def test_a_classifier_with_an_edited_card_is_refused(classifier, tmp_path, field, value):
    with pytest.raises(UserError, match=r"model\.json"):
        inference.load(edited(classifier, tmp_path / "1", **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in ("look_back", "horizon", "every", "first_lead") for value in (0, "5", 10**30)],
        *[("max_gap", value) for value in (-1, "12", 1.5)],
        *[("spacing_seconds", value) for value in (0, float("nan"), 1e300, "3600", 60)],
        *[("freq", value) for value in ("often", "bh", 5, "MS")],
        *[("inputs", value) for value in (["load"], ["load", "sun"], ["load", "hour_sin"], {})],
        *[("known", value) for value in ("load", ["sun"], ["wind"], [1])],
        *[("holidays", value) for value in (1, ["US"])],
        *[("targets", value) for value in (["load", "wind"], ["sun"], [])],
        *[("levels", value) for value in (80, [0], [95, 80], [80, 80], ["80"], [100])],
        *[("typical_errors", value) for value in (1.0, [0.0], ["1"], [float("nan")])],
        *[("look_back", 6), ("horizon", 3), ("every", 10**6), ("unit", None)],
    ],
)
def test_a_forecaster_with_an_edited_card_is_refused(forecaster, rows, tmp_path, field, value):
    change = {"spacing_seconds": None} if value == ["load", "hour_sin"] else {}
    with pytest.raises(UserError, match=r"model\.json|trained on steps of|needs its last|no column 'sun'"):
        inference.load(edited(forecaster, tmp_path / "1", **{field: value} | change)).predict(rows)


def test_a_card_of_an_older_version_loads(forecaster, rows, tmp_path):
    table = pd.read_csv(rows)
    table.loc[18, "load"] = np.nan
    older = edited(
        forecaster, tmp_path / "1", max_gap="absent", spacing_seconds="absent", typical_errors="absent", levels=None
    )
    assert len(inference.load(older).predict(table)) == 4  # the gap is filled as those versions did


def test_a_forecast_in_lines_of_json_keeps_the_offset_of_its_times(forecaster, tmp_path):
    time = pd.date_range("2024-01-01", periods=20, freq="h", tz="Asia/Tokyo")
    pd.DataFrame({"time": time, "load": np.arange(20.0), "wind": 1.0}).to_csv(tmp_path / "rows.csv", index=False)
    inference.forecast(inference.load(forecaster), tmp_path / "rows.csv", None, tmp_path / "out.jsonl", None)
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (first["time"], first["lead"]) == ("2024-01-01T20:00:00+09:00", 1)


def test_a_forecast_beyond_the_times_that_there_are_is_refused(forecaster, tmp_path):
    century = pd.date_range("1900-01-01", periods=5, freq="10000D")
    pd.DataFrame({"time": century, "load": 1.0, "wind": 1.0}).to_csv(tmp_path / "rows.csv", index=False)
    model = inference.load(edited(forecaster, tmp_path / "1", first_lead=10**6, spacing_seconds=8.64e8))
    with pytest.raises(UserError, match="too far away"):  # in the year 27 million
        model.predict(tmp_path / "rows.csv")


@pytest.mark.parametrize("images", [None, 3, b"cat.png", [b"cat.png"], [np.zeros((4, 4, 3), np.uint8)]])
def test_what_is_neither_pixels_nor_paths_is_refused(classifier, images):
    with pytest.raises(UserError, match="images must be paths, or one uint8 array"):
        inference.load(classifier).predict(images)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 3)])
def test_an_array_without_pixels_is_refused(classifier, shape):
    with pytest.raises(UserError, match="images must be uint8"):
        inference.load(classifier).predict(np.zeros(shape, np.uint8))


def test_a_folder_with_a_digit_that_is_no_number_is_no_version(classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / "cats" / "1")
    (tmp_path / "cats" / "²").mkdir()
    assert inference.load(tmp_path / "cats").version == 1
    inference.print_models(tmp_path)


class Named:
    """Answers like a classifier of two classes: the last file is broken."""

    classes = ("cat", "dog")

    def stream(self, files, top, mapped=False):
        for path in files[:-1]:
            yield Prediction(str(path), self.classes[:top], (0.75, 0.25)[:top])
        yield Prediction(str(files[-1]), error="cut short")


@pytest.mark.parametrize(
    ("top", "header"),
    [
        (1, ["file", "class", "probability", "error"]),
        (5, ["file", "class_1", "probability_1", "class_2", "probability_2", "error"]),
    ],
)
def test_rows_have_the_header_s_columns_and_errors_stand_under_error(tmp_path, top, header):
    names = [os.fsdecode(tmp_path / name) for name in ("a.png", "caf\udce9.png", "z.png")]
    for name in names:
        Path(name).touch()
    inference.classify(Named(), [Path(name) for name in names], top, tmp_path / "out.csv")
    lines = list(csv.reader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    assert lines[0] == header
    assert {len(line) for line in lines} == {len(header)}
    assert [line[-1] for line in lines[1:]] == ["", "", "cut short"]
    assert lines[2][0].endswith(r"caf\udce9.png")
    inference.classify(Named(), [Path(name) for name in names], top, tmp_path / "out.jsonl")
    read = [json.loads(line)["file"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert read == names


def test_a_forecast_that_fails_half_way_leaves_the_old_file(forecaster, rows, tmp_path, monkeypatch):
    def half(frame, path, **_):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "out.csv").write_text("old")
    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="No space"):
        inference.forecast(inference.load(forecaster), rows, None, tmp_path / "out.csv", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "rows.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_predictions_that_fail_half_way_leave_no_file(tmp_path):
    class Failing(Named):
        def stream(self, files, top, mapped=False):
            yield Prediction(str(files[0]), ("cat",), (1.0,))
            raise UserError("the models differ")

    (tmp_path / "a.png").touch()
    with pytest.raises(UserError):
        inference.classify(Failing(), [tmp_path / "a.png"], 1, tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("export", "files"), [(deployment.export_litert, 2), (deployment.export_onnx, 1)])
def test_an_export_that_fails_half_way_leaves_no_file(forecaster, tmp_path, monkeypatch, export, files):
    shutil.copytree(forecaster, tmp_path / "1")
    before = sorted(p.name for p in (tmp_path / "1").iterdir())
    measured = []

    def fail_at_last(*_):
        measured.append(1)
        if len(measured) == files:
            raise UserError("no")
        return {}

    monkeypatch.setattr(deployment, "measure", fail_at_last)
    with pytest.raises(UserError, match="no"):
        export(tmp_path / "1", np.ones((2, 5, 2), np.float32))
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == before


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_a_figure_is_written_in_the_format_of_its_name(forecaster, rows, tmp_path, suffix):
    inference.forecast(inference.load(forecaster), rows, None, None, tmp_path / f"f.{suffix}")
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert (tmp_path / f"f.{suffix}").read_bytes().startswith(start)
