"""From the script's configuration to windows and training settings, its defaults resolved."""

from __future__ import annotations

import dataclasses

from keras_a2.recurrent import data, sources, splits
from keras_a2.recurrent.data import Windows
from keras_a2.recurrent.train import Settings

WINDOW_OPTIONS = ("look_back", "horizon", "split", "max_gap", "calendar", "every", "first_lead")
# The temperature forecast of Deep Learning with Python (Chollet, 2nd ed., section 10.2): hourly steps, five days seen,
# one day ahead. The book counts rows, not times.
CHOLLET = {
    "look_back": 120,
    "horizon": 1,
    "first_lead": 24,
    "every": 6,
    "split": splits.BOOK,
    "calendar": False,
}


def windows(config) -> Windows:
    """The windows that the configuration asks for; ``--preset chollet`` overrides how they are cut.

    Raises:
        UserError: as ``sources.find`` and ``data.prepare``.
    """
    book = config.preset == "chollet"
    table = sources.find(config.data, config.target, config.time, config.inputs, as_read=book)
    options = {name: getattr(config, name) for name in WINDOW_OPTIONS}
    return data.prepare(table, **(options | CHOLLET if book else options))


def settings(config, windows: Windows, season: int) -> Settings:
    """The part of the script's configuration that training needs, its defaults resolved for these windows."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    shared = config.channel_independent
    shared = len(windows.targets) > 1 if shared is None else shared
    whole_seasons = shared and windows.look_back % season == 0 and windows.look_back >= 2 * season
    epochs = config.epochs or (10 if shared else 16)
    defaults = {
        "channel_independent": shared,
        "segment": season if whole_seasons and season > 1 else 0,
        "input_dropout": 0.0 if shared else 0.4,
        "epochs": epochs,
        "patience": max(epochs // 4, 4),
        "batch_size": 512 if shared else 128,
    }
    return Settings(**{name: defaults[name] if value is None else value for name, value in values.items()})
