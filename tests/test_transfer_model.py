"""Backbone, head and phases, against Keras, scikit-learn and cases worked by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from keras_a2 import training
from keras_a2.errors import UserError
from keras_a2.fast import litert
from keras_a2.transfer import (
    backbone,
    data,
    evaluate,
    features,
    head,
    optimize,
    sources,
    statistics,
    step,
    train,
    unfreeze,
)

FEATURES = [0.1395, -0.0956, -0.0444, -0.2721, -0.1471, -0.1430]  # of the bundled backbone on the fixed image
MEAN_FEATURE = 0.1953
RANDOM = backbone.Weights("random", None, 0.75)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return backbone.build(RANDOM, momentum=0.9)


def test_the_training_backbone_is_kerass_own(network):
    own = backbone.plain(0.75)
    own.set_weights(network.get_weights())
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(network(pixels, training=False), own(pixels, training=False), atol=1e-5)


def test_fused_batch_norm_is_kerass_batch_norm():
    inputs = np.random.default_rng(0).normal(2, 3, (16, 5, 5, 4)).astype("float32")
    ours, theirs = backbone.FusedBatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    np.testing.assert_allclose(ours(inputs, training=True), theirs(inputs, training=True), atol=1e-4)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-3)  # the fused kernel's variance is the unbiased one


@pytest.mark.parametrize(("steps", "momentum"), [(10, 0.9), (50, 0.9), (200, 0.95), (1000, 0.99)])
def test_momentum_rule(steps, momentum):
    assert backbone.momentum_for(steps) == pytest.approx(max(1 - 10 / steps, 0.9)) == pytest.approx(momentum)


def test_weight_files_are_recognised_or_refused(tmp_path):
    good = tmp_path / "good.weights.h5"
    backbone.plain(0.75).save_weights(good)
    assert backbone.find_weights(str(good), None).alpha == 0.75
    with pytest.raises(UserError, match=r"alpha 0\.75, not 1\.0"):
        backbone.find_weights(str(good), 1.0)
    (tmp_path / "cut.weights.h5").write_bytes(good.read_bytes()[:400_000])
    with pytest.raises(UserError, match="not a readable HDF5"):
        backbone.find_weights(str(tmp_path / "cut.weights.h5"), None)
    other = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(other)
    with pytest.raises(UserError, match="not those of MobileNetV3Small"):
        backbone.find_weights(str(other), None)
    with pytest.raises(UserError, match="no such weights file"):
        backbone.find_weights(str(tmp_path / "absent.h5"), None)


def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", fail)


def test_imagenet_without_network_names_file_folder_and_checksum(monkeypatch, tmp_path):
    no_network(monkeypatch, tmp_path)
    with pytest.raises(UserError) as error:
        backbone.find_weights("imagenet", 1.0)
    for part in (*backbone.IMAGENET_FILES[1.0], str(tmp_path)):
        assert part in str(error.value)


def test_auto_without_network_says_so_and_takes_the_bundled_weights(monkeypatch, tmp_path):
    no_network(monkeypatch, tmp_path)
    said = []
    weights = backbone.find_weights("auto", None, tell=said.append)
    assert weights.origin == "bundled"
    assert len(said) == 1
    assert "bundled" in said[0]


def test_cached_features_are_the_models(network, photos):
    images = data.load(sources.folder(photos), 32, seed=0)
    cached = features.extract(
        features.Extractor(network, images.store.size), images, images.train, views=2, augment="crop", seed=0
    )
    pixels = images.store.read(images.train).astype("float32")
    expected = np.asarray(network(pixels, training=False))
    np.testing.assert_allclose(cached[0], expected, atol=1e-3 * np.abs(expected).max())
    assert cached.shape == (2, len(images.train), 432)


def test_a_wrong_extractor_is_noticed(network, photos, monkeypatch):
    images = data.load(sources.folder(photos), 32, seed=0)
    monkeypatch.setattr(litert, "interpret", lambda content, threads: lambda item: np.ones((1, 432), np.float32))
    with pytest.raises(UserError, match="differ from the Keras model"):
        features.extract(features.Extractor(network, images.store.size), images, images.train)


def test_without_a_converter_keras_computes_the_features_and_says_so_once(photos, monkeypatch, capsys):
    monkeypatch.delattr(tf.lite, "TFLiteConverter")  # its removal is announced
    litert._print_once.cache_clear()  # once in a process, and another test may have been first
    images = data.load(sources.folder(photos), 32, seed=0)
    model = backbone.build(RANDOM)
    unfreeze.freeze_all_but(model, 9)
    frozen, rest = unfreeze.cut(model)
    pixels = images.store.read(images.train).astype("float32")
    expected = np.asarray(model(pixels, training=False))
    cached = features.extract(features.Extractor(model, images.store.size), images, images.train)[0]
    np.testing.assert_allclose(cached, expected, atol=1e-3 * np.abs(expected).max())
    looked_up = unfreeze.lookup(frozen, images.store.size)(pixels)
    np.testing.assert_allclose(rest(looked_up), expected, atol=1e-3 * np.abs(expected).max())
    assert capsys.readouterr().out.count("no LiteRT converter; Keras takes its place") == 1


@pytest.mark.parametrize("classes", [2, 4])
def test_the_solved_head_is_logistic_regression(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=300)
    x = (rng.normal(size=(300, 6)) + np.eye(classes, 6)[labels] * 2).astype(np.float32)
    kernel, bias, strength = head.solve(x[:200], labels[:200], x[200:], labels[200:])
    reference = LogisticRegression(C=1 / (strength * 200), tol=1e-8, max_iter=1000).fit(x[:200], labels[:200])
    logits = x[200:] @ kernel + bias
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, reference.predict_proba(x[200:]), atol=2e-2)


def test_the_solved_head_does_not_depend_on_the_number_of_cores():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7000, 576)).astype(np.float32)
    labels = (x[:, 0] + rng.normal(0, 2, 7000) > 0).astype(int)
    kernels = []
    for threads in (1, 2, 3, 4):
        with threadpool_limits(threads, user_api="blas"):
            kernels.append(head.solve(x[:6700], labels[:6700], x[6700:], labels[6700:])[0])
    assert all((kernel == kernels[0]).all() for kernel in kernels)


def test_block_numbers_follow_kerass_layer_names(network):
    numbers = [unfreeze.block_number(layer.name) for layer in network.layers if layer.weights]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(13))


def test_unfreeze_leaves_only_the_last_blocks():
    model = backbone.build(RANDOM)
    unfreeze.freeze_all_but(model, 2)
    trained = {unfreeze.block_number(layer.name) for layer in model.layers if layer.trainable_weights}
    assert trained == {11, 12}


@pytest.mark.slow
def test_frozen_blocks_outside_the_step_change_no_loss(photos, monkeypatch):
    def losses(cut):
        monkeypatch.setattr(step, "cut", cut)
        keras.utils.set_random_seed(0)
        images = data.load(sources.folder(photos), 32, seed=0)
        model = backbone.build(backbone.find_weights("bundled", None))
        backbone.set_batch_norm(model, "affine")
        unfreeze.freeze_all_but(model, 3)
        before = [np.array(w) for w in model.weights]
        trained = step.end_to_end(model, head.build(576, 2, 0.0), images, SETTINGS, 1e-3, epochs=2, layer_decay=0.9)
        found = [trained.epoch(epoch, lambda part: None) for epoch in (1, 2)]
        moved = [not np.array_equal(w, b) for w, b in zip(model.weights, before, strict=True)]
        return found, moved, len(trained.average.shown)

    (cut_losses, cut_moved, cut_weights) = losses(unfreeze.cut)
    (whole_losses, whole_moved, whole_weights) = losses(lambda backbone: (None, backbone))
    np.testing.assert_allclose(cut_losses, whole_losses, rtol=1e-4)
    assert cut_moved == whole_moved
    assert 0 < sum(cut_moved) < len(cut_moved)
    assert cut_weights < whole_weights / 2  # the frozen blocks are not averaged either


@pytest.mark.parametrize("blocks", [1, 5, 9, 12])
def test_a_backbone_cut_in_two_is_the_same_function(blocks):
    model = backbone.build(RANDOM)
    unfreeze.freeze_all_but(model, blocks)
    frozen, rest = unfreeze.cut(model)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(rest(frozen(pixels)), model(pixels), rtol=1e-4, atol=1e-6)
    assert not frozen.trainable_weights
    assert {unfreeze.block_number(layer.name) for layer in rest.layers if layer.weights} == set(range(13 - blocks, 13))


def test_layerwise_rates_move_later_blocks_more():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1)])
    optimizer = optimize.LayerwiseAdamW([0.1, 1.0, 1.0], learning_rate=0.01, weight_decay=0.0)
    optimizer.build(model.trainable_variables)
    before = [np.array(v) for v in model.trainable_variables]
    optimizer.apply([np.ones_like(b) for b in before], model.trainable_variables)
    moved = [np.abs(np.array(v) - b).max() for v, b in zip(model.trainable_variables, before, strict=True)]
    np.testing.assert_allclose(moved, [0.001, 0.01, 0.01], rtol=1e-3)


def test_weight_decay_follows_the_layers_rates():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False), keras.layers.Dense(1)])
    optimizer = optimize.LayerwiseAdamW([0.1, 1.0, 1.0], learning_rate=0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    model.layers[1].bias.assign([1.0])
    before = model.get_weights()
    optimizer.apply([np.zeros_like(b) for b in before], model.trainable_variables)
    for multiplier, a, b in zip([0.1, 1.0, 0.0], model.get_weights(), before, strict=True):
        np.testing.assert_allclose(a, b * (1 - 0.01 * 0.5 * multiplier), rtol=1e-6)


@pytest.mark.slow
def test_statistics_follow_the_weights_after_a_few_steps():
    # 60 steps: with statistics that lag, this control scores 13 % where batch statistics give 92 %.
    images = data.load(sources.digits(), 32, seed=0, train_per_class=40)
    settings = replace(SETTINGS, scratch_epochs=5, batch_size=32, ema=0.98, augment="none", scratch_learning_rate=2e-3)
    arm = train.train_scratch(images, 0.75, settings, lambda stage: None)
    accuracy = evaluate.batch_statistics_accuracy(arm, images)
    assert accuracy["batch_statistics"] > 0.6
    assert abs(accuracy["moving_statistics"] - accuracy["batch_statistics"]) < 0.1


def test_statistics_lag_in_epochs_shorter_than_the_averages_memory(network):
    assert statistics.lag(network, 49, 0.98)
    assert not statistics.lag(network, 51, 0.98)
    assert statistics.lag(network, 1000, 1.0)  # an average that never forgets
    assert not statistics.lag(network, 1, 0.0)


@pytest.mark.slow
def test_shuffled_labels_stay_at_chance():
    source = sources.digits()
    source.labels = np.random.default_rng(0).permutation(source.labels)
    images = data.load(source, 32, seed=0)
    settings = replace(SETTINGS, fine_tune_epochs=0, augment="shift")
    arm = train.train_pretrained(images, RANDOM, settings, lambda stage: None)
    right = evaluate.predict(arm, images, images.test).argmax(axis=1) == images.labels[images.test]
    assert binomtest(int(right.sum()), len(right), 0.1).pvalue > 1e-3


@pytest.mark.slow
def test_the_test_labels_choose_nothing(network, photos):
    """Head, strength and kept epoch are the same whatever the test labels are."""
    answers = []
    for change in (False, True):
        images = data.load(sources.folder(photos), 32, seed=0)
        if change:
            images.source.labels = images.labels.copy()
            images.source.labels[images.test] = 1 - images.source.labels[images.test]
        keras.utils.set_random_seed(0)
        arm = train.Arm("pretrained", RANDOM, network, head.build(432, 2, 0.2))
        phase = train.train_head(arm, images, SETTINGS, None)
        answers.append((phase.history.rows, arm.head.get_weights()))
    assert answers[0][0] == answers[1][0]
    for a, b in zip(answers[0][1], answers[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_fine_tuning_is_kept_for_a_lower_validation_loss_only(photos, monkeypatch):
    """An epoch with more images right and a higher loss does not win; a difference within chance is said to be one."""
    images = data.load(sources.folder(photos), 32, seed=0)
    own = backbone.build(RANDOM, momentum=0.9)
    arm = train.Arm("pretrained", RANDOM, own, head.build(432, 2, 0.2))
    start = {"epoch": 0, "validation_loss": 0.30, "validation_accuracy": 0.85}
    for epoch, kept, note in (
        ({"epoch": 1, "validation_loss": 0.40, "validation_accuracy": 0.93}, 0, "Validation loss rose"),
        ({"epoch": 1, "validation_loss": 0.29, "validation_accuracy": 0.81}, 1, "too few to tell"),
    ):

        def fit(stage, score, epoch=epoch, **_):
            return training.History([start, epoch], int(score(epoch) > score(start)), [0.0, 1.0])

        monkeypatch.setattr(training, "fit", fit)
        phase = train.fine_tune(arm, images, SETTINGS, None)
        assert phase.history.best_epoch == kept
        assert note in phase.summary()["note"]


SETTINGS = train.Settings(
    batch_size=8, learning_rate=1e-3, head_learning_rate=1e-3, scratch_learning_rate=1e-3, head_epochs=2,
    fine_tune_epochs=1, scratch_epochs=1, batch_norm="frozen", views=2, augment="none", dropout=0.2,
    label_smoothing=0.1, layer_decay=0.9, ema=0.9, weight_decay=0.01, unfreeze=13, seed=0,
)  # fmt: skip


def test_the_bundled_file_is_the_one_on_its_card():
    card = json.loads(backbone.BUNDLED.with_suffix("").with_suffix(".json").read_text())
    assert backbone.sha256(backbone.BUNDLED) == card["sha256"]
    assert backbone.BUNDLED.stat().st_size <= 4 * 10**6


def test_the_bundled_features_of_a_fixed_image_have_not_changed():
    network = backbone.build(backbone.find_weights("bundled", None))
    y, x = np.mgrid[0:96, 0:96]
    image = np.stack([x * 2.5, y * 2.5, (x + y) % 64 * 4], axis=-1)[np.newaxis].astype("float32")
    found = np.asarray(network(image, training=False))[0]
    assert found.shape == (576,)
    np.testing.assert_allclose(found[:6], FEATURES, atol=2e-3)
    assert float(np.abs(found).mean()) == pytest.approx(MEAN_FEATURE, abs=1e-3)


def test_the_fused_kernel_is_kerass_adamw():
    def trained(make):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        optimizer = make()
        optimizer.build(model.trainable_variables)
        for k in range(5):
            gradients = [np.full(v.shape, 0.3 * k - 0.5, "float32") for v in model.trainable_variables]
            optimizer.apply(gradients, model.trainable_variables)
        return model.get_weights()

    options = {"learning_rate": 0.01, "weight_decay": 0.1}
    ours = trained(lambda: optimize.LayerwiseAdamW([1.0, 1.0], **options))
    for a, b in zip(ours, trained(lambda: keras.optimizers.AdamW(**options)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
