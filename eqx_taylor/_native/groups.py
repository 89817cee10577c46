"""The atoms of a program in groups: arrays whose entries are computed side by side.

Atoms of the same kind, none of which depends on another, are one array, whose entries
are processed in chunks: vectors of some numbers. What a recurrence takes products of
has to be in chunks as well, in the same order, or it is copied into an array: one move
for each order, for sums with as many terms as there are orders.
"""

import dataclasses
from collections.abc import Sequence

from .atoms import Atom, Linear
from .program import Program


@dataclasses.dataclass(eq=False)
class Array:
    """The series of some atoms.

    - `count`: the number of atoms.
    - `width`: the number of entries of a chunk; the last one may be longer than needed.
    - `level`: of an order, atoms of higher levels are known later.
    """

    count: int
    width: int
    level: int = 0

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
class Sums:
    """Sums that are computed side by side, all with as many terms.

    - `atoms`: the sums; a copy is a sum of one term.
    - `matrix`: if all are of the same atoms: an array in which these are one after the
        other, and the place of the first.
    """

    atoms: list[Atom]
    matrix: tuple[Array, int] | None = None

    @property
    def terms(self) -> int:
        return len(self.atoms[0].operands)

    def width(self, most: int) -> int:
        """The number of entries of a chunk."""
        return min(most, 1 << (len(self.atoms) - 1).bit_length())

    def pieces(self, most: int, count: int | None = None):
        """Chunks that are as long as they can be: the place of each, and its sums. The
        last sum is repeated until there are `count`."""
        count = len(self.atoms) if count is None else count
        atoms = [*self.atoms, *[self.atoms[-1]] * (count - len(self.atoms))]
        start = 0
        while start < count:
            width = min(most, 1 << ((count - start).bit_length() - 1))
            yield start, atoms[start : start + width]
            start += width


@dataclasses.dataclass(eq=False)
class Group:
    """Atoms that are computed side by side.

    - `kind`, `attribute`: those of the atoms; or "copy", of atoms that are elsewhere.
    - `is_rare`: as of the atoms.
    - `operands`, `lagged`: where the operands are, except for sums.
    - `sums`: the sums, of a group of these.
    """

    kind: str
    attribute: object
    atoms: list[Atom]
    level: int
    array: Array
    is_rare: bool
    operands: list[Slice] = dataclasses.field(default_factory=list)
    lagged: list[Slice] = dataclasses.field(default_factory=list)
    sums: Sums | None = None


@dataclasses.dataclass
class Plan:
    """Groups in an order in which they can be computed, and where the atoms are.

    - `width`: the most entries of a chunk.
    - `slopes`: sums, with the place of the first in the state.
    """

    groups: list[Group]
    places: dict[Atom, tuple[Array, int]]
    state: Array
    slopes: list[tuple[int, Sums]]
    width: int


# A sum with so many terms is grouped with those of the same operands, as the rows of a
# matrix are; shorter ones with all that are as long.
_MATRIX = 5


def plan(program: Program, width: int, apart: bool = False) -> Plan:
    """Groups the atoms of a program, in chunks of at most `width` entries. `apart` is
    whether entries of the state that are known early have chunks of their own."""
    levels: dict[Atom, int] = {}
    found: dict[object, list[Atom]] = {}
    places: dict[Atom, tuple[Array, int]] = {}
    for atom in program.atoms:
        levels[atom] = max([0, *(levels[x] + 1 for x in atom.operands)])
    most = _together(program, levels, width) if apart else width
    state = _array(program.size, most)
    for atom in program.atoms:
        if atom.kind == "state":
            places[atom] = state, atom.attribute
            continue
        key = levels[atom], atom.kind, atom.attribute, atom.is_rare, _terms_key(atom)
        found.setdefault(key, []).append(atom)
    groups = []
    for atoms in found.values():
        first = atoms[0]
        level, is_rare = levels[first], first.is_rare
        array = _array(len(atoms), width, level)
        group = Group(first.kind, first.attribute, atoms, level, array, is_rare)
        groups.append(group)
        places.update((atom, (array, i)) for i, atom in enumerate(atoms))
    copies: dict[tuple[int, ...], Group] = {}

    def copied(atoms: Sequence[Atom]) -> Array:
        key = tuple(atom.index for atom in atoms)
        if key not in copies:
            level = max(levels[atom] for atom in atoms)
            sums = [Atom(-1, "linear", (x,), coefficients=(1.0,)) for x in atoms]
            array = _array(len(atoms), width, level)
            is_rare = any(atom.is_rare for atom in atoms)
            copy = Group("copy", None, list(atoms), level, array, is_rare)
            copy.sums = Sums(sums)
            copies[key] = copy
        return copies[key].array

    def as_slice(atoms: Sequence[Atom], like: Array) -> Slice:
        return _slice(atoms, like, places) or Slice(copied(atoms))

    def as_sums(atoms: list[Atom]) -> Sums:
        operands = atoms[0].operands
        if not _is_matrix(atoms):
            return Sums(atoms)
        return Sums(atoms, _in_order(operands, places) or (copied(operands), 0))

    for group in groups:
        if group.kind == "linear":
            group.sums = as_sums(group.atoms)
        else:
            columns = zip(*(atom.operands for atom in group.atoms))
            group.operands = [as_slice(atoms, group.array) for atoms in columns]
            columns = zip(*(atom.lagged for atom in group.atoms))
            group.lagged = [as_slice(atoms, group.array) for atoms in columns]
    slopes = [(start, as_sums(atoms)) for start, atoms in _slopes(program, levels)]
    groups.extend(copies.values())
    groups.sort(key=lambda group: (group.level, group.kind == "copy"))
    return Plan(groups, places, state, slopes, width)


def _terms_key(atom: Atom) -> object:
    if atom.kind == "linear" and len(atom.operands) >= _MATRIX:
        return tuple(x.index for x in atom.operands)
    return len(atom.operands)


def _is_matrix(atoms: Sequence[Atom]) -> bool:
    operands = atoms[0].operands
    if len(operands) < _MATRIX or len(atoms) < 2:
        return False
    return all(atom.operands == operands for atom in atoms)


def _slopes(program: Program, levels: dict[Atom, int]) -> list[tuple[int, list[Atom]]]:
    """The slopes as sums, in runs of those that are alike."""
    runs: list[tuple[int, list[Atom]]] = []
    last = None
    for i, x in enumerate(program.slopes):
        terms = sorted(x.terms.items(), key=lambda item: item[0].index)
        atom = Atom(
            -1,
            "linear",
            tuple(atom for atom, _ in terms),
            coefficients=tuple(c for _, c in terms),
            constant=x.constant,
        )
        key = _known(x, levels), _terms_key(atom)
        if key == last:
            runs[-1][1].append(atom)
        else:
            runs.append((i, [atom]))
        last = key
    return runs


def _together(program: Program, levels: dict[Atom, int], width: int) -> int:
    """The most entries of a chunk of the state in which none waits for others that are
    known later. (Positions are known before velocities, and the next order of these
    waits for positions: Kepler's series takes 0.6 times the time.)"""
    known = [_known(x, levels) for x in program.slopes]
    for i in range(1, len(known)):
        if known[i] != known[i - 1]:
            # The largest power of two that divides `i`.
            width = min(width, i & -i)
    return width


def _known(x: Linear, levels: dict[Atom, int]) -> int:
    """The level of a slope."""
    return max((levels[atom] for atom in x.terms), default=0)


def _in_order(
    atoms: Sequence[Atom], places: dict[Atom, tuple[Array, int]]
) -> tuple[Array, int] | None:
    """Where atoms are one after the other."""
    array, start = places[atoms[0]]
    if any(places[x] != (array, start + i) for i, x in enumerate(atoms)):
        return None
    return array, start


def _array(count: int, width: int, level: int = 0) -> Array:
    return Array(count, min(width, 1 << (count - 1).bit_length()), level)


def _slice(
    atoms: Sequence[Atom],
    like: Array,
    places: dict[Atom, tuple[Array, int]],
) -> Slice | None:
    """Where atoms are one after the other, in chunks like those of an array."""
    found = _in_order(atoms, places)
    if found is None:
        return None
    array, start = found
    if array.width != like.width or start % array.width:
        return None
    if start // array.width + like.chunks > array.chunks:
        return None
    return Slice(array, start // array.width)
