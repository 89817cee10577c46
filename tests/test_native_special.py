"""Solves by machine code at special points: lanes that end early, powers of zero, random
numbers, loops and devices; against closed forms."""

import functools as ft
import threading

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax.sharding import Mesh, PartitionSpec

from eqx_taylor import NativeAdjoint, TaylorController, TaylorSolver


pytest.importorskip("llvmlite")
pytestmark = pytest.mark.filterwarnings("error:NativeAdjoint")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Of machine code: not that of the user."""
    monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def solve(field, y0, t1, args=None, *, t0=0.0, order=16, tol=1e-13, **kw):
    kw.setdefault("max_steps", 256)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field), TaylorSolver(order=order), t0, t1, None, y0, args,
        stepsize_controller=TaylorController(rtol=tol, atol=tol),
        adjoint=NativeAdjoint(), **kw,
    )  # fmt: skip


@pytest.mark.parametrize(
    "dtype, order, tol", [("float64", 16, 1e-10), ("float32", 7, 1e-5)]
)
def test_lanes_that_end_early_keep_their_states(dtype, order, tol):
    """y' = (end - t)^2.5, whose series at the end has no finite third derivative: while
    the other lanes go on, this one's series is not finite. The first lane makes no step,
    and the last one fails."""

    def run(end, t1):
        found = solve(
            lambda t, y, end: (end - t) ** 2.5 + 0 * y, jnp.ones(3, dtype), t1, end,
            t0=jnp.zeros((), dtype), order=order, tol=tol, throw=False, max_steps=60,
        )  # fmt: skip
        return (
            found.ys[0, 2],
            found.result == diffrax.RESULTS.successful,
            found.stats["num_steps"],
        )

    ends = jnp.array([3.0, 1.0, 2.0, 300.0, 1.0], dtype)
    t1 = jnp.array([0.0, 1.0, 2.0, 299.99, 2.0], dtype)
    y1, good, steps = jax.jit(jax.vmap(run))(ends, t1)
    np.testing.assert_array_equal(good, [True] * 4 + [False])
    assert steps[3] > steps[1] > 0 and steps[0] == 0
    e, t = np.asarray(ends[:4], float), np.asarray(t1[:4], float)
    exact = 1 + (e**3.5 - (e - t) ** 3.5) / 3.5
    np.testing.assert_allclose(y1[:4], exact, rtol=100 * tol)
    # What failed has the state before the point, as a solve alone has.
    alone, _, _ = jax.jit(run)(ends[4], t1[4])
    assert_close(y1[4], alone, ulps=20)
    assert abs(float(alone) - (1 + 1 / 3.5)) < 100 * tol


@pytest.mark.parametrize("exponent", [65, 70.0, 200, 3])
def test_powers_of_zero(exponent):
    """y' = 1 + a t^n, from t = 0, where the recurrence of powers would divide by 0."""

    def run(factor):
        return solve(lambda t, y, a: 1 + a * t**exponent + 0 * y, 0.0, 1.0, factor).ys[
            0
        ]

    found = jax.jit(run)(jnp.array(0.5))
    assert abs(found - (1 + 0.5 / (exponent + 1))) < 1e-12


def test_random_numbers_in_a_field():
    def field(t, y, args):
        a, b = jax.random.split(jax.random.key(7))
        rates = jnp.stack([jax.random.uniform(a), jax.random.normal(b)])
        return -rates * y

    a, b = jax.random.split(jax.random.key(7))
    rates = np.array([jax.random.uniform(a), jax.random.normal(b)])
    found = jax.jit(lambda y: solve(field, y, 1.0).ys[0])(jnp.ones(2))
    assert_close(found, np.exp(-rates), ulps=50)


def test_loops_whose_numbers_are_known_are_run_by_jax():
    """Neither the number of passes nor what is in them becomes a part of the program:
    here more passes than a program has operations."""

    def field(t, y, args):
        half = jax.lax.fori_loop(0, 10**6, lambda i, x: x * 0.5 + 0.25, 1.0)
        eighth = jax.lax.while_loop(lambda x: x > 0.2, lambda x: x * 0.5, 1.0)
        return -half * eighth * y

    found = jax.jit(lambda y: solve(field, y, 1.0).ys[0])(jnp.array(1.0))
    assert_close(found, np.exp(-1 / 16), ulps=50)


INPUTS = {
    "the state": lambda x: (x, 1.0, None),
    "the arguments": lambda x: (jnp.array(1.0), 1.0, x),
    "the end": lambda x: (jnp.array(1.0), x, None),
}


@pytest.mark.parametrize("name", INPUTS)
def test_whatever_varies_inside_of_a_shard_map(name):
    """It is said (and may be refused by Diffrax's own loop); without a check of what
    varies machine code solves."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))

    def run(x):
        y0, t1, args = INPUTS[name](x[0])
        decay = lambda t, y, a: -y if a is None else -a * y  # noqa: E731
        return solve(decay, y0, t1, args, order=3, tol=1e-2, max_steps=8).ys

    divided = PartitionSpec("i")
    mapped = lambda **kw: jax.shard_map(  # noqa: E731
        run, mesh=mesh, in_specs=divided, out_specs=divided, **kw
    )
    with pytest.raises(UserWarning, match="NativeAdjoint: the solve is inside of a"):
        jax.eval_shape(mapped(), jnp.array([0.5]))
    if name == "the end":
        found = jax.jit(mapped(check_vma=False))(jnp.array([0.5]))
        assert abs(found[0] - np.exp(-0.5)) < 0.01


def test_threads_share_one_compiler(monkeypatch):
    """With two, XLA would be given two functions of the same name."""
    from eqx_taylor._native import engine

    monkeypatch.setattr(engine, "_machine", ft.lru_cache(engine.Machine))
    found, together = [], threading.Barrier(8)

    def run():
        together.wait()
        found.append(engine.machine())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_no_step_is_made_where_none_is_allowed():
    with pytest.raises(UserWarning, match="NativeAdjoint: `max_steps` is 0"):
        solve(lambda t, y, a: -y, 1.0, 1.0, max_steps=0, throw=False)
