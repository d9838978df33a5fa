"""The M4 competition's scores and reference forecasts: cases by hand, simulations with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from keras_a2.recurrent import scores

PATTERN = np.array([0.5, 1.0, 1.5, 1.0])


def test_errors_of_a_case_by_hand():
    truth, forecast = np.array([[1.0, 3.0], [0.0, 2.0]]), np.array([[3.0, 1.0], [0.0, 2.0]])
    assert scores.smape(truth, forecast).tolist() == [100.0, 0.0]
    assert scores.mase(truth, forecast, np.array([4.0, 1.0])).tolist() == [0.5, 0.0]


def test_the_scale_is_the_error_of_the_seasonal_naive_within_the_history():
    history = np.array([1.0, 2.0, 4.0, 3.0])
    assert scores.seasonal_scale(history, 2) == pytest.approx((3 + 1) / 2)
    assert scores.seasonal_scale(history, 4) == 0.0
    assert np.isnan(scores.mase(np.ones((1, 2)), np.zeros((1, 2)), np.zeros(1))).all()


def test_interval_score_of_a_case_by_hand():
    truth, lower, upper = np.array([[0.0, 5.0, 12.0]]), np.array([[1.0, 1.0, 1.0]]), np.array([[9.0, 9.0, 9.0]])
    expected = (8 + 40 * 1 + 8 + 8 + 40 * 3) / 3 / 2
    assert scores.msis(truth, lower, upper, np.array([2.0])) == pytest.approx([expected])


def test_naive2_is_worth_one_and_half_its_errors_a_half():
    errors = np.array([1.0, 3.0, np.nan])
    assert scores.owa(errors, errors, errors, errors) == 1
    assert scores.owa(errors / 2, errors / 2, errors, errors) == 0.5


def test_naive2_continues_a_multiplied_pattern_and_an_added_one():
    assert scores.naive2(np.tile(10 * PATTERN, 6), 4, 6) == pytest.approx(10 * np.resize(PATTERN, 6))
    added = np.tile(PATTERN - 1, 6)
    assert scores.naive2(added, 4, 6) == pytest.approx(np.resize(PATTERN - 1, 6), abs=1e-9)


def test_naive2_without_a_season_is_the_last_value():
    noise = np.random.default_rng(0).normal(10, 1, 80)
    for history, season in ((noise, 4), (noise[:11], 4), (np.full(80, 3.0), 4), (np.tile(PATTERN, 20), 1)):
        assert scores.naive2(history, season, 3).tolist() == [history[-1]] * 3


def test_the_test_for_a_season_is_wrong_as_often_as_its_level_says():
    generator = np.random.default_rng(0)
    noise = [scores.is_seasonal(generator.normal(size=300), 4) for _ in range(500)]
    assert 0.06 < np.mean(noise) < 0.14  # two-sided at 10 %


def test_theta_continues_half_the_drift_and_the_season():
    """Theta is simple exponential smoothing with half the drift (Hyndman & Billah 2003)."""
    history = 10 + 0.5 * np.arange(60) + np.random.default_rng(0).normal(0, 0.1, 60)
    assert np.diff(scores.theta(history, 1, 8)) == pytest.approx(np.full(7, 0.25), abs=0.01)
    pattern = np.tile(PATTERN, 15) * (100 + np.arange(60))
    ahead = scores.theta(pattern, 4, 4)
    assert ahead / ahead[1] == pytest.approx(PATTERN, rel=0.02)
    assert scores.theta(np.full(20, 3.0), 4, 3).tolist() == scores.theta(np.array([1.0, 3.0]), 1, 3).tolist() == [3] * 3


def test_seasonal_naive_repeats_the_last_season_if_there_is_one():
    assert scores.seasonal_naive(np.array([9.0, 1.0, 2.0]), 2, 5).tolist() == [1, 2, 1, 2, 1]
    assert scores.seasonal_naive(np.array([9.0]), 2, 2).tolist() == [9, 9]


def test_intervals_of_a_random_walk_cover_what_they_promise():
    walks = np.random.default_rng(0).normal(size=(500, 120)).cumsum(axis=1)
    ends = np.array([scores.naive_intervals(walk[:100], 20) for walk in walks])
    inside = (walks[:, 100:] >= ends[:, 0]) & (walks[:, 100:] <= ends[:, 1])
    assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_calibrated_ends_cover_what_they_promise_at_every_lead():
    generator = np.random.default_rng(0)
    residuals = generator.normal(size=(2000, 12)) * np.linspace(1, 2, 12)
    ends = scores.calibrate(residuals[:1000], 0.9, neighbours=1)
    inside = (residuals[1000:] > ends[0]) & (residuals[1000:] < ends[1])
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert ends[1][1:-1] == pytest.approx(stats.norm.ppf(0.95) * np.linspace(1, 2, 12)[1:-1], rel=0.12)


def test_the_share_of_series_that_beat_their_reference():
    generator = np.random.default_rng(0)
    reference = generator.uniform(1, 2, 300)
    better = scores.share_better(reference - generator.normal(0.1, 0.1, 300), reference)
    assert better["share_better"] == pytest.approx(stats.norm.cdf(1), abs=0.05)
    low, high = better["share_better_ci95"]
    half = 1.96 * np.sqrt(0.84 * 0.16 / 300)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert better["verdict"] == "better"
    assert better["wilcoxon_p_value"] < 1e-6
    equal = scores.share_better(reference, reference)
    assert (equal["share_better"], equal["wilcoxon_p_value"], equal["verdict"]) == (0.5, 1.0, "not shown")
    assert scores.share_better(np.array([np.nan, 1.0]), np.ones(2))["verdict"] == "too short to tell"
