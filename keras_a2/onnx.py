"""A published model as an ONNX file, by Keras's own export, and what it loses and costs under ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from keras_a2 import deployment, machine
from keras_a2.errors import UserError
from keras_a2.files import whole


def export(folder: Path, items: np.ndarray) -> dict:
    """Write ``model.onnx`` into a version folder and measure it on ``items``.

    It takes what the LiteRT files take, in batches of any size: float32 pixels ``(batch, size, size, 3)`` or raw
    windows ``(batch, look_back, inputs)``, in float64.

    Returns:
        ``model.onnx`` -> size in bytes and what ``deployment.measure`` says.

    Raises:
        UserError: the extra ``[onnx]`` is not installed, or the model cannot be converted.
    """
    with machine.silence():
        try:
            import onnxruntime
            import tf2onnx  # noqa: F401  Keras's export needs it
        except ImportError as error:
            raise UserError(
                f"ONNX needs the package {error.name}, which is not installed; pip install -e '.[onnx]'"
            ) from error

    model = deployment.deployable(folder)
    expected = deployment.answers(model, items)  # Keras exports only a model that has been called
    path = folder / "model.onnx"
    with whole(path) as temporary:
        try:
            with machine.silence(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.export(temporary, format="onnx", verbose=False)
                session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        except Exception as error:  # tf2onnx and ONNX Runtime raise their own
            raise UserError(f"{folder} cannot be converted to ONNX ({str(error).splitlines()[0][:120]})") from error
        name = session.get_inputs()[0].name
        items = items.astype(model.inputs[0].dtype)
        facts = deployment.measure(lambda item: session.run(None, {name: item})[0], items, expected)
    return {path.name: {"bytes": path.stat().st_size} | facts}
