"""The local page: what it answers, what it refuses, where it listens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from keras_a2 import demo
from keras_a2.errors import UserError
from keras_a2.transfer.predict import Prediction

pytestmark = pytest.mark.slow


class Classifier:
    """Answers like a published classifier, without training one."""

    version = 3
    card: ClassVar = {"experiment": "transfer", "headline": "accuracy 90 %"}
    folder = Path("saved_models/thing/3")
    describes = True

    def stream(self, files, top, maps):
        for path in files:
            if path.stat().st_size < 10:
                yield Prediction(str(path), error="cut short")
            else:
                mapped = np.full((8, 8, 3), 200, np.uint8) if maps else None
                yield Prediction(str(path), ("left", "right"), (0.75, 0.25), "", ("left",), True, mapped)


class Forecaster:
    """Answers like a published forecaster."""

    version, unit, targets, look_back, horizon = 1, "MW", ("load",), 2, 2
    card: ClassVar = {"experiment": "recurrent"}
    folder = Path("saved_models/thing/1")

    def decimals(self, digits):
        return {"load": 3, "lower_80": 1, "upper_80": 1}

    def ends(self, target):
        return [(80.0, "lower_80", "upper_80")]

    def forecast(self, path):
        if "load" not in pd.read_csv(path):
            raise UserError(f"{path} has no column 'load'")
        load = np.array([3.0, 7.63704])
        seen = pd.DataFrame({"load": [1.0, 2.0]}, index=pd.Index([-1, 0], name="step"))
        forecast = {"lead": [1, 2], "load": load, "lower_80": load - 1, "upper_80": load + 1}
        return seen, pd.DataFrame(forecast, index=pd.Index([1, 2], name="step"))


@pytest.fixture
def client():
    pages = []

    def open_page(model) -> Client:
        pages.append(demo.serve(model, None, block=False))
        return Client(pages[-1].local_url, verbose=False)

    yield open_page
    for page in pages:
        page.close()


def test_an_image_gets_its_classes_and_a_broken_one_its_reason(client, photos, tmp_path):
    page = client(Classifier())
    answer, mapped, notes = page.predict(handle_file(photos / "left" / "0.png"), api_name="/classify")
    assert answer["label"] == "left"
    assert np.asarray(Image.open(mapped).convert("RGB")).mean() == pytest.approx(200, abs=2)
    assert notes.startswith("Set: left. Unfamiliar:")
    assert [c["confidence"] for c in answer["confidences"]] == [0.75, 0.25]
    (tmp_path / "b.bmp").write_bytes(b"BM")
    with pytest.raises(AppError, match="the image cannot be used: cut short"):
        page.predict(handle_file(tmp_path / "b.bmp"), api_name="/classify")


def test_a_series_gets_its_forecast_and_a_wrong_one_its_reason(client, series, tmp_path):
    page = client(Forecaster())
    plot, table = page.predict(handle_file(series), api_name="/forecast")
    assert plot["plot"].startswith("data:image")
    assert table["data"] == [[1, 1, 3, 2, 4], [2, 2, 7.637, 6.6, 8.6]]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(AppError, match=r"other\.csv has no column 'load'"):
        page.predict(handle_file(tmp_path / "other.csv"), api_name="/forecast")
    (tmp_path / "notes.txt").write_text("load")
    with pytest.raises(AppError, match="Invalid file type"):
        page.predict(handle_file(tmp_path / "notes.txt"), api_name="/forecast")


def test_large_uploads_are_refused(client, tmp_path):
    page = client(Forecaster())
    (tmp_path / "large.csv").write_bytes(b"x" * (21 * 2**20))
    with pytest.raises(Exception, match=r"413|too large|maximum"):
        page.predict(handle_file(tmp_path / "large.csv"), api_name="/forecast")


def test_it_listens_on_this_machine_only(client):
    page = demo.serve(Classifier(), None, block=False)
    assert page.local_url.startswith("http://127.0.0.1:")
    port = int(page.local_url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(UserError, match="--port"):
        demo.serve(Classifier(), port, block=False)
    page.close()


@pytest.fixture(scope="module")
def address():
    page = demo.serve(Classifier(), None, block=False)
    yield page.local_url
    page.close()


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Host", "localhost", 200),
        ("Host", "[::1]:7860", 200),
        ("Origin", "itself", 200),
        ("Host", "evil.example", 403),
        ("Host", "127.0.0.1.evil.example:7860", 403),
        ("Host", "[::1", 403),
        ("Origin", "http://evil.example", 403),
        ("Origin", "http://localhost:1", 403),
        ("Origin", "null", 403),
    ],
)
def test_only_this_machine_s_own_pages_are_answered(address, name, value, status):
    value = address.rstrip("/") if value == "itself" else value
    request = urllib.request.Request(f"{address}config", headers={name: value})
    try:
        got = urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        got = error.code
    assert got == status


def test_uploads_lie_in_a_private_folder(client, photos):
    page = client(Classifier())
    page.predict(handle_file(photos / "left" / "0.png"), api_name="/classify")
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert list(folder.rglob("0.png"))
    assert folder.stat().st_mode & 0o077 == 0


def test_the_upload_folder_goes_however_the_process_ends():
    code = "import time; from keras_a2 import demo; print(demo.upload_folder(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()
