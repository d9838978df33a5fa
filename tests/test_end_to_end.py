"""The real scripts on tiny data: published, loaded elsewhere, predicted with, killed and taken up again."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

import keras_a2
from conftest import ROOT, run_script, run_scripts
from keras_a2 import inference
from keras_a2.errors import UserError

pytestmark = pytest.mark.slow

TRANSFER = "--image-size 32 --head-epochs 2 --fine-tune-epochs 1 --unfreeze 3 --views 2 --batch-size 8".split()
RECURRENT = ["--target", "load", "--look-back", 24, "--horizon", 6, "--units", 8, "--epochs", 2]
FILES = ["saved_model.pb", "model.keras", "model.json", "metrics.json", "report.html", "predictions.csv", "history.csv"]

ELSEWHERE = """
import sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
content = open(sys.argv[2], "rb").read()
answer = model.serve_bytes(tf.constant([content]))
np.testing.assert_allclose(answer, model.serve(tf.io.decode_image(content, channels=3)[tf.newaxis]), atol=1e-6)
print(answer.shape)
assert not [m for m in sys.modules if m.startswith("keras_a2")]
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """One transfer run and one recurrent run with the real scripts, fast and plain."""
    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    for name, side in (("left", slice(0, 20)), ("right", slice(30, 50))):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(16):
            pixels = rng.integers(0, 90, (40, 50, 3), np.uint8)
            pixels[:, side] += 150
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    when = pd.date_range("2024-01-01", periods=480, freq="h")
    wave = 10 + 5 * np.sin(2 * np.pi * np.arange(480) / 24) + rng.normal(0, 0.4, 480)
    pd.DataFrame({"date": when, "load": wave, "other": -wave}).to_csv(root / "series.csv", index=False)
    transfer = ["transfer", "--data", root / "photos", "--weights", "bundled", *TRANSFER]
    recurrent = ["recurrent", "--data", root / "series.csv", "--cell", "gru", *RECURRENT]
    for answer in run_scripts(  # relative outputs, as the default is
        [*transfer, "--output", "models", "--jobs", 2],
        [*recurrent, "--output", "models"],
        [*transfer, "--plain", "--output", "plain"],
        [*recurrent, "--plain", "--output", "plain"],
        cwd=root,
    ):
        assert answer.returncode == 0, answer.stderr
        assert "absl::InitializeLog" not in answer.stderr  # TensorFlow's start-up log
    return root


def recurrent_command(data: Path, *more) -> list[str]:
    script = ROOT / "experiments" / "recurrent.py"
    return [sys.executable, *map(str, [script, "--data", data, "--cell", "gru", *RECURRENT, *more])]


@pytest.mark.parametrize("name", ["transfer-photos", "recurrent-series-gru"])
def test_everything_is_published(published, name):
    version = published / "models" / name / "1"
    assert [f for f in FILES if not (version / f).is_file()] == []
    assert (version / "variables").is_dir()
    assert (version / "assets").is_dir()
    assert list((version / "figures").glob("*.png"))
    assert [p.name for p in version.parent.iterdir()] == ["1"]
    page = (version / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is fetched


def test_transfer_metrics_are_those_of_the_predictions(published):
    version = published / "models" / "transfer-photos" / "1"
    metrics = json.loads((version / "metrics.json").read_text())
    rows = pd.read_csv(version / "predictions.csv")
    test = metrics["arms"]["pretrained"]["test"]
    assert test["n"] == len(rows) == metrics["data"]["test"]
    assert test["accuracy"] == pytest.approx((rows["truth"] == rows["prediction"]).mean())
    assert (rows["prediction"] == rows["prediction_pretrained_seed0"]).all()
    right = {name: rows[f"prediction_{name}"] == rows["truth"] for name in ("pretrained_seed0", "scratch_seed0")}
    difference = right["pretrained_seed0"].mean() - right["scratch_seed0"].mean()
    assert metrics["difference"]["accuracy"] == pytest.approx(difference)
    for name, baseline in metrics["baselines"].items():
        assert baseline["test"]["accuracy"] == pytest.approx((rows[f"prediction_{name}"] == rows["truth"]).mean())
    assert metrics["saved_model_check"]["items"] == len(rows) + 2  # pixels, and two files through serve_bytes
    assert set(metrics["arms"]) == {"pretrained", "frozen", "scratch"}
    frozen = (rows["prediction_frozen_seed0"] == rows["truth"]).mean()
    assert metrics["difference_frozen"]["accuracy"] == pytest.approx(test["accuracy"] - frozen)
    for name, share in test["recall"].items():
        assert share == pytest.approx((rows["prediction"] == name)[rows["truth"] == name].mean())
    curve = pd.DataFrame(metrics["learning_curve"])
    whole = curve.sort_values("per_class").groupby("arm")["accuracy"].last()
    assert whole["frozen"] == pytest.approx(frozen)
    assert whole["pixels"] == metrics["baselines"]["pixels"]["test"]["accuracy"]
    assert {"accuracy", "ci95", "p_value"} <= set(metrics["difference"])
    assert set(metrics["baselines"]) == {"majority", "pixels"}
    assert metrics["arms"]["pretrained"]["weights"]["origin"] == "bundled"
    card = json.loads((version / "model.json").read_text())
    assert card["temperature"] == test["temperature"]
    weights = (version / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert (version / "saved_model.pb").stat().st_size < 1.3 * weights  # its constants, once for all signatures
    head, fine_tune = metrics["arms"]["pretrained"]["phases"]
    assert head["trained_parameters"] == 576 * 2 + 2
    assert fine_tune["trained_parameters"] > 100_000
    assert len({phase["trained_parameters"] + phase["frozen_parameters"] for phase in (head, fine_tune)}) == 1
    assert set(test["sets"]) == {"level", "coverage", "mean_size", "coverage_by_class"}
    assert test["sets"]["level"] == card["set_level"] == 0.9


def test_sets_hold_the_classes_from_the_threshold_on(published):
    version = published / "models" / "transfer-photos" / "1"
    model = keras_a2.load(version)
    assert model.card["unfamiliar_threshold"] is None
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), np.uint8)
    expected = model.predict(images) >= model.card["set_threshold"]
    expected[np.arange(5), model.predict(images).argmax(axis=1)] = True
    np.testing.assert_array_equal(model.predict(images, sets=True), expected)
    rows = model.predict(published / "photos", sets=True)
    assert all(row["class"] == row["set"].split("|")[0] for _, row in rows.iterrows())
    assert "unfamiliar" not in rows  # three validation images are too few for a threshold
    assert model.embed(published / "photos").shape == (len(rows), 576)
    with pytest.raises(UserError, match="no images given"):
        model.embed([])
    judging = keras_a2.load(version)
    judging.card["unfamiliar_threshold"] = -1e6
    assert judging.predict(published / "photos").unfamiliar.all()
    del model.card["set_threshold"]  # as published by earlier versions
    with pytest.raises(UserError, match="without answer sets"):
        model.predict(images, sets=True)


def test_plain_keras_ends_with_figures_that_agree(published):
    plain, fast = (
        json.loads((published / folder / "transfer-photos" / "1" / "metrics.json").read_text())
        for folder in ("plain", "models")
    )
    assert plain["config"]["plain"]
    for arm, figures in plain["arms"].items():
        low, high = fast["arms"][arm]["test"]["accuracy_ci95"]
        assert low <= figures["test"]["accuracy"] <= high
    assert plain["baselines"] == fast["baselines"]


def test_recurrent_metrics_are_those_of_the_predictions(published):
    version = published / "models" / "recurrent-series-gru" / "1"
    metrics = json.loads((version / "metrics.json").read_text())
    rows = pd.read_csv(version / "predictions.csv")
    truth, forecast = (rows.filter(regex=f"^{kind}_").to_numpy() for kind in ("truth", "forecast"))
    assert set(metrics["models"]) == {"gru", "gru+combined"}
    test = metrics["models"][json.loads((version / "model.json").read_text())["forecaster"]]["test"]
    assert test["mae"] == pytest.approx(np.abs(truth - forecast).mean(), rel=1e-3)
    assert set(metrics["baselines"]) == {"persistence", "seasonal_naive", "ridge"}


def test_a_forecaster_of_plain_keras_errs_as_much(published):
    fast, plain = (
        json.loads((published / folder / "recurrent-series-gru" / "1" / "metrics.json").read_text())
        for folder in ("models", "plain")
    )
    assert plain["config"]["plain"]
    assert plain["baselines"] == fast["baselines"]
    errors = [metrics["models"]["gru"]["test"]["mae"] for metrics in (fast, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)  # dropout draws differ


def test_the_classifier_needs_tensorflow_only(published):
    version = published / "models" / "transfer-photos" / "1"
    picture = published / "photos" / "left" / "0.png"
    answer = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, version, picture], capture_output=True, text=True, cwd=published
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "(1, 2)"


def test_the_keras_file_loads_safely(published):
    import keras

    for name in ("transfer-photos", "recurrent-series-gru"):
        keras.saving.load_model(published / "models" / name / "1" / "model.keras", safe_mode=True)


def test_the_classifier_in_python(published):
    model = keras_a2.load(published / "models" / "transfer-photos")
    assert (model.classes, model.version) == (["left", "right"], 1)
    table = model.predict(published / "photos" / "left")
    assert len(table) == 16
    assert set(table["class"]) <= {"left", "right"}
    probability = model.predict(np.zeros((2, 30, 20, 3), np.uint8))
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(keras_a2.UserError, match="uint8"):
        model.predict(np.zeros((2, 30, 20, 3)))


def test_the_forecaster_in_python(published):
    model = keras_a2.load(published / "models" / "recurrent-series-gru")
    assert model.targets == ["load"]
    frame = pd.read_csv(published / "series.csv")
    answer = model.predict(published / "series.csv")
    assert answer.index[0] == pd.Timestamp("2024-01-21 00:00")
    assert answer["lead"].tolist() == [1, 2, 3, 4, 5, 6]
    shuffled = frame.assign(date=pd.to_datetime(frame["date"]))[["other", "load", "date"]]
    pd.testing.assert_frame_equal(model.predict(shuffled.tail(24), time="date"), answer, check_index_type=False)
    for found_by_itself in (shuffled, shuffled.assign(date=pd.to_datetime(shuffled["date"])).set_index("date")):
        pd.testing.assert_frame_equal(model.predict(found_by_itself), answer, check_index_type=False)
    with pytest.raises(keras_a2.UserError, match="no column 'other'"):
        model.predict(shuffled[["load", "date"]], time="date")
    with pytest.raises(keras_a2.UserError, match="needs its last 24"):
        model.predict(shuffled.tail(20), time="date")
    with pytest.raises(keras_a2.UserError, match="steps of"):
        model.predict(shuffled.iloc[::2], time="date")


def test_litert_files_agree_with_the_model(published, tmp_path):

    items = {"transfer-photos": published / "photos", "recurrent-series-gru": published / "series.csv"}
    for name, item in items.items():
        shutil.copytree(published / "models" / name, tmp_path / name)
        inference.export(inference.load(tmp_path / name), "litert", [item], None)
        facts = json.loads((tmp_path / name / "1" / "model.json").read_text())["litert"]
        assert facts["model.tflite"]["max_difference"] < 1e-3
        if name == "transfer-photos":  # the tiny forecaster has no tensor large enough to quantise
            assert facts["model.int8.tflite"]["bytes"] < 0.6 * facts["model.tflite"]["bytes"]
        assert (tmp_path / name / "1" / "model.int8.tflite").stat().st_size == facts["model.int8.tflite"]["bytes"]


def test_onnx_file_agrees_with_the_model(published, tmp_path):

    items = {"transfer-photos": published / "photos", "recurrent-series-gru": published / "series.csv"}
    for name, item in items.items():
        shutil.copytree(published / "models" / name, tmp_path / name)
        inference.export(inference.load(tmp_path / name), "onnx", [item], None)
        facts = json.loads((tmp_path / name / "1" / "model.json").read_text())["onnx"]["model.onnx"]
        assert facts["max_difference"] < 1e-3
        assert facts["bytes"] == (tmp_path / name / "1" / "model.onnx").stat().st_size


def test_predict_streams_a_folder_with_a_broken_file(published, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i in range(70):
        (tmp_path / "in" / f"{i:02d} ö'.png").symlink_to(published / "photos" / "left" / "0.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no")
    model = inference.load(published / "models" / "transfer-photos")
    inference.classify(model, [tmp_path / "in"], 1, tmp_path / "out.csv")
    rows = pd.read_csv(tmp_path / "out.csv")
    assert len(rows) == 71
    assert rows["error"].notna().sum() == 1
    assert np.ptp(rows["probability"].dropna()) < 1e-5  # the last, smaller batch may round differently
    inference.classify(model, [tmp_path / "in"], 2, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum(p["probability"] for p in lines[0]["predictions"]) == pytest.approx(1, abs=1e-5)


def test_many_files_through_litert_are_predicted_as_by_the_saved_model(published, tmp_path, monkeypatch):

    from keras_a2.transfer import predict

    files = sorted((published / "photos").rglob("*.png"))
    model = inference.load(published / "models" / "transfer-photos")
    few = list(model.stream(files, 2))
    monkeypatch.setattr(predict, "MANY", len(files))
    for one, other in zip(few, model.stream(files, 2), strict=True):
        few_answer, many_answer = (dict(zip(p.classes, p.probabilities, strict=True)) for p in (one, other))
        assert many_answer == pytest.approx(few_answer, abs=1e-4)
    with monkeypatch.context() as patched:  # its removal is announced
        patched.delattr(tf.lite, "TFLiteConverter")
        for one, other in zip(few, model.stream(files, 2), strict=True):
            assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)
        with pytest.raises(keras_a2.UserError, match="no LiteRT converter"):
            inference.export(model, "litert", [published / "photos"], None)
    assert not list(model.folder.glob("*.tflite"))
    # Another network's model.keras beside this SavedModel must not answer in its place.
    shutil.copytree(model.folder, tmp_path / "1")
    network = keras.saving.load_model(tmp_path / "1" / "model.keras")
    network.set_weights([w + 0.3 for w in network.get_weights()])
    network.save(tmp_path / "1" / "model.keras")
    with pytest.raises(keras_a2.UserError, match="were they published together"):
        next(inference.load(tmp_path / "1").stream(files))
    (tmp_path / "1" / "model.keras").write_bytes(b"damaged")
    with pytest.raises(keras_a2.UserError, match="cannot be loaded"):
        next(inference.load(tmp_path / "1").stream(files))


def test_predict_and_list_from_the_command_line(published, tmp_path):
    model = [published / "models" / "recurrent-series-gru", published / "series.csv"]
    answer, mapped, listed = run_scripts(
        ["predict", *model, "--output", tmp_path / "f.csv", "--figure", tmp_path / "f.png"],
        [
            "predict",
            published / "models" / "transfer-photos",
            published / "photos" / "left",
            "--maps",
            tmp_path / "maps",
        ],
        ["predict", "--list", "--models", published / "models"],
    )
    assert answer.returncode == 0, answer.stderr
    assert mapped.returncode == 0, mapped.stderr
    pictures = sorted((tmp_path / "maps").iterdir())
    assert [path.name for path in pictures][:2] == ["01_0.png", "02_1.png"]
    assert len({Image.open(path).size for path in pictures}) == 1
    assert len(pd.read_csv(tmp_path / "f.csv")) == 6
    assert Image.open(tmp_path / "f.png").width > 100
    assert "transfer-photos" in listed.stdout
    assert "recurrent-series-gru" in listed.stdout


def test_an_update_publishes_the_next_version_trained_on_the_new_rows_too(published, tmp_path):
    model, name = tmp_path / "models", "recurrent-series-gru"
    shutil.copytree(published / "models" / name, model / name)
    later = pd.date_range("2024-01-21", periods=48, freq="h")
    wave = 10 + 5 * np.sin(2 * np.pi * np.arange(48) / 24)
    pd.DataFrame({"date": later, "load": wave, "other": -wave}).to_csv(tmp_path / "new.csv", index=False)
    answer = run_script("predict", model / name, tmp_path / "new.csv", "--update")
    assert answer.returncode == 0, answer.stderr
    assert "on 48" in answer.stdout
    old, new = (json.loads((model / name / version / "model.json").read_text())["data"] for version in "12")
    assert (old["rows"], new["rows"]) == (480, 528)
    assert new["last"] == str(later[-1])
    update = json.loads((model / name / "2" / "metrics.json").read_text())["update"]
    assert (update["version"], update["rows"], update["windows"]) == (1, 48, 43)
    answers = [keras_a2.load(model / name / version).predict(tmp_path / "new.csv") for version in "12"]
    assert answers[0].index[0] == answers[1].index[0] == pd.Timestamp("2024-01-23")


@pytest.mark.parametrize("damage", ["card", "types", "variables", "file"])
def test_damaged_models_are_one_clear_error(published, tmp_path, damage):

    copy = tmp_path / "model" / "1"
    shutil.copytree(published / "models" / "transfer-photos" / "1", copy)
    if damage == "card":
        (copy / "model.json").write_text("{")
    elif damage == "types":
        card = json.loads((copy / "model.json").read_text())
        (copy / "model.json").write_text(json.dumps(card | {"classes": {"../../x": 1}}))
    elif damage == "variables":
        next((copy / "variables").glob("*.data*")).unlink()
    else:
        shutil.rmtree(copy)
        copy.write_text("x")
    with pytest.raises(keras_a2.UserError) as error:
        keras_a2.load(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_killed_and_resumed_gives_the_uninterrupted_figures(published, tmp_path):
    series, original = tmp_path / "series.csv", (published / "series.csv").read_bytes()
    series.write_bytes(original)
    options = ["--epochs", 40, "--patience", 40, "--resume", "--output"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = recurrent_command(series, *options, tmp_path / "killed")
    with (
        subprocess.Popen(recurrent_command(published / "series.csv", *options, tmp_path / "whole"), **quiet) as whole,
        subprocess.Popen(command, **quiet) as killed,
    ):
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("killed/*/.work-*/*.npz")) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not list(tmp_path.glob("killed/*/[0-9]*"))
        series.write_bytes(original.replace(b"\n2024-01-02 00:00:00,", b"\n2024-01-02 00:00:00,9", 1))
        refused = subprocess.run(command, capture_output=True, text=True)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: the data changed since the run was interrupted")
        series.write_bytes(original)
        resumed = subprocess.run(command, capture_output=True, text=True)
        assert resumed.returncode == 0, resumed.stderr
        assert "a new run starts" not in resumed.stdout
    assert whole.returncode == 0
    figures = []
    for folder in ("killed", "whole"):
        metrics = json.loads((tmp_path / folder / "recurrent-series-gru" / "1" / "metrics.json").read_text())
        figures.append({name: found["test"] for name, found in metrics["models"].items()})
    assert figures[0] == figures[1]
    assert not list(tmp_path.glob("*/*/.work*"))


def test_ctrl_c_stops_within_two_seconds_and_says_how_to_go_on(published, tmp_path):
    command = recurrent_command(
        published / "series.csv", "--epochs", 500, "--patience", 500, "--output", tmp_path / "models"
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("models/*/.work-*/run")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # in the middle of tracing
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    message = process.communicate(timeout=10)[1]
    assert time.monotonic() - asked < 2
    assert process.returncode == 130
    assert message.strip() == "interrupted; to resume, repeat the command with --resume"


@pytest.fixture(scope="module")
def failed(published, tmp_path_factory) -> dict[str, tuple[str, Path]]:
    """What three runs that fail say, and their output folders: two diverge, one meets a full disk."""
    import resource

    def small_disk():  # a limit on the size of files fails where a full disk would
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    root = tmp_path_factory.mktemp("failed")
    diverging = ["--data", published / "series.csv", "--cell", "simple_rnn", *RECURRENT, "--loss", "mse"]
    full_disk = recurrent_command(published / "series.csv", "--units", 64, "--output", root / "full disk")
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(full_disk, preexec_fn=small_disk, **pipes) as process:
        answers = run_scripts(
            ["recurrent", *diverging, "--learning-rate", 1e6, "--output", root / "large loss"],
            ["recurrent", *diverging, "--learning-rate", 1e30, "--output", root / "no number"],
        )
        message = process.communicate()[1]
    assert [process.returncode, *(answer.returncode for answer in answers)] == [2, 2, 2]
    messages = {"large loss": answers[0].stderr, "no number": answers[1].stderr, "full disk": message}
    return {name: (message, root / name) for name, message in messages.items()}


def test_a_full_disk_is_one_line_and_publishes_nothing(failed):
    message, output = failed["full disk"]
    assert message.startswith("error: File too large")
    assert len(message.strip().splitlines()) == 1
    assert not list(output.glob("*/[0-9]*"))


@pytest.mark.parametrize("how", ["large loss", "no number"])
def test_divergence_is_one_line_and_leaves_nothing(failed, how):
    message, output = failed[how]
    assert "diverged in epoch" in message
    assert len(message.strip().splitlines()) == 1
    assert not output.exists()
