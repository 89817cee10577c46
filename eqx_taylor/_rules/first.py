"""Arrays that are computed from coefficients 0, and choices between arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._core.series import CONSTANT, Series
from .._core.walk import Walk


def first(
    walk: Walk,
    inputs: Sequence[Series],
    aval: Any,
    compute: Callable[[], Any],
    dtype: Any = None,
) -> Series:
    """Makes a constant series of the array `compute()`, a function of coefficients 0 of
    `inputs`. It is computed once, and again if these are retracted."""
    if dtype is not None:
        aval = jax.ShapeDtypeStruct(aval.shape, dtype)
    return walk.auxiliary(Series(aval, CONSTANT, lambda _: compute()), inputs)


def choice(condition: Any, a: Any, b: Any, like: Any) -> Any:
    """Selects `a` where `condition` holds, and `b` elsewhere. Both are arrays like
    `like`, or numbers."""
    a, b = (lax.full_like(like, x) if isinstance(x, float | int) else x for x in (a, b))
    return lax.select(condition, a, b)


def largest(aval: Any) -> float:
    """Returns the largest number of a dtype. Multiplied by it twice, every normal
    number becomes infinite, and zero stays zero."""
    return float(jnp.finfo(aval.dtype).max)


def factor_where(condition: Any, x: float, like: Any) -> Any:
    """Selects `x` where the condition holds, and 1 elsewhere, in a form that XLA does
    not simplify. Otherwise XLA would compute the product of two such factors first,
    which is infinite, and zero times infinity is NaN."""
    return lax.optimization_barrier(choice(condition, x, 1, like))


def real_part(x: Any) -> Any:
    return lax.real(x) if jnp.iscomplexobj(x) else x
