"""Published models: load one, list them all, predict to a table or a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track
from rich.table import Column, Table

from keras_a2 import page, runs, saved_model
from keras_a2.console import console, print_table
from keras_a2.errors import UserError
from keras_a2.experiments import command
from keras_a2.files import whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from keras_a2.recurrent.predict import Forecaster
    from keras_a2.transfer.predict import Classifier, Prediction

MEASURED_ITEMS = 64
SHOWN_ROWS, SHOWN_TARGETS, WITH_INTERVALS = 200, 8, 2  # a longer or wider table is for --output


def load(folder: str | Path) -> Classifier | Forecaster:
    """Load the latest version of a published model (or the version folder itself); see its ``predict``.

    Raises:
        UserError: no such folder, or a damaged or half-copied one.
    """
    saved = saved_model.load(folder)
    if saved.card["experiment"] == "transfer":
        from keras_a2.transfer.predict import Classifier

        return Classifier(**vars(saved))
    from keras_a2.recurrent.predict import Forecaster

    return Forecaster(**vars(saved))


def classify(
    model: Classifier, items: list[Path], top: int, output: Path | None, sets: bool = False, maps: Path | None = None
) -> None:
    """Predict images and folders; a table of the first on the screen, or a .csv or .jsonl file of all.

    Args:
        sets: give each image's set of classes too.
        maps: folder for a picture of each image with its class activation map.
    """
    from PIL import Image

    from keras_a2.transfer import predict
    from keras_a2.transfer.walk import LeftOut

    if maps is not None:
        model.check_maps()
    if sets:
        model.check_sets()
    left_out, top = LeftOut(), min(top, len(model.classes))
    files = predict.find_images(items, left_out)
    if str(left_out):
        console.print(f"note: left out: {left_out}")
    shown = files if output or maps else files[:SHOWN_ROWS]
    if maps is not None:
        maps.mkdir(parents=True, exist_ok=True)
    stream = model.stream(shown, top, maps is not None)
    predictions = []
    for number, p in enumerate(track(stream, "predicting", total=len(shown), console=console, transient=True), 1):
        if maps is not None and p.mapped is not None:
            with whole(maps / f"{number:0{len(str(len(shown)))}}_{Path(p.file).stem}.png") as temporary:
                Image.fromarray(p.mapped).save(temporary, "PNG")
        predictions.append(replace(p, mapped=None))
    if maps is not None:
        console.print(f"wrote {sum(not p.error for p in predictions)} maps to {maps}")
    if output is None:
        further = ["set"] * sets + ["unfamiliar"] * (model.familiarity is not None)
        table = Table(Column("file", overflow="fold"), "class", Column("probability", no_wrap=True), *further)
        for p in predictions[:SHOWN_ROWS]:
            if p.error:
                table.add_row(p.file, f"error: {p.error}", "")
            of_image = [", ".join(p.answer_set or ())] * sets + ["yes"] * bool(p.unfamiliar)
            for rank, (name, probability) in enumerate(zip(p.classes, p.probabilities, strict=True)):
                table.add_row("" if rank else p.file, name, f"{probability:.1%}", *([] if rank else of_image))
        if len(files) > SHOWN_ROWS:
            table.add_row("… more: write them with --output", "", "")
        console.print(table)
        return
    with whole(output) as temporary:
        if output.suffix == ".csv":
            predict.table(predictions, top, sets).to_csv(temporary, index=False)
        else:
            temporary.write_text("".join(json.dumps(_as_object(p, sets)) + "\n" for p in predictions), encoding="utf-8")
    console.print(f"wrote {output}: {len(files)} files, {sum(bool(p.error) for p in predictions)} unreadable")


def _as_object(p: Prediction, sets: bool) -> dict[str, Any]:
    ranked = [{"class": c, "probability": q} for c, q in zip(p.classes, p.probabilities, strict=True)]
    judged = {} if p.unfamiliar is None else {"unfamiliar": p.unfamiliar}
    members = {"set": p.answer_set and list(p.answer_set)} if sets else {}
    return {"file": p.file, "predictions": ranked, **members, **judged, "error": p.error or None}


def forecast(model: Forecaster, series: Path, time: str | None, output: Path | None, figure: Path | None) -> None:
    """Forecast the steps after a file's last row; a table on the screen, or a .csv or .jsonl file."""
    seen, answer = model.forecast(series, time)
    if figure is not None:
        from keras_a2.recurrent.predict import plot

        _save(plot(model, seen, answer), figure)
    if output is not None:
        _write(answer.round(model.decimals(page.FILE_DIGITS)), output)
        return
    places, columns = model.decimals(page.SCREEN_DIGITS), {}
    for target in model.targets[:SHOWN_TARGETS]:
        columns[page.with_unit(target, model.unit)] = page.column(answer[target], places=places.get(target))
        for level, *ends in model.ends(target) if len(model.targets) <= WITH_INTERVALS else []:
            lower, upper = (page.column(answer[end], places=places.get(end)) for end in ends)
            of_several = f"{target} " if len(model.targets) > 1 else ""
            columns[f"{of_several}{level:g} %"] = [f"{low} to {high}" for low, high in zip(lower, upper, strict=True)]
    parts = zip(answer.index, answer["lead"], *columns.values(), strict=True)
    rows = [[str(step), str(lead), *values] for step, lead, *values in parts]
    print_rows([answer.index.name, "lead", *columns], rows)
    if len(model.targets) > (WITH_INTERVALS if model.levels else SHOWN_TARGETS):
        console.print("every target with its intervals: --output FILE.csv")


def check(model: Forecaster, series: Path, time: str | None, output: Path | None) -> None:
    """Mark the rows of a file that lie outside the interval forecast one step ahead; all checked rows to a file."""
    checked = model.check(series, time)
    rows = checked[checked["outside"]]
    share = f"{len(rows)} of {len(checked)} values ({page.percent(len(rows) / len(checked))})"
    console.print(f"{share} lie outside their {model.anomaly_level:g} % interval one step ahead")
    places = model.decimals(page.SCREEN_DIGITS)
    if output is not None:
        _write(checked, output)
        return
    name = "unique_id" if model.many else "target"
    shown = []
    for step, row in rows.head(SHOWN_ROWS).iterrows():
        value, forecast, lower, upper = (
            page.column([row[column]], places=places.get(row[name]))[0]
            for column in ("value", "forecast", "lower", "upper")
        )
        shown.append([str(step), row[name], value, forecast, f"{lower} to {upper}"])
    print_rows([rows.index.name, name, "value", "forecast", "interval"], shown, len(rows))


def print_rows(header: list[str], rows: list[list[str]], count: int = 0) -> None:
    """Print the first of ``count`` rows; the first column is not wrapped."""
    print_table("", header, rows, names=max([len(row[0]) for row in rows], default=0), rest="--output also writes")
    if count > len(rows):
        console.print(f"{count - len(rows)} more rows: --output writes them")


def print_update(facts: dict) -> None:
    """What a forecaster did on new rows, beside what its own test split promised."""
    from keras_a2.recurrent.report import update_rows

    print_table("", *update_rows(facts))


def _save(drawn: Figure, figure: Path) -> None:
    """A figure as a .png, .pdf or .svg file."""
    with whole(figure) as temporary:
        drawn.savefig(temporary, dpi=120, format=figure.suffix[1:])
    console.print(f"wrote {figure}")


def _write(rows: pd.DataFrame, output: Path) -> None:
    """A table with its index as a .csv or .jsonl file."""
    rows = rows.reset_index()
    with whole(output) as temporary:
        if output.suffix == ".csv":
            rows.to_csv(temporary, index=False)
        else:  # pandas would write the times in UTC
            for name in rows.select_dtypes(["datetime", "datetimetz"]):
                rows[name] = [time.isoformat() for time in rows[name]]
            rows.to_json(temporary, orient="records", lines=True)
    console.print(f"wrote {output}")


def forecast_many(model: Forecaster, series: Path, time: str | None, output: Path | None, figure: Path | None) -> None:
    """Forecast every series of a file; the first rows on the screen, or a file."""
    from keras_a2.recurrent import panel_predict

    known = model.read_many(series, time)
    rows, naive = panel_predict.forecast(model, known)
    if naive:
        positive = ", or hold values that are not positive" if model.card["many_series"]["logarithms"] else ""
        console.print(
            f"note: {naive} series are shorter than {model.look_back} rows, end in a gap{positive}: the seasonal naive "
            "forecasts them"
        )
    if figure is not None:
        _save(panel_predict.plot(model, known, rows), figure)
    if output is not None:
        with whole(output) as temporary:
            if output.suffix == ".csv":
                rows.to_csv(temporary, index=False, float_format="%.8g")
            else:
                rows.to_json(temporary, orient="records", lines=True, date_format="iso")
        console.print(f"wrote {output}: {rows['unique_id'].nunique()} series, {model.horizon} steps each")
        return
    shown = rows[:SHOWN_ROWS].itertuples(index=False)
    texts = [[page.number(value, 4) if isinstance(value, float) else str(value) for value in row] for row in shown]
    print_rows(list(rows.columns), texts, len(rows))


def export(model: Classifier | Forecaster, kind: str, items: list[Path], time: str | None) -> None:
    """Add files of another ``kind`` to a published version, measured on up to ``MEASURED_ITEMS`` of the items given.

    Args:
        kind: ``litert`` or ``onnx``; what was measured goes under this name onto the card.
    """
    from keras_a2 import deployment

    write = {"litert": deployment.export_litert, "onnx": deployment.export_onnx}[kind]
    facts = write(model.folder, model.deployed_inputs(items, MEASURED_ITEMS, time))
    runs.write_json(model.folder / "model.json", {**model.card, kind: facts})
    table = Table("file", "size", "largest difference", "same largest output", "one item")
    for name, f in facts.items():
        table.add_row(
            name, f"{f['bytes'] / 2**20:.2f} MB", f"{f['max_difference']:.2g}", f"{f['same_largest_output']:.1%}",
            f"{f['median_milliseconds']:.2f} ms",
        )  # fmt: skip
    console.print(table)


def print_models(root: Path) -> None:
    """Every published model below ``root``: headline, data, date and size, latest version of each name."""
    homes = sorted({path.parent for path in root.glob("*/*") if path.is_dir() and saved_model.is_version(path)})
    lines = [f"Published models in {root}"]
    for home in homes:
        try:
            version = saved_model.latest_version(home)
            card = saved_model.read_card(version)
        except UserError as error:
            lines.append(f"{home.name}\n  damaged: {error}")
            continue
        size = sum(f.stat().st_size for f in version.rglob("*") if f.is_file())
        environment = card.get("environment")
        date = str(environment.get("date", ""))[:10] if isinstance(environment, dict) else ""
        facts = [f"version {card['version']}", card["data"].get("name", ""), date, f"{size / 2**20:.1f} MB"]
        lines.append(f"{home.name}: {', '.join(str(fact) for fact in facts if fact)}\n  {card.get('headline', '')}")
    if not homes:
        first = " or ".join(f"`{command(name)}`" for name in ("transfer", "recurrent"))
        raise UserError(f"no published model in {root}; run {first} first")
    console.print("\n".join(lines))
