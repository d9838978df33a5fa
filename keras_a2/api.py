"""Train from Python or a notebook, by the same functions as the scripts."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_a2 import experiments, runs, settings
from keras_a2.errors import UserError
from keras_a2.files import whole
from keras_a2.inference import load

if TYPE_CHECKING:
    import pandas as pd

    from keras_a2.recurrent.predict import Forecaster
    from keras_a2.transfer.predict import Classifier


def train_images(data: str | Path, **options: Any) -> Classifier:
    """Train and publish an image classifier, as ``experiments/transfer.py`` does.

    Args:
        data: a folder of images, one folder per class; a table of labels (``photos/labels.csv``); or ``elpv``,
            ``digits`` and so on.
        options: those of the script, by their names in Python: ``image_size=64``, ``scratch=False``.

    Returns:
        the published model. A notebook shows its report.

    Raises:
        UserError: an unknown option, or input that the script would refuse.
    """
    path = Path(data).resolve()
    name = runs.folder_name(f"transfer-{(path.parent if path.is_file() else path).name}")
    return _train("transfer", {"data": os.fspath(data), "name": name, **options})


def train_series(data: pd.DataFrame | str | Path, target: str | None = None, **options: Any) -> Forecaster:
    """Train and publish a forecaster, as ``experiments/recurrent.py`` does.

    Args:
        data: a table with one row per time step, its times in a column or in the index; a table of many series, with
            the columns ``unique_id``, ``ds`` and ``y``; or the path of such a file. A table is saved as
            ``series.parquet`` in the folder of the model.
        target: the column to forecast, several separated by commas, or ``all``.
        options: those of the script, by their names in Python: ``look_back=48``, ``cell="lstm"`` (by default ``gru``),
            ``name="recurrent-sales"``.

    Returns:
        the published model. A notebook shows its report.

    Raises:
        UserError: an unknown option, or input that the script would refuse.
    """
    options = {"target": target, "cell": "gru", "output": runs.Options.output, **options}
    if options["cell"] == "all":
        raise UserError("train_series trains one model; choose the cell: simple_rnn, lstm or gru")
    if isinstance(data, str | Path):
        name = runs.folder_name(f"recurrent-{Path(data).stem}-{options['cell']}")
        return _train("recurrent", {"data": os.fspath(data), "name": name, **options})
    options = {"name": f"recurrent-series-{options['cell']}", **options}
    file = Path(options["output"]) / runs.check_name(options["name"]) / "series.parquet"
    with _written(data, file):
        return _train("recurrent", {"data": str(file), **options})


def _train(script: str, options: dict[str, Any]) -> Any:
    """Run the ``main`` of a script and load the model that it publishes."""
    experiment = importlib.import_module(f"keras_a2.experiments.{script}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config = settings.configure(experiment.Config, options)
    context = copy_context()
    context.run(runs.COMMAND.set, f"{experiments.command(script)} {settings.arguments(options)}")
    context.run(experiment.main, config)
    return load(Path(config.run.output) / config.run.name)


@contextmanager
def _written(table: pd.DataFrame, file: Path) -> Iterator[None]:
    """A table as a file for the run in the block; a run that was refused leaves neither file nor folder behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(file) as temporary:
            try:
                table.rename(columns=str).to_parquet(temporary)
            except (ValueError, TypeError) as error:  # pyarrow's own are both
                raise UserError(f"the table cannot be saved ({str(error).splitlines()[0]})") from error
        yield
    except UserError:
        if not any(path.is_dir() for path in file.parent.iterdir()):  # no version, and no run to resume
            file.unlink(missing_ok=True)
            with suppress(OSError):
                file.parent.rmdir()
        raise
