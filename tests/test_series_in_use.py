"""Series files that a published forecaster reads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from keras_a2.errors import UserError
from keras_a2.recurrent import predict, times
from test_series_files import BUSINESS_DAYS, DAYS, HOURS, LOAD, MONTHS, prepared, written


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
