"""Scalar programs: what a vector field computes, number by number.

A value of the field is a sum of atoms, which `atoms.py` has. So additions, and products
with what does not move, cost nothing until an atom needs them as one series; and
expressions that are the same up to a factor are one atom: of the displacements of all
bodies from all others each pair has one.
"""

import dataclasses
import functools as ft
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from .atoms import Atom, Coefficient, Linear, Parameter
from .given import Givens


@dataclasses.dataclass
class Program:
    """A field as a scalar program.

    - `dtype`: "float64" or "float32", of all its numbers.
    - `size`: the number of entries of the state.
    - `givens`: computes its arguments of those of the field.
    - `parameters`: in an order in which they can be computed.
    - `atoms`: in an order in which coefficients can be computed.
    - `slopes`: the derivatives of the state.
    """

    dtype: str
    size: int
    givens: Givens
    parameters: list[Parameter]
    atoms: list[Atom]
    slopes: list[Linear]

    @property
    def arguments(self) -> int:
        """The number of its arguments."""
        return self.givens.count

    @ft.cached_property
    def key(self) -> str:
        """The content of the program, as a string."""

        def of_number(x):
            return f"p{x.index}" if isinstance(x, Parameter) else float(x).hex()

        lines = [f"{self.dtype} {self.size} {self.arguments}"]
        for p in self.parameters:
            lines.append(
                f"{p.index} {p.op} {p.attribute} {[*map(of_number, p.operands)]}"
            )
        for a in self.atoms:
            names = [x.index for x in a.operands], [x.index for x in a.lagged]
            numbers = [*map(of_number, a.coefficients)], of_number(a.constant)
            lines.append(f"{a.index} {a.kind} {a.attribute!r} {names} {numbers}")
        for x in self.slopes:
            terms = [(atom.index, of_number(c)) for atom, c in x.terms.items()]
            lines.append(f"{of_number(x.constant)} {terms}")
        return "\n".join(lines)


# Sums of sums are one sum if they have no more terms than this. With more, a sum that
# is used several times is computed once.
_LONGEST_PART = 4


class Builder:
    """Makes values. The same value is made once."""

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []
        self.atoms: list[Atom] = []
        self._known: dict[Hashable, Any] = {}

    # -- coefficients

    def argument(self, index: int) -> Linear:
        return Linear(self.parameter("argument", (), index), {})

    def parameter(self, op: str, operands: tuple, attribute: Any = None) -> Parameter:
        key = ("parameter", op, tuple(map(_key, operands)), attribute)
        if key not in self._known:
            made = Parameter(len(self.parameters), op, operands, attribute)
            self.parameters.append(made)
            self._known[key] = made
        return self._known[key]

    def _times(self, a: Coefficient, b: Coefficient) -> Coefficient:
        if isinstance(a, float) and isinstance(b, float):
            return a * b
        for one, other in [(a, b), (b, a)]:
            if isinstance(one, float) and one in (0.0, 1.0):
                return other if one else 0.0
        return self.parameter("mul", (a, b))

    def _plus(self, a: Coefficient, b: Coefficient) -> Coefficient:
        if isinstance(a, float) and isinstance(b, float):
            return a + b
        for one, other in [(a, b), (b, a)]:
            if isinstance(one, float) and one == 0:
                return other
        return self.parameter("add", (a, b))

    def _over(self, a: Coefficient, b: Coefficient) -> Coefficient:
        if isinstance(b, float) and (isinstance(a, float) or b == 1):
            # NumPy's quotient: that by zero is infinite.
            return float(_divide(a, b)) if isinstance(a, float) else a
        return self.parameter("div", (a, b))

    # -- sums

    def constant(self, value: Any) -> Linear:
        return Linear(float(value), {})

    def time(self) -> Linear:
        return self._of_atom(self.atom("time"))

    def state(self, index: int) -> Linear:
        return self._of_atom(self.atom("state", attribute=index))

    def sum(self, parts: Iterable[tuple[Coefficient, Linear]]) -> Linear:
        """The sum of `c x`, for all `(c, x)`."""
        constant: Coefficient = 0.0
        terms: dict[Atom, Coefficient] = {}
        for c, x in parts:
            if isinstance(c, float) and c == 0:
                continue
            if len(x.terms) > _LONGEST_PART:
                x = self._single(x)
            constant = self._plus(constant, self._times(c, x.constant))
            for atom, factor in x.terms.items():
                factor = self._times(c, factor)
                if atom in terms:
                    factor = self._plus(terms[atom], factor)
                if isinstance(factor, float) and factor == 0:
                    terms.pop(atom, None)
                else:
                    terms[atom] = factor
        return Linear(constant, terms)

    def add(self, x: Linear, y: Linear) -> Linear:
        return self.sum([(1.0, x), (1.0, y)])

    def sub(self, x: Linear, y: Linear) -> Linear:
        return self.sum([(1.0, x), (-1.0, y)])

    def scale(self, c: Coefficient, x: Linear) -> Linear:
        terms = {atom: self._times(c, factor) for atom, factor in x.terms.items()}
        return Linear(self._times(c, x.constant), terms if c != 0 else {})

    def _single(self, x: Linear) -> Linear:
        atom, c = self.factored(x)
        return Linear(0.0, {atom: c})

    def factored(self, x: Linear) -> tuple[Atom, Coefficient]:
        """`x` as an atom with a coefficient, so that `-x` is the same atom."""
        if len(x.terms) == 1 and x.constant == 0.0:
            [(atom, c)] = x.terms.items()
            return atom, c
        first = min(x.terms.items(), key=lambda item: item[0].index)[1]
        sign = -1.0 if isinstance(first, float) and first < 0 else 1.0
        return self._sum_atom(self.scale(sign, x)), sign

    def atom_of(self, x: Linear) -> Atom:
        """An atom that is `x` itself."""
        if len(x.terms) == 1 and x.constant == 0.0:
            [(atom, c)] = x.terms.items()
            if c == 1.0:
                return atom
        return self._sum_atom(x)

    def _sum_atom(self, x: Linear) -> Atom:
        terms = sorted(x.terms.items(), key=lambda item: item[0].index)
        return self.atom(
            "linear",
            tuple(atom for atom, _ in terms),
            coefficients=tuple(c for _, c in terms),
            constant=x.constant,
        )

    # -- atoms

    def _of_atom(self, atom: Atom) -> Linear:
        return Linear(0.0, {atom: 1.0})

    def atom(
        self,
        kind: str,
        operands: tuple[Atom, ...] = (),
        attribute: Any = None,
        coefficients: tuple[Coefficient, ...] = (),
        constant: Coefficient = 0.0,
        variant: Hashable = None,
    ) -> Atom:
        places = tuple(atom.index for atom in operands)
        numbers = tuple(map(_key, (*coefficients, constant)))
        key = ("atom", kind, places, attribute, numbers, variant)
        if key not in self._known:
            atom = Atom(
                len(self.atoms), kind, operands, (), attribute, coefficients, constant
            )
            self.atoms.append(atom)
            self._known[key] = atom
        return self._known[key]

    def mul(self, x: Linear, y: Linear) -> Linear:
        if x.is_constant or y.is_constant:
            x, y = (x, y) if x.is_constant else (y, x)
            return self.scale(x.constant, y)
        (a, c), (b, d) = self.factored(x), self.factored(y)
        if a is b:
            atom = self.atom("square", (a,))
        else:
            a, b = (a, b) if a.index < b.index else (b, a)
            atom = self.atom("product", (a, b))
        return Linear(0.0, {atom: self._times(c, d)})

    def square(self, x: Linear) -> Linear:
        return self.mul(x, x)

    def div(self, x: Linear, y: Linear) -> Linear:
        if y.is_constant:
            over = ft.partial(self._over, b=y.constant)
            terms = {atom: over(c) for atom, c in x.terms.items()}
            return Linear(over(x.constant), terms)
        b, d = self.factored(y)
        if x.is_constant:
            atom = self.atom("reciprocal", (b,))
            return Linear(0.0, {atom: self._over(x.constant, d)})
        a, c = self.factored(x)
        if a is b:
            return Linear(self._over(c, d), {})
        return Linear(0.0, {self.atom("quotient", (a, b)): self._over(c, d)})

    def power(self, x: Linear, exponent: float) -> Linear:
        """`x` to the power of a number."""
        if x.is_constant:
            return Linear(self.parameter("pow", (x.constant, float(exponent))), {})
        # At zero, too: the recurrence divides by `x`.
        if exponent.is_integer() and 0 <= exponent < 2**31:
            return self._product_power(x, int(exponent))
        if exponent == -1:
            return self.div(self.constant(1), x)
        if exponent == 0.5:
            return self._of_atom(self.atom("sqrt", (self.atom_of(x),)))
        return self._of_atom(self.atom("power", (self.atom_of(x),), exponent))

    def _product_power(self, x: Linear, exponent: int) -> Linear:
        if exponent == 0:
            return self.constant(1)
        if exponent == 1:
            return x
        half = self.square(self._product_power(x, exponent // 2))
        return self.mul(half, x) if exponent % 2 else half

    # -- functions

    def constant_function(self, name: str, x: Linear) -> Linear:
        """A function of what does not move."""
        return Linear(self.parameter(name, (x.constant,)), {})

    def times_order(self, atom: Atom) -> Atom:
        """Of a series its derivative times `t`: coefficients `k a_k`."""
        return self.atom("times_order", (atom,))

    def integral(self, name: str, x: Linear, factor: float = 1.0) -> Atom:
        """A function with `y' = factor slope x'`; `lagged` is to be set to the slope,
        which may depend on the function."""
        atom = self.atom_of(x)
        operands = (atom, self.times_order(atom))
        return self.atom("integral", operands, (name, factor))

    def inverse(self, name: str, x: Linear, r: Linear, factor: float = 1.0) -> Linear:
        """A function with `y' = factor x' / r`."""
        operands = (self.atom_of(x), self.atom_of(r))
        y = self.atom("inverse", operands, (name, factor))
        y.lagged = (self.times_order(y),)
        return self._of_atom(y)

    def sigmoid_slope(self, name: str, x: Linear, y: Atom) -> Atom:
        """The slope of a sigmoid `y` of `x`, as a polynomial in `y`."""
        return self.atom("sigmoid_slope", (self.atom_of(x), y), name)

    # -- the program

    def program(
        self, dtype: str, size: int, givens: Givens, slopes: list[Linear]
    ) -> Program:
        """What the slopes need, numbered anew."""
        needed = _reached(slopes, lambda atom: atom.operands)
        usual = _reached(slopes, lambda atom: atom.usual_operands)
        atoms = [atom for atom in self.atoms if atom in needed]
        for atom in atoms:
            atom.is_rare = atom not in usual
        numbers = [c for x in slopes for c in (x.constant, *x.terms.values())]
        for index, atom in enumerate(atoms):
            atom.index = index
            numbers.extend((atom.constant, *atom.coefficients))
        used: set[Parameter] = set()
        while numbers:
            x = numbers.pop()
            if isinstance(x, Parameter) and x not in used:
                used.add(x)
                numbers.extend(x.operands)
        parameters = [p for p in self.parameters if p in used]
        places = {p: i for i, p in enumerate(parameters)}
        arguments = [p.attribute for p in parameters if p.op == "argument"]
        givens.keep(arguments)
        parameters = _renumbered(parameters, places, arguments)
        if parameters:
            renamed = dict(zip(places, parameters))
            new = ft.partial(_renamed, renamed=renamed)
            for atom in atoms:
                atom.coefficients = tuple(map(new, atom.coefficients))
                atom.constant = new(atom.constant)
            slopes = [
                Linear(new(x.constant), {a: new(c) for a, c in x.terms.items()})
                for x in slopes
            ]
        return Program(dtype, size, givens, parameters, atoms, slopes)


def _reached(
    slopes: Sequence[Linear], operands: Callable[[Atom], tuple[Atom, ...]]
) -> set[Atom]:
    found: set[Atom] = set()
    stack = [atom for x in slopes for atom in x.terms]
    while stack:
        atom = stack.pop()
        if atom not in found:
            found.add(atom)
            stack.extend((*operands(atom), *atom.lagged))
    return found


def _renamed(x: Coefficient, renamed: dict[Parameter, Parameter]) -> Coefficient:
    return renamed[x] if isinstance(x, Parameter) else x


def _renumbered(
    parameters: Sequence[Parameter],
    places: dict[Parameter, int],
    arguments: Sequence[int],
) -> list[Parameter]:
    renamed: dict[Parameter, Parameter] = {}
    numbers = {old: new for new, old in enumerate(arguments)}
    for p in parameters:
        operands = tuple(_renamed(x, renamed) for x in p.operands)
        attribute = numbers[p.attribute] if p.op == "argument" else p.attribute
        renamed[p] = Parameter(places[p], p.op, operands, attribute)
    return list(renamed.values())


def _key(x: Coefficient) -> Hashable:
    return ("p", x.index) if isinstance(x, Parameter) else x


def _divide(a: float, b: float) -> float:
    import numpy as np

    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))
