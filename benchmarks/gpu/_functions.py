"""The functions of the accuracy tables, without what their oracle needs.

`tests/accuracy_cases.py` has each function beside its twin in ball arithmetic, for which
python-flint has to be installed; where things are compared with the CPU there is no
need of that.
"""

import importlib.util
import pathlib
import sys
from types import ModuleType
from typing import Any
from unittest import mock


FILE = pathlib.Path(__file__).parents[2] / "tests" / "accuracy_cases.py"
# What it imports for the oracle. Nothing of it is called here, but by its twins.
_ORACLE = ("flint", "balls")


def accuracy_cases(file: pathlib.Path = FILE) -> tuple[list[Any], list[Any]]:
    """Cases of real and of complex functions, each with a `name`, a `fun`, `points` and
    the `unit` of each point."""
    if not file.is_file():
        raise RuntimeError(f"run it from a checkout of the repository: no {file}")
    spec = importlib.util.spec_from_file_location("_accuracy_functions", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stubs: dict[str, ModuleType] = {name: mock.MagicMock() for name in _ORACLE}
    with mock.patch.dict(sys.modules, stubs):
        spec.loader.exec_module(module)
    return list(module.REAL_CASES), list(module.COMPLEX_CASES)
