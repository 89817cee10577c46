"""From the jaxpr of a vector field to its scalar program.

Values are arrays (`values`). What depends on the arguments alone is left to JAX, which
computes it before the solve. Primitives that move entries are functions of NumPy, and
leave no trace in the program. An equation whose operands are all known is evaluated.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._core.jax import (
    bind,
    close,
    is_literal,
    live_equations,
    name_of_call,
    place_of,
)
from .._core.primitives import callee, CALLS
from .._core.rule import RULES, target_key
from . import called, contractions, control_flow, indexing, matrices
from .atoms import Linear, NotNative
from .choices import check_frozen, is_frozen, is_nonnegative, select
from .functions import FUNCTIONS, one_minus_square
from .given import Given, Givens
from .moving import MOVING
from .powers import any_power, atan2
from .program import Builder, Program
from .values import as_objects, filled, in_numpy, is_known


# Beyond this a program is no longer compiled in seconds. Chosen: some ten thousand
# lines of machine code, and as many kilobytes of tables.
LARGEST = 200_000

_DTYPES = ("float64", "float32")

_CONTROL_FLOW = control_flow.HANDLERS
_HANDLERS = {**contractions.HANDLERS, **indexing.HANDLERS, **matrices.HANDLERS}


def scalar_program(jaxpr: Any, states: int) -> Program:
    """Reads a closed jaxpr of `t, *leaves of the state, *leaves of args`, whose results
    are the slopes of the leaves of the state, as a scalar program."""
    avals = [var.aval for var in jaxpr.jaxpr.invars]
    leaves, args = avals[1 : states + 1], avals[states + 1 :]
    dtype = _common_dtype(avals[: states + 1])
    builder, givens = Builder(), Givens()
    size = 0
    inputs: list[Any] = [filled((), lambda i: builder.time())]
    for aval in leaves:
        inputs.append(filled(aval.shape, lambda i: builder.state(size + i)))
        size += int(np.prod(aval.shape))
    inputs.extend(map(givens.input, args))
    reader = _Reader(builder, givens, dtype)
    slopes = [
        x
        for out, aval in zip(reader.read(jaxpr, inputs), leaves)
        for x in np.ravel(as_objects(reader.as_slopes(out), aval.shape))
    ]
    program = builder.program(dtype, size, givens, slopes)
    check_frozen(program)
    return program


def _common_dtype(avals: Sequence[Any]) -> str:
    names = {str(aval.dtype) for aval in avals}
    if len(names) == 1 and names <= set(_DTYPES):
        return names.pop()
    found = ", ".join(sorted(names))
    raise NotNative(
        "the time and the state of the vector field have to be of one dtype, float32 "
        f"or float64; they are of {found}"
    )


class _Reader:
    """Reads jaxprs."""

    def __init__(self, builder: Builder, givens: Givens, dtype: str):
        self.builder, self.givens = builder, givens
        self.dtype = dtype
        # The equations that are read now: one, and those it is within.
        self._within: list[Any] = []

    def read(self, jaxpr: Any, inputs: Sequence[Any]) -> list[Any]:
        inner = jaxpr.jaxpr
        env: dict[Any, Any] = dict(zip(inner.invars, inputs))
        for var, value in zip(inner.constvars, jaxpr.consts):
            if isinstance(value, Tracer):
                raise NotNative(
                    "the vector field closes over an array that is traced: pass it as "
                    "`args`"
                )
            env[var] = in_numpy(value)

        def value_of(atom) -> Any:
            return np.asarray(atom.val) if is_literal(atom) else env[atom]

        for eqn in live_equations(jaxpr):
            operands = [value_of(atom) for atom in eqn.invars]
            self._within.append(eqn)
            env.update(zip(eqn.outvars, self._apply(eqn, operands)))
            self._within.pop()
            if len(self.builder.atoms) > LARGEST:
                raise NotNative(
                    f"the vector field has more than {LARGEST} operations on numbers"
                )
        return [value_of(atom) for atom in inner.outvars]

    def _apply(self, eqn: Any, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        passes_on = name in CALLS or name == "custom_linear_solve"
        unread = [x for x in operands if isinstance(x, matrices.Unread)]
        if unread and not passes_on:
            raise unread[0].error
        known = [
            x for x in operands if not isinstance(x, matrices.Unread) and is_known(x)
        ]
        given = [x for x in operands if isinstance(x, Given)]
        if given and len(known) + len(given) == len(operands):
            return self.givens.record(eqn, operands)
        if len(known) == len(operands):
            if name not in CALLS:
                return _evaluated(eqn, operands)
        else:
            for var in eqn.outvars:
                dtype = getattr(var.aval, "dtype", None)
                if dtype is None or jnp.issubdtype(dtype, np.complexfloating):
                    raise self.refused(eqn, f"its result is of type {var.aval}")
        if name in CALLS:
            fun = called.FUNCTIONS.get(name_of_call(eqn))
            if fun is not None and target_key(eqn) in RULES:
                operands = [self.materialised(eqn, x) for x in operands]
                return fun(self, eqn, *operands)
            return self.read(close(callee(eqn)), operands)
        if name in _CONTROL_FLOW:
            return _CONTROL_FLOW[name](self, eqn, operands)
        if name in indexing.HANDLERS:
            return [indexing.HANDLERS[name](self, eqn, *operands)]
        if name == "select_n" and not is_known(operands[0]):
            return [self.chosen(eqn, operands[0], operands[1:])]
        if name == "custom_linear_solve":
            return matrices.custom_linear_solve(self, eqn, *operands)
        operands = [self.materialised(eqn, x) for x in operands]
        if name in MOVING:
            return MOVING[name](eqn, operands)
        fun = getattr(self, f"_{name}", None)
        if fun is not None:
            return [fun(eqn, *operands)]
        if name in _HANDLERS:
            out = _HANDLERS[name](self, eqn, *operands)
            return out if isinstance(out, list) else [out]
        if name in FUNCTIONS:
            return [self.mapped(ft.partial(FUNCTIONS[name], self.builder), *operands)]
        raise self.refused(eqn)

    def refused(self, eqn: Any, why: str = "it has no scalar form here") -> NotNative:
        """The error about an equation. What JAX keeps of its own functions has no
        place: then it is that of the call."""
        places = map(place_of, reversed(self._within))
        place = next(filter(None, places), "a place that JAX does not know")
        return NotNative(f"`{eqn.primitive.name}` at {place}: {why}")

    # -- values

    def mapped(self, fun: Callable[..., Linear], *operands: np.ndarray) -> np.ndarray:
        """Applies a function of values entry by entry."""
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        flat = [np.ravel(as_objects(x, shape)) for x in operands]
        return filled(shape, lambda i: fun(*[x[i] for x in flat]))

    def function(self, name: str, x: Linear) -> Linear:
        return FUNCTIONS[name](self.builder, x)

    def as_arguments(self, x: Given) -> np.ndarray:
        argument = self.builder.argument
        entries = np.ravel(x.entries).tolist()
        return filled(x.shape, lambda i: argument(self.givens.argument(entries[i])))

    def materialised(self, eqn: Any, x: Any) -> Any:
        """What is given, as arguments of the program."""
        if not isinstance(x, Given):
            return x
        if str(x.dtype) == self.dtype:
            return self.as_arguments(x)
        why = f"an operand that depends on the arguments is of dtype {x.dtype}"
        raise self.refused(eqn, f"{why}, and the state of {self.dtype}")

    def as_slopes(self, x: Any) -> Any:
        return self.as_arguments(x) if isinstance(x, Given) else x

    def chosen(self, eqn: Any, which: Any, cases: Sequence[Any]) -> Any:
        """One of some cases, by an integer or a boolean that is given. Entries are
        chosen at run time, and those that are not may be anything."""
        if not isinstance(which, Given):
            raise self.refused(eqn, "its predicate depends on the time or the state")
        if all(x is cases[0] for x in cases):
            return cases[0]
        if all(is_known(x) or isinstance(x, Given) for x in cases):
            like = jax.ShapeDtypeStruct(cases[0].shape, cases[0].dtype)
            pick = lambda which, *cases: jax.lax.select_n(  # noqa: E731
                jnp.broadcast_to(which, cases[0].shape), *cases
            )
            return self.givens.compute(pick, which, *cases, like=like)
        cases = [self.materialised(eqn, x) for x in cases]
        shape = cases[0].shape
        out = as_objects(cases[0], shape)
        like = jax.ShapeDtypeStruct(which.shape, np.dtype(self.dtype))
        for number, case in enumerate(cases[1:], 1):

            def is_this(which, number=number):
                return (which.astype(jnp.int32) == number).astype(self.dtype)

            flags = self.as_arguments(self.givens.compute(is_this, which, like=like))
            pick = lambda flag, x, y: select(  # noqa: E731
                self.builder, flag.constant, x, y
            )
            out = self.mapped(pick, np.broadcast_to(flags, shape), case, out)
        return out

    # -- sums and products

    def _add(self, eqn, x, y):
        return self.mapped(self.builder.add, x, y)

    _add_any = _add

    def _sub(self, eqn, x, y):
        return self.mapped(self.builder.sub, x, y)

    def _neg(self, eqn, x):
        return self.mapped(ft.partial(self.builder.scale, -1.0), x)

    def _mul(self, eqn, x, y):
        return self.mapped(self.builder.mul, x, y)

    def _div(self, eqn, x, y):
        return self.mapped(self.builder.div, x, y)

    def _square(self, eqn, x):
        return self.mapped(self.builder.square, x)

    def _one_minus_square(self, eqn, x):
        return self.mapped(ft.partial(one_minus_square, self.builder), x)

    def _integer_pow(self, eqn, x):
        exponent = float(eqn.params["y"])
        return self.mapped(lambda x: self.builder.power(x, exponent), x)

    def _pow(self, eqn, x, y):
        return self.mapped(ft.partial(any_power, self.builder), x, y)

    def _atan2(self, eqn, x, y):
        return self.mapped(ft.partial(atan2, self.builder), x, y)

    def _polynomial(self, eqn, x, *coefficients):
        # Horner's rule: the coefficients are those of powers 0, 1, ...
        *rest, total = coefficients
        for c in reversed(rest):
            total = self._add(eqn, self._mul(eqn, total, x), c)
        return np.broadcast_to(as_objects(total, np.shape(total)), x.shape)

    def _select_n(self, eqn, which, *cases):
        shape = eqn.outvars[0].aval.shape
        which = np.ravel(np.broadcast_to(which, shape)).astype(int)
        flat = [np.ravel(as_objects(x, shape)) for x in cases]
        return filled(shape, lambda i: flat[which[i]][i])

    # -- what is the identity here

    def _convert_element_type(self, eqn, x):
        if str(eqn.params["new_dtype"]) != self.dtype:
            raise self.refused(eqn, f"it converts to {eqn.params['new_dtype']}")
        return x

    def _reduce_precision(self, eqn, x):
        info = jnp.finfo(self.dtype)
        kept = eqn.params["exponent_bits"], eqn.params["mantissa_bits"]
        if kept[0] < info.nexp or kept[1] < info.nmant:
            raise self.refused(eqn, "it rounds to fewer bits")
        return x

    def _abs(self, eqn, x):
        if not all(y.is_constant or is_nonnegative(y) for y in np.ravel(x)):
            raise self.refused(eqn)
        absolute = self.builder.constant_function
        one = lambda y: absolute("fabs", y) if y.is_constant else y  # noqa: E731
        return self.mapped(one, x)

    def _max(self, eqn, x, y):
        """That of minus infinity and a value: the first of some values that JAX takes
        the largest of."""
        for one, other in [(x, y), (y, x)]:
            if is_known(one) and np.all(one == -np.inf):
                return np.broadcast_to(other, eqn.outvars[0].aval.shape)
        raise self.refused(eqn)

    def _is_finite(self, eqn, x):
        """The largest of some values is finite, or the solve ends."""
        if not all(map(is_frozen, np.ravel(x))):
            raise self.refused(eqn)
        return np.ones(x.shape, bool)


def _is_plain(dtype: Any) -> bool:
    """Whether NumPy computes with numbers of this kind as XLA does."""
    return np.dtype(dtype).kind in "biu"


# What programs compute with indices, and NumPy does in the same way: JAX compiles each
# of these when it is first met, which takes 0.05 s.
_BY_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "convert_element_type": lambda x: x,
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "mul": np.multiply,
    "ne": np.not_equal,
    "select_n": lambda which, *cases: np.choose(which, cases),
    "sub": np.subtract,
}


def _evaluated(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    out = eqn.outvars[0].aval
    if eqn.primitive.name in _BY_NUMPY and _is_plain(out.dtype):
        if all(_is_plain(x.dtype) for x in operands):
            found = _BY_NUMPY[eqn.primitive.name](*operands)
            return [np.broadcast_to(found, out.shape).astype(out.dtype)]
    with jax.ensure_compile_time_eval():
        return [in_numpy(x) for x in bind(eqn, operands)]
