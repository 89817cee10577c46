"""Types for annotations, as in Diffrax."""

from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Real, Shaped


# jaxtyping's `PyTree` is a type for checks at run time. Static checkers do not
# understand it, and the strict mode of pyright reports everything in which it occurs.
# For them it is `Any` here, with or without a type of leaves.
if TYPE_CHECKING:
    from typing_extensions import TypeAliasType, TypeVar

    _Leaf = TypeVar("_Leaf", default=Any)
    PyTree = TypeAliasType("PyTree", Any, type_params=(_Leaf,))
    BoolScalarLike = bool | Array | np.ndarray
    IntScalarLike = int | Array | np.ndarray
    RealScalarLike = int | float | Array | np.ndarray
    Y = PyTree
    Coefficients = PyTree
else:
    from jaxtyping import PyTree

    BoolScalarLike = Bool[ArrayLike, ""]
    IntScalarLike = Int[ArrayLike, ""]
    RealScalarLike = Real[ArrayLike, ""]
    Y = PyTree[Shaped[ArrayLike, "?*y"], "Y"]
    # Arrays with a leading axis over orders.
    Coefficients = PyTree[Shaped[Array, "order_plus_one ?*y"], "Y"]  # noqa: F821

Args = PyTree[Any]
