"""The figures of a forecaster's report."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keras_a2 import page
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.evaluate import COMBINED
from keras_a2.training import History

COLOURS = {
    "persistence": "#9aa3ab", "seasonal_naive": "#c9a227", "ridge": "#5f7d4f",
    "simple_rnn": "#b8561c", "lstm": "#7a3e9d", "gru": "#0f62a8",
}  # fmt: skip
plain_text = matplotlib.rc_context({"text.parse_math": False})  # a column may be called US$_$, which is no formula


@plain_text
def error_by_lead(windows: Windows, by_lead: dict[str, list[float]]) -> Figure:
    """MAE against lead for every model and baseline."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in by_lead.items():
        style = ":" if name.endswith(COMBINED) else "-" if name in ("simple_rnn", "lstm", "gru") else "--"
        marker = "o" if windows.horizon == 1 else None
        axes.plot(windows.leads, values, style, marker=marker, color=_colour(name), label=page.label(name))
    label = page.with_unit("mean absolute error", windows.unit)
    if not windows.unit and len(windows.targets) == 1:
        label += f", {windows.targets[0]}"
    axes.set(xlabel=f"lead ({_steps(windows, windows.every)})", ylabel=label, title="Error by lead, test split")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


@plain_text
def successive(
    windows: Windows, name: str, forecast: np.ndarray, ends: np.ndarray, levels: list[float], days: int = 21
) -> Figure:
    """The first days of the test split (or two forecasts, if longer), forecast again at the end of every horizon.

    Args:
        forecast, ends: standardised, of all test windows, as ``predictions`` takes them.
    """
    origins, ahead = windows.origins["test"], int(windows.future[-1])
    steps = windows.horizon if windows.step is None else int(np.ceil(pd.Timedelta(days=days) / windows.step))
    picked: list[int] = []
    for i, origin in enumerate(origins):
        if (not picked or origin >= origins[picked[-1]] + ahead) and origin - origins[0] <= max(steps, ahead):
            picked.append(i)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    parts = [[i] for i in picked] if windows.horizon > 1 else [picked]  # a line needs more than one point
    for k, part in enumerate(parts):
        rows = (origins[part][:, np.newaxis] + windows.future).ravel()
        x = rows if windows.time is None else windows.time[rows].tz_localize(None)  # Matplotlib would show UTC
        kinds = [windows.actual(origins[part]), forecast[part], *ends[:, part]]
        truth, predicted, *fans = (windows.to_unit(values)[..., 0].ravel() for values in kinds)
        axes.plot(x, truth, color="black", lw=1.6, label=None if k else "truth")
        for j, level in reversed(list(enumerate(levels))):
            label = None if k else f"{level:g} %"
            axes.fill_between(x, fans[2 * j], fans[2 * j + 1], color=_colour(name), alpha=0.2, lw=0, label=label)
        axes.plot(x, predicted, color=_colour(name), lw=1, label=None if k else page.label(name))
    title = f"A forecast every {ahead} {_steps(windows)}, test split"
    axes.set(ylabel=page.with_unit(windows.targets[0], windows.unit), title=title)
    axes.legend(frameon=False, ncols=4)
    if windows.time is not None:
        figure.autofmt_xdate()
    return figure


def intervals_by_lead(windows: Windows, test: dict) -> Figure:
    """Coverage of each level against its level, and mean width in the targets' unit, by lead."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    coverage, width = figure.subplots(1, 2)
    marker = "o" if windows.horizon == 1 else None
    for number, (level, shares) in enumerate(test["coverage_by_lead"].items()):
        colour = f"C{number}"
        coverage.plot(windows.leads, 100 * np.array(shares), marker=marker, color=colour, label=f"{level} %")
        coverage.axhline(float(level), color=colour, lw=0.8, ls=":")
        width.plot(windows.leads, test["width_by_lead"][level], marker=marker, color=colour, label=f"{level} %")
    for axes, label in ((coverage, "inside (%)"), (width, page.with_unit("width", windows.unit))):
        axes.set(xlabel=f"lead ({_steps(windows, windows.every)})", ylabel=label)
        axes.grid(alpha=0.3)
    coverage.set_ylim(None, 100)
    width.set_ylim(0, None)
    coverage.legend(frameon=False)
    return figure


def learning_curves(cell: str, history: History) -> Figure:
    """Validation error by epoch; a circle marks the best epoch."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    values = [row["validation_mae"] for row in history.rows]
    axes.plot(values, color=_colour(cell), marker=".", label=page.label(cell))
    axes.plot(history.best_epoch, values[history.best_epoch], "o", color=_colour(cell), fillstyle="none", ms=10)
    axes.set(xlabel="epoch (0: before training)", ylabel="validation MAE (standardised)", title="Learning curve")
    return figure


def _colour(name: str) -> str:
    """A network has one colour, alone and with ridge regression."""
    return COLOURS[name.removesuffix(COMBINED)]


def _steps(windows: Windows, rows: int = 1) -> str:
    """The duration of a number of rows: ``hours``, ``steps of 15 minutes``."""
    if windows.freq is None:
        return "steps"
    step = windows.spacing(rows)
    return f"{step[2:]}s" if step.startswith("1 ") else f"steps of {step}"
