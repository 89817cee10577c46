"""A call that is traced when a program is lowered, when its platform is known."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jax.core import ShapedArray
from jax.interpreters import mlir


def by_platform(
    operands: Sequence[Any],
    outs: Sequence[jax.ShapeDtypeStruct],
    **functions: Callable[..., Sequence[Any]],
) -> list[Any]:
    """Calls one of several functions of arrays.

    `jax.lax.platform_dependent` traces all of its functions. Here this is to compile
    machine code, of which only that of one platform is wanted.

    **Arguments:**

    - `operands`: the arrays.
    - `outs`: the shapes and dtypes of what is returned.
    - `functions`: by JAX's names of the platforms, of those in `PLATFORMS`.
    """
    types = tuple(ShapedArray(x.shape, x.dtype) for x in outs)
    return _by_platform_p.bind(*operands, types=types, **functions)


PLATFORMS = ("cpu", "cuda")

_by_platform_p = jex.Primitive("eqx_taylor_native")
_by_platform_p.multiple_results = True


def _types(*operands: Any, types: Any, **functions: Any) -> Any:
    del operands, functions
    return types


def _evaluated(*operands: Any, **params: Any) -> Any:
    return jax.jit(lambda *xs: _by_platform_p.bind(*xs, **params))(*operands)


def _of(platform: str) -> Callable[..., Any]:
    def function(*operands, types, **functions):
        del types
        return functions[platform](*operands)

    return mlir.lower_fun(function, multiple_results=True)


_by_platform_p.def_abstract_eval(_types)
_by_platform_p.def_impl(_evaluated)
for _platform in PLATFORMS:
    mlir.register_lowering(_by_platform_p, _of(_platform), platform=_platform)
