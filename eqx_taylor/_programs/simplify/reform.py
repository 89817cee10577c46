"""Replacement of sums and products by their normal forms, if these are shorter."""

from typing import NamedTuple

from ..._core.protocols import Jaxpr
from ..counts import count_equations
from .algebra import Leaf
from .emit import Style, Writer
from .exact import apply_exact
from .graph import Graph, TooLarge, Value
from .normal_form import NormalForm, Operand, Options
from .program import read, write
from .regions import choose_style, Cost, cost, Region, regions_of


# The passes, in order. Sums are expanded only if that makes the program shorter, as
# expansion may lose digits if terms cancel. If a region does not become shorter as a
# whole, its parts may.
_PASSES = [
    Options(expand, local) for local in (False, True) for expand in (False, True)
]


class Change(NamedTuple):
    """The record of a part of the program that was replaced."""

    before: Cost
    after: Cost
    expanded: bool
    # The first few polynomials that it computes now, and the number of the others.
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
    """Returns the same function with fewer equations, and appends the changes to
    `changes`."""

    def body(inner):
        return simplified_jaxpr(inner, changes)

    graph = read(jaxpr, apply_exact, body)
    calls = {node.path[:1] for node in graph.live()}
    new = _improved(graph, changes)
    if len(calls) == 1:
        # If everything was in one call of `jit`, it is again.
        [path] = calls
        for node in new.nodes:
            node.path = node.path or path
    result = write(new, jaxpr)
    # Restoring the types of results may take equations, too.
    if count_equations(result) > count_equations(jaxpr):
        return write(graph, jaxpr)
    return result


def _improved(graph: Graph, changes: list[Change] | None) -> Graph:
    """Applies the passes to a program, and returns the best result, or the program
    itself if none is better."""
    best, waiting = cost(graph.live()), list(_PASSES)
    while waiting:
        options = waiting.pop(0)
        form = NormalForm(graph, options)
        if options.local and not form.parts:
            continue  # The result is the same as without.
        regions = regions_of(form)
        for region in regions:
            choose_style(form, region)
        chosen = [region for region in regions if region.style is not None]
        if chosen or form.repeats:
            try:
                new = _rebuilt(graph, form, regions)
            except TooLarge:
                continue
            after = cost(new.live())
            if after < best:
                graph, best = new, after
                if changes is not None:
                    changes += [_change(form, region, options) for region in chosen]
        # Stop if no other pass could make a region shorter.
        still_open = [region for region in regions if region.is_open]
        if not still_open:
            break
        if not any(region.has_sums for region in still_open):
            waiting = [x for x in waiting if x != options._replace(expand=True)]
    return graph


def _change(form: NormalForm, region: Region, options: Options) -> Change:
    shown = list({x.polynomial.key: x for x in region.operands}.values())
    texts = [form.algebra.text(operand.polynomial) for operand in shown[:3]]
    more = max(0, len(shown) - 3)
    return Change(region.before, region.after, options.expand, texts, more)


def _rebuilt(graph: Graph, form: NormalForm, regions: list[Region]) -> Graph:
    """Writes the program again, with its regions in their styles."""
    region_of = {node: region for region in regions for node in region.nodes}
    new = Graph(value.aval for value in graph.inputs)
    leaves: dict[int, Value] = {}
    writers: dict[Style | None, Writer] = {}
    number_of = {
        one.what.value: number
        for number, one in enumerate(form.algebra.indeterminates)
        if isinstance(one.what, Leaf)
    }
    # The values that are kept as they were written.
    kept: dict[Value, Value] = dict(zip(graph.inputs, new.inputs))

    def writer(style: Style | None) -> Writer:
        if style not in writers:
            plain = Style("flat", divide=True, chain=True)
            expected = [
                operand.polynomial
                for region in regions
                if region.style == style is not None
                for operand in region.operands
            ]
            writers[style] = Writer(new, form.algebra, leaves, style or plain, expected)
        return writers[style]

    def define(value: Value, leaf: Value) -> None:
        if value in number_of:
            leaves[number_of[value]] = leaf

    def keep(value: Value, same: Value) -> Value:
        kept[value] = same
        define(value, same)
        return same

    def rebuilt(value: Value) -> Value:
        if value in kept:
            return kept[value]
        if value.constant:
            return keep(value, new.constant(value.aval, value.constant[0]))
        assert value.node is not None
        region = region_of.get(value.node)
        style = None if region is None else region.style
        return writer(style).exact(form.operand(value))

    def rebuilt_operand(operand: Operand) -> Value:
        if operand.passed:
            return writer(None).exact(operand)
        return rebuilt(operand.value)

    for value in number_of:
        if value in kept or value.constant:
            keep(value, rebuilt(value))
    for node in form.nodes:
        region = region_of.get(node)
        if region is None:
            if node in form.operands:  # Other nodes repeat an earlier one.
                inputs = [rebuilt_operand(operand) for operand in form.operands[node]]
                outs = apply_exact(new, node.operation, inputs)
                for value, out in zip(node.outputs, outs):
                    define(value, out)
        elif region.style is None:
            inputs = [rebuilt(value) for value in node.inputs]
            [out] = apply_exact(new, node.operation, inputs)
            keep(node.outputs[0], out)
        elif node in form.parts:
            define(node.outputs[0], writer(region.style).exact(form.parts[node]))
    new.outputs = [rebuilt_operand(operand) for operand in form.outputs]
    return new
