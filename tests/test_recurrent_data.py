"""Series to windows: grids, gaps, splits without leaks, and every kind of bad file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pandas.tseries.frequencies import to_offset

import recurrent
from conftest import run_script
from keras_a2 import settings
from keras_a2.errors import UserError
from keras_a2.recurrent import baselines, data, evaluate, seasons, sources, splits, times, train
from keras_a2.recurrent.splits import Options


def table(rows: int = 100, columns: int = 2, freq: str | None = "h") -> sources.Table:
    values = np.random.default_rng(0).normal(size=(rows, columns)).cumsum(axis=0)
    time = None if freq is None else pd.date_range("2024-01-01", periods=rows, freq=freq)
    frame = pd.DataFrame(values, columns=[f"c{k}" for k in range(columns)])
    return sources.Table("t", frame, time, ["c0"])


def test_windows_are_the_rows_they_say():
    t = table()
    windows = data.prepare(t, Options(look_back=5, horizon=3, calendar=False))
    origin = windows.origins["test"][:1]
    row = int(origin[0])
    np.testing.assert_allclose(windows.raw(origin)[0], t.frame.to_numpy()[row - 4 : row + 1], rtol=1e-5)
    np.testing.assert_allclose(
        windows.to_unit(windows.actual(origin))[0, :, 0], t.frame["c0"][row + 1 : row + 4], rtol=1e-5
    )


def test_the_book_s_protocol_sees_hourly_rows_and_one_day_ahead():
    t = table(12_347, 1, "10min")
    windows = data.prepare(t, Options(look_back=120, horizon=1, first_lead=24, every=6, calendar=False))
    origin = windows.origins["validation"][:1]
    row = int(origin[0])
    np.testing.assert_allclose(windows.raw(origin)[0, :, 0], t.frame["c0"][row - 119 * 6 : row + 1 : 6], rtol=1e-5)
    assert windows.to_unit(windows.actual(origin))[0, 0, 0] == pytest.approx(t.frame["c0"][row + 144], rel=1e-5)
    naive = baselines.Persistence().forecast(windows, origin)
    assert windows.to_unit(naive)[0, 0, 0] == pytest.approx(t.frame["c0"][row], rel=1e-5)


def test_the_preset_has_the_windows_and_the_naive_error_of_the_book_s_own_code(tmp_path):
    import keras

    frame = table(12_347, 2, None).frame
    frame.to_csv(tmp_path / "series.csv", index=False)
    arguments = ["--data", "jena", "--target", "c1", "--preset", "chollet"]
    series = splits.with_preset(settings.parse(recurrent.Config, arguments).series)
    series = replace(series, data=str(tmp_path / "series.csv"))
    recorded = {"look_back": 120, "horizon": 1, "first_lead": 24, "every": 6, "calendar": False}  # in metrics.json
    assert {name: getattr(series, name) for name in recorded} == recorded
    windows = data.load(series)
    raw, temperature = frame.to_numpy(), frame["c1"].to_numpy()
    train, validation = int(0.5 * len(raw)), int(0.25 * len(raw))
    delay = 6 * (120 + 24 - 1)
    slices = {"train": (0, train), "validation": (train, train + validation), "test": (train + validation, None)}
    for split, (start, end) in slices.items():
        dataset = keras.utils.timeseries_dataset_from_array(
            raw[:-delay],
            targets=temperature[delay:],
            sampling_rate=6,
            sequence_length=120,
            batch_size=256,
            start_index=start,
            end_index=end,
        )
        seen, wanted = (np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True))
        origins = windows.origins[split]
        assert len(origins) == len(wanted)
        np.testing.assert_allclose(windows.raw(origins[[0, -1]]), seen[[0, -1]], atol=1e-4)
        error = evaluate.errors(windows, baselines.Persistence().forecast(windows, origins), split)
        naive = np.abs(seen[:, -1, 1] - wanted).mean()
        assert evaluate.metrics(windows, error)["mae"] == pytest.approx(naive, rel=1e-5)
    np.testing.assert_allclose(windows.mean, raw[:train].mean(axis=0), rtol=1e-6)
    with pytest.raises(UserError, match="the series has 6000 rows"):
        splits.split_bounds(splits.BOOK, 6000, 715, 144)


@pytest.mark.slow
def test_the_preset_is_for_the_book_s_data_only():
    answer = run_script("recurrent", "--preset", "chollet")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: --preset chollet cuts rows as the book does for --data jena, not for nyc_w")


@pytest.mark.parametrize("split", ["0.6,0.2,0.2", "50,20,20"])
def test_no_later_row_enters_an_earlier_split(split):
    clean = data.prepare(table(), Options(look_back=5, horizon=3, split=split))
    for name, later in (("train", "validation"), ("validation", "test")):
        poisoned = table()
        start = clean.bounds[later][0]
        poisoned.frame.iloc[start:] = 1e6
        windows = data.prepare(poisoned, Options(look_back=5, horizon=3, split=split))
        origins = clean.origins[name]
        assert (windows.origins[name] == origins).all()
        np.testing.assert_array_equal(windows.seen(origins), clean.seen(origins))
        np.testing.assert_array_equal(windows.actual(origins), clean.actual(origins))
        np.testing.assert_array_equal(windows.mean, clean.mean)
        np.testing.assert_array_equal(windows.scale, clean.scale)


def test_the_published_window_counts_of_etth1():
    windows = data.prepare(table(17_420, 1), Options(look_back=96, horizon=96, split="8640,2880,2880"))
    assert [len(windows.origins[s]) for s in splits.SPLITS] == [8449, 2785, 2785]


def test_short_gaps_are_filled_from_the_past_and_long_ones_drop_windows():
    t = table(200, 1)
    t.frame.iloc[50:53] = np.nan
    t.frame.iloc[80:90] = np.nan
    windows = data.prepare(t, Options(look_back=4, horizon=2, max_gap=5, calendar=False))
    filled = windows.values[50:53, 0] * windows.scale + windows.mean
    np.testing.assert_allclose(filled, t.frame["c0"][49], rtol=1e-5)
    origins = windows.origins["train"]
    assert 53 in origins  # sees filled rows only
    assert not {51, 50, 49} & set(origins)  # their targets were not measured
    assert not set(range(85, 93)) & set(origins)  # what they would see is not filled
    assert windows.facts["windows_dropped"] == 193 - sum(map(len, windows.origins.values()))


def test_absent_rows_become_gaps_on_the_grid():
    t = table(100, 1)
    t = sources.Table("t", t.frame.drop(index=[30, 31]).reset_index(drop=True), t.time.delete([30, 31]), ["c0"])
    windows = data.prepare(t, Options(look_back=4, horizon=2))
    assert len(windows.values) == 100
    assert windows.facts["grid_rows_added"] == 2
    assert windows.facts["missing_values"] == 2


def test_a_constant_column_divides_by_nothing():
    t = table()
    t.frame["c1"] = 7.0
    windows = data.prepare(t, Options(look_back=5, horizon=3))
    assert np.isfinite(windows.values).all()
    assert windows.scale[1] == 1


@pytest.mark.parametrize(("level", "spread"), [(0, 1e-13), (0, 1e-100), (1, 1e-12), (1e9, 1e-3), (1e100, 1e99)])
def test_every_column_that_varies_is_scaled(level, spread):
    t = table()
    t.frame["c1"] = level + spread * t.frame["c1"]
    windows = data.prepare(t, Options(look_back=5, horizon=3))
    assert windows.values[: windows.bounds["train"][1], 1].std() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("level", [0, 0.1, -7.3, 1e9, 1e100])
def test_a_target_that_never_changes_is_refused(level):
    t = table()
    t.frame["c0"] = float(level)
    with pytest.raises(UserError, match="c0 never changes in the training rows"):
        data.prepare(t, Options(look_back=5, horizon=3))


@pytest.mark.parametrize(
    ("value", "row", "message"), [(1e39, 95, "holds 1e\\+39 at 2024-01-04 23:00"), (1e200, 5, "too large")]
)
def test_an_impossible_value_is_named(value, row, message):
    t = table()
    t.frame.loc[row, "c0"] = value
    with pytest.raises(UserError, match=message):
        data.prepare(t, Options(look_back=5, horizon=3))


def test_calendar_runs_through_the_day_and_the_year():
    time = pd.date_range("2023-01-01", periods=24 * 365, freq="h")
    columns = pd.DataFrame({name: times.calendar_column(name, time) for name in times.calendar_names(to_offset("h"))})
    assert columns["hour_sin"].iloc[6] == pytest.approx(1)
    assert columns["hour_cos"].iloc[12] == pytest.approx(-1)
    assert columns["year_cos"].iloc[0] == pytest.approx(1)
    assert columns["year_cos"].iloc[24 * 182] == pytest.approx(-1, abs=1e-2)


@pytest.mark.parametrize(
    ("split", "message"),
    [("0.6,0.2", "three fractions"), ("a,b,c", "three fractions"), ("0.9,0.2,0.2", "more than 1"), ("90,20,20", "130")],
)
def test_bad_splits(split, message):
    with pytest.raises(UserError, match=message):
        data.prepare(table(), Options(look_back=5, horizon=3, split=split))


def test_too_short_says_how_many_rows_are_needed():
    with pytest.raises(UserError, match="at least 119 rows"):
        data.prepare(table(100, 1), Options(look_back=5, horizon=24))


def rewrite(path, change) -> None:
    frame = pd.read_csv(path)
    change(frame).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(load="x"), "'load' is not numeric"),
        (lambda f: pd.concat([f.iloc[5:], f.iloc[:5]]), "backwards"),
        (lambda f: pd.concat([f.iloc[:5], f.iloc[4:]]), "twice"),
        (lambda f: f.assign(load=f["load"].replace(f["load"][3], np.inf)), "infinite in line 5"),
        (lambda f: f.drop(columns="load"), "no column 'load'"),
        (lambda f: f.iloc[:0], "no rows"),
        (lambda f: f.iloc[:40], "24; one window needs"),
        (lambda f: f.assign(date=["2024-01-01 00:00:00", "2024-01-01 00:07:00", *f["date"][2:]]), "no regular spacing"),
    ],
)
def test_bad_series_end_in_one_clear_line(series, change, message):
    rewrite(series, change)
    with pytest.raises(UserError, match=message) as error:
        data.prepare(sources.find(str(series), "load", None, None), Options(look_back=24, horizon=12))
    assert "\n" not in str(error.value)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=300), st.text(alphabet="date,load\n0123456789.-:eNa \"'", max_size=300)))
def test_any_file_gives_windows_or_the_one_error(tmp_path, content):
    path = tmp_path / "fuzz.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        windows = data.prepare(sources.find(str(path), "load", None, None), Options(look_back=2, horizon=1))
    except UserError:
        return  # any other exception fails the test
    assert np.isfinite(windows.values).all()


def test_clock_changes_and_odd_encodings_are_one_clear_line(tmp_path):
    clock = pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None)  # 2:00 comes twice
    pd.DataFrame({"date": clock, "load": range(60)}).to_csv(tmp_path / "clock.csv", index=False)
    (tmp_path / "one.csv").write_text("date,load\n2024-01-01,1\n")
    (tmp_path / "utf16.csv").write_bytes("date,load\n2024-01-01,1\n".encode("utf-16"))
    (tmp_path / "quoted.csv").write_text('date,load\n"2024-01-\n01",1\n2024-01-02,2\n')
    (tmp_path / "mixed.csv").write_text(
        "date,load\n" + "".join(f"2024-01-{d:02d},{d}\n" for d in range(1, 30)) + "x,y\n"
    )
    for name in ("clock", "one", "utf16", "quoted", "mixed"):
        with pytest.raises(UserError) as error:
            data.prepare(
                sources.find(str(tmp_path / f"{name}.csv"), "load", None, None), Options(look_back=3, horizon=2)
            )
        assert "\n" not in str(error.value), name


def test_persistence_and_seasonal_naive_by_hand():
    t = table(100, 1)
    t.frame["c0"] = np.arange(100.0)
    windows = data.prepare(t, Options(look_back=6, horizon=5, calendar=False))
    origin = windows.origins["test"][:1]
    last = t.frame["c0"][origin[0]]
    persistence = windows.to_unit(baselines.Persistence().forecast(windows, origin))[0, :, 0]
    np.testing.assert_allclose(persistence, [last] * 5, rtol=1e-5)
    seasonal = windows.to_unit(baselines.SeasonalNaive(3).forecast(windows, origin))[0, :, 0]
    np.testing.assert_allclose(seasonal, last + np.array([-2, -1, 0, -2, -1]), rtol=1e-5)


def test_a_season_beyond_the_look_back_reads_measured_rows_only():
    t = table(400, 2)
    t.target = ["c0", "c1"]
    t.frame["c0"], t.frame["c1"] = np.arange(400.0), 1000 - np.arange(400.0)
    t.frame.iloc[300:312, 0] = np.nan  # longer than --max-gap
    windows = data.prepare(t, Options(look_back=6, horizon=3, max_gap=2, calendar=False))
    origins = np.array([330, 349])
    assert set(origins) <= set(windows.origins["test"])  # nothing that they see is missing
    forecast = windows.to_unit(baselines.SeasonalNaive(50).forecast(windows, origins))
    np.testing.assert_allclose(forecast[0, :, 0], [281, 282, 283], rtol=1e-5)
    np.testing.assert_allclose(forecast[1, :, 0], [250, 251, 252], rtol=1e-5)  # 300 to 302 were not measured
    np.testing.assert_allclose(forecast[1, :, 1], 1000 - np.array([300, 301, 302]), rtol=1e-5)
    early = windows.to_unit(baselines.SeasonalNaive(50).forecast(windows, np.array([20])))
    np.testing.assert_allclose(early[0, :, 0], [20] * 3, rtol=1e-5)  # no season before it: persistence


@pytest.mark.parametrize("strength", [1e-6, 1.0])
def test_ridge_is_scikit_learns(strength, monkeypatch):
    from sklearn.linear_model import Ridge

    t = table(300, 2)
    t.frame += np.linspace(0, 9, 300)[:, np.newaxis]  # a trend, so that there is an intercept
    windows = data.prepare(t, Options(look_back=5, horizon=3, calendar=False))
    monkeypatch.setattr(baselines, "RIDGE_STRENGTHS", (strength,))
    monkeypatch.setattr(baselines, "STARTS", 0)
    ours = baselines.Ridge()
    ours.fit([windows])
    train, test = windows.origins["train"], windows.origins["test"]
    x, x_test = (windows.seen(part).reshape(len(part), -1).astype(np.float64) for part in (train, test))
    column = windows.target_columns
    change = windows.actual(train)[..., 0] - windows.seen(train)[:, -1, column]
    reference = Ridge(alpha=strength * len(train)).fit(x, change)
    expected = windows.seen(test)[:, -1, column] + reference.predict(x_test)
    np.testing.assert_allclose(ours.forecast(windows, test)[..., 0], expected, atol=1e-4)


def test_an_intercept_is_learnt_of_a_drift_alone():
    """Few training windows overlap and share their errors: the mean of 25 of them is no drift."""

    def learnt(drift: float) -> int:
        count, steps = 0, np.arange(200)
        for seed in range(20):
            values = np.sin(2 * np.pi * steps / 7) + drift * steps + np.random.default_rng(seed).normal(0, 0.4, 200)
            made = sources.Table("made", pd.DataFrame({"y": values}), None, ["y"])
            ridge = baselines.Ridge(season=7)
            ridge.fit(data.prepare(made, Options(look_back=48, horizon=14)).folds(3))
            count += ridge.bias.any()
        return count

    assert learnt(0.0) <= 3
    assert learnt(0.05) >= 17


def test_no_sum_of_squares_is_rounded_below_0():
    waves = pd.DataFrame({"y": 5 * np.sin(2 * np.pi * np.arange(365) / 7) + 3})  # learnt without an error
    ridge = baselines.Ridge(season=7)
    ridge.fit(data.prepare(sources.Table("made", waves, None, ["y"]), Options(look_back=48, horizon=14)).folds(3))
    assert ridge.errors.min() >= 0


def test_the_season_of_a_daily_wave_is_a_day(series):
    windows = data.prepare(sources.find(str(series), "load", None, None), Options(look_back=24, horizon=12))
    assert seasons.season_of(seasons.training_rows(windows), windows.step) == 24


@pytest.mark.parametrize("added", ["nothing", "trend", "walk"])
@pytest.mark.parametrize("rows", [120, 600])
def test_the_season_of_short_noisy_series_is_seldom_missed(rows, added):
    right, steps = 0, np.arange(rows)
    for seed in range(20):
        rng = np.random.default_rng([rows, seed])
        season, waves = int(rng.integers(5, 25)), rng.normal(size=(2, 2))
        angles = 2 * np.pi * np.outer([1, 2], steps) / season
        shape = (waves[0] @ np.cos(angles)) + (waves[1] @ np.sin(angles))
        values = shape / shape.std() + rng.normal(0, 0.6, rows)
        values += {"nothing": 0, "trend": steps / 40, "walk": rng.normal(0, 0.2, rows).cumsum()}[added]
        right += seasons.season_of(values, None) == season
    assert right >= 18


def test_a_random_walk_has_seldom_a_season():
    walks = [np.random.default_rng(seed).normal(size=600).cumsum() for seed in range(20)]
    assert sum(seasons.season_of(walk, None) > 4 for walk in walks) <= 2


def test_new_york_is_the_published_series():
    t = sources.nyc_weather()
    assert len(t.frame.columns) == 18
    assert t.time[0] == pd.Timestamp("2013-01-01 06:00")
    windows = data.prepare(t, Options(look_back=72, horizon=24))
    error = baselines.Persistence().forecast(windows, windows.origins["test"]) - windows.actual(windows.origins["test"])
    assert np.abs(error).mean() * windows.target_scale[0] == pytest.approx(3.00, abs=0.02)


@pytest.mark.parametrize(
    ("rows", "columns", "batch_size", "epochs", "input_dropout"),
    [
        (8700, 22, 128, 16, 0.4),  # a year of hours: 40 steps an epoch
        (400, 2, 16, 143, 0.2),  # a year of days: 14 steps an epoch
        (60, 2, 16, 250, 0.2),
    ],
)
def test_a_short_series_is_trained_as_many_steps_as_a_long_one(rows, columns, batch_size, epochs, input_dropout):
    windows = data.prepare(table(rows, columns), Options(look_back=8, horizon=4, calendar=False))
    config_type = recurrent.Config
    default = train.resolve(config_type(), windows)
    assert (default.training.batch_size, default.training.epochs) == (batch_size, epochs)
    assert default.network.input_dropout == input_dropout
    given = train.resolve(settings.parse(config_type, ["--batch-size", "64", "--epochs", "3"]), windows).training
    assert (given.batch_size, given.epochs, given.patience) == (64, 3, 4)


def test_the_refit_learns_from_windows_that_lie_in_two_splits_too(windows):
    every = windows.on_all_rows().origins["train"]
    assert list(every) == list(range(23, 480 - 6))
    in_one = np.concatenate([*windows.origins.values()])
    assert set(every) - set(in_one) == {*range(282, 287), *range(378, 383)}  # splits end at rows 287 and 383


@pytest.mark.parametrize("count", [1, 3, 6])
def test_folds_grow_and_each_is_scaled_by_its_own_training_rows(count):
    t = table(200)
    windows = data.prepare(t, Options(look_back=5, horizon=3, calendar=False))
    folds = windows.folds(count)
    assert folds[-1] is windows
    for fold in folds:
        start = fold.bounds["train"][1]
        assert fold.future[-1] + fold.origins["train"].max() == start - 1
        np.testing.assert_allclose(fold.mean, t.frame[:start].mean())
        np.testing.assert_allclose(fold.scale, t.frame[:start].std(ddof=0))
        origins = fold.origins["validation"]
        assert origins[0] == start - 1
        np.testing.assert_allclose(fold.to_unit(fold.actual(origins))[:, 0, 0], t.frame["c0"][origins + 1], rtol=1e-4)
    validated = np.concatenate([fold.origins["validation"] for fold in folds])
    np.testing.assert_array_equal(validated, np.arange(validated[0], 160 - 3))  # each once, none with a test row


def test_too_many_folds_are_refused():
    windows = data.prepare(table(), Options(look_back=5, horizon=3))
    with pytest.raises(UserError, match="--folds 30 needs a longer series"):
        windows.folds(30)
    with pytest.raises(UserError, match="--backtest 30: a block would have"):
        windows.backtest(30)


def test_a_backtest_covers_the_test_split_and_trains_on_all_rows_before_each_block():
    windows = data.prepare(table(400), Options(look_back=5, horizon=3))
    blocks = windows.backtest(4)
    assert windows.backtest(0) == []
    assert blocks[0].bounds["train"] == windows.bounds["train"]
    assert [block.bounds["test"] for block in blocks] == [(320, 340), (340, 360), (360, 380), (380, 400)]
    for block in blocks:
        (_, end), (start, stop) = block.bounds["train"], block.bounds["validation"]
        assert (end, stop) == (start, block.bounds["test"][0])
        assert stop - start == 80


def test_all_rows_can_be_trained_on():
    windows = data.prepare(table(), Options(look_back=5, horizon=3, calendar=False)).recut(100, 100, 100)
    assert [len(windows.origins[split]) for split in splits.SPLITS] == [93, 0, 0]
    np.testing.assert_allclose(windows.mean, table().frame.mean())
