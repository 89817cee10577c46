"""Parts of a program that consist of sums and products, and the shortest way to write
each of them."""

from collections.abc import Sequence
from typing import NamedTuple

from ..._core.primitives import REARRANGING
from .algebra import Algebra, Inverse, Leaf, Sum
from .emit import Style, Writer
from .graph import Graph, Node, TooLarge, Value
from .normal_form import NormalForm, Operand
from .ring import common, over, Polynomial


class Cost(NamedTuple):
    equations: int
    # The number of entries that are computed, and not only moved or copied.
    entries: int


def cost(nodes: Sequence[Node]) -> Cost:
    equations = sum(node.operation.equations for node in nodes)
    entries = sum(
        getattr(value.aval, "size", 1)
        for node in nodes
        if node.name not in REARRANGING
        for value in node.outputs
    )
    return Cost(equations, entries)


class Region:
    def __init__(self):
        self.nodes: list[Node] = []
        # The values in the region that the rest of the program needs.
        self.operands: list[Operand] = []
        # The best style; `None` if the region is best left unchanged.
        self.style: Style | None = None
        self.before = self.after = Cost(0, 0)
        # Whether another pass might make it shorter; and whether it contains sums that
        # could be expanded.
        self.is_open = False
        self.has_sums = False


def regions_of(form: NormalForm) -> list[Region]:
    parent: dict[Node, Node] = {
        node: node for node in form.nodes if node in form.inside
    }

    def root(node):
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def within(value: Value) -> Node | None:
        """Returns the root of the region of a value, or `None` if the value is not in a
        region, or is an indeterminate."""
        node = value.node
        return root(node) if node in parent and node not in form.parts else None

    for node in parent:
        for value in node.inputs:
            other = within(value)
            if other is not None:
                parent[other] = root(node)
    regions: dict[Node, Region] = {}
    for node in parent:
        region = regions.setdefault(root(node), Region())
        region.nodes.append(node)
        if node in form.parts:
            region.operands.append(form.parts[node])
    for operands in [*form.operands.values(), form.outputs]:
        for operand in operands:
            node = within(operand.value)
            if node is not None:
                regions[node].operands.append(operand)
    return list(regions.values())


def choose_style(form: NormalForm, region: Region) -> None:
    """Chooses the best style of a region, and sets its other fields."""
    region.before = region.after = before = cost(_needed(region))
    contents = _contents(form.algebra, region.operands)
    if before.equations <= contents.bound:
        return
    for style in contents.styles():
        if region.style is not None and not style.chain:
            break  # `integer_pow` is tried only if products are not short enough.
        try:
            written = _written(form, region, style, region.after.equations)
        except TooLarge:
            continue
        after = cost(written.live())
        if after < region.after and after.entries <= before.entries:
            region.style, region.after = style, after
    region.is_open = region.after.equations > contents.bound
    region.has_sums = contents.sums


def _needed(region: Region) -> list[Node]:
    wanted = {operand.value for operand in region.operands}
    found = []
    for node in reversed(region.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found


def _written(form: NormalForm, region: Region, style: Style, at_most: int) -> Graph:
    """Writes the region by itself, as a function of its indeterminates."""
    graph = Graph([], at_most)
    leaves = _Leaves(graph, form.algebra)
    expected = [operand.polynomial for operand in region.operands]
    writer = Writer(graph, form.algebra, leaves, style, expected)
    graph.outputs = [writer.exact(operand) for operand in region.operands]
    return graph


class _Leaves(dict[int, Value]):
    """The inputs of a graph, which are made when they are first requested."""

    def __init__(self, graph: Graph, algebra: Algebra):
        self.graph, self.algebra = graph, algebra

    def __missing__(self, number):
        what = self.algebra[number].what
        assert isinstance(what, Leaf)
        self[number] = self.graph.input(what.value.aval)
        return self[number]


# -- facts that are known before anything is written


class Contents(NamedTuple):
    # A lower bound on the number of equations for these polynomials.
    bound: int
    sums: bool
    inverses: bool
    # Whether there are powers from the fifth on.
    powers: bool
    # Whether terms have indeterminates in common with different exponents.
    uneven: bool

    def styles(self) -> list[Style]:
        """Lists the styles to try. The first of the shortest results is chosen. Styles
        that cannot differ from an earlier one are left out."""
        return [
            Style(factor, divide, chain)
            for chain in ([True, False] if self.powers else [True])
            for divide in ([True, False] if self.inverses else [True])
            for factor in (["flat", "most"] if self.uneven else ["flat"])
        ]


def _contents(algebra: Algebra, operands: Sequence[Operand]) -> Contents:
    found = {operand.polynomial.key: operand.polynomial for operand in operands}
    made = [p for p in found.values() if not _is_there(algebra, p)]
    left, numbers = list(made), set()
    leaves, sums, inverses, powers, uneven = 0, False, False, False, False
    while left:
        p = left.pop()
        powers |= any(e > 4 for monomial in p.terms for _, e in monomial)
        uneven = uneven or _is_uneven(p)
        for number in p.indeterminates - numbers:
            numbers.add(number)
            what = algebra[number].what
            if isinstance(what, Leaf):
                leaves += 1
            elif isinstance(what, Sum):
                sums = True
                left.append(what.polynomial)
            else:
                inverses |= isinstance(what, Inverse)
                left.append(Polynomial({((what.source, 1),): 1}))
    # Each operation has one result and at most two operands, and all results but the
    # last ones are operands of another operation.
    bound = max(len(made), leaves - len(made))
    return Contents(bound, sums, inverses, powers, uneven)


def _is_there(algebra: Algebra, p: Polynomial) -> bool:
    """Returns whether `p` needs no equation."""
    if p.indeterminate is None:
        return p.is_constant
    return isinstance(algebra[p.indeterminate].what, Leaf)


def _is_uneven(p: Polynomial) -> bool:
    if len(p.terms) < 3:
        return False
    divisor = common(p.terms)
    exponents: dict[int, int] = {}
    for monomial in p.terms:
        for number, exponent in over(monomial, divisor):
            if exponents.setdefault(number, exponent) != exponent:
                return True
    return False
