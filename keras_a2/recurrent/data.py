"""A table to windows: regular grid, gaps, calendar, splits, scaling.

A window's targets lie wholly in its split; what it sees may reach back into the split before, as it would in use. In
the split of *Deep Learning with Python* all that a window sees lies in its split, and its target may lie beyond the
end: the next split's first targets come later still, so no target is in two of them.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd
from pandas.tseries.offsets import BaseOffset

from keras_a2.errors import UserError
from keras_a2.recurrent import sources, times
from keras_a2.recurrent.sources import Table
from keras_a2.recurrent.splits import BOOK, SPLITS, Cut, Options, split_bounds
from keras_a2.recurrent.times import calendar_column, calendar_names

Series = TypeVar("Series", pd.Series, pd.DataFrame)
LEAST_FOLD, LEAST_BLOCK = 12, 4  # training windows of the first fold, validation windows of each
SHORT_SERIES = 4096  # training rows
TINY = 1e-150  # a standard deviation below it loses its digits when it is squared
FARTHEST = 1e9  # standard deviations of the training rows: squares of more overflow float32


@dataclass
class Windows(Cut):
    """A series ready for training: one array of rows, and the rows at which each split's windows begin to forecast.

    A window with origin ``t`` sees the rows ``t + past`` and forecasts the rows ``t + future``: without ``every`` and
    ``first_lead`` the ``look_back`` rows up to ``t`` and the ``horizon`` rows after it.

    Raises:
        UserError: nothing to learn from, a value that can only be an error, or a split without one whole window.
    """

    name: str
    look_back: int
    horizon: int
    inputs: list[str]
    targets: list[str]
    rows: np.ndarray  # (rows, inputs) in their own units, NaN where missing
    bounds: dict[str, tuple[int, int]]  # rows of each split: first, one past the last
    time: pd.DatetimeIndex | None
    freq: BaseOffset | None  # from one row to the next
    unit: str  # of the targets; empty where it is not known
    sha256: str
    max_gap: int
    every: int = 1  # rows from one step of a window to the next
    first_lead: int = 1
    known: list[str] = field(default_factory=list)  # inputs known in advance
    holidays: str | None = None  # the country whose holidays are among them
    as_the_book: bool = False  # windows are cut as in *Deep Learning with Python*
    facts: dict = field(default_factory=dict)
    values: np.ndarray = field(init=False)  # (rows, inputs) float32, standardised, gaps filled from the past
    truth: np.ndarray = field(init=False)  # (rows, targets) float32, standardised, NaN where missing
    mean: np.ndarray = field(init=False)  # (inputs,) of the training rows
    scale: np.ndarray = field(init=False)  # (inputs,)
    origins: dict[str, np.ndarray] = field(init=False)
    whole: np.ndarray = field(init=False)  # origins of all whole windows, also of those that lie in two splits

    def __post_init__(self) -> None:
        """Fill gaps and standardise, column by column, and find the windows that are whole."""
        count, end, ahead = len(self.rows), self.bounds["train"][1], self.ahead
        self.values, self.truth = (np.empty((count, len(n)), np.float32) for n in (self.inputs, self.targets))
        self.mean, self.scale = np.empty(len(self.inputs)), np.empty(len(self.inputs))
        absent = np.zeros(count, bool)
        for k, name in enumerate(self.inputs):
            raw = self.rows[:, k]
            filled = fill(pd.Series(raw), self.max_gap).to_numpy()
            own = self.inputs.index(ahead[name][0]) if name in ahead else k  # of training rows, not of those ahead
            self.mean[k], self.scale[k] = (
                (self.mean[own], self.scale[own]) if own != k else _scaling(filled[:end], name)
            )
            standardised = (filled - self.mean[k]) / self.scale[k]
            _check_range(standardised, raw, name, self.time)
            self.values[:, k] = standardised
            absent |= np.isnan(filled)
            if name in self.targets:
                self.truth[:, self.targets.index(name)] = np.where(np.isnan(raw), np.nan, self.values[:, k])
        np.nan_to_num(self.values, copy=False)
        if not any(np.nanstd(self.truth[:end], axis=0)):
            raise UserError(
                f"{self.name}: {', '.join(self.targets[:8])} never changes in the training rows, so there is nothing "
                "to learn; choose another --target or --split"
            )
        unmeasured, dropped = np.asarray(np.isnan(self.truth).any(axis=1)), 0
        self.origins = {}
        for split, (first, last) in self.bounds.items():
            candidates = self._candidates(first, last)
            self.origins[split] = self._whole(candidates, absent, unmeasured)
            dropped += len(candidates) - len(self.origins[split])
            if first < last and len(self.origins[split]) == 0:
                raise UserError(f"every {split} window of {self.name} touches a missing value; {self._remedy()}")
        self.whole = self._whole(self._candidates(0, self.bounds["test"][1]), absent, unmeasured)
        self.facts = {**self.facts, "windows_dropped": dropped, "max_gap": self.max_gap}

    def _candidates(self, first: int, end: int) -> np.ndarray:
        """The rows at which the windows of a split may begin to forecast ``(n,)``, missing values aside."""
        if self.as_the_book:
            return np.arange(first - self.past[0], end)
        return np.arange(max(first - self.future[0], -self.past[0]), end - self.future[-1])

    def _whole(self, origins: np.ndarray, absent: np.ndarray, unmeasured: np.ndarray) -> np.ndarray:
        """Those of the origins whose inputs are all there and whose targets are all measured, from first row to last.

        Args:
            absent, unmeasured: whether an input is missing and not filled in a row, or a target was not measured.
        """
        absent_before, unmeasured_before = (np.concatenate([[0], np.cumsum(flags)]) for flags in (absent, unmeasured))
        whole = absent_before[origins + 1] == absent_before[origins + self.past[0]]
        first, last = self.future[0], self.future[-1]
        return origins[whole & (unmeasured_before[origins + 1 + last] == unmeasured_before[origins + first])]

    def _remedy(self) -> str:
        """What helps where no window is whole."""
        columns = [name for name in self.inputs if name not in times.CALENDAR and name not in self.ahead]
        missing = pd.DataFrame(np.isnan(self.rows), columns=self.inputs)[columns]
        name, count = missing.sum().idxmax(), int(missing.sum().max())
        no_row = missing.all(axis=1)
        if self.time is not None and no_row.sum() > count / 2:
            absent = self.time[no_row]
            days = absent.day_name().unique()
            at = f"on {' and '.join(f'{day}s' for day in days)}" if len(days) < 3 else f"such as {absent[0]}"
            return f"the file has no row for {len(absent)} of {len(missing)} steps, {at}: {times.ROWS_INSTEAD}"
        if name in self.targets:
            return (
                f"the target {name!r} has no value in {count} of {len(missing)} rows: fill it, or shorten --look-back "
                "and --horizon"
            )
        gap = int(times.run_lengths(missing[name]).max())
        return f"column {name!r} has {gap} in a row: raise --max-gap to {gap}, or leave the column out with --inputs"

    @property
    def ahead(self) -> dict[str, tuple[str, int]]:
        """Inputs that hold a known column some rows ahead: their name, the column's, and the rows."""
        return columns_ahead(self.known, self.future, self.every * self.look_back)

    @property
    def shown(self) -> int:
        """The last steps of a window, at which such an input shows rows that are forecast."""
        return min(self.look_back, self.horizon)

    @property
    def features(self) -> int:
        """The features of a step of a window, as ``model.relative`` makes them."""
        return 2 * (len(self.inputs) - len(self.ahead)) + self.shown * len(self.ahead)

    @property
    def given(self) -> np.ndarray:
        """Which inputs are known in advance, the calendar among them ``(inputs,)``."""
        given = {*times.CALENDAR, *self.known, *self.ahead}
        return np.array([name in given for name in self.inputs])

    @property
    def target_columns(self) -> np.ndarray:
        """Where the targets stand among the inputs."""
        return np.array([self.inputs.index(name) for name in self.targets])

    @property
    def target_scale(self) -> np.ndarray:
        """Standard deviation of each target in the training rows ``(targets,)``, in its unit."""
        return self.scale[self.target_columns]

    @property
    def target_mean(self) -> np.ndarray:
        """Mean of each target in the training rows ``(targets,)``, in its unit."""
        return self.mean[self.target_columns]

    def raw(self, origins: np.ndarray) -> np.ndarray:
        """Inputs in their own units ``(n, look_back, inputs)``: what the exported model takes."""
        return self.seen(origins) * self.scale + self.mean

    def to_unit(self, standardised: np.ndarray) -> np.ndarray:
        """Targets or forecasts ``(..., targets)`` in their own units."""
        return standardised * self.target_scale + self.target_mean

    @property
    def step(self) -> pd.Timedelta | None:
        """The mean length of a step."""
        return None if self.freq is None else times.length(self.freq)

    def spacing(self, rows: int = 1) -> str:
        """So many rows in words, such as ``15 minutes``; empty without times."""
        return "" if self.freq is None else times.spacing(self.freq, rows)

    def recut(self, train: int, validation: int, test: int) -> Windows:
        """The same series in other splits; everything fitted is fitted anew, to the new training rows.

        Args:
            train, validation, test: the row after the last of each split, from row 0 on; a split may be empty.

        Raises:
            UserError: a split that is not empty holds no whole window.
        """
        rows = itertools.pairwise([0, train, validation, test])
        return dataclasses.replace(self, bounds=dict(zip(SPLITS, rows, strict=True)))

    def folds(self, count: int) -> list[Windows]:
        """Rolling origins: as many training splits, each longer than the one before, and the windows that follow each.

        The last is this series. The others are of the rows before its test split, standardised by their own training
        rows, and validate the windows that begin where theirs end and before the next one's begin.

        Raises:
            UserError: too few training rows.
        """
        if not self.has_folds(count):
            raise UserError(f"--folds {count} needs a longer series, or a shorter --look-back and --horizon")
        train, end = self.bounds["validation"]
        block, folds = self._block(count), [self]
        for edge in range(train - block, train - count * block, -block):
            fold = self.recut(edge, end, end)
            validation = fold.origins["validation"]
            fold.origins["validation"] = validation[validation < edge + block - self.future[0]]
            folds.insert(0, fold)
        return folds

    def has_folds(self, count: int) -> bool:
        """Whether there are training rows for this number of ``folds``."""
        return count == 1 or (self._block(count) >= LEAST_BLOCK and not self.as_the_book)

    def _block(self, count: int) -> int:
        """Rows from the end of one fold's training split to the next one's."""
        train, end = self.bounds["validation"]
        least = int(self.future[-1] - self.past[0]) + LEAST_FOLD
        return min(end - train, (train - least) // max(count - 1, 1))

    def on_all_rows(self) -> Windows:
        """The same with every whole window in the training split, scaled as before."""
        windows = copy.copy(self)
        windows.origins = self.origins | {"train": self.whole}
        return windows

    def backtest(self, count: int) -> list[Windows]:
        """So many blocks of the test split, each with all rows before it to learn from.

        As many rows before a block as the validation split has are its validation split.

        Raises:
            UserError: a block is too short for one window.
        """
        (first, end), (test, last) = self.bounds["validation"], self.bounds["test"]
        if count and (last - test) // count < self.future[-1]:
            raise UserError(
                f"--backtest {count}: a block would have {(last - test) // count} rows, and a forecast reaches "
                f"{self.future[-1]} ahead: take fewer blocks, or shorten --horizon"
            )
        starts = [test + (last - test) * k // count for k in range(count)]
        ends = [*starts[1:], last]
        return [self.recut(start - (end - first), start, stop) for start, stop in zip(starts, ends, strict=False)]

    def summary(self) -> dict:
        """What a run records of its data."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "target": self.targets,
            "unit": self.unit,
            "rows": len(self.rows),
            **{split: len(self.origins[split]) for split in SPLITS},
            "inputs": self.inputs,
            "spacing": self.spacing() or None,
            "freq": None if self.freq is None else self.freq.freqstr,
            **self.facts,
        }


def load(options: Options) -> Windows:
    """The windows that the options of a series ask for: ``sources.find``, then ``prepare``.

    Raises:
        UserError: as those.
    """
    as_read = options.preset == "chollet"
    inputs = options.inputs
    if inputs:
        inputs = ",".join([inputs, *(name for name in options.known_names if name not in times.CALENDAR)])
    return prepare(sources.find(options.data, options.target, options.time, inputs, as_read=as_read), options)


def prepare(table: Table, options: Options) -> Windows:
    """Put the table on its grid, add the calendar, fill short gaps from the past, scale by train, and cut windows.

    Raises:
        UserError: irregular, unsorted or duplicate times; a bad split; a column that is missing or cannot be known; or
            too few rows for one window per split.
    """
    look_back, horizon, every, known = options.look_back, options.horizon, options.every, options.known_names
    frame, time, offset = times.to_grid(table.frame, table.time, table.name, options.freq)
    missing_values = int(frame.isna().sum().sum())
    bounds = split_bounds(
        options.split, len(frame), every * (look_back - 1) + 1, every * (options.first_lead + horizon - 1)
    )
    if options.calendar and time is not None:
        # A short series learns a cycle that it has not seen twice as a trend, which ends when the rows do.
        shown = None if bounds["train"][1] >= SHORT_SERIES else bounds["train"][1]
        frame = frame.assign(**{name: calendar_column(name, time) for name in calendar_names(offset, shown)})
    notes = list(table.notes)
    if time is not None and offset is not None and offset.rule_code == "B":
        holidays_taken = len(pd.bdate_range(time[0], time[-1])) - len(time)
        notes += [f"{holidays_taken} weekdays without a row were taken as holidays."] if holidays_taken else []
    if options.holidays:
        frame, known = times.with_holidays(frame, time, offset, options.holidays), [*known, times.HOLIDAYS]
    unknown = [name for name in known if name not in frame or name in table.target]
    if unknown:
        raise UserError(
            f"{table.name}: --known {unknown[0]} is {'a target' if unknown[0] in frame else 'no column'}; known in "
            f"advance can be {', '.join(str(name) for name in frame.columns if name not in table.target)}"
        )
    future = every * (options.first_lead + np.arange(horizon))
    frame = with_ahead(frame, columns_ahead(known, future, every * look_back))
    columns = frame.to_numpy(np.float64).tobytes("F")  # one after the other
    return Windows(
        name=table.name,
        look_back=look_back,
        horizon=horizon,
        inputs=list(frame.columns),
        targets=table.target,
        rows=frame.to_numpy(np.float64),
        bounds=bounds,
        time=time,
        freq=offset,
        unit=table.unit,
        sha256=hashlib.sha256(columns).hexdigest(),
        max_gap=options.max_gap,
        every=every,
        first_lead=options.first_lead,
        known=known,
        holidays=options.holidays,
        as_the_book=options.split == BOOK,
        facts={
            "missing_values": missing_values,
            "grid_rows_added": len(frame) - len(table.frame),
            "time_column": table.time_column,
            "citation": table.citation,
            "notes": notes,
        },
    )


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


def columns_ahead(known: Sequence[str], future: np.ndarray, span: int) -> dict[str, tuple[str, int]]:
    """Inputs that hold known columns some rows ahead: their name to the column and the rows.

    At the last step that a window sees they hold the value at the last row that is forecast, at the step before it the
    row before, and so on: a window's last steps show every row ahead once. A horizon longer than the look-back needs
    several of each.

    Args:
        future: rows that a window forecasts, relative to its origin.
        span: rows from a window's first step to the step after its last.
    """
    return {f"{name} +{n}": (name, n) for name in known for n in range(future[-1], future[0] - 1, -span)}


def with_ahead(frame: pd.DataFrame, columns: dict[str, tuple[str, int]]) -> pd.DataFrame:
    """The table with columns that hold others some rows ahead."""
    return frame.assign(**{new: frame[name].shift(-n) for new, (name, n) in columns.items()})


def fill(values: Series, max_gap: int) -> Series:
    """Gaps of at most ``max_gap`` rows filled with the last value before them."""
    return values.ffill(limit=max_gap) if max_gap else values
