"""The figures of the test split, against SciPy and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from keras_a2.transfer import data, evaluate, sources


def test_wilson_interval_of_the_courseworks_ten_of_twelve():
    labels = np.zeros(12, int)
    probability = np.tile([0.9, 0.1], (12, 1))
    probability[:2] = [0.1, 0.9]
    result = evaluate.metrics(labels, probability)
    assert result["accuracy"] == pytest.approx(10 / 12)
    published = binomtest(10, 12).proportion_ci(method="wilson")  # the 55-95 % of issue and README
    assert result["accuracy_ci95"] == pytest.approx([published.low, published.high], abs=1e-9)
    assert [round(100 * end) for end in result["accuracy_ci95"]] == [55, 95]


def test_calibration_error_by_hand():
    # Two images at 0.8, one right: gap 0.3; two at 0.6, both right: gap 0.4; mean 0.35.
    probability = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    assert evaluate.expected_calibration_error(np.array([0, 1, 0, 0]), probability) == pytest.approx(0.35)


def test_mcnemar_and_difference_by_hand():
    # 15 images only the first gets right, 5 only the second: exact p = 2 * P(B(20, 1/2) <= 5) = 0.0414.
    labels = np.zeros(100, int)
    first, second = np.zeros(100, int), np.zeros(100, int)
    second[:15], first[15:20] = 1, 1
    result = evaluate.compare(labels, first, second)
    assert result["accuracy"] == pytest.approx(0.10)
    assert result["p_value"] == pytest.approx(0.0414, abs=1e-4)
    # Normal approximation of the paired difference: 0.10 +- 1.96 * sqrt((20 - 100 * 0.01) / 100**2) = 0.015 .. 0.185
    assert result["ci95"] == pytest.approx([0.015, 0.185], abs=0.015)


def test_equal_arms_differ_by_nothing():
    result = evaluate.compare(np.zeros(9, int), np.zeros(9, int), np.zeros(9, int))
    assert (result["accuracy"], result["ci95"], result["p_value"]) == (0.0, [0.0, 0.0], 1.0)


def test_pixels_baseline_reads_an_easy_set_and_not_a_shuffled_one(photos):
    images = data.load(sources.folder(photos), 32, seed=0)
    truth = images.labels[images.test]
    assert (evaluate.pixels(images) == truth).all()
    images.source.labels = np.random.default_rng(5).permutation(images.labels)
    assert (evaluate.pixels(images) == images.labels[images.test]).mean() < 1
