"""The house's three rules, held against the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "keras_a2"
FLOOR = [
    "averaging",
    "console",
    "deployment",
    "downloads",
    "errors",
    "files",
    "jobs",
    "page",
    "machine",
    "runs",
    "saved_model",
    "settings",
]
FLOOR += ["training"]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", FLOOR)
def test_ground_floor_imports_no_wing(name):
    assert not {i for i in imports(PACKAGE / f"{name}.py") if i.startswith(("keras_a2.transfer", "keras_a2.recurrent"))}


@pytest.mark.parametrize(("wing", "other"), [("transfer", "recurrent"), ("recurrent", "transfer")])
def test_wings_do_not_import_each_other(wing, other):
    for path in (PACKAGE / wing).glob("*.py"):
        assert not {i for i in imports(path) if i.startswith(f"keras_a2.{other}")}, path.name


def test_nothing_imports_the_scripts():
    for path in PACKAGE.rglob("*.py"):
        assert not {i for i in imports(path) if i.split(".")[0] == "experiments"}, path.name


def test_modules_fit_in_a_room():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 320, path.name
