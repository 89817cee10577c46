"""`cse` and `simplify`: transformations of functions."""

import dataclasses
import functools as ft
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import jax.extend.linear_util as lu
import jax.tree_util as jtu
from jax.api_util import debug_info
from jax.core import Tracer

from ..._core.check import describe
from ..._core.jax import evaluate
from ..._core.memo import jaxpr_key
from ..._core.protocols import Jaxpr
from ..counts import count_equations
from ..filter_trace import filter_trace, Wrapper
from .cse import cse_jaxpr
from .exact import exact_jaxpr
from .reform import Change, simplified_jaxpr


_P = ParamSpec("_P")
_T = TypeVar("_T")


def cse(fun: Callable[_P, _T]) -> "Rewritten[_P, _T]":
    r"""Common subexpression elimination: the same function, in whose program every
    computation is there once, and none in vain.

    Derivatives of derivatives compute the same things over and over: of the 17154
    equations that JAX makes of the derivatives of `0.3 * sin(x) * x**10` up to the
    eighth, 279 are different. XLA finds most of that by itself, after it has been
    traced, lowered and read; here it is found before.

    Two equations are one if they apply the same primitive, with the same parameters, to
    the same operands; for sums, products of real numbers and comparisons in either
    order. Numbers are the same if their bits are. Calls of `jax.jit` are looked
    through, and stay calls of what is left of them; the bodies of loops, branches,
    `jax.checkpoint`, `jax.shard_map` and custom rules are treated each by itself. What
    a loop carries twice, because it starts equal and every turn leaves it equal, it
    carries once. Equations with effects stay as they are and in their order, and so
    does `jax.lax.optimization_barrier`.

    **Arguments:**

    - `fun`: a function of arbitrary PyTrees; a Module, a bound method or a transformed
        function will do. Arrays, NumPy's as well, are the inputs of the program; all
        else is a part of it, as with `equinox.filter_jit`. `fun` is traced: its Python
        code must not depend on the values of arrays.

    **Returns:**

    A function of the same arguments with the same results, and of the same signature
    for type checkers. Every operation that is left gets the same operands, so that
    results are the same bit for bit, as far as the compiler takes care: XLA contracts
    `a * b + c` to one rounding where it puts both into one loop, which may differ
    between two programs that are compiled.

    It can be differentiated, vectorised and compiled; it is to be called within
    `jax.jit`, since it is traced anew with every call. Apply it last: to
    `jax.hessian(f)`, not to `f`.

    Outside of `jax.jit` it remembers the programs of its last calls, and the arrays
    that these close over, as long as it lives itself or until `jax.clear_caches()`.

    **Raises:**

    `TypeError` if `fun` is not callable, and for Python code that depends on the value
    of an array.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor.programs import count_primitives, cse
        >>> hessian = jax.hessian(lambda x: jnp.sum(jnp.sin(x) ** 3))
        >>> x = jnp.ones(3)
        >>> count_primitives(cse(hessian), x).total < count_primitives(hessian, x).total
        True
        >>> fast = jax.jit(cse(hessian))
        >>> print(jnp.max(jnp.abs(fast(x) - hessian(x))) < 1e-6)
        True
        ```
    """
    return _rewritten("cse", fun, _cse)


def simplify(fun: Callable[_P, _T], *, reassociate: bool = True) -> "Rewritten[_P, _T]":
    r"""The same function, by a program of fewer equations:
    [`eqx_taylor.programs.cse`][], and sums and products as polynomials.

    Every maximal part of the program that is nothing but `add`, `sub`, `mul`, `neg`,
    `square`, `integer_pow` and `div` is multiplied out, in exact arithmetic, to
    polynomials in the values that it is made of. There `x + x + x` is `3 x`, products
    meet that were written in different orders, derivatives that were taken separately
    are found to be the same, and what cancels is gone. The polynomials are written
    again with common factors taken out and powers shared. That is kept where it has
    fewer equations, and no more numbers to compute, than what was there: a program
    never grows. Where the whole of such a part is no shorter, its own parts are tried,
    between the values that are used more than once. `broadcast_in_dim`, `reshape`,
    `squeeze` and `transpose` are looked through; constant factors are taken out of sums
    over axes, matrix products and other linear operations. Operations of which all
    operands are constants are computed. Arrays that differ from device to device, in a
    `jax.shard_map` that checks that, are no part of polynomials.

    The eight derivatives of `0.3 * sin(x) * x**10` are 17154 equations for JAX, and
    99 after this.

    !!! warning "What is reassociated"

        Results are equal to rounding, in the sense of the largest term of each sum: a
        sum that nearly cancels has another error, smaller or larger, than it had.
        `(a + b) - a` becomes `b`; `(1 - y) * (1 + y)` may become `1 - y * y`; numbers
        are collected, and rounded once (`0.1 * x + 0.2 * x` is `0.3 * x`); quotients
        with a common denominator are added first. Products are grouped in another way,
        so that one that overflows on its way may no longer do so, or may now.

        `x - x` and `0 * x` become 0, also where `x` is infinite or NaN. A reciprocal is
        not cancelled: `x * (1 / x)` stays what it is. Integers are exact, as residues.

        `simplify(fun).explain(*args)` says which parts of a program have been
        rewritten.

    **Arguments:**

    - `fun`: a function of arbitrary PyTrees, as for [`eqx_taylor.programs.cse`][].
    - `reassociate`: if `False`, no rounding changes: besides common subexpressions,
        only constants are folded, and operations are left out that do nothing (`x * 1`,
        `x / 1`, `x - 0`, `-(-x)`, conversions to the same type) or become another that
        rounds the same way (`x + (-y)`, `x * (-1)`). Subnormal numbers, which some
        machines take for zeros in every operation, are not so taken by operations that
        are left out.

    **Returns:**

    A function of the same arguments with the same results, and of the same signature
    for type checkers, with a method `explain` of these arguments. It can be
    differentiated, vectorised and compiled. As it is traced with every call, call it
    within `jax.jit`: outside of it, it remembers programs as
    [`eqx_taylor.programs.cse`][] does. Apply it last: to `jax.hessian(f)`, not to `f`.

    **Raises:**

    `TypeError` if `fun` is not callable, and for Python code that depends on the value
    of an array.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor.programs import count_primitives, simplify
        >>> expanded = lambda x, y: (x + y) * (x - y) + y * y
        >>> print(count_primitives(expanded, 1.0, 2.0).counts)
        {'add': 2, 'mul': 2, 'sub': 1}
        >>> print(count_primitives(simplify(expanded), 1.0, 2.0).counts)
        {'mul': 1}
        >>> # Last, and within `jit`.
        >>> hessian = jax.jit(simplify(jax.hessian(lambda x: jnp.sum(jnp.sin(x) ** 3))))
        >>> hessian(jnp.ones(3)).shape
        (3, 3)
        ```
    """
    if not isinstance(reassociate, bool):
        raise TypeError(
            "simplify: `reassociate` must be True or False; got "
            f"{describe(reassociate)}."
        )
    return _rewritten("simplify", fun, simplified_jaxpr if reassociate else _exact)


# The signature of `simplified_jaxpr`. These two record no changes.


def _cse(jaxpr: Jaxpr, changes: list[Change] | None = None) -> Jaxpr:
    return cse_jaxpr(jaxpr)


def _exact(jaxpr: Jaxpr, changes: list[Change] | None = None) -> Jaxpr:
    return exact_jaxpr(jaxpr)


def _rewritten(
    caller: str, fun: Callable[_P, _T], rewrite: Callable[..., Jaxpr]
) -> "Rewritten[_P, _T]":
    if not callable(fun):
        raise TypeError(f"{caller}: `fun` must be callable; got {describe(fun)}.")
    return Rewritten(fun, rewrite, caller)


# A PyTree of the function's arrays. Not an Equinox module, which warns of functions
# that are closures of arrays: here these are what is to be simplified.
@ft.partial(
    jtu.register_dataclass, data_fields=["fun"], meta_fields=["rewrite", "caller"]
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rewritten(Wrapper[_P, _T]):
    """A function whose program is rewritten whenever it is called."""

    fun: Any
    rewrite: Callable[..., Jaxpr]
    caller: str

    def __repr__(self) -> str:
        options = ["reassociate=False"] if self.rewrite is _exact else []
        return self.as_call(self.caller, *options)

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        jaxpr, leaves, restored = filter_trace(self.caller, self.fun, args, kwargs)
        return restored(evaluate(_remembered(self, jaxpr, leaves), leaves))

    def explain(self, /, *args: _P.args, **kwargs: _P.kwargs) -> str:
        """Says in words what becomes of the program for these arguments."""
        jaxpr = filter_trace(self.caller, self.fun, args, kwargs).jaxpr
        changes: list[Change] = []
        new = self.rewrite(jaxpr, changes)
        first = (
            f"{self.caller}: {count_equations(new)} equations; "
            f"there were {count_equations(jaxpr)}."
        )
        return "\n".join([first, *[f"- {change}" for change in changes]])


# How many programs of one function are remembered: one for each kind of arguments that
# it is called with. Chosen; any number will do that is not very small.
_REMEMBERED = 8


# JAX's own kind of cache: what it returns lives as long as the function, or until
# `jax.clear_caches`, as does what `jax.jit` has compiled.
@lu.cache
def _memory(fun: lu.WrappedFun) -> OrderedDict[Hashable, tuple[Jaxpr, Jaxpr]]:
    """The programs of `fun` that are remembered: for their keys the new program and the
    old one, which the key has ids of."""
    del fun
    return OrderedDict()


def _remembered(fun: Rewritten[..., Any], jaxpr: Jaxpr, leaves: list[Any]) -> Jaxpr:
    """Returns the rewritten program. Outside of `jit` it is the same one for the same
    program, as JAX compiles the calls inside of a new one anew."""
    if any(isinstance(x, Tracer) for x in [*leaves, *jaxpr.consts]):
        return fun.rewrite(jaxpr)
    wrapped = lu.wrap_init(fun, debug_info=debug_info(fun.caller, fun, (), {}))
    memory, key = _memory(wrapped), jaxpr_key(jaxpr)
    if key not in memory:
        memory[key] = (fun.rewrite(jaxpr), jaxpr)
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
    return memory[key][0]
