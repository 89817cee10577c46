"""The functions of the accuracy tables, without what their oracle needs.

`tests/accuracy_cases.py` has each function beside its twin in ball arithmetic, which
needs python-flint; where things are compared with the CPU there is no need of that.
"""

import importlib.util
import pathlib
import sys
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
    before = {name: sys.modules.pop(name, None) for name in _ORACLE}
    sys.path.insert(0, str(file.parent))
    try:
        sys.modules.update({name: mock.MagicMock() for name in _ORACLE})
        spec = importlib.util.spec_from_file_location("_accuracy_functions", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
        for name, original in before.items():
            del sys.modules[name]
            if original is not None:
                sys.modules[name] = original
    return list(module.REAL_CASES), list(module.COMPLEX_CASES)
