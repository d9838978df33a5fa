"""A small local page for a published model: drop an image, or pick a series (Gradio, extra ``[demo]``)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keras_a2 import page
from keras_a2.console import console
from keras_a2.errors import UserError

if TYPE_CHECKING:
    from keras_a2.recurrent.predict import Forecaster
    from keras_a2.transfer.predict import Classifier

ADDRESS = "127.0.0.1"  # this machine only
MAX_UPLOAD = "20mb"
SHOWN_CLASSES = 5
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
KEPT_SECONDS = 60  # an upload is looked at on the page, and then deleted

# A process of its own removes the folder however this one ends: its standard input closes.
_REMOVE = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


class LocalOnly:
    """ASGI middleware: refuse what comes under another host's name (DNS rebinding) or from another site's page."""

    def __init__(self, app: Callable):
        self._app = app

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            try:
                local = urlsplit(f"//{host}").hostname in LOCAL_NAMES
            except ValueError:
                local = False
            if not local or headers.get("origin") not in (None, f"http://{host}"):
                await PlainTextResponse("this page is for this machine only", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def upload_folder() -> Path:
    """A folder that only this user can read, and that is gone when this process has ended."""
    folder = tempfile.mkdtemp(prefix="keras_a2-")
    # Ctrl-C must not reach it, so it has a session of its own.
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVE, folder], stdin=subprocess.PIPE, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return Path(folder)


def serve(model: Classifier | Forecaster, port: int | None, *, block: bool = True) -> Any:
    """Open the page on this machine and wait until it is stopped.

    Args:
        port: where to listen; None takes the first free one from 7860.
        block: False returns at once, with the running page (``.local_url``, ``.close()``).

    Raises:
        UserError: the extra ``[demo]`` is not installed, or the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing leaves this machine
    try:
        import gradio
    except ImportError as error:
        raise UserError("--serve needs the package gradio, which is not installed; pip install -e '.[demo]'") from error
    from starlette.middleware import Middleware

    os.environ["GRADIO_TEMP_DIR"] = str(upload_folder())
    pages: dict[str, Callable[[Any, Any], dict]] = {"transfer": _classifier, "recurrent": _forecaster}
    name = f"{model.folder.resolve().parent.name}, version {model.version}"
    blocks = gradio.Interface(
        **pages[model.card["experiment"]](gradio, model), title=name, description=model.card.get("headline"),
        live=True, flagging_mode="never", delete_cache=(KEPT_SECONDS, KEPT_SECONDS),
    )  # fmt: skip
    try:
        blocks.launch(
            server_name=ADDRESS, server_port=port, max_file_size=MAX_UPLOAD, share=False, quiet=True,
            prevent_thread_lock=True, app_kwargs={"middleware": [Middleware(LocalOnly)]},
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"cannot listen on {ADDRESS}:{port or 7860}, taken by another program; set --port") from error
    console.print(f"open {blocks.local_url} in a browser; Ctrl-C stops it")
    if block:
        blocks.block_thread()
    return blocks


def _classifier(gradio: Any, model: Classifier) -> dict[str, Any]:
    """What the page of a classifier does, takes and shows."""

    def classify(path: str | None) -> tuple[dict[str, float] | None, Any, str]:
        if path is None:
            return None, None, ""
        answer = next(model.stream([Path(path)], top=SHOWN_CLASSES, maps=model.describes))
        if answer.error:
            raise gradio.Error(f"the image cannot be used: {answer.error}", print_exception=False)
        notes = [f"Set: {', '.join(answer.answer_set)}."] if answer.answer_set else []
        notes += ["Unfamiliar: unlike the training images, so do not trust the class."] if answer.unfamiliar else []
        return dict(zip(answer.classes, answer.probabilities, strict=True)), answer.mapped, " ".join(notes)

    # The file as it came: our own decoder turns it upright and refuses other formats and decompression bombs.
    picture = gradio.Image(label="image", type="filepath", image_mode=None, sources=["upload", "clipboard"])
    picture.preprocess = lambda image: image and image.path  # Gradio's own opens it first, and fails on no image
    outputs = [
        gradio.Label(label="class", num_top_classes=SHOWN_CLASSES),
        gradio.Image(label="bright where it speaks for the class", visible=model.describes),
        gradio.Textbox(label="notes"),
    ]
    return {"fn": classify, "inputs": picture, "outputs": outputs}


def _forecaster(gradio: Any, model: Forecaster) -> dict[str, Any]:
    """What the page of a forecaster does, takes and shows."""
    from keras_a2.recurrent.predict import plot

    def forecast(path: str | None) -> tuple[Any, Any]:
        if path is None:
            return None, None
        try:
            seen, answer = model.forecast(path)
        except UserError as error:
            raise gradio.Error(str(error).replace(path, Path(path).name), print_exception=False) from error
        return plot(model, seen, answer), answer.round(model.decimals(page.SCREEN_DIGITS)).reset_index()

    series = gradio.File(label="series", file_types=[".csv", ".parquet"], type="filepath")
    table = gradio.Dataframe(label=page.with_unit("forecast", model.unit))
    example = model.folder / "example.csv"
    examples = [[str(example)]] if example.exists() else None
    return {"fn": forecast, "inputs": series, "outputs": [gradio.Plot(label="forecast"), table], "examples": examples}
