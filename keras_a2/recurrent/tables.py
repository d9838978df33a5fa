"""A CSV or Parquet file to a table of numbers: its encoding, its separator, and its decimal mark."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import numpy as np
import pandas as pd

from keras_a2.errors import UserError

SEPARATORS = ";\t|,"  # a file whose header counts two alike takes the first: names hold commas more often
NUMBER = re.compile(r"[+-]?\d+")
# A decimal comma, thousands apart or not; the same with the marks swapped; and what could be either.
COMMA = re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:[.'\s]\d{3})+|\d+)(?:,\d+)?")
POINT = re.compile(r"[+-]?[1-9]\d{0,2}(?:[,'\s]\d{3})+(?:\.\d+)?|[+-]?\d+(?:\.\d+)?")
EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
SAMPLE = 1000  # values of a column that show whether it holds numbers
LARGEST = 1e30  # float32 ends at 3.4e38, and errors of this size are squared in float64


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
    options = {"sep": max(SEPARATORS, key=header.count), "encoding": encoding, "skipinitialspace": True}
    frame = pd.read_csv(path, low_memory=False, **options)
    decimal = _decimal_mark(frame, path, options["sep"])
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
