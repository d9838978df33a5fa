"""Notebooks, executed from a fresh kernel: the lessons, whose figures are those of the scripts, and the Python API.

pytest tests/lessons.py             execute and compare: 3.5 minutes on two cores; .ci/run does it
python tests/lessons.py transfer    execute one, and keep its outputs in the notebook
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT, run_script

EXPERIMENTS = ROOT / "experiments"
WIDGET = "application/vnd.jupyter.widget-view+json"
# The options of the lessons' first cells.
OPTIONS = {
    "transfer": "--data digits --image-size 32 --train-per-class 40 --weights bundled --views 1 --fine-tune-epochs 5 "
    "--learning-curve none",
    "recurrent": "--cell gru --epochs 8 --no-refit",
}


def execute(name: str) -> nbformat.NotebookNode:
    """A lesson with new outputs, without progress bars and logs."""
    notebook = nbformat.read(EXPERIMENTS / f"{name}.ipynb", as_version=4)
    metadata = dict(notebook.metadata)
    run(notebook, EXPERIMENTS)
    notebook.metadata = nbformat.from_dict({key: metadata[key] for key in ("kernelspec", "language_info")})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute a notebook in a folder."""
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=600, record_timing=False, kernel_name="python3", resources=resources).execute()


def is_progress(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress bar, the empty line that ends one, or a log."""
    data = output.get("data", {})
    if output.get("name") == "stderr":
        return True
    return WIDGET in data or (output.output_type == "display_data" and not data.get("text/plain", " ").strip())


def figures(notebook: nbformat.NotebookNode) -> dict:
    """What the last cell prints."""
    (cell,) = [cell for cell in notebook.cells if "figures" in cell.metadata.get("tags", [])]
    return json.loads(cell.outputs[0].text)


def metrics(name: str, folder: Path) -> dict:
    """The figures of the script with the options of the lesson."""
    result = run_script(name, *OPTIONS[name].split(), "--output", folder, "--name", "lesson", timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "lesson" / "1" / "metrics.json").read_text())


def test_transfer(tmp_path):
    lesson = figures(execute("transfer"))
    arms = metrics("transfer", tmp_path)["arms"]
    assert lesson["pretrained"] == pytest.approx(arms["pretrained"]["test"]["accuracy"], abs=1e-9)
    assert lesson["scratch"] == pytest.approx(arms["scratch"]["test"]["accuracy"], abs=1e-9)
    frozen, careful, hasty = lesson["features"]
    assert hasty < frozen - 0.05  # the features are damaged
    assert careful > frozen
    fixed, changed = lesson["change"]
    assert fixed < 1e-3
    assert changed > 0.05
    while_training, trapped, repaired = lesson["trap"]
    assert while_training > 0.7
    assert trapped < 0.2  # chance is 0.1
    assert repaired > 0.7


def test_recurrent(tmp_path):
    lesson = figures(execute("recurrent"))
    script = metrics("recurrent", tmp_path)
    for name, key in (("gru", "gru"), ("gru+combined", "combined")):
        assert lesson[key] == pytest.approx(script["models"][name]["test"]["mae"], rel=1e-6)
    assert lesson["ridge"] == pytest.approx(script["baselines"]["ridge"]["test"]["mae"], rel=1e-6)
    first, every = lesson["first_lead"], lesson["all_leads"]
    assert first["tutorial LSTM"] > 1.5 * first["persistence"]
    assert every["tutorial LSTM"] > min(every["persistence"], every["seasonal_naive"])
    assert lesson["untrained"] == pytest.approx(every["persistence"], rel=1e-3)
    assert every["gru"] < min(every["persistence"], every["seasonal_naive"])
    independent, honest = lesson["half_widths"]
    assert honest > 1.5 * independent


def test_three_lines_train_in_a_notebook(photos, series, tmp_path):
    options = "image_size=32, views=1, head_epochs=1, fine_tune_epochs=1, scratch=False"
    cells = [
        "import keras_a2",
        f"model = keras_a2.train_images({str(photos)!r}, {options})",
        "model",
        f"len(model.predict({str(photos / 'left')!r}))",
        f"import pandas as pd; frame = pd.read_csv({str(series)!r}, parse_dates=['date'], index_col='date')",
        "forecaster = keras_a2.train_series(frame, target='load', look_back=24, horizon=6, epochs=1, folds=1)",
        "list(forecaster.predict(frame))",
        "keras_a2.train_series(frame, target='lord', name='refused')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.cells[-1].metadata.tags = ["raises-exception"]
    run(notebook, tmp_path)
    _, trained, shown, classes, _, _, forecast, refused = (cell.outputs for cell in notebook.cells)
    assert any(WIDGET in output.get("data", {}) for output in trained)  # progress bars
    assert not [output for cell in notebook.cells for output in cell.outputs if output.get("name") == "stderr"]
    assert "<iframe srcdoc=" in shown[0].data["text/html"]
    assert "python experiments/transfer.py --data" in shown[0].data["text/html"]  # not the kernel's command line
    texts = "".join(output.data["text/plain"] for output in trained if "text/plain" in output.get("data", {}))
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in texts.splitlines()) <= 110  # a cell's width
    assert classes[0].data["text/plain"] == "12"
    assert "lower_80" in forecast[0].data["text/plain"]
    assert "\n".join(refused[0].traceback).startswith("error: ")
    assert "'lord'" in refused[0].traceback[0]
    assert not (tmp_path / "saved_models" / "refused").exists()


if __name__ == "__main__":
    for name in sys.argv[1:] or OPTIONS:
        started = time.perf_counter()
        notebook = execute(name)
        nbformat.write(notebook, EXPERIMENTS / f"{name}.ipynb")
        print(f"{name}: {time.perf_counter() - started:.0f} s", figures(notebook))
