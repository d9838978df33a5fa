"""Many series in one file: the long format (``unique_id, ds, y``) or a row per series, on their grid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.tseries.offsets import BaseOffset

from keras_a2.errors import UserError
from keras_a2.recurrent import sources, stamps, times

if TYPE_CHECKING:
    from keras_a2.recurrent.splits import Options

SERIES, TIME, TARGET = "unique_id", "ds", "y"  # the ecosystem's names of the long format's columns
MAX_GAPS = 20  # times as many steps as rows: mostly gaps


@dataclass
class Rows:
    """The series of a file on their grid, one after the other.

    ``values`` ``(rows,)`` are in the target's unit, NaN where missing; series ``i`` has the rows ``ends[i]`` up to
    ``ends[i + 1]``, and its last one the time ``lasts[i]`` (None: rows count as even steps), which is ``behind[i]``
    steps before the latest time of all (None: rows or steps are counted, in each series from a start of its own).
    """

    names: list[str]
    ends: np.ndarray  # (series + 1,)
    values: np.ndarray  # (rows,) float64
    lasts: pd.DatetimeIndex | np.ndarray | None
    step: pd.Timedelta | BaseOffset | int | None  # an offset where steps are of no constant length, such as months
    target: str
    notes: list[str] = field(default_factory=list)
    behind: np.ndarray | None = None  # (series,)

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each series ``(series,)``."""
        return np.diff(self.ends)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each series, and one past its last."""
        return list(itertools.pairwise(self.ends.tolist()))

    def history(self, i: int, end: int | None = None) -> np.ndarray:
        """Series ``i`` from its first measured row to before row ``end``, gaps filled from the past; may be empty."""
        values = self.values[self.ends[i] : self.ends[i + 1] if end is None else end]
        measured = np.flatnonzero(np.isfinite(values))
        if len(measured) in (0, len(values)):
            return values[: len(measured)]
        return pd.Series(values[measured[0] :]).ffill().to_numpy()

    def times_after(self, i: int, leads: np.ndarray) -> pd.DatetimeIndex | np.ndarray:
        """The times ``leads`` steps after the last row of series ``i``; row numbers if there are no times."""
        if self.lasts is None or self.step is None:
            return int(self.lengths[i]) + leads
        if isinstance(self.step, BaseOffset):
            return pd.DatetimeIndex([self.lasts[i] + int(n) * self.step for n in leads])
        return self.lasts[i] + leads * self.step

    @property
    def length(self) -> pd.Timedelta | None:
        """The mean length of a step; None without times."""
        return times.length(self.step) if isinstance(self.step, BaseOffset) else self._even

    @property
    def spacing(self) -> str:
        """A step in words, such as ``1 month``; empty without times."""
        if isinstance(self.step, BaseOffset):
            return times.spacing(self.step)
        return "" if self._even is None else times.spacing(times.even(self._even))

    @property
    def _even(self) -> pd.Timedelta | None:
        return self.step if isinstance(self.step, pd.Timedelta) else None


def holds_many(options: Options) -> bool:
    """Whether the options of a series ask for many: ``--series``, ``--wide``, or a file with the column unique_id."""
    path = Path(options.data)
    if options.series or options.wide:
        return True
    if not path.is_file():
        return False
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet

            return SERIES in pyarrow.parquet.read_schema(path).names
        line = pd.read_csv(path, sep="\x1f", header=None, nrows=1, quoting=3, dtype=str).iat[0, 0]
    except Exception:  # of each decompressor its own: what is wrong with the file is said where it is read
        return False
    return any(SERIES in [part.strip(" \"'") for part in str(line).split(mark)] for mark in sources.SEPARATORS)


def read(
    path: Path, series: str | None, time: str | None, target: str | None, wide: bool, freq: str | None = None
) -> Rows:
    """The series of a CSV or Parquet file.

    Args:
        series: the column that names the series; None: ``unique_id``, or the first column of a wide file.
        time: the column of times; None: ``ds`` or the first that holds times; ``none``: rows count as even steps.
        target: the column to forecast; None: ``y``, or the only one that is left.
        wide: a row per series, its values in the columns from left to right, short ones followed by empty cells.
        freq: the spacing by pandas' name; None: inferred.

    Raises:
        UserError: unreadable, a missing column, no numbers, or a series whose times are not in order and even; it is
            named.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}; --data takes a .csv or .parquet file with many series")
    frame, notes = sources.read(path)
    return from_frame(frame, str(path), series, time, target, wide, notes, freq)


def from_frame(
    frame: pd.DataFrame,
    source: str,
    series: str | None = None,
    time: str | None = None,
    target: str | None = None,
    wide: bool = False,
    notes: list[str] | None = None,
    freq: str | None = None,
) -> Rows:
    """``read`` of a table; ``source`` names it in errors."""
    if frame.empty:
        raise UserError(f"{source} has no rows; give many series with a header")
    frame = frame.reset_index(drop=True)
    sources.strip_names(frame, source)
    column = series or (str(frame.columns[0]) if wide else SERIES)
    if column not in frame.columns:
        raise UserError(
            f"{source} has no column {column!r} to tell the series apart; it has {', '.join(frame.columns[:12])}: "
            "name it with --series"
        )
    labels = frame.pop(column)
    if labels.isna().any():
        raise UserError(f"{source}: line {int(np.argmax(labels.isna())) + 2} has no {column}; name its series")
    if wide:
        return _from_wide(frame, [str(name) for name in pd.unique(labels)], source, notes or [])
    moments = _times(frame, source, time)
    codes, names = pd.factorize(labels[frame.index])  # without the rows that a footer had
    name = target or (TARGET if TARGET in frame.columns else None)
    if name is None and len(frame.columns) == 1:
        name = str(frame.columns[0])
    if name not in frame.columns:
        raise UserError(
            f"{source} has no column {name or TARGET!r} to forecast; name one of {', '.join(frame.columns[:12])} "
            "with --target"
        )
    sources.check_numeric(frame[[name]], source)
    values = frame[name].to_numpy(np.float64, na_value=np.nan)
    if np.any(np.diff(codes) < 0):
        order = np.argsort(codes, kind="stable")
        codes, values, moments = codes[order], values[order], None if moments is None else moments[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    rows = Rows([str(n) for n in names], ends, values, None, None, str(name), notes or [])
    return rows if moments is None else _on_grid(rows, codes, moments, source, freq)


def _times(frame: pd.DataFrame, source: str, time: str | None) -> pd.DatetimeIndex | np.ndarray | None:
    """Take the column of times out of the table; whole numbers that are no dates count steps."""
    column = time if time != times.NO_TIMES else None
    if column is None and TIME in frame.columns:
        column = TIME
    steps = column in frame.columns and pd.api.types.is_integer_dtype(frame[column])
    if steps and not stamps.are_times(str(column), frame[column]):
        counted = frame.pop(column).to_numpy(np.int64)
        return None if time == times.NO_TIMES else counted
    return stamps.take(frame, source, time)[0]


def _on_grid(
    rows: Rows, codes: np.ndarray, moments: pd.DatetimeIndex | np.ndarray, source: str, freq: str | None
) -> Rows:
    """The series with a row for each step between their first and last times, NaN where the file has none."""
    ticks, offset = _ticks(moments, source, freq)
    first = rows.ends[:-1]
    within = np.ones(len(ticks), bool)
    within[first] = False
    gaps = np.diff(ticks, prepend=ticks[0])[within]
    later = np.flatnonzero(within)
    for wrong, fault, remedy in (
        (gaps < 0, "its time runs backwards", "sort its rows by time"),
        (gaps == 0, "a time occurs twice", "give every time one row"),
    ):
        if wrong.any():
            row = later[int(np.argmax(wrong))]
            raise UserError(f"{source}: series {rows.names[codes[row]]!r}: {fault} at {moments[row]}; {remedy}")
    if len(gaps) == 0:
        raise UserError(f"{source}: every series has a single row; a series needs more")
    steps, counts = np.unique(gaps, return_counts=True)
    step = int(steps[np.argmax(counts)])
    uneven = gaps % step != 0
    if uneven.any():
        row = later[int(np.argmax(uneven))]
        raise UserError(
            f"{source}: series {rows.names[codes[row]]!r} has no regular spacing at {moments[row]}; resample it to "
            f"even steps, or {times.ROWS_INSTEAD}"
        )
    position = (ticks - ticks[first][codes]) // step
    lengths = position[rows.ends[1:] - 1] + 1
    if lengths.sum() > MAX_GAPS * len(ticks):
        worst = int(np.argmax(lengths / rows.lengths))
        raise UserError(
            f"{source}: series {rows.names[worst]!r} has {rows.lengths[worst]} rows over {lengths[worst]} steps of "
            "time: mostly gaps; resample to longer steps"
        )
    ends = np.concatenate([[0], np.cumsum(lengths)])
    values = np.full(ends[-1], np.nan)
    values[ends[:-1][codes] + position] = rows.values
    spacing: Any = step if offset is None else step * offset
    if isinstance(moments, pd.DatetimeIndex) and offset is None:
        spacing = pd.Timedelta(step, unit=moments.unit)
    last = ticks[rows.ends[1:] - 1]
    behind = (last.max() - last) // step if isinstance(moments, pd.DatetimeIndex) else None
    return Rows(rows.names, ends, values, moments[rows.ends[1:] - 1], spacing, rows.target, rows.notes, behind)


def _ticks(
    moments: pd.DatetimeIndex | np.ndarray, source: str, freq: str | None
) -> tuple[np.ndarray, BaseOffset | None]:
    """Times as whole numbers; and what one of them counts where steps are of no constant length, such as months.

    Of business days those on which no series has a row are holidays: see ``times.to_grid``.

    Raises:
        UserError: the times of all series do not keep to ``freq``.
    """
    if not isinstance(moments, pd.DatetimeIndex):
        return moments, None
    every = moments.unique().sort_values()
    offset = times.named(freq, every) if freq else times.frequency(every) if len(every) > 1 else None
    if offset is None or not times.unit(offset):
        return moments.asi8, None
    _, grid, _ = times.to_grid(pd.DataFrame(index=range(len(every))), every, source, offset.freqstr)
    assert grid is not None
    return grid.get_indexer(moments), offset


def _from_wide(frame: pd.DataFrame, names: list[str], source: str, notes: list[str]) -> Rows:
    if len(names) < len(frame):
        raise UserError(f"{source}: a series' name occurs twice; --wide takes one row per series")
    sources.check_numeric(frame, source)
    table = frame.to_numpy(np.float64, na_value=np.nan)
    present = ~np.isnan(table)
    if not present.any(axis=1).all():
        raise UserError(
            f"{source}: series {names[int(np.argmin(present.any(axis=1)))]!r} has no values; remove its row"
        )
    first, last = np.argmax(present, axis=1), table.shape[1] - np.argmax(present[:, ::-1], axis=1)
    columns = np.arange(table.shape[1])
    values = table[(columns >= first[:, np.newaxis]) & (columns < last[:, np.newaxis])]
    return Rows(names, np.concatenate([[0], np.cumsum(last - first)]), values, None, None, TARGET, notes)
