"""The spacing of times, the regular grid that they span, and the calendar."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from keras_a2.errors import UserError

DAY = pd.Timedelta("1D")
YEAR = pd.Timedelta("365.2425D")
CALENDAR = tuple(f"{cycle}_{wave}" for cycle in ("hour", "weekday", "month", "year") for wave in ("sin", "cos"))
EVEN = {"week": 7 * DAY, "day": DAY} | {unit: pd.Timedelta(1, unit) for unit in ("hour", "minute", "second")}
# Steps of no constant length: their mean, and what pandas calls them.
UNEVEN = {
    "business day": (7 / 5 * DAY, ["B"]),
    "month": (YEAR / 12, ["MS", "ME", "BMS", "BME", "WOM", "LWOM"]),
    "quarter": (YEAR / 4, ["QS", "QE", "BQS", "BQE"]),
    "year": (YEAR, ["YS", "YE", "BYS", "BYE"]),
}
DAYS_OFF = 5  # business days in a row without a row that are holidays and no gap
LEAST_SHARE = 1 / 20  # of the steps between the first row and the last that must have a row
HOLIDAYS = "holiday"  # the column of --holidays
NO_TIMES = "none"  # --time none: rows count as even steps
ROWS_INSTEAD = f"add --time {NO_TIMES} to leave the times out and count rows"


def to_grid(
    frame: pd.DataFrame, time: pd.DatetimeIndex | None, name: str, freq: str | None = None
) -> tuple[pd.DataFrame, pd.DatetimeIndex | None, BaseOffset | None]:
    """The columns of a table on a regular grid, absent rows as NaN; its times and their spacing.

    Args:
        freq: the spacing by pandas' name; None: inferred.

    Raises:
        UserError: times that occur twice, run backwards, or have no spacing.
    """
    if time is None:
        return frame, None, None
    if len(time) < 2:
        raise UserError(f"{name} has {len(time)} row(s); a series needs more")
    if not time.is_unique:
        raise UserError(
            f"{name}: the time {time[time.duplicated()][0]} occurs twice, and every time needs one row. If clocks"
            " were put back, write times with their offset (+01:00); if rows are of several series, give each a column"
        )
    if not time.is_monotonic_increasing:
        at = time[int(np.argmax(np.diff(time.asi8) < 0))]
        raise UserError(f"{name}: time runs backwards after {at}; sort the rows by time")
    offset = named(freq, time) if freq else frequency(time)
    if offset is None:
        common = commonest_step(time)
        at = time[int(np.argmax((time[1:] - time[:-1]) % common != pd.Timedelta(0)))]
        raise UserError(
            f"{name} has no regular spacing: mostly {spacing(even(common))}, but not after {at}; "
            f"resample it to even steps, or {ROWS_INSTEAD}"
        )
    if not fits(time, offset):
        raise UserError(
            f"{name} has {len(time)} rows over {steps(time, offset):.0f} steps of time: mostly "
            "gaps; resample it to longer steps"
        )
    grid = pd.date_range(time[0], time[-1], freq=offset, unit=time.unit)
    if unit(offset) == "business day":
        absent = pd.Series(~grid.isin(time))
        grid = grid[~absent | (run_lengths(absent) > DAYS_OFF)]
    frame = frame.set_axis(time)
    frame = frame if len(grid) == len(time) else frame.reindex(grid)
    return frame, pd.DatetimeIndex(frame.index), offset


def run_lengths(flags: pd.Series) -> pd.Series:
    """For each flag that is set, how many are set in a row there; else 0."""
    return flags.groupby((~flags).cumsum()).transform("sum") * flags


def frequency(time: pd.DatetimeIndex) -> BaseOffset | None:
    """The spacing of increasing times, of which some may be absent; None where they have none.

    Complete times are left to ``pandas.infer_freq``. Of months, quarters and years the longest step that fits is taken.
    """
    common = commonest_step(time)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas will return an offset in place of a text
        inferred = to_offset(pd.infer_freq(time)) if len(time) > 2 else None
    if inferred is not None and not isinstance(inferred, pd.offsets.BusinessHour):
        return inferred
    names: list[str] = []
    if common >= 28 * DAY:
        month = f"{time[0]:%b}".upper()
        names = [f"{name}-{month}" for unit in ("year", "quarter") for name in UNEVEN[unit][1]] + UNEVEN["month"][1][:4]
    elif common == 7 * DAY:
        names = [f"W-{time[0]:%a}".upper()]
    elif common == DAY and time[-1] - time[0] > 7 * DAY:
        names = ["B"]
    fitting = [to_offset(name) for name in names if fits(time, to_offset(name))]
    if fitting or ((time[1:] - time[:-1]) % common).any():
        return fitting[0] if fitting else None
    return even(common)


def commonest_step(time: pd.DatetimeIndex) -> pd.Timedelta:
    """The shortest of the commonest steps from one time to the next."""
    return pd.Timedelta(pd.Series(time[1:] - time[:-1]).mode().iloc[0])


def fits(time: pd.DatetimeIndex, freq: BaseOffset, share: float = LEAST_SHARE) -> bool:
    """Whether every time is one of the steps from the first, and so large a share of the steps has a time."""
    if len(time) < share * steps(time, freq):
        return False
    return bool(time.isin(pd.date_range(time[0], time[-1], freq=freq, unit=time.unit)).all())


def steps(time: pd.DatetimeIndex, freq: BaseOffset) -> float:
    """How many steps there are from the first time to the last, both counted."""
    days = time[-1].to_julian_date() - time[0].to_julian_date()  # centuries are too long for a time difference
    return 1 + days / (length(freq) / DAY)


def named(freq: str, time: pd.DatetimeIndex) -> BaseOffset:
    """The spacing that pandas calls ``freq``; a week without a day begins on the first time's.

    Raises:
        UserError: there is none of this name, or the times do not keep to it.
    """
    try:
        offset = to_offset(f"W-{time[0]:%a}".upper() if freq == "W" else freq)
        known = length(offset) > pd.Timedelta(0)
    except ValueError:
        known = False
    if not known:
        raise UserError(
            f"--freq {freq!r} is no spacing; take one of pandas, such as 15min, h, D, B, W, MS, ME, QS or YS"
        )
    if not fits(time, offset):
        raise UserError(
            f"--freq {freq}: the times are not steps of {spacing(offset)} from {time[0]}; resample the rows"
        )
    return offset


def even(step: pd.Timedelta) -> BaseOffset:
    """pandas' offset of a step of constant length."""
    return to_offset("D") * int(step / DAY) if not step % DAY else to_offset(step)


def unit(freq: BaseOffset) -> str:
    """The unit in ``UNEVEN`` that a step counts; empty for steps of constant length."""
    code = freq.rule_code.split("-")[0]
    return next((name for name, (_, codes) in UNEVEN.items() if code in codes), "")


def length(freq: BaseOffset) -> pd.Timedelta:
    """How long a step is: exactly, or in the mean of months, quarters, years and business days."""
    if name := unit(freq):
        return freq.n * UNEVEN[name][0]
    return freq.n * EVEN["week"] if isinstance(freq, pd.offsets.Week) else pd.Timedelta(freq)


def spacing(freq: BaseOffset, count: int = 1) -> str:
    """So many steps in the largest unit that divides them: ``1 hour``, ``15 minutes``, ``1 month``."""
    units = {name: one for name, (one, _) in UNEVEN.items() if name == unit(freq)} or EVEN
    for name, one in units.items():
        number = count * length(freq) / one
        if number.is_integer() and number >= 1:
            return f"{number:.0f} {name}{'' if number == 1 else 's'}"
    return f"{count * length(freq).total_seconds():g} seconds"


def calendar_names(freq: BaseOffset | None, shown: int | None = None) -> list[str]:
    """The cycles that steps of this length pass through, each as sine and cosine.

    Args:
        shown: leave out what ``shown`` rows do not go through twice.
    """
    if freq is None:
        return []
    step = length(freq)
    passed = {
        "hour": step < DAY,
        "weekday": DAY <= step < 7 * DAY,
        "month": 28 * DAY <= step < YEAR,
        "year": step < 28 * DAY,
    }
    if shown is not None:
        lengths = {"hour": DAY, "weekday": 7 * DAY, "month": YEAR, "year": YEAR}
        passed = {cycle: passes and shown * step >= 2 * lengths[cycle] for cycle, passes in passed.items()}
    return [name for name in CALENDAR if passed[name.split("_")[0]]]


def with_holidays(
    frame: pd.DataFrame, time: pd.DatetimeIndex | None, freq: BaseOffset | None, country: str
) -> pd.DataFrame:
    """The table with a column that is 1 on a country's public holidays (package ``holidays``) and 0 on other days.

    Args:
        country: its ISO 3166 code, ``US``, or that of a part of it, ``US-CA``.

    Raises:
        UserError: the package is not installed or does not know the country; or the steps are longer than a day.
    """
    if time is None or freq is None or length(freq) >= 7 * DAY:
        raise UserError("--holidays needs rows with times, in steps of a day or less")
    if HOLIDAYS in frame:
        raise UserError(
            f"--holidays adds a column {HOLIDAYS!r}, which the data have; rename it or leave --holidays out"
        )
    try:
        import holidays
    except ImportError as error:
        raise UserError("--holidays needs the package holidays; run: pip install holidays") from error
    code, _, part = country.partition("-")
    try:
        days = holidays.country_holidays(code, subdiv=part or None, years=sorted(set(time.year)))
    except NotImplementedError as error:
        raise UserError(f"--holidays {country}: {error}; give a code such as US, DE or US-CA") from error
    return frame.assign(**{HOLIDAYS: [float(day in days) for day in time.date]})


def calendar_column(name: str, time: pd.DatetimeIndex) -> np.ndarray:
    """One of the calendar's inputs ``(rows,)``."""
    time = time if time.tz is None else time.tz_convert(None)  # UTC, whatever offset a file is written in
    day = np.asarray((time - time.normalize()) / DAY, float)
    cycle, wave = name.split("_")
    if cycle == "hour":
        turns = day
    elif cycle == "weekday":
        turns = (time.dayofweek + day) / 7
    elif cycle == "month":
        turns = (time.month - 1) / 12
    else:
        turns = (time.day_of_year - 1 + day) / (YEAR / DAY)
    angle = 2 * np.pi * turns
    return np.asarray(np.sin(angle) if wave == "sin" else np.cos(angle), float)
