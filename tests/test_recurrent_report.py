"""What a forecaster's run leaves for people: sentences, figures and files."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from keras_a2.recurrent import baselines, data, evaluate, figures, panel_report, report, sources
from keras_a2.recurrent.splits import Options


def test_predictions_have_the_digits_that_their_errors_need(meter):
    windows = data.prepare(meter, Options(look_back=24, horizon=6, calendar=False))
    test = windows.origins["test"]
    forecast = baselines.Persistence().forecast(windows, test)
    published = SimpleNamespace(forecast=forecast, ends=np.stack([forecast - 1, forecast + 2]))
    rows = pd.read_csv(io.StringIO(report.predictions(windows, published, {"levels": [80.0]}).to_csv(index=False)))
    readings = meter.frame["reading"].to_numpy()
    persistence = np.abs(readings[test[:, None] + np.arange(1, 7)] - readings[test][:, None]).mean()  # about 3.5
    error = (rows.filter(like="truth_").to_numpy() - rows.filter(like="forecast_").to_numpy()).ravel()
    assert np.abs(error).mean() == pytest.approx(persistence, rel=1e-3)
    np.testing.assert_allclose(rows["truth_1"], readings[test + 1], atol=1e-3, rtol=0)
    assert len(rows["truth_1"].astype(str)[0]) == len("120000123.456")
    width = rows["upper_80_6"] - rows["lower_80_6"]
    np.testing.assert_allclose(width, 3 * windows.target_scale[0], atol=2e-3)


def test_the_headline_claims_no_more_than_its_intervals_and_tests():
    sure = {"skill": 0.3, "skill_ci95": [0.2, 0.4], "verdict": "better"}
    unsure = {"skill": 0.02, "skill_ci95": [-0.1, 0.1], "verdict": "not shown"}
    test = {"mae": 1.0, **sure, "against_persistence": sure | {"skill": 0.25}, "against_ridge": unsure}
    test |= {"coverage": {"80": 0.75, "95": 0.95}, "coverage_ci95": {"80": [0.7, 0.79], "95": None}}
    line = {"test": test, "combination": {"naive": 0.2, "ridge": 0.0, "network": 0.8}}
    metrics = {
        "data": {"unit": "°C"},
        "baselines": {"ridge": {"test": {"mae": 1.02}}, "persistence": {"test": {"mae": 1.33}}},
        "best_naive_test": {"mae": 1.43},
        "hardest_naive": "persistence",
        "models": {"gru+combined": line},
    }
    text = report.headline(metrics, "gru+combined")
    assert (
        "GRU + combined, 20 % naive, 80 % network. Mean absolute error 1.00 °C; 25.0 % (20.0 to 40.0) lower than "
        "persistence, the best naive on the test split (1.33); 30.0 % (20.0 to 40.0) lower than the naive chosen on "
        "validation (1.43)"
    ) in text
    assert (
        "Of the test values 75.0 % in 80 % intervals and 95.0 % in 95 % intervals; the 80 % intervals miss their level "
        "by more than chance."
    ) in text
    assert "no evidence that it beats ridge regression (1.02): skill 2.0 % (-10.0 to 10.0)" in text
    assert (
        report.card_headline(metrics, "gru+combined")
        == "MAE 1.00 °C; 25.0 % (20.0 to 40.0) lower than persistence (1.33)"
    )
    worse = {"skill": -0.3, "skill_ci95": [-0.4, -0.2], "verdict": "worse"}
    test |= worse
    metrics["hardest_naive"] = "best_naive"
    text = report.headline(metrics, "gru+combined")
    assert "30.0 % (20.0 to 40.0) HIGHER than the best naive of each lead, the best naive on the test split" in text
    test |= {"skill": -0.3, "skill_ci95": None, "dm_p_value": None, "verdict": "too short to tell"}
    text = report.headline(metrics, "gru+combined")
    assert "too few independent test windows to tell it from the best naive of each lead" in text
    assert "HIGHER" not in text
    assert report.card_headline(metrics, "gru+combined").startswith("MAE 1.00 °C; too few independent test windows")
    line["combination"] = {"naive": 1.0, "ridge": 0.0, "network": 0.0}
    assert report.headline(metrics, "gru+combined").startswith("The naive forecast is published: validation does not")
    assert report.card_headline(metrics, "gru+combined").startswith("the naive itself; MAE 1.00 °C")


def test_the_recipe_says_what_is_published():
    metrics = {
        "data": {"unit": "MW"}, "folds": 3, "refit": True,
        "backtest": [{"mae": 1.0, "best_naive_mae": 3.0}, {"mae": 2.0, "best_naive_mae": 4.0}],
    }  # fmt: skip
    assert report.recipe(metrics) == (
        "The weights come from 3 validation blocks. The published model was trained again on every row; the figures "
        "belong to the recipe, measured on rows held out. Trained again before each of 2 blocks of the test split it "
        "errs by 1.50 MW on average (1.00 to 2.00), the naive by 3.50."
    )
    assert report.recipe(metrics | {"refit": False, "folds": 1, "backtest": []}) == (
        "The weights come from 1 validation block."
    )


def test_an_update_stands_beside_what_was_promised():
    update = {
        "version": 1,
        "rows": 40,
        "windows": 17,
        "promised_mae": 2.0,
        "mae": 2.5,
        "coverage": {"80": 0.7, "95": 0.9},
    }
    header, rows = report.update_rows(update | {"promised_coverage": {"80": 0.8}})
    assert header == ["", "promised by version 1", "on 40 new rows"]
    assert rows == [["MAE", "2.00", "2.50"], ["inside 80 %", "80.0 %", "70.0 %"], ["inside 95 %", "", "90.0 %"]]
    _, rows = report.update_rows(update | {"windows": 0, "mae": None, "coverage": None})
    assert rows == [["MAE", "2.00", "too few rows for a forecast"]]


@pytest.mark.parametrize(
    ("freq", "lead", "every"),
    [
        ("h", "lead (hours)", "every 6 hours"),
        ("7D", "lead (weeks)", "every 6 weeks"),
        ("MS", "lead (months)", "every 6 months"),
        ("15min", "lead (steps of 15 minutes)", "every 6 steps of 15 minutes"),
    ],
)
def test_figures_are_labelled_from_the_data_whatever_its_names(freq, lead, every):
    time = pd.date_range("2001-01-01", periods=200, freq=freq)
    wave = np.sin(np.arange(200) / 4) + np.random.default_rng(0).normal(0, 0.1, 200)
    table = sources.Table("shop", pd.DataFrame({"US$_$": wave}), time, ["US$_$"])
    windows = data.prepare(table, Options(look_back=24, horizon=6))
    forecast = baselines.Persistence().forecast(windows, windows.origins["test"])
    ends = np.stack([forecast - 1, forecast + 1])
    drawn = [
        figures.error_by_lead(windows, {"gru": [0.1] * 6}),
        figures.successive(windows, "gru", forecast, ends, [80.0]),
    ]
    for figure in drawn:
        figure.savefig(io.BytesIO())  # a name is no formula
    labels = [axes.get_xlabel() or axes.get_title("left") for figure in drawn for axes in figure.axes]
    assert labels[0] == lead
    assert every in labels[1]
    assert [figure.axes[0].get_ylabel() for figure in drawn] == ["mean absolute error, US$_$", "US$_$"]


class Last(baselines.Persistence):
    """A trained network that forecasts the last value."""

    seconds, parameters, history = 1.0, 0, SimpleNamespace(epochs=1, best_epoch=0)


def measured(load: np.ndarray, seeds: int = 1) -> tuple[data.Windows, dict, evaluate.Published]:
    """The figures of ``Last``, trained with so many seeds on 480 hours."""
    time = pd.date_range("2024-01-01", periods=480, freq="h")
    windows = data.prepare(
        sources.Table("t", pd.DataFrame({"load": load}), time, ["load"]),
        Options(look_back=24, horizon=6, split="380,40,60"),
    )
    naives, ridges = [baselines.Persistence(), baselines.SeasonalNaive(24)], baselines.Ridge(season=24).fit([windows])
    trained = {"gru": [[Last()] for _ in range(seeds)]}
    choices = evaluate.on_validation("mae", windows, [windows], naives, 24, ridges, trained)
    metrics, (winner,) = evaluate.on_test({"seed": 0}, windows, [80.0, 95.0], ridges[-1], trained, choices)
    return windows, metrics, winner


@pytest.mark.parametrize("case", ["a constant test split", "a season without noise"])
def test_a_baseline_that_never_errs_is_reported_in_valid_json(case):
    rows = np.arange(480)
    load = rows % 24.0
    if case == "a constant test split":
        load = np.where(rows < 384, load, 3.0)
    _, metrics, _ = measured(load)
    json.dumps(metrics, allow_nan=False, default=str)
    assert "nan" not in report.headline(metrics, "gru+combined")
    assert "nan" not in str([report.result_rows(metrics), report.interval_rows(metrics)])


def test_the_figures_of_several_seeds_are_reported_as_their_means():
    windows, metrics, winner = measured(np.random.default_rng(0).normal(size=480), seeds=2)
    line = metrics["models"][winner.name]
    assert len(line["test"]["coverage"]["80_seeds"]) == 2
    assert "mean of 2 seeds" in report.headline(metrics, winner.name)
    _, rows = report.interval_rows(metrics)
    assert all(len(row) == 6 for row in rows)
    drawn = figures.intervals_by_lead(windows, line["test"])
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["80 %", "95 %"]


def test_each_line_of_many_series_has_a_look_of_its_own():
    rng = np.random.default_rng(0)
    simple = {name: rng.normal(size=(9, 24)) for name in ("naive", "seasonal_naive", "naive2", "theta")}
    windows = SimpleNamespace(leads=np.arange(1, 25))
    task = SimpleNamespace(scale=np.ones(9), truth=rng.normal(size=(9, 24)), simple=simple, windows=windows)
    for cell in ("simple_rnn", "lstm", "gru"):
        (axes,) = panel_report.error_by_lead(task, rng.normal(size=(9, 24)), cell).axes
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 5
