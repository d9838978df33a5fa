"""Export a model, verify the export in a fresh process, and load it for inference."""

from __future__ import annotations

import html
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_a2.errors import UserError
from keras_a2.experiments import command
from keras_a2.machine import import_tensorflow

if TYPE_CHECKING:
    import keras

Field = tuple[str, Callable[[Any], bool]]  # what a field of a card must be: in words, and as a test


def _whole(low: int, high: int) -> Field:
    return f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < float("inf")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and 0 < len(value) == len({*value})


def _are_levels(value: Any) -> bool:
    between = isinstance(value, list) and all(_is_positive(level) and level < 100 for level in value)
    return between and value == sorted(set(value))


TEXT: Field = "a text", lambda value: isinstance(value, str)
NAMES: Field = "a list of different names", _are_names
STEPS = _whole(1, 10**6)
# The fields of a card that are used once the model is loaded; those that older cards lack may be absent or null.
CARD: dict[str, Field] = {
    "experiment": ("transfer or recurrent", lambda value: value in ("transfer", "recurrent")),
    "version": _whole(1, 10**9),
    "data": ("an object", lambda value: isinstance(value, dict)),
}
CARD_OF: dict[str, dict[str, Field]] = {
    "transfer": {"classes": NAMES, "image_size": _whole(32, 1024)},
    "recurrent": {
        "inputs": NAMES, "targets": NAMES, "unit": TEXT, "look_back": STEPS, "horizon": STEPS, "every": STEPS,
        "first_lead": STEPS,
    },
}  # fmt: skip
OPTIONAL: dict[str, Field] = {
    "fit": ("squash, pad or crop", lambda value: value in ("squash", "pad", "crop")),
    "max_gap": _whole(0, 10**9),
    "spacing_seconds": ("a number of seconds below 9e9", lambda value: _is_positive(value) and value < 9e9),
    "freq": TEXT,
    "known": ("a list of names", lambda value: value == [] or _are_names(value)),
    "holidays": TEXT,
    "levels": ("percentages in ascending order", _are_levels),
    "temperature": ("a number above 0", _is_positive),
    "set_level": ("a share", lambda value: _is_positive(value) and value < 1),
    "set_threshold": ("a probability", lambda value: value == 0 or (_is_positive(value) and value <= 1)),
    "unfamiliar_threshold": ("a number", lambda value: type(value) in (int, float) and abs(value) < 1e9),
    "typical_errors": ("numbers above 0", lambda value: isinstance(value, list) and all(map(_is_positive, value))),
}

# Runs in a process of its own, which must need TensorFlow and nothing of this package.
_ANSWER = """
import json
import sys
import numpy as np
import tensorflow as tf
for line in sys.stdin:
    folder, questions, answers = json.loads(line)
    model = tf.saved_model.load(folder)
    with np.load(questions, allow_pickle=False) as saved:
        inputs = [saved[f"arr_{i}"] for i in range(len(saved.files))]
    outputs = [
        np.asarray(model.serve_bytes(tf.constant([x.tobytes()])) if x.ndim == 1 else model.serve(x)) for x in inputs
    ]
    assert "keras_a2" not in sys.modules
    np.savez(answers, *outputs)
    print("answered", flush=True)
"""


def export(model: keras.Model, endpoints: dict[str, tuple], folder: Path) -> None:
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


def with_constants(model: keras.Model) -> Callable[[Any], Any]:
    """A Keras model in inference mode as a function whose weights are constants.

    TensorFlow computes at loading what depends on weights alone, batch norm's factors for instance, and multiplies
    them into the kernels before: one image is answered in two thirds of the time.
    """
    import tensorflow as tf

    groups = [[v.numpy() for v in group] for group in (model.trainable_variables, model.non_trainable_variables)]

    def answer(items: Any) -> Any:
        constants = ([tf.constant(value) for value in group] for group in groups)
        return model.stateless_call(*constants, items, training=False)[0]

    return answer


class FreshProcess:
    """A process that imports TensorFlow only, to load exported models in.

    Enter it some time before an export: importing takes seconds, in which this process has other work.
    """

    def __enter__(self) -> FreshProcess:
        self._temporary = tempfile.TemporaryDirectory()
        self._messages = Path(self._temporary.name, "messages").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _ANSWER], cwd=self._temporary.name, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._messages,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._messages.close()
        self._temporary.cleanup()

    def verify(
        self,
        folder: Path,
        inputs: list[np.ndarray],
        expected: list[np.ndarray],
        tolerance: float,
        spread: float | np.ndarray = 1.0,
    ) -> dict[str, Any]:
        """Load a SavedModel there, once, and compare its predictions.

        Args:
            inputs: batches for ``serve``; the content of a file for ``serve_bytes``, as uint8 ``(length,)``.
            expected: what the model in memory answers to each.
            tolerance: largest difference allowed, relative to the spread.
            spread: how far answers lie apart, as ``expected`` broadcasts: 1 for probabilities, the standard deviation
                of what is forecast. (Relative to its level, a forecast of a meter at 1e8 could be anything.)

        Raises:
            UserError: the process fails or its predictions differ.
        """
        questions, answers = (Path(self._temporary.name, name) for name in ("inputs.npz", "outputs.npz"))
        np.savez(questions, *inputs)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended; why is told below
            print(json.dumps([str(p) for p in (folder.resolve(), questions, answers)]), file=self._process.stdin)
            self._process.stdin.flush()
        if not self._process.stdout.readline():
            self._process.wait()
            self._messages.seek(0)
            last = (self._messages.read().strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the exported model in {folder} does not load in a fresh process: {last}")
        with np.load(answers, allow_pickle=False) as saved:
            outputs = [saved[f"arr_{i}"] for i in range(len(inputs))]
        difference = max(float((np.abs(o - e) / spread).max()) for o, e in zip(outputs, expected, strict=True))
        if not difference <= tolerance:
            raise UserError(
                f"the exported model's predictions differ by {difference:.1e} of their spread from the trained model's"
            )
        return {"items": sum(len(e) for e in expected), "max_relative_difference": difference}


@dataclass(repr=False)
class SavedModel:
    """A published version: TensorFlow's object, its card, and the folder that it came from."""

    loaded: Any
    card: dict[str, Any]
    folder: Path

    @property
    def version(self) -> int:
        """Its number."""
        return self.card["version"]

    @property
    def report(self) -> Path:
        """The page about its training."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.folder}: {self.card.get('headline', '')}"

    def _repr_html_(self) -> str:
        """What a notebook shows: the report, in a frame of its own so that neither changes the other's style."""
        page = self.report.read_text(encoding="utf-8") if self.report.exists() else repr(self)
        return f'<iframe srcdoc="{html.escape(page)}" style="width: 100%; height: 40rem; border: 0"></iframe>'

    def serve(self, batch: np.ndarray) -> np.ndarray:
        """What the signature of this name answers to one batch."""
        return np.asarray(self.loaded.serve(batch))


def latest_version(folder: Path) -> Path:
    """``folder`` itself when it is a version, else its highest-numbered version.

    Raises:
        UserError: no such folder, or nothing published in it.
    """
    if not folder.is_dir():
        raise UserError(f"no such model folder: {folder}; `{command('predict')} --list` shows what there is")
    if is_version(folder) and (folder / "model.json").exists():
        return folder
    versions = [p for p in folder.iterdir() if is_version(p) and p.is_dir()]
    if not versions:
        raise UserError(f"{folder} holds no published version (a folder 1, 2, 3 ... with model.json)")
    return max(versions, key=lambda p: int(p.name))


def is_version(folder: Path) -> bool:
    """Whether a folder has the name of a version: 1, 2, 3 ..."""
    return folder.name.isascii() and folder.name.isdecimal()


def read_card(version: Path) -> dict:
    """The card ``model.json`` of a version folder, every field that is used later checked.

    Raises:
        UserError: missing, not JSON, or a field that cannot be.
    """
    path = version / "model.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is missing or damaged; publish the model again or copy the whole folder") from error
    if not isinstance(card, dict):
        raise UserError(f"{path} is not the card of a model; copy the whole folder again")
    required = CARD | CARD_OF.get(str(card.get("experiment")), {})
    given = {name: field for name, field in OPTIONAL.items() if card.get(name) is not None}
    for name, (kind, holds) in (required | given).items():
        if not holds(card.get(name)):
            value = f"is {str(card[name])[:60]!r}" if name in card else "is missing"
            raise UserError(f"{path}: field {name!r} {value}; it must be {kind}: copy the file again")
    return card


def load(folder: str | Path) -> SavedModel:
    """Load the latest version in ``folder`` (or the version folder itself) for inference; nothing is unpickled.

    Raises:
        UserError: no such folder, or a damaged or half-copied one.
    """
    version = latest_version(Path(folder))
    card = read_card(version)
    tf = import_tensorflow()
    try:
        saved = tf.saved_model.load(str(version))
        serve = saved.serve.concrete_functions[0]  # a SavedModel of another origin has no ``serve``
        specs = {"inputs": serve.structured_input_signature[0][0], "outputs": serve.structured_outputs}
        if card.get("levels"):
            specs["intervals"] = saved.serve_intervals.concrete_functions[0].structured_outputs
    except Exception as error:  # TensorFlow raises OSError, OpError, AttributeError ... by which file is damaged
        raise UserError(
            f"the SavedModel in {version} cannot be loaded (damaged or half-copied?): copy it again"
        ) from error
    for kind, shape in _shapes(card).items():
        if not specs[kind].shape.is_compatible_with([None, *shape]):
            raise UserError(
                f"{version / 'model.json'} gives {kind} of shape {shape}, but the SavedModel has "
                f"{list(specs[kind].shape[1:])}; copy the whole folder again"
            )
    return SavedModel(saved, card, version)


def _shapes(card: dict[str, Any]) -> dict[str, list[int | None]]:
    """Of one item that the model takes and of its answer."""
    if card["experiment"] == "transfer":
        return {"inputs": [None, None, 3], "outputs": [len(card["classes"])]}
    several = [len(card["targets"])] if len(card["targets"]) > 1 else []
    forecast = [card["horizon"], *several]
    shapes = {"inputs": [card["look_back"], len(card["inputs"])], "outputs": forecast}
    return shapes | ({"intervals": [*forecast, 2 * len(card["levels"])]} if card.get("levels") else {})
