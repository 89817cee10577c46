"""Choices that do not make a field less smooth: those that depend on the arguments, and
those that a result does not depend on.

The largest of some values, which `softmax` subtracts, is taken at the beginning of each
step, and is a constant in it. A program is refused unless that cancels: then it is the
same function.
"""

from collections.abc import Sequence
from typing import Any

from .atoms import Atom, Coefficient, Linear, NotNative, Parameter
from .program import Builder, Program


def select(builder: Builder, flag: Coefficient, x: Linear, y: Linear) -> Linear:
    """`x` where a number is not zero, and `y` where it is. What is not chosen may be
    anything."""
    if isinstance(flag, float):
        return x if flag != 0 else y
    if x.is_constant and y.is_constant:
        if not isinstance(x.constant, Parameter) and x.constant == y.constant:
            return x
        operands = (flag, x.constant, y.constant)
        return Linear(builder.parameter("select", operands), {})
    if x.terms == y.terms and x.constant == y.constant:
        return x
    flags = builder.atom_of(Linear(flag, {}))
    operands = (flags, builder.atom_of(x), builder.atom_of(y))
    return Linear(0.0, {builder.atom("select", operands): 1.0})


def of_larger(builder: Builder, x: Linear, y: Linear, a: Linear, b: Linear) -> Linear:
    """`a` if `|x|` is the larger one, or as large, at the beginning of a step; `b`
    otherwise."""
    if a.terms == b.terms and a.constant == b.constant:
        return a
    operands = tuple(map(builder.atom_of, (x, y, a, b)))
    return Linear(0.0, {builder.atom("of_larger", operands): 1.0})


def frozen_max(builder: Builder, row: Sequence[Linear], note: str) -> Linear:
    """The largest of some values at the beginning of a step. `note` says where it is,
    for an error."""
    lowest = -float("inf")
    row = [x for x in row if not (x.is_constant and x.constant == lowest)]
    if not row:
        return builder.constant(lowest)
    total = row[0]
    for x in row[1:]:
        operands = (builder.atom_of(total), builder.atom_of(x))
        atom = builder.atom("frozen_max", operands)
        atom.note = note
        total = Linear(0.0, {atom: 1.0})
    return total


def is_frozen(x: Linear) -> bool:
    return bool(x.terms) and all(atom.kind == "frozen_max" for atom in x.terms)


_POSITIVE = frozenset(["exp", "exp2", "softplus", "logistic", "cosh"])


def is_nonnegative(x: Linear) -> bool:
    """Whether a value cannot be negative, so that its absolute value is no kink."""
    numbers = [x.constant, *x.terms.values()]
    if any(isinstance(c, Parameter) or not c >= 0 for c in numbers):
        return False
    return all(map(_is_nonnegative, x.terms))


def _is_nonnegative(atom: Atom) -> bool:
    if atom.kind in ("square", "sqrt"):
        return True
    if atom.kind == "integral":
        return atom.attribute[0] in _POSITIVE
    if atom.kind in ("product", "quotient", "reciprocal"):
        return all(map(_is_nonnegative, atom.operands))
    if atom.kind == "linear":
        terms = dict(zip(atom.operands, atom.coefficients))
        return is_nonnegative(Linear(atom.constant, terms))
    return False


# -- what cancels

# How a value depends on frozen ones, m: as a sum with multiples of m, or as a product
# with powers of exp(m). The multiples are in a dictionary, by m and the parameter that
# they are multiplied by, which may be none. Of a value that does not depend on any it
# is empty.
_Shift = tuple[str, dict[tuple[Atom, Any], float]]
_SUM, _PRODUCT = "sum", "product"
_FREE: _Shift = (_SUM, {})


def check_frozen(program: Program) -> None:
    """Raises `NotNative` if a slope may depend on a frozen value."""
    frozen = [atom for atom in program.atoms if atom.kind == "frozen_max"]
    if not frozen:
        return
    shifts: dict[Atom, _Shift | None] = {}
    for atom in program.atoms:
        shifts[atom] = _shift_of(atom, [shifts[x] for x in atom.operands])
    for x in program.slopes:
        terms = [(c, shifts[atom]) for atom, c in x.terms.items()]
        if _shift_of_sum(terms, x.constant) != _FREE:
            raise NotNative(frozen[-1].note)


def _shift_of(atom: Atom, operands: list[_Shift | None]) -> _Shift | None:
    """Returns `None` if the value may depend on a frozen one in any other way."""
    if atom.kind == "frozen_max":
        return _SUM, {(atom, None): 1.0}
    if atom.kind == "linear":
        return _shift_of_sum(list(zip(atom.coefficients, operands)), atom.constant)
    if any(x is None for x in operands):
        return None
    found: list[Any] = operands
    if all(not x[1] for x in found):
        return _FREE
    powers = {"product": (1.0, 1.0), "quotient": (1.0, -1.0), "square": (2.0,)}
    powers |= {"reciprocal": (-1.0,), "sqrt": (0.5,), "power": (atom.attribute,)}
    if atom.kind in powers:
        return _product(list(zip(powers[atom.kind], found)))
    kind, multiples = found[0]
    if atom.kind == "times_order":
        return _FREE if kind == _SUM else found[0]
    if atom.kind == "integral" and atom.attribute[0] == "exp" and kind == _SUM:
        return _PRODUCT, multiples
    if atom.kind == "inverse" and atom.attribute[0] == "log" and kind == _PRODUCT:
        return _SUM, multiples
    return None


def _shift_of_sum(
    terms: Sequence[tuple[Coefficient, _Shift | None]], constant: Coefficient
) -> _Shift | None:
    if any(x is None for _, x in terms):
        return None
    found: list[tuple[Coefficient, Any]] = list(terms)
    if any(kind == _PRODUCT for _, (kind, multiples) in found if multiples):
        first = found[0][1]
        alike = isinstance(constant, float) and constant == 0
        return first if alike and all(x == first for _, x in found) else None
    parts = []
    for c, (_, multiples) in found:
        for (m, parameter), multiple in multiples.items():
            if isinstance(c, float):
                parts.append(((m, parameter), c * multiple))
            elif parameter is None:
                parts.append(((m, c), multiple))
            else:
                return None
    return _SUM, _added(parts)


def _product(factors: Sequence[tuple[float, Any]]) -> _Shift | None:
    parts = []
    for power, (kind, multiples) in factors:
        if multiples and kind == _SUM:
            return None
        parts += [(key, power * multiple) for key, multiple in multiples.items()]
    multiples = _added(parts)
    return (_PRODUCT, multiples) if multiples else _FREE


def _added(parts: Sequence[tuple[Any, float]]) -> dict[Any, float]:
    """Sums of multiples. Those that are zero to rounding are zero."""
    totals: dict[Any, list[float]] = {}
    for key, multiple in parts:
        totals.setdefault(key, []).append(multiple)
    sums = {key: sum(xs) for key, xs in totals.items()}
    return {
        key: x for key, x in sums.items() if abs(x) > 1e-12 * max(map(abs, totals[key]))
    }
