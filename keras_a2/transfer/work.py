"""One arm of one seed, trained in a process of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from keras_a2 import machine, training


def train_arm(config: dict, arm: str, seed: int, folder: str) -> None:
    """Train ``pretrained`` or ``scratch`` and leave the state files of its stages in ``folder``.

    Args:
        config: the script's configuration, as a dictionary.
    """
    options = SimpleNamespace(**config)
    machine.configure_tensorflow(options.seed, options.deterministic)
    from keras_a2.transfer import backbone, publish, sources, train

    images = publish.load_images(sources.find(options.data, options.elpv_classes), options, Path(folder))
    weights = backbone.find_weights(options.weights, options.alpha, tell=lambda line: None)
    settings = publish.settings(options, images, weights, seed)
    state = publish.stage_files(Path(folder), seed)
    if arm == "pretrained":
        train.train_pretrained(images, weights, settings, state)
    else:
        train.train_scratch(images, weights.alpha, settings, state)


def is_finished(config: dict, arm: str, seed: int, folder: str) -> bool:
    """Whether ``folder`` holds all that ``train_arm`` would leave there."""
    from keras_a2.transfer import publish

    last = "scratch" if arm == "scratch" else "fine_tune" if config["fine_tune_epochs"] else "head"
    return training.is_finished(publish.stage_files(Path(folder), seed)(last))
