"""Keys by which equations, or jaxprs, that are the same computation are found."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
from jax.core import ShapedArray, Tracer

from .jax import custom_jvp_rule, is_jaxpr, is_literal, known_size


def equation_key(eqn: Any, inputs: Sequence[Any]) -> Hashable:
    """Returns the key of an equation for these input objects. It contains ids of
    objects that the equation and the inputs hold: keep these alive as long as the
    key."""
    return (eqn.primitive, params_key(eqn), tuple(map(id, inputs)))


def params_key(eqn: Any) -> Hashable:
    """Returns the key of an equation's parameters, regardless of its inputs."""
    if eqn.primitive.name == "custom_jvp_call":
        # The function is traced anew at every call, so its content is compared.
        rule = tuple(map(_value_key, custom_jvp_rule(eqn)))
        return (rule, jaxpr_key(eqn.params["call_jaxpr"]))
    items = dict(sorted(eqn.params.items()))
    if "flatten" in items and _is_flatten(items["flatten"]):
        # Equinox's primitives keep arguments that are not arrays in `static`. Jaxprs
        # among these are open, and the values that they close over are operands. If JAX
        # has one class for open and closed jaxprs, they also hold these values, as
        # tracers that are new in every trace.
        items["static"] = tuple(
            jaxpr_key(x, tracers=False) if is_jaxpr(x) else _value_key(x)
            for x in items["static"]
        )
    return (*items, *map(_value_key, items.values()))


def _value_key(value: Any) -> Hashable:
    if is_jaxpr(value):
        return jaxpr_key(value)
    if _is_flatten(value):
        # Equinox's primitives carry one, new in every call, to restore PyTrees. Its
        # content follows from the other parameters.
        return "Flatten"
    leaves, treedef = jtu.tree_flatten(value)
    if not jtu.treedef_is_leaf(treedef):
        # For example a closure that was converted to a PyTree, with jaxprs as leaves.
        value = (treedef, *map(_value_key, leaves))
    try:
        hash(value)
    except TypeError:
        return ("id", id(value))
    # 2 == 2.0 == True: equal values of different types are different parameters.
    return (type(value), value)


def _is_flatten(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "Flatten" and kind.__module__.startswith("equinox.")


def constant_key(aval: Any, value: Any) -> Hashable:
    """Returns the key of a constant. It is the content of scalars and small arrays,
    which every trace of a function makes anew, and the identity of others."""
    # PRNG keys and mutable references are among these others.
    is_number = isinstance(aval, ShapedArray) and isinstance(aval.dtype, np.dtype)
    if isinstance(value, Tracer) or not is_number or known_size(aval) > 16:
        return ("id", id(value))
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return ("id", id(value))
    # As bytes -0.0 and 0.0 differ, and a NaN equals itself.
    return ("constant", str(aval), np.asarray(value).tobytes())


def jaxpr_key(jaxpr: Any, tracers: bool = True) -> Hashable:
    """Returns the key of a jaxpr, which is equal for jaxprs that differ only in the
    names of their variables. Without `tracers`, tracers among the constants are
    ignored."""
    numbers: dict[Any, int] = {}

    def number(atom) -> Hashable:
        if is_literal(atom):
            return constant_key(atom.aval, atom.val)
        return numbers.setdefault(atom, len(numbers))

    inner = getattr(jaxpr, "jaxpr", jaxpr)  # It may be open.
    consts = getattr(jaxpr, "consts", ())
    head = [(number(var), str(var.aval)) for var in [*inner.constvars, *inner.invars]]
    body = []
    for eqn in inner.eqns:
        ins = tuple(number(atom) for atom in eqn.invars)
        outs = tuple((number(var), str(var.aval)) for var in eqn.outvars)
        body.append((eqn.primitive, params_key(eqn), ins, outs))
    tail = tuple(number(atom) for atom in inner.outvars)
    held = tuple(
        constant_key(v.aval, c)
        for v, c in zip(inner.constvars, consts)
        if tracers or not isinstance(c, Tracer)
    )
    return (tuple(head), held, tuple(body), tail)
