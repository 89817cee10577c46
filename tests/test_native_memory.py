"""Solves by machine code for which there is no memory."""

import diffrax
import jax
import jax.numpy as jnp
import pytest

from eqx_taylor import NativeAdjoint, TaylorController, TaylorSolver


pytest.importorskip("llvmlite")


@pytest.mark.parametrize("lanes", [1, 20])
@pytest.mark.parametrize("of_parameters", [True, False])
def test_memory_that_there_is_not(monkeypatch, tmp_path, lanes, of_parameters):
    """That of the parameters, which all solves share, or that of each thread."""
    from eqx_taylor._native import handler

    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(tmp_path))
    aligned, asked = handler._aligned, []

    def too_much(b, module, size):
        asked.append(size)
        # The handler is written behind the function of a thread.
        is_too_much = len(asked) % 2 == (0 if of_parameters else 1)
        return aligned(b, module, 2**62 if is_too_much else size)

    monkeypatch.setattr(handler, "_aligned", too_much)
    # Machine code of another name than in other cases.
    rate = 1 + lanes / 8 + of_parameters

    @jax.jit
    @jax.vmap
    def run(y0):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: -rate * y),
            TaylorSolver(order=8),
            0.0,
            1.0,
            None,
            y0,
            stepsize_controller=TaylorController(rtol=1e-6, atol=1e-6),
            adjoint=NativeAdjoint(),
        ).ys

    with pytest.raises(Exception, match="NativeAdjoint: there are no .* of memory"):
        jax.block_until_ready(run(jnp.ones(lanes)))
    assert asked and len(asked) % 2 == 0
