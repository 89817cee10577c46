"""Keys under which two equations, or two jaxprs, are the same computation."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ._jax import close, custom_jvp_rule, is_jaxpr, is_literal


def equation_key(eqn: Any, inputs: Sequence[Any]) -> Hashable:
    """Of an equation on these very input objects. It is made of the ids of some that
    the equation and the inputs hold: keep these as long as the key."""
    return (eqn.primitive, _params_key(eqn), tuple(map(id, inputs)))


def _params_key(eqn: Any) -> Hashable:
    if eqn.primitive.name == "custom_jvp_call":
        # Traced anew at every call, so that only its content can be compared.
        rule = tuple(map(_value_key, custom_jvp_rule(eqn)))
        return (rule, jaxpr_key(close(eqn.params["call_jaxpr"])))
    items = sorted(eqn.params.items())
    return tuple((name, _value_key(value)) for name, value in items)


def _value_key(value: Any) -> Hashable:
    if is_jaxpr(value):
        return jaxpr_key(close(value))
    kind = type(value)
    if kind.__name__ == "Flatten" and kind.__module__.startswith("equinox."):
        # Equinox's primitives carry one, made anew for every call, to restore PyTrees
        # with; what is in it follows from the other parameters.
        return "Flatten"
    try:
        hash(value)
    except TypeError:
        return ("id", id(value))
    # 2 == 2.0 == True: equal values of different types are different parameters.
    return (type(value), value)


def literal_key(atom: Any) -> Hashable:
    value = np.asarray(atom.val)
    # By bytes: -0.0 and 0.0 differ, and a NaN is itself.
    return ("literal", str(atom.aval), value.tobytes())


def jaxpr_key(jaxpr: Any) -> Hashable:
    """Equal for jaxprs that differ in nothing but the names of their variables."""
    numbers: dict[Any, int] = {}

    def number(atom) -> Hashable:
        if is_literal(atom):
            return literal_key(atom)
        return numbers.setdefault(atom, len(numbers))

    inner = jaxpr.jaxpr
    head = [(number(var), str(var.aval)) for var in [*inner.constvars, *inner.invars]]
    body = []
    for eqn in inner.eqns:
        ins = tuple(number(atom) for atom in eqn.invars)
        outs = tuple((number(var), str(var.aval)) for var in eqn.outvars)
        body.append((eqn.primitive, _params_key(eqn), ins, outs))
    tail = tuple(number(atom) for atom in inner.outvars)
    return (tuple(head), tuple(map(id, jaxpr.consts)), tuple(body), tail)
