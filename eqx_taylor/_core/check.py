"""Checks and descriptions of arguments, for every part of the package.

All checks happen while tracing, before the first operation. Messages begin with
`caller`, the name of the public function.
"""

import functools as ft
import operator
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from .jax import joint_axes, trace
from .protocols import Jaxpr


# Errors that JAX raises for Python control flow, and for NumPy, on a traced value.
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def untraceable(caller: str, what: str, error: Exception) -> TypeError:
    return TypeError(
        f"{caller}: the Python code of {what} depends on the value of an array that "
        "is traced, because it is differentiated or because of `jit` or `vmap`. The "
        "function is traced once, as by `jax.jit`: use `jnp.where`, `jax.lax.cond` or "
        "`jax.lax.while_loop` instead of `if` and `while`, `jax.numpy` instead of "
        f"`numpy`, and Python numbers for constants.\n{error}"
    )


def trace_on_devices(
    what: str, fun: Callable[..., Any], own: Sequence[Any], args: Sequence[Any]
) -> Jaxpr:
    """Traces `fun` for `args`. These are the user's `own` arguments, and vary over the
    axes of a `jax.shard_map` over which their series do. (They are arrays or types.)"""
    try:
        return trace(fun, *args)
    except (TypeError, ValueError) as e:
        axes = _axes(args) - _axes(own)
        if not axes or isinstance(e, UNTRACEABLE) or not _is_traced_for(fun, own):
            raise
        raise TypeError(
            f"The series or directions for {what} differ between the devices of a "
            f"`jax.shard_map` (over {', '.join(sorted(axes))}), so it is called with "
            "arguments that differ, although the point is the same on all of them; and "
            "it does not accept such arguments. Make the other values in its loops, "
            "branches and gradients differ, too, with "
            '`jax.lax.pcast(..., to="varying")`; or pass series that are the same on '
            f"all devices; or pass `check_vma=False` to `jax.shard_map`.\n{e}"
        ) from e


def _axes(args: Sequence[Any]) -> frozenset[str]:
    return joint_axes(x if isinstance(x, ShapedArray) else jax.typeof(x) for x in args)


def _is_traced_for(fun: Callable[..., Any], args: Sequence[Any]) -> bool:
    try:
        trace(fun, *args)
    except Exception:
        return False
    return True


def escaped(name: str) -> ValueError:
    """Makes the error for a value that has escaped from a traced function."""
    return ValueError(
        f"The derivative of `{name}` (a `jax.custom_jvp`) closes over a value that is "
        "computed within the function that is differentiated, around it. Pass this "
        "value as an argument: a derivative may close over constants, and over "
        "arguments of transformations outside of the jet."
    )


# Returns whether an object is `None`. For `is_leaf`; it needs no Python frame.
is_none = ft.partial(operator.is_, None)


def describe(x: Any) -> str:
    if eqx.is_array_like(x) and not isinstance(x, bool | int | float | complex):
        return f"an array of shape {jnp.shape(x)} and dtype {jnp.result_type(x)}"
    return f"{x!r} (a {type(x).__name__})"


def dtype_kind(dtype: Any) -> int:
    """Ranks a dtype: 0 for booleans and integers, 1 for real, 2 for complex numbers."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return 2
    return 1 if jnp.issubdtype(dtype, jnp.floating) else 0


def check_scalar(caller: str, name: str, value: Any) -> None:
    if not eqx.is_array_like(value) or jnp.shape(value) != ():
        raise TypeError(f"{caller}: `{name}` must be a scalar; got {describe(value)}.")
    if jnp.iscomplexobj(value):
        raise TypeError(f"{caller}: `{name}` must be real; got {describe(value)}.")


def check_boolean(caller: str, name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{caller}: `{name}` must be True or False; got {describe(value)}."
        )
    return bool(value)


def check_integer(caller: str, name: str, value: Any, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{caller}: `{name}` must be an integer known before tracing; got "
            f"{value!r}."
        ) from None
    if number < least:
        raise ValueError(f"{caller}: `{name}` must be at least {least}; got {number}.")
    return number


def check_key(caller: str, key: Any) -> None:
    """Raises if `key` is not a single key of `jax.random`, typed or of two integers."""
    if eqx.is_array(key):
        dtype, shape = key.dtype, key.shape
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return
        if dtype == jnp.uint32 and len(shape) == 1:
            return
    raise TypeError(f"{caller}: `key` must be a `jax.random.key`; got {describe(key)}.")
