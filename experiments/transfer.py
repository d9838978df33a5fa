"""Part 1: a pretrained MobileNetV3Small, frozen then unfrozen, against the same network from random initialisation.

python experiments/transfer.py                      solar cells, defective or functional
python experiments/transfer.py --data ~/photos      your photos, one folder per class
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from keras_a2 import jobs, machine, runs, settings, training
from keras_a2.errors import UserError
from keras_a2.settings import Count, CountOrZero, Fraction, NotNegative, Positive, Range, Seed, Share
from keras_a2.transfer import sources

WEIGHTS = ("auto", "imagenet", "bundled", "random")
BLOCKS = 13  # of the backbone


@dataclass(frozen=True)
class Config:
    """Train a pretrained MobileNetV3Small with a new head, compare it with random initialisation, and publish it."""

    data: str = "elpv"
    """elpv, digits, cifar100, or a folder: one folder per class, or train/ [valid/] test/ above them."""
    elpv_classes: Literal[2, 4] = 2
    """elpv only: defective or not, or all four defect probabilities."""
    train_per_class: Count | None = None
    """Train on at most so many images of each class."""
    test_fraction: Fraction = 0.25
    """Share of the images held out for the one final test, where the data come without a test split."""
    validation_fraction: Fraction = 0.15
    """Share of the training images on which every choice is made, where the data come without such a split."""

    weights: str = "auto"
    """auto (ImageNet by Keras, else the bundled ones), imagenet, bundled, random, or a path to .weights.h5 / .h5."""
    alpha: float | None = None
    """Width of the network, 0.75 or 1.0; by default what the weights have."""
    image_size: Annotated[int, Range(32, 1024)] = 128
    """Pixels of the square that images are resized to; larger is better and slower."""

    head_epochs: CountOrZero = 2
    """Epochs on cached features, after the head's convex solution."""
    fine_tune_epochs: CountOrZero = 10
    """Epochs with the backbone unfrozen; 0 leaves it frozen."""
    scratch_epochs: CountOrZero | None = None
    """Epochs of the scratch control; by default head epochs + fine-tune epochs."""
    batch_size: Count | None = None
    """Images per step of the fine-tune phase and of the scratch control; by default 32 below 4,000 images, else 64."""
    learning_rate: Positive | None = None
    """Peak rate of the fine-tune phase (AdamW, warm-up, cosine decay); by default 3e-4, and below 4,000
    images 2e-4, or 2e-3 with the bundled weights."""
    head_learning_rate: Positive = 1e-4
    """Rate of the head phase (Adam); small, because it starts at the optimum for the cached features."""
    scratch_learning_rate: Positive = 2e-3
    """Peak rate of the scratch control: random weights need and bear a higher one."""
    batch_norm: Literal["frozen", "affine", "train"] = "frozen"
    """Fine-tune phase: batch norm all fixed; scale and shift trained under fixed statistics; or batch statistics."""
    layer_decay: Annotated[float, Range(0, 1, open=("low",))] = 0.85
    """Each block's rate is this multiple of the next one's, so that early, general features move least."""
    unfreeze: Annotated[int, Range(1, BLOCKS)] | None = None
    """Train only the last so many of the backbone's 13 blocks; by default 9, or all of the bundled and of random
    weights. The frozen ones before them run outside the training step, several times faster."""
    ema: Share = 0.98
    """Decay of the moving average of the weights that is evaluated and kept; 0 turns it off."""
    weight_decay: NotNegative = 0.02
    """AdamW's decay of kernels."""
    dropout: Share = 0.2
    """Share of features dropped before the last layer while training."""
    label_smoothing: Share = 0.1
    """Probability mass spread over the other classes; keeps a few thousand images from being learnt by heart."""
    augment: Literal["auto", "none", "shift", "crop", "flips"] = "auto"
    """Random crops and flips; auto takes what keeps the data's meaning (digits are not flipped)."""
    views: Count = 4
    """Augmented views of each image whose features the head phase caches; 1 is the plain image only."""

    scratch: bool = True
    """Train the control from random initialisation."""
    seed: Seed = 0
    """Seed of the split, the augmentation, the initialisation and the order of images."""
    seeds: Count = 1
    """Repeat training with so many seeds (same split) and report the mean and every value."""
    jobs: Count | Literal["ray"] = 1
    """Train so many arms and seeds at once, each on its own cores; ray: on the cluster of RAY_ADDRESS ([cluster])."""
    strategy: Literal["none", "mirrored"] = "none"
    """mirrored: share every batch out to the devices of this machine (tf.distribute.MirroredStrategy)."""
    deterministic: bool = False
    """Ask TensorFlow for deterministic kernels, where the machine's are not already."""
    tensorboard: bool = False
    """Write TensorBoard logs to logs/ in the published folder."""
    litert: bool = False
    """Also write model.tflite and model.int8.tflite, measured against the SavedModel on test items."""
    name: str | None = None
    """Name to publish under; by default transfer-<data>."""
    output: Path = Path("saved_models")
    """Folder of published models."""
    resume: bool = False
    """Resume a run of the same options and data that was interrupted or failed."""


def main(config: Config) -> None:
    check(config)
    source = sources.find(config.data, config.elpv_classes)
    name = config.name or runs.folder_name(f"transfer-{source.name}")
    with runs.Run(config, name, config.output, config.resume) as run:
        machine.configure_tensorflow(config.seed, config.deterministic)
        # TensorFlow takes seconds to import, so after every check.
        from keras_a2.transfer import backbone, evaluate, publish, train

        strategy = machine.strategy(config.strategy)
        weights = backbone.find_weights(config.weights, config.alpha, tell=publish.tell)
        images = publish.load_images(source, config, run.work)
        resolved = publish.settings(config, images, weights, config.seed)
        run.check_inputs(data=images.summary(), weights=weights.sha256, settings=resolved)
        seeds = range(config.seed, config.seed + config.seeds)
        if config.jobs != 1:
            names = ["pretrained", "scratch"] if config.scratch else ["pretrained"]
            tasks = [{"config": config, "arm": name, "seed": seed} for seed in seeds for name in names]
            jobs.spread(train_arm, tasks, config.jobs, run.work, is_finished)
        arms, probabilities = [], []
        for seed in seeds:
            resolved = publish.settings(config, images, weights, seed)
            state, log = publish.stage_files(run.work, seed), publish.stage_log(run, config, seed)
            with strategy.scope():
                trained = {"pretrained": train.train_pretrained(images, weights, resolved, state, log)}
                if config.scratch:
                    trained["scratch"] = train.train_scratch(images, weights.alpha, resolved, state, log)
            arms.append(trained)

        # Every choice is made: the test split is read here, once.
        for trained in arms:
            probabilities.append({name: evaluate.predict(arm, images, images.test) for name, arm in trained.items()})
        baselines = {"majority": evaluate.majority(images), "pixels": evaluate.pixels(images)}
        publish.publish(run, config, images, arms, probabilities, baselines)


def train_arm(config: Config, arm: str, seed: int, folder: Path) -> None:
    """In a process of its own: train ``pretrained`` or ``scratch`` and leave its stages' state files in ``folder``."""
    machine.configure_tensorflow(config.seed, config.deterministic)
    from keras_a2.transfer import backbone, publish, train

    images = publish.load_images(sources.find(config.data, config.elpv_classes), config, folder)
    weights = backbone.find_weights(config.weights, config.alpha, tell=lambda line: None)
    resolved = publish.settings(config, images, weights, seed)
    state = publish.stage_files(folder, seed)
    if arm == "pretrained":
        train.train_pretrained(images, weights, resolved, state)
    else:
        train.train_scratch(images, weights.alpha, resolved, state)


def is_finished(config: Config, arm: str, seed: int, folder: Path) -> bool:
    """Whether ``folder`` holds all that ``train_arm`` would leave there."""
    from keras_a2.transfer import publish

    last = "scratch" if arm == "scratch" else "fine_tune" if config.fine_tune_epochs else "head"
    return training.is_finished(publish.stage_files(folder, seed)(last))


def check(config: Config) -> None:
    """Refuse what cannot work before anything is loaded."""
    settings.check(config)
    if config.weights not in WEIGHTS and not Path(config.weights).is_file():
        raise UserError(f"no such weights file: {config.weights}; --weights takes {', '.join(WEIGHTS)} or a file")
    if config.tensorboard and config.jobs != 1:
        raise UserError("--tensorboard follows one training after the other; leave out --jobs")
    if config.strategy != "none" and config.jobs != 1:
        raise UserError("--strategy mirrored gives all devices to one training; leave out --jobs")


if __name__ == "__main__":
    runs.command_line(Config, main)
