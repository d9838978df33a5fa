"""One network for many series: comparable windows, the saved model, what validation chooses, forecasts in use."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_a2 import charts
from keras_a2.errors import UserError
from keras_a2.recurrent import (
    baselines,
    model,
    panel,
    panel_evaluate,
    panel_predict,
    panel_report,
    panel_sources,
    scores,
    seasons,
    train,
)
from keras_a2.recurrent.combination import Combination
from keras_a2.recurrent.splits import Options

SEASON, HORIZON, LOOK_BACK = 4, 4, 12
NAIVES = [scores.naive, scores.seasonal_naive, scores.naive2]


def made(count=30, rows=60, level=100.0, folds=1, **options):
    """Series with a season of four that grows from one season to the next, each with a size and a growth of its own."""
    generator = np.random.default_rng(0)
    steps = np.arange(rows)
    size, growth = generator.uniform(1, 1000, count), generator.uniform(0.01, 0.05, count)
    season = np.array([0.8, 1.0, 1.4, 0.9])[steps % SEASON]
    noise = np.exp(generator.normal(0, 0.01, (count, rows)))
    values = size[:, None] * level * season * (1 + growth[:, None] * (steps // SEASON)) * noise
    ends = np.arange(count + 1) * rows
    rows_of_file = panel_sources.Rows([f"S{i}" for i in range(count)], ends, values.ravel(), None, None, "y")
    return cut(rows_of_file, folds, **options)


def cut(rows, folds=1, **options):
    defaults = {"look_back": LOOK_BACK, "horizon": HORIZON, "season": SEASON}
    defaults["origins"] = "splits" if "split" in options else "last"
    return panel.prepare(rows, "made", Options(**defaults | options), folds)


def last_rows(windows):
    return panel_evaluate.cut(windows, [[HORIZON]], NAIVES)


@pytest.fixture(scope="module")
def windows():
    return made()


@pytest.fixture(scope="module")
def networks():
    def network(seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Reshape((3, 8)), keras.layers.GRU(5), keras.layers.Dense(HORIZON)]
        return keras.Sequential([keras.Input((LOOK_BACK, 2)), *layers], name="gru")

    return [network(0), network(1)]


@pytest.fixture(scope="module")
def ridge(windows):
    return baselines.Ridge().fit(windows.folds(1))[-1]


def forecasters(windows, networks):
    batches = train.Batches(windows, False, 16, 0)
    answers = [lambda samples, n=n: np.asarray(n(batches.gather(tf.constant(samples))[0])) for n in networks]
    return [train.Forecaster("gru", n, False, answer) for n, answer in zip(networks, answers, strict=True)]


def test_a_window_is_seen_relative_to_its_last_season_whatever_its_size():
    seen, windows = np.array([1.0, 2.0, 3.0, 5.0, 7.0, 11.0], np.float32).reshape(1, 6, 1), made(look_back=8)
    windows = dataclasses.replace(windows, season=2, horizon=3)
    inputs, level, spread = map(np.asarray, model.frame(seen, windows))
    assert spread.item() == pytest.approx(np.mean([2, 3, 4, 6]))
    assert inputs[0, :, 0] * spread.item() == pytest.approx([-6, -9, -4, -6, 0, 0], rel=1e-5)
    assert inputs[0, :, 1] * seen.std() == pytest.approx(seen[0, :, 0] - 9, rel=1e-4)
    assert level.ravel().tolist() == [7, 11, 7]
    larger = np.asarray(model.frame(1000 * seen + 5, windows)[0])
    assert larger == pytest.approx(inputs, rel=1e-3, abs=1e-4)


def test_batches_hold_windows_of_all_series_and_what_is_to_be_answered(windows):
    batches = train.Batches(windows, False, 64, seed=3)
    order = batches.order(1)
    assert set(windows.series_of(order[..., 0].ravel())) == set(range(30))
    assert set(order[..., 0].ravel()) <= set(windows.origins["train"])
    assert np.array_equal(order, train.Batches(windows, False, 64, seed=3).order(1))
    inputs, change = batches.gather(tf.constant(order[0]))
    level, spread = model.frames(windows, order[0, :, 0])
    assert np.asarray(inputs).shape == (64, LOOK_BACK, 2)
    truth = windows.actual(order[0, :, 0])
    assert np.asarray(change)[..., np.newaxis] * spread + level == pytest.approx(truth, abs=1e-3)


def test_ridge_regression_learns_growth_that_no_naive_knows(windows, ridge):
    task = last_rows(windows)
    owa = task.owa(task.in_unit(task.forecast([ridge])))
    assert owa < 0.7 * task.owa(task.simple["seasonal_naive"])


def test_the_saved_model_forecasts_what_was_measured(windows, networks, ridge):
    task, weight = last_rows(windows), 0.3
    ends = np.stack([np.full(HORIZON, -1.0), np.full(HORIZON, 2.0)])
    combination = Combination((0.0, weight, 1 - weight), None, ridge, train.mean_of(forecasters(windows, networks)))
    standardised = combination.forecast(windows, task.origins)[..., 0]
    own = np.mean([task.forecast([each]) for each in forecasters(windows, networks)], axis=0)
    assert standardised == pytest.approx((1 - weight) * own + weight * task.forecast([ridge]), abs=1e-4)
    forecaster, interval = model.assemble(combination, windows, None, ends[..., np.newaxis])
    raw = windows.raw(task.origins)
    assert np.asarray(forecaster(raw)) == pytest.approx(task.in_unit(standardised), rel=1e-4)
    lower, upper = task.interval(standardised, ends)
    assert np.asarray(interval(raw)) == pytest.approx(np.stack([lower, upper], axis=-1), rel=1e-4)


def test_large_levels_keep_their_digits(networks, ridge):
    windows = made(level=1e9)
    combination = Combination((0.0, 0.0, 1.0), None, ridge, forecasters(windows, networks)[0])
    forecaster, _ = model.assemble(combination, windows, None, np.zeros((2, HORIZON, 1)))
    task = last_rows(windows)
    own = combination.forecast(windows, task.origins)[..., 0]
    assert np.asarray(forecaster(windows.raw(task.origins))) == pytest.approx(task.in_unit(own), rel=1e-4)


def test_validation_chooses_and_the_figures_are_the_competitions(networks):
    windows = made(folds=2)
    folds = windows.folds(2)
    ridges = baselines.Ridge().fit(folds)
    trained = {"gru": [[each] * 3 for each in forecasters(windows, networks)]}
    choices = panel_evaluate.on_validation("mae", windows, folds, NAIVES, SEASON, ridges, trained)
    assert choices.weight["gru"] >= 0.8  # the networks were never trained
    metrics, [winner] = panel_evaluate.on_test({"seed": 0}, windows, [], ridges[-1], trained, choices)
    test, task = metrics["models"]["gru+ridge"]["test"], winner.task
    forecast = winner.forecast
    assert test["smape"] == pytest.approx(scores.smape(task.truth, forecast).mean())
    assert {"smape", "mase", "owa", "msis", "coverage", "share_better_than_naive"} <= set(test)
    assert metrics["baselines"]["naive2"]["test"]["owa"] == 1
    assert metrics["published"] == {"gru": "gru+ridge"}
    assert metrics["data"]["series"] == 30
    assert test["share_better_than_naive"] > 0.7
    assert test["verdict"] == "better"
    assert "GRU + ridge on 30 series: OWA" in panel_report.headline(metrics, "gru+ridge")
    header, rows = panel_report.result_rows(metrics)
    assert all(len(row) == len(header) for row in rows)


def test_predictions_hold_every_series_with_its_scores(windows, ridge):
    task = last_rows(windows)
    forecast = task.simple["seasonal_naive"]
    published = SimpleNamespace(task=task, forecast=forecast, interval=(forecast * 0.9, forecast * 1.1))
    table = panel_report.predictions(windows, published, {"best_naive": "seasonal_naive"})
    assert table["unique_id"].tolist() == windows.rows.names
    assert table["mase"].to_numpy() == pytest.approx(table["seasonal_naive_mase"].to_numpy())
    assert table["truth_4"].to_numpy() == pytest.approx(task.truth[:, 3], rel=1e-3)


def test_a_short_series_is_forecast_by_the_seasonal_naive():
    rows = made().rows
    ends = np.concatenate([rows.ends[:-1], [rows.ends[-1], rows.ends[-1] + 9]])
    values = np.concatenate([rows.values, np.arange(1.0, 10.0)])
    longer = dataclasses.replace(rows, names=[*rows.names, "short"], ends=ends, values=values)
    windows = cut(longer)
    assert windows.facts["too_short"] == 1
    task = last_rows(windows)
    assert (~task.seen).sum() == 1
    answer = task.in_unit(np.zeros((30, HORIZON)))
    assert answer[-1].tolist() == [2, 3, 4, 5]


class Published:
    """As ``predict.Forecaster``, answering with the last season and an interval of one on either side."""

    look_back, horizon, max_gap, leads, levels = LOOK_BACK, HORIZON, 1, np.arange(1, HORIZON + 1), [95.0]

    def __init__(self, **facts):
        self.card = {"many_series": {"season": SEASON, "logarithms": True, "step_seconds": None} | facts}
        self.loaded = self

    def serve(self, batch):
        return batch[:, -SEASON:, 0]

    def serve_intervals(self, batch):
        return np.stack([self.serve(batch) - 1, self.serve(batch) + 1], axis=-1)


def long_table():
    time = pd.date_range("2024-01-01", periods=14, freq="D")
    tables = [
        pd.DataFrame({"unique_id": f"S{i}", "ds": time[: 14 - 8 * i], "y": 1.0 + np.arange(14 - 8 * i)}) for i in (0, 1)
    ]
    return pd.concat(tables)


def test_all_series_of_a_file_are_forecast_also_a_short_one():
    answer, short = panel_predict.forecast(Published(), panel_sources.from_frame(long_table(), "file"))
    assert short == 1
    assert answer.columns.tolist() == ["unique_id", "ds", "lead", "y", "lower_95", "upper_95"]
    assert answer["y"].tolist() == [11, 12, 13, 14, 3, 4, 5, 6]
    assert answer["lower_95"].tolist()[:4] == [10, 11, 12, 13]
    assert answer["ds"].iloc[0] == pd.Timestamp("2024-01-15")
    assert answer["ds"].iloc[4] == pd.Timestamp("2024-01-07")


def test_series_that_the_model_cannot_take_are_named():
    with pytest.raises(UserError, match="steps of 1 day; the model was trained on 1 hour"):
        panel_predict.forecast(Published(step_seconds=3600.0), panel_sources.from_frame(long_table(), "file"))
    table = long_table()
    table["y"] = np.where(table["unique_id"] == "S0", np.nan, 1.0)
    with pytest.raises(UserError, match="series 'S0' has no values"):
        panel_predict.forecast(Published(), panel_sources.from_frame(table, "file"))


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_the_seasonal_naive_forecasts_what_has_no_logarithm(value):
    table = long_table()
    table.iloc[12, 2] = value
    rows = panel_sources.from_frame(table, "file")
    answer, naive = panel_predict.forecast(Published(), rows)
    assert naive == 2  # and the short one
    assert answer["y"].tolist()[:4] == [11, 12, value, 14]
    answer, naive = panel_predict.forecast(Published(logarithms=False), rows)
    assert naive == 1
    with pytest.raises(UserError, match=f"a window holds {value:g}; the model takes positive numbers only"):
        panel_predict.serve(Published(), np.array([[[1.0], [value]]]))
    with pytest.raises(UserError, match="a window holds nan; the model takes numbers only"):
        panel_predict.serve(Published(logarithms=False), np.array([[[1.0], [np.nan]]]))


def test_every_row_is_compared_with_the_forecast_one_step_ahead():
    table = long_table()
    table.loc[(table["unique_id"] == "S0") & (table["y"] == 14), "y"] = 20.0
    checked = panel_predict.check(Published(), panel_sources.from_frame(table.copy(), "file"))
    assert checked.index.tolist() == [pd.Timestamp("2024-01-13"), pd.Timestamp("2024-01-14")]
    assert checked["unique_id"].tolist() == ["S0", "S0"]  # the other is shorter than a window
    assert checked[["value", "forecast", "lower", "upper"]].to_numpy().tolist() == [[13, 9, 8, 10], [20, 10, 9, 11]]
    assert checked["outside"].tolist() == [True, True]
    table["y"] = 5.0
    table.iloc[12, 2] = np.nan
    rows = panel_sources.from_frame(table.drop(columns="ds").assign(ds=np.r_[1:15, 1:7]), "file")
    checked = panel_predict.check(Published(), rows)
    assert (checked.index.name, checked.index.tolist()) == ("ds", [14])
    assert not checked["outside"].any()
    with pytest.raises(UserError, match="no row of any series has a whole window of 12 rows"):
        panel_predict.check(Published(), panel_sources.from_frame(long_table()[14:], "file"))


def test_the_figure_shows_the_first_series_and_their_forecasts():
    rows = panel_sources.from_frame(long_table(), "file")
    figure = panel_predict.plot(Published(), rows, panel_predict.forecast(Published(), rows)[0])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["S0", "S1"]
    seen, forecast, _ = figure.axes[1].lines
    assert seen.get_ydata().tolist() == [1, 2, 3, 4, 5, 6]
    assert forecast.get_ydata().tolist() == [3, 4, 5, 6]
    assert forecast.get_xdata()[0] == pd.Timestamp("2024-01-07")


def test_the_interval_of_a_single_step_is_a_bar_that_shows():
    (axes,) = charts.figure()[1]
    charts.interval(axes, np.array([1]), np.array([2.0]), np.array([5.0]), "C0", "80 %")
    (bar,) = axes.collections
    assert bar.get_linewidth() > 0
    assert bar.get_segments()[0].tolist() == [[1, 2], [1, 5]]


def test_the_common_season_is_that_of_most_series(windows):
    assert seasons.season_of(windows.rows.history(0, 60), None) == SEASON
    unseen = np.full(30, 2 * HORIZON)
    assert panel.common_season(windows.rows, LOOK_BACK, unseen) == SEASON
    assert panel.common_season(windows.rows, 6, unseen) == 1
    assert panel.common_season(windows.rows, LOOK_BACK, unseen + 60) == 1


def test_samples_are_those_of_a_single_target(windows):
    origins = windows.origins["test"]
    assert np.array_equal(train.samples_of(windows, origins, False)[:, 0], origins)


def test_the_scores_of_a_series_are_means_over_its_windows(networks):
    windows = made(count=3, rows=80, split="0.6,0.2,0.2")
    validation, test = windows.parts
    assert (validation, test) == (4, 4)
    folds = windows.folds(1)
    ridges = baselines.Ridge().fit(folds)
    trained = {"gru": [[forecasters(windows, networks)[0]] * 2]}
    choices = panel_evaluate.on_validation("mae", windows, folds, NAIVES, SEASON, ridges, trained)
    metrics, [winner] = panel_evaluate.on_test({"seed": 0}, windows, [], ridges[-1], trained, choices)
    task = winner.task
    assert task.numbers.tolist() == [0, 1, 2] * test
    assert metrics["data"]["series_scored"] == 3
    errors = scores.mase(task.truth, task.simple["naive"], task.scale).reshape(test, 3).mean(axis=0)
    assert task.by_series(scores.mase(task.truth, task.simple["naive"], task.scale)) == pytest.approx(errors)
    assert metrics["baselines"]["naive"]["test"]["mase"] == pytest.approx(errors.mean())
    table = panel_report.predictions(windows, winner, {"best_naive": "naive"})
    assert table["cutoff"].tolist() == [80 - HORIZON * k for k in (4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1)]


def test_a_series_with_windows_that_no_other_has_weighs_no_more():
    task = last_rows(made(count=3))
    task = dataclasses.replace(task, numbers=np.array([0, 0, 1]))
    assert task.by_series(np.array([1.0, 3.0, 5.0])).tolist() == [2, 5]
    assert task.by_series(np.array([np.nan, 3.0, np.nan])).tolist() == pytest.approx([3, np.nan], nan_ok=True)


def test_a_test_row_changes_no_forecast_before_it():
    windows = made(count=2, rows=80, split="0.6,0.2,0.2")
    later = windows.rows.values.copy()
    later[80 - 2 * HORIZON : 80] *= 3  # of the first series, its last two windows' targets
    rows = dataclasses.replace(windows.rows, values=later)
    other = cut(rows, split="0.6,0.2,0.2")
    one, changed = (panel_evaluate.cut(each, panel.blocks(HORIZON, each.parts, 0), NAIVES) for each in (windows, other))
    before = np.arange(len(one.origins)) < 5  # two windows of each series, and the first series' third
    assert np.array_equal(one.origins, changed.origins)
    for name in one.simple:
        assert np.array_equal(one.simple[name][before], changed.simple[name][before])
    assert np.array_equal(one.scale[before], changed.scale[before])
    ridge = baselines.Ridge().fit(windows.folds(1))[-1]
    same = baselines.Ridge().fit(other.folds(1))[-1]
    assert np.array_equal(ridge.kernel, same.kernel)
    forecasts = (r.forecast(w, one.origins) for r, w in ((ridge, windows), (same, other)))
    equal = np.equal(*forecasts).all(axis=(1, 2))
    assert equal.tolist() == [True] * 5 + [True, False, True]
