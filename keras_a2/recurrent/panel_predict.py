"""A published forecaster of many series in use: a file with series in, the forecast of each out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from keras_a2.errors import UserError
from keras_a2.recurrent import panel_sources, scores, times

if TYPE_CHECKING:
    from keras_a2.recurrent.predict import Forecaster

BATCH = 4096  # series at once


def forecast(model: Forecaster, rows: panel_sources.Rows) -> tuple[pd.DataFrame, int]:
    """The steps after the last row of every series, also of one that the model has never seen.

    Returns:
        a table ``unique_id``, ``ds`` (the time, or the row's number), ``lead``, the target and the ends of its
        interval; and how many series were shorter than the look-back: the seasonal naive stands in for those.

    Raises:
        UserError: another spacing than the model's, no value, or one that is not positive where the model takes
            logarithms; the series is named.
    """
    facts = model.card["many_series"]
    trained = facts.get("spacing")
    if trained is None and facts["step_seconds"] is not None:  # of an earlier version
        trained = times.spacing(times.even(pd.Timedelta(seconds=facts["step_seconds"])))
    if trained and rows.spacing and rows.spacing != trained:
        raise UserError(f"the series have steps of {rows.spacing}; the model was trained on {trained}")
    season, horizon, count = facts["season"], model.horizon, len(rows.names)
    answer = np.empty((3, count, horizon))
    windows, whole = np.empty((count, model.look_back)), np.zeros(count, bool)
    for i in range(count):
        values = pd.Series(rows.values[rows.ends[i] : rows.ends[i + 1]])
        known = values.ffill(limit=model.max_gap or None).to_numpy() if model.max_gap else values.to_numpy()
        last = known[-model.look_back :]
        whole[i] = len(last) == model.look_back and bool(np.isfinite(last).all())
        if whole[i]:
            windows[i] = last
            if facts["logarithms"] and last.min() <= 0:
                raise UserError(
                    f"series {rows.names[i]!r} holds {last.min():g}; the model was trained on positive values only"
                )
            continue
        known = values.ffill().dropna().to_numpy()
        if len(known) == 0:
            raise UserError(f"series {rows.names[i]!r} has no values; remove it")
        answer[0, i] = scores.seasonal_naive(known, season, horizon)
        answer[1:, i] = scores.naive_intervals(known, horizon, model.levels[0] / 100)
    numbers = np.flatnonzero(whole)
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        batch = windows[part][..., np.newaxis]
        answer[0, part] = model.serve(batch)
        answer[1:, part] = np.asarray(model.loaded.serve_intervals(batch)).transpose(2, 0, 1)
    ahead = [rows.times_after(i, model.leads) for i in range(count)]
    columns: dict[str, Any] = {
        "unique_id": np.repeat(rows.names, horizon),
        "ds": np.concatenate([np.asarray(each) for each in ahead]),
        "lead": np.tile(model.leads, count),
    }
    for name, values in zip(
        (rows.target, f"lower_{model.levels[0]:g}", f"upper_{model.levels[0]:g}"), answer, strict=True
    ):
        columns[name] = values.ravel()
    return pd.DataFrame(columns), int((~whole).sum())
