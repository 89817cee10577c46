import functools as ft
import gc
import math
import weakref

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import programs
import pytest
from helpers import assert_close, assert_same_bits
from jax import lax

from eqx_taylor._core.jax import evaluate
from eqx_taylor.programs import count_primitives, cse, simplify


X = jnp.linspace(0.2, 1.3, 5)


def _total(fun, *args):
    return count_primitives(fun, *args).total


def test_same_bits():
    """Operation by operation: a compiler may contract other products and sums."""

    def fun(x):
        y = jax.jvp(programs.scan_reverse, (x,), (jnp.sin(x),))
        return y, jax.grad(lambda x: jnp.sum(programs.switch(x)))(x), jnp.exp(x) % 0.3

    x = jnp.asarray(programs.X)
    jaxpr = jax.make_jaxpr(fun)(x)
    for rewrite in (cse, ft.partial(simplify, reassociate=False)):
        new = jax.make_jaxpr(rewrite(fun))(x)
        assert _total(rewrite(fun), x) < _total(fun, x)
        with jax.disable_jit():
            assert_same_bits(evaluate(new, [x]), evaluate(jaxpr, [x]))


_TWICE = {
    "either order": (lambda x, y: (x + y, y + x, x * y, y * x), 2),
    "mirrored": (lambda x, y: (x < y, y > x, x <= y, y >= x), 2),
    "not in any order": (lambda x, y: (x - y, y - x, x / y, y / x), 4),
    "which zero is larger": (lambda x, y: (jnp.maximum(x, y), jnp.maximum(y, x)), 2),
    "parameters": (lambda x, y: (x**2, x**3, x**2), 2),
    "signs of zeros": (lambda x, y: (x + 0.0, x + -0.0), 2),
    "NaN is itself": (lambda x, y: (x + jnp.nan, x + jnp.nan), 1),
    "across jit": (lambda x, y: (jnp.sin(x), jax.jit(jnp.sin)(x), jax.jit(lambda y: jnp.sin(x) * y)(y)), 2),
    "dead code": (lambda x, y: [jnp.sin(x), jnp.cos(x), x * y][2], 1),
    "dead code in jit": (lambda x, y: jax.jit(lambda x: (jnp.sin(x), x * y))(x)[1], 1),
    "barriers": (lambda x, y: (lax.optimization_barrier(x), lax.optimization_barrier(x)), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", _TWICE)
def test_what_is_the_same(name):
    fun, count = _TWICE[name]
    x, y = jnp.array([0.3, -0.0]), jnp.array([0.7, 0.0])
    assert _total(cse(fun), x, y) == count
    assert_same_bits(cse(fun)(x, y), fun(x, y))


def test_complex_products_keep_their_order():
    def fun(x, y):
        return x * y, y * x, x + y, y + x

    x = jnp.array(0.3 + 0.1j)
    assert count_primitives(cse(fun), x, x * 1j).counts == {"mul": 2, "add": 1}


def test_random_keys():
    def fun(key):
        a, b = jr.split(key)
        same = jr.normal(a, (2,)), jr.normal(a, (2,)), jr.normal(b, (2,))
        constant = jr.normal(jr.key(1), (2,)), jr.normal(jr.key(2), (2,))
        return same, constant

    key = jr.key(0)
    # Of five calls of each generator, two are one.
    before, after = (count_primitives(f, key).counts for f in (fun, cse(fun)))
    assert (before["random_bits"], after["random_bits"]) == (5, 4)
    assert_same_bits(cse(fun)(key), fun(key))

    def stateful(x):
        draw = ft.partial(lax.rng_uniform, x, x + 1, (2,))
        return draw(), draw()

    assert count_primitives(cse(stateful), 0.0).counts["rng_uniform"] == 2


def test_effects_happen_as_often_and_in_order():
    seen = []

    def fun(x):
        for number in (1, 2, 1):
            jax.debug.callback(
                lambda y, n: seen.append((n, float(y))), x + x, number, ordered=True
            )
        jnp.sin(x)
        return jax.experimental.io_callback(lambda: np.float64(len(seen)), x)

    for rewrite in (cse, simplify):
        seen.clear()
        x = jnp.array(1.0)
        assert jax.jit(rewrite(lambda x: (fun(x), fun(x))))(x) is not None
        jax.effects_barrier()
        assert seen == [(n, 2.0) for n in (1, 2, 1, 1, 2, 1)]
        counts = count_primitives(rewrite(lambda x: (fun(x), fun(x))), x).counts
        assert counts["io_callback"] == 2 and "sin" not in counts


def test_references():
    def fun(x):
        first, second = jax.new_ref(x), jax.new_ref(x)
        first[...] += 1.0
        return first[...], second[...]

    x = jnp.array(0.5)
    for rewrite in (cse, simplify):
        assert_same_bits(rewrite(fun)(x), (x + 1, x))


def test_inside_loops():
    """What is the same, dead or a sum of the same in bodies goes; calls of other loops
    do not."""

    def fun(x):
        def body(carry, _):
            a, b, unused = carry
            a = jnp.sin(b) * x + jnp.sin(b) * x
            return (a, jnp.sin(b) + a, jnp.cos(unused)), jnp.exp(a)

        return lax.scan(body, (x, x, x), None, length=3)[0][:2]

    counts = count_primitives(cse(fun), 0.3).counts
    assert counts == {"scan": 1, "sin": 1, "mul": 1, "add": 2}
    assert count_primitives(simplify(fun), 0.3).counts["scan"] == 1
    x = jnp.array(0.3)
    assert_close(jax.jit(simplify(fun))(x), jax.jit(fun)(x))


def _equal_carries(x):
    def body(carry, y):
        i, j, a, b, unlike = carry
        a, b = jnp.sin(a) * x + y, jnp.sin(b) * x + y
        return (i + 1, j + 1, a, b, unlike + jnp.cos(unlike)), (a * i, b * j)

    return lax.scan(body, (0, 0, x, x, x), jnp.stack([x, x]))


def _carries_that_part(x):
    """In the first turn `a` and `b`, in the second `c` and `d`."""

    def body(carry):
        i, a, b, c, d = carry
        return i + 1, 2.0 * a, a + b + 1.0, a - c, b - d

    return lax.while_loop(lambda carry: carry[0] < 4, body, (0, x, x, x, x))


def _equal_operands(x):
    def first(a, b, c):
        return jnp.sin(a) + jnp.sin(b), jnp.sin(b) + jnp.sin(c), a

    def second(a, b, c):
        return jnp.cos(a) * b, jnp.cos(a) * c, a

    return lax.cond(x > 0, first, second, jnp.exp(x), x, x)


@pytest.mark.parametrize("rewrite", [cse, simplify])
def test_what_programs_are_given_twice(rewrite):
    with jax.numpy_dtype_promotion("standard"):
        for fun in (_equal_carries, _carries_that_part, _equal_operands):
            x = jnp.array(0.3)
            assert_close(jax.jit(rewrite(fun))(x), jax.jit(fun)(x))
        counts = count_primitives(rewrite(_equal_carries), 0.3).counts
        assert (counts["sin"], counts["cos"]) == (1, 1)
        [loop] = [
            eqn
            for eqn in jax.make_jaxpr(rewrite(_equal_carries))(0.3).eqns
            if eqn.primitive.name == "scan"
        ]
        # Three carries, and one array of what all turns return.
        assert len(loop.outvars) == 4
        before, after = (_total(f, 0.3) for f in (_equal_operands, rewrite(_equal_operands)))  # fmt: skip
        assert after <= before - 4


def test_devices():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def body(x):
        y = jnp.sin(x) * jnp.sin(x) + x + x + x
        return lax.psum(y, "i"), y * lax.axis_size("i")

    spec = jax.sharding.PartitionSpec("i")
    for checked in (True, False):
        fun = jax.shard_map(
            body,
            mesh=mesh,
            in_specs=spec,
            out_specs=(jax.sharding.PartitionSpec(), spec),
            check_vma=checked,
        )
        # Arrays that are known to differ are no part of polynomials.
        added = {True: 3, False: 1}[checked]
        counts = count_primitives(simplify(fun), X).counts
        assert (counts["sin"], counts["add"]) == (1, added)
        assert_close(jax.jit(simplify(fun))(X), jax.jit(fun)(X))
        slope = jax.grad(lambda x: jnp.sum(simplify(fun)(x)[0]))
        assert_close(jax.jit(slope)(X), jnp.sin(2.0 * X) + 3.0)


def test_names_are_kept():
    @jax.jit
    def inner(x):
        with jax.named_scope("deep"):
            return jnp.sin(x)

    def fun(x):
        with jax.named_scope("layer"):
            return inner(x) * jnp.exp(x)

    for rewrite in (cse, simplify):
        lowered = jax.jit(rewrite(fun)).lower(X)
        text = lowered.as_text(debug_info=True)
        assert "layer/exp" in text and "deep/sin" in text


def test_calls_stay_calls():
    @jax.jit
    def inner(x):
        return jnp.sin(x) * x + jnp.cos(x)

    def fun(x):
        return inner(x) + jnp.sin(x), inner(x)

    jaxpr = jax.make_jaxpr(cse(fun))(0.3)
    calls = [eqn for eqn in jaxpr.eqns if "jaxpr" in eqn.params]
    assert [call.params["name"] for call in calls] == ["inner"]
    # All of a program that was one call is one again.
    [call] = jax.make_jaxpr(simplify(inner))(0.3).eqns
    assert call.params["name"] == "inner"
    donating = jax.jit(inner, donate_argnums=0)
    [call] = jax.make_jaxpr(simplify(donating))(0.3).eqns
    assert call.params["donated_invars"] == (True,)


def test_outside_of_jit_a_program_is_compiled_once():
    @jax.jit
    def inner(x):
        return jnp.sin(x) * x + jnp.cos(x) * x

    fun, x = simplify(inner), jnp.array(0.3)
    fun(x)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("logging.Logger.warning", lambda *args: compiled.append(args))
        fun(x + 1)
    assert not any("Compiling" in str(line) for line in compiled)


def test_checkpoints_compute_again():
    """To share what they compute with the rest would be to store it."""

    @jax.checkpoint
    def inner(x):
        return jnp.sin(x) * jnp.sin(x) + x + x

    def fun(x):
        return jax.grad(lambda x: jnp.sin(x) + inner(x))(x)

    before, after = (count_primitives(f, 0.3).counts for f in (fun, simplify(fun)))
    assert after["sin"] >= 1 and after["sin"] < before["sin"]
    assert sum("checkpoint" in k or "remat" in k for k in after) == 1
    x = jnp.array(0.3)
    assert_close(simplify(fun)(x), fun(x))


def test_custom_derivatives_are_kept():
    @jax.custom_jvp
    def with_jvp(x):
        return jnp.sin(x) + jnp.sin(x)

    with_jvp.defjvp(lambda x, dx: (with_jvp(*x), 7.0 * dx[0]))

    @jax.custom_vjp
    def with_vjp(x):
        return jnp.sin(x) + jnp.sin(x)

    with_vjp.defvjp(lambda x: (with_vjp(x), None), lambda _, g: (9.0 * g,))
    for rewrite in (cse, simplify):
        slope = jax.grad(rewrite(lambda x: with_jvp(x) * with_jvp(x)))(1.0)
        np.testing.assert_allclose(slope, 4 * math.sin(1.0) * 7.0)
        slope = jax.grad(rewrite(lambda x: with_vjp(x) + x))(1.0)
        np.testing.assert_allclose(slope, 10.0)


def test_arrays_of_a_program_are_not_kept():
    """Outside of `jit` programs are remembered: those of the last few kinds of calls,
    until the function is gone or JAX's caches are cleared."""
    current, alive = [], []

    def fun(x):
        return jnp.sin(x) + current[0]

    def call(number):
        current[:] = [jnp.full(1000, float(number))]
        alive.append(weakref.ref(current[0]))
        rewritten(0.5)

    def kept():
        current.clear()
        gc.collect()
        return sum(array() is not None for array in alive)

    for clear in (True, False):
        rewritten = cse(fun)
        for number in range(20):
            call(number)
        assert 1 <= kept() <= 8
        if clear:
            jax.clear_caches()
        else:
            del rewritten
        assert kept() == 0
