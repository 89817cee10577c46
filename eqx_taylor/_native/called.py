"""Functions of JAX whose own programs make choices that their results do not depend
on."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .atoms import Linear
from .functions import FUNCTIONS as ELEMENTARY, logaddexp
from .matrices import determinant, LARGEST
from .program import Builder
from .values import as_objects, filled


def _of_two(fun: Callable[[Builder, Linear, Linear], Linear]):
    def of_arrays(reader: Any, eqn: Any, x: np.ndarray, y: np.ndarray):
        return [reader.mapped(lambda x, y: fun(reader.builder, x, y), x, y)]

    return of_arrays


def _logaddexp2(builder: Builder, x: Linear, y: Linear) -> Linear:
    factor = math.log(2)
    scaled = (builder.scale(factor, z) for z in (x, y))
    return builder.scale(1 / factor, logaddexp(builder, *scaled))


def _xlogy(builder: Builder, x: Linear, y: Linear) -> Linear:
    return builder.mul(x, ELEMENTARY["log"](builder, y))


def _xlog1py(builder: Builder, x: Linear, y: Linear) -> Linear:
    return builder.mul(x, ELEMENTARY["log1p"](builder, y))


def _determinants(reader: Any, eqn: Any, a: np.ndarray) -> np.ndarray:
    if a.shape[-1] > LARGEST:
        raise reader.refused(eqn, f"the matrix has more than {LARGEST} rows")
    a = as_objects(a, a.shape)
    matrices = a.reshape(-1, *a.shape[-2:])
    return filled(a.shape[:-2], lambda i: determinant(reader.builder, matrices[i]))


_determinant = lambda *args: [_determinants(*args)]  # noqa: E731

FUNCTIONS: dict[str, Callable[..., list[Any]]] = {
    "logaddexp": _of_two(logaddexp),
    "logaddexp2": _of_two(_logaddexp2),
    "xlogy": _of_two(_xlogy),
    "xlog1py": _of_two(_xlog1py),
    "_det": _determinant,
    "_det_2x2": _determinant,
    "_det_3x3": _determinant,
}
