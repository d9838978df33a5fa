"""Charts of a report: one style, drawn once, written as PNG and as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_a2.page import PALETTE

MAX_LINES = 7  # that an eye can follow in one chart
WIDTH, HEIGHT = 4.4, 3.1  # inches: on a phone a point is then a little more than a pixel
COLOUR = {name: on_paper for name, (on_paper, _) in PALETTE.items()}
styled = matplotlib.rc_context(
    {
        "text.parse_math": False,  # a class may be called 'a$_$b'
        "svg.fonttype": "none",
        "svg.hashsalt": "keras_a2",
        "font.size": 10,
        "axes.titlesize": 10,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": COLOUR["dim"],
        "grid.color": COLOUR["line"],
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), COLOUR["ink"]),
    }
)


@dataclass(frozen=True)
class Chart:
    """A chart as the page shows it: what to see in it, and its SVG."""

    caption: str
    svg: str


def figure(height: float = HEIGHT, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure, as wide as every chart of a report, and its axes below each other; ``height`` in inches."""
    drawn = Figure((WIDTH, height), layout="constrained")
    return drawn, list(drawn.subplots(rows, squeeze=False).flat)


def interval(axes: Axes, steps: Any, lower: Any, upper: Any, colour: str, label: str) -> None:
    """Draw the ends of an interval ``(steps,)``: a band, or a bar where there is one step only."""
    if len(steps) > 1:
        axes.fill_between(steps, lower, upper, color=colour, alpha=0.2, lw=0, label=label)
    else:
        axes.vlines(steps, lower, upper, color=colour, alpha=0.2, lw=6, label=label)


@styled
def save(folder: Path, drawn: dict[str, tuple[Figure, str]]) -> list[Chart]:
    """Write every figure as a PNG file into the new ``folder``, and give it as the page shows it.

    Args:
        drawn: name of the file -> figure and caption.
    """
    folder.mkdir()
    for name, (each, _) in drawn.items():
        each.savefig(folder / f"{name}.png", dpi=200)
    return [Chart(caption, svg(each, caption)) for each, caption in drawn.values()]


@styled
def svg(drawn: Figure, label: str) -> str:
    """The figure as an SVG element for a page that defines the colours of ``PALETTE``; ``label`` is read aloud."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text[text.index("<svg") :])  # Matplotlib numbers them in each file anew
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    opening, box = re.search(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', text).group(0, 1)  # type: ignore[union-attr]
    text = text.replace(opening, f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">')
    for name, colour in COLOUR.items():
        text = text.replace(colour, f"var(--{name})")
    return text
