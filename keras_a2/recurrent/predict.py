"""A published forecaster in use: the last rows of a series in, forecasts with their intervals and times out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from keras_a2 import charts, page, settings
from keras_a2.errors import UserError
from keras_a2.recurrent import intervals, panel_predict, panel_sources, sources, times
from keras_a2.recurrent.data import columns_ahead, fill, with_ahead
from keras_a2.recurrent.splits import Steps
from keras_a2.recurrent.times import CALENDAR, calendar_column, spacing
from keras_a2.saved_model import SavedModel

Config = TypeVar("Config")
MAX_GAP = 12  # of a card without it: what every version's option stood at
OWN_SHARE = 0.6  # of the model's own steps that a file must have to be read in them
CHUNK = 1024  # windows at once
ANOMALY = 95  # the interval outside which a row is marked, in percent; the widest where there is none


@dataclass(repr=False)
class Forecaster(SavedModel, Steps):
    """A published forecaster: ``inputs``, ``targets``, ``unit``, ``look_back``, ``horizon``, ``levels``."""

    def __post_init__(self) -> None:
        card = self.card
        self.inputs: list[str] = card["inputs"]
        self.targets: list[str] = card["targets"]
        self.unit: str = card["unit"]
        self.look_back: int = card["look_back"]
        self.horizon: int = card["horizon"]
        self.levels: list[float] = card.get("levels") or []  # of the intervals, in percent; none before version 2
        self.anomaly_level = ANOMALY if ANOMALY in self.levels else max(self.levels, default=ANOMALY)
        self.every: int = card["every"]
        self.first_lead: int = card["first_lead"]
        self.typical_errors = dict(zip(self.targets, card.get("typical_errors") or [], strict=False))
        self.many = "many_series" in card
        self.max_gap: int = MAX_GAP if card.get("max_gap") is None else card["max_gap"]
        self.freq = self._freq(card.get("freq"), card.get("spacing_seconds"))
        self.span = self.every * (self.look_back - 1) + 1  # rows from the first that a window sees to its last
        self.known: list[str] = card.get("known") or []  # in advance
        self.ahead = columns_ahead(self.known, self.future, self.every * self.look_back)
        made = {*CALENDAR, *self.ahead} | ({times.HOLIDAYS} if card.get("holidays") else set())
        self.measured = [name for name in self.inputs if name not in made]
        if not {*self.targets, *self.known, *self.ahead} <= set(self.inputs) or (
            self.freq is None and set(CALENDAR) & set(self.inputs)
        ):
            raise UserError(
                f"{self.folder / 'model.json'}: a target or known column is not among the inputs, or calendar inputs "
                "have no spacing_seconds: copy the file again"
            )

    def predict(
        self, series: pd.DataFrame | np.ndarray | str | Path, time: str | None = None
    ) -> pd.DataFrame | np.ndarray:
        """Forecast the steps after the last row.

        Args:
            series: a file or a table, its times in the index or a column, with the columns that the model was trained
                on in any order and at least ``look_back`` rows, followed by the rows that are forecast where columns
                are known in advance, their other columns empty; or raw windows ``(batch, look_back, inputs)``, the
                calendar columns included.
            time: name of the column of times; by default detected.

        Returns:
            For a table or file: a table indexed by time (or by step) with ``lead`` and each target in its unit,
            followed by the ends of its intervals, ``lower_80``, ``upper_80`` and so on (``TARGET_lower_80`` where there
            are several targets). Of a model of many series: ``unique_id``, ``ds``, ``lead``, the target, and the ends.
            For windows: ``(batch, horizon)`` or ``(batch, horizon, targets)``; ``intervals`` gives theirs.

        Raises:
            UserError: a missing column, too few rows, another spacing, or values missing in the last rows.
        """
        if isinstance(series, np.ndarray):
            return panel_predict.serve(self, series) if self.many else self.serve(series)
        if self.many:
            return panel_predict.forecast(self, self.read_many(series, time))[0]
        return self.forecast(series, time)[1]

    def intervals(self, windows: np.ndarray) -> np.ndarray:
        """Intervals of the forecasts of raw windows ``(batch, look_back, inputs)``.

        Returns:
            ``(batch, horizon, targets, levels, 2)`` in the targets' units, levels in ascending order, lower end first.
        """
        ends = np.asarray(self.loaded.serve_intervals(windows)) if self.levels else np.zeros(0)
        return ends.reshape(len(windows), self.horizon, len(self.targets), len(self.levels), 2)

    def ends(self, target: str) -> list[tuple[float, str, str]]:
        """Each level, and the columns of ``predict`` with the lower and upper end of that interval of a target."""
        prefix = f"{target}_" if len(self.targets) > 1 else ""
        return [(level, f"{prefix}lower_{level:g}", f"{prefix}upper_{level:g}") for level in self.levels]

    def read_many(self, series: pd.DataFrame | str | Path, time: str | None = None) -> panel_sources.Rows:
        """The series of a file or a table, for a model of many: see ``panel_predict``."""
        facts = self.card["many_series"]
        names = (facts["column"], time, None if facts["wide"] else self.targets[0], facts["wide"])
        if isinstance(series, str | Path):
            return panel_sources.read(Path(series), *names, facts.get("freq"))
        return panel_sources.from_frame(series.copy(), "the table", *names, freq=facts.get("freq"))

    def forecast(self, series: pd.DataFrame | str | Path, time: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The targets in the last window that the model sees, and the forecast as ``predict`` gives it."""
        table = self.read(series, time)
        rows, stamps = self._rows(table)
        window = fill(rows, self.max_gap).to_numpy(np.float64)[-self.span :: self.every]
        gaps = [name for name, column in zip(self.inputs, window.T, strict=True) if np.isnan(column).any()]
        if gaps:
            raise UserError(
                f"{table.name}: column {gaps[0]!r} has a gap in the last {self.look_back} rows, too long to fill"
            )
        if stamps is None:
            past, ahead = (pd.Index(steps, name="step") for steps in (self.past, self.future))
        else:
            past = stamps[-self.span :: self.every].rename("time")
            ahead = self._times(past[-1], self.future)
        columns = [self.inputs.index(name) for name in self.targets]
        seen = pd.DataFrame(window[:, columns], columns=self.targets, index=past)
        forecast = self.serve(window[np.newaxis]).reshape(1, self.horizon, len(self.targets))
        ends = self.intervals(window[np.newaxis])
        known = self._known(stamps)
        if self.levels and known < len(rows):  # rows that the model has not seen show how it errs by now
            origins, _, values, earlier = self._since(rows, known)
            ends = ends + self._moved(origins, values, earlier, np.array([len(rows) - 1])) * _width(ends)
        answer = pd.DataFrame({"lead": self.leads}, index=ahead)
        for k, target in enumerate(self.targets):
            answer[target] = forecast[0, :, k]
            for j, (_, lower, upper) in enumerate(self.ends(target)):
                answer[lower], answer[upper] = ends[0, :, k, j].T
        return seen, answer

    def check(self, series: pd.DataFrame | str | Path, time: str | None = None) -> pd.DataFrame:
        """Compare every row of a series, as ``predict`` takes it, with what the model forecast for it one step ahead.

        Returns:
            a table indexed by time (or by row): ``target``, ``value``, ``forecast``, ``lower`` and ``upper`` end of
            the 95 % interval, and whether the value is ``outside`` it. Rows that were not measured, and those whose
            past has a gap too long to fill, are left out. Of many series see ``panel_predict.check``.

        Raises:
            UserError: as ``predict``; a model without intervals.
        """
        if self.many:
            return panel_predict.check(self, self.read_many(series, time))
        if not self.levels:
            raise UserError(f"{self.folder} was published without intervals: train and publish it again")
        level = self.levels.index(self.anomaly_level)
        rows, stamps = self._rows(self.read(series, time), to_forecast=False)
        rows.index = pd.RangeIndex(1, len(rows) + 1, name="row") if stamps is None else stamps.rename("time")
        ahead, parts = int(self.future[0]), []
        for origins, forecast, ends in self._forecasts(rows):
            for k, target in enumerate(self.targets):
                part = pd.DataFrame({"target": target, "value": rows[target].iloc[origins + ahead]})
                parts.append(
                    part.assign(
                        forecast=forecast[:, 0, k], lower=ends[:, 0, k, level, 0], upper=ends[:, 0, k, level, 1]
                    )
                )
        if not parts:
            raise UserError(f"no row has a whole window of {self.span} rows before it: give a longer series")
        checked = pd.concat(parts).dropna(subset="value").sort_index(kind="stable")
        return checked.assign(outside=~checked["value"].between(checked["lower"], checked["upper"]))

    def measure(self, table: sources.Table, since: pd.Timestamp | int) -> dict[str, Any]:
        """Errors of the forecasts of the rows of a table that come after a time, or after a number of rows.

        Returns:
            ``rows`` that are new; ``windows`` whose every lead is new and was measured, their ``mae`` in the targets'
            units, and ``coverage``, level -> share of values inside the interval; both None without such a window.

        Raises:
            UserError: no row is new.
        """
        rows, stamps = self._rows(table, to_forecast=False)
        known = int(since) if isinstance(since, int) or stamps is None else int((stamps <= since).sum())
        new = len(rows) - known
        if new <= 0:
            raise UserError(f"{table.name} holds no row after those that the model was trained on, up to {since}")
        origins, forecast, values, ends = self._since(rows, known)
        whole = np.isfinite(values).all(axis=(1, 2))
        if not whole.any():
            return {"rows": new, "windows": 0, "mae": None, "coverage": None}
        if self.levels:
            ends = ends + self._moved(origins, values, ends, origins) * _width(ends)
        value = values[whole][..., np.newaxis]
        shares = ((ends[whole][..., 0] <= value) & (value <= ends[whole][..., 1])).mean(axis=(0, 1, 2))
        coverage = {f"{level:g}": float(share) for level, share in zip(self.levels, shares, strict=True)}
        mae = float(np.abs(forecast - values)[whole].mean())
        return {"rows": new, "windows": int(whole.sum()), "mae": mae, "coverage": coverage}

    def _known(self, stamps: pd.DatetimeIndex | None) -> int:
        """How many of these rows the model was trained on; all, where nothing says it."""
        last = pd.Timestamp((self.card.get("data") or {}).get("last") or pd.NaT)
        if stamps is None or pd.isna(last) or (stamps.tz is None) != (last.tz is None):
            return sys.maxsize
        return int((stamps <= last).sum())

    def _since(self, rows: pd.DataFrame, known: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Forecasts of all rows after so many.

        Returns:
            the rows that they begin at ``(n,)``; forecasts, and the values that came, NaN where none is known
            ``(n, horizon, targets)``; and intervals ``(n, horizon, targets, levels, 2)``.
        """
        future, parts = self.future, list(self._forecasts(rows, known))
        shape = (0, self.horizon, len(self.targets))
        empty = np.zeros(0, int), np.zeros(shape), np.zeros((*shape, len(self.levels), 2))
        origins, forecast, ends = (np.concatenate(each) for each in zip(empty, *parts, strict=True))
        truth = np.pad(rows[self.targets].to_numpy(np.float64), ((0, int(future[-1])), (0, 0)), constant_values=np.nan)
        return origins, forecast, truth[origins[:, np.newaxis] + future], ends

    def _moved(self, origins: np.ndarray, values: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far the ends of intervals have moved at these rows by the values that came, in widths of them.

        Args:
            origins, values, ends: as of ``_since``.

        Returns:
            ``(rows, horizon, targets, levels, 2)``: see ``intervals.follow``.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = (values[..., np.newaxis, np.newaxis] - ends) / _width(ends)
        excess = excess.reshape(*values.shape, -1)
        if not len(origins):
            return np.zeros((len(rows), *ends.shape[1:]))
        shares = intervals.probabilities(self.levels)
        moved = intervals.follow(excess, shares, origins, self.future, rows)
        return moved.reshape(len(rows), *ends.shape[1:])

    def decimals(self, digits: int) -> dict[str, int]:
        """Decimals of each column of ``predict`` that show its target's typical error with this number of digits."""
        places = {}
        for name, error in self.typical_errors.items():
            for column in (name, *(end for _, *ends in self.ends(name) for end in ends)):
                places[column] = page.decimals(error, digits)
        return places

    def deployed_inputs(self, items: list[Path], limit: int, time: str | None = None) -> np.ndarray:
        """Up to ``limit`` raw windows from the end of a series ``(n, look_back, inputs)``."""
        rows, _ = self._rows(self.read(items[0], time))
        filled = fill(rows, self.max_gap).to_numpy(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(filled, self.span, axis=0)[-limit:, :, :: self.every]
        whole = windows[np.isfinite(windows).all(axis=(1, 2))]
        if len(whole) == 0:
            raise UserError(f"{items[0]} holds no whole window of {self.look_back} rows to measure the export on")
        return whole.transpose(0, 2, 1)

    def _forecasts(self, rows: pd.DataFrame, known: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Forecasts of all rows after so many, of each window that has no gap, ``CHUNK`` at a time.

        Returns:
            the rows' numbers ``(n,)``, forecasts ``(n, horizon, targets)``, and intervals as ``intervals`` gives them.
        """
        filled = fill(rows, self.max_gap).to_numpy(np.float64)
        ahead = int(self.future[0])
        end = len(rows) - ahead
        for start in range(max(known - ahead, self.span - 1), end, CHUNK):
            origins = np.arange(start, min(start + CHUNK, end))
            windows = filled[origins[:, np.newaxis] + self.past]
            whole = np.isfinite(windows).all(axis=(1, 2))
            if whole.any():
                answer = self.serve(windows[whole]).reshape(-1, self.horizon, len(self.targets))
                yield origins[whole], answer, self.intervals(windows[whole])

    def _freq(self, name: str | None, seconds: float | None) -> BaseOffset | None:
        """The spacing of the rows that the model was trained on; None where it counts them."""
        if seconds is None or name is None:
            return None if seconds is None else times.even(pd.Timedelta(seconds=seconds))
        try:
            offset = to_offset(name)
            times.length(offset)
            return offset
        except ValueError as error:
            raise UserError(
                f"{self.folder / 'model.json'}: freq {name!r} is no spacing; copy the file again"
            ) from error

    def _times(self, last: pd.Timestamp, steps: np.ndarray) -> pd.DatetimeIndex:
        """The times some steps after a row's."""
        assert self.freq is not None
        try:
            return pd.DatetimeIndex([last + int(n) * self.freq for n in steps], name="time")
        except (ValueError, OverflowError) as error:  # pandas raises one of its own for each kind
            raise UserError(
                f"the forecast's times, {int(steps[-1])} steps of {spacing(self.freq)} after {last}, are too far "
                f"away; compare {self.folder / 'model.json'} with the original"
            ) from error

    def read(self, series: pd.DataFrame | str | Path, time: str | None) -> sources.Table:
        """The columns of a file or table that the model sees, and its times where the model knows times."""
        time = times.NO_TIMES if self.freq is None else time  # it was trained on rows, whatever their times
        if isinstance(series, str | Path):
            return sources.from_file(Path(series), time, target=self.measured, inputs=self.measured)
        return sources.from_frame(series, "the series", "the series", time, target=self.measured, inputs=self.measured)

    def _rows(self, table: sources.Table, to_forecast: bool = True) -> tuple[pd.DataFrame, pd.DatetimeIndex | None]:
        """All rows on the model's grid, inputs in its order, as they were measured; and their times.

        Args:
            to_forecast: the rows that come next must have the columns known in advance, and are left out.
        """
        missing = [name for name in self.measured if name not in table.frame.columns]
        if missing:
            raise UserError(f"{table.name} has no column {missing[0]!r}; the model needs {', '.join(self.measured)}")
        freq = None
        if self.freq is not None:
            trained = f"the model was trained on steps of {spacing(self.freq)}"
            if table.time is None:
                raise UserError(f"{table.name} has no times; {trained}")
            freq = self.freq.freqstr if times.fits(table.time, self.freq, OWN_SHARE) else None
        frame, stamps, freq = times.to_grid(table.frame[self.measured], table.time, table.name, freq)
        if self.freq is not None and spacing(freq) != spacing(self.freq):
            raise UserError(f"{table.name} has steps of {spacing(freq)}; {trained}")
        if len(frame) < self.span:
            raise UserError(f"{table.name} has {len(frame)} rows; the model needs its last {self.span}")
        if to_forecast:
            frame, stamps, end = self._with_future(frame, stamps, table.name)
        else:
            end = len(frame)
        calendar = [name for name in self.inputs if name in CALENDAR]
        frame = frame.assign(**{name: calendar_column(name, stamps) for name in calendar})
        if country := self.card.get("holidays"):
            frame = times.with_holidays(frame, stamps, self.freq, country)
        frame = with_ahead(frame, self.ahead)[self.inputs]
        return frame[:end], None if stamps is None else stamps[:end]

    def _with_future(
        self, frame: pd.DataFrame, stamps: pd.DatetimeIndex | None, name: str
    ) -> tuple[pd.DataFrame, pd.DatetimeIndex | None, int]:
        """The rows and those that are forecast, the times of both, and how many rows were measured.

        Raises:
            UserError: a column known in advance has no value in a row that is forecast.
        """
        known = [column for column in self.known if column in self.measured]
        rows = np.flatnonzero(frame.drop(columns=known).notna().any(axis=1))
        end = int(rows[-1]) + 1 if known and len(rows) else len(frame)
        more = end + int(self.future[-1]) - len(frame)
        if self.known and more > 0:
            later = pd.RangeIndex(len(frame), len(frame) + more)
            frame = frame.reindex(
                frame.index.append(later if stamps is None else self._times(stamps[-1], 1 + np.arange(more)))
            )
        for column in known:
            if frame[column].iloc[end - 1 + self.future].isna().any():
                raise UserError(
                    f"{name}: column {column!r} must be known at the {self.horizon} steps that are forecast, after "
                    f"{f'row {end}' if stamps is None else stamps[end - 1]}; append these rows, other columns empty"
                )
        return frame, None if stamps is None else pd.DatetimeIndex(frame.index), end


def _width(ends: np.ndarray) -> np.ndarray:
    """Widths of intervals ``(..., 2)`` as ``(..., 1)``."""
    return ends[..., 1:] - ends[..., :1]


def updated_recipe(
    model: Forecaster, config_type: type[Config], file: Path, time: str | None = None
) -> tuple[Config, dict[str, Any]]:
    """The configuration that a forecaster was trained with, for its rows and those of a file that come after them.

    Args:
        config_type: of ``experiments/recurrent.py``.
        file: continues the rows that the model was trained on, or holds them too.
        time: name of the file's column of times.

    Returns:
        the configuration of the next version, and what the model did on the new rows: ``version``, ``rows``,
        ``promised_mae`` and ``promised_coverage`` of its own test split, and the fields of ``Forecaster.measure``.

    Raises:
        UserError: the card of an earlier version; no new rows; rows that cannot be read.
    """
    data = model.card["data"]
    metrics = json.loads((model.folder / "metrics.json").read_text(encoding="utf-8"))
    if "rows" not in data:
        raise UserError(f"{model.folder} does not say where its rows end, as earlier versions did not: train it again")
    options, new = metrics["config"], model.read(file, time)
    if new.time is None:
        holds_all, since = Path(options["data"]).resolve() == file.resolve(), data["rows"]
    else:
        first, since = pd.Timestamp(data["first"]), pd.Timestamp(data["last"])
        if (first.tz is None) != (new.time.tz is None):
            raise UserError(f"{file}: write its times {'without' if first.tz is None else 'with'} an offset from UTC")
        holds_all = new.time.min() <= first
    options |= {
        "data": str(file.resolve()) if holds_all else f"{options['data']},{file.resolve()}",
        "time": time or options["time"],
        "cell": model.card["cell"],
        "name": model.folder.resolve().parent.name,
        "output": str(model.folder.resolve().parent.parent),
        "resume": False,
    }
    as_read = options["preset"] == "chollet"
    table = sources.find(options["data"], model.targets, options["time"], model.measured, as_read)
    measured = model.measure(table, since)
    train, *others = options["split"].split(",")
    if train.isdecimal():  # rows, not shares
        options["split"] = ",".join([str(int(train) + measured["rows"]), *others])
    test = (metrics["models"] | metrics["baselines"])[model.card["forecaster"]]["test"]
    promised = {"promised_mae": test["mae"], "promised_coverage": test.get("coverage")}
    return settings.restore(config_type, options), {"version": model.version, **measured, **promised}


def plot(model: Forecaster, seen: pd.DataFrame, forecast: pd.DataFrame) -> Figure:
    """The last window seen and the forecast with its intervals (``Forecaster.forecast``) as a Matplotlib figure."""
    if isinstance(forecast.index, pd.DatetimeIndex):  # of times with an offset Matplotlib would show UTC
        seen, forecast = seen.tz_localize(None), forecast.tz_localize(None)
    with matplotlib.rc_context({"text.parse_math": False}):  # a column may be called US$_$
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(model.targets[:6]):
            colour = f"C{number}"
            axes.plot(seen.index, seen[name], color=colour, alpha=0.5)
            axes.plot(forecast.index, forecast[name], color=colour, marker=".", label=name)
            for level, lower, upper in reversed(model.ends(name)):
                label = "_" if number else f"{level:g} %"  # once in the legend
                charts.interval(axes, forecast.index, forecast[lower], forecast[upper], colour, label)
        axes.axvline(seen.index[-1], color="grey", lw=0.8, ls=":")
        label = model.unit if len(model.targets) > 1 else page.with_unit(model.targets[0], model.unit)
        axes.set(ylabel=label, title=f"{model.look_back} steps seen, {model.horizon} forecast")
        axes.legend(frameon=False)
    if isinstance(forecast.index, pd.DatetimeIndex):
        figure.autofmt_xdate()
    return figure
