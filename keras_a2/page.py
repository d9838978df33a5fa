"""What a run leaves for people: one self-contained ``report.html``."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, select_autoescape

if TYPE_CHECKING:
    import numpy as np

    from keras_a2.charts import Chart

FILE_DIGITS, SCREEN_DIGITS = 4, 2  # significant ones of its typical error that a forecast is written with
LAYERS = {"simple_rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU"}  # as Keras writes them
# Colours of the page and its charts: on white paper, and in the dark.
PALETTE = {
    "ink": ("#1c2733", "#e4e9ee"), "dim": ("#5b6875", "#9aa7b4"), "paper": ("#ffffff", "#14191f"),
    "line": ("#d6dde4", "#333d47"), "tint": ("#eef4fa", "#1d2833"), "blue": ("#0f62a8", "#7db8ee"),
    "sky": ("#6aa5d6", "#4a80b4"), "orange": ("#b8561c", "#f0955a"), "purple": ("#7a3e9d", "#c79be6"),
    "green": ("#5f7d4f", "#9cc487"), "gold": ("#a8861a", "#e3c35c"), "grey": ("#8a949d", "#8f9ba6"),
}  # fmt: skip


@dataclass
class Table:
    """A table of texts: one header row, then rows; ``note`` stands below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Card:
    """A picture ``(height, width, 3)`` uint8 with lines of text below it, and the same with its map, if any."""

    picture: np.ndarray
    lines: list[str]
    mapped: np.ndarray | None = None


@dataclass
class Sheet:
    """Pictures side by side, and what to see in them."""

    title: str
    caption: str
    cards: list[Card]


@dataclass
class Page:
    """What the page says, from top to bottom."""

    title: str
    headline: str
    tables: list[Table]
    charts: list[Chart]
    metrics: dict[str, Any]  # of which data, configuration and environment are listed
    use: str  # command that uses the model
    home: Path  # folder of the model's versions
    guide: list[str] = field(default_factory=list)  # how to read it, in paragraphs
    sheets: list[Sheet] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)  # title, preformatted text


def write(page: Page, path: Path) -> None:
    """Render ``page`` as one HTML file without outside parts: readable on a phone, in the dark, and printed."""
    environment = Environment(loader=PackageLoader("keras_a2", "templates"), autoescape=select_autoescape())
    environment.filters |= {"inline": _inline, "flatten": flatten}
    content = environment.get_template("report.html").render(page=page, palette=PALETTE, docs=_docs(page.home))
    path.write_text(content, encoding="utf-8", errors="backslashreplace")  # names may hold undecodable bytes


def _docs(home: Path) -> str:
    """The way from a version of a model to the pages of the checkout that it is in; empty elsewhere."""
    root = Path(__file__).resolve().parents[1]
    inside = home.resolve().is_relative_to(root) and (root / "docs" / "questions.md").exists()
    return os.path.relpath(root / "docs", home.resolve() / "1") if inside else ""


def _inline(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def label(name: str) -> str:
    """The name of a model or baseline as people read it: ``simple_rnn+ridge`` is SimpleRNN + ridge."""
    return " + ".join(LAYERS.get(part, part.replace("_", " ")) for part in name.split("+"))


def percent(value: float) -> str:
    """A share as people read it: 0.123 is 12.3 %."""
    return f"{_tenths(100 * value)} %"


def number(value: float, digits: int = 3) -> str:
    """This number of significant digits, and all before the point: 0.000412, 1.99, 12,346."""
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    return f"{value:,.{decimals(value, digits)}f}"


def amount(value: float, unit: str) -> str:
    """``number`` with its unit, where that is known."""
    return f"{number(value)} {unit}".rstrip()


def with_unit(name: str, unit: str) -> str:
    """The label of an axis or a column: ``load (MW)``, or ``load`` where the unit is not known."""
    return f"{name} ({unit})" if unit else name


def column(values: Iterable[float], places: int | None = None) -> list[str]:
    """Numbers to stand below each other.

    Args:
        places: number of decimals; by default as many as the largest value needs for three significant digits.
    """
    values = list(values)
    if places is not None:
        return [f"{value:,.{places}f}" for value in values]
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if not 1e-6 <= largest < 1e15:
        return [number(value) for value in values]
    return [f"{value:,.{decimals(largest, 3)}f}" for value in values]


def decimals(value: float, digits: int) -> int:
    """Decimals that show ``value`` with this number of significant digits; all digits before the point stay."""
    return max(digits - math.floor(math.log10(abs(value))) - 1, 0)


def interval(ends: list[float], scale: float = 100, unit: str = " %") -> str:
    """Both ends with one decimal: [0.123, 0.2] is 12.3 to 20.0 %."""
    return f"{_tenths(scale * ends[0])} to {_tenths(scale * ends[1])}{unit}"


def _tenths(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # never -0.0


def verdict(interval: list[float] | None, p_value: float | None) -> str:
    """``better``, ``worse`` or ``not shown``: only what a 95 % interval and a test at 5 % agree on.

    Args:
        interval: of the gain, above 0 is better; None with a p-value: there is none.
        p_value: None: ``too short to tell``.
    """
    if p_value is None:
        return "too short to tell"
    if interval is None or p_value >= 0.05 or interval[0] <= 0 <= interval[1]:
        return "not shown"
    return "better" if interval[0] > 0 else "worse"


def p_text(p: float | None) -> str:
    """A p-value with four decimals; empty where there is none."""
    if p is None:
        return ""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def flatten(content: dict) -> dict[str, str]:
    """Names to short texts, for a list of facts; long lists are counted rather than printed."""
    texts = {}
    for name, value in content.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        elif isinstance(value, list | tuple):
            shown = ", ".join(str(v) for v in value[:12])
            value = f"{len(value)}: {shown}{' …' if len(value) > 12 else ''}" if len(value) > 3 else shown or "none"
        elif isinstance(value, float):
            value = f"{value:.6g}"
        texts[name.replace("_", " ")] = str(value) or "none"
    return texts
