"""The lessons as they are kept: executed, without an error or a path of a machine, and in step with the scripts."""

from __future__ import annotations

import ast
import importlib
import re

import nbformat
import pytest

from conftest import ROOT

LESSONS = ("transfer", "recurrent")


def read(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(ROOT / "experiments" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_keeps_its_outputs_and_no_path_of_a_machine(name):
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not {output.output_type for output in outputs} & {"error"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    texts = [output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert not [text for text in texts if re.search(r"/(home|root|tmp|usr|Users|mnt)/", text)]


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_uses_what_the_scripts_and_the_package_have(name):
    tree = ast.parse("\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code"))
    modules = {name: importlib.import_module(f"keras_a2.experiments.{name}")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("keras_a2"):
            modules |= {alias.name: importlib.import_module(f"{node.module}.{alias.name}") for alias in node.names}
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    assert len(used) > 5
    assert [(module, name) for module, name in used if not hasattr(modules[module], name)] == []
