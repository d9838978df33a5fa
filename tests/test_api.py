"""``keras_a2.train_images`` and ``train_series``: the scripts' options and functions, from Python."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import keras_a2
from keras_a2 import api, experiments, saved_model, settings
from keras_a2.errors import UserError
from keras_a2.recurrent import sources
from keras_a2.runs import environment


@pytest.fixture
def runs(monkeypatch):
    """The configurations that the scripts' ``main`` is called with; nothing is trained."""
    configurations: list = []

    def main(config):
        configurations.append((config, environment()["command"]))

    for script in ("transfer", "recurrent"):
        experiment = importlib.import_module(f"keras_a2.experiments.{script}")
        monkeypatch.setattr(experiment, "main", main)
    monkeypatch.setattr(api, "load", Path)
    return configurations


@pytest.fixture
def sales():
    times = pd.date_range("2024-01-01", periods=60, freq="D", name="day")
    return pd.DataFrame({"sales": np.arange(60.0), 7: 1.0}, index=times)


def test_the_package_is_imported_without_tensorflow_and_pandas():
    heavy = "import keras_a2, sys; print([name for name in ('tensorflow', 'keras', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_folder_and_options_reach_the_script(runs, photos, tmp_path):
    model = keras_a2.train_images(photos, image_size=np.int64(64), scratch=False, output=tmp_path / "models")
    assert model == tmp_path / "models" / "transfer-photos"
    ((config, command),) = runs
    assert config.data.data == str(photos)
    assert (config.data.image_size, config.control.scratch, config.run.name) == (64, False, "transfer-photos")
    # The report says how to run it again: not the command line of a notebook's kernel.
    assert command.startswith(
        f"python experiments/transfer.py --data {photos} --name transfer-photos --image-size 64 --no-scratch "
    )
    assert settings.flat(settings.parse(type(config), shlex.split(command)[2:])) == settings.flat(config)
    assert environment()["command"] == shlex.join([Path(sys.executable).name, *sys.argv])


def test_a_table_reaches_the_script_with_its_times(runs, sales, tmp_path):
    model = keras_a2.train_series(sales, target="sales", cell="lstm", name="shop", output=tmp_path)
    assert model == tmp_path / "shop"
    ((config, command),) = runs
    assert command.endswith(f" --data {config.series.data} --name shop --target sales --cell lstm --output {tmp_path}")
    assert (config.series.target, config.network.cell) == ("sales", "lstm")
    table = sources.find(config.series.data, "sales", None, None)
    pd.testing.assert_index_equal(table.time, sales.index, exact="equiv", check_names=False)
    np.testing.assert_array_equal(table.frame["sales"], sales["sales"])


def test_a_file_keeps_the_name_that_the_script_gives_it(runs, series, tmp_path):
    assert keras_a2.train_series(str(series), "load", output=tmp_path) == tmp_path / "recurrent-series-gru"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imagesize": 64}, "there is no option imagesize; did you mean image_size?"),
        ({"image_size": "64"}, "image_size is '64'; it must be int"),
        ({"fit": "pads"}, "fit is 'pads'; it must be 'squash' or 'pad' or 'crop'"),
        ({"scratch": 1}, "scratch is 1; it must be bool"),
        ({"jobs": 1.5}, "jobs is 1.5; it must be int or 'auto' or 'ray'"),
        ({"learning_rate": True}, "learning_rate is True; it must be float or None"),
    ],
)
def test_an_unknown_option_or_a_value_of_another_type_is_refused(runs, options, message):
    with pytest.raises(keras_a2.UserError) as refusal:
        keras_a2.train_images("digits", **options)
    assert str(refusal.value) == message
    assert runs == []


@pytest.mark.parametrize("options", [{"cells": "gru"}, {"cell": "all"}, {"name": "../up"}])
def test_a_refused_series_leaves_nothing_behind(runs, sales, tmp_path, options):
    with pytest.raises(keras_a2.UserError):
        keras_a2.train_series(sales, target="sales", output=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_no_file_can_hold_is_refused(runs, tmp_path):
    mixed = pd.DataFrame({"sales": [1, "two", 3.0]})
    with pytest.raises(keras_a2.UserError, match="the table cannot be saved"):
        keras_a2.train_series(mixed, "sales", output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_the_report_and_an_error_in_one_line(tmp_path):
    (tmp_path / "report.html").write_text('<p class="x">a & b</p>')
    model = saved_model.SavedModel(None, {"headline": "accuracy 80.6 %"}, tmp_path)
    assert repr(model) == f"SavedModel of {tmp_path}: accuracy 80.6 %"
    shown = model._repr_html_()
    assert 'srcdoc="&lt;p class=&quot;x&quot;&gt;a &amp; b&lt;/p&gt;"' in shown
    assert keras_a2.UserError("no such\nfile")._render_traceback_() == ["error: no such file"]


def test_an_installed_package_names_commands_that_it_has(tmp_path, monkeypatch):
    assert experiments.command("predict") == "python experiments/predict.py"
    monkeypatch.setattr(experiments, "__path__", [str(tmp_path / "keras_a2" / "scripts")])  # as a wheel has it
    assert experiments.command("predict") == "python -m keras_a2.scripts.predict"
    with pytest.raises(UserError, match="predict --list` shows"):
        saved_model.latest_version(tmp_path / "nowhere")
