"""Replaces sums and products by their normal forms, wherever that is shorter."""

import itertools as it
from collections.abc import Sequence
from typing import NamedTuple

from .._counts import count_equations, inner_jaxprs
from ._emit import Style, Writer
from ._exact import apply_exact
from ._graph import Graph, Jaxpr, Node, read, TooLarge, Value, write
from ._normal_form import (
    Inverse,
    Leaf,
    Moved,
    MOVING,
    NormalForm,
    Operand,
    Options,
    Sum,
)
from ._ring import Polynomial


# The first of those that are shortest is taken.
STYLES = [
    Style(factor, divide, chain)
    for chain in (True, False)
    for divide in (True, False)
    for factor in ("flat", "most", "none")
]

# In turn, for as long as one of them helps. Sums are multiplied out only for what this
# saves: it is what may lose digits where terms cancel.
_PASSES = [Options(expand=False, through=True), Options(expand=True, through=True)]
# If there is nothing in that.
_PLAIN_PASSES = [option._replace(through=False) for option in _PASSES]


class Cost(NamedTuple):
    equations: int
    # The entries of all arrays that are computed, and not just moved or copied.
    entries: int


class Change(NamedTuple):
    """What has become of a part of the program that is sums and products."""

    before: Cost
    after: Cost
    expanded: bool
    # What it computes now, and how many more of that there are.
    polynomials: list[str]
    more: int

    def __str__(self):
        how = ", multiplied out" if self.expanded else ""
        more = f"\n    and {self.more} more" if self.more else ""
        lines = "".join(f"\n    {text}" for text in self.polynomials)
        return (
            f"{self.before.equations} sums and products are now "
            f"{self.after.equations}{how}:{lines}{more}"
        )


def simplified_jaxpr(jaxpr: Jaxpr, changes: list[Change] | None = None) -> Jaxpr:
    """The same function by fewer equations. What was done is appended to `changes`."""

    def body(inner):
        return simplified_jaxpr(inner, changes)

    graph = read(jaxpr, apply_exact, body)
    calls = {node.path[:1] for node in graph.live()}
    new = _improved(graph, _PASSES, changes)
    if new is graph:
        new = _improved(graph, _PLAIN_PASSES, changes)
    if len(calls) == 1:
        # All of it was in one call of `jit`, and is so again.
        [path] = calls
        for node in new.nodes:
            node.path = node.path or path
    result = write(new, jaxpr)
    # Types of results that have to be restored may be equations, too.
    if count_equations(result) > count_equations(jaxpr):
        return write(graph, jaxpr)
    return result


def _improved(
    graph: Graph, passes: Sequence[Options], changes: list[Change] | None
) -> Graph:
    """What the passes make of a program; the program itself if that is nothing."""
    best, in_vain, turn = cost(graph.live()), 0, it.cycle(passes)
    while in_vain < len(passes):
        made: list[Change] = []
        in_vain += 1
        try:
            new = reformed(graph, next(turn), None if changes is None else made)
        except TooLarge:
            continue
        after = cost(new.live())
        if after < best:
            graph, best, in_vain = new, after, 0
            if changes is not None:
                changes += made
    return graph


def cost(nodes: Sequence[Node]) -> Cost:
    equations = sum(
        1 + sum(count_equations(inner) for inner in inner_jaxprs(node.eqn))
        for node in nodes
    )
    entries = sum(
        getattr(value.aval, "size", 1)
        for node in nodes
        if node.name not in MOVING
        for value in node.outputs
    )
    return Cost(equations, entries)


def reformed(graph: Graph, options: Options, changes: list[Change] | None) -> Graph:
    form = NormalForm(graph, options)
    regions = _regions(graph, form)
    styles = {
        id(region): _best_style(form, region, changes, options) for region in regions
    }
    region_of = {node: region for region in regions for node in region.nodes}

    new = Graph(value.aval for value in graph.inputs)
    leaves: dict[int, Value] = {}
    # What is left as it was written.
    kept: dict[Value, Value] = dict(zip(graph.inputs, new.inputs))
    writers = {style: Writer(new, form, leaves, style) for style in STYLES}
    number_of = {
        what.value: number
        for number, (what, _, _) in enumerate(form.indeterminates)
        if isinstance(what, Leaf)
    }
    for value, same in kept.items():
        leaves[number_of[value]] = same

    def rebuilt(value: Value) -> Value:
        if value in kept:
            return kept[value]
        if value.constant:
            number = number_of.get(value)
            same = new.constant(value.aval, value.constant[0])
            if number is not None:
                leaves[number] = same
            return same
        assert value.node is not None
        region = region_of.get(value.node)
        style = STYLES[0] if region is None else styles[id(region)]
        assert style is not None
        return writers[style].exact(form.operand(value))

    def rebuilt_operand(operand: Operand) -> Value:
        if operand.passed:
            return writers[STYLES[0]].exact(operand)
        return rebuilt(operand.value)

    for what, _, _ in form.indeterminates:
        if isinstance(what, Leaf) and what.value.constant:
            rebuilt(what.value)
    for node in graph.live():
        region = region_of.get(node)
        if region is not None:
            if styles[id(region)] is None:
                inputs = [rebuilt(value) for value in node.inputs]
                outs = apply_exact(new, node.eqn, inputs, ())
                kept.update(zip(node.outputs, outs))
        elif node in form.operands:
            inputs = [rebuilt_operand(operand) for operand in form.operands[node]]
            outs = apply_exact(new, node.eqn, inputs, ())
            for value, out in zip(node.outputs, outs):
                leaves[number_of[value]] = out
    new.outputs = [rebuilt_operand(operand) for operand in form.outputs]
    return new


# -- parts of the program that are all sums and products


class Region:
    def __init__(self):
        self.nodes: list[Node] = []
        # What the rest of the program needs of them.
        self.operands: list[Operand] = []


def _regions(graph: Graph, form: NormalForm) -> list[Region]:
    parent: dict[Node, Node] = {
        node: node for node in graph.nodes if node in form.inside
    }

    def root(node):
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in parent:
        for value in node.inputs:
            if value.node in parent:
                parent[root(value.node)] = root(node)
    regions: dict[Node, Region] = {}
    for node in parent:
        regions.setdefault(root(node), Region()).nodes.append(node)
    for operands in [*form.operands.values(), form.outputs]:
        for operand in operands:
            if operand.value.node in parent:
                regions[root(operand.value.node)].operands.append(operand)
    return list(regions.values())


def _best_style(form, region, changes, options) -> Style | None:
    """`None` where the region is best left as it is."""
    before = cost(_needed(region))
    best, least = None, before
    for style in _different_styles(form, region):
        if best is not None and not style.chain:
            break  # Only where products of powers are too many.
        try:
            after = cost(_written(form, region, style, least.equations).live())
        except TooLarge:
            continue
        if after < least and after.entries <= before.entries:
            best, least = style, after
    if best is not None and changes is not None:
        shown = list({x.polynomial.key: x for x in region.operands}.values())
        texts = [form.text(operand.polynomial) for operand in shown[:3]]
        more = max(0, len(shown) - 3)
        changes.append(Change(before, least, options.expand, texts, more))
    return best


def _needed(region: Region) -> list[Node]:
    wanted = {operand.value for operand in region.operands}
    found = []
    for node in reversed(region.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found


def _different_styles(form: NormalForm, region: Region) -> list[Style]:
    """Without those that cannot differ from one before them."""
    monomials, numbers = set(), set()
    left = [operand.polynomial for operand in region.operands]
    while left:
        p = left.pop()
        monomials.update(p.terms)
        for number in p.indeterminates - numbers:
            numbers.add(number)
            what = form.indeterminates[number].what
            if isinstance(what, Sum):
                left.append(what.polynomial)
            elif isinstance(what, Moved | Inverse):
                left.append(Polynomial({((what.source, 1),): 1}))
    powers = any(exponent > 4 for m in monomials for _, exponent in m)
    inverses = any(isinstance(form.indeterminates[n].what, Inverse) for n in numbers)
    return [
        style
        for style in STYLES
        if (powers or style.chain) and (inverses or style.divide)
    ]


def _written(form: NormalForm, region: Region, style: Style, at_most: int) -> Graph:
    """The region alone, from its indeterminates."""
    graph = Graph([], at_most)

    class Leaves(dict):
        def __missing__(self, number):
            self[number] = graph.input(form.indeterminates[number].what.value.aval)
            return self[number]

    writer = Writer(graph, form, Leaves(), style)
    graph.outputs = [writer.exact(operand) for operand in region.operands]
    return graph
