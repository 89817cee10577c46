"""Conversion of jaxprs to graphs, and back."""

import contextlib
import itertools as it
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..._core.jax import (
    as_weak_as,
    bind,
    close,
    is_literal,
    located,
    trace,
    without_dead_code,
    without_references,
)
from ..._core.protocols import Jaxpr, JaxprEqn
from .bodies import with_bodies
from .graph import Graph, Node, Operation, Path, Value


# A function that adds an operation to a graph.
Apply = Callable[[Graph, Operation, Sequence[Value], Path], Sequence[Value]]


def read(jaxpr: Jaxpr, apply: Apply, body: Callable[[Jaxpr], Jaxpr]) -> Graph:
    """Reads a closed jaxpr as a graph. Calls of `jit` become a part of the graph. The
    jaxprs in loops and branches do not; `body` is applied to these."""
    jaxpr = without_dead_code(without_references(jaxpr))
    graph = Graph(var.aval for var in jaxpr.jaxpr.invars)
    bodies: dict[int, tuple[Jaxpr, Jaxpr]] = {}

    def replaced(inner: Jaxpr) -> Jaxpr:
        # The old one is kept alive, as its id is a key.
        if id(inner) not in bodies:
            bodies[id(inner)] = (body(inner), inner)
        return bodies[id(inner)][0]

    def walk(jaxpr: Jaxpr, inputs: Sequence[Value], path: Path) -> list[Value]:
        inner = jaxpr.jaxpr
        env: dict[Any, Value] = dict(zip(inner.invars, inputs))
        for var, value in zip(inner.constvars, jaxpr.consts):
            env[var] = graph.constant(var.aval, value)

        def value_of(atom: Any) -> Value:
            if is_literal(atom):
                return graph.constant(atom.aval, atom.val)
            return env[atom]

        for eqn in inner.eqns:
            values = [value_of(atom) for atom in eqn.invars]
            if is_plain_call(eqn):
                called = close(eqn.params["jaxpr"])
                outs = walk(without_references(called), values, (*path, eqn))
            else:
                numbers = [value.number for value in values]
                new, same = with_bodies(eqn, numbers, replaced)
                found = apply(graph, Operation(new), values, path)
                outs = [found[first] for first in same]
            env.update(zip(eqn.outvars, outs))
        return [value_of(atom) for atom in inner.outvars]

    graph.outputs = walk(jaxpr, graph.inputs, ())
    return graph


def is_plain_call(eqn: JaxprEqn) -> bool:
    """Returns whether an equation is a `jit` without further options."""
    if eqn.primitive.name not in ("jit", "pjit"):
        return False
    params = eqn.params
    return (
        not any(params["donated_invars"])
        and not params["compiler_options_kvs"]
        and all(layout is None for layout in params["in_layouts"])
        and all(layout is None for layout in params["out_layouts"])
        and all(
            type(sharding).__name__ == "UnspecifiedValue"
            for sharding in (*params["in_shardings"], *params["out_shardings"])
        )
    )


def write(graph: Graph, like: Jaxpr) -> Jaxpr:
    """Writes the program as a closed jaxpr, whose outputs have the types of
    `like`'s."""
    nodes = graph.live()
    users: dict[Value, list[Node | None]] = {}
    for node in nodes:
        for value in node.inputs:
            users.setdefault(value, []).append(node)
    for value in graph.outputs:
        users.setdefault(value, []).append(None)

    def run(nodes: Sequence[Node], env: dict[Value, Any], depth: int) -> None:
        def call_of(node):
            return node.path[depth] if len(node.path) > depth else None

        for call, members in it.groupby(nodes, call_of):
            group = list(members)
            if call is None:
                for node in group:
                    eqn = node.operation.eqn
                    with located(eqn):
                        outs = bind(eqn, [read_value(env, x) for x in node.inputs])
                    env.update(zip(node.outputs, outs))
            elif len(group) == 1:
                # It is compiled by itself in any case.
                with contextlib.ExitStack() as stack:
                    for call in group[0].path[depth:]:
                        stack.enter_context(located(call))
                    run(group, env, len(group[0].path))
            else:
                run_call(call, group, env, depth)

    def run_call(call, group, env, depth):
        inside = {value for node in group for value in node.outputs}
        members = set(group)
        ins = {x: None for node in group for x in node.inputs}
        ins = [x for x in ins if x not in inside and not x.constant]
        outs = [
            x
            for node in group
            for x in node.outputs
            if any(user not in members for user in users.get(x, []))
        ]

        def called(*arrays):
            local = dict(zip(ins, arrays))
            run(group, local, depth + 1)
            return [local[x] for x in outs]

        called.__name__ = called.__qualname__ = call.params["name"]
        with located(call):
            results = jax.jit(called)(*[read_value(env, x) for x in ins])
        env.update(zip(outs, results))

    def program(*arrays):
        env = dict(zip(graph.inputs, arrays))
        run(nodes, env, 0)
        return [
            as_weak_as(aval, read_value(env, value))
            for value, aval in zip(graph.outputs, like.out_avals)
        ]

    return without_dead_code(trace(program, *[x.aval for x in graph.inputs]))


def read_value(env: dict[Value, Any], value: Value) -> Any:
    return value.constant[0] if value.constant else env[value]
