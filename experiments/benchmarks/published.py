"""Rows of a published model in use: latency of one image, a folder's throughput, loading."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from benchmarks.images import bundled_backbone
from benchmarks.measure import peak_bytes, row, seconds
from keras_a2 import deployment, saved_model
from keras_a2.transfer import describe
from keras_a2.transfer import model as models
from keras_a2.transfer.decode import decode, read_bytes
from keras_a2.transfer.predict import Classifier

SIZE, PHOTO = 224, (640, 480)


def rows_inference(quick: bool) -> list[dict]:
    """Milliseconds of one image against the bar, images a second of a folder against the slower of its two halves."""
    n = 32 if quick else 512
    with tempfile.TemporaryDirectory() as temporary:
        version = Path(temporary, "model", "1")
        _publish(version)
        loaded: list[Classifier] = []
        loading = seconds(lambda: loaded.append(Classifier(**vars(saved_model.load(version)))))
        model, files = loaded[0], _photos(Path(temporary, "photos"), n)
        pixels = np.stack([decode(read_bytes(path), SIZE) for path in files[:16]])
        keras_answers = np.asarray(deployment.deployable(version)(pixels.astype(np.float32), training=False))
        served = deployment.measure(lambda image: model.serve(image.astype(np.uint8)), pixels, keras_answers)
        lite = deployment.export_litert(version, pixels)["model.tflite"]
        list(model.stream(files))
        small, many = peak_bytes(), files * (1 if quick else 4)
        folder = len(many) / seconds(lambda: list(model.stream(many)))
        decoding = n / seconds(lambda: list(model.decode_all(files)))
        batches = [np.repeat(pixels, 2, axis=0)] * (n // 32)
        network = n / seconds(lambda: [model.serve(batch) for batch in batches])
    note = f"decoding alone {decoding:.0f}, the model alone {network:.0f} images/s; peak memory "
    note += f"{small / 2**30:.2f} GB after {n} photos, {peak_bytes() / 2**30:.2f} after {len(many)} more"
    one, lite_one = served["median_milliseconds"], lite["median_milliseconds"]
    photos, slower = f"predict.py on {len(many)} photos of 640 x 480", min(decoding, network)
    return [
        row("one image, SavedModel, 224 px", "8 ms", "ms", [one], [8.0], 1),
        row("one image, LiteRT, 224 px", "6 ms", "ms", [lite_one], [6.0], 1),
        row("loading a model, after TensorFlow's import", "3 s", "s", [loading], [3.0], 1),
        row(photos, "the slower of its halves", "images/s", [folder], [slower], 0.9, note),
    ]


def _publish(folder: Path) -> None:
    """A classifier of ten classes with the bundled backbone, as a run publishes it."""
    backbone = bundled_backbone()
    head = keras.Sequential([keras.Input(backbone.output_shape[1:]), keras.layers.Dense(10)])
    model = models.assemble(backbone, head, SIZE)
    folder.mkdir(parents=True)
    saved_model.export(model, describe.signatures(model, SIZE), folder)
    card = {"experiment": "transfer", "version": 1, "task": "", "data": {}, "classes": [str(i) for i in range(10)]}
    (folder / "model.json").write_text(json.dumps(card | {"image_size": SIZE}))


def _photos(folder: Path, n: int) -> list[Path]:
    """JPEG files with the detail of a photograph: smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8))
        files.append(folder / f"{i}.jpg")
        small.resize(PHOTO, Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files
