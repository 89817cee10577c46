"""Small programs as loops, which XLA compiles to one piece of machine code."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._core.jax import evaluate, joint_axes, trace, vary


def in_small_loop(fun: Callable[[], list[Array]]) -> list[Array]:
    """Calls a function, which returns a list of arrays, in a loop that runs once.

    On CPUs XLA compiles a loop over small arrays to one piece of machine code. Outside
    of loops each operation has its own, which takes longer to compile and to run.
    """
    jaxpr = trace(fun)
    axes = joint_axes(jaxpr.out_avals)

    def carry(is_left, outs):
        return [vary(x, axes) for x in (jnp.array(is_left), *outs)]

    start = carry(True, [jnp.zeros(x.shape, x.dtype) for x in jaxpr.out_avals])
    _, *outs = jax.lax.while_loop(
        lambda loop: loop[0], lambda loop: carry(False, evaluate(jaxpr, [])), start
    )
    return outs
