"""The vocabulary of annotations, as in Diffrax."""

from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Array, ArrayLike, PyTree, Real, Shaped


if TYPE_CHECKING:
    RealScalarLike = int | float | Array | np.ndarray
else:
    RealScalarLike = Real[ArrayLike, ""]

Y = PyTree[Shaped[ArrayLike, "?*y"], "Y"]
Args = PyTree[Any]
