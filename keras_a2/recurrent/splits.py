"""The options of a series, those of a protocol that was published, and the rows of each split and window."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

import numpy as np

from keras_a2.errors import UserError
from keras_a2.settings import Count, CountOrZero

SPLITS = ("train", "validation", "test")
BOOK = "chollet"  # cut as *Deep Learning with Python* does
# The temperature forecast of Deep Learning with Python (Chollet, 2nd ed., section 10.2): hourly steps, five days seen,
# one day ahead. The book counts rows, not times, and cuts them in its own way.
CHOLLET: dict[str, Any] = {
    "look_back": 120,
    "horizon": 1,
    "first_lead": 24,
    "every": 6,
    "split": BOOK,
    "calendar": False,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The series, and the windows cut from it."""

    data: str = "nyc_weather"
    """nyc_weather, jena, or a .csv or .parquet file with one row per time step."""
    target: str | None = None
    """COLUMN[,COLUMN...] to forecast, or all; needed for a file with several columns."""
    horizon: Count = 24
    """Number of steps to forecast, all at once."""
    time: str | None = None
    """Column with the times; by default detected. none: leave the times out and count rows."""
    freq: str | None = None
    """Spacing of the rows by pandas' name (15min, h, D, B, W, MS, ME, QS, YS); by default inferred from the times."""
    inputs: str | None = None
    """COLUMN[,COLUMN...] to learn from in addition to the targets; by default every column."""
    known: str | None = None
    """COLUMN[,COLUMN...] known in advance, such as price,promotion: also seen at the steps that are forecast."""
    holidays: str | None = None
    """Country (US, DE, US-CA) whose public holidays are an input known in advance."""
    series: str | None = None
    """In a file with many series, the column that names them; by default unique_id. One network learns from all."""
    wide: bool = False
    """The file has a row per series: a name, then its values from left to right."""
    origins: Literal["splits", "last"] = "splits"
    """Test and validation rows. splits: by --split; last: the last rows of each series, as in the M4 competition."""
    preset: Literal["none", "chollet"] = "none"
    """chollet: rows, windows and splits of Deep Learning with Python, for --data jena; replaces --look-back etc."""
    look_back: Count = 72
    """Number of past steps that the forecaster sees."""
    first_lead: Count = 1
    """The first step ahead that is forecast."""
    every: Count = 1
    """Rows from one step of a window to the next (6: hourly windows from 10-minute rows)."""
    split: str = "0.6,0.2,0.2"
    """Train, validation, test in time order: three fractions or, for a single series, three row counts."""
    max_gap: CountOrZero = 12
    """Fill gaps of at most N steps from the past (0: none); windows that touch longer gaps are dropped."""
    calendar: bool = True
    """Add the calendar's cycles that fit the spacing: hour, day of the week, day of the year, month."""
    season: Count | None = None
    """Steps per season of the seasonal naive; by default from the autocorrelation of the training rows."""

    @property
    def known_names(self) -> list[str]:
        """The columns of ``known``."""
        return [] if self.known is None else [name.strip() for name in self.known.split(",")]


class Steps:
    """The rows that a window sees and those that are forecast, relative to its origin: the last row that it sees."""

    look_back: int
    horizon: int
    every: int = 1
    first_lead: int = 1

    @property
    def past(self) -> np.ndarray:
        """Rows that a window sees ``(look_back,)``."""
        return self.every * np.arange(1 - self.look_back, 1)

    @property
    def leads(self) -> np.ndarray:
        """Steps ahead that are forecast ``(horizon,)``."""
        return self.first_lead + np.arange(self.horizon)

    @property
    def future(self) -> np.ndarray:
        """Rows that are forecast ``(horizon,)``."""
        return self.every * self.leads


class Cut(Steps):
    """Windows that are cut from an array of rows."""

    values: np.ndarray  # (rows, inputs)
    truth: np.ndarray  # (rows, targets)

    def seen(self, origins: np.ndarray) -> np.ndarray:
        """Standardised inputs of the windows with these origins ``(n, look_back, inputs)``."""
        return self.values[origins[:, np.newaxis] + self.past]

    def actual(self, origins: np.ndarray) -> np.ndarray:
        """Standardised targets ``(n, horizon, targets)``, NaN where missing."""
        return self.truth[origins[:, np.newaxis] + self.future]


def with_preset(options: Options) -> Options:
    """The options of a series with the preset's values for its own, so that a run records what it used.

    Raises:
        UserError: the preset is for another series.
    """
    if options.preset == "chollet" and options.data != "jena":
        raise UserError(
            f"--preset chollet cuts rows as the book does for --data jena, not for {options.data}: leave it out, or "
            "set --every, --look-back, --first-lead and --horizon"
        )
    return dataclasses.replace(options, **CHOLLET) if options.preset == "chollet" else options


def split_bounds(split: str, rows: int, sees: int, ahead: int) -> dict[str, tuple[int, int]]:
    """Rows of each split, first and one past the last, in time order; rows after the last split are left out.

    Args:
        split: three fractions or three row counts, ``train,validation,test``; or ``BOOK``: half, a quarter and the
            rest, as *Deep Learning with Python* (2nd ed., section 10.2) slices them. Its inputs are
            ``raw_data[:-delay]``, with the delay counted from a window's first row to its target: so many rows at the
            end are not offered.
        sees, ahead: rows that one window spans up to its origin, and after it.

    Raises:
        UserError: neither, or too few rows for one window per split.
    """
    parts, book = shares(split), split == BOOK
    fractions = max(parts) < 1
    # The last rows that the book does not offer count as a part of its last split.
    needed = [sees, sees, 2 * sees - 1 + ahead] if book else [sees + ahead, ahead, ahead]

    def lengths(rows: int) -> list[int]:
        if book:
            return [int(0.5 * rows), int(0.25 * rows), rows - int(0.5 * rows) - int(0.25 * rows)]
        if not fractions:
            return [int(part) for part in parts]
        return [int(n) for n in np.diff([round(rows * float(share)) for share in np.cumsum(parts)], prepend=0)]

    def short(rows: int) -> list[tuple[str, int, int]]:
        return [each for each in zip(SPLITS, lengths(rows), needed, strict=True) if each[1] < each[2]]

    ends = list(itertools.accumulate(lengths(rows)))
    if ends[-1] > rows:
        raise UserError(f"--split {split!r} asks for {ends[-1]} rows, but the series has {rows}")
    for name, own, least in short(rows):
        remedy = "give it more of them with --split"
        if fractions:
            total = (
                int(max((n + 2) / part for n, part in zip(needed, parts, strict=True))) + 1
            )  # enough if all is rounded
            while total > 0 and not short(total - 1):
                total -= 1
            remedy = f"give a series of at least {total} rows"
        raise UserError(
            f"the series has {rows} rows and the {name} split {own}; one window needs {least} (it sees {sees} and "
            f"looks {ahead} ahead): {remedy}, or shorten --look-back and --horizon"
        )
    if book:
        ends[-1] -= sees - 1 + ahead
    return dict(zip(SPLITS, itertools.pairwise([0, *ends]), strict=True))


def shares(split: str) -> list[float]:
    """The three fractions or row counts of ``--split``.

    Raises:
        UserError: neither.
    """
    if split == BOOK:
        return [0.5, 0.25, 0.25]
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts) <= 0 or not np.isfinite(parts).all():
        raise UserError(
            f"--split {split!r} is not three fractions or row counts, such as 0.6,0.2,0.2 or 8640,2880,2880"
        )
    if max(parts) < 1 and sum(parts) > 1 + 1e-9:
        raise UserError(f"--split {split!r} adds up to more than 1")
    return parts
