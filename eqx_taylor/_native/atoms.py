"""What scalar programs are made of: sums of atoms.

A value of the field is a `Linear`: a sum of atoms, each with a coefficient, and a
constant. An `Atom` is a series that has to be computed: a product, a root, a function.

Coefficients are numbers, or a `Parameter`: a number that is known at run time only, but
does not depend on the time and the state.
"""

import dataclasses
from typing import Any


class NotNative(Exception):
    """A field has no scalar program: the message says what has none, and where."""


@dataclasses.dataclass(eq=False, frozen=True)
class Parameter:
    """A number that `prepare` computes.

    - `op`: "argument", or the operation that makes it of its operands.
    - `operands`: numbers and parameters.
    - `attribute`: what else the operation needs to know: the index of an argument.
    """

    index: int
    op: str
    operands: tuple["Coefficient", ...]
    attribute: Any = None


Coefficient = float | Parameter


@dataclasses.dataclass(eq=False)
class Atom:
    """A series that is computed.

    - `kind`: its recurrence, one of `recurrences.KINDS`; or "time", or "state".
    - `operands`: the atoms whose coefficients up to `k` the recurrence uses.
    - `lagged`: the atoms whose coefficients below `k` it uses. They may come later in
      the program, and may be the atom itself.
    - `attribute`: the exponent, the name of a function, the index of a state.
    - `coefficients`, `constant`: of sums (`kind == "linear"`), one for each operand.
    - `note`: what to say of it, if the program is refused.
    - `is_rare`: whether it is needed only for steps from points at which powers with an
        exponent that is known at run time have no recurrence. Set by `Builder.program`.
    """

    index: int
    kind: str
    operands: tuple["Atom", ...] = ()
    lagged: tuple["Atom", ...] = ()
    attribute: Any = None
    coefficients: tuple[Coefficient, ...] = ()
    constant: Coefficient = 0.0
    note: str = ""
    is_rare: bool = False

    @property
    def usual_operands(self) -> tuple["Atom", ...]:
        """The operands that every step needs."""
        return self.operands[:3] if self.kind == "variable_power" else self.operands


@dataclasses.dataclass(eq=False)
class Linear:
    """A sum of atoms with coefficients, and a constant."""

    constant: Coefficient
    terms: dict[Atom, Coefficient]

    @property
    def is_constant(self) -> bool:
        return not self.terms
