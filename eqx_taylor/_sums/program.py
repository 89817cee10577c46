"""Reads a program once for all directions, and computes what is needed of its
values."""

from collections.abc import Callable, Sequence

from .._core.jax import (
    at_place,
    close,
    current_place,
    inside_call,
    is_literal,
    live_equations,
    located,
)
from .._core.primitives import callee, CALLS
from .._core.protocols import Jaxpr, JaxprEqn
from .equation import Equation
from .values import known, Node, Sums, Value


# Readers for primitives with programs inside, if their inputs depend on the direction.
# They return `None` for equations that they cannot read.
READERS: dict[str, Callable[[JaxprEqn, list[Value]], Node | None]] = {}


def read(jaxpr: Jaxpr, inputs: Sequence[Value], program: list[Node]) -> list[Value]:
    """Appends the equations of a jaxpr to a program, and returns the values of its
    outputs."""
    inner = jaxpr.jaxpr
    env = dict(zip(inner.constvars, map(known, jaxpr.consts)))
    env.update(zip(inner.invars, inputs))

    def value_of(atom) -> Value:
        return known(atom.val) if is_literal(atom) else env[atom]

    for eqn in live_equations(jaxpr):
        operands = [value_of(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        moves = any(value.moves for value in operands)
        with located(eqn):
            if moves and name in CALLS and CALLS[name].is_transparent:
                inlined = close(callee(eqn))
                with inside_call(eqn):
                    results = read(inlined, operands, program)
            else:
                reader = READERS.get(name) if moves else None
                node = None if reader is None else reader(eqn, operands)
                program.append(Equation(eqn, operands) if node is None else node)
                program[-1].place = current_place()
                results = program[-1].outputs
        env.update(zip(eqn.outvars, results))
    return [value_of(atom) for atom in inner.outvars]


def demand(program: Sequence[Node]) -> None:
    """Sets what is needed of each value, from what is needed of the results."""
    for node in reversed(program):
        if _is_wanted(node):
            node.demand()


def run(program: Sequence[Node], sums: Sums) -> None:
    for node in program:
        if _is_wanted(node):
            with at_place(node.place):
                node.run(sums)


def _is_wanted(node: Node) -> bool:
    return bool(node.eqn.effects) or any(output.wanted for output in node.outputs)
