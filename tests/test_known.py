"""Columns known in advance: promotions, holidays and the calendar at the rows that are forecast."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from keras_a2.errors import UserError
from keras_a2.recurrent import baselines, data, predict, sources, times
from keras_a2.recurrent.splits import Options

ROWS, LOOK_BACK, HORIZON = 700, 14, 7
DAYS = pd.date_range("2022-01-01", periods=ROWS)


def shop() -> sources.Table:
    """A weekly wave, 20 more on days of promotion, noise of 1."""
    rng = np.random.default_rng(0)
    promotion = (rng.random(ROWS) < 0.2).astype(float)
    load = 50 + 8 * np.sin(2 * np.pi * np.arange(ROWS) / 7) + 20 * promotion + rng.normal(size=ROWS)
    return sources.Table("shop", pd.DataFrame({"load": load, "promotion": promotion}), DAYS, ["load"])


def windows_of(table: sources.Table, **options) -> data.Windows:
    return data.prepare(table, Options(**{"look_back": LOOK_BACK, "horizon": HORIZON, "calendar": False, **options}))


@pytest.mark.parametrize(("look_back", "horizon", "every", "first_lead"), [(14, 7, 1, 1), (4, 10, 1, 1), (5, 3, 2, 4)])
def test_a_window_shows_each_known_value_at_the_rows_that_are_forecast(look_back, horizon, every, first_lead):
    table = shop()
    table.frame["promotion"] = np.arange(ROWS)
    options = {"look_back": look_back, "horizon": horizon, "every": every, "first_lead": first_lead}
    windows = windows_of(table, known="promotion", **options)
    origin = windows.origins["test"][:1]
    columns = [windows.inputs.index(name) for name in windows.ahead]
    shown = np.round(windows.raw(origin)[0][:, columns]).astype(int)
    assert set(origin + windows.future) <= set(shown.ravel())
    assert shown.max() == (origin + windows.future).max()


def test_the_effect_of_a_promotion_is_recovered():
    errors = {}
    for known in (None, "promotion"):
        windows = windows_of(shop(), known=known)
        ridge = baselines.Ridge()
        ridge.fit([windows])
        origins = windows.origins["test"]
        error = ridge.forecast(windows, origins) - windows.actual(origins)
        errors[known] = np.abs(error * windows.target_scale).mean()
    noise = np.sqrt(2 / np.pi)  # the mean absolute value of what cannot be forecast
    assert errors[None] > 5 * noise
    assert errors["promotion"] < 1.4 * noise


def test_a_known_row_after_the_origin_moves_the_forecast_and_a_target_row_does_not():
    ridge, windows = baselines.Ridge(), windows_of(shop(), known="promotion")
    ridge.fit([windows])
    origin = windows.origins["test"][:1]
    forecast = windows.to_unit(ridge.forecast(windows, origin))[0, :, 0]
    later = int(origin[0]) + 3
    moved, same = shop(), shop()
    moved.frame.loc[later, "promotion"] = 1 - moved.frame.loc[later, "promotion"]
    same.frame.loc[later, "load"] += 100
    change = windows.to_unit(ridge.forecast(windows_of(moved, known="promotion"), origin))[0, :, 0] - forecast
    assert abs(change[2]) > 10
    assert np.abs(np.delete(change, 2)).max() < 3
    again = ridge.forecast(windows_of(same, known="promotion"), origin)
    np.testing.assert_array_equal(windows.to_unit(again)[0, :, 0], forecast)


def test_known_columns_are_scaled_by_the_training_rows_alone():
    table = shop()
    clean = windows_of(table, known="promotion")
    table.frame.loc[clean.bounds["train"][1] :, "promotion"] = 5.0
    windows = windows_of(table, known="promotion")
    np.testing.assert_array_equal(windows.mean, clean.mean)
    np.testing.assert_array_equal(windows.scale, clean.scale)


@pytest.mark.parametrize(("known", "message"), [("price", "--known price is no column"), ("load", "load is a target")])
def test_what_cannot_be_known_is_refused(known, message):
    with pytest.raises(UserError, match=message):
        windows_of(shop(), known=known)


def forecaster(known: list[str], inputs: list[str], **card) -> predict.Forecaster:
    """Forecasts what the last input shows at a window's last steps."""
    card = {
        "inputs": inputs, "targets": ["load"], "unit": "", "look_back": LOOK_BACK, "horizon": HORIZON, "every": 1,
        "first_lead": 1, "max_gap": 2, "spacing_seconds": 86400.0, "freq": "D", "known": known, "version": 1, **card,
    }  # fmt: skip
    serve = SimpleNamespace(serve=lambda batch: batch[:, -HORIZON:, -1])
    return predict.Forecaster(serve, card, Path("1"))


def test_a_forecast_takes_the_known_rows_that_follow_the_last_measured_one():
    model = forecaster(["promotion"], ["load", "promotion", "promotion +7"])
    frame = shop().frame.assign(date=DAYS)
    frame.loc[ROWS - HORIZON :, "load"] = np.nan
    answer = model.predict(frame)
    assert list(answer.index) == list(DAYS[-HORIZON:])
    assert list(answer["load"]) == list(frame["promotion"][-HORIZON:])
    assert list(model.forecast(frame)[0].index) == list(DAYS[-HORIZON - LOOK_BACK : -HORIZON])
    frame.loc[ROWS - 2, "promotion"] = np.nan
    with pytest.raises(UserError, match=r"'promotion' must be known at the 7 steps .* after 2023-11-24 00:00:00"):
        model.predict(frame)
    with pytest.raises(UserError, match="append these rows"):
        model.predict(shop().frame.assign(date=DAYS))


def test_a_forecaster_of_rows_takes_the_known_rows_that_follow():
    model = forecaster(["promotion"], ["load", "promotion", "promotion +7"], freq=None, spacing_seconds=None)
    frame = shop().frame
    frame.loc[ROWS - HORIZON :, "load"] = np.nan
    assert list(model.predict(frame)["load"]) == list(frame["promotion"][-HORIZON:])


def test_holidays_are_those_of_the_country():
    frame = times.with_holidays(pd.DataFrame(index=DAYS), DAYS, times.even(times.DAY), "US")
    assert {"2022-07-04", "2022-12-26"} <= {str(day.date()) for day in DAYS[frame["holiday"] == 1]}  # 26: observed
    assert frame["holiday"].sum() == pytest.approx(2 * 12, abs=3)
    hours = pd.date_range("2022-07-03 12:00", periods=36, freq="h")
    in_hours = times.with_holidays(pd.DataFrame(index=hours), hours, times.even(pd.Timedelta("1h")), "US")
    assert list(in_hours["holiday"]) == [0] * 12 + [1] * 24


@pytest.mark.parametrize(("country", "step", "message"), [("XX", 1, "--holidays XX"), ("US", 7, "a day or less")])
def test_holidays_that_are_not_known_are_refused(country, step, message):
    with pytest.raises(UserError, match=message):
        times.with_holidays(pd.DataFrame(index=DAYS), DAYS, times.even(step * times.DAY), country)


def test_holidays_and_the_calendar_need_no_rows_of_a_person():
    windows = windows_of(shop(), holidays="US", known="weekday_sin", calendar=True)
    assert windows.known == ["weekday_sin", "holiday"]
    table = shop().frame.assign(date=DAYS)
    model = forecaster(["holiday"], ["load", "holiday", "holiday +7"], holidays="US")
    to_christmas = table[DAYS <= "2022-12-22"]
    assert list(model.predict(to_christmas)["load"]) == [0, 0, 1, 1, 0, 0, 0]  # Sunday, and Monday in its place
    model = forecaster(["weekday_sin"], ["load", "weekday_sin", "weekday_sin +7"])
    ahead = times.calendar_column("weekday_sin", pd.date_range(DAYS[-1], periods=8)[1:])
    np.testing.assert_allclose(model.predict(table)["load"], ahead)


@pytest.mark.parametrize(("look_back", "horizon"), [(14, 7), (4, 8)])
def test_every_step_shows_the_network_what_is_known_of_the_rows_ahead(look_back, horizon):
    from keras_a2.recurrent.model import relative

    windows = windows_of(shop(), known="promotion", look_back=look_back, horizon=horizon)
    origins = windows.origins["test"][:3]
    features = np.asarray(relative(windows.seen(origins), windows))
    assert features.shape == (3, look_back, windows.features)
    column = windows.values[:, windows.inputs.index("promotion")]
    ahead = np.repeat(np.sort(column[origins[:, np.newaxis] + windows.future])[:, np.newaxis], look_back, axis=1)
    np.testing.assert_array_equal(np.sort(features[..., -horizon:]), ahead)
