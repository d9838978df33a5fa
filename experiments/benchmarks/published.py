"""Rows of a published model in use: latency of one image, a folder's throughput, loading."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import rate, row
from keras_a2 import deployment, saved_model
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
        started = time.perf_counter()
        model = Classifier(**vars(saved_model.load(version)))
        loading = time.perf_counter() - started
        files = _photos(Path(temporary, "photos"), n)
        pixels = np.stack([decode(read_bytes(path), SIZE) for path in files[:16]])
        keras_answers = np.asarray(deployment.deployable(version)(pixels.astype(np.float32), training=False))
        served = deployment.measure(lambda image: model.serve(image.astype(np.uint8)), pixels, keras_answers)
        lite = deployment.export_litert(version, pixels)["model.tflite"]
        list(model.stream(files[:64]))
        many = files * (1 if quick else 4)
        whole = rate(len(many), lambda: list(model.stream(many)))()
        decoding = rate(n, lambda: list(model.decode_all(files)))()
        batches = [np.repeat(pixels, 2, axis=0)] * (n // 32)
        network = rate(32 * len(batches), lambda: [model.serve(batch) for batch in batches])()
    slower = min(decoding, network)
    note = f"decoding alone {decoding:.0f}, the model alone {network:.0f} images/s"
    return [
        row("one image, SavedModel, 224 px", "12 ms", "ms", [served["median_milliseconds"]], [12.0], 1),
        row("one image, LiteRT, 224 px", "6 ms", "ms", [lite["median_milliseconds"]], [6.0], 1),
        row("loading a model, after TensorFlow's import", "3 s", "s", [loading], [3.0], 1),
        row(
            f"predict.py on {len(many)} photos of 640 x 480",
            "the slower of its halves",
            "images/s",
            [whole],
            [slower],
            0.85,
            note,
        ),
    ]


def _publish(folder: Path) -> None:
    import keras

    backbone = models.plain_backbone(models.BUNDLED_ALPHA)
    models.load_weights(backbone, models.find_weights("bundled", None))
    head = keras.Sequential([keras.Input(backbone.output_shape[1:]), keras.layers.Dense(10)])
    model = models.assemble(backbone, head, SIZE)
    folder.mkdir(parents=True)
    saved_model.export(model, models.signatures(model, SIZE), folder)
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
