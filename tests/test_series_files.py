"""Series files as people have them: read, or refused with advice that works."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from keras_a2 import runs
from keras_a2.errors import UserError
from keras_a2.recurrent import data, report, seasons, sources, times
from keras_a2.recurrent.splits import Options

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
    return data.prepare(table, Options(**{"look_back": 24, "horizon": 24, **options}))


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
    assert (prepared(path).time == HOURS).all()


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
    assert seasons._usual_season(windows.step) == season


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


WEEKS, QUARTERS = (pd.date_range("1950-01-02", periods=ROWS, freq=freq) for freq in ("W-MON", "QS"))
WRITTEN = {
    "quarters first": (QUARTERS, [f"Q{day.quarter} {day.year}" for day in QUARTERS], "quarter"),
    "weeks of ISO 8601": (WEEKS, WEEKS.strftime("%G-W%V"), "week"),
    "months as numbers": (MONTHS, MONTHS.strftime("%Y%m"), "month"),
    "days of a spreadsheet": (DAYS, (DAYS - pd.Timestamp("1899-12-30")).days, "date"),
    "years in German": (pd.date_range("1700", periods=ROWS, freq="YS"), np.arange(1700, 1700 + ROWS), "Jahr"),
    "newest first": (DAYS, DAYS.strftime("%Y-%m-%d"), "date"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_times_as_spreadsheets_write_them(tmp_path, kind):
    time, texts, name = WRITTEN[kind]
    order = slice(None, None, -1 if kind == "newest first" else 1)
    path = written(tmp_path / "s.csv", texts[order], LOAD[order], header=f"{name},load")
    table = sources.find(str(path), "load", None, None)
    assert (table.time == time).all()
    np.testing.assert_allclose(table.frame["load"], LOAD)


@pytest.mark.parametrize("footer", ["Total;1.234,5", ";1.234,5", ";", ";\n;\nSumme;12"])
def test_a_spreadsheet_s_first_line_and_footer_are_no_rows(tmp_path, footer):
    path = written(tmp_path / "s.csv", DAYS.strftime("%d.%m.%Y"), [comma(v, ".") for v in LOAD], header="Datum;load",
                   separator=";")  # fmt: skip
    path.write_text(f"sep=;\n{path.read_text()}{footer}\n", encoding="utf-8-sig")
    table = sources.find(str(path), "load", None, None)
    assert (table.time == DAYS).all()
    np.testing.assert_allclose(table.frame["load"], LOAD)
    assert any("left out" in note for note in table.notes) == (footer != ";")


def test_row_numbers_are_no_input_and_true_is_one(tmp_path):
    frame = pd.DataFrame({"date": DAYS, "load": LOAD, "open": np.arange(ROWS) % 7 > 0})
    frame.to_csv(tmp_path / "s.csv")
    table = sources.find(str(tmp_path / "s.csv"), "load", None, None)
    assert list(table.frame.columns) == ["load", "open"]
    assert table.frame["open"].sum() == frame["open"].sum()


def test_lines_above_the_header_are_named(tmp_path):
    path = written(tmp_path / "s.csv", DAYS, LOAD, header="date,load")
    path.write_text(f"Sales of a year\n\n{path.read_text()}")
    assert "line 1, 'Sales of a year', is not the header; delete the lines above the header" in refusal(path)


def test_the_only_column_of_a_file_is_its_target(tmp_path):
    table = sources.find(str(written(tmp_path / "s.csv", DAYS, LOAD, header="date,load")), None, None, None)
    assert table.target == ["load"]
    path = written(tmp_path / "s.csv", DAYS[1:], LOAD[1:], header=f"{DAYS[0]},{LOAD[0]}")  # has no header
    with pytest.raises(UserError, match="--target is missing"):
        sources.find(str(path), None, None, None)
    path = written(tmp_path / "s.csv", DAYS, LOAD, LOAD, header="date,load,price")
    with pytest.raises(UserError, match="has the columns load, price"):
        sources.find(str(path), None, None, None)


def test_a_dash_is_a_missing_value(tmp_path):
    path = written(tmp_path / "s.csv", DAYS, ["-", *LOAD[1:]], header="date,load")
    assert np.isnan(sources.find(str(path), "load", None, None).frame["load"][0])
