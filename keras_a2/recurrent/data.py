"""A table to windows: regular grid, gaps, calendar, splits, scaling.

A window's targets lie wholly in its split; what it sees may reach back into the split before, as it would in use. In
the split of *Deep Learning with Python* all that a window sees lies in its split, and its target may lie beyond the
end: the next split's first targets come later still, so no target is in two of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent import sources, times
from keras_a2.recurrent.sources import Table
from keras_a2.recurrent.times import calendar_column, calendar_names, spacing

Series = TypeVar("Series", pd.Series, pd.DataFrame)
SPLITS = ("train", "validation", "test")
# The temperature forecast of Deep Learning with Python (Chollet, 2nd ed., section 10.2): hourly steps, five days seen,
# one day ahead. The book counts rows, not times, and cuts them in its own way.
BOOK = "chollet"
CHOLLET = {"look_back": 120, "horizon": 1, "first_lead": 24, "every": 6, "split": BOOK, "calendar": False}
TINY = 1e-150  # a standard deviation below it loses its digits when it is squared
FARTHEST = 1e9  # standard deviations of the training rows: squares of more overflow float32


@dataclass
class Windows:
    """A series ready for training: one array of rows, and the rows at which each split's windows begin to forecast.

    A window with origin ``t`` sees the rows ``t + past`` and forecasts the rows ``t + future``: without ``every`` and
    ``first_lead`` the ``look_back`` rows up to ``t`` and the ``horizon`` rows after it.
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

    def actual(self, origins: np.ndarray) -> np.ndarray:
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


def with_preset(options: Any) -> Any:
    """The options of a series with the preset's values for its own, so that a run records what it used."""
    return dataclasses.replace(options, **CHOLLET) if options.preset == "chollet" else options


def load(options: Any) -> Windows:
    """The windows that the options of a series ask for: ``sources.find``, then ``prepare``.

    Raises:
        UserError: as those.
    """
    as_read = options.preset == "chollet"
    table = sources.find(options.data, options.target, options.time, options.inputs, as_read=as_read)
    names = ("look_back", "horizon", "split", "max_gap", "calendar", "every", "first_lead")
    return prepare(table, **{name: getattr(options, name) for name in names})


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
        split: three fractions or three row counts, ``train,validation,test``, in time order; or ``BOOK``.
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
    bounds = split_bounds(split, len(frame), sees, ahead)
    names = list(frame.columns) + (calendar_names(step) if calendar and time is not None else [])
    values = np.empty((len(frame), len(names)), np.float32)
    truth = np.empty((len(frame), len(table.target)), np.float32)
    mean, scale = np.empty(len(names)), np.empty(len(names))
    absent, missing_values, digest = np.zeros(len(frame), bool), 0, hashlib.sha256()
    for k, name in enumerate(names):  # column by column: the series is never held twice
        raw = frame[name].to_numpy(np.float64) if name in frame else calendar_column(name, time)
        filled = fill(pd.Series(raw), max_gap).to_numpy()
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
    reach = sees, ahead, every * first_lead
    candidates = candidate_origins(split, bounds, *reach)
    unmeasured = np.asarray(np.isnan(truth).any(axis=1))
    origins = {name: whole_origins(absent, unmeasured, rows, *reach) for name, rows in candidates.items()}
    for name, rows in origins.items():
        if len(rows) == 0:
            raise UserError(
                f"every {name} window of {table.name} touches a missing value; "
                + _remedy(frame, table.target, on_file, max_gap, candidates[name], reach)
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
            "windows_dropped": sum(len(candidates[name]) - len(rows) for name, rows in origins.items()),
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


def split_bounds(split: str, rows: int, sees: int, ahead: int) -> dict[str, tuple[int, int]]:
    """Rows of each split, first and one past the last, in time order; rows after the last split are left out.

    Args:
        split: three fractions or three row counts, ``train,validation,test``; or ``BOOK``.
        sees, ahead: rows that one window spans up to its origin, and after it.

    Raises:
        UserError: neither, or too few rows for one window per split.
    """
    if split == BOOK:
        return _book_bounds(rows, sees, ahead)
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts, default=0) <= 0 or not np.isfinite(parts).all():
        raise UserError(
            f"--split {split!r} is not three fractions or row counts, such as 0.6,0.2,0.2 or 8640,2880,2880"
        )
    fractions = max(parts) < 1
    if fractions and sum(parts) > 1 + 1e-9:
        raise UserError(f"--split {split!r} adds up to more than 1")
    ends = _ends(parts, rows) if fractions else [int(n) for n in np.cumsum(parts)]
    if ends[-1] > rows:
        raise UserError(f"--split {split!r} asks for {ends[-1]} rows, but the series has {rows}")
    bounds = dict(zip(SPLITS, zip([0, *ends[:2]], ends, strict=True), strict=True))
    needed = np.array([sees + ahead, ahead, ahead])
    for (name, (first, end)), rows_needed in zip(bounds.items(), needed, strict=True):
        if end - first < rows_needed:
            # Rounding takes at most one row from a split.
            most = int(((needed + 2) / parts).max()) + 1
            total = _least(lambda n: bool((np.diff(_ends(parts, n), prepend=0) >= needed).all()), most)
            remedy = f"give a series of at least {total} rows" if fractions else "give it more of them with --split"
            raise UserError(
                f"the {name} split has {end - first} rows; one window needs {rows_needed} (it sees {sees} and "
                f"looks {ahead} ahead): {remedy}, or shorten --look-back and --horizon"
            )
    return bounds


def _ends(fractions: list[float], rows: int) -> list[int]:
    """The row after the last of each split."""
    return [round(rows * float(share)) for share in np.cumsum(fractions)]


def _least(enough: Callable[[int], bool], most: int) -> int:
    """The number of rows from which on every number is enough; ``most`` and all above it are."""
    while most > 0 and enough(most - 1):
        most -= 1
    return most


def _book_bounds(rows: int, sees: int, ahead: int) -> dict[str, tuple[int, int]]:
    """Half, a quarter and the rest, as *Deep Learning with Python* (2nd ed., section 10.2) slices them.

    There the inputs are ``raw_data[:-delay]``, with the delay counted from a window's first row to its target, so that
    as many rows at the end are not offered.
    """

    def lengths(rows: int) -> list[int]:
        train, validation = int(0.5 * rows), int(0.25 * rows)
        return [train, validation, rows - (sees - 1 + ahead) - train - validation]

    if min(lengths(rows)) < sees:
        total = _least(lambda n: min(lengths(n)) >= sees, 4 * (2 * sees + ahead) + 4)
        raise UserError(
            f"the series has {rows} rows; one window per split of this preset needs at least {total} rows: "
            "give a longer series"
        )
    train, validation, test = (int(end) for end in np.cumsum(lengths(rows)))
    return {"train": (0, train), "validation": (train, validation), "test": (validation, test)}


def candidate_origins(
    split: str, bounds: dict[str, tuple[int, int]], sees: int, ahead: int, first: int
) -> dict[str, np.ndarray]:
    """Per split the rows at which its windows may begin to forecast ``(n,)``, missing values aside.

    Args:
        first: rows from a window's origin to its first target.
    """
    if split == BOOK:
        return {name: np.arange(start + sees - 1, end) for name, (start, end) in bounds.items()}
    return {name: np.arange(max(start - first, sees - 1), end - ahead) for name, (start, end) in bounds.items()}


def whole_origins(
    absent: np.ndarray, unmeasured: np.ndarray, rows: np.ndarray, sees: int, ahead: int, first: int
) -> np.ndarray:
    """Those of the origins ``rows`` whose inputs are all there and whose targets are all measured.

    Args:
        absent, unmeasured: rows ``(rows,)`` where an input is missing and not filled, or a target was not measured.
    """
    absent_before, unmeasured_before = (np.concatenate([[0], np.cumsum(flags)]) for flags in (absent, unmeasured))
    whole = absent_before[rows + 1] == absent_before[rows + 1 - sees]
    return rows[whole & (unmeasured_before[rows + 1 + ahead] == unmeasured_before[rows + first])]


def fill(values: Series, max_gap: int) -> Series:
    """Gaps of at most ``max_gap`` rows filled with the last value before them."""
    return values.ffill(limit=max_gap) if max_gap else values


def _remedy(
    frame: pd.DataFrame,
    targets: list[str],
    on_file: np.ndarray | None,
    max_gap: int,
    candidates: np.ndarray,
    reach: tuple[int, int, int],
) -> str:
    """What helps where no window is whole: to count rows, to fill longer gaps, or to leave a column out.

    Args:
        on_file: which rows of the grid the file has ``(rows,)``; None without times.
        candidates: the split's origins, had nothing been missing.
        reach: ``sees``, ``ahead`` and ``first`` of ``whole_origins``.
    """

    def helps(absent: np.ndarray, unmeasured: np.ndarray) -> bool:
        return len(whole_origins(absent, unmeasured, candidates, *reach)) > 0

    rows, missing = len(frame), frame.isna()
    if on_file is not None and not on_file.all():
        unfilled = fill(pd.Series(np.where(on_file, 1.0, np.nan)), max_gap).isna().to_numpy()
        if not helps(unfilled, ~on_file):
            absent = pd.DatetimeIndex(frame.index[~on_file])
            days = absent.day_name().unique()
            at = f"on {' and '.join(f'{day}s' for day in days)}" if len(days) < 3 else f"such as {absent[0]}"
            return f"the file has no row for {len(absent)} of {rows} steps, {at}: {times.ROWS_INSTEAD}"
    unmeasured = missing[targets].any(axis=1).to_numpy()
    if not helps(np.zeros(rows, bool), unmeasured):
        worst = missing[targets].sum().idxmax()
        return (
            f"the target {worst!r} has no value in {missing[worst].sum()} of {rows} rows: fill it or shorten --horizon"
        )
    gaps = {name: int(missing[name].groupby((~missing[name]).cumsum()).sum().max()) for name in frame.columns}
    worst = max(gaps, key=lambda name: gaps[name])
    if helps(fill(frame, gaps[worst]).isna().any(axis=1).to_numpy(), unmeasured):
        return f"column {worst!r} has {gaps[worst]} in a row: raise --max-gap to {gaps[worst]}" + (
            "" if worst in targets else ", or leave the column out with --inputs"
        )
    return f"column {worst!r} has {gaps[worst]} in a row: fill them or leave the column out with --inputs"
