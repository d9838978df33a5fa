"""Which rows are for training, validation and test, and which windows belong to each.

A window's targets lie wholly in its split; what it sees may reach back into the split before, as it would in use. In
the split of *Deep Learning with Python* all that a window sees lies in its split, and its target may lie beyond the
end: the next split's first targets come later still, so no target is in two of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent import times

SPLITS = ("train", "validation", "test")
BOOK = "chollet"


def bounds(split: str, rows: int, sees: int, ahead: int) -> dict[str, tuple[int, int]]:
    """Rows of each split, first and one past the last, in time order; rows after the last split are left out.

    Args:
        split: three fractions or three row counts, ``train,validation,test``; or ``BOOK``.
        sees, ahead: rows that one window spans up to its origin, and after it.

    Raises:
        UserError: neither, or too few rows for one window per split.
    """
    if split == BOOK:
        return _book_bounds(rows, sees, ahead)
    try:
        parts = [float(part) for part in split.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or min(parts, default=0) <= 0 or not np.isfinite(parts).all():
        raise UserError(
            f"--split {split!r} is not three fractions or row counts, such as 0.6,0.2,0.2 or 8640,2880,2880"
        )
    shares = max(parts) < 1
    if shares:
        if sum(parts) > 1 + 1e-9:
            raise UserError(f"--split {split!r} adds up to more than 1")
        counts = _counts(parts, rows)
    else:
        counts = [int(n) for n in np.cumsum(parts)]
    if counts[-1] > rows:
        raise UserError(f"--split {split!r} asks for {counts[-1]} rows, but the series has {rows}")
    found = dict(zip(SPLITS, zip([0, *counts[:2]], counts, strict=True), strict=True))
    needed = np.array([sees + ahead, ahead, ahead])
    for (name, (first, end)), rows_needed in zip(found.items(), needed, strict=True):
        if end - first < rows_needed:
            # Rounding takes at most one row from a split.
            most = int(((needed + 2) / parts).max()) + 1
            total = _least(lambda n: bool((np.diff(_counts(parts, n), prepend=0) >= needed).all()), most)
            way_out = f"give a series of at least {total} rows" if shares else "give it more of them with --split"
            raise UserError(
                f"the {name} split has {end - first} rows; one window needs {rows_needed} (it sees {sees} and "
                f"looks {ahead} ahead): {way_out}, or shorten --look-back and --horizon"
            )
    return found


def _counts(shares: list[float], rows: int) -> list[int]:
    """The row after the last of each split."""
    return [round(rows * float(share)) for share in np.cumsum(shares)]


def _least(enough: Callable[[int], bool], most: int) -> int:
    """The number of rows from which on every number is enough; ``most`` and all above it are."""
    while most > 0 and enough(most - 1):
        most -= 1
    return most


def _book_bounds(rows: int, sees: int, ahead: int) -> dict[str, tuple[int, int]]:
    """Half, a quarter and the rest, as *Deep Learning with Python* (2nd ed., section 10.2) slices them.

    There the inputs are ``raw_data[:-delay]``, with the delay counted from a window's first row to its target, so that
    many rows at the end are not offered.
    """

    def cut(rows: int) -> list[int]:
        train, validation = int(0.5 * rows), int(0.25 * rows)
        return [train, validation, rows - (sees - 1 + ahead) - train - validation]

    if min(cut(rows)) < sees:
        total = _least(lambda n: min(cut(n)) >= sees, 4 * (2 * sees + ahead) + 4)
        raise UserError(
            f"the series has {rows} rows; one window per split of this preset needs at least {total} rows: "
            "give a longer series"
        )
    train, validation, _ = cut(rows)
    end = rows - (sees - 1 + ahead)
    return dict(zip(SPLITS, [(0, train), (train, train + validation), (train + validation, end)], strict=True))


def spans(split: str, bounds: dict[str, tuple[int, int]], sees: int, ahead: int, first: int) -> dict[str, np.ndarray]:
    """Per split the rows at which its windows may begin to forecast.

    Args:
        first: rows from a window's origin to its first target.
    """
    if split == BOOK:
        return {name: np.arange(start + sees - 1, end) for name, (start, end) in bounds.items()}
    return {name: np.arange(max(start - first, sees - 1), end - ahead) for name, (start, end) in bounds.items()}


def origins(absent, unmeasured, spans, sees: int, ahead: int, first: int) -> tuple[dict[str, np.ndarray], int]:
    """Origins whose inputs are all there and whose targets are all measured, per split; and how many were not.

    Args:
        absent, unmeasured: rows ``(rows,)`` where an input is missing and not filled, or a target was not measured.
        spans: per split, the origins that its rows allow.
    """
    absent_inputs = np.concatenate([[0], np.cumsum(absent)])
    absent_truth = np.concatenate([[0], np.cumsum(unmeasured)])
    found, dropped = {}, 0
    for name, rows in spans.items():
        whole = absent_inputs[rows + 1] == absent_inputs[rows + 1 - sees]
        whole &= absent_truth[rows + 1 + ahead] == absent_truth[rows + first]
        found[name] = rows[whole]
        dropped += int((~whole).sum())
    return found, dropped


def fill(values: pd.Series | pd.DataFrame, max_gap: int):
    """Gaps of at most ``max_gap`` rows filled with the last value before them."""
    return values.ffill(limit=max_gap) if max_gap else values


def way_out(
    frame: pd.DataFrame,
    targets: list[str],
    on_file: np.ndarray | None,
    max_gap: int,
    rows_allowed: np.ndarray,
    reach: tuple[int, int, int],
) -> str:
    """What helps where no window is whole: to count rows, to fill longer gaps, or to leave a column out.

    Args:
        on_file: which rows of the grid the file has ``(rows,)``; None without times.
        rows_allowed: the split's origins, had nothing been missing.
        reach: ``sees``, ``ahead`` and ``first`` of ``origins``.
    """

    def left(absent: np.ndarray, unmeasured: np.ndarray) -> bool:
        return len(origins(absent, unmeasured, {"": rows_allowed}, *reach)[0][""]) > 0

    rows, missing = len(frame), frame.isna()
    if on_file is not None and not on_file.all():
        unfilled = fill(pd.Series(np.where(on_file, 1.0, np.nan)), max_gap).isna().to_numpy()
        if not left(unfilled, ~on_file):
            absent = pd.DatetimeIndex(frame.index[~on_file])
            days = absent.day_name().unique()
            at = f"on {' and '.join(f'{day}s' for day in days)}" if len(days) < 3 else f"such as {absent[0]}"
            return f"the file has no row for {len(absent)} of {rows} steps, {at}: {times.ROWS_INSTEAD}"
    unmeasured = missing[targets].any(axis=1).to_numpy()
    if not left(np.zeros(rows, bool), unmeasured):
        worst = missing[targets].sum().idxmax()
        return (
            f"the target {worst!r} has no value in {missing[worst].sum()} of {rows} rows: fill it or shorten --horizon"
        )
    gaps = {name: missing[name].groupby((~missing[name]).cumsum()).sum().max() for name in frame.columns}
    worst = max(gaps, key=lambda name: gaps[name])
    if left(fill(frame, gaps[worst]).isna().any(axis=1).to_numpy(), unmeasured):
        return f"column {worst!r} has {gaps[worst]} in a row: raise --max-gap to {gaps[worst]}" + (
            "" if worst in targets else ", or leave the column out with --inputs"
        )
    return f"column {worst!r} has {gaps[worst]} in a row: fill them or leave the column out with --inputs"
