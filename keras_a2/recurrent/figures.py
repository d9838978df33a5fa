"""Pictures of a recurrent run."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from keras_a2 import page
from keras_a2.recurrent.data import Windows, spacing
from keras_a2.recurrent.measure import BESIDE_RIDGE
from keras_a2.training import History

plt.rcParams["text.parse_math"] = False  # a column may be called US$_$

COLOURS = {
    "persistence": "#9aa3ab", "seasonal_naive": "#c9a227", "ridge": "#5f7d4f",
    "simple_rnn": "#b8561c", "lstm": "#7a3e9d", "gru": "#0f62a8",
}  # fmt: skip


def error_by_lead(windows: Windows, by_lead: dict[str, list[float]], path: Path) -> None:
    """MAE against lead for every model and baseline."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    leads, marker = windows.leads, "o" if windows.horizon == 1 else None
    for name, values in by_lead.items():
        style = (
            "--" if name in ("persistence", "seasonal_naive", "ridge") else ":" if name.endswith(BESIDE_RIDGE) else "-"
        )
        axes.plot(leads, values, style, marker=marker, color=_colour(name), label=page.label(name))
    axes.set(xlabel=f"lead ({_steps(windows, windows.every)})", ylabel=_of("mean absolute error", windows))
    axes.set_ylim(0, None)
    axes.set_title("Error by lead, test split")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def forecasts(windows: Windows, predicted: dict[str, np.ndarray], path: Path) -> None:
    """A very good, the median and the worst test window of the first model: what was seen, came, and was forecast.

    Args:
        predicted: name -> standardised forecasts ``(n, horizon, targets)``.
    """
    origins = windows.origins["test"]
    wanted = windows.wanted(origins)
    first = next(iter(predicted.values()))
    order = np.argsort(np.abs(first - wanted).mean(axis=(1, 2)))
    cases = {
        "better than 98 % of test windows": order[len(order) // 50],
        "median": order[len(order) // 2],
        "worst": order[-1],
    }
    figure, axes = plt.subplots(3, 1, figsize=(8, 8), layout="constrained")
    for axis, (label, i) in zip(axes, cases.items(), strict=True):
        past = windows.past
        future = windows.future
        column = windows.target_columns[0]
        axis.plot(
            past,
            windows.seen(origins[i : i + 1])[0, :, column] * windows.scale[column] + windows.mean[column],
            color="black",
            lw=1,
        )
        axis.plot(future, windows.to_unit(wanted[i])[:, 0], color="black", lw=2, label="truth")
        for name, values in predicted.items():
            axis.plot(future, windows.to_unit(values[i])[:, 0], color=_colour(name), label=page.label(name))
        start = "" if windows.time is None else f", from {windows.time[origins[i]]:%Y-%m-%d %H:%M}"
        axis.set(title=f"{label}{start}", ylabel=page.with_unit(windows.targets[0], windows.unit))
        axis.axvline(0, color="grey", lw=0.8, ls=":")
    axes[-1].set_xlabel(f"time from the forecast's start ({_steps(windows)})")
    axes[0].legend(frameon=False, ncols=4)
    _save(figure, path)


def successive(windows: Windows, predicted: dict[str, np.ndarray], path: Path, days: int = 21) -> None:
    """The first days of the test split (or two forecasts, if longer), forecast again at the end of every horizon."""
    origins = windows.origins["test"]
    steps = windows.horizon if windows.step is None else int(np.ceil(days * 86400 / windows.step.total_seconds()))
    picked, last, ahead = [], -np.inf, int(windows.future[-1])
    for i, origin in enumerate(origins):
        if origin >= last + ahead and origin - origins[0] <= max(steps, ahead):
            picked.append(i)
            last = origin
    figure, axes = plt.subplots(figsize=(10, 3.6), layout="constrained")
    wanted = windows.to_unit(windows.wanted(origins))
    for k, i in enumerate(picked):
        x = origins[i] + windows.future
        x = x if windows.time is None else windows.time[x].tz_localize(None)  # Matplotlib would show UTC
        axes.plot(x, wanted[i, :, 0], color="black", lw=1.6, label="truth" if k == 0 else None)
        for name, values in predicted.items():
            label = page.label(name) if k == 0 else None
            axes.plot(x, windows.to_unit(values[i])[:, 0], color=_colour(name), lw=1, label=label)
    axes.set(
        ylabel=page.with_unit(windows.targets[0], windows.unit),
        title=f"A forecast every {ahead} {_steps(windows)}, test split",
    )
    axes.legend(frameon=False, ncols=4)
    figure.autofmt_xdate() if windows.time is not None else None
    _save(figure, path)


def learning_curves(histories: dict[str, History], path: Path) -> None:
    """Validation error by epoch; the circle is the epoch kept."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, history in histories.items():
        values = [row["validation_mae"] for row in history.rows]
        axes.plot(values, color=_colour(name), marker=".", label=page.label(name))
        axes.plot(history.best_epoch, values[history.best_epoch], "o", color=_colour(name), fillstyle="none", ms=10)
    axes.set(xlabel="epoch (0: before training)", ylabel="validation MAE (standardised)", title="Learning curves")
    axes.legend(frameon=False)
    _save(figure, path)


def residuals_by_hour(windows: Windows, error: np.ndarray, path: Path) -> None:
    """Distribution of forecast less truth by hour of the day."""
    rows = windows.origins["test"][:, np.newaxis] + windows.future
    hours = windows.time.hour.to_numpy()[rows].ravel()
    raw = (error * windows.target_scale)[:, :, 0].ravel()
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    present = np.unique(hours)
    axes.boxplot([raw[hours == h] for h in present], positions=present, showfliers=False, widths=0.6)
    axes.axhline(0, color="grey", lw=0.8)
    axes.set(
        xlabel="hour of the day", ylabel=_of("forecast less truth", windows), title="Residuals by hour, test split"
    )
    _save(figure, path)


def _colour(name: str) -> str:
    """A network keeps its colour beside ridge regression."""
    return COLOURS[name.removesuffix(BESIDE_RIDGE)]


def _of(error: str, windows: Windows) -> str:
    """The label of an error's axis: its unit or, where that is not known, its column."""
    if windows.unit or len(windows.targets) > 1:
        return page.with_unit(error, windows.unit)
    return f"{error}, {windows.targets[0]}"


def _steps(windows: Windows, rows: int = 1) -> str:
    """What so many rows count: ``hours``, ``steps of 7 days``."""
    if windows.step is None:
        return "steps"
    step = spacing(rows * windows.step)
    return f"{step[2:]}s" if step.startswith("1 ") else f"steps of {step}"


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
