"""Arrays that follow from coefficients 0, and choices between arrays."""

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
    """Makes a series of the array `compute()`, a function of coefficients 0 of
    `inputs`: it is computed once, and again where these are taken back."""
    if dtype is not None:
        aval = jax.ShapeDtypeStruct(aval.shape, dtype)
    return walk.auxiliary(Series(aval, CONSTANT, lambda _: compute()), inputs)


def choice(condition: Any, a: Any, b: Any, like: Any) -> Any:
    """Selects `a` where `condition` holds, else `b`; arrays like `like`, or numbers."""
    a, b = (lax.full_like(like, x) if isinstance(x, float | int) else x for x in (a, b))
    return lax.select(condition, a, b)


def largest(aval: Any) -> float:
    """Returns the largest number of a dtype. Its product with itself is infinite, and
    so is that with any number that has all digits; that with zero is zero."""
    return float(jnp.finfo(aval.dtype).max)


def factor_where(condition: Any, x: float, like: Any) -> Any:
    """Selects `x` where the condition holds, else 1. XLA does not see which: it would
    form the product of two such factors first, which is infinite, and zero times that
    is NaN."""
    return lax.optimization_barrier(choice(condition, x, 1, like))


def real_part(x: Any) -> Any:
    return lax.real(x) if jnp.iscomplexobj(x) else x
