"""What a forecaster's run leaves for people: sentences, figures and files."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from keras_a2.recurrent import baselines, data, evaluate, report, sources


def test_predictions_have_the_digits_that_their_errors_need(meter):
    windows = data.prepare(meter, look_back=24, horizon=6, calendar=False)
    test = windows.origins["test"]
    forecast = baselines.Persistence().forecast(windows, test)
    rows = pd.read_csv(io.StringIO(report.predictions(windows, forecast).to_csv(index=False)))
    readings = meter.frame["reading"].to_numpy()
    persistence = np.abs(readings[test[:, None] + np.arange(1, 7)] - readings[test][:, None]).mean()  # about 3.5
    error = (rows.filter(like="truth_").to_numpy() - rows.filter(like="forecast_").to_numpy()).ravel()
    assert np.abs(error).mean() == pytest.approx(persistence, rel=1e-3)
    np.testing.assert_allclose(rows["truth_1"], readings[test + 1], atol=1e-3, rtol=0)
    assert len(rows["truth_1"].astype(str)[0]) == len("120000123.456")


def test_the_headline_claims_no_more_than_its_intervals_and_tests():
    sure = {"skill": 0.3, "skill_ci95": [0.2, 0.4], "verdict": "better"}
    unsure = {"skill": 0.02, "skill_ci95": [-0.1, 0.1], "verdict": "not shown"}
    test = {"mae": 1.0, **sure, "against_persistence": sure | {"skill": 0.25}, "against_ridge": unsure}
    metrics = {
        "data": {"unit": "°C"},
        "baselines": {"ridge": {"test": {"mae": 1.02}}, "persistence": {"test": {"mae": 1.33}}},
        "best_naive_test": {"mae": 1.43},
        "hardest_naive": "persistence",
        "models": {"gru+combined": {"test": test}},
    }
    text = report.headline(metrics, "gru+combined")
    assert (
        "gru + combined: mean absolute error 1.00 °C; 25.0 % (20.0 to 40.0) lower than persistence, the best naive on "
        "the test split (1.33); 30.0 % (20.0 to 40.0) lower than the naive chosen on validation (1.43)"
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
    windows = data.prepare(table, look_back=24, horizon=6)
    forecast = baselines.Persistence().forecast(windows, windows.origins["test"])
    drawn = [report.error_by_lead(windows, {"gru": [0.1] * 6}), report.successive(windows, "gru", forecast)]
    for figure in drawn:
        figure.savefig(io.BytesIO())  # a name is no formula
    labels = [axes.get_xlabel() or axes.get_title() for figure in drawn for axes in figure.axes]
    assert labels[0] == lead
    assert every in labels[1]
    assert [figure.axes[0].get_ylabel() for figure in drawn] == ["mean absolute error, US$_$", "US$_$"]


class Last(baselines.Persistence):
    """A trained network that forecasts the last value."""

    seconds, parameters, history = 1.0, 0, SimpleNamespace(epochs=1, best_epoch=0)


@pytest.mark.parametrize("case", ["a constant test split", "a season without noise"])
def test_a_baseline_that_never_errs_is_reported_in_valid_json(case):
    rows = np.arange(480)
    load = rows % 24.0
    if case == "a constant test split":
        load = np.where(rows < 384, load, 3.0)
    time = pd.date_range("2024-01-01", periods=480, freq="h")
    windows = data.prepare(
        sources.Table("t", pd.DataFrame({"load": load}), time, ["load"]), look_back=24, horizon=6, split="380,40,60"
    )
    naives, ridges = [baselines.Persistence(), baselines.SeasonalNaive(24)], baselines.Ridge(season=24).fit([windows])
    trained = {"gru": [[Last()]]}
    choices = evaluate.on_validation("mae", windows, [windows], naives, 24, ridges, trained)
    metrics, _ = evaluate.on_test({"seed": 0}, windows, [80.0, 95.0], ridges[-1], trained, choices)
    json.dumps(metrics, allow_nan=False, default=str)
    assert "nan" not in report.headline(metrics, "gru")
