"""A program as a graph of values, in which no computation stands twice.

A jaxpr is read into a `Graph` and written from it. Equations are those of JAX, kept as
they were found: applying one to other values is `_jax.bind`, whatever its parameters
are called in this version. An equation that is new here is traced from a call of
`jax.lax`.
"""

import functools as ft
import itertools as it
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from .._jax import (
    as_weak_as,
    bind,
    close,
    is_jaxpr,
    is_literal,
    number_like,
    trace,
    with_body,
    without_dead_code,
    without_references,
)
from .._memo import constant_key, params_key


Jaxpr = Any
JaxprEqn = Any
# The calls that an equation was found in, the outermost first.
Path = tuple[JaxprEqn, ...]


class Value:
    """A number has a place in the order in which the graph met its values."""

    __slots__ = ("aval", "number", "node", "constant")

    def __init__(self, aval: Any, number: int, node: "Node | None" = None):
        self.aval = aval
        self.number = number
        self.node = node
        # A tuple of it, where the value is known.
        self.constant: tuple[()] | tuple[Any] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype


class Node:
    """An equation on values."""

    __slots__ = ("eqn", "inputs", "outputs", "path")

    def __init__(self, eqn: JaxprEqn, inputs: Sequence[Value], path: Path):
        self.eqn = eqn
        self.inputs = tuple(inputs)
        self.outputs: tuple[Value, ...] = ()
        self.path = path

    @property
    def name(self) -> str:
        return self.eqn.primitive.name


class TooLarge(Exception):
    """A program or polynomial is longer than is worth its while, or a coefficient is
    larger than numbers are."""


# Sums and products of two floating-point numbers are the same either way; of complex
# ones a product is not, where a compiler contracts `ad + bc` to a fused operation.
# Which of two zeros `max` returns is not said.
_COMMUTATIVE = frozenset("add and eq max min mul ne or xor".split())
_SAME = {"add_any": "add"}
_MIRRORED = {"gt": "lt", "ge": "le"}

# Not to be merged: the first is made to keep computations apart, the second returns
# other numbers at every call.
_DISTINCT = frozenset(["optimization_barrier", "rng_uniform"])


def _name(eqn: JaxprEqn) -> str:
    name: str = eqn.primitive.name
    return _SAME.get(name, name)


def operation(eqn: JaxprEqn) -> Hashable:
    """What an equation does with its inputs, whatever these are."""
    name = _name(eqn)
    return (_MIRRORED.get(name, name), params_key(eqn), eqn.ctx)


def arranged(eqn: JaxprEqn, inputs: Sequence[int]) -> tuple[int, ...]:
    """The numbers of the inputs, in one order for all ways of writing the same."""
    name = _name(eqn)
    if name in _MIRRORED:
        return tuple(inputs[::-1])
    if name in _COMMUTATIVE:
        dtype = eqn.invars[0].aval.dtype
        ordered = name in ("max", "min") and jnp.issubdtype(dtype, jnp.inexact)
        ordered |= name == "mul" and jnp.issubdtype(dtype, jnp.complexfloating)
        if not ordered:
            return tuple(sorted(inputs))
    return tuple(inputs)


def is_mergeable(eqn: JaxprEqn) -> bool:
    """Whether the same inputs give the same outputs, and nothing happens besides."""
    return (
        not eqn.effects
        and eqn.primitive.name not in _DISTINCT
        and all(isinstance(var.aval, ShapedArray) for var in eqn.outvars)
    )


class Graph:
    """A program under construction: what is added twice is there once."""

    def __init__(self, avals: Iterable[Any], at_most: int | float = math.inf):
        # Of nodes: for programs that are of interest only if they are short.
        self.at_most = at_most
        self._numbers = it.count()
        self._memo: dict[Hashable, tuple[Value, ...]] = {}
        # Keys have the ids of what is held here.
        self._held: list[Any] = []
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        for aval in avals:
            self.input(aval)

    def input(self, aval: Any) -> Value:
        self.inputs.append(Value(aval, next(self._numbers)))
        return self.inputs[-1]

    def constant(self, aval: Any, value: Any) -> Value:
        key = (constant_key(aval, value), getattr(aval, "weak_type", False))
        if key not in self._memo:
            found = Value(aval, next(self._numbers))
            found.constant = (value,)
            self._memo[key] = (found,)
            self._held.append(value)
        return self._memo[key][0]

    def number(self, value: Any, dtype: Any, weak: bool = True) -> Value:
        """A constant without axes. If it is weak the other operand has its way."""
        value = np.asarray(value, dtype)
        key = (value.dtype, value.tobytes(), weak)
        if key not in self._memo:
            aval = ShapedArray((), value.dtype, weak_type=weak)
            self._memo[key] = (self.constant(aval, number_like(aval, value)),)
        return self._memo[key][0]

    def apply(
        self,
        eqn: JaxprEqn,
        inputs: Sequence[Value],
        path: Path = (),
        known: Hashable = None,
    ) -> tuple[Value, ...]:
        """The outputs of an equation on these inputs; `known` is its `operation`."""
        key = None
        if known is not None or is_mergeable(eqn):
            numbers = arranged(eqn, [value.number for value in inputs])
            key = (operation(eqn) if known is None else known, numbers)
            if key in self._memo:
                return self._memo[key]
        if len(self.nodes) >= self.at_most:
            raise TooLarge
        node = Node(eqn, inputs, path)
        node.outputs = tuple(
            Value(var.aval, next(self._numbers), node) for var in eqn.outvars
        )
        self.nodes.append(node)
        if key is not None:
            self._held.append(eqn)
            self._memo[key] = node.outputs
        return node.outputs

    def call(self, fun: Callable, *inputs: Value, **params: Any) -> Value:
        """The value of a function of `jax.lax` that is one equation."""
        avals = tuple((value.shape, value.dtype) for value in inputs)
        eqn, known = _known_equation(fun, avals, tuple(params.items()), _mesh())
        return self.apply(eqn, inputs, known=known)[0]

    def live(self) -> list[Node]:
        """The nodes that the outputs or an effect depend on, in order."""
        wanted = set(self.outputs)
        found = []
        for node in reversed(self.nodes):
            if node.eqn.effects or not wanted.isdisjoint(node.outputs):
                wanted.update(node.inputs)
                found.append(node)
        return found[::-1]


def equation(fun: Callable, avals: Sequence[tuple[Any, Any]], **params) -> JaxprEqn:
    """That of a function of `jax.lax`, for operands of these shapes and dtypes."""
    return _known_equation(fun, tuple(avals), tuple(params.items()), _mesh())[0]


# Equations have the mesh that they were traced with.
_mesh = jax.sharding.get_abstract_mesh


@ft.lru_cache(maxsize=4096)
def _known_equation(fun, avals, params, mesh) -> tuple[JaxprEqn, Hashable]:
    types = [jax.ShapeDtypeStruct(*aval) for aval in avals]
    [eqn] = trace(lambda *args: [fun(*args, **dict(params))], *types).jaxpr.eqns
    return eqn, operation(eqn)


# -- from jaxprs

# How an equation is added to a graph.
Apply = Callable[[Graph, JaxprEqn, Sequence[Value], Path], Sequence[Value]]


def read(jaxpr: Jaxpr, apply: Apply, body: Callable[[Jaxpr], Jaxpr]) -> Graph:
    """The graph of a closed jaxpr. Calls of `jit` become a part of it; the jaxprs in
    loops and branches, which do not, are replaced by what `body` makes of them."""
    jaxpr = without_dead_code(without_references(jaxpr))
    graph = Graph(var.aval for var in jaxpr.jaxpr.invars)
    bodies: dict[int, tuple[Jaxpr, Jaxpr]] = {}

    def replaced(inner: Jaxpr) -> Jaxpr:
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
                outs = apply(graph, with_bodies(eqn, replaced), values, path)
            env.update(zip(eqn.outvars, outs))
        return [value_of(atom) for atom in inner.outvars]

    graph.outputs = walk(jaxpr, graph.inputs, ())
    return graph


def is_plain_call(eqn: JaxprEqn) -> bool:
    """A `jit` that asks for nothing but compilation."""
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


# Where an equation keeps the programs that it runs. What a checkpoint or a custom rule
# guards is simplified in its place, and shared with nothing outside: to compute it
# again is what the one is for, and the other belongs to the function as a whole.
_BODIES = {
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
    "jit": ("jaxpr",),
    "pjit": ("jaxpr",),
    "remat2": ("jaxpr",),
    "checkpoint": ("jaxpr",),
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
}


def with_bodies(eqn: JaxprEqn, replaced: Callable[[Jaxpr], Jaxpr]) -> JaxprEqn:
    new = {}
    for name in _BODIES.get(eqn.primitive.name, ()):
        old = eqn.params.get(name)
        if is_jaxpr(old):
            new[name] = with_body(old, replaced)
        elif isinstance(old, tuple):
            new[name] = tuple(with_body(jaxpr, replaced) for jaxpr in old)
    return eqn.replace(params={**eqn.params, **new}) if new else eqn


# -- to jaxprs


def write(graph: Graph, like: Jaxpr) -> Jaxpr:
    """The program as a closed jaxpr, with outputs of the types that `like` has."""
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
                    outs = bind(node.eqn, [read_value(env, x) for x in node.inputs])
                    env.update(zip(node.outputs, outs))
            elif len(group) == 1:
                # Compiled alone in any case.
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
