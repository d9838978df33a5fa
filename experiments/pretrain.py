"""How the bundled backbone was made: MobileNetV3Small trained on a folder of classes, taught by another network.

pip install -e ".[pretrain]"
python experiments/pretrain.py --data tiny-imagenet-200/train --name tiny_imagenet
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from keras_a2 import machine, runs, settings
from keras_a2.errors import UserError
from keras_a2.settings import Count, CountOrZero, FileOr, NotNegative, Positive, Range, Seed, Share
from keras_a2.transfer import sources


@dataclass(frozen=True)
class Config:
    """Pretrain MobileNetV3Small (alpha 1.0) and write its weights and their card."""

    data: Path
    """Folder of images, one folder per class."""
    teacher: Annotated[str, FileOr(("efficientnet-lite2",))] = "efficientnet-lite2"
    """Whose features and classes to learn: efficientnet-lite2 (ImageNet; needs the extra 'pretrain'), or the .keras
    file of a classifier of pixels 0-255 whose last layer is dense."""
    name: str | None = None
    """The file is called mobilenet_v3_small_<name>.weights.h5; by default the data's folder name."""
    licence: str = "see the data's own page"
    """Licence of the data, for the card."""
    held_out_per_class: Count = 25
    """Images of each class kept for validation."""
    image_size: Count = 64
    """Pixels of the first epochs' images, and of the decoded store."""
    epochs: Count = 60
    """Epochs at image_size."""
    late_image_size: Count = 96
    """Pixels of the last epochs' images: features then also fit larger objects."""
    late_epochs: CountOrZero = 36
    """Epochs at late_image_size."""
    teacher_size: Count = 160
    """Pixels at which the teacher sees each crop."""
    views: Count = 12
    """Crops of each image, used in turn; the teacher's features of each are computed once."""
    mixed: Annotated[float, Range(0, 1)] = 0.5
    """Share of crops into which another image is mixed, for the teacher too: more to learn from as many images."""
    grey: Annotated[float, Range(0, 1)] = 0.25
    """Share of crops shown without colour, to the teacher too: X-rays, scans and solar cells have none."""
    batch_size: Count = 256
    """Images per step."""
    learning_rate: Positive = 4e-3
    """Peak rate (AdamW, one epoch of warm-up, cosine decay)."""
    weight_decay: NotNegative = 0.01
    """AdamW's decay of kernels."""
    ema: Share = 0.999
    """Decay per step of the moving average of the weights, which is what is written."""
    feature_weight: NotNegative = 3.0
    """Weight of the squared error to the teacher's standardised features."""
    class_weight: NotNegative = 1.0
    """Weight of the divergence from the teacher's class probabilities."""
    seed: Seed = 0
    """Seed of the split, the crops, the initialisation and the order."""
    output: Path = Path("keras_a2/weights")
    """Folder of the weights and their card."""
    work: Path = Path("build")
    """Folder for the state of a run that can be taken up again."""
    resume: bool = False
    """Resume a run of the same options and data that was interrupted or failed."""


def main(config: Config) -> None:
    """Pretrain, and write the weights and their card."""
    settings.check(config)
    if not config.output.is_dir():
        raise UserError(f"no such folder: {config.output}; give an existing one with --output")
    source = sources.folder(config.data)
    machine.configure_tensorflow(config.seed)
    from keras_a2.console import console
    from keras_a2.transfer import model
    from pretraining import distill, teacher

    name = config.name or config.data.resolve().name
    classifier, weights = teacher.load(config.teacher)
    started = time.perf_counter()
    with runs.Run(config, f"pretrain-{name}", config.work, config.resume) as run:
        console.print(f"reading {len(source.items)} images")
        pool = distill.load(source, config)
        taught = distill.Teacher(classifier, pool, config.teacher_size, run.work)
        network, history = distill.pretrain(pool, taught, config, run.work)
        path = config.output / f"mobilenet_v3_small_{name}.weights.h5"
        distill.save_half(network, path)
    card = {
        "architecture": "keras.applications.MobileNetV3Small, alpha 1.0, without top",
        "data": {"name": name, "images": len(pool.train), "classes": len(source.classes), "licence": config.licence},
        "teacher": {"file": weights.name, "sha256": model.sha256(weights)},
        "config": asdict(config) | {"data": config.data.name, "teacher": Path(config.teacher).name},
        "hours_since_start": (time.perf_counter() - started) / 3600,
        "environment": {name: fact for name, fact in runs.environment().items() if name != "command"},  # it has paths
        "history": history.table(),
        "sha256": model.sha256(path),
    }
    runs.write_json(path.with_suffix("").with_suffix(".json"), card)
    console.print(f"wrote {path} and its card")


if __name__ == "__main__":
    runs.command_line(Config, main)
