"""Experiment 1's rows: features, head, fine-tuning, the first step, the whole run, memory, growth."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import transfer
from benchmarks import plain
from benchmarks.measure import alternate, growth, importing, in_process, peak_bytes, rate, row, seconds
from keras_a2 import settings
from keras_a2.fast import litert
from keras_a2.transfer import data, model, sources, train
from keras_a2.transfer.model import BLOCKS
from keras_a2.transfer.train import IMAGENET_BLOCKS

HERE = __name__
HEAD_EPOCHS, FINE_TUNE_EPOCHS, SCRATCH_EPOCHS = 2, 10, 12  # of transfer.py's default run
SIZE, BATCH = 128, 32
FEW_IMAGES = 500  # the smallest number that growth is measured from


def rows_features(quick: bool) -> list[dict]:
    """Frozen features: our extractor against ``model.predict`` of the same backbone."""
    n, rounds = (64, 1) if quick else (256, 3)
    rows = []
    for size in (96, 224):
        images = _elpv(size, n, whole=False)
        network = _backbone()
        extractor = litert.Parallel(network, (size, size, 3))
        pixels = images.store.read(images.train).astype(np.float32)
        ours, theirs = extractor(pixels), network.predict(pixels, verbose=0)
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        times = alternate(
            rate(n, functools.partial(extractor, pixels)),
            rate(n, functools.partial(network.predict, pixels, verbose=0)),
            rounds,
        )
        note = f"largest difference {error:.0e} of the largest feature"
        rows.append(row(f"features, {size} px", "model.predict", "images/s", *times, 2.5, note))
    return rows


def rows_head(quick: bool) -> list[dict]:
    """The head phase with its extraction, 10 epochs at 224 px, against the frozen backbone in every step."""
    n = 96 if quick else 450
    images = _elpv(224, n, whole=not quick)
    weights = model.find_weights("bundled", None)
    options = _options(images, "--head-epochs", "10", "--fine-tune-epochs", "0", "--views", "1")
    truth = images.labels[images.validation]
    with tempfile.TemporaryDirectory() as folder:
        arm = transfer.train_pretrained(images, weights, options, 0, Path(folder))
    ours = arm.phases[0].seconds
    accuracy = float((model.predict(arm.network, images, images.validation).argmax(axis=1) == truth).mean())
    with tempfile.TemporaryDirectory() as folder:
        _write(images, Path(folder))
        train_set, validation = (plain.images_from(Path(folder, name), 224) for name in ("train", "validation"))
        _, classifier = plain.transfer_model(224, 2, weights.path)
        plain.compile_classifier(classifier, 1e-3)
        accuracies: list[float] = []

        def frozen_in_every_step() -> None:
            history = classifier.fit(train_set, epochs=10, validation_data=validation, verbose=0).history
            accuracies.append(history["val_accuracy"][-1])

        theirs = seconds(frozen_in_every_step)
    note = f"{n} images; validation accuracy {accuracy:.3f} against {accuracies[0]:.3f} ({len(truth)} images)"
    return [row("head phase, 10 epochs, 224 px", "frozen backbone in every step", "s", [ours], [theirs], 10, note)]


def rows_fine_tune(quick: bool) -> list[dict]:
    """Training steps of the unfrozen network, against ``fit`` on ``image_dataset_from_directory``."""
    n, rounds = (64, 1) if quick else (256, 2)
    images = _elpv(SIZE, n, whole=False)
    weights = model.find_weights("bundled", None)
    epoch = _our_epoch(images, weights, IMAGENET_BLOCKS)
    whole_network = _our_epoch(images, weights, BLOCKS)
    with tempfile.TemporaryDirectory() as folder:
        _write(images, Path(folder))
        fit = plain.images_from(Path(folder, "train"), SIZE)
        base, classifier = plain.transfer_model(SIZE, 2, weights.path)
        base.trainable = True
        plain.compile_classifier(classifier, 1e-5)
        plainly = rate(n, lambda: classifier.fit(fit, verbose=0))
        for warm in (epoch, whole_network, plainly):
            warm()
        whole = n // BATCH * BATCH
        tuned = alternate(rate(whole, epoch), plainly, rounds)
        all_tuned = alternate(rate(whole, whole_network), plainly, rounds)
    against = "fit, image_dataset_from_directory"
    note = f"the last {IMAGENET_BLOCKS} of {BLOCKS} blocks train, as by default with ImageNet's weights; in fit all do"
    return [
        row(f"fine-tune phase, {SIZE} px, --unfreeze {IMAGENET_BLOCKS}", against, "images/s", *tuned, 1.5, note),
        row(f"the same, --unfreeze {BLOCKS}", against, "images/s", *all_tuned, 1.5, "every block trains, as in fit"),
    ]


def rows_first_step(quick: bool) -> list[dict]:
    """Seconds until the first step of the unfrozen network is done, building and tracing included."""
    ours, theirs = alternate(
        lambda: in_process(f"{HERE}:first_step", ours=True),
        lambda: in_process(f"{HERE}:first_step", ours=False),
        1 if quick else 2,
    )
    return [row("first training step, unfrozen, 64 px", "compile + fit", "s", ours, theirs, 2)]


def first_step(ours: bool) -> float:
    """Seconds until one step is done, ours or that of ``compile`` and ``fit``."""
    images = _elpv(64, BATCH, whole=False)
    started = time.perf_counter()
    if ours:
        _our_epoch(images, model.random_weights(1.0), BLOCKS)()
    else:
        base, classifier = plain.transfer_model(64, 2, None)
        base.trainable = True
        plain.compile_classifier(classifier, 1e-5)
        classifier.fit(images.store.read(images.train).astype(np.float32), images.labels[images.train], verbose=0)
    return time.perf_counter() - started


def rows_transfer(quick: bool) -> list[dict]:
    """The default run, from the times of its parts: two epochs of each unfrozen phase, the rest whole."""
    few = 30 if quick else None
    ours, theirs = our_run(few), in_process(f"{HERE}:plain_run", per_class=few)
    note = "two epochs of each unfrozen phase run (theirs: one and 16 batches), the others added at the later's length"
    return [row("transfer.py, default run", "the same job with fit", "s", [ours], [theirs], 3, note)]


def our_run(per_class: int | None) -> float:
    """Seconds of ``transfer.py`` with its default epochs, of which two of each kind are run."""
    import pandas as pd

    script = Path(__file__).parents[1] / "transfer.py"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--weights", "bundled", "--fine-tune-epochs", "2", "--scratch-epochs", "2", "--output", folder]
        options += ["--train-per-class", str(per_class)] if per_class else []
        whole = seconds(lambda: subprocess.run([sys.executable, script, *options], check=True, capture_output=True))
        history = pd.read_csv(next(Path(folder).glob("*/*/history.csv")))
    later = history[history["epoch"] == 2].set_index("phase")["seconds"]  # the first epoch has the tracing in it
    return whole + (FINE_TUNE_EPOCHS - 2) * later["fine_tune"] + (SCRATCH_EPOCHS - 2) * later["scratch"]


def plain_run(per_class: int | None) -> float:
    """Seconds of the same job in plain Keras; importing TensorFlow is in ours too, so it is added here."""
    images = data.load(sources.find("elpv"), SIZE, seed=0, train_per_class=per_class)
    with tempfile.TemporaryDirectory() as folder:
        _write(images, Path(folder))
        whole = importing()
        started = time.perf_counter()
        models = plain.transfer(Path(folder), SIZE, model.BUNDLED, HEAD_EPOCHS, 1, 1)
        whole += time.perf_counter() - started
        tune, control = (_plain_epoch(model, Path(folder)) for model in models)
    return whole + (FINE_TUNE_EPOCHS - 1) * tune + (SCRATCH_EPOCHS - 1) * control


def _plain_epoch(classifier: keras.Model, folder: Path) -> float:
    """Seconds of an epoch of ``fit`` with its validation, from at most 16 batches; all is traced by now."""
    train_set, validation = (plain.images_from(folder / name, SIZE) for name in ("train", "validation"))
    few = min(16, len(train_set))
    part = seconds(lambda: classifier.fit(train_set.take(few), verbose=0))
    return part * len(train_set) / few + seconds(lambda: classifier.evaluate(validation, verbose=0))


def rows_memory(quick: bool) -> list[dict]:
    """Peak memory of reading, splitting and streaming a folder of 50,000 images, against the decoded images."""
    n = 5_000 if quick else 50_000
    peak, decoded = in_process(f"{HERE}:streamed", n=n)
    note = f"{n} images at 224 px; TensorFlow's own memory included" + ("; too few to judge" if quick else "")
    bar = None if quick else 4
    return [row("memory of a large folder", "the decoded images", "bytes", [peak], [decoded], bar, note)]


def streamed(n: int) -> tuple[int, int]:
    """Peak memory of streaming ``n`` images at 224 px, and bytes of them decoded."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for i in range(n):
            path = Path(folder, "ab"[i % 2], f"{i}.bmp")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
        images = data.load(sources.find(folder), 224, seed=0, folder=Path(folder))
        for _ in data.batches(images, images.train, 64):
            pass
    return peak_bytes(), n * 224 * 224 * 3


def rows_growth(quick: bool) -> list[dict]:
    """Time and memory of decoding images to 64 px and extracting features at 1, 4 and 16 times the images."""
    return [growth(f"{HERE}:extracted", 125 if quick else FEW_IMAGES, "image")]


def extracted(n: int) -> tuple[float, int]:
    """Seconds and peak memory of decoding ``n`` images to 64 px and extracting their features."""
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(n)]
    labels = np.arange(n) % 2
    source = sources.Source("noise", ["a", "b"], items, labels, [str(i) for i in range(n)])
    extractor = litert.Parallel(_backbone(), (64, 64, 3))
    limit = FEW_IMAGES * 64 * 64 * 3  # the cache holds the smallest of the three; the others stream from a file
    started = time.perf_counter()
    images = data.load(source, 64, seed=0, memory_limit=limit)
    for split in (images.train, images.validation, images.test):
        for pixels, _ in data.batches(images, split, 64).as_numpy_iterator():
            extractor(pixels)
    return time.perf_counter() - started, peak_bytes()


def _elpv(size: int, n: int, whole: bool = True) -> data.Images:
    """The solar cells with at most ``n`` training images, as the experiment reads and splits them.

    ``whole``: all held-out images too; otherwise only as many cells are read as it takes.
    """
    source = sources.find("elpv")
    if not whole:
        rows = np.random.default_rng(0).permutation(len(source.items))[: 2 * n]
        items, names = ([values[i] for i in rows] for values in (source.items, source.item_names))
        source = sources.Source(source.name, source.classes, items, source.labels[rows], names)
    images = data.load(source, size, seed=0)
    chosen = np.sort(np.random.default_rng(0).permutation(images.train)[:n])
    return dataclasses.replace(images, train=chosen)


def _write(images: data.Images, folder: Path) -> None:
    """The same splits as folders of the files as they came, which is what the plain way reads."""
    for split in ("train", "validation", "test"):
        for i in getattr(images, split):
            target = folder / split / images.classes[images.labels[i]]
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{i}.png").symlink_to(images.source.items[i])


def _backbone() -> keras.Model:
    backbone = model.plain_backbone(model.BUNDLED_ALPHA)
    model.load_weights(backbone, model.find_weights("bundled", None))
    return backbone


def _options(images: data.Images, *arguments: str) -> transfer.Config:
    """The script's options with its defaults for the bundled weights."""
    config = settings.parse(transfer.Config, list(arguments))
    return train.resolve(config, images, model.find_weights("bundled", None))


def _our_epoch(images: data.Images, weights: model.Weights, blocks: int) -> Callable[[], float]:
    """A training epoch of the experiment's own step, the last ``blocks`` blocks of the backbone unfrozen."""
    config = _options(images, "--unfreeze", str(blocks))
    arm = transfer.build_arm("pretrained", images, weights, config, 0, Path())
    transfer.unfreeze(arm.backbone, config.fine_tune)
    epoch, _ = transfer.compile_network(arm, config, 8, 1e-4, config.fine_tune.layer_decay)
    return lambda: epoch(1, lambda part: None)
