"""From the jaxpr of a vector field to its scalar program.

Values are NumPy arrays: of numbers where all is known now, or of `Linear` objects. Keys
of random numbers, which are known, are arrays of JAX. Primitives that move entries are
functions of NumPy on either kind, and leave no trace in the program. An equation whose
operands are all known is evaluated.
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
    scan_params,
    while_params,
)
from .._core.primitives import callee, CALLS
from .._core.rule import RULES, target_key
from .functions import FUNCTIONS
from .moving import MOVING
from .program import Builder, Linear, NotNative, Program


# Beyond this a program is no longer compiled in seconds. Chosen: some ten thousand
# lines of machine code, and as many kilobytes of tables.
LARGEST = 200_000

_DTYPES = ("float64", "float32")


def scalar_program(jaxpr: Any, states: int) -> Program:
    """Reads a closed jaxpr of `t, *leaves of the state, *leaves of args`, whose results
    are the slopes of the leaves of the state, as a scalar program."""
    avals = [var.aval for var in jaxpr.jaxpr.invars]
    leaves, args = avals[1 : states + 1], avals[states + 1 :]
    dtype = _common_dtype(avals)
    builder = Builder()
    size = arguments = 0
    inputs = [_filled((), lambda i: builder.time())]
    for aval in leaves:
        inputs.append(_filled(aval.shape, lambda i: builder.state(size + i)))
        size += int(np.prod(aval.shape))
    for aval in args:
        inputs.append(_filled(aval.shape, lambda i: builder.argument(arguments + i)))
        arguments += int(np.prod(aval.shape))
    reader = _Reader(builder, dtype)
    slopes = [
        x
        for out, aval in zip(reader.read(jaxpr, inputs), leaves)
        for x in np.ravel(_as_objects(out, aval.shape))
    ]
    return builder.program(dtype, size, arguments, slopes)


def _common_dtype(avals: Sequence[Any]) -> str:
    names = {str(aval.dtype) for aval in avals}
    if len(names) == 1 and names <= set(_DTYPES):
        return names.pop()
    found = ", ".join(sorted(names))
    raise NotNative(
        "the time, the state and the arguments of the vector field have to be of one "
        f"dtype, float32 or float64; they are of {found}"
    )


def _filled(shape: tuple[int, ...], make: Callable[[int], Any]) -> np.ndarray:
    out = np.empty(int(np.prod(shape)), object)
    for i in range(out.size):
        out[i] = make(i)
    return out.reshape(shape)


def _as_objects(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array of `Linear`s, also of numbers."""
    x = np.broadcast_to(x, shape)
    if x.dtype == object:
        return x
    flat = np.ravel(x)
    return _filled(shape, lambda i: Linear(float(flat[i]), {}))


def is_known(x: Any) -> bool:
    return x.dtype != object


class _Reader:
    """Reads jaxprs."""

    def __init__(self, builder: Builder, dtype: str):
        self.builder = builder
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
            env[var] = _in_numpy(value)

        def value_of(atom) -> Any:
            return np.asarray(atom.val) if is_literal(atom) else env[atom]

        for eqn in live_equations(jaxpr):
            operands = [value_of(atom) for atom in eqn.invars]
            self._within.append(eqn)
            for var in eqn.outvars:
                dtype = getattr(var.aval, "dtype", None)
                if dtype is None or jnp.issubdtype(dtype, np.complexfloating):
                    raise self._refused(eqn, f"its result is of type {var.aval}")
            env.update(zip(eqn.outvars, self._apply(eqn, operands)))
            self._within.pop()
            if len(self.builder.atoms) > LARGEST:
                raise NotNative(
                    f"the vector field has more than {LARGEST} operations on numbers"
                )
        return [value_of(atom) for atom in inner.outvars]

    def _apply(self, eqn: Any, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name_of_call(eqn) == "logaddexp" and target_key(eqn) in RULES:
            return [self._map(self._logaddexp, *operands)]
        if name in CALLS:
            return self.read(close(callee(eqn)), operands)
        are_known = all(map(is_known, operands))
        if name in _CONTROL_FLOW and not are_known:
            return _CONTROL_FLOW[name](self, eqn, operands)
        if name in MOVING and all(isinstance(x, np.ndarray) for x in operands):
            return MOVING[name](eqn, operands)
        if are_known:
            return _evaluated(eqn, operands)
        fun = getattr(self, f"_{name}", None)
        if fun is not None:
            return [fun(eqn, *operands)]
        if name in FUNCTIONS:
            return [self._map(ft.partial(FUNCTIONS[name], self.builder), *operands)]
        raise self._refused(eqn)

    def _refused(self, eqn: Any, why: str = "it has no scalar form here") -> NotNative:
        """The error about an equation. What JAX keeps of its own functions has no
        place: then it is that of the call."""
        places = map(place_of, reversed(self._within))
        place = next(filter(None, places), "a place that JAX does not know")
        return NotNative(f"`{eqn.primitive.name}` at {place}: {why}")

    def _map(self, fun: Callable[..., Linear], *operands: np.ndarray) -> np.ndarray:
        """Applies a function of values entry by entry."""
        shape = np.broadcast_shapes(*[x.shape for x in operands])
        flat = [np.ravel(_as_objects(x, shape)) for x in operands]
        return _filled(shape, lambda i: fun(*[x[i] for x in flat]))

    # -- sums and products

    def _add(self, eqn, x, y):
        return self._map(self.builder.add, x, y)

    _add_any = _add

    def _sub(self, eqn, x, y):
        return self._map(self.builder.sub, x, y)

    def _neg(self, eqn, x):
        return self._map(ft.partial(self.builder.scale, -1.0), x)

    def _mul(self, eqn, x, y):
        return self._map(self.builder.mul, x, y)

    def _div(self, eqn, x, y):
        return self._map(self.builder.div, x, y)

    def _square(self, eqn, x):
        return self._map(self.builder.square, x)

    def _integer_pow(self, eqn, x):
        exponent = float(eqn.params["y"])
        return self._map(lambda x: self.builder.power(x, exponent), x)

    def _pow(self, eqn, x, y):
        if not is_known(y):
            raise self._refused(eqn, "its exponent is not a constant")
        y = np.broadcast_to(y, eqn.outvars[0].aval.shape)
        power = lambda x, y: self.builder.power(x, y.constant)  # noqa: E731
        return self._map(power, x, y)

    def _reduce_sum(self, eqn, x):
        axes = eqn.params["axes"]
        kept = [i for i in range(x.ndim) if i not in axes]
        rows = x.transpose([*kept, *axes]).reshape([x.shape[i] for i in kept] + [-1])
        shape = rows.shape[:-1]
        flat = rows.reshape(-1, rows.shape[-1])
        total = self.builder.sum
        return _filled(shape, lambda i: total((1.0, entry) for entry in flat[i]))

    def _reduce_prod(self, eqn, x):
        axes = eqn.params["axes"]
        kept = [i for i in range(x.ndim) if i not in axes]
        rows = x.transpose([*kept, *axes]).reshape([x.shape[i] for i in kept] + [-1])
        flat = rows.reshape(-1, rows.shape[-1])
        product = self.builder.mul
        return _filled(rows.shape[:-1], lambda i: ft.reduce(product, flat[i]))

    def _logaddexp(self, x: Linear, y: Linear) -> Linear:
        """`log(exp(x) + exp(y))`, whose own program chooses the larger one."""
        softplus = FUNCTIONS["softplus"](self.builder, self.builder.sub(x, y))
        return self.builder.add(y, softplus)

    def _cumsum(self, eqn, x):
        axis, reverse = eqn.params["axis"], eqn.params["reverse"]
        x = np.moveaxis(x, axis, 0)
        rows = list(x[::-1] if reverse else x)
        for i in range(1, len(rows)):
            rows[i] = self._map(self.builder.add, rows[i - 1], rows[i])
        out = np.stack(rows[::-1] if reverse else rows)
        return np.moveaxis(out, 0, axis)

    def _dot_general(self, eqn, x, y):
        (x_sum, y_sum), (x_batch, y_batch) = eqn.params["dimension_numbers"]
        a, x_free = _as_matrices(x, x_batch, x_sum)
        b, y_free = _as_matrices(y, y_batch, y_sum)
        batch = tuple(x.shape[i] for i in x_batch)
        out = np.empty((a.shape[0], a.shape[1], b.shape[1]), object)
        for n, i, j in np.ndindex(*out.shape):
            out[n, i, j] = self._dot(a[n, i], b[n, j])
        return out.reshape(batch + x_free + y_free)

    def _dot(self, a: np.ndarray, b: np.ndarray) -> Linear:
        if is_known(b) or all(y.is_constant for y in _as_objects(b, b.shape)):
            a, b = b, a
        if is_known(a):
            terms: Any = zip(map(float, a), b)
            return self.builder.sum(terms)
        if all(x.is_constant for x in a):
            b = _as_objects(b, b.shape)
            return self.builder.sum((x.constant, y) for x, y in zip(a, b))
        pairs: Any = zip(a, b)
        return self.builder.sum((1.0, self.builder.mul(x, y)) for x, y in pairs)

    # -- what only moves entries, for operands that are known

    def _select_n(self, eqn, which, *cases):
        if not is_known(which):
            raise self._refused(eqn, "its predicate depends on the time or the state")
        shape = eqn.outvars[0].aval.shape
        which = np.ravel(np.broadcast_to(which, shape)).astype(int)
        flat = [np.ravel(_as_objects(x, shape)) for x in cases]
        return _filled(shape, lambda i: flat[which[i]][i])

    def _convert_element_type(self, eqn, x):
        if str(eqn.params["new_dtype"]) != self.dtype:
            raise self._refused(eqn, f"it converts to {eqn.params['new_dtype']}")
        return x

    def _gather(self, eqn, x, *indices):
        return self._moved(eqn, [x], indices, [0])[0]

    def _dynamic_slice(self, eqn, x, *indices):
        return self._moved(eqn, [x], indices, [0])[0]

    def _dynamic_update_slice(self, eqn, x, update, *indices):
        return self._moved(eqn, [x, update], indices, [0, 1])[0]

    def _scatter(self, eqn, x, indices, updates):
        places = self._moved_places(eqn, [x, updates], [indices], [0, 2])
        return _taken(places, [x, updates])

    def _moved(self, eqn, moved, indices, where):
        places = self._moved_places(eqn, moved, list(indices), where)
        return [_taken(places, moved)]

    def _moved_places(self, eqn, moved, indices, where) -> np.ndarray:
        """Where each entry of the result comes from: the primitive, applied to the
        numbers of the entries."""
        if not all(map(is_known, indices)):
            raise self._refused(eqn, "an index depends on the time or the state")
        operands: list[Any] = list(indices)
        start = 1
        for place, x in zip(where, moved):
            # JAX's type of floats holds these integers exactly, and has the fill value
            # NaN, which is not one of them.
            numbers = np.arange(start, start + x.size, dtype=self.dtype)
            operands.insert(place, numbers.reshape(x.shape))
            start += x.size
        [found] = _evaluated(eqn, operands)
        if not np.all(np.isfinite(found)):
            raise self._refused(eqn, "an index is out of bounds")
        return found.astype(int)

    def _scatter_add(self, eqn, x, indices, updates):
        if not is_known(indices):
            raise self._refused(eqn, "an index depends on the time or the state")
        # Where each update goes: that of a gather with the same numbers, transposed.
        # The primitive is linear, and is applied to each update alone.
        zeros = np.zeros(x.shape, self.dtype)
        ones = np.eye(updates.size, dtype=self.dtype).reshape(-1, *updates.shape)
        with jax.ensure_compile_time_eval():
            each = jax.vmap(lambda u: bind(eqn, [zeros, indices, u])[0])(ones)
        each = np.asarray(each).reshape(updates.size, -1)
        flat: Any = np.ravel(_as_objects(updates, updates.shape))
        start = np.ravel(_as_objects(x, x.shape))

        def entry(i):
            [sources] = np.nonzero(each[:, i])
            parts = [(float(each[n, i]), flat[n]) for n in sources]
            terms: Any = [(1.0, start[i]), *parts]
            return self.builder.sum(terms)

        return _filled(x.shape, entry)

    # -- loops

    def _scan(self, eqn, operands):
        params = scan_params(eqn)
        consts = operands[: params.num_consts]
        carry = operands[params.num_consts :][: params.num_carry]
        xs = operands[params.num_consts + params.num_carry :]
        rows = []
        passes = range(params.length)
        for i in reversed(passes) if params.reverse else passes:
            outs = self.read(params.jaxpr, [*consts, *carry, *(x[i, ...] for x in xs)])
            carry = outs[: params.num_carry]
            rows.append(outs[params.num_carry :])
        if params.reverse:
            rows.reverse()
        return [*carry, *(_stacked(column) for column in zip(*rows))]

    def _cond(self, eqn, operands):
        index, *operands = operands
        if not is_known(index):
            raise self._refused(eqn, "its predicate depends on the time or the state")
        branches = eqn.params["branches"]
        branch = branches[int(np.clip(index, 0, len(branches) - 1))]
        return self.read(close(branch), operands)

    def _while(self, eqn, operands):
        cond, of_cond, body, of_body = while_params(eqn)
        of_both = of_cond + of_body
        carry = operands[of_both:]
        while True:
            [goes_on] = self.read(cond, [*operands[:of_cond], *carry])
            if not is_known(goes_on):
                raise self._refused(eqn, "its length depends on the time or the state")
            if not goes_on:
                return carry
            carry = self.read(body, [*operands[of_cond:of_both], *carry])


_CONTROL_FLOW = {"scan": _Reader._scan, "cond": _Reader._cond, "while": _Reader._while}

# Names of primitives have a hyphen where names in Python cannot.
setattr(_Reader, "_scatter-add", _Reader._scatter_add)


def _as_matrices(x: np.ndarray, batch, summed) -> tuple[np.ndarray, tuple[int, ...]]:
    """Brings the axes of a factor into the order batch, free, summed."""
    free = [i for i in range(x.ndim) if i not in batch and i not in summed]
    x = x.transpose([*batch, *free, *summed])
    shape = x.shape
    of_batch = shape[: len(batch)]
    of_free = shape[len(batch) : len(batch) + len(free)]
    sizes = [int(np.prod(part, dtype=int)) for part in (of_batch, of_free)]
    rest = int(np.prod(shape[len(batch) + len(free) :], dtype=int))
    return x.reshape(*sizes, rest), tuple(of_free)


def _is_plain(dtype: Any) -> bool:
    """Whether NumPy computes with numbers of this kind as XLA does."""
    return np.dtype(dtype).kind in "biu"


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    if all(map(is_known, rows)):
        return np.stack(rows)
    return np.stack([_as_objects(x, x.shape) for x in rows])


def _taken(places: np.ndarray, operands: Sequence[np.ndarray]) -> np.ndarray:
    flat = np.concatenate([np.ravel(_as_objects(x, x.shape)) for x in operands])
    return _filled(places.shape, lambda i: flat[places.flat[i] - 1])


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
        return [_in_numpy(x) for x in bind(eqn, operands)]


def _in_numpy(x: Any) -> Any:
    """Keys of random numbers are arrays of JAX only."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)
