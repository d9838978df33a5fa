"""A table to windows: regular grid, gaps, calendar, splits, scaling, and gathered batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent import splits, times
from keras_a2.recurrent.sources import CALENDAR, Table
from keras_a2.recurrent.splits import SPLITS

DAY = pd.Timedelta("1D")
YEAR = pd.Timedelta("365.2425D")
TINY = 1e-150  # a standard deviation below it loses its digits when it is squared
FARTHEST = 1e9  # standard deviations of the training rows: squares of more overflow float32


@dataclass
class Windows:
    """A series ready for training: one array of rows, and the rows at which each split's windows begin to forecast.

    A window with origin ``t`` sees the rows ``t + past`` and forecasts the rows ``t + future``: without ``every`` and
    ``first_lead`` the ``look_back`` rows up to ``t`` and the ``horizon`` rows after it. Which windows belong to which
    split: see ``splits``.
    """

    name: str
    look_back: int
    horizon: int
    inputs: list[str]
    targets: list[str]
    values: np.ndarray  # (rows, inputs) float32, standardised, gaps filled from the past
    truth: np.ndarray  # (rows, targets) float32, standardised, NaN where missing
    mean: np.ndarray  # (inputs,) of the training rows
    scale: np.ndarray  # (inputs,)
    origins: dict[str, np.ndarray]
    bounds: dict[str, tuple[int, int]]  # rows of each split: first, one past the last
    time: pd.DatetimeIndex | None
    step: pd.Timedelta | None
    unit: str  # of the targets; empty where it is not known
    sha256: str
    every: int = 1  # rows from one step of a window to the next
    first_lead: int = 1
    facts: dict = field(default_factory=dict)

    @property
    def past(self) -> np.ndarray:
        """Rows that a window sees, relative to its origin ``(look_back,)``."""
        return self.every * np.arange(1 - self.look_back, 1)

    @property
    def leads(self) -> np.ndarray:
        """Steps ahead that are forecast ``(horizon,)``."""
        return self.first_lead + np.arange(self.horizon)

    @property
    def future(self) -> np.ndarray:
        """Rows that are forecast, relative to the origin ``(horizon,)``."""
        return self.every * self.leads

    @property
    def target_columns(self) -> np.ndarray:
        """Where the targets stand among the inputs."""
        return np.array([self.inputs.index(name) for name in self.targets])

    @property
    def target_scale(self) -> np.ndarray:
        return self.scale[self.target_columns]

    @property
    def target_mean(self) -> np.ndarray:
        return self.mean[self.target_columns]

    def seen(self, origins: np.ndarray) -> np.ndarray:
        """Standardised inputs ``(n, look_back, inputs)``."""
        return self.values[origins[:, np.newaxis] + self.past]

    def wanted(self, origins: np.ndarray) -> np.ndarray:
        """Standardised targets ``(n, horizon, targets)``."""
        return self.truth[origins[:, np.newaxis] + self.future]

    def raw(self, origins: np.ndarray) -> np.ndarray:
        """Inputs in their own units ``(n, look_back, inputs)``: what the exported model takes."""
        return self.seen(origins) * self.scale + self.mean

    def to_unit(self, standardised: np.ndarray) -> np.ndarray:
        """Targets or forecasts ``(..., targets)`` in their own units."""
        return standardised * self.target_scale + self.target_mean

    def summary(self) -> dict:
        return {
            "name": self.name,
            "target": self.targets,
            "unit": self.unit,
            "rows": len(self.values),
            **{split: len(self.origins[split]) for split in SPLITS},
            "sha256": self.sha256,
            "inputs": self.inputs,
            "spacing": None if self.step is None else spacing(self.step),
            **self.facts,
        }


def prepare(
    table: Table,
    *,
    look_back: int,
    horizon: int,
    split: str = "0.6,0.2,0.2",
    max_gap: int = 12,
    calendar: bool = True,
    every: int = 1,
    first_lead: int = 1,
) -> Windows:
    """Put the table on its grid, fill short gaps from the past, add the calendar, scale by train, and cut windows.

    Args:
        split: three fractions or three row counts, ``train,validation,test``, in time order; or ``splits.BOOK``.
        max_gap: gaps of at most so many steps are filled; windows that touch a longer one are dropped.
        every: rows from one step of a window to the next (hourly windows from 10-minute data: 6); windows still begin
            at every row.
        first_lead: the first step ahead that is forecast.

    Raises:
        UserError: irregular, unsorted or duplicate times; a bad split; or too few rows for one window per split.
    """
    frame, time, step = to_grid(table)
    on_file = None if time is None else time.isin(table.time)
    sees, ahead = every * (look_back - 1) + 1, every * (first_lead + horizon - 1)
    bounds = splits.bounds(split, len(frame), sees, ahead)
    names = list(frame.columns) + (calendar_names(step) if calendar and time is not None else [])
    values = np.empty((len(frame), len(names)), np.float32)
    truth = np.empty((len(frame), len(table.target)), np.float32)
    mean, scale = np.empty(len(names)), np.empty(len(names))
    absent, missing_values, digest = np.zeros(len(frame), bool), 0, hashlib.sha256()
    for k, name in enumerate(names):  # column by column: the series is never held twice
        raw = frame[name].to_numpy(np.float64) if name in frame else calendar_column(name, time)
        filled = splits.fill(pd.Series(raw), max_gap).to_numpy()
        mean[k], scale[k] = _scaling(filled[: bounds["train"][1]], name)
        standardised = (filled - mean[k]) / scale[k]
        _check_range(standardised, raw, name, time)
        values[:, k] = standardised
        absent |= np.isnan(filled)
        if name in table.target:
            truth[:, table.target.index(name)] = np.where(np.isnan(raw), np.nan, values[:, k])
        digest.update(np.ascontiguousarray(raw).tobytes())
        if name in frame:
            missing_values += int(np.isnan(raw).sum())
    np.nan_to_num(values, copy=False)
    if not any(np.nanstd(truth[: bounds["train"][1]], axis=0)):
        raise UserError(
            f"{table.name}: {', '.join(table.target[:8])} never changes in the training rows, so there is nothing to "
            "learn; choose another --target or --split"
        )
    spans = splits.spans(split, bounds, sees, ahead, every * first_lead)
    reach = sees, ahead, every * first_lead
    origins, dropped = splits.origins(absent, np.isnan(truth).any(axis=1), spans, *reach)
    for name, rows in origins.items():
        if len(rows) == 0:
            raise UserError(
                f"every {name} window of {table.name} touches a missing value; "
                + splits.way_out(frame, table.target, on_file, max_gap, spans[name], reach)
            )
    return Windows(
        name=table.name,
        look_back=look_back,
        horizon=horizon,
        inputs=names,
        targets=table.target,
        values=values,
        truth=truth,
        mean=mean,
        scale=scale,
        origins=origins,
        bounds=bounds,
        time=time,
        step=step,
        unit=table.unit,
        sha256=digest.hexdigest(),
        every=every,
        first_lead=first_lead,
        facts={
            "missing_values": missing_values,
            "grid_rows_added": len(frame) - len(table.frame),
            "windows_dropped": dropped,
            "max_gap": max_gap,
            "time_column": table.time_column,
            "citation": table.citation,
            "notes": table.notes,
        },
    )


def to_grid(table: Table) -> tuple[pd.DataFrame, pd.DatetimeIndex | None, pd.Timedelta | None]:
    """The table on a regular grid of its commonest spacing, absent rows as NaN."""
    if table.time is None:
        return table.frame, None, None
    time = table.time
    if len(time) < 2:
        raise UserError(f"{table.name} has {len(time)} row(s); a series needs more")
    if not time.is_unique:
        raise UserError(
            f"{table.name}: the time {time[time.duplicated()][0]} occurs twice, and every time needs one row. If clocks"
            " were put back, write times with their offset (+01:00); if rows are of several series, give each a column"
        )
    gaps = np.diff(time.asi8)
    if (gaps < 0).any():
        raise UserError(
            f"{table.name}: time runs backwards after {time[int(np.argmax(gaps < 0))]}; sort the rows by time"
        )
    steps, counts = np.unique(gaps, return_counts=True)
    common = int(steps[np.argmax(counts)])
    if (gaps % common).any() and (calendar := times.calendar_spacing(time)):
        raise UserError(
            f"{table.name} has a spacing of {calendar}; months, quarters and years are not supported yet as a spacing: "
            + times.ROWS_INSTEAD
        )
    if (gaps % common).any():
        at = time[int(np.argmax(gaps % common != 0))]
        raise UserError(
            f"{table.name} has no regular spacing: mostly {pd.Timedelta(common, unit=time.unit)}, but not after {at}; "
            "resample it to even steps"
        )
    rows = int((time.asi8[-1] - time.asi8[0]) // common) + 1
    if rows > 20 * len(time):
        raise UserError(
            f"{table.name} has {len(time)} rows over {rows} steps of time: mostly gaps; resample it to longer steps"
        )
    step = pd.Timedelta(common, unit=time.unit)
    frame = table.frame.set_axis(time)
    if rows != len(time):
        frame = frame.reindex(pd.date_range(time[0], periods=rows, freq=step))
    return frame, pd.DatetimeIndex(frame.index), step


def spacing(step: pd.Timedelta) -> str:
    """``1 hour``, ``15 minutes``, ``7 days``: a step in the largest unit that divides it."""
    for unit, name in (("D", "day"), ("h", "hour"), ("min", "minute"), ("s", "second")):
        count = step / pd.Timedelta(1, unit)
        if count.is_integer() and count >= 1:
            return f"{count:.0f} {name}{'' if count == 1 else 's'}"
    return f"{step.total_seconds():g} seconds"


def calendar_names(step: pd.Timedelta | None) -> list[str]:
    """Hour of the day (for steps below a day) and day of the year, as sine and cosine."""
    return list(CALENDAR if step is not None and step < DAY else CALENDAR[2:])


def calendar_column(name: str, time: pd.DatetimeIndex) -> np.ndarray:
    """One of the calendar's inputs ``(rows,)``."""
    time = time if time.tz is None else time.tz_convert(None)  # UTC, whatever offset a file is written in
    day = np.asarray((time - time.normalize()) / DAY, float)
    angle = 2 * np.pi * (day if name.startswith("hour") else (time.dayofyear - 1 + day) / (YEAR / DAY))
    return np.asarray(np.sin(angle) if name.endswith("sin") else np.cos(angle), float)


def _scaling(train: np.ndarray, name: str) -> tuple[float, float]:
    if not np.isfinite(train).any():
        raise UserError(f"column {name!r} has no value in the training rows; leave it out with --inputs")
    with np.errstate(over="ignore"):
        mean, scale = float(np.nanmean(train)), float(np.nanstd(train))
    if not np.isfinite(scale):
        raise UserError(
            f"column {name!r} has values up to {np.nanmax(np.abs(train)):.3g}, too large to compute with; correct them"
        )
    # A constant column stays constant: the mean's rounding is not a spread.
    return mean, scale if scale > max(1e-14 * abs(mean), TINY) else 1.0


def _check_range(standardised: np.ndarray, raw: np.ndarray, name: str, time: pd.DatetimeIndex | None) -> None:
    """Refuse a value so far from the training rows that it can only be an error."""
    distance = np.abs(np.nan_to_num(standardised))
    row = int(np.argmax(distance))
    if distance[row] > FARTHEST:
        raise UserError(
            f"column {name!r} holds {raw[row]:.3g} {f'in row {row + 1}' if time is None else f'at {time[row]}'}, "
            f"{distance[row]:.0e} standard deviations from its training rows; correct it or leave the column out with "
            "--inputs"
        )
