"""Temperature, sets of classes and their promises, against simulations whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import betabinom
from sklearn.calibration import calibration_curve

from keras_a2.transfer import calibrate


def simulated(n: int, seed: int = 0, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: the true temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.25, 0.7, 1.0, 3.0])
def test_the_temperature_of_a_simulation_is_recovered(factor):
    logits, labels = simulated(20_000)
    assert calibrate.temperature(factor * logits, labels) == pytest.approx(factor, rel=0.05)


def test_a_few_images_all_of_them_right_do_not_make_certain():
    labels = np.arange(27) % 3
    logits = np.eye(3)[labels]  # without a prior the most likely temperature is 0
    assert 0.2 < calibrate.temperature(logits, labels) < 1


def test_calibrated_probabilities_are_true_and_have_the_same_order():
    logits, labels = simulated(20_000)
    fitted = calibrate.Calibration.fit(3 * logits[:5000], labels[:5000], 0.9)
    probability = calibrate.probabilities(3 * logits[5000:], fitted.temperature)
    assert calibrate.expected_calibration_error(labels[5000:], softmax(3 * logits[5000:], axis=1)) > 0.1
    assert calibrate.expected_calibration_error(labels[5000:], probability) < 0.02
    np.testing.assert_array_equal(np.argsort(probability), np.argsort(logits[5000:]))


def test_calibration_error_by_hand():
    # Two images at 0.8, one right: gap 0.3; two at 0.6, both right: gap 0.4; mean 0.35.
    probability = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    assert calibrate.expected_calibration_error(np.array([0, 1, 0, 0]), probability) == pytest.approx(0.35)


def test_reliability_is_scikit_learns_calibration_curve():
    logits, labels = simulated(2000)
    probability = softmax(logits, axis=1)
    correct = probability.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(correct, probability.max(axis=1), n_bins=15)
    table = calibrate.reliability(labels, probability)
    np.testing.assert_allclose(table[:, :2], np.column_stack([confidence, accuracy]))
    assert table[:, 2].sum() == 2000


def test_the_rank_of_the_quantile_by_hand():
    scores = np.arange(1.0, 20.0)  # 19: 20 * 0.9 = 18, 20 * 0.95 = 19
    assert calibrate.quantile(scores, 0.9) == 18
    assert calibrate.quantile(scores, 0.95) == 19
    assert calibrate.quantile(scores[:8], 0.9) == np.inf  # 9 * 0.9 is more than 8


@pytest.mark.parametrize("n", [30, 200])
def test_sets_hold_the_truth_as_often_as_promised(n):
    """Whatever the model: coverage is beta-binomial over calibration samples (Vovk 2012), here with a poor model."""
    promised, reached = 0.9, []
    for seed in range(200):
        logits, labels = simulated(n + 500, seed)
        probability = softmax(0.3 * logits, axis=1)
        threshold = calibrate.set_threshold(probability[:n], labels[:n], promised)
        reached.append((probability[n:] >= threshold)[np.arange(500), labels[n:]].sum())
    rank = np.ceil((n + 1) * promised)
    expected = betabinom(500, rank, n + 1 - rank)
    assert np.mean(reached) == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(200))
    assert expected.mean() / 500 >= promised


def test_too_few_images_for_the_level_put_every_class_into_the_set():
    probability = softmax(np.eye(3), axis=1)
    threshold = calibrate.set_threshold(probability, np.arange(3), 0.9)
    assert calibrate.answer_sets(probability, threshold).all()


def test_a_set_always_holds_the_most_probable_class():
    probability = np.array([[0.4, 0.35, 0.25], [0.9, 0.1, 0.0]])
    sets = calibrate.answer_sets(probability, 0.5)
    np.testing.assert_array_equal(sets, [[True, False, False], [True, False, False]])
    figures = calibrate.coverage(np.array([1, 0]), probability, 0.3)
    assert figures == {"coverage": 1.0, "mean_size": 1.5}


def test_coverage_by_class_is_of_classes_with_enough_images():
    labels = np.repeat([0, 1], [calibrate.ENOUGH, calibrate.ENOUGH - 1])
    probability = np.eye(2)[np.zeros(len(labels), int)]
    assert calibrate.coverage_by_class(labels, probability, 0.5, ["cat", "dog"]) == {"cat": 1.0}
