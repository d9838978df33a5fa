"""The script behind the bundled backbone: labels and a teacher, to a file that the transfer experiment takes."""

import json

import numpy as np
import pytest
from conftest import run_script

from keras_a2.transfer import backbone, distill


@pytest.mark.slow
def test_pretrained_weights_are_found_usable(photos, tmp_path):
    (tmp_path / "out").mkdir()
    answer = run_script(
        "pretrain", "--data", photos, "--teacher", backbone.BUNDLED, "--name", "photos", "--held-out-per-class", 2,
        "--image-size", 32, "--epochs", 1, "--late-image-size", 48, "--late-epochs", 1, "--teacher-size", 32,
        "--views", 2, "--batch-size", 8, "--output", tmp_path / "out", "--work", tmp_path / "work",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    path = tmp_path / "out" / "mobilenet_v3_small_photos.weights.h5"
    card = json.loads((tmp_path / "out" / "mobilenet_v3_small_photos.json").read_text())
    weights = backbone.find_weights(str(path), None)
    assert (weights.alpha, weights.sha256) == (1.0, card["sha256"])
    assert [row["epoch"] for row in card["history"]] == [0, 1, 2]
    assert not (tmp_path / "work").exists()


def test_a_crop_without_colour_has_the_luminance_in_every_channel():
    images = np.full((2, 4, 4, 3), (200, 100, 50), np.uint8)
    crops = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], np.float32)
    coloured, grey = distill.show(images, crops, 4).numpy()
    np.testing.assert_allclose(coloured, images[0])
    np.testing.assert_allclose(grey, 0.2989 * 200 + 0.587 * 100 + 0.114 * 50, rtol=1e-5)  # ITU-R BT.601
