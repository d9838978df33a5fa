"""From trained arms to a published version: figures, metrics, card, predictions, SavedModel, report."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.markup import escape
from rich.progress import Progress

from keras_a2 import deployment, page, runs, saved_model
from keras_a2.console import console
from keras_a2.errors import printable
from keras_a2.transfer import data, evaluate, export, figures, present
from keras_a2.transfer.backbone import Weights
from keras_a2.transfer.sources import Source
from keras_a2.transfer.train import Arm, Settings
from keras_a2.transfer.unfreeze import BLOCKS, IMAGENET_BLOCKS

VERIFIED_ITEMS = 64
SMALL = 4000  # training images; below, an epoch has too few steps of 64
# Softmax through another resize order differs in the last digits of float32 only.
TOLERANCE = 1e-3


def tell(line: str) -> None:
    console.print(f"note: {line}")


def load_images(source: Source, config, folder: Path) -> data.Images:
    """Decode and split, with a progress bar, and say what was found; what memory cannot hold goes to ``folder``."""
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(escape(printable(f"reading {source.name}")), total=len(source.items))
        images = data.load(
            source,
            config.image_size,
            seed=config.seed,
            validation_fraction=config.validation_fraction,
            test_fraction=config.test_fraction,
            train_per_class=config.train_per_class,
            folder=folder,
            on_image=lambda done, _: bar.update(task, completed=done),
        )
    console.print(
        f"{images.name}: {len(images.classes)} classes; {len(images.train)} images to train on, "
        f"{len(images.validation)} for validation, {len(images.test)} for the test"
    )
    if source.left_out:
        tell(f"left out: {source.left_out}")
    if images.skipped:
        tell(f"{len(images.skipped)} unreadable file(s) skipped (first: {images.skipped[0]}); the report names them")
    copies = len(images.duplicates) + len(images.held_out_duplicates)
    if copies:
        tell(f"{copies} image(s) removed: copies of a validation or test image; the report names them")
    if images.conflicts:
        tell(f"{len(images.conflicts)} picture(s) in two classes (first: {images.conflicts[0]}); the report names them")
    absent = len(images.classes) - len(np.unique(images.labels[images.test]))
    if absent:
        tell(f"{absent} of {len(images.classes)} classes have no test image; balanced accuracy and F1 leave them out")
    return images


def settings(config, images: data.Images, weights: Weights, seed: int) -> Settings:
    """The part of the script's configuration that the phases need, its defaults resolved for these images."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    if values["scratch_epochs"] is None:
        values["scratch_epochs"] = config.head_epochs + config.fine_tune_epochs
    if values["augment"] == "auto":
        values["augment"] = images.source.augment
    small, bundled = len(images.train) < SMALL, weights.origin == "bundled"
    # How high a rate the frozen statistics bear depends on the weights and the batch (cross-validated on elpv).
    rate = (2e-3 if bundled else 2e-4) if small else 3e-4
    # The bundled weights have seen 64 and 96 pixels only, so their first blocks have something to learn too.
    blocks = BLOCKS if bundled or weights.path is None else IMAGENET_BLOCKS
    defaults = {"batch_size": 32 if small else 64, "learning_rate": rate, "unfreeze": blocks}
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    return Settings(**values | {"seed": seed})


def stage_files(folder: Path, seed: int) -> Callable[[str], Path]:
    """Where each stage of one seed keeps its state."""
    return lambda stage: runs.state_file(folder, f"seed{seed}-{stage}")


def stage_log(run: runs.Run, config, seed: int) -> Callable | None:
    """What writes each epoch of one seed's stages for TensorBoard, if that is wanted."""
    if not config.tensorboard:
        return None
    import tensorflow as tf

    writers: dict[str, object] = {}

    def log(stage: str, row: dict) -> None:
        folder = run.work / "logs" / f"seed{seed}-{stage}"
        writer = writers.setdefault(stage, tf.summary.create_file_writer(str(folder)))
        with writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        writer.flush()

    return log


def publish(
    run: runs.Run,
    config,
    images: data.Images,
    arms: list[dict[str, Arm]],
    probabilities: list[dict[str, np.ndarray]],
    baselines: dict[str, np.ndarray],
) -> None:
    """Print the result and publish it, whole, as the next version.

    Args:
        arms: for each seed, arm name -> trained arm.
        probabilities: the same shape, ``(test images, classes)``.
        baselines: name -> predicted classes of the test images.
    """
    best = min(range(len(arms)), key=lambda i: arms[i]["pretrained"].phases[-1].history.best["validation_loss"])
    metrics = _metrics(config, images, arms, probabilities, baselines, best)
    labels = images.labels[images.test]
    reports = {name: evaluate.report(labels, p, images.classes) for name, p in probabilities[best].items()}
    present.show(metrics, reports)
    arm, probability = arms[best]["pretrained"], probabilities[best]["pretrained"]
    with saved_model.FreshProcess() as fresh, run.publishing() as folder:
        model = export.assemble(arm, config.image_size)
        saved_model.export(model, export.endpoints(model, config.image_size), folder)
        pictures = _figures(folder / "figures", images, arms[best], probabilities[best], metrics)
        _predictions(images, probabilities, baselines, best, config.seed).to_csv(
            folder / "predictions.csv", index=False, errors="backslashreplace"
        )
        _history(arms, config.seed).to_csv(folder / "history.csv", index=False)
        metrics["saved_model_check"] = _verify(fresh, folder, model, images, probability)
        runs.write_json(folder / "metrics.json", metrics)
        card = _card(run, config, images, arm, metrics)
        if config.litert:
            card["litert"] = deployment.export_litert(folder, images.store.read(images.test[:VERIFIED_ITEMS]))
        runs.write_json(folder / "model.json", card)
        present.write_page(config, run.name, images, metrics, reports, pictures, folder / "report.html")
        if (run.work / "logs").exists():
            (run.work / "logs").rename(folder / "logs")
    console.print(f"published {run.version} (open {run.version / 'report.html'})")


def _metrics(config, images, arms, probabilities, baselines, best: int) -> dict:
    """Everything measured.

    Args:
        best: position of the seed that is published; phases and differences to baselines are its own.
    """
    labels = images.labels[images.test]
    resolved = dataclasses.asdict(settings(config, images, arms[0]["pretrained"].weights, config.seed))
    summary = {
        "experiment": "transfer",
        "config": dataclasses.asdict(config) | resolved | {"output": str(config.output)},
        "environment": runs.environment(),
        "data": images.summary(),
        "published_seed": config.seed + best,
        "baselines": {name: {"test": {"accuracy": float((p == labels).mean())}} for name, p in baselines.items()},
        "arms": {},
    }
    for name, arm in arms[best].items():
        summary["arms"][name] = {
            "weights": {"origin": arm.weights.origin, "alpha": arm.weights.alpha, "sha256": arm.weights.sha256},
            "seconds": sum(trained[name].seconds for trained in arms),
            "phases": [phase.summary() for phase in arm.phases],
            "test": evaluate.metrics(labels, [p[name] for p in probabilities]),
        }
        if name == "scratch" or config.batch_norm == "train":
            facts = evaluate.batch_statistics_accuracy(arm, images)
            summary["arms"][name]["batch_statistics_accuracy"] = facts
    predicted = {name: np.stack([p[name].argmax(axis=1) for p in probabilities]) for name in arms[best]}
    if "scratch" in predicted:
        summary["difference"] = evaluate.compare(labels, predicted["pretrained"], predicted["scratch"])
    published = predicted["pretrained"][best : best + 1]
    summary["difference_to_baselines"] = {
        name: evaluate.compare(labels, published, p[np.newaxis]) for name, p in baselines.items()
    }
    summary["most_confused"] = [
        {"truth": images.classes[a], "prediction": images.classes[b], "n": n}
        for a, b, n in evaluate.confused(labels, published[0])[:25]
    ]
    return summary


def _verify(fresh, folder: Path, model, images: data.Images, probability: np.ndarray) -> dict:
    """The published model, in a fresh process, on test images: as the run saw them, and from their own size."""
    some = images.test[:VERIFIED_ITEMS]
    whole, kept = [], []
    for i, item in enumerate(images.source.items[j] for j in some[:16]):
        content = item if isinstance(item, np.ndarray) else data.read_bytes(item)
        whole.append(np.asarray(model(data.decode(content, None)[np.newaxis], training=False))[0])
        kept.append(probability[i])
    gap = float(np.abs(np.array(whole) - np.array(kept)).max())
    # Lossless files, so that a decoder's rounding is no difference: one opaque, one with an alpha channel.
    pictures = [Image.fromarray(pixels) for pixels in images.store.read(some[:2])]
    files = [_png(picture.convert(mode)) for picture, mode in zip(pictures, ("RGB", "RGBA"), strict=False)]
    inputs = [images.store.read(some), *(np.frombuffer(content, np.uint8) for content in files)]
    read = np.stack([data.decode(content, images.store.size) for content in files])
    expected = [probability[: len(some)], *np.asarray(model(read, training=False))[:, np.newaxis]]
    check = fresh.verify(folder, inputs, expected, TOLERANCE)
    return check | {"own_size_items": len(whole), "own_size_max_difference": gap}


def _png(picture: Image.Image) -> bytes:
    if picture.mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size).point(lambda value: 255 * (value > 127)))
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter turn, to be undone
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def _card(run: runs.Run, config, images, arm: Arm, metrics: dict) -> dict:
    test = metrics["arms"]["pretrained"]["test"]
    return {
        "experiment": "transfer",
        "task": "image classification",
        "name": run.name,
        "classes": images.classes,
        "input": "uint8 images of any size (batch, height, width, 3), or JPEG and PNG files through serve_bytes",
        "output": "class probabilities (batch, classes)",
        "image_size": config.image_size,
        "data": {"name": images.name, "sha256": images.sha256, "citation": images.source.citation},
        "weights": {"origin": arm.weights.origin, "alpha": arm.weights.alpha, "sha256": arm.weights.sha256},
        "seed": metrics["published_seed"],
        "headline": f"accuracy {page.percent(test['accuracy'])}",
        "saved_model_check": metrics["saved_model_check"],
        "environment": metrics["environment"],
    }


def _predictions(
    images: data.Images,
    probabilities: list[dict[str, np.ndarray]],
    baselines: dict[str, np.ndarray],
    best: int,
    first_seed: int,
) -> pd.DataFrame:
    """A row per test image: what is published, then each arm, seed and baseline, so that anybody can compare them."""
    names = np.array(images.classes)
    published = probabilities[best]["pretrained"]
    table = {
        "item": [images.source.item_names[i] for i in images.test],
        "truth": names[images.labels[images.test]],
        "prediction": names[published.argmax(axis=1)],
        "probability": published.max(axis=1),
    }
    for seed, arms in enumerate(probabilities, first_seed):
        for arm, probability in arms.items():
            table[f"prediction_{arm}_seed{seed}"] = names[probability.argmax(axis=1)]
            table[f"probability_{arm}_seed{seed}"] = probability.max(axis=1)
    table |= {f"prediction_{name}": names[predicted] for name, predicted in baselines.items()}
    return pd.DataFrame(table)


def _history(arms: list[dict[str, Arm]], first_seed: int) -> pd.DataFrame:
    rows = [
        {"seed": seed, "arm": name, "phase": phase.name, **row}
        for seed, trained in enumerate(arms, first_seed)
        for name, arm in trained.items()
        for phase in arm.phases
        for row in phase.history.table()
    ]
    return pd.DataFrame(rows)


def _figures(folder: Path, images: data.Images, arms: dict[str, Arm], probabilities: dict, metrics: dict) -> list:
    folder.mkdir()
    labels = images.labels[images.test]
    predicted = {name: p.argmax(axis=1) for name, p in probabilities.items()}
    seed = present.of_seed(metrics)
    confusion = "Confusion matrix" if len(images.classes) <= figures.READABLE_CLASSES else "The most confused classes"
    pictures = [
        ("Test accuracy of both arms and the baselines", folder / "comparison.png"),
        (
            f"Validation accuracy by epoch{seed}; the dotted line is where the backbone thaws",
            folder / "learning_curves.png",
        ),
        (f"{confusion} of the pretrained arm{seed} on the test split", folder / "confusion.png"),
        (f"The pretrained arm's most confident mistakes{seed} on the test split", folder / "mistakes.png"),
        (f"F1 by class{seed} on the test split", folder / "per_class_f1.png"),
    ]
    figures.comparison(metrics, pictures[0][1])
    figures.learning_curves(arms, pictures[1][1])
    figures.confusion(labels, predicted["pretrained"], images.classes, pictures[2][1])
    figures.mistakes(images, probabilities["pretrained"], pictures[3][1])
    figures.per_class_f1(labels, predicted, images.classes, pictures[4][1])
    return pictures
