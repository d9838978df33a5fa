"""A published forecaster in use."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import recurrent
from conftest import load_script
from keras_a2 import inference, settings
from keras_a2.errors import UserError
from keras_a2.recurrent import data as series_data
from keras_a2.recurrent import predict

CARD = {
    "inputs": ["co2"], "targets": ["co2"], "unit": "ppm", "look_back": 3, "horizon": 4, "every": 1, "first_lead": 1,
    "max_gap": 1, "spacing_seconds": 7 * 86400.0, "typical_errors": [1.3],
}  # fmt: skip


def published(folder: Path = Path("saved_models/co2/1"), **changes) -> predict.Forecaster:
    """A published model that adds 1/3, 2/3, ... to the last value; half of its intervals' widths are 0.5 and 1."""

    def serve(windows):
        last = windows[:, -1, : len(card["targets"])]
        return np.squeeze(last[:, None] + np.arange(1, 5)[:, None] / 3, 2 if last.shape[1] == 1 else ())

    def serve_intervals(windows):
        return serve(windows)[..., None] + np.array([-0.5, 0.5, -1, 1])

    card = CARD | changes
    return predict.Forecaster(SimpleNamespace(serve=serve, serve_intervals=serve_intervals), card, folder)


@pytest.fixture
def co2() -> pd.DataFrame:
    time = pd.date_range("2001-01-06", periods=5, freq="7D", name="time")
    return pd.DataFrame({"co2": [370.0, 370.5, 371.0, 371.5, 371.8]}, index=time)


def test_the_series_of_a_file_are_read_with_the_spacing_that_training_was_given():
    facts = {"column": None, "wide": False, "season": 1, "logarithms": True, "step_seconds": None}
    facts |= {"spacing": "1 business day", "freq": "B"}
    forecaster = published(many_series=facts, inputs=["y"], targets=["y"], levels=[95])
    days = pd.date_range("2024-01-01", periods=5, freq="B")  # a week: no weekend shows that it is none of plain days
    answer = forecaster.predict(pd.DataFrame({"unique_id": "a", "ds": days, "y": [1.0, 2, 3, 4, 0]}))
    assert answer["ds"].tolist() == pd.date_range("2024-01-08", periods=4, freq="B").tolist()


@pytest.mark.parametrize(("error", "shown"), [(1.3, "372.1"), (0.13, "372.13"), (13.0, "372")])
def test_a_forecast_has_the_digits_of_its_error_not_of_its_level(co2, error, shown, tmp_path, capsys):
    co2.to_csv(tmp_path / "co2.csv")
    forecaster = published(typical_errors=[error])
    inference.forecast(forecaster, tmp_path / "co2.csv", None, None, None)
    assert f" {shown} " in capsys.readouterr().out
    inference.forecast(forecaster, tmp_path / "co2.csv", None, tmp_path / "f.csv", None)
    assert pd.read_csv(tmp_path / "f.csv")["co2"][0] == pytest.approx(371.8 + 1 / 3, abs=error / 1000)
    assert len((tmp_path / "f.csv").read_text().splitlines()[1].split(",")[-1]) <= len(shown) + 3


def test_the_figure_of_a_forecast_begins_with_what_was_seen(co2):
    forecaster = published(inputs=["US$_$"], targets=["US$_$"], unit="")
    seen, forecast = forecaster.forecast(co2.rename(columns={"co2": "US$_$"}))
    figure = predict.plot(forecaster, seen, forecast)
    figure.savefig(io.BytesIO())
    past, future = figure.axes[0].get_lines()[:2]
    np.testing.assert_allclose(past.get_ydata(), [371.0, 371.5, 371.8])
    np.testing.assert_allclose(future.get_ydata(), 371.8 + np.arange(1, 5) / 3)
    assert list(past.get_xdata()) == list(co2.index[-3:])
    assert figure.axes[0].get_ylabel() == "US$_$"


def test_a_forecast_has_the_ends_of_its_intervals(co2, tmp_path, capsys):
    forecaster = published(levels=[80, 95])
    answer = forecaster.predict(co2)
    assert list(answer) == ["lead", "co2", "lower_80", "upper_80", "lower_95", "upper_95"]
    np.testing.assert_allclose(answer["co2"], 371.8 + np.arange(1, 5) / 3)
    np.testing.assert_allclose(answer["upper_80"] - answer["co2"], 0.5)
    np.testing.assert_allclose(answer["co2"] - answer["lower_95"], 1)
    assert forecaster.intervals(np.full((2, 3, 1), 371.8))[1, 3, 0] == pytest.approx(
        371.8 + 4 / 3 + np.array([[-0.5, 0.5], [-1, 1]])
    )
    co2.to_csv(tmp_path / "co2.csv")
    inference.forecast(forecaster, tmp_path / "co2.csv", None, tmp_path / "f.csv", None)
    assert pd.read_csv(tmp_path / "f.csv")["lower_80"][0] == pytest.approx(371.633, abs=1e-3)
    inference.forecast(forecaster, tmp_path / "co2.csv", None, None, tmp_path / "f.png")
    shown = capsys.readouterr().out
    assert "371.6 to 372.6" in shown
    assert "371.1 to 373.1" in shown
    fans = predict.plot(forecaster, *forecaster.forecast(co2)).axes[0].collections
    assert [fan.get_label() for fan in fans] == ["95 %", "80 %"]


@pytest.mark.parametrize("new", [0, 1, 10])
def test_intervals_follow_the_rows_that_came_after_training(new):
    time = pd.date_range("2001-01-06", periods=30, freq="7D", name="time")
    values = pd.DataFrame({"co2": 370 + np.arange(30) / 3}, index=time)  # rises as the model expects
    forecaster = published(levels=[80, 95], data={"last": str(time[29 - new])})
    answer = forecaster.predict(values)
    # Of a width of 1 the upper end comes nearer by 0.1 * 0.2 / lead for each value that is known by now.
    counts = np.maximum(new - np.arange(4), 0)
    np.testing.assert_allclose(answer["upper_80"] - answer["co2"], 0.5 - 0.02 * counts / np.arange(1, 5))
    np.testing.assert_allclose(answer["co2"] - answer["lower_95"], 1 - 2 * 0.005 * counts / np.arange(1, 5), rtol=1e-6)


def test_each_of_several_targets_has_its_own_intervals():
    names = ["a", "b", "c"]
    forecaster = published(inputs=names, targets=names, levels=[80], spacing_seconds=None, typical_errors=[1, 1, 1])
    forecaster.loaded.serve_intervals = lambda w: np.stack([w[:, -1:] - [1, 2, 3], w[:, -1:] + [4, 5, 6]], -1).repeat(
        4, axis=1
    )
    answer = forecaster.predict(pd.DataFrame(np.arange(30.0).reshape(10, 3), columns=names))
    assert list(answer)[1:] == ["a", "a_lower_80", "a_upper_80", "b", "b_lower_80", "b_upper_80", *list(answer)[7:]]
    assert answer.loc[4, ["a_lower_80", "b_upper_80", "c_lower_80"]].tolist() == [27 - 1, 28 + 5, 29 - 3]


def test_a_model_without_intervals_forecasts_as_before(co2):
    assert list(published().predict(co2)) == ["lead", "co2"]
    with pytest.raises(UserError, match="without intervals"):
        published().check(co2)


@pytest.fixture
def rising() -> pd.DataFrame:
    """Twenty weeks that rise by a third, which the model expects, with one step of 5 and one value missing."""
    time = pd.date_range("2001-01-06", periods=20, freq="7D", name="time")
    values = 370 + np.arange(20) / 3
    values[12:] += 5
    values[16] = np.nan
    return pd.DataFrame({"co2": values}, index=time)


def test_rows_outside_their_interval_are_marked(rising, tmp_path, capsys):
    rising.to_csv(tmp_path / "rising.csv")
    forecaster = published(levels=[80, 95])
    checked = forecaster.check(rising)
    assert list(checked.index) == [time for time in rising.index[3:] if time != rising.index[16]]
    assert list(checked.index[checked["outside"]]) == [rising.index[12]]
    row = checked.loc[rising.index[12]]
    assert row[["forecast", "lower", "upper"]].tolist() == pytest.approx([374, 373, 375])
    inference.check(forecaster, tmp_path / "rising.csv", None, None)
    shown = capsys.readouterr().out
    assert "1 of 16 values (6.2 %) lie outside their 95 % interval" in shown
    assert "373.0 to 375.0" in shown
    inference.check(forecaster, tmp_path / "rising.csv", None, tmp_path / "checked.csv")
    assert pd.read_csv(tmp_path / "checked.csv")["outside"].sum() == 1


def test_new_rows_are_measured_and_the_recipe_is_that_of_the_card(tmp_path):
    time = pd.date_range("2001-01-06", periods=30, freq="7D", name="time")
    whole = pd.DataFrame({"co2": 370.0 + np.arange(30)}, index=time)
    whole[:20].to_csv(tmp_path / "old.csv")
    whole[18:].to_csv(tmp_path / "new.csv")  # two rows were known
    whole.to_csv(tmp_path / "whole.csv")
    config = recurrent.Config(
        recurrent.splits.Options(data=str(tmp_path / "old.csv"), target="co2", look_back=3, horizon=4, split="10,5,5"),
        recurrent.NetworkOptions(cell="all", input_dropout=0.25),
    )
    recorded = json.loads(json.dumps(settings.flat(config), default=str)) | {"an_option_of_long_ago": 1}
    folder = tmp_path / "models" / "co2" / "3"
    folder.mkdir(parents=True)
    tests = {"models": {"gru": {"test": {"mae": 1.5, "coverage": {"80": 0.8, "95": 0.9}}}}, "baselines": {}}
    (folder / "metrics.json").write_text(json.dumps({"config": recorded, **tests}))
    data = {"rows": 20, "first": str(time[0]), "last": str(time[19])}
    card = {"data": data, "levels": [80, 95], "forecaster": "gru", "cell": "gru", "version": 3}
    for file, series in (("new.csv", f"{tmp_path / 'old.csv'},{tmp_path / 'new.csv'}"), ("whole.csv", "whole.csv")):
        recipe, measured = predict.updated_recipe(published(folder, **card), recurrent.Config, tmp_path / file)
        assert recipe.series.data.endswith(series)
        assert (recipe.network, recipe.series.split) == (config.network.__class__("gru", input_dropout=0.25), "20,5,5")
        assert (recipe.run.output, recipe.run.name) == (tmp_path / "models", "co2")
        # The rows rise by 1 where the model adds a third: an error of 2/3 at the first lead, 8/3 at the fourth. Of the
        # widths 1 and 2 the upper ends rise by 0.18 and 0.39 over the lead with each value above: 5 and 11 of 28 reach.
        assert measured == {
            "version": 3, "rows": 10, "windows": 7, "mae": pytest.approx(5 / 3),
            "coverage": {"80": pytest.approx(5 / 28), "95": pytest.approx(11 / 28)},
            "promised_mae": 1.5, "promised_coverage": {"80": 0.8, "95": 0.9},
        }  # fmt: skip
        assert len(series_data.load(recipe.series).values) == 30
    with pytest.raises(UserError, match="no row after"):
        predict.updated_recipe(published(folder, **card), recurrent.Config, tmp_path / "old.csv")
    with pytest.raises(UserError, match="train it again"):
        predict.updated_recipe(published(folder, **card | {"data": {}}), recurrent.Config, tmp_path / "new.csv")


def test_the_next_version_is_trained_by_the_recipe_and_records_what_was_measured(monkeypatch, capsys):
    script, trained = load_script("predict"), []
    measured = {"version": 1, "rows": 9, "windows": 4, "mae": 2.5, "coverage": {}, "promised_mae": 2.0}
    monkeypatch.setattr(predict, "updated_recipe", lambda *_: ("recipe", measured | {"promised_coverage": None}))
    experiment = importlib.import_module("keras_a2.experiments.recurrent")  # also where no script is on the path
    monkeypatch.setattr(experiment, "main", lambda *given: trained.append(given))
    script.update(published(), script.Config(items=(Path("new.csv"),)))
    ((recipe, recorded),) = trained
    assert (recipe, recorded["mae"]) == ("recipe", 2.5)
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("on 9", "new", "rows", "2.00", "2.50"))
