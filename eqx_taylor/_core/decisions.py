"""Decisions of a program between two sides, at kinks and at jumps.

The coefficients of the solution of an ODE must be those of the side into which it goes.
So every decision in its field is made slightly ahead of the point of expansion, while
all values are those at the point itself. This file finds the equations that decide.
"""

from collections.abc import Hashable, Sequence

import jax.numpy as jnp
import jax.tree_util as jtu

from .jax import (
    can_move,
    close,
    is_differentiable,
    is_jaxpr,
    is_literal,
    linear_solve_params,
    live_equations,
    without_pruning,
)
from .protocols import Jaxpr, JaxprEqn
from .rule import RULES, target_key


# Primitives of floating-point values that are constant between jumps.
STEPS: set[str] = {"ceil", "floor", "round", "sign"}
# Primitives with a kink that have no rule to declare it.
_KINKS = {"scatter-max", "scatter-min"}
# Primitives that return integers or booleans, but concern the value itself: whether it
# is finite, and its bits, which may be converted back.
_OF_THE_VALUE = {"bitcast_convert_type", "is_finite"}
# Primitives in whose jaxprs decisions are made at the point, as by JAX: see
# `docs/mathematics.md`.
_UNREAD = {"linear_solve", "pallas_call", "shard_map", "vprim", "while"}


def is_step(eqn: JaxprEqn) -> bool:
    """Returns whether the results of an equation of floating-point values are constant
    between jumps: integers, booleans, or rounded values."""
    name = eqn.primitive.name
    if eqn.effects or name in _OF_THE_VALUE:
        return False
    if name == "ne" and eqn.invars[0] is eqn.invars[1]:
        return False  # `isnan`
    if name in STEPS:
        return _is_real(eqn)
    return not can_move(eqn)


def is_kink(eqn: JaxprEqn) -> bool:
    """Returns whether the slope of an equation, or its choice of entries, changes at
    some point."""
    key: Hashable = eqn.primitive.name
    if key == "custom_jvp_call":
        key = target_key(without_pruning(eqn)[0])
    return has_kink(key) and can_move(eqn) and (key != "abs" or _is_real(eqn))


def has_kink(key: Hashable) -> bool:
    """Returns whether the target with this key is declared to have a kink."""
    rule = RULES.get(key)
    return key in _KINKS if rule is None else rule.is_kink


def _is_real(eqn: JaxprEqn) -> bool:
    return not jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.complexfloating)


def is_alarm(eqn: JaxprEqn) -> bool:
    """Returns whether an equation reports the values of its operands, even if these are
    booleans: a print, a callback, or a check that raises an error."""
    return bool(eqn.effects) or _has_callback(eqn)


def _has_callback(eqn: JaxprEqn) -> bool:
    if eqn.primitive.name.endswith("callback"):
        return True
    return any(
        _has_callback(inner) for body in _bodies(eqn) for inner in body.jaxpr.eqns
    )


class Found:
    """The kinds of decisions in a program: `steps` and `kinks`. It is false if there
    are none."""

    def __init__(self):
        self.steps: bool = False
        self.kinks: bool = False

    def __bool__(self) -> bool:
        return self.steps or self.kinks


def decisions(jaxpr: Jaxpr, moving: Sequence[bool] | None = None) -> Found:
    """Finds the decisions in a closed jaxpr that depend on differentiated values. All
    inputs with a derivative are differentiated, unless `moving` says otherwise."""
    found = Found()
    if moving is None:
        moving = _all_that_can_move(jaxpr)
    _look(close(jaxpr), moving, False, found)
    return found


def _look(jaxpr, moving, values_only: bool, found: Found) -> list[bool]:
    """Goes through a jaxpr, and returns which of its outputs depend on the inputs that
    are `moving`."""
    env = dict(zip(jaxpr.jaxpr.invars, moving))

    def moves(atom) -> bool:
        return not is_literal(atom) and env.get(atom, False)

    equations = live_equations(jaxpr)
    of_value = _values_only(jaxpr, equations)
    for number, eqn in enumerate(equations):
        inputs = [moves(atom) for atom in eqn.invars]
        moves_out = any(inputs) and not is_step(eqn)
        for var in eqn.outvars:
            env[var] = moves_out and is_differentiable(var.aval)
        if not any(inputs):
            continue
        is_value = values_only or number in of_value
        bodies = _bodies(eqn)
        found.steps |= is_step(eqn)
        found.kinks |= is_kink(eqn) and not is_value
        if eqn.primitive.name in _UNREAD:
            continue
        # A function with a rule is read by its rule, not by its program.
        if eqn.primitive.name == "custom_jvp_call":
            if target_key(without_pruning(eqn)[0]) in RULES:
                continue
        for body in bodies:
            inner = inputs[len(inputs) - len(body.jaxpr.invars) :]
            if len(inner) != len(body.jaxpr.invars) or eqn.primitive.name == "scan":
                inner = _all_that_can_move(body)
            _look(body, inner, is_value, found)
    return [moves(atom) for atom in jaxpr.jaxpr.outvars]


def _all_that_can_move(jaxpr: Jaxpr) -> list[bool]:
    return [is_differentiable(var.aval) for var in jaxpr.jaxpr.invars]


def _bodies(eqn: JaxprEqn) -> list[Jaxpr]:
    if eqn.primitive.name == "custom_linear_solve":
        return [linear_solve_params(eqn).matvec]
    leaves = jtu.tree_leaves(eqn.params, is_leaf=is_jaxpr)
    return [close(leaf) for leaf in leaves if is_jaxpr(leaf)]


def _values_only(jaxpr: Jaxpr, equations: Sequence[JaxprEqn]) -> set[int]:
    """Finds the equations of which only the value matters: the maximum that a softmax
    subtracts, and the absolute value in a logarithm, which has no series at the kink in
    any case. Returns their numbers."""
    wanted = {var for var in jaxpr.jaxpr.outvars if not is_literal(var)}
    absolute = {e.outvars[0] for e in equations if e.primitive.name == "abs"}
    of_value = set()
    for number, eqn in reversed(list(enumerate(equations))):
        if not eqn.effects and not any(var in wanted for var in eqn.outvars):
            of_value.add(number)
        elif eqn.primitive.name != "stop_gradient":
            spared = absolute if eqn.primitive.name == "log" else set()
            operands = {var for var in eqn.invars if not is_literal(var)}
            wanted |= operands - spared
    return of_value
