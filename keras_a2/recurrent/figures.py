"""The charts of a forecaster's report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_a2 import charts, page
from keras_a2.charts import COLOUR, MAX_LINES, styled
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.evaluate import COMBINED, Published
from keras_a2.training import History, means

COLOURS = {
    "persistence": COLOUR["grey"], "seasonal_naive": COLOUR["gold"], "ridge": COLOUR["green"],
    "simple_rnn": COLOUR["orange"], "lstm": COLOUR["purple"], "gru": COLOUR["blue"],
}  # fmt: skip


@styled
def error_by_lead(windows: Windows, by_lead: dict[str, list[float]]) -> Figure:
    """MAE against lead of models and baselines; of many, the networks alone are left out where they are combined."""
    if len(by_lead) > MAX_LINES:
        by_lead = {name: values for name, values in by_lead.items() if name + COMBINED not in by_lead}
    figure, (axes,) = charts.figure()
    for name, values in by_lead.items():
        style = ":" if name.endswith(COMBINED) else "-" if name in ("simple_rnn", "lstm", "gru") else "--"
        marker = "o" if windows.horizon == 1 else None
        axes.plot(windows.leads, values, style, marker=marker, color=_colour(name), label=page.label(name))
    label = page.with_unit("mean absolute error", windows.unit)
    if not windows.unit and len(windows.targets) == 1:
        label += f", {windows.targets[0]}"
    axes.set(xlabel=f"lead ({_steps(windows, windows.every)})", ylabel=label)
    axes.set_ylim(0, None)
    axes.grid()
    axes.legend()
    return figure


@styled
def error_by_part(windows: Windows, line: dict) -> Figure | None:
    """MAE by hour and by month of the forecast time, as far as there are several."""
    parts = {part: line[f"mae_by_{part}"] for part in ("hour", "month") if len(line[f"mae_by_{part}"]) > 1}
    if not parts:
        return None
    figure, panels = charts.figure(1.8 * len(parts), rows=len(parts))
    for axes, (part, errors) in zip(panels, parts.items(), strict=True):
        axes.bar(list(errors), list(errors.values()), color=COLOUR["blue"], width=0.7)
        axes.set(xlabel=part, ylabel=page.with_unit("MAE", windows.unit))
        axes.set_xticks(list(errors)[:: 1 + len(errors) // 13])
    return figure


@styled
def successive(
    windows: Windows, name: str, forecast: np.ndarray, ends: np.ndarray, levels: list[float], days: int = 10
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
    figure, (axes,) = charts.figure()
    parts = [[i] for i in picked] if windows.horizon > 1 else [picked]  # a line needs more than one point
    for k, part in enumerate(parts):
        rows = (origins[part][:, np.newaxis] + windows.future).ravel()
        x = rows if windows.time is None else windows.time[rows].tz_localize(None)  # Matplotlib would show UTC
        kinds = [windows.actual(origins[part]), forecast[part], *ends[:, part]]
        truth, predicted, *fans = (windows.to_unit(values)[..., 0].ravel() for values in kinds)
        axes.plot(x, truth, color=COLOUR["ink"], lw=1.3, label=None if k else "truth")
        for j, level in reversed(list(enumerate(levels))):
            label = None if k else f"{level:g} %"
            axes.fill_between(
                x, fans[2 * j], fans[2 * j + 1], color=_colour(name), alpha=0.15 if j else 0.3, lw=0, label=label
            )
        axes.plot(x, predicted, color=_colour(name), lw=1.2, label=None if k else page.label(name))
    axes.set_ylabel(page.with_unit(windows.targets[0], windows.unit))
    axes.set_title(f"a forecast every {ahead} {_steps(windows)}", loc="left")
    figure.legend(ncols=4, loc="outside lower center")
    if windows.time is not None:
        axes.tick_params("x", rotation=30)
    return figure


@styled
def intervals_by_lead(windows: Windows, test: dict) -> Figure:
    """Coverage of each level against its level, and mean width in the targets' unit, by lead."""
    figure, (coverage, width) = charts.figure(4.2, rows=2)
    marker = "o" if windows.horizon == 1 else None
    shown = list(means(test["coverage_by_lead"]).items())[:MAX_LINES]
    for (level, shares), colour in zip(shown, [*list(COLOURS.values())[::-1], COLOUR["sky"]], strict=False):
        coverage.plot(windows.leads, 100 * np.array(shares), marker=marker, color=colour, label=f"{level} %")
        coverage.axhline(float(level), color=colour, lw=0.8, ls=":")
        width.plot(windows.leads, test["width_by_lead"][level], marker=marker, color=colour, label=f"{level} %")
    coverage.set(ylabel="inside (%)")
    width.set(xlabel=f"lead ({_steps(windows, windows.every)})", ylabel=page.with_unit("width", windows.unit))
    coverage.set_ylim(None, 100)
    coverage.grid()
    coverage.legend(ncols=4)
    width.set_ylim(0, None)
    width.grid()
    return figure


@styled
def learning_curves(cell: str, history: History, loss: str) -> Figure:
    """Training loss and validation error by epoch; a circle marks the best epoch.

    Args:
        loss: what training minimises, ``mae`` or ``mse``.
    """
    figure, (axes,) = charts.figure()
    validation = [row[f"validation_{loss}"] for row in history.rows]
    axes.plot(
        [row.get("loss", np.nan) for row in history.rows], "--", color=_colour(cell), marker=".", ms=3, label="training"
    )
    axes.plot(validation, color=_colour(cell), marker=".", label="validation")
    axes.plot(history.best_epoch, validation[history.best_epoch], "o", color=_colour(cell), fillstyle="none", ms=9)
    axes.set(xlabel="epoch (0: before training)", ylabel=f"{loss.upper()} (standardised)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
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


def draw(windows: Windows, published: Published, metrics: dict) -> dict[str, tuple[Figure, str]]:
    """Every chart: name of its file -> figure and caption."""
    by_lead = {name: line["test"]["mae_by_lead"] for name, line in (metrics["baselines"] | metrics["models"]).items()}
    name, forecast, levels = published.name, published.forecast, metrics["levels"]
    line, history, loss = metrics["models"][name], published.forecaster.history, metrics["config"]["loss"]
    drawn = {
        "error_by_lead": (
            error_by_lead(windows, by_lead),
            "Error by lead on the test split. A network is worth its cost where its line is below every dashed one; "
            "the seasonal naive is hard to beat far ahead, persistence one step ahead.",
        ),
        "successive": (
            successive(windows, name, forecast, published.ends, levels),
            "Successive forecasts from the start of the test split. The truth should leave a band as often as its "
            "level says. A forecast that only copies the last value lags behind the truth.",
        ),
        "learning_curves": (
            learning_curves(published.cell, history, loss),
            "Training (with dropout, while the weights still move) against validation (averaged weights), without "
            "ridge regression; circle: the epoch kept. Validation that rises while training falls is overfitting.",
        ),
        "intervals_by_lead": (
            intervals_by_lead(windows, line["test"]),
            "Share of test values inside their interval, and mean width, by lead. A good line stays on its dotted "
            "level; an interval that grows with the lead says that the far future is less certain.",
        ),
    }
    by_part = error_by_part(windows, line)
    if by_part is not None:
        drawn["error_by_part"] = by_part, "Error by hour and month of the forecast time: when not to trust it."
    return drawn
