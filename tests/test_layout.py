"""The rules of docs/architecture.md, held against the source."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "keras_a2"
SUBPACKAGES = ("transfer", "recurrent")
LINES = 450
# Data flow from left to right, and a part of a module has its place.
ORDER = ("sources", "data", "model", "baselines", "train", "evaluate", "report", "predict")
PARTS = {
    "transfer": {"duplicates": "data", "learning": "evaluate", "figures": "report", "optimizer": "train"}
    | dict.fromkeys(["decode", "walk"], "sources")
    | dict.fromkeys(["audit", "calibrate", "familiar", "describe", "maps"], "model"),
    "recurrent": {"stamps": "sources", "times": "sources", "splits": "data", "figures": "report"}
    | dict.fromkeys(["combination", "intervals", "verdicts", "scores"], "evaluate")
    | dict.fromkeys(["panel", "seasons"], "data")
    | {f"panel_{module}": module for module in ("sources", "evaluate", "report", "predict")},
}
MODULES = sorted(path for folder in ("keras_a2", "experiments") for path in (ROOT / folder).rglob("*.py"))


class AtRunTime(ast.NodeTransformer):
    """Drops what only a type checker sees."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imports(path: Path) -> set[str]:
    """Every module and every name of a module that a file imports, those inside functions included."""
    names = set()
    for node in ast.walk(AtRunTime().visit(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def subpackages_of(names: set[str]) -> set[str]:
    return {subpackage for subpackage in SUBPACKAGES for name in names if name.startswith(f"keras_a2.{subpackage}")}


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_a_subpackage_imports_neither_the_other_nor_a_script(subpackage):
    for path in (PACKAGE / subpackage).glob("*.py"):
        assert subpackages_of(imports(path)) <= {subpackage}, path.name
        assert not imports(path) & {script.stem for script in (ROOT / "experiments").glob("*.py")}, path.name


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_data_flow_one_way_through_a_subpackage(subpackage):
    modules = {path.stem: path for path in (PACKAGE / subpackage).glob("*.py") if path.stem != "__init__"}
    position = {name: ORDER.index(PARTS[subpackage].get(name, name)) for name in modules}
    for name, path in modules.items():
        names = imports(path)
        used = {other for other in modules if f"keras_a2.{subpackage}.{other}" in names}
        assert all(position[other] <= position[name] for other in used), (name, used)


def test_what_makes_it_fast_imports_no_subpackage():
    for path in (PACKAGE / "fast").glob("*.py"):
        assert not subpackages_of(imports(path)), path.name


def test_a_common_module_imports_no_subpackage():
    exceptions = {"inference", "demo", "api"}  # they train or open a model of either subpackage
    for path in PACKAGE.glob("*.py"):
        assert not subpackages_of(imports(path)) or path.stem in exceptions, path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_one_purpose_and_at_most_450_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def test_the_wheel_holds_what_a_user_of_a_model_needs_and_no_more():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")}
    assert {Path(name.replace(".", "/")) for name in config["options"]["packages"].split()} == packages
    scripts = {f"keras_a2.scripts.{name}" for name in ("transfer", "recurrent", "predict")}
    assert set(config["options"]["py_modules"].split()) == scripts
    data = config["options.package_data"]["keras_a2"].split()
    shipped = {str(path.relative_to(PACKAGE)) for pattern in data for path in PACKAGE.glob(pattern)}
    assert {"py.typed", "templates/report.html"} <= shipped
    assert {path.suffix for path in PACKAGE.glob("weights/*")} == {".h5", ".json"}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {str(path.relative_to(PACKAGE)) for path in others} == shipped


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_modules_of_keras_and_tensorflow_are_imported(path):
    assert not {
        name for name in imports(path) if name.startswith(("keras.src", "tensorflow.python", "tensorflow.lite"))
    }


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "transfer",
            ["MobileNetV3Small(", ".trainable = False", ".trainable = True", "Sequential(", ".compile(", "export("],
        ),
        ("recurrent", ["Sequential(", "SimpleRNN", "LSTM", "GRU", "Dense(", ".compile(", "export("]),
    ],
)
def test_a_script_shows_its_experiment(script, words):
    source = (ROOT / "experiments" / f"{script}.py").read_text(encoding="utf-8")
    assert [word for word in words if word not in source] == []


def test_a_notebooks_drawing_backend_stays_as_it_is():
    """Pictures are drawn by the object-oriented API, which needs no backend of the process."""
    for path in PACKAGE.rglob("*.py"):
        assert "matplotlib.use(" not in path.read_text(encoding="utf-8"), path.name
        assert not imports(path) & {"matplotlib.pyplot", "pylab"}, path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_reaches_into_what_others_keep_private(path):
    attributes = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute))
    private = {ast.unparse(node) for node in attributes if node.attr.startswith("_") and node.attr[:2] != "__"}
    assert not {name for name in private if name.split(".")[0] not in ("self", "os")}
