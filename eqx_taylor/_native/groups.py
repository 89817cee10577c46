"""The atoms of a program in groups: arrays whose entries are computed side by side.

Atoms of the same kind, none of which depends on another, are one array, whose entries
are processed in chunks: vectors of some numbers. What a recurrence takes products of
has to be in chunks as well, in the same order, or it is copied into an array: one move
for each order, for sums with as many terms as there are orders.
"""

import dataclasses
from collections.abc import Sequence

from .program import Atom, Program


@dataclasses.dataclass(eq=False)
class Array:
    """The series of some atoms.

    - `count`: the number of atoms.
    - `width`: the number of entries of a chunk; the last one may be longer than needed.
    """

    count: int
    width: int

    @property
    def chunks(self) -> int:
        return -(-self.count // self.width)

    @property
    def padded(self) -> int:
        return self.chunks * self.width


@dataclasses.dataclass(eq=False)
class Slice:
    """Some chunks of an array, from `start` on."""

    array: Array
    start: int = 0


@dataclasses.dataclass(eq=False)
class Group:
    """Atoms that are computed side by side.

    - `kind`, `attribute`: those of the atoms; or "copy".
    - `atoms`: what is computed; of a copy, what is copied.
    - `operands`, `lagged`: where the operands are, except for sums.
    """

    kind: str
    attribute: object
    atoms: list[Atom]
    level: int
    array: Array
    operands: list[Slice] = dataclasses.field(default_factory=list)
    lagged: list[Slice] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Plan:
    """Groups in an order in which they can be computed, and where the atoms are."""

    groups: list[Group]
    places: dict[Atom, tuple[Array, int]]
    state: Array


# A sum with so many terms is grouped with those of the same operands, as the rows of a
# matrix are; shorter ones with all that are as long.
_MATRIX = 5


def plan(program: Program, width: int) -> Plan:
    """Groups the atoms of a program, in chunks of at most `width` entries."""
    levels: dict[Atom, int] = {}
    found: dict[object, list[Atom]] = {}
    places: dict[Atom, tuple[Array, int]] = {}
    state = Array(program.size, 1)
    for atom in program.atoms:
        levels[atom] = max([0, *(levels[x] + 1 for x in atom.operands)])
        if atom.kind == "state":
            places[atom] = state, atom.attribute
            continue
        terms: object = len(atom.operands)
        if atom.kind == "linear" and len(atom.operands) >= _MATRIX:
            terms = tuple(x.index for x in atom.operands)
        key = levels[atom], atom.kind, atom.attribute, terms
        found.setdefault(key, []).append(atom)
    groups = []
    for atoms in found.values():
        array = _array(len(atoms), width)
        first = atoms[0]
        groups.append(
            Group(first.kind, first.attribute, atoms, levels[first], array)
        )
        places.update((atom, (array, i)) for i, atom in enumerate(atoms))
    copies: dict[tuple[int, ...], Group] = {}

    def as_slice(atoms: Sequence[Atom], array: Array) -> Slice:
        found = _slice(atoms, array, places)
        if found is not None:
            return found
        key = tuple(atom.index for atom in atoms)
        if key not in copies:
            level = max(levels[atom] for atom in atoms)
            copies[key] = Group(
                "copy", None, list(atoms), level, _array(len(atoms), width)
            )
        return Slice(copies[key].array)

    for group in groups:
        if group.kind != "linear":
            columns = zip(*(atom.operands for atom in group.atoms))
            group.operands = [as_slice(atoms, group.array) for atoms in columns]
            columns = zip(*(atom.lagged for atom in group.atoms))
            group.lagged = [as_slice(atoms, group.array) for atoms in columns]
    groups.extend(copies.values())
    groups.sort(key=lambda group: (group.level, group.kind == "copy"))
    return Plan(groups, places, state)


def _array(count: int, width: int) -> Array:
    return Array(count, min(width, 1 << (count - 1).bit_length()))


def _slice(
    atoms: Sequence[Atom],
    like: Array,
    places: dict[Atom, tuple[Array, int]],
) -> Slice | None:
    """Where atoms are one after the other, in chunks like those of an array."""
    array, start = places[atoms[0]]
    if array.width != like.width or start % array.width:
        return None
    if start // array.width + like.chunks > array.chunks:
        return None
    if any(places[x] != (array, start + i) for i, x in enumerate(atoms)):
        return None
    return Slice(array, start // array.width)
