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
    r"""Eliminates common subexpressions: returns the same function, whose program
    contains every computation once, and no unused ones.

    Derivatives of derivatives compute the same values many times. In JAX, the
    derivatives of `0.3 * sin(x) * x**10` up to the eighth take 17154 equations, of
    which 279 are distinct. XLA finds most of these repetitions by itself, but only
    after the program has been traced, lowered and parsed. `cse` finds them before.

    Two equations are the same if they apply the same primitive, with the same
    parameters, to the same operands; sums, products of real numbers, and comparisons
    are recognised in either order. Numbers are the same if their bits are. Calls of
    `jax.jit` are treated as part of the program around them, and remain calls. The
    bodies of loops, branches, `jax.checkpoint`, `jax.shard_map` and custom rules are
    treated separately. If a loop carries two values that start equal and stay equal, it
    carries one of them. Equations with effects, and `jax.lax.optimization_barrier`,
    keep their form and their order.

    **Arguments:**

    - `fun`: a function of arbitrary PyTrees. It may be a Module, a bound method or a
        transformed function. Arrays, of JAX or NumPy, are the inputs of the program;
        everything else is a part of it, as with `equinox.filter_jit`. `fun` is traced,
        so its Python code must not depend on the values of arrays.

    **Returns:**

    A function of the same arguments with the same results. Type checkers see the same
    signature. Each remaining operation has the same operands as before, so results are
    equal bit for bit, as far as the compiler allows: if XLA fuses `a * b + c` into one
    loop, it rounds once, and two compiled programs may differ in this.

    The function can be differentiated, vectorised and compiled. It is traced at every
    call, so call it within `jax.jit`. Apply it last: to `jax.hessian(f)`, not to `f`.

    Outside of `jax.jit` it remembers the programs of its last calls, and the arrays
    that these close over, for as long as the function lives, or until
    `jax.clear_caches()`.

    **Raises:**

    `TypeError` if `fun` is not callable, or if its Python code depends on the value of
    an array.

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
    r"""Simplifies the program of a function: returns the same function with fewer
    equations. Besides what [`eqx_taylor.programs.cse`][] does, sums and products are
    rewritten as polynomials.

    `simplify` looks for the maximal parts of the program that consist of `add`, `sub`,
    `mul`, `neg`, `square`, `integer_pow` and `div`. It expands each of them, in exact
    arithmetic, to polynomials in its inputs. In this form `x + x + x` is `3 x`,
    products that were written in different orders are equal, and so are derivatives
    that were computed separately; terms that cancel disappear. The polynomials are then
    written with common factors taken out and powers shared. The new form is used only
    if it has fewer equations, and no more entries to compute: a program never grows. If
    a whole part does not become shorter, its own parts, between the values that are
    used more than once, are tried. `broadcast_in_dim`, `reshape`, `squeeze` and
    `transpose` do not end a part. Constant factors are taken out of sums over axes,
    matrix products and other linear operations. Operations whose operands are all
    constants are evaluated. Arrays that differ from device to device, in a
    `jax.shard_map` that checks this, are not part of polynomials.

    The derivatives of `0.3 * sin(x) * x**10` up to the eighth take 17154 equations in
    JAX, and 99 after `simplify`.

    !!! warning "What is reassociated"

        Results are equal up to rounding, relative to the largest term of each sum: the
        error of a sum that nearly cancels may become smaller or larger.
        `(a + b) - a` becomes `b`; `(1 - y) * (1 + y)` may become `1 - y * y`; numbers
        are collected, and rounded once (`0.1 * x + 0.2 * x` is `0.3 * x`); quotients
        with a common denominator are added first. Products are grouped differently, so
        an intermediate product that used to overflow may no longer do so, and vice
        versa.

        `x - x` and `0 * x` become 0, even if `x` is infinite or NaN. Reciprocals do not
        cancel: `x * (1 / x)` is left unchanged. Integers are exact, as residues.

        `simplify(fun).explain(*args)` says which parts of a program have been
        rewritten.

    **Arguments:**

    - `fun`: a function of arbitrary PyTrees, as for [`eqx_taylor.programs.cse`][].
    - `reassociate`: if `False`, rounding does not change. Then, besides common
        subexpressions, only constants are folded; operations that do nothing are
        removed (`x * 1`, `x / 1`, `x - 0`, `-(-x)`, conversions to the same type); and
        some are replaced by others that round in the same way (`x + (-y)`,
        `x * (-1)`). Some machines flush subnormal numbers to zero in every operation;
        operations that are removed no longer do so.

    **Returns:**

    A function of the same arguments with the same results. Type checkers see the same
    signature. It has a method `explain`, which takes the same arguments. The function
    can be differentiated, vectorised and compiled. It is traced at every call, so call
    it within `jax.jit`; outside of it, it remembers programs as
    [`eqx_taylor.programs.cse`][] does. Apply it last: to `jax.hessian(f)`, not to `f`.

    **Raises:**

    `TypeError` if `fun` is not callable, or if its Python code depends on the value of
    an array.

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
        >>> # Apply it last, and within `jit`.
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


# These two have the signature of `simplified_jaxpr`, and record no changes.


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


# A PyTree of the function's arrays. It is not an Equinox module, as these warn of
# functions that close over arrays, which may well be simplified.
@ft.partial(
    jtu.register_dataclass, data_fields=["fun"], meta_fields=["rewrite", "caller"]
)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rewritten(Wrapper[_P, _T]):
    """A function whose program is rewritten at every call."""

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
        """Describes in words how the program for these arguments is rewritten."""
        jaxpr = filter_trace(self.caller, self.fun, args, kwargs).jaxpr
        changes: list[Change] = []
        new = self.rewrite(jaxpr, changes)
        first = (
            f"{self.caller}: {count_equations(new)} equations; "
            f"there were {count_equations(jaxpr)}."
        )
        return "\n".join([first, *[f"- {change}" for change in changes]])


# The number of programs of one function that are remembered, one for each kind of
# arguments. Chosen; any number that is not very small would do.
_REMEMBERED = 8


# JAX's own kind of cache: entries live as long as the function, or until
# `jax.clear_caches`, like the programs that `jax.jit` has compiled.
@lu.cache
def _memory(fun: lu.WrappedFun) -> OrderedDict[Hashable, tuple[Jaxpr, Jaxpr]]:
    """Returns the programs of `fun` that are remembered. For each key it has the new
    program, and the old one, whose ids are in the key."""
    del fun
    return OrderedDict()


def _remembered(fun: Rewritten[..., Any], jaxpr: Jaxpr, leaves: list[Any]) -> Jaxpr:
    """Returns the rewritten program. Outside of `jit` the same program gives the same
    object, as JAX would compile the calls inside a new one again."""
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
