"""Class activation maps, descriptions and the score of unfamiliar images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import wilcoxon
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from keras_a2.transfer import model as models
from keras_a2.transfer.describe import describing, in_one, mapper
from keras_a2.transfer.familiar import Familiarity
from keras_a2.transfer.maps import overlay


@pytest.fixture(scope="module")
def parts():
    """A backbone with weights, a head of 3 classes whose scaling is not the identity, and both as published."""
    backbone = models.plain_backbone(models.BUNDLED_ALPHA)
    models.load_weights(backbone, models.find_weights("bundled", None))
    standardise = keras.layers.BatchNormalization(center=False, scale=False, trainable=False, name="standardise")
    head = keras.Sequential([keras.Input(backbone.output_shape[1:]), standardise, keras.layers.Dense(3, name="logits")])
    rng = np.random.default_rng(0)
    for layer in head.layers:
        layer.set_weights([0.1 + 0.5 * rng.random(weight.shape) for weight in layer.get_weights()])
    return backbone, head, models.assemble(backbone, head, 64, temperature=1.7)


def test_the_mean_of_a_map_and_the_bias_are_the_logit(parts):
    backbone, head, network = parts
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    described = {name: np.asarray(value) for name, value in describing(network)(images, training=False).items()}
    features = np.asarray(backbone(images.astype(np.float32), training=False))
    logits = np.asarray(head(features, training=False))
    np.testing.assert_allclose(described["features"], features, atol=1e-5)
    maps, bias = described["maps"], np.asarray(head.layers[-1].bias)
    assert maps.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)) + bias, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(described["probabilities"], np.asarray(network(images, training=False)), atol=1e-6)
    resized = keras.Model(network.get_layer("resize").output, network.output)
    both = np.asarray(in_one(resized)(images.astype(np.float32), training=False))
    np.testing.assert_allclose(both, np.hstack([described["probabilities"], described["description"]]), atol=1e-4)


def test_the_distance_is_scipys_where_nothing_is_shrunk():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    train, other = rng.normal(size=(200_000, 4)) @ mixing + 3, 3 * rng.normal(size=(5, 4))
    certain = np.full((5, 2), 0.5)
    fitted = Familiarity.fit(train, train[:100], np.full((100, 2), 0.5))
    inverse = np.linalg.inv(mixing.T @ mixing)
    expected = [2 * np.log(mahalanobis(row, np.full(4, 3), inverse)) for row in other]
    np.testing.assert_allclose(fitted.measures(other, certain)[:, 0], expected, atol=0.03)


def test_another_kind_and_an_uncertain_class_are_less_familiar(tmp_path):
    rng = np.random.default_rng(0)
    fitted = Familiarity.fit(rng.normal(size=(60, 80)), rng.normal(size=(50, 80)), rng.dirichlet([5, 1], 50))
    same, shifted = rng.normal(size=(40, 80)), rng.normal(size=(40, 80)) + 2
    sure, unsure = np.tile([0.95, 0.05], (40, 1)), np.tile([0.5, 0.5], (40, 1))
    usual = fitted.unfamiliarity(same, sure)
    assert fitted.unfamiliarity(shifted, sure).min() > usual.max()
    assert (fitted.unfamiliarity(same, unsure) > usual).all()
    fitted.save(tmp_path / "f.npz")
    again = Familiarity.load(tmp_path / "f.npz").unfamiliarity(same, sure)
    np.testing.assert_allclose(again, usual, atol=1e-3)


def test_hiding_the_hottest_region_lowers_the_logit_more_than_hiding_others(parts):
    backbone, size, n = parts[0], 128, 300
    digits = load_digits()
    pixels = np.kron(digits.images[:n, :, :, np.newaxis] * 255 / 16, np.ones((1, 16, 16, 3))).astype(np.float32)
    features = backbone.predict(pixels, verbose=0)
    solved = LogisticRegression(max_iter=300).fit(features[:-60], digits.target[: n - 60])
    head = keras.Sequential([keras.Input(features.shape[1:]), keras.layers.Dense(10, name="logits")])
    head.layers[0].set_weights([solved.coef_.T, solved.intercept_])
    shown, classes = pixels[-60:], solved.predict(features[-60:])
    maps = mapper(models.assemble(backbone, head, size))(shown.astype(np.uint8), classes)
    assert maps.shape == (60, 4, 4)

    def logit(features: np.ndarray) -> np.ndarray:
        return head(features).numpy()[np.arange(60), classes]

    def lowered(places: np.ndarray) -> np.ndarray:
        hidden = shown.copy()
        for picture, place in zip(hidden, places, strict=True):
            row, column = (32 * k for k in divmod(int(place), 4))
            picture[row : row + 32, column : column + 32] = shown.mean()
        return logit(features[-60:]) - logit(backbone.predict(hidden, verbose=0))

    order = np.argsort(maps.reshape(60, -1), axis=1)
    hottest = lowered(order[:, -1])
    rng = np.random.default_rng(0)
    others = np.mean([lowered(rng.permuted(order[:, :-1], axis=1)[:, 0]) for _ in range(3)], axis=0)
    assert hottest.mean() > others.mean()
    assert wilcoxon(hottest, others, alternative="greater").pvalue < 0.01


def test_a_picture_is_bright_where_its_map_is_high():
    picture = np.full((1, 8, 8, 3), 200, np.uint8)
    drawn = overlay(picture, np.array([[[0.0, 1.0], [0.0, 1.0]]]))[0].astype(int)
    assert (drawn[:, -1].sum(axis=1) > drawn[:, 0].sum(axis=1) + 100).all()
    assert (drawn[:, 0] == drawn[:, 0, :1]).all()  # grey stays grey where nothing speaks for the class
    np.testing.assert_array_equal(overlay(picture, np.zeros((1, 2, 2)))[0] < 200, True)
