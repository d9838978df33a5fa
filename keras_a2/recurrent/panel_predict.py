"""A published forecaster of many series in use: a file with series in, the forecast of each out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keras_a2 import charts
from keras_a2.errors import UserError, printable
from keras_a2.recurrent import data, panel_sources, scores, times

if TYPE_CHECKING:
    from keras_a2.recurrent.predict import Forecaster

BATCH = 4096  # windows at once
DRAWN = 6  # series in a figure


def forecast(model: Forecaster, rows: panel_sources.Rows) -> tuple[pd.DataFrame, int]:
    """The steps after the last row of every series, also of one that the model has never seen.

    Returns:
        a table ``unique_id``, ``ds`` (the time, or the row's number), ``lead``, the target and the ends of its
        interval; and for how many series the seasonal naive stands in, for the model cannot see their last rows: they
        are fewer than the look-back, end in a gap, or have no logarithm where the model takes it.

    Raises:
        UserError: another spacing than the model's, or a series without a value; it is named.
    """
    _check_spacing(model, rows)
    season, horizon, count = model.card["many_series"]["season"], model.horizon, len(rows.names)
    answer = np.empty((3, count, horizon))
    windows, whole = np.empty((count, model.look_back)), np.zeros(count, bool)
    for i, (start, end) in enumerate(rows.spans):
        last = _filled(model, rows.values[start:end])[-model.look_back :]
        whole[i] = len(last) == model.look_back and bool(_visible(model, last).all())
        if whole[i]:
            windows[i] = last
            continue
        known = rows.history(i)
        if len(known) == 0:
            raise UserError(f"series {rows.names[i]!r} has no values; remove it")
        answer[0, i] = scores.seasonal_naive(known, season, horizon)
        answer[1:, i] = scores.naive_intervals(known, horizon, model.levels[0] / 100)
    answer[:, whole] = _answers(model, windows[whole])
    ahead = [rows.times_after(i, model.leads) for i in range(count)]
    columns: dict[str, Any] = {
        "unique_id": np.repeat(rows.names, horizon),
        "ds": np.concatenate([np.asarray(each) for each in ahead]),
        "lead": np.tile(model.leads, count),
    }
    columns |= {name: values.ravel() for name, values in zip(_columns(model, rows), answer, strict=True)}
    return pd.DataFrame(columns), int((~whole).sum())


def serve(model: Forecaster, windows: np.ndarray) -> np.ndarray:
    """Forecasts of raw windows ``(batch, look_back, 1)``.

    Raises:
        UserError: a value that the model cannot take.
    """
    visible = _visible(model, windows)
    if not visible.all():
        positive = "positive " if model.card["many_series"]["logarithms"] else ""
        raise UserError(f"a window holds {windows[~visible][0]:g}; the model takes {positive}numbers only")
    return model.serve(windows)


def check(model: Forecaster, rows: panel_sources.Rows) -> pd.DataFrame:
    """Compare every row of every series with what the model forecast for it one step ahead.

    Returns:
        a table indexed by time (or by row): ``unique_id``, ``value``, ``forecast``, ``lower`` and ``upper`` end of the
        interval, and whether the value is ``outside`` it. Rows that were not measured are left out, and those whose
        window the model cannot see.

    Raises:
        UserError: another spacing than the model's, or no series is longer than the look-back.
    """
    _check_spacing(model, rows)
    parts = []
    for i, (start, end) in enumerate(rows.spans):
        values = rows.values[start:end]
        if len(values) <= model.look_back:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(_filled(model, values), model.look_back)[:-1]
        checked = np.flatnonzero(_visible(model, windows).all(axis=1) & np.isfinite(values[model.look_back :]))
        answer = _answers(model, windows[checked])[..., 0]
        position = model.look_back + checked
        names = ("value", "forecast", "lower", "upper")
        columns = dict(zip(names, (values[position], *answer), strict=True))
        index = pd.Index(rows.times_after(i, position + 1 - len(values)), name="row" if rows.lasts is None else "ds")
        parts.append(pd.DataFrame({"unique_id": rows.names[i], **columns}, index))
    table = pd.concat(parts) if parts else pd.DataFrame()
    if table.empty:
        raise UserError(f"no row of any series has a whole window of {model.look_back} rows before it")
    return table.assign(outside=~table["value"].between(table["lower"], table["upper"]))


def plot(model: Forecaster, rows: panel_sources.Rows, answer: pd.DataFrame) -> Figure:
    """The last rows of the first series and their forecasts with intervals (``forecast``) as a Matplotlib figure."""
    target, lower, upper = _columns(model, rows)
    count = min(len(rows.names), DRAWN)
    # Dates without overlap; a series may be called US$_$.
    with matplotlib.rc_context({"date.converter": "concise", "text.parse_math": False}):
        figure = Figure(figsize=(8, 1 + 1.8 * count), layout="constrained")
        for i, axes in enumerate(figure.subplots(count, squeeze=False)[:, 0]):
            seen = rows.values[max(rows.ends[i], rows.ends[i + 1] - model.look_back) : rows.ends[i + 1]]
            past, ahead = (pd.Index(rows.times_after(i, steps)) for steps in (np.arange(1 - len(seen), 1), model.leads))
            if isinstance(past, pd.DatetimeIndex):  # of times with an offset Matplotlib would show UTC
                past, ahead = past.tz_localize(None), ahead.tz_localize(None)
            own = answer[i * model.horizon : (i + 1) * model.horizon]
            axes.plot(past, seen, color="C0", alpha=0.5)
            axes.plot(ahead, own[target], color="C0", marker=".", label=target)
            charts.interval(axes, ahead, own[lower], own[upper], "C0", f"{model.levels[0]:g} %")
            axes.axvline(past[-1], color="grey", lw=0.8, ls=":")
            axes.set_title(printable(rows.names[i]), loc="left")
        figure.axes[0].legend(frameon=False, ncols=2)
    return figure


def _check_spacing(model: Forecaster, rows: panel_sources.Rows) -> None:
    facts = model.card["many_series"]
    trained = facts.get("spacing")
    if trained is None and facts["step_seconds"] is not None:  # of an earlier version
        trained = times.spacing(times.even(pd.Timedelta(seconds=facts["step_seconds"])))
    if trained and rows.spacing and rows.spacing != trained:
        raise UserError(f"the series have steps of {rows.spacing}; the model was trained on {trained}")


def _filled(model: Forecaster, values: np.ndarray) -> np.ndarray:
    """The values of a series ``(rows,)``, short gaps filled from the past as in training."""
    return data.fill(pd.Series(values), model.max_gap).to_numpy() if np.isnan(values).any() else values


def _visible(model: Forecaster, values: np.ndarray) -> np.ndarray:
    """Which values the model can take, of any shape."""
    return np.isfinite(values) & ((values > 0) | (not model.card["many_series"]["logarithms"]))


def _answers(model: Forecaster, windows: np.ndarray) -> np.ndarray:
    """Forecasts of windows ``(n, look_back)``, and the lower and upper ends of their intervals ``(3, n, horizon)``."""
    answer = np.empty((3, len(windows), model.horizon))
    for start in range(0, len(windows), BATCH):
        batch = windows[start : start + BATCH, :, np.newaxis]
        answer[0, start : start + BATCH] = model.serve(batch)
        answer[1:, start : start + BATCH] = np.asarray(model.loaded.serve_intervals(batch)).transpose(2, 0, 1)
    return answer


def _columns(model: Forecaster, rows: panel_sources.Rows) -> tuple[str, str, str]:
    """The columns of a forecast: the target, and the ends of its interval."""
    return rows.target, f"lower_{model.levels[0]:g}", f"upper_{model.levels[0]:g}"
