"""Experiment 1's rows: features, the head phase, the unfrozen network."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import transfer
from benchmarks import plain
from benchmarks.measure import rates, row
from keras_a2 import settings
from keras_a2.fast import litert
from keras_a2.transfer import data, model, sources, train

SIZE, BATCH = 128, 32


def rows_features(quick: bool) -> list[dict]:
    """Frozen features: our extractor against ``model.predict`` of the same backbone."""
    n, rows = 64 if quick else 256, []
    for size in (96, 224):
        images, network = _cells(size, n), bundled_backbone()
        extractor = litert.Parallel(network, (size, size, 3))
        pixels = images.store.read(images.train).astype(np.float32)
        ours, theirs = extractor(pixels), network.predict(pixels, verbose=0)
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        predict = functools.partial(network.predict, pixels, verbose=0)
        measured = rates(functools.partial(extractor, pixels), predict, (n, n), 1 if quick else 3)
        note = f"largest difference {error:.0e} of the largest feature"
        rows.append(row(f"features, {size} px", "model.predict", "images/s", *measured, 2.5, note))
    return rows


def rows_head(quick: bool) -> list[dict]:
    """The head phase with its extraction, 10 epochs at 224 px, against the frozen backbone in every step."""
    n = 96 if quick else 450
    images, weights = _cells(224, n), model.find_weights("bundled", None)
    options = ["--head-epochs", "10", "--fine-tune-epochs", "0", "--views", "1"]
    config = train.resolve(settings.parse(transfer.Config, options), images, weights)
    with tempfile.TemporaryDirectory() as folder:
        ours = transfer.train_pretrained(images, weights, config, 0, Path(folder)).phases[0].seconds
    with tempfile.TemporaryDirectory() as folder:
        write(images, Path(folder))
        train_set, validation = (plain.images_from(Path(folder, name), 224) for name in ("train", "validation"))
        _, classifier = plain.transfer_model(224, len(images.classes), model.BUNDLED)
        plain.compile_classifier(classifier, 1e-3)
        theirs = plain.fit_seconds(classifier, train_set, validation, epochs=10)
    note = f"{n} images; theirs from two epochs, the others as long as the second"
    return [row("head phase, 10 epochs, 224 px", "frozen backbone in every step", "s", [ours], [theirs], 10, note)]


def rows_fine_tune(quick: bool) -> list[dict]:
    """The unfrozen network, all blocks: its first step, building and tracing included, and the steps after it."""
    n = 64 if quick else 256
    images, weights = _cells(SIZE, n), model.find_weights("bundled", None)
    with tempfile.TemporaryDirectory() as folder:
        write(images, Path(folder))
        epochs: list[Callable[[Callable], object]] = []
        firsts: list[float] = []
        for build in (_our_epoch, _plain_epoch):
            started, ended = time.perf_counter(), list[float]()
            epochs.append(build(Path(folder), images, weights))
            epochs[-1](lambda *_, ended=ended, **__: ended.append(time.perf_counter()))
            firsts.append(ended[0] - started)
        ours, theirs = (functools.partial(epoch, lambda *_, **__: None) for epoch in epochs)
        measured = rates(ours, theirs, (n // BATCH * BATCH, n), 1 if quick else 3)
    fit = "fit, image_dataset_from_directory"
    return [
        row(f"first step, unfrozen, {SIZE} px", "compile + fit", "s", firsts[:1], firsts[1:], 3),
        row(f"fine-tune phase, {SIZE} px, every block", fit, "images/s", *measured, 1.5),
    ]


def _our_epoch(_folder: Path, images: data.Images, weights: model.Weights) -> Callable[[Callable], object]:
    """An epoch of the experiment's own step, every block of the backbone unfrozen; calls its argument every step."""
    config = train.resolve(settings.parse(transfer.Config, ["--unfreeze", str(model.BLOCKS)]), images, weights)
    arm = transfer.build_arm("pretrained", images, weights, config, 0, Path())
    transfer.unfreeze(arm.backbone, config.fine_tune)
    epoch, _ = transfer.compile_network(arm, config, 8, 1e-4, config.fine_tune.layer_decay)
    return functools.partial(epoch, 1)


def _plain_epoch(folder: Path, images: data.Images, weights: model.Weights) -> Callable[[Callable], object]:
    """An epoch of ``fit`` on the files, the whole base unfrozen; calls its argument every step."""
    base, classifier = plain.transfer_model(SIZE, len(images.classes), model.BUNDLED)
    base.trainable = True
    plain.compile_classifier(classifier, 1e-5)
    dataset = plain.images_from(folder / "train", SIZE, BATCH)

    def epoch(on_step: Callable) -> None:
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_step)
        classifier.fit(dataset, callbacks=[callback], verbose=0)

    return epoch


def _cells(size: int, n: int) -> data.Images:
    """Some of the solar cells, split as the experiment splits them, ``n`` of them to train on."""
    source = sources.find("elpv")
    rows = np.random.default_rng(0).permutation(len(source.items))[: 2 * n]
    items, names = ([values[i] for i in rows] for values in (source.items, source.item_names))
    some = sources.Source(source.name, source.classes, items, source.labels[rows], names)
    images = data.load(some, sources.Options(image_size=size), seed=0)
    return dataclasses.replace(images, train=images.train[:n])


def write(images: data.Images, folder: Path) -> None:
    """The same splits as folders of the files as they came, which is what the plain way reads."""
    for split in ("train", "validation", "test"):
        for i in getattr(images, split):
            target = folder / split / images.classes[images.labels[i]]
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{i}.png").symlink_to(images.source.items[i])


def bundled_backbone() -> keras.Model:
    """MobileNetV3Small with the bundled weights: pixels 0-255 to 576 features."""
    backbone = model.plain_backbone(model.BUNDLED_ALPHA)
    model.load_weights(backbone, model.find_weights("bundled", None))
    return backbone
