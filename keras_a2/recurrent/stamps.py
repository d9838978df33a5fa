"""The times of a table: which columns hold them, and how they are written."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent.times import DAY, NO_TIMES, ROWS_INSTEAD, commonest_step, frequency, steps

NAMES = ("date", "time", "datetime", "timestamp", "ds", "date time", "date_time")
WORDS = {"date", "time", "datetime", "timestamp", "ds", "ts", "epoch", "unix", "unixtime", "datum"}
YEARS, MONTHS = {"year", "yr", "jahr"}, {"month", "monat", "period"}
PARTS = ("year", "month", "day", "hour", "minute", "second")
# The years 1973 to 2286 lie between this number and 100 times it.
EPOCHS = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}
EXCEL_DAYS = (20_000, 80_000)  # since 1899-12-30: 1954 to 2119
EPOCH_UNITS = dict(zip(EPOCHS, ("seconds", "milliseconds", "microseconds", "nanoseconds"), strict=True))
NUMERIC_DATE = r"^(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)"
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"
OFFSET = r"\s*(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"


def take(frame: pd.DataFrame, source: str, column: str | None) -> tuple[pd.DatetimeIndex | None, str, list[str]]:
    """Take the times out of ``frame``: its times (None without), their column's name, and how they were read.

    Args:
        column: the column; None: detected by its name or by being the first that holds dates; ``none``: no times.

    Raises:
        UserError: no such column, or something in it that is no time or can be read in two ways.
    """
    if column not in (None, NO_TIMES, *frame.columns):
        raise UserError(f"{source} has no column {column!r} for --time; it has {', '.join(frame.columns[:12])}")
    unused = column == NO_TIMES and column not in frame.columns
    column = _find(frame) if column is None or unused else column
    if column is None:
        return (None, "", []) if unused else _from_parts(frame)
    notes = _drop_footer(frame, column)
    values = frame.pop(column)
    clock = next((c for c in frame.columns if c.lower() == "time" and _is_clock(frame[c])), None)
    if clock is not None:  # the day in one column, the hour in another
        values, column = values.astype(str) + " " + frame.pop(clock).astype(str), f"{column} {clock}"
    if unused:
        return None, column, notes
    stamps, read = _parse(values, f"{source}: column {column!r}")
    notes += read
    hour = next((c for c in frame.columns if c.lower() in ("hour", "hr") and _is_hour(frame[c])), None)
    if hour is not None and not stamps.is_unique:
        return stamps + pd.to_timedelta(frame.pop(hour).to_numpy(), unit="h"), f"{column} {hour}", notes
    days = stamps.day
    if len(days) > 1 and days.nunique() == 1 and 1 < days[0] < 29 and commonest_step(stamps) >= 28 * DAY:
        stamps, notes = stamps - (int(days[0]) - 1) * DAY, [*notes, "Months are named by their first day."]
    return stamps, column, notes


def _drop_footer(frame: pd.DataFrame, column: str) -> list[str]:
    """Leave out rows after the last time that have none, such as a total."""
    if pd.api.types.is_numeric_dtype(frame[column]) or pd.api.types.is_datetime64_any_dtype(frame[column]):
        return []
    dated = frame[column].astype(str).str.contains(r"\d").to_numpy()
    footer = frame.index[len(frame) - int(np.argmax(dated[::-1])) :] if dated.any() else frame.index[:0]
    if len(footer) == 0:
        return []
    rows = [" ".join(map(str, row.dropna())) for _, row in frame.loc[footer].iterrows() if row.notna().any()]
    frame.drop(index=footer, inplace=True)
    return [f"{len(rows)} row(s) without a time at the end were left out: {rows[0]!r}."] if rows else []


def _find(frame: pd.DataFrame) -> str | None:
    texts = [c for c in frame.columns if not pd.api.types.is_numeric_dtype(frame[c])]
    dates = [c for c in texts if not _is_clock(frame[c])]
    numbers = [c for c in frame.columns if c not in texts]
    named = next((c for c in dates if c.lower() in NAMES), None)
    return named or next((c for c in [*dates, *numbers] if are_times(c, frame[c])), None)


def _is_clock(values: pd.Series) -> bool:
    texts = values.dropna()[:50].astype(str).str.strip()
    return len(texts) > 0 and bool(texts.str.fullmatch(rf"{CLOCK}( ?[AaPp][Mm])?").all())


def _is_hour(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and bool(values.between(0, 24).all())


def _from_parts(frame: pd.DataFrame) -> tuple[pd.DatetimeIndex | None, str, list[str]]:
    """The times of columns named ``year``, ``month`` and so on, which are taken out of ``frame``."""
    columns = {c.lower(): c for c in frame.columns if c.lower() in PARTS}
    if not {"year", "month"} <= set(columns):
        return None, "", []
    names = [columns[part] for part in PARTS if part in columns]
    values = frame[names].rename(columns=str.lower)
    stamps = pd.DatetimeIndex(pd.to_datetime(values if "day" in values else values.assign(day=1), errors="coerce"))
    if stamps.isna().any():
        return None, "", []
    frame.drop(columns=names, inplace=True)
    return stamps, " ".join(names), []


def are_times(name: str, values: pd.Series) -> bool:
    """Whether a column's name and values say that it holds times."""
    if pd.api.types.is_numeric_dtype(values):
        return _from_numbers(values, name) is not None
    try:
        sample = values.dropna()[:50]
        return len(sample) > 0 and len(_parse(sample, "")[0]) > 0
    except UserError as error:
        return isinstance(error, AmbiguousDates)


class AmbiguousDates(UserError):
    """Dates that can be read as day/month and as month/day."""


def _from_numbers(values: pd.Series, name: str) -> tuple[pd.DatetimeIndex, list[str]] | None:
    """Numbers as times, where the column's name admits them: years, days such as 20240131, or an epoch's seconds."""
    words = set(re.split(r"[\W_]+", name.lower()))
    if values.isna().any() or pd.api.types.is_bool_dtype(values) or not words & (WORDS | YEARS | MONTHS):
        return None
    for unit, least in EPOCHS.items():
        if words & WORDS and least <= values.min() and values.max() < 100 * least:
            stamps = pd.DatetimeIndex(pd.to_datetime(values, unit=unit, utc=True))
            return stamps, [f"Times were read as {EPOCH_UNITS[unit]} since 1970, in UTC."]
    digits = values.astype("int64").astype(str) if (values % 1 == 0).all() else pd.Series(dtype=str)
    if words & {"date", "datum"} and len(digits) and values.is_monotonic_increasing:
        first, last = EXCEL_DAYS
        if first <= values.iloc[0] and values.iloc[-1] < last:
            days = pd.Timestamp("1899-12-30") + pd.to_timedelta(values, unit="D")
            return pd.DatetimeIndex(days), ["Times were read as days of a spreadsheet, counted from 1899-12-30."]
    for format, named, example in (("%Y%m%d", WORDS, "20240131"), ("%Y%m", WORDS | MONTHS, "202401"), ("%Y", None, "")):
        if not len(digits) or (named is not None and not words & named):
            continue
        if format == "%Y%m" and not (digits.str.len() == 6).all():  # pandas reads 20241 as well
            continue
        read = pd.DatetimeIndex(pd.to_datetime(digits, format=format, errors="coerce"))
        if read.notna().all() and (example or read.is_unique):
            return read, [f"Times were read as dates such as {example}."] if example else []
    return None


def _parse(values: pd.Series, source: str) -> tuple[pd.DatetimeIndex, list[str]]:
    """Times of a column, in the zone they are written in, and how they were read."""
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(values):
        read: tuple | None = _by_the_clock(pd.DatetimeIndex(values), pd.DatetimeIndex(values).tz_localize(None), [])
    elif pd.api.types.is_numeric_dtype(values):
        read = _from_numbers(values, "date")
    else:
        read = _from_repeated(values, source) or _from_texts(values.astype(str).str.strip(), source)
    if read is None:
        raise UserError(
            f"{source} holds numbers that are neither seconds, milliseconds, microseconds or nanoseconds since 1970 "
            f"nor dates such as 20240131; give times as texts such as 2024-01-31 12:00, or {ROWS_INSTEAD}"
        )
    if read[0].isna().any():
        row = int(np.argmax(read[0].isna()))
        raise UserError(f"{source} holds {str(values.iloc[row])[:40]!r} in line {row + 2}, which is no time; repair it")
    return read


def _from_repeated(values: pd.Series, source: str) -> tuple[pd.DatetimeIndex, list[str]] | None:
    """``_from_texts`` of a file with many series, whose times repeat: each text is read once.

    None where few repeat, or one is no time: its line is to be named.
    """
    codes, texts = pd.factorize(values, use_na_sentinel=False)
    if len(texts) > len(values) / 2:
        return None
    try:
        stamps, notes = _from_texts(pd.Series(texts).astype(str).str.strip(), source)
    except UserError:
        return None
    return stamps.take(codes), notes


def _from_texts(texts: pd.Series, source: str) -> tuple[pd.DatetimeIndex, list[str]]:
    notes, parts = list[str](), texts.str.extract(NUMERIC_DATE)
    if parts[0].notna().all():
        day_first = _day_first(parts, texts, source)
        texts = _year_first(parts, texts, day_first)
        notes = [f"Dates were read as {'day, month' if day_first else 'month, day'}, year."]
    stamps, zoned = _to_datetime(texts), texts.str.contains(CLOCK + OFFSET).to_numpy()
    if not zoned.any() or stamps.isna().any():
        return stamps.tz_localize(None), notes
    if not zoned.all():
        row = int(np.argmax(zoned != zoned[0]))
        raise UserError(
            f"{source} has times with an offset from UTC and without (line {row + 2}); write all in one way"
        )
    wall = _to_datetime(texts.str.replace(OFFSET, "", regex=True)).tz_localize(None)
    return _by_the_clock(stamps.tz_convert(pd.Timestamp(texts.iloc[-1]).tz), wall, notes)


def _by_the_clock(
    stamps: pd.DatetimeIndex, wall: pd.DatetimeIndex, notes: list[str]
) -> tuple[pd.DatetimeIndex, list[str]]:
    """Times of days that begin at midnight by a clock that changes are taken as that clock shows them."""
    if ((wall - wall[0]) % DAY).any() or not ((stamps - stamps[0]) % DAY).any():
        return stamps, notes
    return wall, [*notes, "Days are those of the local clock."]


def _to_datetime(texts: pd.Series) -> pd.DatetimeIndex:
    """Times in UTC, NaT where a text is none."""
    for order in (r"^(?P<year>\d{4})[ -]?(?P<quarter>Q[1-4])$", r"^(?P<quarter>Q[1-4])[ -/]?(?P<year>\d{4})$"):
        quarters = texts.str.extract(order).dropna()
        if len(quarters) == len(texts):
            return pd.PeriodIndex(quarters["year"] + quarters["quarter"], freq="Q").to_timestamp().tz_localize("UTC")
    if texts.str.fullmatch(r"\d{4}-?W\d{2}").all():  # of ISO 8601, by their Mondays
        return pd.DatetimeIndex(
            pd.to_datetime(texts.str.replace("-", "") + "1", format="%GW%V%u", utc=True, errors="coerce")
        )
    for format in ("ISO8601", "%b-%y"):
        try:
            return pd.DatetimeIndex(pd.to_datetime(texts, utc=True, format=format))
        except (ValueError, TypeError, OverflowError):
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that each text is parsed on its own
        return pd.DatetimeIndex(pd.to_datetime(texts, utc=True, errors="coerce"))


def _day_first(parts: pd.DataFrame, texts: pd.Series, source: str) -> bool:
    """Whether dates such as 3/4/2024 begin with the day, by the evidence of the whole column."""
    first, second = int(parts[0].astype(int).max()), int(parts[2].astype(int).max())
    if (parts[1] == ".").all():
        return True  # no country writes the month first with points
    if max(first, second) > 12:
        return first > 12
    by_day, by_month = (_regularity(_to_datetime(_year_first(parts, texts, order))) for order in (True, False))
    if by_day == by_month:
        raise AmbiguousDates(
            f"{source} holds dates that can be read as day/month and as month/day, such as {texts.iloc[0][:20]!r}; "
            "write them as 2024-01-31"
        )
    return by_day > by_month


def _year_first(parts: pd.DataFrame, texts: pd.Series, day_first: bool) -> pd.Series:
    """``13/1/2024 5:00`` as ``2024-01-13 5:00``."""
    day, month = (parts[0], parts[2]) if day_first else (parts[2], parts[0])
    year = parts[3].where(parts[3].str.len() == 4, np.where(parts[3].astype(int) < 69, "20", "19") + parts[3])
    rest = texts.str.replace(NUMERIC_DATE, "", regex=True)
    return year + "-" + month.str.zfill(2) + "-" + day.str.zfill(2) + rest


def _regularity(time: pd.DatetimeIndex) -> float:
    """Share of the steps of time that have a row, to a tenth; 0 where time has no spacing or runs backwards."""
    time = time.unique()
    if time.isna().any() or len(time) < 2 or not time.is_monotonic_increasing or (freq := frequency(time)) is None:
        return 0.0
    return round(len(time) / steps(time, freq), 1)


def check_one_series(frame: pd.DataFrame, time: pd.DatetimeIndex, column: str, source: str, target: str | None) -> None:
    """Refuse a file in long format: several series below each other, told apart by a column.

    Args:
        frame: the columns other than the times, which ``column`` held.
        target: what is to be forecast, where it is known.

    Raises:
        UserError: with the way to one row per time.
    """
    if time.duplicated().mean() < 0.2:
        return
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    numbers = [name for name in frame.columns if name not in texts and not frame[name].isna().any()]
    whole = [name for name in numbers if (frame[name] % 1 == 0).all() and name != target]
    for name in [*texts, *sorted(whole, key=lambda name: frame[name].nunique())]:
        count, once = (
            frame[name].nunique(),
            not pd.DataFrame({"id": frame[name].array, "time": time}).duplicated().any(),
        )
        if not once or not 1 < count <= len(time) / 2 or frame[name].isna().any():
            continue
        value = target if target in frame.columns else next((c for c in numbers if c != name), "VALUE")
        raise UserError(
            f"{source} holds {count} series, told apart by column {name!r}: recurrent.py forecasts all of them with "
            f"--series {name!r}; for one row per time write one series to a file, or all with a column each, in pandas "
            f"table.pivot(index={column!r}, columns={name!r}, values={value!r}).to_csv('wide.csv')"
        )
