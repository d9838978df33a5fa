"""The times of a table: which column holds them, how they are written, their spacing, and the calendar."""

from __future__ import annotations

import datetime
import re
import warnings

import numpy as np
import pandas as pd

from keras_a2.errors import UserError

DAY = pd.Timedelta("1D")
YEAR = pd.Timedelta("365.2425D")
CALENDAR = ("hour_sin", "hour_cos", "year_sin", "year_cos")
NAMES = ("date", "time", "datetime", "timestamp", "ds", "date time", "date_time")
WORDS = {"date", "time", "datetime", "timestamp", "ds", "ts", "epoch", "unix", "unixtime"}
NO_TIMES = "none"  # --time none: rows count as even steps
EPOCH_UNITS = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}  # the years 1973 to 2286 lie between one and 100 times it
LONG_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
NUMERIC_DATE = r"^(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)"
CLOCK = r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?"
OFFSET = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
ROWS_INSTEAD = f"add --time {NO_TIMES} to leave the times out and count rows"


def take(frame: pd.DataFrame, where: str, column: str | None) -> tuple[pd.DatetimeIndex | None, str, list[str]]:
    """Take the times out of ``frame``: its times (None without), their column's name, and how they were read.

    Args:
        column: the column; None: found by its name or by being the first that holds dates; ``none``: no times.

    Raises:
        UserError: no such column, or something in it that is no time or can be read in two ways.
    """
    unused = column == NO_TIMES and column not in frame.columns
    if column is not None and not unused and column not in frame.columns:
        raise UserError(f"{where} has no column {column!r} for --time; it has {', '.join(frame.columns[:12])}")
    column = _find(frame) if column is None or unused else column
    if column is None:
        return None, "", []
    values = frame.pop(column)
    clock = next((c for c in frame.columns if c.lower() == "time" and _is_clock(frame[c])), None)
    if clock is not None:  # the day in one column, the hour in another
        values, column = values.astype(str) + " " + frame.pop(clock).astype(str), f"{column} {clock}"
    if unused:
        return None, column, []
    if values.isna().any():
        raise UserError(f"{where}: row {int(np.argmax(values.isna())) + 2} has no time in column {column!r}")
    stamps, notes = _parse(values, f"{where}: column {column!r}")
    if stamps.isna().any():
        raise UserError(f"{where}: row {int(np.argmax(stamps.isna())) + 2} has no time in column {column!r}")
    return stamps, column, notes


def _find(frame: pd.DataFrame) -> str | None:
    texts = [c for c in frame.columns if not pd.api.types.is_numeric_dtype(frame[c])]
    dates = [c for c in texts if not _is_clock(frame[c])]
    numbers = [c for c in frame.columns if c not in texts]
    named = next((c for c in dates if c.lower() in NAMES), None)
    return named or next((c for c in [*dates, *numbers] if are_times(c, frame[c])), None)


def _is_clock(values: pd.Series) -> bool:
    texts = values.dropna()[:50]
    return len(texts) > 0 and bool(texts.astype(str).str.strip().str.fullmatch(CLOCK).all())


def are_times(name: str, values: pd.Series) -> bool:
    """Whether a column's name and values say that it holds times."""
    if pd.api.types.is_numeric_dtype(values):
        return bool(_numeric_unit(name, values))
    return _parses(values.dropna()[:50])


def _parses(values: pd.Series) -> bool:
    try:
        return len(values) > 0 and bool(_parse(values, "")[0].notna().all())
    except UserError as error:
        return isinstance(error, AmbiguousDates)


class AmbiguousDates(UserError):
    """Dates that can be read as day/month and as month/day."""


def _numeric_unit(name: str, values: pd.Series, named: bool = False) -> str:
    """What numbers count: an epoch's unit, ``days`` as 20240131, ``years``; empty where they are no times."""
    words = set(re.split(r"[\W_]+", name.lower()))
    values = values.dropna()
    if len(values) == 0 or pd.api.types.is_bool_dtype(values):
        return ""
    low, high = float(values.min()), float(values.max())
    whole = bool((values % 1 == 0).all())
    if named or words & WORDS:
        for unit, least in EPOCH_UNITS.items():
            if least <= low and high < 100 * least:
                return unit
        if whole and low >= 19000101 and high <= 22001231 and not pd.isna(_days(values)).any():
            return "days"
    if (named or words & (WORDS | {"year", "yr"})) and whole and low >= 1000 and high <= 2200:
        return "years" if bool((np.diff(values) > 0).all()) else ""
    return ""


def _days(values: pd.Series) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(values.astype("int64").astype(str), format="%Y%m%d", errors="coerce"))


def _parse(values: pd.Series, where: str) -> tuple[pd.DatetimeIndex, list[str]]:
    """Times of a column without holes, in the zone they are written in, and how they were read."""
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(values):
        return _by_the_clock(pd.DatetimeIndex(values), pd.DatetimeIndex(values).tz_localize(None), [])
    if pd.api.types.is_numeric_dtype(values):
        return _from_numbers(values, where)
    texts, notes = values.astype(str).str.strip(), list[str]()
    parts = texts.str.extract(NUMERIC_DATE)
    if parts[0].notna().all():
        day_first, notes = _day_first(parts, texts, where)
        texts = _year_first(parts, texts, day_first)
    texts = texts.str.replace(r"^(\d{4})[ -]?Q([1-4])$", r"\1Q\2", regex=True)
    stamps = _to_datetime(texts)
    if stamps.isna().any():
        row = int(np.argmax(stamps.isna()))
        raise UserError(f"{where} holds {str(values.iloc[row])[:40]!r} in line {row + 2}, which is no time; repair it")
    offsets = texts.str.extract(OFFSET)[0]
    if offsets.isna().all():
        return stamps.tz_localize(None), notes
    if offsets.isna().any():
        row = int(np.argmax(offsets.isna() != offsets.isna().iloc[0]))
        raise UserError(f"{where} has times with an offset from UTC and without (line {row + 2}); write all in one way")
    wall = _to_datetime(texts.str.replace(r"\s*(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?)$", "", regex=True)).tz_localize(None)
    return _by_the_clock(stamps.tz_convert(_zone(str(offsets.iloc[-1]))), wall, notes)


def _by_the_clock(
    stamps: pd.DatetimeIndex, wall: pd.DatetimeIndex, notes: list[str]
) -> tuple[pd.DatetimeIndex, list[str]]:
    """Times of days that begin at midnight by a clock that changes are taken as that clock shows them."""
    whole_days = [not ((time - time[0]) % pd.Timedelta("1D")).any() for time in (stamps, wall)]
    if len(stamps) < 2 or whole_days != [False, True]:
        return stamps, notes
    return wall, [*notes, "Days are those of the local clock."]


def _to_datetime(texts: pd.Series) -> pd.DatetimeIndex:
    """Times in UTC, NaT where a text is none."""
    try:
        return pd.DatetimeIndex(pd.to_datetime(texts, utc=True, format="ISO8601"))
    except (ValueError, TypeError, OverflowError):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that each text is parsed on its own
        return pd.DatetimeIndex(pd.to_datetime(texts, utc=True, errors="coerce"))


def _zone(offset: str) -> datetime.timezone:
    """The zone of ``Z``, ``UTC``, ``+01``, ``+0100`` or ``+01:00``."""
    if not offset.startswith(("+", "-")):
        return datetime.timezone.utc
    digits = offset[1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return datetime.timezone(datetime.timedelta(minutes=-minutes if offset[0] == "-" else minutes))


def _from_numbers(values: pd.Series, where: str) -> tuple[pd.DatetimeIndex, list[str]]:
    unit = _numeric_unit("", values, named=True)
    if not unit:
        raise UserError(
            f"{where} holds numbers that are neither seconds, milliseconds, microseconds or nanoseconds since 1970 nor "
            f"dates such as 20240131; give times as texts such as 2024-01-31 12:00, or {ROWS_INSTEAD}"
        )
    if unit == "days":
        return _days(values), ["Times were read as dates such as 20240131."]
    if unit == "years":
        return pd.DatetimeIndex(pd.to_datetime(values.astype("int64").astype(str), format="%Y")), []
    stamps = pd.DatetimeIndex(pd.to_datetime(values, unit=unit, utc=True))
    return stamps, [f"Times were read as {LONG_UNITS[unit]} since 1970, in UTC."]


def _day_first(parts: pd.DataFrame, texts: pd.Series, where: str) -> tuple[bool, list[str]]:
    """Whether dates such as 3/4/2024 begin with the day, by the evidence of the whole column."""
    first, second = int(parts[0].astype(int).max()), int(parts[2].astype(int).max())
    if (parts[1] == ".").all():
        day_first = True  # no country writes the month first with points
    elif max(first, second) > 12:
        day_first = first > 12
    else:
        once = ~texts.duplicated()
        even = {order: _evenness(_to_datetime(_year_first(parts[once], texts[once], order))) for order in (True, False)}
        if even[True] == even[False]:
            raise AmbiguousDates(
                f"{where} holds dates that can be read as day/month and as month/day, such as {texts.iloc[0][:20]!r}; "
                "write them as 2024-01-31"
            )
        day_first = even[True] > even[False]
    return day_first, [f"Dates were read as {'day, month' if day_first else 'month, day'}, year."]


def _year_first(parts: pd.DataFrame, texts: pd.Series, day_first: bool) -> pd.Series:
    """``13/1/2024 5:00`` as ``2024-01-13 5:00``."""
    day, month = (parts[0], parts[2]) if day_first else (parts[2], parts[0])
    year = parts[3].where(parts[3].str.len() == 4, np.where(parts[3].astype(int) < 69, "20", "19") + parts[3])
    rest = texts.str.replace(NUMERIC_DATE, "", regex=True)
    return year + "-" + month.str.zfill(2) + "-" + day.str.zfill(2) + rest


def _evenness(time: pd.DatetimeIndex) -> float:
    """Share of the commonest step, in time or in months; 0 where time does not run forward."""
    if time.isna().any() or len(time) < 2 or not time.is_unique or not time.is_monotonic_increasing:
        return 0.0
    steps = pd.Series(np.diff(time.asi8)).value_counts(normalize=True).iloc[0]
    of_months = time.is_month_start.all() or time.is_month_end.all()  # who writes the 2nd of each month means days
    return float(max(steps, _month_steps(time).value_counts(normalize=True).iloc[0] if of_months else 0))


def _on_one_day(time: pd.DatetimeIndex) -> bool:
    """Whether every time is of the same day of a month, or all are of the last."""
    return bool((time == time.normalize()).all() and ((time.day == time[0].day).all() or time.is_month_end.all()))


def _month_steps(time: pd.DatetimeIndex) -> pd.Series:
    return pd.Series(np.diff(12 * time.year + time.month))


def calendar_spacing(time: pd.DatetimeIndex) -> str:
    """``months``, ``quarters`` or ``years`` where times are so far apart; else nothing."""
    if not _on_one_day(time) or len(time) < 3:
        return ""
    steps = _month_steps(time)
    common, share = steps.mode().iloc[0], steps.value_counts(normalize=True).iloc[0]
    if not (steps > 0).all() or share < 0.5:
        return ""
    return "years" if common % 12 == 0 else "quarters" if common == 3 else "months"


def check_one_series(frame: pd.DataFrame, time: pd.DatetimeIndex, column: str, where: str, target: str | None) -> None:
    """Refuse a file in long format: several series below each other, told apart by a column.

    Args:
        frame: the columns beside the times, which ``column`` held.
        target: what is to be forecast, where it is known.

    Raises:
        UserError: with the way to one row per time.
    """
    if time.is_monotonic_increasing and time.is_unique:
        return
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    numbers = [name for name in frame.columns if name not in texts and not frame[name].isna().any()]
    whole = [name for name in numbers if (frame[name] % 1 == 0).all() and name != target]
    for name in [*texts, *sorted(whole, key=lambda name: frame[name].nunique())]:
        ids = frame[name].reset_index(drop=True)
        count = ids.nunique()
        blocks = int((ids != ids.shift()).sum()) == count
        if not 1 < count <= len(ids) / 2 or ids.isna().any() or not (blocks or time.duplicated().mean() > 0.2):
            continue
        if not pd.Series(time.asi8).groupby(ids).apply(_runs_forward).all():
            continue
        if name.lower() in ("hour", "hr"):
            raise UserError(
                f"{where} has its times in two columns, {column!r} and {name!r}; join them into one column "
                "of times such as 2024-01-31 12:00"
            )
        value = target if target in frame.columns else next((c for c in numbers if c != name), "VALUE")
        raise UserError(
            f"{where} holds {count} series, told apart by column {name!r}; a table with one row per time is needed: "
            "write the rows of one series to a file, or all with a column each, in pandas "
            f"table.pivot(index={column!r}, columns={name!r}, values={value!r}).to_csv('wide.csv')"
        )


def _runs_forward(stamps: pd.Series) -> bool:
    return stamps.is_unique and stamps.is_monotonic_increasing


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
