"""Export a model, verify the export in a fresh process, and load it for inference."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_a2.errors import UserError
from keras_a2.machine import silence

CARD_FIELDS = {"experiment": str, "version": int, "task": str, "data": dict}

# Runs in a process of its own, which must need TensorFlow and nothing of this package.
_VERIFY = """
import json
import sys
import numpy as np
import tensorflow as tf
folder, asked, answered = json.load(sys.stdin)
model = tf.saved_model.load(folder)
with np.load(asked, allow_pickle=False) as saved:
    outputs = [np.asarray(model.serve(saved[f"input_{i}"])) for i in range(len(saved.files))]
assert "keras_a2" not in sys.modules
np.savez(answered, *outputs)
"""


def export(model, endpoints: dict, folder: Path) -> None:
    """Write ``model.keras`` and a SavedModel with the given signatures into ``folder``.

    Args:
        endpoints: name -> (function, list of ``tf.TensorSpec``); the first is also ``serving_default``.
    """
    import keras

    model.save(folder / "model.keras")
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=signature)
    archive.write_out(str(folder), verbose=False)
    (folder / "assets").mkdir(exist_ok=True)


class FreshProcess:
    """A process that imports TensorFlow only, to load an exported model in.

    Enter it before the export: importing takes seconds, which pass while this process exports and draws.
    """

    def __enter__(self) -> FreshProcess:
        self._temporary = tempfile.TemporaryDirectory()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        command = [sys.executable, "-I", "-c", _VERIFY]
        self._process = subprocess.Popen(command, cwd=self._temporary.name, text=True, **pipes)
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()
        self._temporary.cleanup()

    def verify(
        self,
        folder: Path,
        inputs: list[np.ndarray],
        expected: list[np.ndarray],
        tolerance: float,
        spread: float | np.ndarray = 1.0,
    ) -> dict:
        """Load the SavedModel there, once, and compare its predictions.

        Args:
            inputs: batches for the ``serve`` signature.
            expected: what the model in memory answers to each.
            tolerance: largest difference allowed, relative to the spread.
            spread: how far answers lie apart, as ``expected`` broadcasts: 1 for probabilities, the standard deviation
                of what is forecast. (Relative to its level, a forecast of a meter at 1e8 could be anything.)

        Raises:
            UserError: the process fails or its predictions differ.
        """
        asked, answered = (Path(self._temporary.name, name) for name in ("inputs.npz", "outputs.npz"))
        np.savez(asked, **{f"input_{i}": batch for i, batch in enumerate(inputs)})
        _, messages = self._process.communicate(json.dumps([str(p) for p in (folder.resolve(), asked, answered)]))
        if self._process.returncode:
            last = (messages.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the exported model in {folder} does not load in a fresh process: {last}")
        with np.load(answered, allow_pickle=False) as outputs:
            got = [outputs[f"arr_{i}"] for i in range(len(inputs))]
        difference = max(float((np.abs(g - e) / spread).max()) for g, e in zip(got, expected, strict=True))
        if not difference <= tolerance:
            raise UserError(
                f"the exported model's predictions differ by {difference:.1e} of their spread from the trained model's"
            )
        return {"items": sum(len(e) for e in expected), "max_relative_difference": difference}


@dataclass
class SavedModel:
    """A published version: TensorFlow's object, its card, and where it came from."""

    loaded: object
    card: dict
    folder: Path

    @property
    def version(self) -> int:
        return self.card["version"]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """What the ``serve`` signature answers to one batch."""
        return np.asarray(self.loaded.serve(batch))

    def field(self, name: str, kind: type):
        """A field of the card, its type checked.

        Raises:
            UserError: missing or of another type.
        """
        value = self.card.get(name)
        if not isinstance(value, kind) or (kind is list and not all(isinstance(v, str) for v in value)):
            raise UserError(
                f"{self.folder / 'model.json'}: field {name!r} is missing or not a {kind.__name__}; copy it again"
            )
        return value


def latest_version(folder: Path) -> Path:
    """``folder`` itself when it is a version, else its highest-numbered version.

    Raises:
        UserError: no such folder, or nothing published in it.
    """
    if not folder.is_dir():
        raise UserError(f"no such model folder: {folder}; `python experiments/predict.py --list` shows what there is")
    if folder.name.isdigit() and (folder / "model.json").exists():
        return folder
    versions = [p for p in folder.iterdir() if p.name.isdigit() and p.is_dir()]
    if not versions:
        raise UserError(f"{folder} holds no published version (a folder 1, 2, 3 ... with model.json)")
    return max(versions, key=lambda p: int(p.name))


def read_card(version: Path) -> dict:
    """The card ``model.json`` of a version folder, its field types checked.

    Raises:
        UserError: missing, not JSON, or a field of the wrong type.
    """
    path = version / "model.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged; publish the model again or copy the whole folder") from error
    for name, kind in CARD_FIELDS.items():
        if not isinstance(card, dict) or not isinstance(card.get(name), kind):
            raise UserError(
                f"{path}: field {name!r} is missing or not a {kind.__name__}; the file was changed by hand?"
            )
    return card


def load(folder: str | Path) -> SavedModel:
    """Load the latest version in ``folder`` (or the version folder itself) for inference; nothing is unpickled.

    Raises:
        UserError: no such folder, or a damaged or half-copied one.
    """
    version = latest_version(Path(folder))
    card = read_card(version)
    with silence():
        import tensorflow as tf

        tf.config.list_logical_devices()
    try:
        saved = tf.saved_model.load(str(version))
        saved.serve  # noqa: B018  a SavedModel of another origin has no such signature
    except Exception as error:  # TensorFlow raises OSError, OpError, AttributeError ... by which file is damaged
        raise UserError(
            f"the SavedModel in {version} cannot be loaded (damaged or half-copied?): copy it again"
        ) from error
    return SavedModel(saved, card, version)
