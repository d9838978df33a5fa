"""The scripts as modules: ``keras_a2.experiments.transfer``, ``.recurrent`` and ``.predict``.

A checkout has them in ``experiments/``, an installed package in ``keras_a2/scripts/`` (see ``setup.cfg``).
"""

from pathlib import Path

_package = Path(__file__).parent
__path__ = [str(path) for path in (_package / "scripts", _package.parent / "experiments") if path.is_dir()][:1]
