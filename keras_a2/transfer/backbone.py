"""MobileNetV3Small: where its weights come from, and how its batch norm is treated."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import tensorflow as tf

from keras_a2.downloads import connect_timeout, delete_wrong, keras_home, reason
from keras_a2.errors import UserError

ALPHAS = (0.75, 1.0)
BUNDLED = Path(__file__).parent.parent / "weights" / "mobilenet_v3_small_tiny_imagenet.weights.h5"
BUNDLED_ALPHA = 1.0
# Name and MD5 as in keras/src/applications/mobilenet_v3.py (no top, version 2).
IMAGENET_FILES = {
    0.75: ("weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5", "ebdb5cc8e0b497cd13a7c275d475c819"),
    1.0: ("weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "d3e8ec802a04aa4fc771ee12a9a9b836"),
}


@dataclass(frozen=True)
class Weights:
    """Which weights a backbone starts from: ``origin`` for people, ``path`` (None: random), ``alpha``."""

    origin: str
    path: Path | None
    alpha: float
    sha256: str | None = None


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """``BatchNormalization`` whose training mode is TensorFlow's fused kernel: same numbers, 1.25x faster steps.

    Used while training only; what is saved has Keras's own layer. With ``trainable`` False it runs in inference mode,
    as Keras's does; with ``inference`` True its scale and shift train under fixed statistics.
    """

    inference = False

    def add_weight(self, *args, **options):
        # Devices that work on parts of a batch agree on the mean of their statistics.
        return super().add_weight(*args, **{**options, "aggregation": "mean"})

    def call(self, inputs, training=None, mask=None):
        if not training or not self.trainable or self.inference:
            return super().call(inputs, training=False)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


def plain(alpha: float) -> keras.Model:
    """Keras's MobileNetV3Small without its top, pooled: pixels 0-255 ``(batch, h, w, 3)`` to ``(batch, features)``."""
    return keras.applications.MobileNetV3Small(
        alpha=alpha, include_top=False, weights=None, input_shape=(None, None, 3), pooling="avg", name="backbone"
    )


def build(weights: Weights, momentum: float = 0.99) -> keras.Model:
    """The backbone for training: fused batch norm of the given momentum, carrying ``weights``.

    Keras's own momentum of 0.999 leaves the moving statistics near their initial values after a short training.
    """

    def with_momentum(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            return FusedBatchNormalization.from_config({**config, "momentum": momentum})
        return layer.__class__.from_config(config)

    model = keras.models.clone_model(plain(weights.alpha), clone_function=with_momentum)
    if weights.path is not None:
        model.set_weights(_load(weights).get_weights())
    return model


def set_batch_norm(backbone: keras.Model, mode: str) -> None:
    """``train``: batch statistics; ``affine``: fixed statistics, scale and shift trainable; ``frozen``: all fixed."""
    for layer in backbone.layers:
        if isinstance(layer, FusedBatchNormalization):
            layer.trainable = mode != "frozen"
            layer.inference = mode == "affine"


def momentum_for(steps_per_epoch: int) -> float:
    """max(1 - 10/s, 0.9): the moving statistics follow a tenth of an epoch (SimCLR, arXiv 2002.05709, appendix B.7)."""
    return max(1 - 10 / max(steps_per_epoch, 1), 0.9)


def find_weights(choice: str, alpha: float | None, tell=print) -> Weights:
    """Resolve ``auto``, ``imagenet``, ``bundled``, ``random`` or a path, and check the file before any training.

    Args:
        alpha: width multiplier; None takes what the file has, or 1.0.
        tell: called with the one line that says so when ``auto`` falls back to the bundled weights.

    Raises:
        UserError: no such file, damaged, another architecture or alpha, or not to be downloaded.
    """
    if alpha is not None and alpha not in ALPHAS:
        raise UserError(f"--alpha {alpha} is not offered; Keras has weights for 0.75 and 1.0")
    if choice == "random":
        return Weights("random", None, alpha or 1.0)
    if choice == "bundled":
        return _bundled(alpha)
    if choice not in ("auto", "imagenet"):
        path = Path(choice)
        return Weights(f"file {path.name}", path, check_file(path, alpha), sha256(path))
    try:
        path = _imagenet(alpha or 1.0)
        return Weights("imagenet", path, alpha or 1.0, sha256(path))
    except UserError as error:
        if choice == "imagenet":
            raise
        tell(f"{error}; going on with the bundled weights")
        return _bundled(alpha)


def _bundled(alpha: float | None) -> Weights:
    if alpha not in (None, BUNDLED_ALPHA):
        raise UserError(f"the bundled weights have alpha {BUNDLED_ALPHA}, not {alpha}; leave --alpha out")
    if not BUNDLED.exists():
        raise UserError(f"no bundled weights in {BUNDLED.parent}; give a file with --weights PATH")
    return Weights("bundled", BUNDLED, BUNDLED_ALPHA, sha256(BUNDLED))


def _imagenet(alpha: float) -> Path:
    """Keras's ImageNet weights, from its cache or its download (which checks the MD5)."""
    name, md5 = IMAGENET_FILES[alpha]
    path = keras_home() / "models" / name
    try:
        with connect_timeout():
            keras.applications.MobileNetV3Small(
                alpha=alpha, include_top=False, weights="imagenet", input_shape=(224, 224, 3)
            )
    except Exception as error:  # urllib, ssl and Keras each have their own
        wrong = delete_wrong(path, md5)
        raise UserError(
            f"ImageNet weights {name} (MD5 {md5}) are not in {path.parent} and cannot be downloaded "
            f"({reason(error)}){wrong}"
        ) from error
    return path


def check_file(path: Path, alpha: float | None = None) -> float:
    """The alpha of the MobileNetV3Small weights in an HDF5 file, told by the shapes of its arrays.

    Raises:
        UserError: no such file, not HDF5, or arrays that are not those of the asked backbone.
    """
    if not path.is_file():
        raise UserError(f"no such weights file: {path}")
    try:
        found = _shapes(path)
    except Exception as error:  # h5py raises OSError, RuntimeError or KeyError, by where the damage is
        raise UserError(f"{path} is not a readable HDF5 weights file (damaged or cut short?)") from error
    for candidate in ALPHAS:
        if found == Counter(tuple(w.shape) for w in plain(candidate).weights):
            if alpha not in (None, candidate):
                raise UserError(
                    f"{path} holds MobileNetV3Small of alpha {candidate}, not {alpha}; set --alpha {candidate}"
                )
            return candidate
    raise UserError(
        f"{path} holds {sum(found.values())} arrays, not those of MobileNetV3Small without top, alpha 0.75 or 1.0"
    )


def _shapes(path: Path) -> Counter:
    shapes: Counter = Counter()
    with h5py.File(path, "r") as file:

        def visit(_, node):
            if isinstance(node, h5py.Dataset):
                node[()]  # read it: a damaged chunk shows only then
                shapes[node.shape] += 1

        file.visititems(visit)
    return shapes


def _load(weights: Weights) -> keras.Model:
    model = plain(weights.alpha)  # the file's groups are named after Keras's own layer classes
    try:
        model.load_weights(weights.path)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights.path} cannot be loaded into MobileNetV3Small: {reason}") from error
    return model


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
