"""The learning curve, against curves and laws whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import load_script
from keras_a2 import settings
from keras_a2.errors import UserError
from keras_a2.transfer import baselines, data, learning, report, sources


def images_of(labels: np.ndarray, train: int) -> data.Images:
    source = sources.Source("s", [str(c) for c in np.unique(labels)], [], labels, [])
    parts = np.arange(train), np.arange(train, train + 20), np.arange(train + 20, len(labels))
    return data.Images(source, data.PixelStore(0, 32), *parts, sha256="")


def test_draws_are_nested_proportional_and_hold_every_class():
    labels = np.array([0] * 600 + [1] * 300 + [2] * 3 + [0, 1, 2] * 40)
    images = images_of(np.concatenate([labels[:903], labels[903:]]), 903)
    few, more = (data.draw(images, size, 0) for size in (20, 100))
    assert (len(few), len(more)) == (60, 300)
    assert set(few) <= set(more) <= set(images.train)
    assert set(labels[few]) == {0, 1, 2}
    assert (labels[more] == 0).mean() == pytest.approx(2 / 3, abs=0.06)
    assert not np.array_equal(few, data.draw(images, 20, 1))


def test_the_control_is_trained_anew_where_that_costs_less_than_a_quarter():
    # 2 classes, 1,673 images to train on, 20 to validate on: a quarter of 22 epochs costs 27,715 predictions.
    # 12 epochs on 20 images (8 passes), 200 (2 passes) and 60 (5 passes): 3 * 160, 3 * 400 and 3 * 300 predictions, and
    # 20 on validation, are 6,000, 14,640 and 11,040 in all.
    images = images_of(np.arange(2000) % 2, 1673)
    assert learning.affordable(images, 32, 10, 12) == [10, 100]
    assert learning.affordable(images, 32, 100, 12) == [10, 30, 100, 300]
    assert learning.affordable(images_of(np.arange(200) % 2, 60), 32, 200, 12) == [10]


def test_a_control_on_as_many_images_as_there_are_is_not_trained_twice():
    config = settings.parse(load_script("transfer").Config, ["--learning-curve", "10,30,100"])
    images = images_of(np.arange(200) % 2, 60)
    assert learning.sizes(images, config) == [10]
    alone = replace(config, control=replace(config.control, scratch=False))
    assert learning.sizes(images, alone) == []


@pytest.mark.parametrize(("text", "sizes"), [("auto", None), ("none", []), ("100,10,30", [10, 30, 100])])
def test_sizes_are_read(text, sizes):
    assert learning.parse(text) == sizes


@pytest.mark.parametrize("text", ["10,x", "0", "10,,30", "-5"])
def test_sizes_that_cannot_be_are_refused(text):
    transfer = load_script("transfer")
    with pytest.raises(UserError, match="--learning-curve is"):
        settings.check(settings.parse(transfer.Config, [f"--learning-curve={text}"]))


def right(accuracy: float, n: int = 4000) -> np.ndarray:
    """Of ``n`` test images so many right."""
    return (np.arange(n) < accuracy * n)[np.random.default_rng(round(1e4 * accuracy)).permutation(n)][np.newaxis]


def test_what_pretraining_is_worth_is_read_off_the_other_curve():
    # The control gains 10 points with each tenfold: it has 0.75 at 10 ** 2.5 = 316 images.
    correct = {
        "frozen": {30.0: right(0.75), 1000.0: right(0.95)},
        "scratch": {10.0: right(0.6), 100.0: right(0.7), 1000.0: right(0.8)},
    }
    first, last = learning.summarise(correct, 1000)["learning_curve_equivalent"]
    assert first["equivalent"] == pytest.approx(316, rel=0.15)
    assert first["interval"][0] < 316 < first["interval"][1]
    assert (last["equivalent"], last["at_least"]) == (None, 1000.0)
    sentence = report.curve_sentences(learning.summarise(correct, 1000))[0]
    assert "with 30 training images per class does what random initialisation does with about 3" in sentence


def test_twice_the_photos_follow_a_known_law():
    # Error 0.8 * n ** -0.25: at 1,600 images 0.1265, at 3,200 0.1064, so twice the photos add 2.0 points.
    sizes = np.array([100.0, 400.0, 800.0, 1600.0])
    accuracy = np.tile(1 - 0.8 * sizes**-0.25, (50, 1))
    answer = learning.doubling(sizes, accuracy, 1600)
    assert answer["gain"] == pytest.approx(0.8 * (1600**-0.25 - 3200**-0.25), abs=1e-6)
    assert answer["check"]["predicted"] == pytest.approx(answer["check"]["measured"], abs=1e-6)
    correct = {"frozen": {size: right(1 - 0.8 * size**-0.25) for size in sizes}}
    summary = learning.summarise(correct, 1600)
    low, high = summary["learning_curve_doubling"]["interval"]
    assert low < answer["gain"] < high
    assert "Twice the photos: about +" in report.curve_sentences(summary)[0]


def test_a_points_interval_is_that_of_its_test_images_and_of_its_draws():
    point = {10.0: np.concatenate([right(0.5), right(0.7)]), 100.0: right(0.6)}
    drawn, single = learning.summarise({"frozen": point}, 100)["learning_curve"]
    assert (drawn["arm"], drawn["per_class"], drawn["accuracy"]) == ("frozen", 10.0, 0.6)
    assert single["interval"] == pytest.approx([0.5848, 0.6151], abs=2e-3)  # Wilson's, of 2,400 of 4,000
    low, high = drawn["interval"]
    assert low < 0.51 < 0.69 < high  # both draws may be the one, or the other


def test_thumbnails_on_all_images_are_the_baseline(photos):
    images = data.load(sources.folder(photos), sources.Options(image_size=32), seed=0)
    truth = images.labels[images.test]
    whole = len(images.train) / 2
    curve = learning.thumbnails(images, [2.0, whole], 0)
    np.testing.assert_array_equal(curve[whole][0], baselines.predict(images)["pixels"] == truth)
    assert curve[2.0].shape == (learning.DRAWS, len(truth))
    few = data.with_few(images, 2, 0)
    assert len(few.train) == 4
