"""Series files as people have them: read, or refused with advice that works."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_a2 import runs
from keras_a2.errors import UserError
from keras_a2.recurrent import baselines, data, predict, report, sources, splits, times

ROWS = 400
LOAD = np.round(np.random.default_rng(0).normal(size=ROWS).cumsum() * 100 + 3000, 2)
HOURS = pd.date_range("2024-01-05", periods=ROWS, freq="h")
DAYS = pd.date_range("2023-01-05", periods=ROWS, freq="D")
BUSINESS_DAYS = pd.bdate_range("2022-01-03", periods=ROWS)
MONTHS = pd.date_range("1990-01-01", periods=ROWS, freq="MS")


def written(path: Path, *columns, header: str, separator: str = ",") -> Path:
    lines = [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def prepared(path: Path, target: str = "load", time: str | None = None, **options) -> data.Windows:
    table = sources.find(str(path), target, time, None)
    return data.prepare(table, **{"look_back": 24, "horizon": 24, **options})


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        prepared(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def comma(value: float, thousands: str = "") -> str:
    return f"{value:,.2f}".translate(str.maketrans({",": thousands, ".": ","}))


@pytest.mark.parametrize("thousands", ["", ".", " ", "'"])
@pytest.mark.parametrize(("separator", "dates"), [(";", "%d.%m.%Y"), ("\t", "%d/%m/%Y"), (";", "%Y-%m-%d")])
def test_decimal_commas_and_day_first_dates(tmp_path, thousands, separator, dates):
    path = written(
        tmp_path / "s.csv", DAYS.strftime(dates), [comma(v, thousands) for v in LOAD], np.arange(ROWS) % 2,
        header=f"Date{separator}load{separator}promo", separator=separator,
    )  # fmt: skip
    table = sources.find(str(path), "load", None, None)
    np.testing.assert_allclose(table.frame["load"], LOAD)
    np.testing.assert_allclose(table.frame["promo"], np.arange(ROWS) % 2)
    assert (table.time == DAYS).all()


def test_a_point_in_a_file_of_decimal_commas_parts_thousands(tmp_path):
    visits = np.where(np.arange(ROWS) % 2, "1.234", "950")
    path = written(tmp_path / "s.csv", DAYS, [comma(v) for v in LOAD], visits, header="Date;load;visits", separator=";")
    assert set(sources.find(str(path), "load", None, None).frame["visits"]) == {1234, 950}


def test_thousands_in_quotes(tmp_path):
    path = written(tmp_path / "s.csv", DAYS, [f'"{v:,.2f}"' for v in LOAD], header="date,load")
    np.testing.assert_allclose(sources.find(str(path), "load", None, None).frame["load"], LOAD)
    path = written(tmp_path / "s.csv", DAYS, [f'"1,{i}"' for i in range(100, 100 + ROWS)], header="date,load")
    assert "decimal or thousands" in refusal(path)


def test_a_value_that_is_no_number_is_named_with_its_line(tmp_path):
    values = [comma(v) for v in LOAD]
    values[7] = "broken"
    path = written(tmp_path / "s.csv", DAYS, values, header="date;load", separator=";")
    assert "'load' is not numeric (first in line 9: 'broken')" in refusal(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path, encoding):
    frame = pd.DataFrame({"date": DAYS, "load": LOAD, "Température °C": LOAD})
    frame.to_csv(tmp_path / "s.csv", index=False, encoding=encoding)
    table = sources.find(str(tmp_path / "s.csv"), "load", None, None)
    assert list(table.frame.columns) == ["load", "Température °C"]


@pytest.mark.parametrize(
    ("dates", "times", "unlike"),
    [
        ("%d/%m/%Y", DAYS, False),
        ("%m/%d/%Y", DAYS, False),
        ("%d/%m/%y", DAYS, False),
        ("%d/%m/%Y %H:%M", HOURS, False),
        ("%m/%d/%Y %I:%M %p", HOURS, False),
        ("%d/%m/%Y", DAYS[27:37], True),  # 1 to 10 February: only one order is even
        ("%m/%d/%Y", DAYS[27:37], True),
        ("%d/%m/%Y %H:%M", pd.date_range("2024-02-01", periods=200, freq="h"), True),
    ],
)
def test_the_order_of_day_and_month_follows_from_the_whole_column(tmp_path, dates, times, unlike):
    texts = times.strftime(dates)
    assert (texts.str[:2].astype(int).max() <= 12 and texts.str[3:5].astype(int).max() <= 12) == unlike
    path = written(tmp_path / "s.csv", texts, LOAD[: len(times)], header="date,load")
    table = sources.find(str(path), "load", None, None)
    assert (table.time == times).all()
    assert table.notes == [f"Dates were read as {'day, month' if dates[1] == 'd' else 'month, day'}, year."]


def test_dates_that_can_be_either_are_refused(tmp_path):
    path = written(tmp_path / "s.csv", ["01/01/2024", "02/02/2024", "03/03/2024"], [1, 2, 3], header="date,load")
    assert "day/month and as month/day, such as '01/01/2024'; write them as 2024-01-31" in refusal(path)


def test_a_day_and_a_clock_in_two_columns(tmp_path):
    path = written(
        tmp_path / "s.csv", HOURS.strftime("%d/%m/%Y"), HOURS.strftime("%H:%M:%S"), LOAD, header="Date;Time;load",
        separator=";",
    )  # fmt: skip
    assert (sources.find(str(path), "load", None, None).time == HOURS).all()
    path = written(tmp_path / "s.csv", HOURS.strftime("%Y-%m-%d"), HOURS.hour, LOAD, header="date,Hour,load")
    assert (sources.find(str(path), "load", None, None).time == HOURS).all()


@pytest.mark.parametrize("parts", [["year", "month", "day", "hour"], ["Year", "Month", "Day"], ["YEAR", "month"]])
def test_a_time_in_columns_of_its_parts(tmp_path, parts):
    time = {4: HOURS, 3: DAYS, 2: MONTHS}[len(parts)]
    columns = [getattr(time, part.lower()) for part in parts]
    path = written(tmp_path / "s.csv", *columns, LOAD, header=",".join([*parts, "load"]))
    table = sources.find(str(path), "load", None, None)
    assert (table.time == time).all()
    assert list(table.frame.columns) == ["load"]
    assert table.time_column == " ".join(parts)
    assert prepared(path, time="none").inputs == [*parts, "load"]


@pytest.mark.parametrize(("per_second", "unit"), [(1, "seconds"), (1000, "milliseconds"), (10**6, "microseconds")])
def test_epoch_numbers_are_times(tmp_path, per_second, unit):
    seconds = HOURS.as_unit("s").asi8
    path = written(tmp_path / "s.csv", seconds * per_second, LOAD, header="timestamp,load")
    windows = prepared(path, calendar=False)
    assert windows.inputs == ["load"]
    assert (windows.time == HOURS.tz_localize("UTC")).all()
    assert any(unit in note for note in windows.facts["notes"])
    shuffled = np.random.default_rng(0).permutation(seconds)
    assert "backwards" in refusal(written(tmp_path / "s.csv", shuffled, LOAD, header="timestamp,load"))


def test_numbers_that_are_no_times_stay_inputs(tmp_path):
    path = written(tmp_path / "s.csv", np.arange(ROWS) / 10, LOAD, header="time,load")
    assert prepared(path).inputs == ["time", "load"]
    assert "neither seconds" in refusal(path, time="time")
    path = written(tmp_path / "s.csv", DAYS.strftime("%Y%m%d"), LOAD, header="date,load")
    assert (prepared(path).time == DAYS).all()


INDEXES = {
    "times": HOURS,
    "texts": pd.Index(HOURS.astype(str)),
    "periods": pd.period_range("2024-01-05", periods=ROWS, freq="h"),
    "zone": HOURS.tz_localize("Europe/Berlin"),
    "levels": pd.MultiIndex.from_arrays([HOURS, np.arange(ROWS)], names=["when", "number"]),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_times_in_the_index_of_parquet(tmp_path, index):
    pd.DataFrame({"load": LOAD}, index=index).to_parquet(tmp_path / "s.parquet")
    time = sources.find(str(tmp_path / "s.parquet"), "load", None, None).time
    assert (time.tz_localize(None) == HOURS).all()


def test_days_of_a_clock_that_changes(tmp_path):
    days = pd.date_range("2023-01-05", periods=ROWS, tz="Europe/Berlin")
    path = written(tmp_path / "s.csv", [day.isoformat() for day in days], LOAD, header="date,load")
    assert prepared(path).step == pd.Timedelta("1D")
    pd.DataFrame({"load": LOAD}, index=days).to_parquet(tmp_path / "s.parquet")
    assert prepared(tmp_path / "s.parquet").step == pd.Timedelta("1D")


def test_long_format_is_refused_and_the_advised_pivot_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ids, stamps in ((np.repeat(["a", "b"], 200), [*DAYS[:200]] * 2), ([3, 4] * 200, DAYS[:200].repeat(2))):
        path = written(tmp_path / "s.csv", ids, stamps, LOAD, header="unique_id,ds,load")
        table = pd.read_csv(path)
        message = refusal(path)
        assert "holds 2 series, told apart by column 'unique_id'" in message
        eval(re.search(r"table\.pivot.*", message)[0], {"table": table})
        wide = prepared(tmp_path / "wide.csv", target="all")
        assert wide.targets == [str(i) for i in dict.fromkeys(ids)]
        assert wide.step == pd.Timedelta("1D")


def test_no_advice_loses_rows(tmp_path):
    clock = pd.date_range("2024-10-20", periods=ROWS, freq="h", tz="Europe/Berlin")
    path = written(tmp_path / "s.csv", clock.tz_localize(None), LOAD, header="date,load")
    assert "write times with their offset" in refusal(path)
    path = written(tmp_path / "s.csv", [time.isoformat() for time in clock], LOAD, header="date,load")
    assert len(prepared(path).values) == ROWS


BUSINESS_HOURS = pd.DatetimeIndex(
    [day + pd.Timedelta(hours=hour) for day in BUSINESS_DAYS[:50] for hour in range(9, 17)]
)


def test_steps_that_are_uneven_by_the_clock_count_as_rows_when_asked(tmp_path):
    path = written(tmp_path / "s.csv", BUSINESS_HOURS, LOAD, header="date,load")
    said = refusal(path)
    assert "no row for" in said
    assert "add --time none" in said
    windows = prepared(path, time="none")
    assert (windows.time, windows.inputs, len(windows.values)) == (None, ["load"], ROWS)


RHYTHMS = {
    # freq: what is inferred, in words, the cycles of its calendar, steps of a season
    "10min": ("min", "10 minutes", ["hour", "year"], 144),
    "h": ("h", "1 hour", ["hour", "year"], 24),
    "D": ("D", "1 day", ["weekday", "year"], 7),
    "B": ("B", "1 business day", ["weekday", "year"], 5),
    "W-MON": ("W-MON", "1 week", ["year"], 52),
    "MS": ("MS", "1 month", ["month"], 12),
    "ME": ("ME", "1 month", ["month"], 12),
    "BME": ("BME", "1 month", ["month"], 12),
    "QS": ("QS-JAN", "1 quarter", ["month"], 4),
    "QE-FEB": ("QE-NOV", "1 quarter", ["month"], 4),
    "YS": ("YS-JAN", "1 year", [], None),
    "YE": ("YE-DEC", "1 year", [], None),
}


@pytest.mark.parametrize(("freq", "expected"), RHYTHMS.items(), ids=RHYTHMS)
@pytest.mark.parametrize("absent", [0, 3], ids=["whole", "gaps"])
def test_every_rhythm_is_read(tmp_path, freq, expected, absent):
    rows = 150 if freq.startswith("Y") else ROWS  # nanoseconds end in 2262
    time = pd.date_range("1970-01-05", periods=rows, freq=freq).delete([10, 11, 40][:absent])
    path = written(tmp_path / "s.csv", time, LOAD[: len(time)], header="date,load")
    windows = prepared(path, look_back=6, horizon=3)
    name, words, cycles, season = expected
    # Quarters by the month that ends one, pandas says QE-FEB and QE-NOV, are the same; so are business days off.
    assert windows.freq.rule_code.split("-")[0] == name.split("-")[0]
    assert (windows.summary()["freq"], windows.spacing()) == (windows.freq.freqstr, words)
    assert len(windows.values) == (rows - absent if freq == "B" else rows)
    assert times.calendar_names(windows.freq) == [f"{cycle}_{wave}" for cycle in cycles for wave in ("sin", "cos")]
    assert windows.inputs == ["load", *times.calendar_names(windows.freq, windows.bounds["train"][1])]
    assert baselines._usual_season(windows.step) == season


def test_days_of_business_without_a_row_are_holidays_and_weeks_are_gaps(tmp_path):
    time = BUSINESS_DAYS.delete([*range(50, 55), *range(100, 106)])
    windows = prepared(written(tmp_path / "s.csv", time, LOAD[: len(time)], header="date,load"))
    assert len(windows.values) == ROWS - 5
    assert "5 weekdays without a row were taken as holidays." in windows.facts["notes"]
    assert windows.facts["missing_values"] == 6


def test_months_on_a_day_of_their_own_are_named_by_their_first(tmp_path):
    path = written(tmp_path / "s.csv", MONTHS + pd.Timedelta("14D"), LOAD, header="date,load")
    windows = prepared(path)
    assert (windows.time == MONTHS).all()
    assert "Months are named by their first day." in windows.facts["notes"]


@pytest.mark.parametrize("format", ["%b-%y", "%Y-%m", "%m/%Y", "%B %Y", "%d.%m.%Y", "%d/%m/%Y"])
def test_months_as_people_write_them(tmp_path, format):
    path = written(tmp_path / "s.csv", MONTHS.strftime(format), LOAD, header="month,load")
    assert (sources.find(str(path), "load", None, None).time == MONTHS).all()


@pytest.mark.parametrize("format", ["{}Q{}", "{}-Q{}", "{} Q{}"])
def test_quarters_as_people_write_them(tmp_path, format):
    quarters = pd.date_range("1990-01-01", periods=100, freq="QS")
    texts = [format.format(time.year, time.quarter) for time in quarters]
    path = written(tmp_path / "s.csv", texts, LOAD[:100], header="date,load")
    assert (sources.find(str(path), "load", None, None).time == quarters).all()


def test_a_spacing_that_is_given_is_kept_or_refused(tmp_path):
    path = written(tmp_path / "s.csv", BUSINESS_DAYS, LOAD, header="date,load")
    assert prepared(path, freq="B").spacing() == "1 business day"
    days = prepared(path, freq="D", horizon=2, look_back=2)
    assert (days.spacing(), len(days.values)) == ("1 day", 558)
    assert "--freq 'often' is no spacing; take one of pandas" in refusal(path, freq="often")
    assert "the times are not steps of 1 month from 2022-01-03" in refusal(path, freq="MS")
    weeks = written(tmp_path / "w.csv", DAYS[::7], LOAD[::7], header="date,load")
    assert prepared(weeks, freq="W", look_back=2, horizon=2).freq.freqstr == "W-THU"


def test_years_as_numbers(tmp_path):
    years = np.arange(1700, 1700 + 300)
    path = written(tmp_path / "s.csv", years, LOAD[:300], header="YEAR,load")
    windows = prepared(path)
    assert (windows.spacing(), list(windows.time.year)) == ("1 year", list(years))
    assert prepared(path, time="none").inputs == ["load"]


@pytest.mark.parametrize(
    ("broken", "advice"),
    [
        ("x", r"column 'x' has 49 in a row: raise --max-gap to (\d+)"),
        ("load", r"'load' has no value in 360 of 400 rows"),
    ],
)
def test_the_column_that_leaves_no_window_is_named(tmp_path, broken, advice):
    columns = {"load": LOAD.copy(), "x": LOAD.copy()}
    columns[broken][np.arange(ROWS) % (50 if broken == "x" else 10) > 0] = np.nan
    path = written(tmp_path / "s.csv", *columns.values(), header="load,x")
    advised = re.search(advice, refusal(path))
    assert advised
    if broken == "x":
        prepared(path, max_gap=int(advised[1]))


def test_what_was_taken_is_said(tmp_path, capsys):
    path = written(tmp_path / "s.csv", DAYS.strftime("%d/%m/%Y"), LOAD, LOAD, header="day,load,other")
    report.describe(prepared(path, horizon=6))
    said = capsys.readouterr().out
    for part in (
        "times day from 2023-01-05",
        "every 1 day",
        "target load",
        "inputs load, other, weekday_sin",
        "day, month",
    ):
        assert part in said
    report.describe(prepared(written(tmp_path / "s.csv", LOAD, LOAD, header="load,other")))
    assert "no column with times was detected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "text"),
    [("1h", "1 hour"), ("15min", "15 minutes"), ("7D", "1 week"), ("90s", "90 seconds"), ("0.5s", "0.5 seconds")],
)
def test_spacing_in_words(step, text):
    assert times.spacing(times.even(pd.Timedelta(step))) == text


@pytest.mark.parametrize("ending", ["gz", "zip", "xz", "bz2", "tar", "tar.gz", "zst"])
def test_what_is_not_compressed_as_its_name_says_is_one_line(tmp_path, ending):
    path = tmp_path / f"s.csv.{ending}"
    path.write_text("date,load\n2024-01-01,1\n")
    assert "cannot be read as a table" in refusal(path)


def test_compressed_files_whole_and_cut(tmp_path):
    content = pd.DataFrame({"date": DAYS, "load": LOAD}).to_csv(index=False).encode()
    packed = gzip.compress(content)
    (tmp_path / "s.csv.gz").write_bytes(packed)
    assert len(prepared(tmp_path / "s.csv.gz").values) == ROWS
    (tmp_path / "s.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert "cannot be read as a table" in refusal(tmp_path / "s.csv.gz")


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1e200"])
def test_numbers_beyond_float32_are_refused(tmp_path, value):
    path = written(tmp_path / "s.csv", [value, *LOAD[1:]], header="load")
    assert "'load' is larger than 1e+30 in line 2" in refusal(path)


@pytest.mark.parametrize("name", ["lead", "step", "time"])
def test_targets_named_like_a_column_of_the_forecast_are_refused(tmp_path, name):
    path = written(tmp_path / "s.csv", HOURS, LOAD, header=f"date,{name}")
    assert f"column name {name!r} is taken" in refusal(path, target=name)


def test_inputs_named_like_the_calendar_are_refused(tmp_path):
    path = written(tmp_path / "s.csv", HOURS, LOAD, LOAD, header="date,load,hour_sin")
    assert "column name 'hour_sin' is taken" in refusal(path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("recurrent-My data (2024)-gru", "recurrent-My-data-2024-gru"),
        ("recurrent-R&D-gru", "recurrent-R-D-gru"),
        ("transfer-ünï_1.5", "transfer-ünï_1.5"),
        ("transfer-a/../b", "transfer-a-b"),
        ("recurrent-nyc_weather-gru", "recurrent-nyc_weather-gru"),
        ("transfer-" + "x" * 300, "transfer-" + "x" * 91),
    ],
)
def test_a_folder_is_named_after_any_data(tmp_path, name, folder):
    assert runs.folder_name(name) == folder
    assert runs.check_name(folder) == folder


SHARES = st.lists(st.integers(5, 80), min_size=3, max_size=3).filter(lambda parts: sum(parts) <= 100)


@settings(max_examples=100, deadline=None)
@given(shares=SHARES, sees=st.integers(1, 90), ahead=st.integers(1, 40), rows=st.integers(0, 30))
def test_the_rows_asked_for_are_enough_and_one_fewer_is_not(shares, sees, ahead, rows):
    for split in (",".join(str(part / 100) for part in shares), splits.BOOK):

        def needed(rows: int, split: str = split) -> int | None:
            try:
                splits.split_bounds(split, rows, sees, ahead)
            except UserError as error:
                return int(re.search(r"at least (\d+) rows", str(error))[1])
            return None

        asked = needed(rows)
        if asked is not None:
            assert needed(asked - 1) == asked
            assert [needed(more) for more in range(asked, asked + 120)] == [None] * 120


def test_a_split_by_rows_that_is_too_small_is_to_be_enlarged():
    with pytest.raises(UserError, match=r"the validation split 20; one window needs 24 .* with --split"):
        splits.split_bounds("60,20,30", 1000, 5, 24)


def forecaster(max_gap: int = 12, step: float | None = 3600, freq: str | None = None) -> predict.Forecaster:
    """Persistence, published."""
    card = {"inputs": ["load"], "targets": ["load"], "unit": "MW", "look_back": 24, "horizon": 3, "every": 1}
    card |= {"first_lead": 1, "max_gap": max_gap, "spacing_seconds": step, "freq": freq, "version": 1}
    serve = SimpleNamespace(serve=lambda batch: np.repeat(batch[:, -1:, 0], 3, axis=1))
    return predict.Forecaster(serve, card, Path("1"))


def test_forecasts_are_labelled_in_the_file_s_own_offset(tmp_path):
    times = HOURS[:48].strftime("%Y-%m-%dT%H:%M:%S+01:00")
    assert times[-1] == "2024-01-06T23:00:00+01:00"
    path = written(tmp_path / "s.csv", times, LOAD[:48], header="date,load")
    answer = forecaster().predict(path)
    assert [str(time) for time in answer.index[:2]] == ["2024-01-07 00:00:00+01:00", "2024-01-07 01:00:00+01:00"]
    berlin = pd.date_range("2024-03-30 02:00", periods=24, freq="h", tz="Europe/Berlin")
    answer = forecaster().predict(pd.DataFrame({"load": LOAD[:24]}, index=berlin))
    assert str(answer.index[0]) == "2024-03-31 03:00:00+02:00"  # the clock is put forward after 01:00


@pytest.mark.parametrize(
    ("freq", "last", "ahead"),
    [
        ("ME", "2023-12-31", ["2024-01-31", "2024-02-29", "2024-03-31"]),
        ("MS", "2023-12-01", ["2024-01-01", "2024-02-01", "2024-03-01"]),
        ("QE-DEC", "2023-12-31", ["2024-03-31", "2024-06-30", "2024-09-30"]),
        ("B", "2024-03-28", ["2024-03-29", "2024-04-01", "2024-04-02"]),
        ("W-SUN", "2024-02-25", ["2024-03-03", "2024-03-10", "2024-03-17"]),
        ("YS-JAN", "2023-01-01", ["2024-01-01", "2025-01-01", "2026-01-01"]),
    ],
)
def test_forecasts_have_the_dates_that_follow(tmp_path, freq, last, ahead):
    time = pd.date_range(end=last, periods=30, freq=freq)
    path = written(tmp_path / "s.csv", time, LOAD[:30], header="date,load")
    seen, answer = forecaster(step=2.6e6, freq=freq).forecast(path)
    assert list(answer.index) == list(pd.to_datetime(ahead))
    assert list(seen.index) == list(time[-24:])


def test_a_card_without_a_spacing_by_name_is_read_in_its_seconds(tmp_path):
    path = written(tmp_path / "s.csv", DAYS[::7], LOAD[::7], header="date,load")
    assert forecaster(step=7 * 86400).predict(path).index[0] == DAYS[::7][-1] + pd.Timedelta("7D")


def test_the_calendar_does_not_depend_on_the_offset_a_file_is_written_in():
    utc = HOURS.tz_localize("UTC")
    for name in times.CALENDAR:
        expected = times.calendar_column(name, HOURS)
        np.testing.assert_array_equal(times.calendar_column(name, utc.tz_convert("Asia/Tokyo")), expected)


def test_no_gap_is_filled_with_max_gap_0(tmp_path):
    holey = LOAD.copy()
    holey[-1] = np.nan
    path = written(tmp_path / "s.csv", HOURS, holey, header="date,load")
    assert forecaster(max_gap=1).predict(path)["load"].iloc[0] == pytest.approx(holey[-2])
    with pytest.raises(UserError, match="'load' has a gap in the last 24 rows"):
        forecaster(max_gap=0).predict(path)
    holey = LOAD.copy()
    holey[100] = np.nan
    path = written(tmp_path / "s.csv", HOURS, holey, header="date,load")
    windows = prepared(path, max_gap=0)
    origins = np.concatenate(list(windows.origins.values()))
    assert not set(range(76, 124)) & set(origins)  # each sees or forecasts the hole


def test_a_forecaster_of_rows_takes_no_times(tmp_path):
    path = written(tmp_path / "s.csv", BUSINESS_DAYS, LOAD, header="date,load")
    answer = forecaster(step=None).predict(path)
    assert (answer.index.name, list(answer.index)) == ("step", [1, 2, 3])
    path = written(tmp_path / "s.csv", MONTHS, LOAD, header="date,load")
    with pytest.raises(UserError, match="steps of 1 month; the model was trained on steps of 1 hour"):
        forecaster().predict(path)
