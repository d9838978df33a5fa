"""The windows of many series, as one array of rows.

The series lie one after the other; a window's rows are those of one series, so that windows are cut, batched and
forecast as those of a single one.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_a2 import settings
from keras_a2.errors import UserError
from keras_a2.recurrent import data
from keras_a2.recurrent.panel_sources import Rows, holds_many, read
from keras_a2.recurrent.seasons import season_of
from keras_a2.recurrent.splits import Cut, Options, shares

LEAST_SPREAD = 0.02  # of the standard deviation
TINY = 1e-12  # relative to a series' level: less is rounding, not a spread
SEASON_SERIES = 50  # the longest, whose season is that of all
# Options that many series do not take.
ONE_SERIES = (
    "inputs", "known", "holidays", "first_lead", "every", "calendar", "channel_independent", "backtest", "levels",
    "litert",
)  # fmt: skip


@dataclass
class Panel(Cut):
    """The windows of many series; what a window with origin ``t`` sees and forecasts is as in ``data.Windows``.

    ``values`` and ``truth`` are relative to each series' own mean and spread, and of logarithms where ``positive``.
    """

    name: str
    look_back: int
    horizon: int
    season: int
    rows: Rows
    positive: bool
    own_mean: np.ndarray  # (series,) of the training rows
    own_scale: np.ndarray  # (series,)
    values: np.ndarray  # (rows, 1) float32, gaps filled from the past
    truth: np.ndarray  # (rows, 1) float32, NaN where missing
    candidates: np.ndarray  # rows at which a whole window may begin to forecast
    origins: dict[str, np.ndarray]
    parts: tuple[int, int]  # validation and test windows of a series at most: see ``blocks``
    behind: np.ndarray  # (series,) steps from its last row to the end of the test
    facts: dict

    @property
    def inputs(self) -> list[str]:
        """The target's own past; ``targets`` the column that is forecast."""
        return [self.rows.target]

    targets = inputs

    @property
    def target_columns(self) -> np.ndarray:
        """Where the target stands among the inputs."""
        return np.zeros(1, int)

    @property
    def target_scale(self) -> np.ndarray:
        """As ``data.Windows``; here every series has a scale of its own."""
        return np.ones(1)

    @property
    def features(self) -> int:
        """The features of a step of a window, as ``model.frame`` makes them."""
        return 2

    def series_of(self, origins: np.ndarray) -> np.ndarray:
        """The number of the series that each row belongs to ``(n,)``."""
        return np.searchsorted(self.rows.ends, origins, side="right") - 1

    def in_unit(self, origins: np.ndarray, standardised: np.ndarray) -> np.ndarray:
        """Forecasts of windows with these origins ``(n, horizon)`` in the target's unit."""
        i = self.series_of(origins)[:, np.newaxis]
        transformed = standardised.astype(np.float64) * self.own_scale[i] + self.own_mean[i]
        return np.exp(transformed) if self.positive else transformed

    def raw(self, origins: np.ndarray) -> np.ndarray:
        """What the exported model takes ``(n, look_back, 1)``, in the target's unit."""
        return self.in_unit(origins, self.seen(origins)[..., 0])[..., np.newaxis]

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """So many training windows by chance ``(count,)``: a series first, then one of its windows.

        Half of the draws are even over the series, half in proportion to their spread. Errors count in units of the
        spread: so both they and errors in percent, where values are positive, have a say.
        """
        origins = self.origins["train"]
        bounds = np.searchsorted(origins, self.rows.ends)
        numbers = np.flatnonzero(np.diff(bounds))
        probability = np.full(len(numbers), 1 / len(numbers))
        if self.positive:
            probability = (probability + self.own_scale[numbers] / self.own_scale[numbers].sum()) / 2
        drawn = generator.choice(numbers, count, p=probability)
        return origins[bounds[drawn] + (generator.random(count) * np.diff(bounds)[drawn]).astype(int)]

    def folds(self, count: int) -> list[Panel]:
        """Rolling origins: so many trainings, each validated on the windows that follow, and the one to be tested.

        The last learns from every window before the test rows, and validates nothing.
        """
        steps = self.steps_left(self.candidates)
        folds: list[Panel] = []
        for block in blocks(self.horizon, self.parts, count):
            train = self.candidates[steps >= block[0] + self.horizon]
            validation = self.candidates[np.isin(steps, block)] if len(folds) < count else train[:0]
            folds.append(replace(self, origins=self.origins | {"train": train, "validation": validation}))
        return folds

    def on_all_rows(self) -> Panel:
        """The same with every window to train on, and none to validate.

        A test row that is not positive has no logarithm: windows that forecast it are left out.
        """
        unknown = np.concatenate([[0], np.cumsum(~np.isfinite(self.truth[:, 0]))])
        ahead = unknown[self.candidates + self.horizon + 1] - unknown[self.candidates + 1]
        train = self.candidates[ahead == 0]
        return replace(self, origins=self.origins | {"train": train, "validation": train[:0]})

    def backtest(self, count: int) -> list[data.Windows]:
        """None: ``--folds`` rolls the origins of many series."""
        return []

    def steps_left(self, origins: np.ndarray) -> np.ndarray:
        """Steps from each row to the end of the test ``(n,)``."""
        i = self.series_of(origins)
        return self.rows.ends[i + 1] - 1 - origins + self.behind[i]

    def summary(self) -> dict:
        """What a run records of its data."""
        return {
            "name": self.name,
            "series": len(self.rows.names),
            "rows": len(self.rows.values),
            "target": self.targets,
            "unit": "",
            **{split: len(origins) for split, origins in self.origins.items()},
            **self.facts,
        }


def check(config: Any) -> None:
    """Refuse options that many series do not take.

    Raises:
        UserError: names the first of them.
    """
    given, default = settings.flat(config), settings.flat(type(config)())
    if config.series.origins == "last" and given["split"] != default["split"]:
        raise UserError("--origins last forecasts the last rows of each series: leave it out, or --split")
    for name in ONE_SERIES:
        if given[name] not in (default[name], default[name] or False):  # False: None once resolved
            raise UserError(
                f"--{name.replace('_', '-')} is for a single series, and {config.series.data} holds many: leave it out"
            )


def load(config: Any) -> data.Windows | Panel:
    """The windows that the configuration asks for: of one series, or of many in a file.

    Args:
        config: has the groups ``series``, ``network`` and ``forecast``.

    Raises:
        UserError: as ``data.load``, or ``read`` and ``prepare``; an option that is for the other kind, or a segment
            that does not divide the look-back.
    """
    segment, look_back = config.network.segment, config.series.look_back
    if segment and look_back % segment:
        raise UserError(f"--segment {segment} does not divide --look-back {look_back}; choose a divisor")
    options = config.series
    if holds_many(options):
        check(config)
        path = Path(options.data)
        rows = read(path, options.series, options.time, options.target, options.wide, options.freq)
        return prepare(rows, path.name.split(".")[0], options, config.forecast.folds or 1)
    if config.forecast.classical:
        raise UserError("--classical adds Theta for many series, and this is a single one: leave it out")
    if options.origins == "last":
        raise UserError(
            f"--origins last takes many series, and {options.data} has no column unique_id: name the column of "
            "the series with --series, or leave --origins out"
        )
    return data.load(options)


def blocks(horizon: int, parts: tuple[int, int], folds: int) -> list[range]:
    """Of each fold, and last of the test, the steps that are left after the origins of the windows that it measures.

    Windows are a horizon apart: their targets do not overlap, and the last one's ends where the test does.

    Args:
        parts: number of windows in the validation of a fold, and in the test.
    """
    validation, test = parts
    edges = [*(test + validation * k for k in range(folds, -1, -1)), 0]
    return [range(horizon * start, horizon * end, -horizon) for start, end in itertools.pairwise(edges)]


def parts_of(split: str, left: np.ndarray, horizon: int) -> tuple[int, int]:
    """Windows in validation and test, as ``blocks`` takes them, for these shares of all rows; at least one each.

    Args:
        split: three fractions.
        left: steps from each row to the end of the test ``(rows,)``.

    Raises:
        UserError: no fractions, or they do not add up to 1.
    """
    fractions = shares(split)
    if max(fractions) >= 1 or not np.isclose(sum(fractions), 1):
        raise UserError(f"--split {split!r}: for many series it takes three fractions of 1, such as 0.6,0.2,0.2")
    _, validation, test = fractions
    both, last = (int((np.quantile(left, share) + 1) // horizon) for share in (validation + test, test))
    return max(both - max(last, 1), 1), max(last, 1)


def common_season(rows: Rows, look_back: int, unseen: np.ndarray) -> int:
    """The season that most of the longest series have and that fits twice into the look-back; 1 without.

    Args:
        unseen: the last rows of each series, which must not be looked at ``(series,)``.
    """
    longest = np.argsort(-rows.lengths, kind="stable")[:SEASON_SERIES]
    series = (rows.values[rows.ends[i] : max(rows.ends[i + 1] - unseen[i], rows.ends[i])] for i in longest)
    seasons = [season_of(values, rows.length) if len(values) else 1 for values in series]
    return int(np.bincount([season if 2 * season <= look_back else 1 for season in seasons]).argmax())


def prepare(rows: Rows, name: str, options: Options, folds: int = 1) -> Panel:
    """Cut the windows of many series, in time order: the last ones are for the test, those before for validation.

    Where there are dates, ``--split`` divides all series at the same ones: what is tested happened after all that was
    learnt. Else rows count from the end of each series. With ``--origins last`` its last ``horizon`` rows are for the
    test, those before for validation.

    Args:
        options: without a season it is ``common_season``.
        folds: of validation.

    Raises:
        UserError: a bad split, a look-back that is shorter than two seasons, or no series long enough to train on.
    """
    look_back, horizon, by_split = options.look_back, options.horizon, options.origins == "splits"
    behind, parts = np.zeros(len(rows.names), int), (1, 1)
    if by_split:
        behind = behind if rows.behind is None else rows.behind
        parts = parts_of(
            options.split, np.repeat(rows.ends[1:] - 1 + behind, rows.lengths) - np.arange(rows.ends[-1]), horizon
        )
    measured = blocks(horizon, parts, folds)
    tested, unseen = (np.maximum(block[0] - behind, 0) for block in (measured[-1], measured[0]))  # rows of each series
    season = options.season or common_season(rows, look_back, unseen)
    if look_back < 2 * season:
        raise UserError(f"--look-back {look_back} is shorter than two seasons of {season}; give at least {2 * season}")
    before_test = np.concatenate([rows.values[a : max(b - n, a)] for (a, b), n in zip(rows.spans, tested, strict=True)])
    if not np.isfinite(before_test).any():
        raise UserError(f"{name}: no series has a row before its last {measured[-1][0]}; shorten --horizon")
    positive = bool(np.nanmin(before_test) > 0)
    del before_test
    count = len(rows.names)
    values, truth = (np.empty(len(rows.values), np.float32) for _ in range(2))
    mean, scale, whole, dropped = np.zeros(count), np.ones(count), [np.zeros(0, np.int32)], 0
    for i, (start, end) in enumerate(rows.spans):  # series by series: the data are never held twice in float64
        series = rows.values[start:end]
        missing, no_logarithm = np.isnan(series), positive & (series <= 0)  # a test row may have none
        if missing.any():
            series = data.fill(pd.Series(series), options.max_gap).to_numpy()
        if positive:
            series = np.log(series, out=np.full(len(series), np.nan), where=series > 0)
        # A series that began in the test is scaled by its first window, which every forecast has seen.
        mean[i], scale[i] = _scaling(series[: max(len(series) - unseen[i], look_back)], season)
        values[start:end] = (series - mean[i]) / scale[i]
        truth[start:end] = np.where(missing, np.nan, values[start:end])
        inside = np.arange(start + look_back - 1, end - horizon, dtype=np.int32)
        if (missing | no_logarithm).any() and len(inside):
            windows = np.lib.stride_tricks.sliding_window_view
            seen = ~np.isnan(windows(values[start : end - horizon], look_back)).any(axis=1)
            ahead = ~windows(missing[look_back:], horizon).any(axis=1)  # the truth decides nothing, but for a gap
            dropped += int((~(seen & ahead)).sum())
            inside = inside[seen & ahead]
        whole.append(inside)
    candidates = np.concatenate(whole)
    left = np.repeat(rows.ends[1:] - 1 + behind, [len(part) for part in whole[1:]]) - candidates
    before = measured[0][0] + horizon  # a training window ends before the first validation
    chosen = {
        "train": left >= before,
        "validation": np.isin(left, [step for block in measured[:-1] for step in block]),
        "test": np.isin(left, measured[-1]),
    }
    origins = {name: candidates[inside] for name, inside in chosen.items()}
    if not all(map(len, origins.values())):
        raise UserError(
            f"{name}: no series is long enough: a training window takes {look_back + before} rows, the longest series "
            f"has {rows.lengths.max()}; shorten --look-back or --horizon"
            + ("" if not by_split else ", or take --origins last")
        )
    digest = hashlib.sha256(rows.ends.tobytes())
    digest.update(np.ascontiguousarray(rows.values).data)
    return Panel(
        name=name,
        look_back=look_back,
        horizon=horizon,
        season=season,
        rows=rows,
        positive=positive,
        own_mean=mean,
        own_scale=scale,
        values=np.nan_to_num(values, copy=False)[:, np.newaxis],
        truth=truth[:, np.newaxis],
        candidates=candidates,
        origins=origins,
        parts=parts,
        behind=behind,
        facts={
            "validation_windows": parts[0],
            "test_windows": parts[1],
            "common_dates": by_split and rows.behind is not None,
            "sha256": digest.hexdigest(),
            "season": season,
            "logarithms": positive,
            "shortest": int(rows.lengths.min()),
            "longest": int(rows.lengths.max()),
            "too_short": int((rows.lengths < look_back + horizon).sum()),
            "missing_values": int(np.isnan(rows.values).sum()),
            "windows_dropped": dropped,
            "max_gap": options.max_gap,
            "notes": rows.notes,
        },
    )


def _scaling(values: np.ndarray, season: int) -> tuple[float, float]:
    """Mean of a series' training rows ``(rows,)`` and their spread: the mean absolute change from season to season."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    changes = np.abs(values[season:] - values[:-season])
    spread = max(changes.mean() if len(changes) else 0.0, LEAST_SPREAD * values.std())
    mean = float(values.mean())
    return mean, float(spread) if spread > TINY * max(abs(mean), 1) else 1.0
