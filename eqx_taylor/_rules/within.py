"""Rules for functions whose `custom_jvp` in JAX is not accurate at higher orders: where
such a function saturates, its derivatives cancel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._core.jax import close, trace
from .._core.primitives import callee, CALLS
from .._core.rule import Read, Rule, RULES, target_key


def register_within(fun: Callable[..., Any], operands: int = 1) -> Callable:
    """Registers a rule for the function with a `custom_jvp` that `fun` calls, directly
    or under `jax.jit`. If this version of JAX has none there, it registers nothing."""

    def decorator(read: Read) -> Read:
        number = jax.ShapeDtypeStruct((), jnp.float32)
        closed = trace(lambda *args: [fun(*args)], *[number] * operands)
        equations = list(closed.jaxpr.eqns)
        for eqn in equations:
            if eqn.primitive.name == "custom_jvp_call":
                RULES[target_key(eqn)] = Rule(read)
            elif eqn.primitive.name in CALLS:
                equations.extend(close(callee(eqn)).jaxpr.eqns)
        return read

    return decorator
