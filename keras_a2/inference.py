"""The front door to published models: load one, list them all, predict to a table or a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import track
from rich.table import Table

from keras_a2 import page, runs, saved_model
from keras_a2.console import console
from keras_a2.errors import UserError
from keras_a2.files import whole

if TYPE_CHECKING:
    from keras_a2.recurrent.predict import Forecaster
    from keras_a2.transfer.predict import Classifier

MEASURED_ITEMS = 64
SHOWN_ROWS = 200  # a longer table is for --output


def load(folder: str | Path) -> Classifier | Forecaster:
    """Load a published model for inference: the latest version in ``folder``, or the version folder itself.

    Raises:
        UserError: no such folder, or a damaged or half-copied one.
    """
    saved = saved_model.load(folder)
    if saved.card["experiment"] == "transfer":
        from keras_a2.transfer.predict import Classifier

        return Classifier(saved)
    from keras_a2.recurrent.predict import Forecaster

    return Forecaster(saved)


def classify(model: Classifier, items: list[Path], top: int, output: Path | None) -> None:
    """Predict images and folders; a table on the screen, or rows written as they come."""
    from keras_a2.transfer.predict import find_images
    from keras_a2.transfer.sources import LeftOut

    left_out = LeftOut()
    files = find_images(items, left_out)
    if str(left_out):
        console.print(f"note: left out: {left_out}")
    predictions = model.stream(files, top)
    if output is None:
        _show_predictions(track(predictions, "predicting", total=len(files), console=console, transient=True))
        return
    failed, count = 0, min(top, len(model.classes))
    rows = track(predictions, "predicting", total=len(files), console=console)
    # Names of files may hold undecodable bytes, which are then spelt out.
    with (
        whole(output) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        if output.suffix == ".csv":
            ranked = [f"{name}_{k}" for k in range(1, count + 1) for name in ("class", "probability")]
            writer.writerow(["file", *(ranked if count > 1 else ["class", "probability"]), "error"])
        for p in rows:
            failed += bool(p.error)
            if output.suffix == ".jsonl":
                best = [{"class": c, "probability": q} for c, q in zip(p.classes, p.probabilities, strict=True)]
                file.write(json.dumps({"file": p.file, "predictions": best, "error": p.error or None}) + "\n")
            else:
                pairs = [x for pair in zip(p.classes, p.probabilities, strict=True) for x in pair]
                writer.writerow([p.file, *(pairs or [""] * 2 * count), p.error])
    console.print(f"wrote {output}: {len(files)} files, {failed} unreadable")


def _show_predictions(predictions: Iterable) -> None:
    table = Table("file", "class", "probability")
    for number, p in enumerate(predictions):
        if number == SHOWN_ROWS:
            table.add_row("… more: write them with --output", "", "")
            break
        if p.error:
            table.add_row(p.file, f"error: {p.error}", "")
        for rank, (name, probability) in enumerate(zip(p.classes, p.probabilities, strict=True)):
            table.add_row(p.file if rank == 0 else "", name, f"{probability:.1%}")
    console.print(table)


def forecast(model: Forecaster, series: Path, time: str | None, output: Path | None, figure: Path | None) -> None:
    """Forecast the steps after a file's last row; a table on the screen, or a file."""
    seen, answer = model.forecast(series, time)
    if figure is not None:
        from keras_a2.recurrent.predict import plot

        with whole(figure) as temporary:
            plot(model, seen, answer).savefig(temporary, dpi=120, format=figure.suffix[1:])
        console.print(f"wrote {figure}")
    if output is not None:
        flat = answer.round(model.decimals(page.FILE_DIGITS)).reset_index()
        with whole(output) as temporary:
            if output.suffix == ".csv":
                flat.to_csv(temporary, index=False)
            else:
                flat.to_json(temporary, orient="records", lines=True, date_format="iso")
        console.print(f"wrote {output}")
        return
    shown = model.targets[:8]
    table = Table(answer.index.name, "lead", *(page.with_unit(name, model.unit) for name in shown))
    places = model.decimals(page.SCREEN_DIGITS)
    columns = [page.column(answer[name], places=places.get(name)) for name in shown]
    for step, lead, *values in zip(answer.index, answer["lead"], *columns, strict=True):
        table.add_row(str(step), f"{lead:.0f}", *values)
    console.print(table)


def export(model: Classifier | Forecaster, kind: str, items: list[Path], time: str | None) -> None:
    """Add files of another ``kind`` to a published version, measured on up to ``MEASURED_ITEMS`` of the items given.

    Args:
        kind: ``litert`` or ``onnx``; what was measured goes under this name onto the card.
    """
    from keras_a2 import deployment

    export_kind = {"litert": deployment.export_litert, "onnx": deployment.export_onnx}[kind]
    facts = export_kind(model.saved.folder, model.deployed_inputs(items, MEASURED_ITEMS, time))
    runs.write_json(model.saved.folder / "model.json", {**model.card, kind: facts})
    table = Table("file", "size", "largest difference", "same largest output", "one item")
    for name, f in facts.items():
        table.add_row(
            name, f"{f['bytes'] / 2**20:.2f} MB", f"{f['max_difference']:.2g}", f"{f['same_largest_output']:.1%}",
            f"{f['median_milliseconds']:.2f} ms",
        )  # fmt: skip
    console.print(table)


def print_models(root: Path) -> None:
    """Every published model below ``root``: headline, data, date and size, latest version of each name."""
    table = Table(title=f"Published models in {root}")
    for column in ("model", "version", "headline", "data", "date", "size"):
        table.add_column(column, overflow="fold", no_wrap=column == "model")
    for home in sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []:
        if not any(saved_model.is_version(p) for p in home.iterdir()):
            continue
        try:
            version = saved_model.latest_version(home)
            card = saved_model.read_card(version)
        except UserError as error:
            table.add_row(home.name, "", f"damaged: {error}", "", "", "")
            continue
        size = sum(f.stat().st_size for f in version.rglob("*") if f.is_file())
        environment = card.get("environment", {})
        date = str(environment.get("date", ""))[:10] if isinstance(environment, dict) else ""
        table.add_row(
            home.name, str(card["version"]), str(card.get("headline", "")), str(card["data"].get("name", "")), date,
            f"{size / 2**20:.1f} MB",
        )  # fmt: skip
    if not table.rows:
        raise UserError(f"no published model in {root}; run experiments/transfer.py or experiments/recurrent.py first")
    console.print(table)
