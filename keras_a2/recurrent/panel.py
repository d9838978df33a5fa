"""Many series in one file: the long format (``unique_id, ds, y``) or a row per series, as one array of rows.

The series lie one after the other; a window's rows are those of one series, so that windows are cut, batched and
forecast as those of a single one.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent import sources, stamps, times

SERIES, TIME, TARGET = "unique_id", "ds", "y"  # the ecosystem's names of the long format's columns
MAX_GAPS = 20  # times as many steps as rows: mostly gaps
LEAST_SPREAD = 0.02  # of the standard deviation
TINY = 1e-12  # relative to a series' level: less is rounding, not a spread


@dataclass
class Rows:
    """The series of a file on their grid, one after the other.

    ``values`` ``(rows,)`` are in the target's unit, NaN where missing; series ``i`` has the rows ``ends[i]`` up to
    ``ends[i + 1]``, and its first one the time ``starts[i]`` (None: rows count as even steps).
    """

    names: list[str]
    ends: np.ndarray  # (series + 1,)
    values: np.ndarray  # (rows,) float64
    starts: pd.DatetimeIndex | np.ndarray | None
    step: pd.Timedelta | int | None
    target: str
    notes: list[str] = field(default_factory=list)

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each series ``(series,)``."""
        return np.diff(self.ends)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each series, and one past its last."""
        return list(itertools.pairwise(self.ends.tolist()))

    def times_after(self, i: int, leads: np.ndarray) -> Any:
        """The times ``leads`` steps after the last row of series ``i``; row numbers if there are no times."""
        steps = int(self.lengths[i]) - 1 + leads
        if self.starts is None or self.step is None:
            return steps + 1
        if isinstance(self.starts, pd.DatetimeIndex):
            return self.starts[i] + steps * pd.Timedelta(self.step)
        return self.starts[i] + steps * int(self.step)  # type: ignore[call-overload]


@dataclass
class Panel:
    """The windows of many series; what a window with origin ``t`` sees and forecasts is as in ``data.Windows``.

    ``values`` and ``truth`` are relative to each series' own mean and spread, and of logarithms where ``positive``.
    """

    name: str
    look_back: int
    horizon: int
    season: int
    rows: Rows
    positive: bool
    own_mean: np.ndarray  # (series,) of the training rows
    own_scale: np.ndarray  # (series,)
    values: np.ndarray  # (rows, 1) float32, gaps filled from the past
    truth: np.ndarray  # (rows, 1) float32, NaN where missing
    candidates: np.ndarray  # rows at which a whole window may begin to forecast
    origins: dict[str, np.ndarray]
    facts: dict

    @property
    def inputs(self) -> list[str]:
        """The target's own past."""
        return [self.rows.target]

    @property
    def targets(self) -> list[str]:
        """The column that is forecast."""
        return [self.rows.target]

    @property
    def features(self) -> int:
        """The features of a step of a window, as ``panel_train.relative`` makes them."""
        return 2

    @property
    def past(self) -> np.ndarray:
        """Rows that a window sees, relative to its origin ``(look_back,)``."""
        return np.arange(1 - self.look_back, 1)

    @property
    def leads(self) -> np.ndarray:
        """Steps ahead that are forecast ``(horizon,)``."""
        return np.arange(1, self.horizon + 1)

    def seen(self, origins: np.ndarray) -> np.ndarray:
        """Standardised windows ``(n, look_back)``."""
        return self.values[origins[:, np.newaxis] + self.past, 0]

    def actual(self, origins: np.ndarray) -> np.ndarray:
        """Standardised targets ``(n, horizon, 1)``."""
        return self.truth[origins[:, np.newaxis] + self.leads]

    def series_of(self, origins: np.ndarray) -> np.ndarray:
        """The number of the series that each row belongs to ``(n,)``."""
        return np.searchsorted(self.rows.ends, origins, side="right") - 1

    def in_unit(self, origins: np.ndarray, standardised: np.ndarray) -> np.ndarray:
        """Forecasts of windows with these origins ``(n, horizon)`` in the target's unit."""
        i = self.series_of(origins)[:, np.newaxis]
        transformed = standardised.astype(np.float64) * self.own_scale[i] + self.own_mean[i]
        return np.exp(transformed) if self.positive else transformed

    def raw(self, origins: np.ndarray) -> np.ndarray:
        """What the exported model takes ``(n, look_back, 1)``, in the target's unit."""
        return self.in_unit(origins, self.seen(origins))[..., np.newaxis]

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """So many training windows by chance ``(count,)``: a series first, then one of its windows.

        Half of the draws are even over the series, half in proportion to their spread. Errors count in units of the
        spread: so both they and errors in percent, where values are positive, have a say.
        """
        origins = self.origins["train"]
        bounds = np.searchsorted(origins, self.rows.ends)
        numbers = np.flatnonzero(np.diff(bounds))
        probability = np.full(len(numbers), 1 / len(numbers))
        if self.positive:
            probability = (probability + self.own_scale[numbers] / self.own_scale[numbers].sum()) / 2
        drawn = generator.choice(numbers, count, p=probability)
        return origins[bounds[drawn] + (generator.random(count) * np.diff(bounds)[drawn]).astype(int)]

    def filled(self, start: int, end: int) -> np.ndarray:
        """The measured rows of a stretch of one series and, within, gaps filled from the past; empty without any."""
        values = self.rows.values[start:end]
        measured = np.flatnonzero(np.isfinite(values))
        if len(measured) in (0, len(values)):
            return values[: len(measured)]
        return pd.Series(values[measured[0] :]).ffill().to_numpy()

    def with_validation(self) -> Panel:
        """The same series with every window before the test rows to train on."""
        last = self.rows.ends[self.series_of(self.candidates) + 1] - 1
        train = self.candidates[self.candidates <= last - 2 * self.horizon]
        return replace(self, origins=self.origins | {"train": train})

    def summary(self) -> dict:
        """What a run records of its data."""
        return {
            "name": self.name,
            "series": len(self.rows.names),
            "rows": len(self.rows.values),
            "target": self.targets,
            "unit": "",
            **{split: len(origins) for split, origins in self.origins.items()},
            **self.facts,
        }


def holds_many(options: Any) -> bool:
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


def read(path: Path, series: str | None, time: str | None, target: str | None, wide: bool) -> Rows:
    """The series of a CSV or Parquet file.

    Args:
        series: the column that names the series; None: ``unique_id``, or the first column of a wide file.
        time: the column of times; None: ``ds`` or the first that holds times; ``none``: rows count as even steps.
        target: the column to forecast; None: ``y``, or the only one that is left.
        wide: a row per series, its values in the columns from left to right, short ones followed by empty cells.

    Raises:
        UserError: unreadable, a missing column, no numbers, or a series whose times are not in order and even; it is
            named.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}; --data takes a .csv or .parquet file with many series")
    frame, notes = sources.read(path)
    return from_frame(frame, str(path), series, time, target, wide, notes)


def from_frame(
    frame: pd.DataFrame,
    where: str,
    series: str | None = None,
    time: str | None = None,
    target: str | None = None,
    wide: bool = False,
    notes: list[str] | None = None,
) -> Rows:
    """``read`` of a table; ``where`` names it in errors."""
    if frame.empty:
        raise UserError(f"{where} has no rows; give many series with a header")
    frame.columns = [str(c).strip() for c in frame.columns]
    column = series or (str(frame.columns[0]) if wide else SERIES)
    if column not in frame.columns:
        raise UserError(
            f"{where} has no column {column!r} to tell the series apart; it has {', '.join(frame.columns[:12])}: "
            "name it with --series"
        )
    labels = frame.pop(column)
    if labels.isna().any():
        raise UserError(f"{where}: line {int(np.argmax(labels.isna())) + 2} has no {column}; name its series")
    codes, names = pd.factorize(labels)
    if wide:
        return _from_wide(frame, [str(name) for name in names], where, notes or [])
    moments = _times(frame, where, time)
    name = target or (TARGET if TARGET in frame.columns else None)
    if name is None and len(frame.columns) == 1:
        name = str(frame.columns[0])
    if name not in frame.columns:
        raise UserError(
            f"{where} has no column {name or TARGET!r} to forecast; name one of {', '.join(frame.columns[:12])} "
            "with --target"
        )
    sources.check_numeric(frame[[name]], where)
    values = frame[name].to_numpy(np.float64, na_value=np.nan)
    if np.any(np.diff(codes) < 0):
        order = np.argsort(codes, kind="stable")
        codes, values, moments = codes[order], values[order], None if moments is None else moments[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    rows = Rows([str(n) for n in names], ends, values, None, None, str(name), notes or [])
    return rows if moments is None else _on_grid(rows, codes, moments, where)


def _times(frame: pd.DataFrame, where: str, time: str | None) -> pd.DatetimeIndex | np.ndarray | None:
    """Take the column of times out of the table; whole numbers that are no dates count steps."""
    column = time if time != times.NO_TIMES else None
    if column is None and TIME in frame.columns:
        column = TIME
    steps = column in frame.columns and pd.api.types.is_integer_dtype(frame[column])
    if steps and not stamps.are_times(str(column), frame[column]):
        counted = frame.pop(column).to_numpy(np.int64)
        return None if time == times.NO_TIMES else counted
    return stamps.take(frame, where, time)[0]


def _on_grid(rows: Rows, codes: np.ndarray, moments: pd.DatetimeIndex | np.ndarray, where: str) -> Rows:
    """The series with a row for each step between their first and last times, NaN where the file has none."""
    ticks = moments.asi8 if isinstance(moments, pd.DatetimeIndex) else moments
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
            raise UserError(f"{where}: series {rows.names[codes[row]]!r}: {fault} at {moments[row]}; {remedy}")
    if len(gaps) == 0:
        raise UserError(f"{where}: every series has a single row; a series needs more")
    steps, counts = np.unique(gaps, return_counts=True)
    step = int(steps[np.argmax(counts)])
    uneven = gaps % step != 0
    if uneven.any():
        row = later[int(np.argmax(uneven))]
        raise UserError(
            f"{where}: series {rows.names[codes[row]]!r} has no regular spacing at {moments[row]}; resample it to even "
            f"steps, or {times.ROWS_INSTEAD}"
        )
    position = (ticks - ticks[first][codes]) // step
    lengths = position[rows.ends[1:] - 1] + 1
    if lengths.sum() > MAX_GAPS * len(ticks):
        worst = int(np.argmax(lengths / rows.lengths))
        raise UserError(
            f"{where}: series {rows.names[worst]!r} has {rows.lengths[worst]} rows over {lengths[worst]} steps of "
            "time: mostly gaps; resample to longer steps"
        )
    ends = np.concatenate([[0], np.cumsum(lengths)])
    values = np.full(ends[-1], np.nan)
    values[ends[:-1][codes] + position] = rows.values
    spacing = pd.Timedelta(step, unit=moments.unit) if isinstance(moments, pd.DatetimeIndex) else step
    return Rows(rows.names, ends, values, moments[first], spacing, rows.target, rows.notes)


def _from_wide(frame: pd.DataFrame, names: list[str], where: str, notes: list[str]) -> Rows:
    if len(names) < len(frame):
        raise UserError(f"{where}: a series' name occurs twice; --wide takes one row per series")
    sources.check_numeric(frame, where)
    table = frame.to_numpy(np.float64, na_value=np.nan)
    present = ~np.isnan(table)
    if not present.any(axis=1).all():
        raise UserError(f"{where}: series {names[int(np.argmin(present.any(axis=1)))]!r} has no values; remove its row")
    first, last = np.argmax(present, axis=1), table.shape[1] - np.argmax(present[:, ::-1], axis=1)
    columns = np.arange(table.shape[1])
    values = table[(columns >= first[:, np.newaxis]) & (columns < last[:, np.newaxis])]
    return Rows(names, np.concatenate([[0], np.cumsum(last - first)]), values, None, None, TARGET, notes)


def prepare(rows: Rows, *, name: str, look_back: int, horizon: int, season: int = 1, max_gap: int = 12) -> Panel:
    """Cut the windows of many series: of each its last ``horizon`` rows are for the test, those before for validation.

    Args:
        season: steps; 1 is none.
        max_gap: longest gap, in steps, that is filled from the past; windows that touch a longer one are dropped.

    Raises:
        UserError: the look-back is shorter than two seasons, or no series is long enough to train on.
    """
    if look_back < 2 * season:
        raise UserError(f"--look-back {look_back} is shorter than two seasons of {season}; give at least {2 * season}")
    before_test = np.concatenate(
        [rows.values[a : b - horizon] for a, b in rows.spans if b - horizon > a] or [np.array([np.nan])]
    )
    if not np.isfinite(before_test).any():
        raise UserError(f"{name}: no series has a row before its last {horizon}; shorten --horizon")
    positive = bool(np.nanmin(before_test) > 0)
    del before_test
    count = len(rows.names)
    values, truth = (np.empty(len(rows.values), np.float32) for _ in range(2))
    mean, scale, whole, dropped = np.zeros(count), np.ones(count), [np.zeros(0, np.int32)], 0
    for i, (start, end) in enumerate(rows.spans):  # series by series: the data are never held twice in float64
        series = rows.values[start:end]
        missing = np.isnan(series)
        if positive:
            with np.errstate(divide="ignore", invalid="ignore"):
                series = np.log(series)
        if max_gap and missing.any():
            series = pd.Series(series).ffill(limit=max_gap).to_numpy()
        mean[i], scale[i] = _scaling(series[: max(len(series) - 2 * horizon, 0)], season)
        values[start:end] = (series - mean[i]) / scale[i]
        truth[start:end] = np.where(missing, np.nan, values[start:end])
        inside = np.arange(start + look_back - 1, end - horizon, dtype=np.int32)
        if missing.any() and len(inside):
            windows = np.lib.stride_tricks.sliding_window_view
            seen = ~np.isnan(windows(values[start : end - horizon], look_back)).any(axis=1)
            ahead = ~np.isnan(windows(truth[start + look_back : end], horizon)).any(axis=1)
            dropped += int((~(seen & ahead)).sum())
            inside = inside[seen & ahead]
        whole.append(inside)
    candidates = np.concatenate(whole)
    back = np.repeat(rows.ends[1:] - 1, [len(part) for part in whole[1:]]) - candidates
    splits = {"train": back >= 3 * horizon, "validation": back == 2 * horizon, "test": back == horizon}
    origins = {split: candidates[chosen] for split, chosen in splits.items()}
    if len(origins["train"]) == 0 or len(origins["validation"]) == 0:
        raise UserError(
            f"{name}: no series is long enough: a training window takes {look_back + 3 * horizon} rows, the longest "
            f"series has {rows.lengths.max()}; shorten --look-back or --horizon"
        )
    return Panel(
        name=name,
        look_back=look_back,
        horizon=horizon,
        season=season,
        rows=rows,
        positive=positive,
        own_mean=mean,
        own_scale=scale,
        values=np.nan_to_num(values, copy=False)[:, np.newaxis],
        truth=truth[:, np.newaxis],
        candidates=candidates,
        origins=origins,
        facts={
            "sha256": _digest(rows),
            "season": season,
            "logarithms": positive,
            "shortest": int(rows.lengths.min()),
            "longest": int(rows.lengths.max()),
            "too_short": int((rows.lengths < look_back + horizon).sum()),
            "missing_values": int(np.isnan(rows.values).sum()),
            "windows_dropped": dropped,
            "max_gap": max_gap,
            "notes": rows.notes,
        },
    )


def _scaling(values: np.ndarray, season: int) -> tuple[float, float]:
    """Mean of a series' training rows ``(rows,)`` and their spread: the mean absolute change from season to season."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    changes = np.abs(values[season:] - values[:-season])
    spread = max(changes.mean() if len(changes) else 0.0, LEAST_SPREAD * values.std())
    mean = float(values.mean())
    return mean, float(spread) if spread > TINY * max(abs(mean), 1) else 1.0


def _digest(rows: Rows) -> str:
    digest = hashlib.sha256(rows.ends.tobytes())
    digest.update(np.ascontiguousarray(rows.values).data)
    return digest.hexdigest()
