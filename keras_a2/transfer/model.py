"""The network's parts: the backbone's weights and blocks, the head's convex solution; and the model that is saved."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from keras_a2.errors import UserError
from keras_a2.fast.litert import Function
from keras_a2.files import download, keras_cache
from keras_a2.transfer.data import Images, batches, note
from keras_a2.transfer.decode import GREY

ALPHAS = (0.75, 1.0)
BUNDLED = Path(__file__).parent.parent / "weights" / "mobilenet_v3_small_tiny_imagenet.weights.h5"
BUNDLED_ALPHA = 1.0
# Name and MD5 as in keras/src/applications/mobilenet_v3.py (no top, version 2).
IMAGENET_FILES = {
    0.75: ("weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5", "ebdb5cc8e0b497cd13a7c275d475c819"),
    1.0: ("weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "d3e8ec802a04aa4fc771ee12a9a9b836"),
}
BLOCKS = 13  # of the backbone: stem, eleven inverted residuals, last convolution
STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)  # L2 penalties of the head per image, from strong to weak
STRONGER = (1.0, 10.0, 100.0)  # tried where the strongest of them is the best: few images
ITERATIONS = 120
VARIANCE_FLOOR = 0.05  # of the mean variance
PREDICTED_BATCH = 64
STATISTICS_BATCH, STATISTICS_IMAGES = 64, 512

Compute = Callable[[keras.Model, tuple[int, ...]], Function]  # a model and the shape of an image -> function of pixels


@dataclass(frozen=True)
class Weights:
    """Which weights a backbone starts from: ``origin`` for people, ``path`` (None: random), ``alpha``."""

    origin: str
    path: Path | None
    alpha: float
    sha256: str | None = None

    def summary(self) -> dict[str, str | float | None]:
        """As ``metrics.json`` and the card have it."""
        return {"origin": self.origin, "alpha": self.alpha, "sha256": self.sha256}


def random_weights(alpha: float) -> Weights:
    """No file: random initialisation."""
    return Weights("random", None, alpha)


def find_weights(choice: str, alpha: float | None) -> Weights:
    """Resolve ``auto``, ``imagenet``, ``bundled``, ``random`` or a path, and check the file before any training.

    A line says so when ``auto`` falls back to the bundled weights.

    Args:
        alpha: width multiplier; None takes that of the file, or 1.0.

    Raises:
        UserError: no such file, damaged, another architecture or alpha, or not to be downloaded.
    """
    if alpha is not None and alpha not in ALPHAS:
        raise UserError(f"--alpha {alpha} is not offered; Keras has weights for 0.75 and 1.0")
    if choice == "random":
        return random_weights(alpha or 1.0)
    if choice in ("auto", "imagenet"):
        try:
            path = _imagenet(alpha or 1.0)
            return Weights("imagenet", path, alpha or 1.0, sha256(path))
        except UserError as error:
            if choice == "imagenet":
                raise
            note(f"{error}; using the bundled weights instead")
    if choice in ("auto", "bundled"):
        if alpha not in (None, BUNDLED_ALPHA):
            raise UserError(f"the bundled weights have alpha {BUNDLED_ALPHA}, not {alpha}; leave --alpha out")
        return Weights("bundled", BUNDLED, BUNDLED_ALPHA, sha256(BUNDLED))
    path = Path(choice)
    return Weights(f"file {path.name}", path, check_file(path, alpha), sha256(path))


def _imagenet(alpha: float) -> Path:
    """Keras's ImageNet weights, from its cache or its download (which checks the MD5)."""
    name, md5 = IMAGENET_FILES[alpha]
    path = keras_cache() / "models" / name
    with download(f"{name} (ImageNet weights, MD5 {md5})", path, md5, ""):
        keras.applications.MobileNetV3Small(
            alpha=alpha, include_top=False, weights="imagenet", input_shape=(224, 224, 3)
        )
    return path


def check_file(path: Path, alpha: float | None = None) -> float:
    """The alpha of the MobileNetV3Small weights in an HDF5 file: that of the backbone which they can be loaded into.

    Raises:
        UserError: no such file, not HDF5, or not the weights of the asked backbone.
    """
    if not path.is_file():
        raise UserError(f"no such weights file: {path}")
    try:
        h5py.File(path, "r").close()
    except OSError as error:
        raise UserError(f"{path} is not a readable HDF5 weights file (damaged or cut short?)") from error
    for candidate in ALPHAS:
        try:
            plain_backbone(candidate).load_weights(path)
        except Exception:  # h5py and Keras each have their own
            continue
        if alpha in (None, candidate):
            return candidate
        raise UserError(f"{path} holds MobileNetV3Small of alpha {candidate}, not {alpha}; set --alpha {candidate}")
    raise UserError(f"{path} is damaged, or not the weights of MobileNetV3Small without top, alpha 0.75 or 1.0")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain_backbone(alpha: float) -> keras.Model:
    """MobileNetV3Small without its top, pooled: pixels 0-255 ``(batch, h, w, 3)`` to ``(batch, features)``."""
    return keras.applications.MobileNetV3Small(
        alpha=alpha, include_top=False, weights=None, input_shape=(None, None, 3), pooling="avg", name="backbone"
    )


def load_weights(backbone: keras.Model, weights: Weights) -> None:
    """Give the backbone its weights; random ones stay.

    Raises:
        UserError: the file's arrays are not the backbone's.
    """
    if weights.path is None:
        return
    try:
        backbone.load_weights(weights.path)
    except Exception as error:  # h5py and Keras each have their own
        raise UserError(
            f"{weights.path} cannot be loaded into MobileNetV3Small: {str(error).splitlines()[0]}"
        ) from error


def momentum_for(steps_per_epoch: int) -> float:
    """max(1 - 10/s, 0.9): the moving statistics follow a tenth of an epoch (SimCLR, arXiv 2002.05709, appendix B.7).

    Keras's own momentum of 0.999 leaves them near their initial values after a short training.
    """
    return max(1 - 10 / max(steps_per_epoch, 1), 0.9)


def set_momentum(backbone: keras.Model, momentum: float) -> None:
    """Give batch norm's moving statistics another momentum."""
    for layer in batch_norm(backbone):
        layer.momentum = momentum


def block_number(layer: keras.Layer) -> int:
    """Position by Keras's layer names: stem 0, ``expanded_conv`` 1 to ``expanded_conv_10`` 11, last convolution 12."""
    if layer.name.startswith("expanded_conv"):
        number = layer.name.split("_")[2]
        return int(number) + 1 if number.isdigit() else 1
    return 12 if layer.name.startswith("conv_1") else 0


def standardise(head: keras.Model, features: np.ndarray) -> None:
    """Fit the head's scaling on training features ``(n, features)``."""
    head.get_layer("standardise").set_weights(list(moments(features)))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance ``(features,)`` of features ``(n, features)``, to standardise them.

    The variance has a floor: a feature that hardly varies on the training images would otherwise be blown up as soon as
    fine-tuning shifts it.
    """
    variance = features.var(axis=0)
    return features.mean(axis=0), np.maximum(variance, VARIANCE_FLOOR * variance.mean())


def solve(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    class_weights: np.ndarray | None = None,
    validation_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Multinomial logistic regression on standardised features, its L2 strength chosen on the validation split.

    The optimum of a convex loss has no learning rate to tune, and a head that is already good keeps fine-tuning from
    distorting the features (LP-FT: Kumar et al. 2022, arXiv 2202.10054, section 3).

    Args:
        train, validation: standardised features ``(n, features)``; every class occurs in ``train_labels``.
        class_weights, validation_weights: of each class ``(classes,)`` in the losses; None weighs all images alike.

    Returns:
        kernel ``(features, classes)``, bias ``(classes,)`` and the chosen strength, per image.
    """
    model = LogisticRegression(warm_start=True, max_iter=ITERATIONS, tol=1e-3)
    weights = None if class_weights is None else class_weights[train_labels]
    if validation_weights is not None:
        validation_weights = validation_weights[validation_labels]
    lowest, kernel, bias, chosen = np.inf, np.empty(0), np.empty(0), 0.0
    # One thread: sums cut among several are rounded by how many there are, and figures would depend on the machine.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bounded number of steps is also a regulariser
        for strengths in (STRENGTHS, STRONGER):
            for strength in strengths if chosen in (0.0, STRENGTHS[0]) else ():
                model.set_params(C=1 / (strength * len(train)))
                model.fit(train, train_labels, weights)
                probability = model.predict_proba(validation)
                loss = log_loss(validation_labels, probability, labels=model.classes_, sample_weight=validation_weights)
                if loss >= lowest:
                    break
                lowest, kernel, bias, chosen = loss, model.coef_.copy(), model.intercept_.copy(), strength
    if len(model.classes_) == 2:  # scikit-learn keeps the log-odds of the second class only
        kernel, bias = np.vstack([-kernel, kernel]) / 2, np.concatenate([-bias, bias]) / 2
    return kernel.T.astype(np.float32), bias.astype(np.float32), chosen


def estimate_statistics(backbone: keras.Model, images: Images, seed: int) -> list[keras.Variable]:
    """Set batch norm's mean and variance to those of training images under the present weights; return them.

    Layers that are frozen keep theirs (AdaBN: arXiv 1603.04779).
    """
    layers = batch_norm(backbone)
    momenta = [layer.momentum for layer in layers]
    rows = np.random.default_rng([seed, 6]).permutation(images.train)[:STATISTICS_IMAGES]
    starts = range(0, max(len(rows) - STATISTICS_BATCH, 0) + 1, STATISTICS_BATCH)
    for number, start in enumerate(starts):
        for layer in layers:
            layer.momentum = number / (number + 1)  # the plain mean over the batches
        pixels = images.store.read(rows[start : start + STATISTICS_BATCH])
        backbone(pixels.astype(np.float32), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]


def batch_norm(backbone: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Its batch-norm layers."""
    return [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]


def predict(network: keras.Model, images: Images, indices: np.ndarray) -> np.ndarray:
    """Logits ``(len(indices), classes)`` of images, in inference mode."""
    return network.predict(batches(images, indices, PREDICTED_BATCH), verbose=0)


def assemble(
    backbone: keras.Model, head: keras.Model, size: int, fit: str = "squash", temperature: float = 1.0
) -> keras.Model:
    """One Keras model, nothing of this package inside: uint8 images of any size to probabilities ``(batch, classes)``.

    Args:
        size: pixels of the square that images ``(batch, height, width, 3)`` are resized to.
        fit: how they become a square, see ``decode.decode``.
        temperature: divisor of the logits.
    """
    image = keras.Input((None, None, 3), dtype="uint8", name="images")
    resize = keras.layers.Resizing(
        size, size, antialias=True, name="resize", fill_value=GREY,
        pad_to_aspect_ratio=fit == "pad", crop_to_aspect_ratio=fit == "crop",
    )  # fmt: skip
    x = resize(image)
    for part in (backbone, *head.layers):
        copy = keras.models.clone_model(part) if part is backbone else part.__class__.from_config(part.get_config())
        x = copy(x)
        copy.set_weights(part.get_weights())
        copy.trainable = part is backbone or part.trainable  # further training may choose otherwise
    x = keras.layers.Rescaling(1 / temperature, name="temperature")(x)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x), name="transfer")


def signatures(resize: keras.Layer, size: int, answer: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> dict[str, tuple]:
    """Of the SavedModel: ``serve`` takes pixels, ``serve_bytes`` the content of image files; ``describe`` gives all.

    Args:
        resize: to ``size`` pixels.
        answer: resized pixels -> outputs by name, ``probabilities`` among them; one function, so that the file holds
            its weights once.

    Returns:
        name -> function and its input.
    """

    def decode(content: tf.Tensor) -> tf.Tensor:
        return resize(decode_upright(content)[tf.newaxis])[0]

    def serve_bytes(contents: tf.Tensor) -> tf.Tensor:
        resized = tf.map_fn(decode, contents, fn_output_signature=tf.TensorSpec((size, size, 3)))
        return answer(resized)["probabilities"]

    images = [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]
    return {
        "serve": (lambda pixels: answer(resize(pixels))["probabilities"], images),
        "serve_bytes": (serve_bytes, [tf.TensorSpec((None,), tf.string, name="contents")]),
        "describe": (lambda pixels: answer(resize(pixels)), images),
    }


# In the graph: the content of a JPEG or PNG file as predict.py reads it, in TensorFlow's operations alone.
def decode_upright(content: tf.Tensor) -> tf.Tensor:
    """Upright RGB pixels ``(height, width, 3)`` uint8 of a JPEG or PNG file's content; transparency becomes white.

    Raises:
        tf.errors.InvalidArgumentError: another format, or a rotation that only XMP records.
    """
    is_png = tf.strings.substr(content, 0, 8) == b"\x89PNG\r\n\x1a\n"
    is_jpeg = tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff"
    rotation = _exif_orientation(content)
    in_xmp = tf.strings.regex_full_match(content, r"\C*tiff:Orientation(=\"|>)[2-8]\C*")
    checks = [
        tf.debugging.Assert(is_png | is_jpeg, ["serve_bytes takes JPEG and PNG files; decode others and use serve"]),
        tf.debugging.Assert((rotation > 0) | ~in_xmp, ["the image's rotation is in XMP only; turn it and use serve"]),
    ]
    with tf.control_dependencies(checks):
        jpeg = partial(tf.io.decode_jpeg, content, channels=3, dct_method="INTEGER_ACCURATE")
        image = tf.cond(is_png, lambda: _png(content), jpeg)
    image = tf.cond(rotation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(_one_of(rotation, (2, 3, 6, 7)), lambda: image[:, ::-1], lambda: image)
    image = tf.cond(_one_of(rotation, (3, 4, 7, 8)), lambda: image[::-1], lambda: image)
    return tf.ensure_shape(image, (None, None, 3))


def _png(content: tf.Tensor) -> tf.Tensor:
    header = tf.io.decode_raw(tf.strings.substr(content, 24, 2), tf.uint8)
    grey_of_few_bits = (header[0] < 8) & (header[1] == 0)  # TensorFlow scales it only where no alpha is wanted
    return tf.cond(grey_of_few_bits, lambda: tf.io.decode_png(content, channels=3), lambda: _on_white(content))


def _on_white(content: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    opaque = pixels[..., 3:] / 255
    return tf.cast(tf.round(pixels[..., :3] * opaque + 255 * (1 - opaque)), tf.uint8)


def _exif_orientation(content: tf.Tensor) -> tf.Tensor:
    """The number, 1 to 8, under tag 0x0112 of the first directory (CIPA DC-008, 4.6); 0 where there is none."""
    before = tf.strings.regex_replace(content, r"(Exif\x00\x00|eXIf)(II\*\x00|MM\x00\*)\C*", "", replace_global=False)
    start, end = tf.strings.length(before), tf.strings.length(content)
    named = tf.where(tf.strings.substr(content, start, 4) == b"Exif", 6, 4)
    exif = tf.strings.substr(content, tf.minimum(start + named, end), 65536)
    # Zeros behind the end: whatever a damaged directory points to is there to be read.
    octets = tf.cast(tf.io.decode_raw(exif + b"\x00" * 16, tf.uint8), tf.int32)
    little = tf.strings.substr(exif, 0, 1) == b"I"

    def number(at: tf.Tensor, size: int) -> tf.Tensor:
        at = tf.clip_by_value(at, 0, tf.size(octets) - size)
        digits = tf.gather(octets, at[..., tf.newaxis] + tf.range(size))
        return tf.reduce_sum(tf.where(little, digits, digits[..., ::-1]) * 256 ** tf.range(size), axis=-1)

    directory = number(tf.constant(4), 4)
    entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory, 2), 4096))
    entries = tf.boolean_mask(entries, (number(entries, 2) == 0x0112) & (entries + 12 <= tf.strings.length(exif)))[:1]
    value = tf.reduce_sum(tf.where(number(entries + 2, 2) == 3, number(entries + 8, 2), number(entries + 8, 4)))
    return tf.where((start < end) & (value <= 8), tf.maximum(value, 0), 0)


def _one_of(number: tf.Tensor, numbers: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(number == tf.constant(numbers))
