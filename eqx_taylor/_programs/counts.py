"""Counts of the equations of a jaxpr, by primitive, and of their operations."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .._core.jax import is_jaxpr, scan_params
from .._core.primitives import CALLS, FREE
from .._core.protocols import Jaxpr, JaxprEqn, OpenJaxpr


class PrimitiveCounts(NamedTuple):
    """The result of [`eqx_taylor.programs.count_primitives`][], a named tuple.

    **Fields:**

    - `counts`: a dictionary from the name of each primitive to its number of
        occurrences, the most frequent one first.
    - `total`: the sum of these, the number of equations.
    - `flops`: an estimate of the floating-point operations of one evaluation.

    !!! example

        ```pycon
        >>> import jax.numpy as jnp
        >>> from eqx_taylor.programs import count_primitives
        >>> counts, total, flops = count_primitives(lambda x: x @ x, jnp.ones(10))
        >>> print(counts, total, flops)
        {'dot_general': 1} 1 20.0
        ```
    """

    counts: dict[str, int]
    total: int
    flops: float


def count_jaxpr(jaxpr: Jaxpr, weigh_loops: bool = False) -> PrimitiveCounts:
    counts: dict[str, int] = {}
    flops = _visit(jaxpr, 1, 1, weigh_loops, counts)
    ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return PrimitiveCounts(ordered, sum(ordered.values()), flops)


def count_equations(jaxpr: Jaxpr) -> int:
    return count_jaxpr(jaxpr).total


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    return _jaxprs_in(eqn.params.values())


def _jaxprs_in(values: Iterable[Any]) -> Iterator[Jaxpr]:
    for value in values:
        if is_jaxpr(value):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs_in(value)


def _visit(
    jaxpr: Jaxpr | OpenJaxpr,
    weight: int,
    turns: int,
    weigh_loops: bool,
    counts: dict[str, int],
) -> float:
    """Adds `weight` to `counts` for each equation, and returns the operations of
    `turns` runs."""
    total = 0.0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name = eqn.primitive.name
        inner = list(inner_jaxprs(eqn))
        # The equations of a transparent call are counted instead of the call.
        if not (inner and name in CALLS and CALLS[name].is_transparent):
            counts[name] = counts.get(name, 0) + weight
        length = scan_params(eqn).length if name == "scan" else 1
        inside = weight * length if weigh_loops else weight
        found = [_visit(x, inside, turns * length, weigh_loops, counts) for x in inner]
        if name == "cond":
            total += max(found, default=0.0)  # Only one of the branches runs.
        elif inner:
            total += sum(found)
        else:
            total += turns * operations(eqn)
    return total


# -- the operations of one equation


def operations(eqn: JaxprEqn) -> float:
    """Counts floating-point operations as XLA does: one for each entry of an
    elementwise function, two for each product in a contraction, and none for moving
    data."""
    name = eqn.primitive.name
    ins = [_shape(var.aval) for var in eqn.invars]
    size = sum(math.prod(_shape(var.aval)) for var in eqn.outvars)
    if name in FREE:
        return 0.0
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * size * math.prod(ins[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        kernel = ins[1]
        return 2.0 * size * math.prod(kernel) / max(1, kernel[numbers.rhs_spec[0]])
    if name == "integer_pow":
        y = abs(eqn.params["y"])
        squarings = max(0, y.bit_length() - 1)
        products = squarings + bin(y).count("1") - 1
        return float(size * max(0, products + (eqn.params["y"] < 0)))
    if name.startswith(("reduce_", "arg", "cum", "scatter")):
        return float(math.prod(ins[-1] if name.startswith("scatter") else ins[0]))
    if name == "sort":
        n = ins[0][eqn.params["dimension"]]
        return float(math.prod(ins[0]) * max(1, math.ceil(math.log2(max(n, 2)))))
    if name in ("cholesky", "lu", "triangular_solve", "eigh", "qr", "svd", "eig"):
        # Cubic, with the factor of the factorisation. The number of iterations is
        # unknown.
        n = ins[0][-1]
        factor = dict(cholesky=1 / 3, lu=2 / 3, triangular_solve=1).get(name, 4)
        width = ins[1][-1] if name == "triangular_solve" else n
        return float(factor) * math.prod(ins[0][:-1]) * n * width
    return float(size)


# The size that a symbolic dimension of `jax.export` counts as. Any number that is not
# small would do, as only programs of the same arguments are compared.
_SYMBOLIC = 64


def _shape(aval: Any) -> list[int]:
    shape = getattr(aval, "shape", ())
    return [n if isinstance(n, int) else _SYMBOLIC for n in shape]
