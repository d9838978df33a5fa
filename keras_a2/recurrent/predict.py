"""A published forecaster in use: the last rows of a series in, the forecast with its times out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from keras_a2 import page
from keras_a2.errors import UserError
from keras_a2.recurrent import sources, times
from keras_a2.recurrent.data import columns_ahead, fill, with_ahead
from keras_a2.recurrent.times import CALENDAR, calendar_column, spacing
from keras_a2.saved_model import SavedModel

OWN_SHARE = 0.6  # of the model's own steps that a file must have to be read in them
MAX_GAP = 12  # of a card without it: what every version's option stood at


@dataclass
class Forecaster(SavedModel):
    """A published forecaster: ``inputs``, ``targets``, ``unit``, ``look_back``, ``horizon``, ``predict``."""

    def __post_init__(self) -> None:
        card = self.card
        self.inputs: list[str] = card["inputs"]
        self.targets: list[str] = card["targets"]
        self.unit: str = card["unit"]
        self.look_back: int = card["look_back"]
        self.horizon: int = card["horizon"]
        self.every: int = card["every"]
        self.leads = card["first_lead"] + np.arange(self.horizon)
        self.typical_errors = dict(zip(self.targets, card.get("typical_errors") or [], strict=False))
        self.max_gap: int = MAX_GAP if card.get("max_gap") is None else card["max_gap"]
        self.freq = self._freq(card.get("freq"), card.get("spacing_seconds"))
        self.span = self.every * (self.look_back - 1) + 1  # rows from the first that a window sees to its last
        self.known: list[str] = card.get("known") or []  # in advance
        self.ahead = columns_ahead(self.known, self.every * self.leads, self.every * self.look_back)
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
            time: name of the column of times; found by itself where there is one.

        Returns:
            For a table or file: a table ``lead``, then one column per target in its unit, indexed by time (or by lead).
            For windows: ``(batch, horizon)`` or ``(batch, horizon, targets)``.

        Raises:
            UserError: a missing column, too few rows, another spacing, or values missing in the last rows.
        """
        if isinstance(series, np.ndarray):
            return self.serve(series)
        return self.forecast(series, time)[1]

    def forecast(self, series: pd.DataFrame | str | Path, time: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The targets in the last window that the model sees, and the forecast, both as ``predict`` gives it."""
        table = self._table(series, time)
        rows, stamps = self._rows(table)
        window = rows[-self.span :: self.every]
        gaps = [name for name, column in zip(self.inputs, window.T, strict=True) if np.isnan(column).any()]
        if gaps:
            raise UserError(
                f"{table.name}: column {gaps[0]!r} has a gap in the last {self.look_back} rows, too long to fill"
            )
        past = self.every * np.arange(1 - self.look_back, 1)
        index = pd.Index(past, name="step") if stamps is None else stamps[past - 1].rename("time")
        forecast = self.serve(window[np.newaxis])[0].reshape(self.horizon, len(self.targets))
        columns = [self.inputs.index(name) for name in self.targets]
        seen = pd.DataFrame(window[:, columns], columns=self.targets, index=index)
        answer = pd.DataFrame(forecast, columns=self.targets, index=self._ahead(index))
        answer.insert(0, "lead", self.leads)
        return seen, answer

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

    def _ahead(self, seen: pd.Index) -> pd.Index:
        """The times that are forecast, or the steps."""
        steps = self.every * self.leads
        return pd.Index(steps, name="step") if self.freq is None else self._times(seen[-1], steps)

    def _times(self, last: pd.Timestamp, steps: np.ndarray) -> pd.DatetimeIndex:
        """The times so many steps after a row's."""
        assert self.freq is not None
        try:
            return pd.DatetimeIndex([last + int(n) * self.freq for n in steps], name="time")
        except (ValueError, OverflowError) as error:  # pandas raises one of its own for each kind
            raise UserError(
                f"the forecast's times, {int(steps[-1])} steps of {spacing(self.freq)} after {last}, are too far "
                f"away; compare {self.folder / 'model.json'} with the original"
            ) from error

    def decimals(self, digits: int) -> dict[str, int]:
        """Decimals of each target that show its typical error with so many significant digits."""
        return {name: page.decimals(error, digits) for name, error in self.typical_errors.items()}

    def deployed_inputs(self, items: list[Path], limit: int, time: str | None = None) -> np.ndarray:
        """Up to ``limit`` raw windows from the end of a series ``(n, look_back, inputs)``."""
        rows, _ = self._rows(self._table(items[0], time))
        windows = np.lib.stride_tricks.sliding_window_view(rows, self.span, axis=0)[-limit:, :, :: self.every]
        whole = windows[np.isfinite(windows).all(axis=(1, 2))]
        if len(whole) == 0:
            raise UserError(f"{items[0]} holds no whole window of {self.look_back} rows to measure the export on")
        return whole.transpose(0, 2, 1)

    def _table(self, series: pd.DataFrame | str | Path, time: str | None) -> sources.Table:
        time = times.NO_TIMES if self.freq is None else time  # it was trained on rows, whatever their times
        if isinstance(series, str | Path):
            return sources.from_file(Path(series), time, target=self.measured, inputs=self.measured)
        return sources.from_frame(series, "the series", "the series", time, target=self.measured, inputs=self.measured)

    def _rows(self, table: sources.Table) -> tuple[np.ndarray, pd.DatetimeIndex | None]:
        """All rows on the model's grid, inputs in its order, short gaps filled; and their times."""
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
        frame, stamps, end = self._with_future(frame, stamps, table.name)
        calendar = [name for name in self.inputs if name in CALENDAR]
        frame = frame.assign(**{name: calendar_column(name, stamps) for name in calendar})
        if country := self.card.get("holidays"):
            frame = times.with_holidays(frame, stamps, self.freq, country)
        frame = fill(with_ahead(frame, self.ahead)[self.inputs], self.max_gap)
        return frame.to_numpy(np.float64)[:end], None if stamps is None else stamps[:end]

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
        more = end + self.every * int(self.leads[-1]) - len(frame)
        if self.known and more > 0:
            later = pd.RangeIndex(len(frame), len(frame) + more)
            frame = frame.reindex(
                frame.index.append(later if stamps is None else self._times(stamps[-1], 1 + np.arange(more)))
            )
        for column in known:
            if frame[column].iloc[end - 1 + self.every * self.leads].isna().any():
                raise UserError(
                    f"{name}: column {column!r} must be known at the {self.horizon} steps that are forecast, after "
                    f"{f'row {end}' if stamps is None else stamps[end - 1]}; append these rows, other columns empty"
                )
        return frame, None if stamps is None else pd.DatetimeIndex(frame.index), end


def plot(model: Forecaster, seen: pd.DataFrame, forecast: pd.DataFrame) -> Figure:
    """The last window seen and the forecast (``Forecaster.forecast``) as a Matplotlib figure."""
    if isinstance(forecast.index, pd.DatetimeIndex):  # of times with an offset Matplotlib would show UTC
        seen, forecast = seen.tz_localize(None), forecast.tz_localize(None)
    with matplotlib.rc_context({"text.parse_math": False}):  # a column may be called US$_$
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(model.targets[:6]):
            axes.plot(seen.index, seen[name], color=f"C{number}", alpha=0.5)
            axes.plot(forecast.index, forecast[name], color=f"C{number}", marker=".", label=name)
        axes.axvline(seen.index[-1], color="grey", lw=0.8, ls=":")
        label = model.unit if len(model.targets) > 1 else page.with_unit(model.targets[0], model.unit)
        axes.set(ylabel=label, title=f"{model.look_back} steps seen, {model.horizon} forecast")
        axes.legend(frameon=False)
    if isinstance(forecast.index, pd.DatetimeIndex):
        figure.autofmt_xdate()
    return figure
