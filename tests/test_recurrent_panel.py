"""Many series in one file: formats, order, gaps, splits and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conftest import load_script
from keras_a2.errors import UserError
from keras_a2.recurrent import panel, panel_sources
from keras_a2.recurrent.splits import Options


def long_table(lengths=(20, 12, 7), start=1):
    return pd.concat(
        pd.DataFrame({"unique_id": f"S{i}", "ds": np.arange(start, start + n), "y": 100.0 * (i + 1) + np.arange(n)})
        for i, n in enumerate(lengths)
    ).reset_index(drop=True)


def cut(table, folds=1, **options):
    rows = panel_sources.from_frame(table.copy(), "file")
    defaults = {"look_back": 4, "horizon": 2, "season": 1, "origins": "splits" if "split" in options else "last"}
    return panel.prepare(rows, "made", Options(**defaults | options), folds)


def test_long_format_in_any_order_of_series():
    table = long_table()
    rows = panel_sources.from_frame(table.copy(), "file")
    assert rows.names == ["S0", "S1", "S2"]
    assert rows.lengths.tolist() == [20, 12, 7]
    assert rows.values[rows.ends[1]] == 200
    by_time = panel_sources.from_frame(table.sort_values("ds", kind="stable"), "file")
    assert np.array_equal(by_time.values, rows.values)
    assert rows.times_after(2, np.array([1, 2])).tolist() == [8, 9]


def test_other_columns_are_left_alone_and_names_can_be_given():
    table = long_table().rename(columns={"unique_id": "shop", "y": "sales"}).assign(split="train")
    rows = panel_sources.from_frame(table, "file", series="shop", target="sales")
    assert rows.target == "sales"
    assert rows.lengths.tolist() == [20, 12, 7]


def test_dates_of_different_starts_and_an_absent_day():
    table = long_table(start=0)
    table["ds"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(table["ds"], unit="D")
    rows = panel_sources.from_frame(table.drop(index=25), "file")
    assert rows.lengths.tolist() == [20, 12, 7]
    assert np.flatnonzero(np.isnan(rows.values)).tolist() == [25]
    assert rows.times_after(1, np.array([1]))[0] == pd.Timestamp("2024-01-13")


@pytest.mark.parametrize(("freq", "spacing"), [("MS", "1 month"), ("QE", "1 quarter"), ("B", "1 business day")])
def test_steps_of_no_constant_length(freq, spacing):
    table = long_table((30, 24, 18))
    table["ds"] = pd.date_range("2023-12-01", periods=30, freq=freq)[table["ds"] - 1]
    given = table[table["ds"] != pd.Timestamp("2023-12-25")].drop(index=35)  # no series has a row on the holiday
    rows = panel_sources.from_frame(given.copy(), "file")
    assert rows.spacing == spacing
    assert rows.lengths.tolist() == table.groupby("unique_id").size().sub(freq == "B").tolist()
    assert np.isnan(rows.values).sum() == 1
    for i, name in enumerate(rows.names):
        last = table.loc[table["unique_id"] == name, "ds"].max()
        assert rows.times_after(i, np.array([1, 2])).tolist() == pd.date_range(last, periods=3, freq=freq)[1:].tolist()


def test_times_that_repeat_are_read_once_and_a_wrong_one_is_named():
    table = long_table((40, 40, 40))
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(table["ds"], unit="D")
    rows = panel_sources.from_frame(table.assign(ds=days.dt.strftime("%d.%m.%Y")), "file")
    assert rows.lengths.tolist() == [40, 40, 40]
    assert rows.times_after(1, np.array([1]))[0] == pd.Timestamp("2024-02-11")
    table["ds"] = days.dt.strftime("%Y-%m-%d").where(table.index != 50, "soon")
    with pytest.raises(UserError, match="column 'ds' holds 'soon' in line 52"):
        panel_sources.from_frame(table, "file")


def test_a_spacing_can_be_named():
    table = long_table((5, 4))
    table["ds"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(2 * table["ds"], unit="D")
    assert panel_sources.from_frame(table.copy(), "file", freq="2D").spacing == "2 days"
    with pytest.raises(UserError, match="the times are not steps of 1 month"):
        panel_sources.from_frame(table.copy(), "file", freq="MS")


def test_wide_format_ends_where_its_values_end():
    table = pd.DataFrame({"V1": ["a", "b"], "V2": [1.0, 4.0], "V3": [2.0, np.nan], "V4": [3.0, np.nan]})
    rows = panel_sources.from_frame(table, "file", wide=True)
    assert rows.names == ["a", "b"]
    assert rows.values.tolist() == [1, 2, 3, 4]
    assert rows.lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="unique_id"), "no column 'unique_id'"),
        (lambda t: t.rename(columns={"y": "a"}).assign(b=1.0), "no column 'y' to forecast"),
        (lambda t: t.assign(ds=t["ds"].where(t.index != 24, 1)), "series 'S1': its time runs backwards"),
        (lambda t: t.assign(ds=t["ds"].where(t.index != 25, 5)), "series 'S1': a time occurs twice"),
        (lambda t: t.assign(ds=t["ds"] * 2 + (t.index == 34)), "series 'S2' has no regular spacing"),
        (lambda t: t.assign(ds=t["ds"] + 10**6 * (t.index == 38)), "series 'S2' has 7 rows over"),
        (lambda t: t.assign(y=t["y"].astype(object).where(t.index != 3, "x")), "column 'y' is not numeric"),
        (lambda t: t.assign(unique_id=t["unique_id"].where(t.index != 3)), "line 5 has no unique_id"),
        (lambda t: t.iloc[:0], "has no rows"),
        (lambda t: t.assign(**{"y ": 1.0}), "two columns named 'y'"),
    ],
)
def test_what_cannot_be_many_series_is_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message) as error:
        panel_sources.from_frame(change(long_table()), "file")
    assert "\n" not in str(error.value)


def test_a_day_and_its_hour_and_a_total_at_the_end():
    times = pd.date_range("2024-01-01", periods=48, freq="h")
    day = pd.DataFrame({"unique_id": "a", "dteday": times.strftime("%Y-%m-%d"), "hr": times.hour, "y": np.arange(48.0)})
    rows = panel_sources.from_frame(pd.concat([day, day.assign(unique_id="b")]), "made")
    assert rows.names == ["a", "b"]
    assert rows.ends.tolist() == [0, 48, 96]
    total = pd.DataFrame({"unique_id": ["Total"], "ds": [None], "y": [600.0]})
    daily = pd.DataFrame({"unique_id": "a", "ds": times[::24].strftime("%Y-%m-%d"), "y": [1.0, 2.0]})
    rows = panel_sources.from_frame(pd.concat([daily, total]), "made")
    assert rows.names == ["a"]
    assert rows.values.tolist() == [1, 2]


def test_windows_stay_in_their_series_and_splits_do_not_share_targets():
    windows = cut(long_table())
    numbers = {split: windows.series_of(origins) for split, origins in windows.origins.items()}
    assert numbers["test"].tolist() == [0, 1, 2]
    for split, origins in windows.origins.items():
        seen = windows.series_of(origins[:, np.newaxis] + windows.past)
        ahead = windows.series_of(origins[:, np.newaxis] + windows.leads)
        assert (seen == numbers[split][:, np.newaxis]).all()
        assert (ahead == numbers[split][:, np.newaxis]).all()
    for i in range(2):
        last = {split: windows.origins[split][numbers[split] == i].max() for split in windows.origins}
        assert last["test"] - last["validation"] == last["validation"] - last["train"] == 2
        assert last["test"] + 2 == windows.rows.ends[i + 1] - 1
    assert windows.summary()["series"] == 3
    assert set(windows.on_all_rows().origins["train"]) == set(windows.candidates)


def test_folds_roll_from_horizon_to_horizon_up_to_the_test_rows():
    windows = cut(long_table(), folds=2)
    folds = windows.folds(2)
    assert [set(windows.steps_left(fold.origins["validation"])) for fold in folds] == [{6}, {4}, set()]
    assert [windows.steps_left(fold.origins["train"]).min() for fold in folds] == [8, 6, 4]
    for one, other in itertools.pairwise(folds):
        assert set(one.origins["validation"]) < set(other.origins["train"])


def test_forecasts_return_to_their_units():
    windows = cut(long_table())
    assert windows.positive
    test = windows.origins["test"]
    assert windows.raw(test)[1, :, 0] == pytest.approx([206, 207, 208, 209], rel=1e-6)
    assert windows.in_unit(test, windows.actual(test)[..., 0])[2] == pytest.approx([305, 306], rel=1e-6)
    assert windows.rows.history(1, 30).tolist() == [*range(200, 210)]


def test_a_value_that_is_not_positive_keeps_all_series_off_the_logarithm():
    table = long_table()
    table.loc[3, "y"] = 0.0
    windows = cut(table)
    assert not windows.positive
    test = windows.origins["test"]
    assert windows.raw(test)[1, :, 0] == pytest.approx([206, 207, 208, 209], rel=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_test_row_without_a_logarithm_is_not_learnt_from(value):
    table = long_table()
    table.loc[18, "y"] = value  # of S0's last two rows, which are for the test, the first
    windows = cut(table).on_all_rows()
    train = windows.origins["train"]
    assert windows.positive
    assert np.isfinite(windows.actual(train)).all()
    assert {14, 15} < set(train[windows.series_of(train) == 0])
    assert not {16, 17, 18} & set(train)
    assert set(windows.series_of(train)) == {0, 1, 2}


def test_an_option_that_was_resolved_is_no_option_given():
    config = load_script("recurrent").Config()
    panel.check(replace(config, network=replace(config.network, channel_independent=False)))
    with pytest.raises(UserError, match="--channel-independent is for a single series"):
        panel.check(replace(config, network=replace(config.network, channel_independent=True)))


def test_a_short_series_is_counted_and_a_gap_drops_its_windows():
    table = long_table()
    table.loc[25:28, "y"] = np.nan  # of S1: longer than max_gap
    windows = cut(table, look_back=6, max_gap=1)
    assert windows.facts["too_short"] == 1
    assert windows.facts["missing_values"] == 4
    assert set(windows.series_of(windows.origins["train"])) == {0}
    assert windows.facts["windows_dropped"] > 0


def test_no_series_that_is_long_enough():
    table = long_table((7, 7))
    with pytest.raises(UserError, match="no series is long enough: a training window takes 10 rows"):
        cut(table)
    with pytest.raises(UserError, match="no series is long enough: a training window takes 12 rows"):
        cut(table, folds=2)
    with pytest.raises(UserError, match="shorter than two seasons"):
        cut(table, season=3)


def test_the_test_rows_decide_nothing():
    table = long_table()
    changed = table.assign(y=table["y"].where(table.groupby("unique_id").cumcount(ascending=False) >= 2, -7.0))
    one, other = (cut(t) for t in (table, changed))
    assert one.positive == other.positive
    assert np.array_equal(one.own_mean, other.own_mean)
    assert np.array_equal(one.own_scale, other.own_scale)
    before = np.concatenate([np.arange(one.rows.ends[i], one.rows.ends[i + 1] - 2) for i in range(3)])
    assert np.array_equal(one.values[before], other.values[before])


def dated(lengths=(30, 20), ends=(0, 0)):
    """Series of days that end so many days before the last of all."""
    table = long_table(lengths)
    last = table.groupby("unique_id")["ds"].transform("max")
    early = table["unique_id"].map({f"S{i}": n for i, n in enumerate(ends)})
    return table.assign(ds=pd.Timestamp("2024-03-01") + pd.to_timedelta(table["ds"] - last - early, unit="D"))


def test_windows_of_a_test_are_a_horizon_apart_and_those_of_a_fold_come_before():
    assert [list(block) for block in panel.blocks(2, (1, 1), 2)] == [[6], [4], [2]]
    assert [list(block) for block in panel.blocks(3, (2, 3), 1)] == [[15, 12], [9, 6, 3]]
    assert [list(block) for block in panel.blocks(3, (2, 3), 0)] == [[9, 6, 3]]


def test_shares_of_all_rows_as_windows():
    left = np.concatenate([np.arange(100)] * 3)
    assert panel.parts_of("0.6,0.2,0.2", left, 4) == (5, 5)
    assert panel.parts_of("0.7,0.2,0.1", left, 4) == (5, 2)  # ten rows are two whole windows
    assert panel.parts_of("0.8,0.1,0.1", left, 30) == (1, 1)


def test_series_with_dates_are_split_at_the_same_ones():
    windows = cut(dated((30, 20, 12), (0, 5, 20)), split="0.6,0.2,0.2", look_back=4)
    days = pd.concat([t["ds"] for _, t in dated((30, 20, 12), (0, 5, 20)).groupby("unique_id")]).to_numpy()
    day = {split: days[origins] for split, origins in windows.origins.items()}
    ahead = np.timedelta64(windows.horizon, "D")
    assert day["train"].max() + ahead <= day["validation"].min()
    assert day["validation"].max() + ahead <= day["test"].min()
    assert set(windows.series_of(windows.origins["train"])) == {0, 1, 2}
    assert set(windows.series_of(windows.origins["test"])) == {0, 1}  # the third ended long before
    assert windows.facts["common_dates"]


def test_series_without_dates_are_split_from_their_ends():
    windows = cut(long_table((30, 20, 12)), split="0.6,0.2,0.2", look_back=4)
    left = {split: windows.steps_left(origins) for split, origins in windows.origins.items()}
    validation, test = windows.parts
    assert set(left["test"]) == {2 * k for k in range(1, test + 1)}
    assert set(left["validation"]) == {2 * k for k in range(test + 1, test + validation + 1)}
    assert left["train"].min() == 2 * (test + validation + 1)
    assert set(windows.series_of(windows.origins["test"])) == {0, 1, 2}
    assert not windows.facts["common_dates"]


@pytest.mark.parametrize("table", [long_table((30, 20)), dated((30, 20), (0, 3))])
@pytest.mark.parametrize("folds", [1, 2])
def test_no_fold_learns_from_rows_that_are_measured(table, folds):
    windows = cut(table, split="0.6,0.2,0.2", folds=folds)
    test = windows.origins["test"]
    changed = table.assign(y=table["y"].where(~table.index.isin(test[0] + windows.leads), 3.0))
    other = cut(changed, split="0.6,0.2,0.2", folds=folds)
    assert np.array_equal(windows.own_mean, other.own_mean)
    assert np.array_equal(windows.seen(test[:1]), other.seen(test[:1]))
    assert not np.array_equal(windows.actual(test[:1]), other.actual(test[:1]))
    assert (windows.season, windows.positive, windows.parts) == (other.season, other.positive, other.parts)
    for one, same in zip(windows.folds(folds), other.folds(folds), strict=True):
        assert np.array_equal(one.origins["train"], same.origins["train"])
        assert np.array_equal(one.seen(one.origins["train"]), same.seen(one.origins["train"]))
        assert np.array_equal(one.actual(one.origins["train"]), same.actual(one.origins["train"]))
    learnt = [set((fold.origins["train"][:, np.newaxis] + fold.leads).ravel()) for fold in windows.folds(folds)]
    for fold, targets in zip(windows.folds(folds), learnt, strict=True):
        for split in ("validation", "test"):
            assert not targets & set((fold.origins[split][:, np.newaxis] + fold.leads).ravel())
    assert set(windows.folds(folds)[0].origins["train"]) == set(windows.origins["train"])


def test_every_fold_counts_among_the_windows_that_a_run_records():
    windows = cut(long_table((20, 20)), folds=2)
    assert windows.summary()["train"] == len(windows.folds(2)[0].origins["train"])
    assert windows.summary()["validation"] == 2 * 2


def test_a_window_that_holds_a_value_without_a_logarithm_is_not_seen():
    table = long_table((30, 30))
    table.loc[25, "y"] = 0.0  # of S0, in the test
    windows = cut(table, split="0.6,0.2,0.2")
    test = windows.origins["test"]
    assert windows.positive
    assert not set(range(25, 28)) & set(windows.candidates)
    assert np.isfinite(windows.seen(windows.candidates)).all()
    assert 23 in test  # its truth decides nothing


def test_a_series_that_began_in_the_test_keeps_its_digits():
    table = dated((60, 8), (0, 0))
    table["y"] = np.where(table["unique_id"] == "S1", 1e9 + table["y"], -table["y"])
    windows = cut(table, split="0.6,0.2,0.2")
    test = windows.origins["test"]
    new = test[windows.series_of(test) == 1]
    assert not set(windows.series_of(windows.origins["train"])) & {1}
    assert windows.raw(new)[0, :, 0] == pytest.approx(windows.rows.values[new[0] - 3 : new[0] + 1], abs=1e-3)
