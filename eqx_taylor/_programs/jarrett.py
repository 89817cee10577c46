"""Elementwise functions for which reverse mode stores only the partial derivatives.

    y = f(a, b)  =>  y' = f_a a' + f_b b'

holds entry by entry. So the transpose needs only `f_a` and `f_b`, however many
operations `f` consists of. They are computed together with `f`, by forward mode. Higher
derivatives are those of `f_a` and `f_b`, which are elementwise, too.
"""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero

from .._core.check import describe
from .._core.jax import (
    bind,
    close,
    evaluate,
    is_differentiable,
    is_literal,
    located,
    trace,
)
from .._core.primitives import callee, CALLS, ELEMENTWISE
from .._core.protocols import Jaxpr, JaxprEqn, OpenJaxpr
from .._core.rule import register
from .counts import count_jaxpr
from .filter_trace import filter_trace, Wrapper
from .simplify.cse import cse_jaxpr


_P = ParamSpec("_P")
_T = TypeVar("_T")


def jarrett(fun: Callable[_P, _T]) -> "Jarrett[_P, _T]":
    r"""Makes reverse mode store only the partial derivatives of an elementwise
    function: one array for each argument, however many operations it has.

    JAX stores what the derivative of each operation needs, about one array per
    operation. But if $y_i = f(a_i, b_i)$ for every entry $i$, then $\dot y_i =
    \partial_a f\, \dot a_i + \partial_b f\, \dot b_i$, and the two partial derivatives
    are enough. `jarrett` computes them together with $f$, by forward mode. JAX once had
    this function as `jax.jarrett`; it is named after its inventor.

    Use it if memory, or memory bandwidth, is the bottleneck: `jax.nn.gelu` then stores
    one array instead of several. In comparison, `jax.checkpoint` stores the argument,
    and computes $f$ again; `jarrett` stores the derivative, and multiplies.

    **Arguments:**

    - `fun`: an elementwise function of any number of arrays, in arbitrary PyTrees:
        entry $i$ of every output depends only on entry $i$ of the inputs. Inputs may
        have shapes that broadcast, as in NumPy. It may be a Module, whose arrays are
        inputs, too, or a function that closes over arrays.

    **Returns:**

    A function of the same arguments with the same results. Type checkers see the same
    signature. All transformations of JAX apply to it: `jit`, `vmap`, `jvp`, `grad` of
    `grad`, and [`eqx_taylor.filter_jet`][]. For second derivatives, reverse mode also
    stores only partial derivatives.

    **Raises:**

    `ValueError`, when it is called, if `fun` is not elementwise; the message names the
    operation that is not. `TypeError` if `fun` is not callable, or if its Python code
    depends on the value of an array.

    !!! example

        ```pycon
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor.programs import jarrett
        >>> gelu = jarrett(jax.nn.gelu)
        >>> x = jnp.array([-1.0, 0.0, 2.0])
        >>> print(jnp.max(jnp.abs(gelu(x) - jax.nn.gelu(x))) < 1e-6)
        True
        >>> # Reverse mode stores one array of derivatives.
        >>> _, pull_back = jax.vjp(gelu, x)
        >>> [leaf.shape for leaf in jax.tree.leaves(pull_back)]
        [(3,)]
        ```

    **Reference:** [Revels, `jax.jarrett`][revels_jarrett].
    """
    if not callable(fun):
        raise TypeError(f"jarrett: `fun` must be callable; got {describe(fun)}.")
    return Jarrett(fun)


@ft.partial(jtu.register_dataclass, data_fields=["fun"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Jarrett(Wrapper[_P, _T]):
    """An elementwise function with a custom derivative. It is a PyTree of the
    function's arrays."""

    fun: Any

    def __repr__(self) -> str:
        return self.as_call("jarrett")

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        jaxpr, leaves, restored = filter_trace("jarrett", self.fun, args, kwargs)
        # `fun` may close over arrays that are differentiated.
        tracers = [x for x in jaxpr.consts if isinstance(x, Tracer)]
        inputs = [*tracers, *leaves]
        jaxpr = trace(ft.partial(_evaluate_with, jaxpr, len(tracers)), *inputs)
        program = Program(jaxpr, dependencies(jaxpr))
        return restored(_elementwise(program, *inputs))


def _evaluate_with(closed: Jaxpr, num_tracers: int, *inputs: Any) -> list[Any]:
    """Evaluates a jaxpr, with the first inputs in place of the tracers among its
    constants."""
    tracers = iter(inputs[:num_tracers])
    consts = [next(tracers) if isinstance(x, Tracer) else x for x in closed.consts]
    jaxpr = closed.jaxpr
    env = dict(zip(jaxpr.constvars, consts))
    env.update(zip(jaxpr.invars, inputs[num_tracers:]))

    def read(atom):
        return atom.val if is_literal(atom) else env[atom]

    for eqn in jaxpr.eqns:
        with located(eqn):
            outs = bind(eqn, [read(atom) for atom in eqn.invars])
        env.update(zip(eqn.outvars, outs))
    return [read(atom) for atom in jaxpr.outvars]


# -- the partial derivatives

# An output, and the inputs with respect to which it is differentiated, in order.
Partial = tuple[int, tuple[int, ...]]


class Program:
    """Some partial derivatives of the outputs of a jaxpr, all of them elementwise."""

    def __init__(
        self,
        jaxpr: Jaxpr,
        dependencies: Sequence[frozenset[int]],
        partials: Sequence[Partial] | None = None,
    ):
        self.jaxpr = jaxpr
        # The inputs on which each output depends.
        self.dependencies = dependencies
        outputs = [(i, ()) for i in range(len(jaxpr.out_avals))]
        self.partials = outputs if partials is None else list(partials)

    def __call__(self, *inputs):
        def fun(*inputs):
            return evaluate(self.jaxpr, inputs)

        if all(wrt == () for _, wrt in self.partials):
            return fun(*inputs)
        # Each is computed separately, by nested forward mode. Then common
        # subexpressions are eliminated.
        towers = {wrt: self._derived(fun, wrt) for _, wrt in self.partials}

        def compute(*inputs):
            found = {wrt: tower(*inputs) for wrt, tower in towers.items()}
            return [found[wrt][i] for i, wrt in self.partials]

        return evaluate(cse_jaxpr(trace(compute, *inputs)), inputs)

    def _derived(self, fun, wrt):
        for number in wrt:
            fun = ft.partial(_along, fun, number)
        return fun

    def factors(self, moving: Sequence[int]) -> Iterator[tuple[int, int, Partial]]:
        """Yields, for each partial derivative and each of the `moving` inputs on which
        it depends, the positions of both, and the partial derivative that is the
        slope."""
        for place, (output, wrt) in enumerate(self.partials):
            if is_differentiable(self.jaxpr.out_avals[output]):
                for number in moving:
                    if number in self.dependencies[output]:
                        yield place, number, (output, tuple(sorted((*wrt, number))))


def _along(fun, number, *inputs):
    """Computes the slopes of all outputs with respect to one input."""

    def of_one(x):
        return fun(*inputs[:number], x, *inputs[number + 1 :])

    x = inputs[number]
    return jax.jvp(of_one, (x,), (jnp.ones_like(x),))[1]


@ft.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _elementwise(program: Program, *inputs):
    return program(*inputs)


@ft.partial(_elementwise.defjvp, symbolic_zeros=True)
def _elementwise_jvp(program, primals, tangents):
    moving = [
        number
        for number, (primal, tangent) in enumerate(zip(primals, tangents))
        if not isinstance(tangent, SymbolicZero)
        and is_differentiable(jax.typeof(primal))
    ]
    _check_custom_rules(program, primals, moving)
    factors = list(program.factors(moving))
    # The values are needed as well, and come first.
    wanted = list(dict.fromkeys([*program.partials, *[what for _, _, what in factors]]))
    longer = Program(program.jaxpr, program.dependencies, wanted)
    found = dict(zip(wanted, _elementwise(longer, *primals)))
    outs = [found[what] for what in program.partials]
    slopes: list[Any] = [None] * len(outs)
    for place, number, what in factors:
        factor, tangent = found[what], tangents[number]
        if tangent.dtype != factor.dtype:
            tangent = tangent.astype(factor.dtype)
        if tangent.ndim > factor.ndim:  # The function drops axes of length 1.
            tangent = tangent.reshape(tangent.shape[tangent.ndim - factor.ndim :])
        if tangent.shape != factor.shape:
            tangent = jnp.broadcast_to(tangent, factor.shape)
        term = factor * tangent
        slopes[place] = term if slopes[place] is None else slopes[place] + term
    for place, (out, slope) in enumerate(zip(outs, slopes)):
        if slope is None:
            kind = jax.typeof(out).to_tangent_aval()
            slopes[place] = SymbolicZero(kind)
    return outs, slopes


@register(_elementwise)
def _read_in_place(walk, eqn, inputs):
    """Reads the function itself: in a Taylor series there is no memory to save."""
    return walk.interpret(close(eqn.params["call_jaxpr"]), inputs)


def _check_custom_rules(program, primals, moving) -> None:
    """Raises if a custom derivative is not elementwise although the function is."""
    if not _has_custom_rules(program.jaxpr):
        return

    def slopes(moved, tangents):
        def of_moving(*moved):
            inputs = list(primals)
            for number, x in zip(moving, moved):
                inputs[number] = x
            return program(*inputs)

        out = jax.jvp(of_moving, moved, tangents)[1]
        return [x for x in out if x.dtype != jax.dtypes.float0]

    moved = tuple(primals[number] for number in moving)
    jaxpr = trace(
        lambda *xs: slopes(xs[: len(moved)], xs[len(moved) :]), *moved, *moved
    )
    dependencies(jaxpr)


def _has_custom_rules(jaxpr: Jaxpr) -> bool:
    return "custom_jvp_call" in count_jaxpr(jaxpr).counts


# -- the check that a function is elementwise

# Primitives that are elementwise for some shapes.
_PLACING = ("bitcast_convert_type", "broadcast_in_dim", "reshape", "squeeze")
# Primitives that have no complex derivative.
_NOT_HOLOMORPHIC = frozenset("abs conj imag real sign".split())


class _Atom(NamedTuple):
    depends_on: frozenset[int]
    # Whether a complex input is among them.
    complex: bool


_CONSTANT = _Atom(frozenset(), False)


def dependencies(jaxpr: Jaxpr) -> list[frozenset[int]]:
    """Returns, for each output, the floating-point inputs on which it depends. Raises
    if the function is not elementwise."""
    atoms = []
    for number, var in enumerate(jaxpr.jaxpr.invars):
        if is_differentiable(var.aval):
            is_complex = jnp.issubdtype(var.aval.dtype, jnp.complexfloating)
            atoms.append(_Atom(frozenset([number]), is_complex))
        else:
            atoms.append(_CONSTANT)
    return [atom.depends_on for atom in _walk(jaxpr.jaxpr, atoms)]


def _walk(jaxpr: OpenJaxpr, atoms: Sequence[_Atom]) -> list[_Atom]:
    env = dict(zip(jaxpr.invars, atoms))

    def read(atom):
        return _CONSTANT if is_literal(atom) else env.get(atom, _CONSTANT)

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        joined = _Atom(
            frozenset().union(*[atom.depends_on for atom in inputs]),
            any(atom.complex for atom in inputs),
        )
        name = eqn.primitive.name
        if not joined.depends_on or name == "stop_gradient":
            continue
        if name in CALLS and not name.startswith("custom_vjp"):
            outs = _walk(close(callee(eqn)).jaxpr, inputs)
        else:
            _check_elementwise(eqn, joined)
            outs = [joined] * len(eqn.outvars)
        env.update(zip(eqn.outvars, outs))
    return [read(atom) for atom in jaxpr.outvars]


def _check_elementwise(eqn: JaxprEqn, joined: _Atom) -> None:
    name = eqn.primitive.name
    aligned = name in _PLACING and _is_aligned(eqn)
    if name not in ELEMENTWISE and not aligned:
        shapes = ", ".join(str(np.shape(var.aval)) for var in eqn.invars)
        why = (
            "`jarrett` needs forward mode, which a `jax.custom_vjp` does not have"
            if name.startswith("custom_vjp")
            else "each entry of the outputs must depend only on the same entry of the "
            "inputs"
        )
        raise ValueError(
            f"jarrett: `fun` is not elementwise: it applies `{name}` to operands of "
            f"shape {shapes}; {why}. Apply `jarrett` to the elementwise parts of the "
            "function, and leave this operation outside."
        )
    if joined.complex and name in _NOT_HOLOMORPHIC:
        raise ValueError(
            f"jarrett: `fun` applies `{name}` to a value that depends on a complex "
            "argument: it is not holomorphic, and has no complex derivative. Pass the "
            "real and the imaginary part as two arguments."
        )


def _is_aligned(eqn: JaxprEqn) -> bool:
    """Returns whether entries keep their positions, up to broadcasting as in NumPy."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if eqn.primitive.name == "broadcast_in_dim":
        start = len(new) - len(old)
        return tuple(eqn.params["broadcast_dimensions"]) == tuple(
            range(start, len(new))
        )
    if eqn.primitive.name == "bitcast_convert_type":
        return old == new
    return _without_leading_ones(old) == _without_leading_ones(new)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
