"""Use a published model: classes of images, or the forecast of a series.

python experiments/predict.py saved_models/transfer-elpv photo.png folder/ --top 2
python experiments/predict.py saved_models/transfer-elpv folder/ --maps maps/
python experiments/predict.py saved_models/recurrent-nyc_weather-gru series.csv --figure forecast.png
python experiments/predict.py saved_models/recurrent-nyc_weather-gru series.csv --check
python experiments/predict.py saved_models/recurrent-sales-gru new_rows.csv --update
python experiments/predict.py saved_models/recurrent-shops-gru shops.csv --output forecast.csv
python experiments/predict.py saved_models/transfer-elpv --serve
python experiments/predict.py --list
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from keras_a2 import runs, settings
from keras_a2.errors import UserError
from keras_a2.settings import Count

if TYPE_CHECKING:
    from keras_a2.recurrent.predict import Forecaster

FORMATS = {"output": (".csv", ".jsonl"), "figure": (".png", ".pdf", ".svg")}


@dataclass(frozen=True)
class Config:
    """Load a published model and predict, or list the published models."""

    model: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of a published model, or of one of its versions."""
    items: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(default=())
    """Images or folders of images; for a forecaster one .csv or .parquet file."""
    top: Count = 1
    """Classes to give per image, the most probable first."""
    sets: bool = False
    """Classifiers: give each image's set of classes, which contains the true one with the promised probability."""
    maps: Path | None = None
    """Classifiers: write each picture into this folder, bright where it speaks for its class (class activation map)."""
    output: Path | None = None
    """Write a .csv or .jsonl file instead of a table on the screen."""
    figure: Path | None = None
    """Forecasters: draw the forecast into this .png, .pdf or .svg file."""
    time: str | None = None
    """Forecasters: the column with the times; by default detected."""
    check: bool = False
    """Forecasters: mark the rows of the series that lie outside the 95 % interval forecast one step ahead."""
    update: bool = False
    """Forecasters: measure the model on the new rows of the series, then train its recipe again with them and publish
    the next version. The file continues the rows that the model was trained on, or holds them too."""
    list: bool = False
    """Print every published model with its headline figure, data, date and size."""
    models: Path = Path("saved_models")
    """Folder that --list reads."""
    export: Literal["none", "litert", "onnx"] = "none"
    """litert: write model.tflite and model.int8.tflite into the version's folder, measured on the items given.
    onnx: write model.onnx there (extra [onnx])."""
    serve: bool = False
    """Open a local page where you can drop an image or a series (extra [demo])."""
    port: int | None = None
    """Port of that page; by default the first free one from 7860."""


def main(config: Config) -> None:
    """List the models, or open one for what the options ask."""
    check(config)
    from keras_a2 import inference, saved_model

    if config.list or config.model is None:
        inference.print_models(config.models)
        return
    card = saved_model.read_card(saved_model.latest_version(config.model))
    experiment = card["experiment"]
    check_use(config, experiment)
    single = {name: getattr(config, name) for name in ("serve", "update")}
    single["export"] = config.export != "none"
    if "many_series" in card and any(single.values()):
        name = next(name for name, given in single.items() if given)
        raise UserError(f"--{name} is for forecasters of a single series; {config.model} forecasts many: leave it out")
    model: Any = inference.load(config.model)
    items = list(config.items)
    if config.serve:
        from keras_a2 import demo

        demo.serve(model, config.port)
    elif config.export != "none":
        inference.export(model, config.export, items, config.time)
    elif config.update:
        update(model, config)
    elif config.check:
        inference.check(model, items[0], config.time, config.output)
    elif experiment == "transfer":
        inference.classify(model, items, config.top, config.output, config.sets, config.maps)
    elif model.many:
        inference.forecast_many(model, items[0], config.time, config.output, config.figure)
    else:
        inference.forecast(model, items[0], config.time, config.output, config.figure)


def update(model: Forecaster, config: Config) -> None:
    """Measure a forecaster on rows that it has not seen, then publish the next version, trained with them as well."""
    from keras_a2 import inference
    from keras_a2.recurrent.predict import updated_recipe

    recurrent = importlib.import_module("keras_a2.experiments.recurrent")  # of the checkout, or of the wheel
    recipe, measured = updated_recipe(model, recurrent.Config, config.items[0], config.time)
    inference.print_update(measured)
    recurrent.main(recipe, measured)


def check(config: Config) -> None:
    """Refuse what cannot work before anything is loaded."""
    settings.check(config)
    if config.list:
        return
    if config.model is None:
        raise UserError("no model given; name a folder of saved_models, or use --list to see what there is")
    if not config.items and not config.serve:
        raise UserError("nothing to predict on; give images, folders of images, or a .csv or .parquet file")
    for item in config.items:
        if not item.exists():
            raise UserError(f"no such file or folder: {item}")
    if config.maps is not None and config.maps.exists() and not config.maps.is_dir():
        raise UserError(f"--maps {config.maps} is a file; name a folder")
    for name, (*suffixes, last) in FORMATS.items():
        path = getattr(config, name)
        if path is None:
            continue
        if path.suffix not in (*suffixes, last):
            raise UserError(f"--{name} {path} must end in {', '.join(suffixes)} or {last}")
        if not path.resolve().parent.is_dir():
            raise UserError(f"no such folder: {path.resolve().parent}; create it first")
        if path.exists() and any(path.samefile(item) for item in config.items):
            raise UserError(f"{path} is an input and would be overwritten; choose another file to write")


def check_use(config: Config, experiment: str) -> None:
    """Refuse what a model of this kind does not do, before the model is loaded."""
    if experiment == "transfer":
        for name in ("figure", "time", "check", "update"):
            if getattr(config, name):
                raise UserError(f"--{name} is for forecasters; {config.model} is a classifier: leave it out")
    elif config.top > 1 or config.sets or config.maps:
        name = "top" if config.top > 1 else "sets" if config.sets else "maps"
        raise UserError(f"--{name} is for classifiers; {config.model} is a forecaster: leave it out")
    elif len(config.items) > 1 and not config.serve:
        raise UserError(
            f"a forecaster takes one series, and {len(config.items)} files were given: run this once for each of them"
        )


if __name__ == "__main__":
    runs.command_line(Config, main)
