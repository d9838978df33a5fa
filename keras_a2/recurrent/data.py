"""A table to windows: regular grid, gaps, calendar, splits, scaling, and gathered batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent.sources import Table

CALENDAR = ("hour_sin", "hour_cos", "year_sin", "year_cos")
SPLITS = ("train", "validation", "test")
DAY = pd.Timedelta("1D")
YEAR = pd.Timedelta("365.2425D")


@dataclass
class Windows:
    """A series ready for training: one array of rows, and the rows at which each split's windows begin to forecast.

    A window with origin ``t`` sees the rows ``t + past`` and forecasts the rows ``t + future``: without ``every`` and
    ``first_lead`` the ``look_back`` rows up to ``t`` and the ``horizon`` rows after it. Its
    targets lie wholly in its split; what it sees may reach back into the split before, as it would in use.
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
    unit: str
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
        return (self.seen(origins) * self.scale + self.mean).astype(np.float32)

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
            "spacing": None if self.step is None else str(self.step),
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
        split: three fractions or three row counts, ``train,validation,test``, in time order.
        max_gap: gaps of at most so many steps are filled; windows that touch a longer one are dropped.
        every: rows from one step of a window to the next (hourly windows from 10-minute data: 6); windows still begin
            at every row.
        first_lead: the first step ahead that is forecast.

    Raises:
        UserError: irregular, unsorted or duplicate times; a bad split; or too few rows for one window per split.
    """
    frame, time, step = to_grid(table)
    missing = frame.isna().to_numpy()
    filled = frame.ffill(limit=max_gap) if max_gap else frame
    inputs = filled.to_numpy(np.float64)
    names = list(frame.columns)
    if calendar and time is not None:
        extra = calendar_columns(time, step)
        inputs, names = np.hstack([inputs, extra.to_numpy()]), names + list(extra.columns)
    sees, ahead = every * (look_back - 1) + 1, every * (first_lead + horizon - 1)
    bounds = split_bounds(split, len(inputs), sees, ahead)
    mean, scale = _scaling(inputs[: bounds["train"][1]], names)
    columns = [names.index(name) for name in table.target]
    truth = np.where(missing[:, [frame.columns.get_loc(t) for t in table.target]], np.nan, inputs[:, columns])
    origins, dropped = _origins(inputs, truth, bounds, sees, ahead, every * first_lead)
    for name, rows in origins.items():
        if len(rows) == 0:
            raise UserError(
                f"every {name} window of {table.name} touches a missing value or a gap of more than {max_gap} steps; "
                "raise --max-gap, or leave the sparse column out with --inputs"
            )
    return Windows(
        name=table.name,
        look_back=look_back,
        horizon=horizon,
        inputs=names,
        targets=table.target,
        values=np.nan_to_num((inputs - mean) / scale).astype(np.float32),
        truth=((truth - mean[columns]) / scale[columns]).astype(np.float32),
        mean=mean,
        scale=scale,
        origins=origins,
        bounds=bounds,
        time=time,
        step=step,
        unit=table.unit or "units of the column",
        sha256=hashlib.sha256(np.ascontiguousarray(frame.to_numpy(np.float64)).tobytes()).hexdigest(),
        every=every,
        first_lead=first_lead,
        facts={
            "missing_values": int(missing.sum()),
            "grid_rows_added": len(frame) - len(table.frame),
            "windows_dropped": dropped,
            "max_gap": max_gap,
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
    gaps = np.diff(time.asi8)
    if (gaps == 0).any():
        raise UserError(f"{table.name}: the time {time[int(np.argmax(gaps == 0))]} occurs twice; keep one row of it")
    if (gaps < 0).any():
        raise UserError(
            f"{table.name}: time runs backwards after {time[int(np.argmax(gaps < 0))]}; sort the rows by time"
        )
    steps, counts = np.unique(gaps, return_counts=True)
    common = int(steps[np.argmax(counts)])
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


def calendar_columns(time: pd.DatetimeIndex, step: pd.Timedelta | None) -> pd.DataFrame:
    """Hour of the day (for steps below a day) and day of the year, as sine and cosine."""
    columns = {}
    if step is not None and step < DAY:
        angle = 2 * np.pi * ((time - time.normalize()) / DAY)
        columns |= {"hour_sin": np.sin(angle), "hour_cos": np.cos(angle)}
    angle = 2 * np.pi * (time.dayofyear - 1 + (time - time.normalize()) / DAY) / (YEAR / DAY)
    columns |= {"year_sin": np.sin(angle), "year_cos": np.cos(angle)}
    return pd.DataFrame({name: np.asarray(values, float) for name, values in columns.items()}, index=time)


def split_bounds(split: str, rows: int, sees: int, ahead: int) -> dict[str, tuple[int, int]]:
    """Rows of each split, in time order, from fractions or counts; rows after the last split are left out.

    Args:
        sees, ahead: rows that one window spans up to its origin, and after it.
    """
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts, default=0) <= 0 or not np.isfinite(parts).all():
        raise UserError(
            f"--split {split!r} is not three fractions or row counts, such as 0.6,0.2,0.2 or 8640,2880,2880"
        )
    if max(parts) < 1:
        if sum(parts) > 1 + 1e-9:
            raise UserError(f"--split {split!r} adds up to more than 1")
        counts = [round(rows * float(share)) for share in np.cumsum(parts)]
    else:
        counts = [int(n) for n in np.cumsum(parts)]
    if counts[-1] > rows:
        raise UserError(f"--split {split!r} asks for {counts[-1]} rows, but the series has {rows}")
    starts = [0, *counts[:2]]
    bounds = {name: (a, b) for name, a, b in zip(SPLITS, starts, counts, strict=True)}
    for name, (first, end) in bounds.items():
        needed = sees + ahead if name == "train" else ahead
        if end - first < needed:
            share = (end - first) / max(rows, 1)
            total = int(np.ceil(needed / share)) if share else sees + 3 * ahead
            raise UserError(
                f"the {name} split has {end - first} rows; one window needs {needed} (it sees {sees} and "
                f"looks {ahead} ahead): give a series of at least {total} rows, or shorten --look-back and --horizon"
            )
    return bounds


def _scaling(train: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.isfinite(train).sum(axis=0)
    if (counts == 0).any():
        raise UserError(
            f"column {names[int(np.argmin(counts))]!r} has no value in the training rows; leave it out with --inputs"
        )
    mean, scale = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    return mean, np.where(scale > 1e-12 * np.maximum(np.abs(mean), 1), scale, 1.0)  # a constant column stays constant


def _origins(inputs, truth, bounds, sees: int, ahead: int, first: int) -> tuple[dict[str, np.ndarray], int]:
    """Origins whose inputs are all there and whose targets are all measured, per split; and how many were not."""
    absent_inputs = np.concatenate([[0], np.cumsum(np.isnan(inputs).any(axis=1))])
    absent_truth = np.concatenate([[0], np.cumsum(np.isnan(truth).any(axis=1))])
    origins, dropped = {}, 0
    for name, (start, end) in bounds.items():
        rows = np.arange(max(start - first, sees - 1), end - ahead)
        whole = absent_inputs[rows + 1] == absent_inputs[rows + 1 - sees]
        whole &= absent_truth[rows + 1 + ahead] == absent_truth[rows + first]
        origins[name] = rows[whole]
        dropped += int((~whole).sum())
    return origins, dropped
