"""The scripts as modules: ``keras_a2.experiments.transfer``, ``.recurrent`` and ``.predict``.

A checkout has them in ``experiments/``, an installed package in ``keras_a2/scripts/`` (see ``setup.cfg``).
"""

from pathlib import Path

_package = Path(__file__).parent
__path__ = [str(path) for path in (_package / "scripts", _package.parent / "experiments") if path.is_dir()][:1]


def command(script: str) -> str:
    """What starts a script: its file in a checkout, its module where the package is installed."""
    in_wheel = Path(__path__[0]).name == "scripts"
    return f"python -m keras_a2.scripts.{script}" if in_wheel else f"python experiments/{script}.py"
