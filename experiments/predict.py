"""Use a published model: classes of images, or the forecast of a series.

python experiments/predict.py saved_models/transfer-elpv photo.png folder/
python experiments/predict.py saved_models/transfer-elpv folder/ --maps maps/
python experiments/predict.py saved_models/recurrent-sales-gru sales.csv
python experiments/predict.py MODEL sales.csv --figure forecast.png
python experiments/predict.py MODEL sales.csv --check
python experiments/predict.py MODEL new_rows.csv --update
python experiments/predict.py MODEL shops.csv --output forecast.csv
python experiments/predict.py MODEL --serve
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
class AnswerOptions:
    """What is answered, and where it goes."""

    output: Path | None = None
    """Write a .csv or .jsonl file instead of a table on the screen."""
    top: Count = 1
    """Classifiers: classes to give per image, the most probable first."""
    figure: Path | None = None
    """Forecasters: draw the forecast into this .png, .pdf or .svg file."""


@dataclass(frozen=True)
class ClassifierOptions:
    """For images."""

    sets: bool = False
    """Give each image's set of classes, which contains the true one with the promised probability."""
    maps: Path | None = None
    """Write each picture into this folder, bright where it speaks for its class (class activation map)."""


@dataclass(frozen=True)
class ForecasterOptions:
    """For series."""

    time: str | None = None
    """Column with the times; by default detected."""
    check: bool = False
    """Mark the rows of the series that lie outside the 95 % interval forecast one step ahead."""
    update: bool = False
    """Measure the model on the new rows of the series, then train its recipe again with them and publish the next
    version. The file continues the rows that the model was trained on, or holds them too."""


@dataclass(frozen=True)
class OtherOptions:
    """Other uses of published models."""

    list: bool = False
    """Print every published model with its headline figure, data, date and size."""
    models: Path = Path("saved_models")
    """Folder that --list reads."""
    serve: bool = False
    """Open a local page where you can drop an image or a series (extra [demo])."""
    port: int | None = None
    """Port of that page; by default the first free one from 7860."""
    export: Literal["none", "litert", "onnx"] = "none"
    """litert: write model.tflite and model.int8.tflite into the version's folder, measured on the items given.
    onnx: write model.onnx there (extra [onnx])."""


@dataclass(frozen=True)
class Config:
    """Load a published model and predict, or list the published models."""

    model: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of a published model, or of one of its versions."""
    items: Annotated[tuple[Path, ...], tyro.conf.Positional] = field(default=())
    """Images or folders of images; for a forecaster one .csv or .parquet file."""
    answer: AnswerOptions = AnswerOptions()
    classifier: ClassifierOptions = ClassifierOptions()
    forecaster: ForecasterOptions = ForecasterOptions()
    other: OtherOptions = OtherOptions()


def main(config: Config) -> None:
    """List the models, or open one for what the options ask."""
    check(config)
    from keras_a2 import inference, saved_model

    if config.other.list or config.model is None:
        inference.print_models(config.other.models)
        return
    card = saved_model.read_card(saved_model.latest_version(config.model))
    experiment = card["experiment"]
    check_use(config, experiment)
    other, time, output = config.other, config.forecaster.time, config.answer.output
    single = {"serve": other.serve, "update": config.forecaster.update, "export": other.export != "none"}
    if "many_series" in card and any(single.values()):
        name = next(name for name, given in single.items() if given)
        raise UserError(f"--{name} is for forecasters of a single series; {config.model} forecasts many: leave it out")
    model: Any = inference.load(config.model)
    items = list(config.items)
    if other.serve:
        from keras_a2 import demo

        demo.serve(model, other.port)
    elif other.export != "none":
        inference.export(model, other.export, items, time)
    elif config.forecaster.update:
        update(model, config)
    elif config.forecaster.check:
        inference.check(model, items[0], time, output)
    elif experiment == "transfer":
        inference.classify(model, items, config.answer.top, output, config.classifier.sets, config.classifier.maps)
    elif model.many:
        inference.forecast_many(model, items[0], time, output, config.answer.figure)
    else:
        inference.forecast(model, items[0], time, output, config.answer.figure)


def update(model: Forecaster, config: Config) -> None:
    """Measure a forecaster on rows that it has not seen, then publish the next version, trained with them as well."""
    from keras_a2 import inference
    from keras_a2.recurrent.predict import updated_recipe

    recurrent = importlib.import_module("keras_a2.experiments.recurrent")  # of the checkout, or of the wheel
    recipe, measured = updated_recipe(model, recurrent.Config, config.items[0], config.forecaster.time)
    inference.print_update(measured)
    recurrent.main(recipe, measured)


def check(config: Config) -> None:
    """Refuse what cannot work before anything is loaded."""
    settings.check(config)
    if config.other.list:
        return
    if config.model is None:
        raise UserError("no model given; name a folder of saved_models, or use --list to see what there is")
    if not config.items and not config.other.serve:
        raise UserError("nothing to predict on; give images, folders of images, or a .csv or .parquet file")
    for item in config.items:
        if not item.exists():
            raise UserError(f"no such file or folder: {item}")
    maps = config.classifier.maps
    if maps is not None and maps.exists() and not maps.is_dir():
        raise UserError(f"--maps {maps} is a file; name a folder")
    for name, (*suffixes, last) in FORMATS.items():
        path = getattr(config.answer, name)
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
    given = settings.flat(config)
    if experiment == "transfer":
        for name in ("figure", "time", "check", "update"):
            if given[name]:
                raise UserError(f"--{name} is for forecasters; {config.model} is a classifier: leave it out")
    elif given["top"] > 1 or given["sets"] or given["maps"]:
        name = "top" if given["top"] > 1 else "sets" if given["sets"] else "maps"
        raise UserError(f"--{name} is for classifiers; {config.model} is a forecaster: leave it out")
    elif len(config.items) > 1 and not config.other.serve:
        raise UserError(
            f"a forecaster takes one series, and {len(config.items)} files were given: run this once for each of them"
        )


if __name__ == "__main__":
    runs.command_line(Config, main)
