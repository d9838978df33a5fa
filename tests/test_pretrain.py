"""The script behind the bundled backbone: from a teacher's features and classes to a file of weights."""

import json

import keras
import numpy as np
import pytest

from conftest import run_script
from keras_a2.transfer import model
from keras_a2.transfer.data import PixelStore
from pretraining import distill, teacher


def classifier(path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3, 2, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))
    model.save(path)
    return path


@pytest.mark.slow
def test_pretrained_weights_are_found_usable(photos, tmp_path):
    (tmp_path / "out").mkdir()
    answer = run_script(
        "pretrain", "--data", photos, "--teacher", classifier(tmp_path / "teacher.keras"), "--name", "photos",
        "--held-out-per-class", 2, "--image-size", 32, "--epochs", 1, "--late-image-size", 48, "--late-epochs", 1,
        "--teacher-size", 32, "--views", 2, "--batch-size", 8, "--output", tmp_path / "out",
        "--work", tmp_path / "work",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    path = tmp_path / "out" / "mobilenet_v3_small_photos.weights.h5"
    card = json.loads((tmp_path / "out" / "mobilenet_v3_small_photos.json").read_text())
    weights = model.find_weights(str(path), None)
    assert (weights.alpha, weights.sha256) == (1.0, card["sha256"])
    assert [row["epoch"] for row in card["history"]] == [0, 1, 2]
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_teacher_that_is_no_classifier_ends_in_one_line(photos, tmp_path):
    (tmp_path / "out").mkdir()
    answer = run_script(
        "pretrain", "--data", photos, "--teacher", tmp_path / "none.keras", "--output", tmp_path / "out"
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: --teacher is ")


def test_the_teacher_has_the_published_size():
    arrays = teacher.build_lite2().trainable_weights
    assert round(sum(np.prod(a.shape) for a in arrays) / 1e6, 1) == 6.1  # github.com/tensorflow/tpu, efficientnet/lite


@pytest.fixture
def two_colours():
    store = PixelStore(2, 4)
    store.write(0, np.full((4, 4, 3), (200, 100, 50), np.uint8))
    store.write(1, np.full((4, 4, 3), (0, 40, 80), np.uint8))
    return store


def view(grey, share):
    crops = np.tile(np.array([0, 0, 1, 1, grey], np.float32), (2, 2, 1))
    return distill.View(np.array([[0, 1], [1, 0]]), crops, np.array(share, np.float32))


def test_a_crop_without_colour_has_the_luminance_in_every_channel(two_colours):
    pixels = distill.show(two_colours, view(1, [0, 0]), np.arange(2), 4).numpy()
    np.testing.assert_allclose(pixels[0], 0.2989 * 200 + 0.587 * 100 + 0.114 * 50, rtol=1e-5)  # ITU-R BT.601


def test_a_mixed_image_is_the_weighted_mean_of_two(two_colours):
    first, second = distill.show(two_colours, view(0, [0, 0.25]), np.arange(2), 4).numpy()
    np.testing.assert_allclose(first, np.broadcast_to((200, 100, 50), (4, 4, 3)))
    np.testing.assert_allclose(second, np.broadcast_to((50, 55, 72.5), (4, 4, 3)), rtol=1e-6)
