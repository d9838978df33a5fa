"""Backbone, head and phases, against Keras, scikit-learn and cases worked by hand."""

from __future__ import annotations

import contextvars
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from conftest import load_script
from keras_a2 import runs, settings, training
from keras_a2.errors import UserError
from keras_a2.fast import litert
from keras_a2.fast.convolutions import Joined, joined
from keras_a2.training import Average
from keras_a2.transfer import data, evaluate, model, sources, train

SIZE_32 = sources.Options(image_size=32)

transfer = load_script("transfer")
FEATURES = [0.1395, -0.0956, -0.0444, -0.2721, -0.1471, -0.1430]  # of the bundled backbone on the fixed image
MEAN_FEATURE = 0.1953
RANDOM = model.random_weights(0.75)


SMALL = (
    "--batch-size 8 --learning-rate 1e-3 --head-learning-rate 1e-3 --scratch-learning-rate 1e-3 --head-epochs 2 "
    "--fine-tune-epochs 1 --scratch-epochs 1 --views 2 --augment none --layer-decay 0.9 --ema 0.9 --weight-decay 0.01 "
    "--unfreeze 13"
).split()


def options(*more: object) -> transfer.Config:
    """The script's options for a short training; later ones win."""
    return settings.parse(transfer.Config, [*SMALL, *map(str, more)])


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return model.plain_backbone(0.75)


def pixels(n: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (n, size, size, 3)).astype("float32")


def bundled() -> keras.Model:
    backbone = model.plain_backbone(1.0)
    model.load_weights(backbone, model.find_weights("bundled", None))
    return backbone


@pytest.mark.parametrize(("steps", "momentum"), [(10, 0.9), (50, 0.9), (200, 0.95), (1000, 0.99)])
def test_momentum_rule(steps, momentum):
    assert model.momentum_for(steps) == pytest.approx(max(1 - 10 / steps, 0.9)) == pytest.approx(momentum)


def test_weight_files_are_recognised_or_refused(tmp_path):
    good = tmp_path / "good.weights.h5"
    model.plain_backbone(0.75).save_weights(good)
    assert model.find_weights(str(good), None).alpha == 0.75
    with pytest.raises(UserError, match=r"alpha 0\.75, not 1\.0"):
        model.find_weights(str(good), 1.0)
    (tmp_path / "cut.weights.h5").write_bytes(good.read_bytes()[:400_000])
    with pytest.raises(UserError, match="not a readable HDF5"):
        model.find_weights(str(tmp_path / "cut.weights.h5"), None)
    other = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(other)
    with pytest.raises(UserError, match="not the weights of MobileNetV3Small"):
        model.find_weights(str(other), None)
    with pytest.raises(UserError, match="no such weights file"):
        model.find_weights(str(tmp_path / "absent.h5"), None)


def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", fail)


def test_imagenet_without_network_names_file_folder_and_checksum(monkeypatch, tmp_path):
    no_network(monkeypatch, tmp_path)
    with pytest.raises(UserError) as error:
        model.find_weights("imagenet", 1.0)
    for part in (*model.IMAGENET_FILES[1.0], str(tmp_path)):
        assert part in str(error.value)


def test_auto_without_network_says_so_and_takes_the_bundled_weights(monkeypatch, tmp_path, capsys):
    no_network(monkeypatch, tmp_path)
    assert model.find_weights("auto", None).origin == "bundled"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: ")
    assert "bundled" in line


def arm_of(images: data.Images, backbone: keras.Model, folder) -> train.Arm:
    head = keras.Sequential([keras.Input(backbone.output_shape[1:]), keras.layers.Dense(2)])
    return train.Arm("pretrained", images, RANDOM, backbone, head, 0, folder)


def test_cached_features_are_the_models_fast_and_plain(photos, tmp_path):
    network, images = bundled(), data.load(sources.folder(photos), SIZE_32, seed=0)
    expected = np.asarray(network(images.store.read(images.train).astype("float32"), training=False))
    views = []
    for make in (litert.Parallel, train.keras_features):
        features = train.Features(make, arm_of(images, network, tmp_path), 2, "crop")
        np.testing.assert_allclose(features.train[0], expected, atol=1e-3 * np.abs(expected).max())
        assert features.train.shape == (2, len(images.train), 576)
        assert features.validation.shape == (len(images.validation), 576)
        views.append(features.train[1])
    np.testing.assert_allclose(*views, atol=1e-3 * np.abs(expected).max())
    assert np.abs(views[0] - expected).max() > 1e-2  # augmented


def test_a_wrong_extractor_is_noticed(network, photos, tmp_path, monkeypatch):
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    monkeypatch.setattr(litert, "interpret", lambda content, threads: lambda item: np.ones((1, 432), np.float32))
    with pytest.raises(UserError, match="differ from the Keras model"):
        _ = train.Features(litert.Parallel, arm_of(images, network, tmp_path), 1, "none").train


def test_without_a_converter_keras_computes_the_features_and_says_so_once(network, monkeypatch, capsys):
    monkeypatch.delattr(tf.lite, "TFLiteConverter")  # its removal is announced
    litert._print_once.cache_clear()  # once in a process, and another test may have been first
    expected = np.asarray(network(pixels(3), training=False))
    for _ in range(2):
        answers = litert.Parallel(network, (32, 32, 3))(pixels(3))
        np.testing.assert_allclose(answers, expected, atol=1e-3 * np.abs(expected).max())
    assert capsys.readouterr().out.count("no LiteRT converter; Keras takes its place") == 1


@pytest.mark.parametrize("classes", [2, 4])
def test_the_solved_head_is_logistic_regression(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=300)
    x = (rng.normal(size=(300, 6)) + np.eye(classes, 6)[labels] * 2).astype(np.float32)
    kernel, bias, strength = model.solve(x[:200], labels[:200], x[200:], labels[200:])
    reference = LogisticRegression(C=1 / (strength * 200), tol=1e-8, max_iter=1000).fit(x[:200], labels[:200])
    logits = x[200:] @ kernel + bias
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, reference.predict_proba(x[200:]), atol=2e-2)


def test_noise_is_answered_with_the_strongest_penalty():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(300, 50)).astype(np.float32), np.arange(300) % 2
    assert model.solve(x[:20], labels[:20], x[20:], labels[20:])[2] == model.STRONGER[-1]


def thinned(photos) -> data.Images:
    """Two images of each class, of which one was five times as frequent."""
    images = data.load(sources.folder(photos), sources.Options(image_size=32, train_per_class=2), seed=0)
    return replace(images, shares=np.array([5 / 6, 1 / 6]))


def test_class_weights_by_hand(photos):
    images = thinned(photos)
    train_weights, validation_weights = train.class_weights(images, "none")
    np.testing.assert_allclose(train_weights, [5 / 3, 1 / 3])  # on average 1, and as frequent as they were
    assert validation_weights is None
    assert train.class_weights(replace(images, shares=None), "none") == (None, None)
    order = np.argsort(images.labels[images.train])
    uneven = replace(images, shares=None, train=images.train[order][:3])  # two and one
    np.testing.assert_allclose(train.class_weights(uneven, "balanced")[0], [3 / 4, 3 / 2])
    classes, logits = np.array([0, 1]), np.array([[2.0, 1.0], [0.0, 1.0]], np.float32)
    losses = train.cross_entropy(0.1)(classes, logits)
    weighted = train.cross_entropy(0.1, np.array([0.5, 3.0]))(classes, logits)
    np.testing.assert_allclose(weighted, np.asarray(losses) * [0.5, 3.0], rtol=1e-6)


def test_a_balanced_head_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.15).astype(int)
    x = (rng.normal(size=(400, 5)) + labels[:, np.newaxis]).astype(np.float32)
    weights = 0.5 / data.class_shares(labels[:300], 2)
    kernel, bias, strength = model.solve(x[:300], labels[:300], x[300:], labels[300:], weights, weights)
    theirs = LogisticRegression(C=1 / (strength * 300), class_weight="balanced", tol=1e-8).fit(x[:300], labels[:300])
    np.testing.assert_allclose((kernel[:, 1] - kernel[:, 0]), theirs.coef_[0], atol=2e-2)
    plain_kernel, plain_bias, _ = model.solve(x[:300], labels[:300], x[300:], labels[300:])
    balanced, plain = ((x @ w + b).argmax(axis=1) for w, b in ((kernel, bias), (plain_kernel, plain_bias)))
    assert balanced[labels == 1].mean() > plain[labels == 1].mean()  # recall of the rare class


def test_a_control_of_few_images_starts_at_their_shares(network, photos, tmp_path):
    images = thinned(photos)
    head = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="logits")])
    arm = train.Arm("scratch", images, RANDOM, network, head, 0, tmp_path, *train.class_weights(images, "none"))
    train.answer_class_shares(arm)
    answers = np.asarray(tf.nn.softmax(head(np.random.default_rng(0).normal(size=(3, 4)))))
    np.testing.assert_allclose(answers, np.tile([5 / 6, 1 / 6], (3, 1)), rtol=1e-6)


def test_an_epoch_on_few_images_passes_over_them_several_times(photos):
    images = thinned(photos)
    steps = train.steps_per_epoch(images, 3)
    assert steps == train.LEAST_STEPS
    assert int(train.augmented(images, "none", 3, 0)(1).cardinality()) == steps
    many = replace(images, train=np.tile(images.train, 50))
    assert (train.passes(200, 8), train.steps_per_epoch(many, 8)) == (1, 25)


def test_the_solved_head_does_not_depend_on_the_number_of_cores():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7000, 576)).astype(np.float32)
    labels = (x[:, 0] + rng.normal(0, 2, 7000) > 0).astype(int)
    kernels = []
    for threads in (1, 2, 3, 4):
        with threadpool_limits(threads, user_api="blas"):
            kernels.append(model.solve(x[:6700], labels[:6700], x[6700:], labels[6700:])[0])
    assert all((kernel == kernels[0]).all() for kernel in kernels)


def test_block_numbers_follow_kerass_layer_names(network):
    numbers = [model.block_number(layer) for layer in network.layers if layer.weights]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(13))


def test_unfreeze_leaves_only_the_last_blocks_and_no_batch_norm():
    backbone = model.plain_backbone(0.75)
    transfer.unfreeze(backbone, options("--unfreeze", 2).fine_tune)
    trained = [layer for layer in backbone.layers if layer.trainable_weights]
    assert {model.block_number(layer) for layer in trained} == {11, 12}
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in trained)
    statistics = [np.array(layer.moving_mean) for layer in backbone.layers if hasattr(layer, "moving_mean")]
    backbone(pixels(4), training=True)  # as fit does
    after = [np.array(layer.moving_mean) for layer in backbone.layers if hasattr(layer, "moving_mean")]
    assert all((a == b).all() for a, b in zip(statistics, after, strict=True))


def trained(photos, folder, plain: bool) -> tuple[list[dict], list[np.ndarray]]:
    """Figures and weights of two epochs of phase 2 without dropout, by fit or by the fast step."""
    config = options("--unfreeze", 3, "--dropout", 0, *["--plain"] * plain)
    images, weights = data.load(sources.folder(photos), SIZE_32, seed=0), model.find_weights("bundled", None)
    arm = transfer.build_arm("pretrained", images, weights, config, 0, folder)
    transfer.unfreeze(arm.backbone, config.fine_tune)
    epoch, average = transfer.compile_network(arm, config, 2, 1e-3, 0.9)
    figures = [epoch(number, lambda part: None) for number in (1, 2)]
    average.copy_to_model()
    return figures, arm.network.get_weights()


@pytest.mark.slow
def test_the_fast_step_is_that_of_fit(photos, tmp_path):
    before = bundled().get_weights()
    plain_figures, plain_weights = trained(photos, tmp_path, plain=True)
    figures, weights = trained(photos, tmp_path, plain=False)
    for name, values in (("loss", {"rtol": 1e-3}), ("accuracy", {"atol": 1e-6})):
        np.testing.assert_allclose(*([row[name] for row in rows] for rows in (figures, plain_figures)), **values)
    moved = [not np.array_equal(a, b) for a, b in zip(plain_weights, before, strict=False)]
    assert 0 < sum(moved) < len(moved)
    assert moved == [not np.array_equal(a, b) for a, b in zip(weights, before, strict=False)]
    for a, b, start in zip(weights, plain_weights, before, strict=False):
        np.testing.assert_allclose(a - start, b - start, atol=5e-4)


@pytest.mark.parametrize("trains", [False, True])
def test_joined_convolutions_are_kerass(trains):
    images, rng, answers = pixels(4) / 255, np.random.default_rng(0), []
    x = image = keras.Input((32, 32, 3))
    convolutions = [
        keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        keras.layers.DepthwiseConv2D(5, strides=2, use_bias=False),
        keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        keras.layers.Conv2D(6, 1, use_bias=False),
    ]
    for convolution in convolutions:
        x = keras.layers.Activation("hard_swish")(keras.layers.BatchNormalization()(convolution(x)))
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.set_weights([rng.uniform(0.5, 2, norm.gamma.shape) for _ in range(4)])
        norm.momentum, norm.trainable = 0.9, trains
    weights, variables = backbone.get_weights(), backbone.trainable_variables
    twin = joined(backbone)
    assert [id(variable) for variable in twin.trainable_variables] == [id(variable) for variable in variables]
    for network in (backbone, twin):
        backbone.set_weights(weights)
        with tf.GradientTape() as tape:
            features = network(images, training=True)
            loss = tf.reduce_sum(tf.sin(features * np.arange(features.shape[1], dtype="float32")))
        gradient = tf.concat([tf.reshape(part, -1) for part in tape.gradient(loss, variables)], axis=0)
        answers.append([features, gradient, *backbone.get_weights()])
    for kerass, ours in zip(*answers, strict=True):
        np.testing.assert_allclose(ours, kerass, rtol=1e-3, atol=1e-4 * float(np.abs(kerass).max()))
    assert sum(isinstance(layer, Joined) for layer in twin.layers) == len(convolutions)


def test_options_that_a_joined_convolution_does_not_honour_stay_kerass():
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dilation_rate=2, use_bias=False)])
    image, outputs = keras.Input((8, 8, 3)), network.layers[0]
    functional = keras.Model(image, keras.layers.BatchNormalization()(outputs(image)))
    assert not any(isinstance(layer, Joined) for layer in joined(functional).layers)


@pytest.mark.slow
def test_statistics_follow_the_weights_after_a_few_steps(tmp_path):
    # 60 steps: with statistics that trail, this control scores 13 % where batch statistics give 92 %.
    images = data.load(sources.digits(), sources.Options(image_size=32, train_per_class=40), seed=0)
    config = options("--scratch-epochs", 5, "--batch-size", 32, "--ema", 0.98, "--scratch-learning-rate", 2e-3)
    arm = transfer.train_scratch(images, RANDOM, config, 0, tmp_path)
    accuracy = evaluate.batch_statistics_accuracy(arm, images)
    assert accuracy["batch_statistics"] > 0.6
    assert abs(accuracy["moving_statistics"] - accuracy["batch_statistics"]) < 0.1


def test_statistics_are_estimated_in_epochs_shorter_than_the_averages_memory(network, photos, tmp_path):
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    arm = arm_of(images, network, tmp_path)

    def estimates(steps: int, decay: float) -> bool:
        arm.images = replace(images, train=np.zeros(steps, int))
        return type(train.average(arm, network, decay, batch_size=1)) is not Average

    assert estimates(49, 0.98)
    assert not estimates(51, 0.98)
    assert estimates(1000, 1.0)  # an average that never forgets
    assert not estimates(1, 0.0)


@pytest.mark.slow
def test_shuffled_labels_stay_at_chance(tmp_path):
    source = sources.digits()
    source.labels = np.random.default_rng(0).permutation(source.labels)
    images = data.load(source, SIZE_32, seed=0)
    config = options("--fine-tune-epochs", 0, "--augment", "shift")
    arm = transfer.train_pretrained(images, RANDOM, config, 0, tmp_path)
    right = model.predict(arm.network, images, images.test).argmax(axis=1) == images.labels[images.test]
    assert binomtest(int(right.sum()), len(right), 0.1).pvalue > 1e-3


@pytest.mark.slow
def test_the_test_labels_choose_nothing(photos, tmp_path):
    """Head, strength and kept epoch are the same whatever the test labels are."""
    answers = []
    for change in (False, True):
        images = data.load(sources.folder(photos), SIZE_32, seed=0)
        if change:
            images.source.labels = images.labels.copy()
            images.source.labels[images.test] = 1 - images.source.labels[images.test]
        folder = tmp_path / str(change)
        folder.mkdir()
        arm = transfer.train_pretrained(images, RANDOM, options("--fine-tune-epochs", 0), 0, folder)
        answers.append((arm.phases[0].history.rows, arm.head.get_weights()))
    assert answers[0][0] == answers[1][0]
    for a, b in zip(answers[0][1], answers[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_finished_head_is_resumed_without_a_pass_over_the_images(photos, tmp_path, monkeypatch):
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    config = options("--fine-tune-epochs", 0, "--plain")
    first = transfer.train_pretrained(images, RANDOM, config, 0, tmp_path)
    monkeypatch.setattr(train, "keras_features", None)
    again = transfer.train_pretrained(images, RANDOM, config, 0, tmp_path)
    assert again.phases[0].history.rows == first.phases[0].history.rows
    for a, b in zip(first.head.get_weights(), again.head.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fine_tuning_is_kept_for_a_lower_validation_loss_only(network, photos, tmp_path, monkeypatch):
    """An epoch with more images right and a higher loss does not win; a difference within chance is said to be one."""
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    arm = arm_of(images, network, tmp_path)
    arm.network.compile("sgd")
    start = {"epoch": 0, "validation_loss": 0.30, "validation_accuracy": 0.85}
    for epoch, kept, note in (
        ({"epoch": 1, "validation_loss": 0.40, "validation_accuracy": 0.93}, 0, "Validation loss rose"),
        ({"epoch": 1, "validation_loss": 0.29, "validation_accuracy": 0.81}, 1, "too few to tell"),
    ):

        def fit(stage, score, epoch=epoch, **_):
            return training.History([start, epoch], int(score(epoch) > score(start)), [0.0, 1.0])

        monkeypatch.setattr(training, "fit", fit)
        arm.fit("fine_tune", arm.network, lambda number, report: 0.0, 1)
        assert arm.phases[-1].history.best_epoch == kept
        assert note in arm.phases[-1].summary()["note"]


def test_defaults_follow_the_data_and_the_weights(photos):
    images = data.load(sources.folder(photos), SIZE_32, seed=0)
    few = settings.flat(train.resolve(settings.parse(transfer.Config, []), images, model.find_weights("bundled", None)))
    names = ("batch_size", "learning_rate", "unfreeze", "scratch_epochs", "augment")
    assert [few[name] for name in names] == [32, 2e-3, 13, 12, "crop"]
    imagenet = replace(RANDOM, origin="imagenet", path=model.BUNDLED)
    many = replace(images, train=np.zeros(4000, int))
    resolved = settings.flat(train.resolve(settings.parse(transfer.Config, ["--augment", "none"]), many, imagenet))
    assert [resolved[name] for name in names] == [64, 3e-4, 9, 12, "none"]


def test_the_bundled_file_is_the_one_on_its_card():
    card = json.loads(model.BUNDLED.with_suffix("").with_suffix(".json").read_text())
    assert model.sha256(model.BUNDLED) == card["sha256"]
    assert model.BUNDLED.stat().st_size <= 4 * 10**6


def test_the_bundled_features_of_a_fixed_image_have_not_changed():
    network = bundled()
    y, x = np.mgrid[0:96, 0:96]
    image = np.stack([x * 2.5, y * 2.5, (x + y) % 64 * 4], axis=-1)[np.newaxis].astype("float32")
    features = np.asarray(network(image, training=False))[0]
    assert features.shape == (576,)
    np.testing.assert_allclose(features[:6], FEATURES, atol=2e-3)
    assert float(np.abs(features).mean()) == pytest.approx(MEAN_FEATURE, abs=1e-3)


def test_long_trainings_run_side_by_side_unless_something_speaks_against_it(monkeypatch):
    def jobs(count: int, size: int, *more: object) -> int:
        source = sources.Source("s", ["a", "b"], [], np.arange(count) % 2, [])
        parts = np.arange(count), np.arange(0), np.arange(0)
        images = data.Images(source, data.PixelStore(0, size), *parts, sha256="")
        return train.resolve(settings.parse(transfer.Config, [*map(str, more)]), images, RANDOM).run.jobs

    monkeypatch.setattr(train.machine, "cores", lambda: 4)
    assert jobs(1673, 128) == 4  # 24 epochs of 1,673 images
    assert jobs(1673, 32) == 1  # a sixteenth of that
    assert jobs(100, 128) == 1
    assert jobs(100, 128, "--seeds", 5) == 4
    assert jobs(1673, 128, "--jobs", 1) == 1
    assert jobs(1673, 128, "--strategy", "mirrored") == 1
    context = contextvars.copy_context()  # a run from Python: its script would run again in each process
    context.run(runs.COMMAND.set, "transfer.py")
    assert context.run(jobs, 1673, 128) == 1


def test_processes_do_not_look_for_weights_again(photos, tmp_path, monkeypatch):
    images, tasks = data.load(sources.folder(photos), sources.Options(image_size=32), seed=0), []
    monkeypatch.setattr(train.jobs, "spread", lambda function, given, jobs, folder: tasks.extend(given))
    config = train.resolve(options(), images, RANDOM)
    train.every_arm({}, images, RANDOM, config, tmp_path)
    assert not tasks
    trainings = {"pretrained": lambda *arguments: None, "scratch": lambda *arguments: None}
    train.every_arm(trainings, images, model.find_weights("bundled", None), config, tmp_path, [2])
    assert [task["config"].network.weights for task in tasks] == ["bundled"] * 3
    assert config.network.weights == "auto"
