import math
import random
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import programs
import pytest
from fuzz_simplify import check, derivatives_of
from helpers import assert_close, assert_same_bits, derivatives
from jax import lax

import eqx_taylor
from eqx_taylor import filter_jet
from eqx_taylor._core.jax import evaluate
from eqx_taylor._programs.counts import count_equations
from eqx_taylor._programs.simplify.constants import by_numpy
from eqx_taylor._programs.simplify.graph import TooLarge
from eqx_taylor._programs.simplify.reform import simplified_jaxpr
from eqx_taylor._programs.simplify.ring import Polynomial, Ring
from eqx_taylor.programs import count_primitives, cse, simplify


X = jnp.linspace(0.2, 1.3, 5)


def _front_page(x):
    return 0.3 * jnp.sin(x) * x**10


def _directional(fun, direction, order):
    for _ in range(order):
        fun = (lambda f: lambda x: jax.jvp(f, (x,), (direction,))[1])(fun)
    return fun


def _total(fun, *args):
    return count_primitives(fun, *args).total


# -- what it is for


def _leibniz(x, order):
    """The derivatives of 0.3 sin(x) x^10, by the product rule."""
    return [
        math.fsum(
            0.3
            * math.comb(n, k)
            * math.sin(x + (n - k) * math.pi / 2)
            * math.perm(10, k)
            * x ** (10 - k)
            for k in range(n + 1)
        )
        for n in range(order + 1)
    ]


def test_derivatives_of_all_orders():
    """17154 equations at order 8."""
    totals, orders = [], [0, 1, 2, 4, 6, 8]
    for order in orders:
        before = jax.make_jaxpr(derivatives(_front_page, order))(1.3)
        jaxpr = simplified_jaxpr(before)
        names = [eqn.primitive.name for eqn in jaxpr.eqns]
        assert names.count("sin") == 1 and names.count("cos") == (order > 0)
        totals.append(len(names))
        actual = evaluate(jaxpr, [jnp.array(1.3)])
        np.testing.assert_allclose(actual, _leibniz(1.3, order), rtol=1e-14)
    assert count_equations(before) == 17154
    assert totals[-1] <= 110
    # At most quadratic: in the exponent of the fit, and in the second differences.
    slope, _ = np.polyfit(np.log(orders[2:]), np.log(totals[2:]), 1)
    assert slope < 2
    assert np.all(np.diff(totals[2:], 2) <= 4 * 2**2)
    # Without reassociation as well, if with more of them.
    cse_totals = [_total(cse(derivatives(_front_page, k)), 1.3) for k in (2, 4)]
    assert cse_totals[1] < 4 * cse_totals[0]


def test_a_constant_times_a_power():
    def fun(t):
        return _directional(_front_page, t, 4)(2.0)

    jaxpr = jax.make_jaxpr(simplify(fun))(1.0)
    names = [eqn.primitive.name for eqn in jaxpr.eqns]
    assert set(names) == {"mul"} and len(names) <= 5
    expected = _leibniz(2.0, 4)[4] * 1.7**4
    np.testing.assert_allclose(simplify(fun)(jnp.array(1.7)), expected, rtol=1e-14)


@pytest.mark.parametrize("fun", [_front_page, lambda x: jnp.exp(jnp.sin(x)) * x])
def test_derivatives_that_were_taken_separately(fun):
    def first_caller(x, v):
        return _directional(fun, v, 2)(x)

    def second_caller(x, v):
        def slope(x):
            return jax.jvp(fun, (x,), (v,))

        return jax.jvp(slope, (x,), (v,))

    def both(x, v):
        return first_caller(x, v), second_caller(x, v)

    def by_jet(x, v):
        return filter_jet(fun, (x,), ([v, None],))

    assert _total(simplify(both), 1.1, 0.7) <= _total(by_jet, 1.1, 0.7)
    assert _total(simplify(both), 1.1, 0.7) == _total(simplify(second_caller), 1.1, 0.7)
    x, v = jnp.array(1.1), jnp.array(0.7)
    assert_close(simplify(both)(x, v), both(x, v))


_MLP = eqx.nn.MLP(3, "scalar", 8, 3, activation=jnp.tanh, key=jr.key(0))
_SECOND = [
    (jax.hessian(lambda x: _MLP(x)), jnp.array([0.3, -0.4, 1.0])),
    (
        jax.grad(jax.grad(lambda x: jnp.sin(x) * jnp.exp(x**2) / (1 + x))),
        jnp.array(0.6),
    ),
    (jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jax.nn.logsumexp(x**2))(x))), X),
]


@pytest.mark.parametrize("fun, x", _SECOND)
def test_second_derivatives(fun, x):
    assert_close(jax.jit(simplify(fun))(x), jax.jit(fun)(x))
    before, after = _total(fun, x), _total(simplify(fun), x)
    assert after < 0.85 * before
    assert after <= _total(simplify(fun, reassociate=False), x) <= _total(cse(fun), x)


def test_random_programs():
    """Counts of many of them, values of some: `fuzz_simplify.py` takes all of both."""
    checked = 0
    for seed in range(3):
        found = derivatives_of(seed, order=1)
        if found is not None:
            check(*found, values=seed % 3 == 0)
            checked += 1
    assert checked >= 2


_PROGRAMS = [
    programs.scan_reverse, programs.all_three, programs.scan_of_each,
    programs.associative_scan, programs.checkpoint_in_scan,
]  # fmt: skip


@pytest.mark.parametrize("fun", _PROGRAMS, ids=lambda fun: fun.__name__)
def test_loops_and_branches(fun):
    def second(x):
        return _directional(fun, jnp.ones_like(x), 2)(x)

    x = jnp.asarray(programs.X)
    before, after = _total(second, x), _total(simplify(second), x)
    assert after < before
    if fun is programs.all_three:
        assert_close(jax.jit(simplify(second))(x), jax.jit(second)(x), ulps=1e3)


# -- without reassociation

_NOTHING = [
    lambda x: x * 1.0,
    lambda x: 1.0 * x / 1.0,
    lambda x: x - 0.0,
    lambda x: x + -0.0,
    lambda x: -(-x),
    lambda x: x**1,
    lambda x: x.astype(x.dtype).reshape(x.shape).T,
    lambda x: jnp.where(jnp.array(True), x, jnp.sin(x)),
    lambda x: x * jnp.ones_like(x),
    lambda x: jnp.sum(x, axis=()),
]


@pytest.mark.parametrize("fun", _NOTHING)
def test_operations_that_do_nothing(fun):
    assert _total(simplify(fun, reassociate=False), X) == 0
    odd = jnp.array([np.nan, np.inf, -0.0, 0.0, -1.5])
    assert_same_bits(simplify(fun, reassociate=False)(odd), fun(odd))


_SOMETHING = [
    # function, equations without reassociation, with it
    (lambda x: x + 0.0, 1, 0),
    (lambda x: x * 0.0, 1, 1),
    (lambda x: x - x, 1, 1),
    (lambda x: x + x + x, 2, 1),
    (lambda x: (x + 1.0) - 1.0, 2, 0),
    (lambda x: (0.1 * x) * 10.0 / 2.0 + 0.5 * x, 5, 0),
    (lambda x: x * (2.0 + 3.0), 1, 1),
    (lambda x: x + (-jnp.sin(x)), 2, 2),
]


@pytest.mark.parametrize("fun, exact, free", _SOMETHING)
def test_what_changes_rounding_is_kept(fun, exact, free):
    assert _total(simplify(fun, reassociate=False), X) == exact
    assert _total(simplify(fun), X) == free
    odd = jnp.array([np.nan, np.inf, -0.0, 0.0, -1.5])
    assert_same_bits(simplify(fun, reassociate=False)(odd), fun(odd))


def test_constants_have_the_bits_of_the_machine():
    """Those that are computed by NumPy."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.integers(-40, 38, 40)
    numbers = [*(rng.normal(size=40) * sizes), 0.0, -0.0, 1.0, np.inf, np.nan]
    for dtype in (np.float32, np.float64):
        x, y = (jnp.asarray(rng.permutation(numbers), dtype) for _ in range(2))
        cases = [lax.add, lax.sub, lax.mul, lax.div, lax.lt, lax.eq, lax.square, lax.neg]  # fmt: skip
        for fun in cases:
            args = (x,) if fun in cases[-2:] else (x, y)
            expected, folded = np.asarray(fun(*args)), 0
            for i, e in enumerate(expected):
                one = [np.asarray(np.asarray(a)[i]) for a in args]
                got = by_numpy(fun.__name__, jax.typeof(e), one)
                if got is not None:
                    assert_same_bits(got, e)
                    folded += 1
            assert folded > 20
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("logging.Logger.warning", lambda *args: compiled.append(args))
        count_primitives(simplify(lambda x: x * (2.0 / 3.0 + jnp.float64(0.1))), 1.0)
    assert not any("Compiling" in str(line) for line in compiled)


def test_numbers_of_all_elementwise_functions_are_folded():
    x = jnp.float64
    cases = [
        lambda: jnp.log2(x(8.0)),
        lambda: lax.bessel_i0e(x(1.0)),
        lambda: lax.zeta(x(2.0), x(1.5)) if jax.__version_info__ < (0, 11) else x(1.0),
        lambda: lax.igamma(x(2.0), x(1.5)),
        lambda: lax.complex(x(1.0), x(2.0)).imag,
        lambda: lax.convert_element_type(lax.shift_left(np.int32(3), np.int32(2)), x),
        lambda: lax.convert_element_type(lax.population_count(np.int32(7)), x),
    ]

    def fun(y):
        return y * sum(case() for case in cases)

    equations = jax.make_jaxpr(simplify(fun))(x(2.0)).eqns
    assert [eqn.primitive.name for eqn in equations] == ["mul"]
    assert_close(simplify(fun)(x(2.0)), fun(x(2.0)), 4)


def test_odd_programs():
    """Without arguments, results or entries; of truth values; and where nothing is to
    be done."""
    empty, truth = jnp.zeros((0, 3)), jnp.array([True, False])
    cases = [
        (lambda: jnp.sin(1.0) + jnp.sin(1.0), ()),
        (lambda x: None, (X,)),
        (lambda x: (x, x, 2.0), (X,)),
        (lambda x: (x + x + x, jnp.sum(x + x), x @ x.T), (empty,)),
        (lambda b: (b & b, b ^ b, ~(~b), jnp.where(b, 1.0, 1.0)), (truth,)),
        (
            lambda z: ((z * (1.0 + 2.0j)) ** 2 - z * z, z / 2j + z / 2j),
            (lax.complex(X, X),),
        ),
        (lambda x: x[::-1] + jnp.flip(x), (X.astype(jnp.bfloat16),)),
    ]

    def all_of(rewrite):
        return jax.jit(lambda args: [rewrite(f)(*x) for (f, _), x in zip(cases, args)])

    args = [args for _, args in cases]
    expected = all_of(lambda fun: fun)(args)
    for rewrite in (cse, simplify):
        assert_close(all_of(rewrite)(args), expected)
        assert all(_total(rewrite(f), *x) <= _total(f, *x) for f, x in cases)
    with jax.enable_x64(False):
        x = jnp.asarray(np.asarray(X), np.float32)
        fun = lambda x: 0.1 * x + 0.2 * x + jnp.arange(5) // 2  # noqa: E731
        with jax.numpy_dtype_promotion("standard"):
            out = simplify(fun)(x)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, 0.3 * np.asarray(X) + np.arange(5) // 2, 1e-6)


def test_not_a_number():
    """With reassociation, `x - x` and `0 x` are zero wherever `x` is; a reciprocal is
    not cancelled."""
    odd = jnp.array([np.nan, np.inf, 0.0])
    for fun in (lambda x: x - x, lambda x: x * 0.0):
        np.testing.assert_array_equal(simplify(fun)(odd), np.zeros(3))
    for fun in (lambda x: x / x, lambda x: x * x / x**2):
        np.testing.assert_array_equal(simplify(fun)(odd), np.full(3, np.nan))


# -- the ring


def test_order_and_grouping_do_not_matter():
    def fun(x, y, z):
        return [
            (x + y) * z - z * y - x * z,
            (x * y) * z - y * (z * x),
            (x + y) ** 2 - x * x - (y + 2.0 * x) * y,
            jnp.sin(x + y + y) - jnp.sin(2.0 * y + x),
        ]

    jaxpr = jax.make_jaxpr(simplify(fun))(0.3, 0.7, -1.1)
    assert len(jaxpr.eqns) == 0
    assert [out.val for out in jaxpr.jaxpr.outvars] == [0.0] * 4


def test_powers_are_shared():
    def fun(x):
        return x**7 + x**6 + x**5 + x * x * x * x * x * x * x

    counts = count_primitives(simplify(fun), 0.3)
    assert counts.total <= 7 and "integer_pow" not in counts.counts
    x = jnp.array(0.3)
    assert_close(simplify(fun)(x), fun(x))


def test_parts_of_what_is_no_shorter_as_a_whole():
    def fun(a, b, c, d, e, x):
        s = a + b
        return s + c, s + d, s + e, s + (x + x + x)

    args = [float(i) for i in range(6)]
    assert (_total(fun, *args), _total(simplify(fun), *args)) == (7, 6)


def test_exact_numbers_do_not_grow_without_end():
    """After so many products one begins anew."""
    ring = Ring(jnp.float64)
    p = Polynomial({((0, 1),): Fraction(0.1)})
    with pytest.raises(TooLarge):
        for _ in range(100):
            p = ring.mul(p, Polynomial({(): Fraction(0.1)}))
    for huge in (10**6, 10**9):
        with pytest.raises(TooLarge):
            ring.power(Polynomial({((0, 1),): 3}), huge)
    with pytest.raises(TooLarge):
        Ring(jnp.complex128).power(Polynomial({((0, 1),): 3 + 4j}), 2000)

    def fun(x):
        y = x
        for _ in range(120):
            x, y = 0.9 * x, 0.9 * y + 0.1
        return x, y, (2.0 * x) ** 3000

    jaxpr = simplified_jaxpr(jax.make_jaxpr(fun)(1.0))
    assert len(jaxpr.eqns) < 250
    with jax.disable_jit():
        x = jnp.array(1.1)
        assert_close(evaluate(jaxpr, [x]), list(fun(x)))


def test_quotients():
    def fun(x, y):
        return x / y + 2.0 * (x / y), jax.grad(jax.grad(lambda x: 1.0 / x))(x), y / 4.0

    counts = count_primitives(simplify(fun), 0.3, 0.7)
    assert counts.total <= 5
    x, y = jnp.array(0.3), jnp.array(0.7)
    assert_close(simplify(fun)(x, y), fun(x, y))


def test_through_broadcasts_and_shapes():
    """`x` broadcast and multiplied meets a product that is broadcast; and an array that
    is broadcast is multiplied before it is."""

    def fun(x, y):
        def wide(x):
            return jnp.broadcast_to(x[:, None], (5, 4))

        difference = wide(x * y) - wide(x) * wide(y)
        turned = (x.reshape(5, 1) * y.reshape(5, 1)).T - (x * y).reshape(1, 5)
        return difference, turned, wide(x) * wide(x) * wide(y)

    jaxpr = jax.make_jaxpr(simplify(fun))(X, X + 1)
    sizes = [eqn.outvars[0].aval.size for eqn in jaxpr.eqns if eqn.primitive.name == "mul"]  # fmt: skip
    assert sizes == [5, 5]
    assert_close(simplify(fun)(X, X + 1), fun(X, X + 1))


def test_through_linear_operations():
    weight = jnp.arange(20.0).reshape(4, 5)

    def fun(x):
        y = weight @ (2.0 * x) - weight @ (-x)
        return y, jnp.sum(3.0 * x) - 3.0 * jnp.sum(x), jnp.cumsum(-x)[::-1] * 2.0

    counts = count_primitives(simplify(fun), X)
    assert counts.counts["dot_general"] == 1
    assert "reduce_sum" not in counts.counts and "sub" not in counts.counts
    assert_close(simplify(fun)(X), fun(X))


def test_integers_are_residues():
    def fun(x):
        return x * 100 + x * 100 + x * 100, x * x - x * x + x, (x + 1) * 0

    x = jnp.array([-128, -3, 0, 5, 127], jnp.int8)
    for dtype in (jnp.int8, jnp.uint8, jnp.int64):
        assert_same_bits(simplify(fun)(x.astype(dtype)), fun(x.astype(dtype)))
    assert _total(simplify(fun), x) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128", "complex64"])
def test_other_dtypes(dtype):
    x = jnp.asarray(X, dtype)

    def fun(x):
        y = x * jnp.asarray(0.3, dtype) + x * jnp.asarray(0.5, dtype)
        return (
            y + y,
            jnp.sin(x + x) * jnp.sin(x * 2),
            jnp.conj(x) * 1j if dtype[0] == "c" else x,
        )

    with jax.numpy_dtype_promotion("standard"):
        assert _total(simplify(fun), x) < _total(cse(fun), x) <= _total(fun, x)
        assert_close(simplify(fun)(x), fun(x), ulps=8)


def test_numbers_that_no_float_is_near():
    """`1e60 x` would be infinite in float32, though the product with 1e-60 is not."""

    def fun(x):
        a = jnp.float32(1e30)
        return (x * a) * (a * x), ((x / a) / a) + ((x / a) / a)

    x = jnp.float32(1e-30)
    np.testing.assert_allclose(simplify(fun)(x)[0], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(simplify(fun)(x)[1], fun(x)[1])


def test_results_are_as_weak_as_they_were():
    def fun(x):
        return x + x, x * jnp.float32(2.0) + x, 3.0 * x - x - x, 2.0 * 3.0

    for x in (1.5, jnp.float32(1.5)):
        with jax.numpy_dtype_promotion("standard"):
            before, after = (jax.eval_shape(f, x) for f in (fun, simplify(fun)))
        assert before == after


def test_explain():
    text = simplify(derivatives(_front_page, 2)).explain(jnp.array(1.0))
    assert "simplify: 20 equations; there were 39" in text
    assert "0.3 x0^10 sin" in text
    text = cse(derivatives(_front_page, 2)).explain(jnp.array(1.0))
    assert text.startswith("cse: 28 equations; there were 39")


# -- composition


@pytest.mark.parametrize("rewrite", [cse, simplify])
def test_transformations(rewrite):
    def fun(x, y):
        return jnp.sin(x) * y + jnp.sin(x) * y + jnp.sum(y * x * y)

    new = rewrite(fun)
    y = X + 1
    assert_close(jax.jit(new)(X, y), fun(X, y))
    assert_close(jax.vmap(new)(X, y), jax.vmap(fun)(X, y))
    assert_close(jax.vmap(new, (0, None))(X, y), jax.vmap(fun, (0, None))(X, y))
    assert_close(jax.jacrev(new, (0, 1))(X, y), jax.jacrev(fun, (0, 1))(X, y))
    assert_close(jax.jacfwd(new)(X, y), jax.jacfwd(fun)(X, y))
    assert_close(rewrite(jax.hessian(new))(X, y), jax.hessian(fun)(X, y))
    series = ([y, None, None], None)
    assert_close(filter_jet(new, (X, y), series), filter_jet(fun, (X, y), series))
    assert_close(
        simplify(lambda x: filter_jet(fun, (x, y), series))(X),
        filter_jet(fun, (X, y), series),
        ulps=100,
    )


def test_modules_and_pytrees():
    mlp = eqx.nn.MLP(2, 2, 4, 2, activation=jnp.tanh, key=jr.key(0))
    x = jnp.array([0.3, -0.2])
    assert_close(simplify(mlp)(x), mlp(x))

    @eqx.filter_grad
    def slope(mlp):
        return jnp.sum(simplify(mlp)(x) ** 2)

    expected = eqx.filter_grad(lambda mlp: jnp.sum(mlp(x) ** 2))(mlp)
    for a, e in zip(jax.tree.leaves(slope(mlp)), jax.tree.leaves(expected)):
        assert_close(a, e)
    # The wrapper is a PyTree of the module's arrays.
    assert len(jax.tree.leaves(eqx.filter(cse(mlp), eqx.is_array))) == 6

    @simplify
    def fun(tree, scale, *, mode):
        assert mode == "sine"
        return dict(a=jnp.sin(tree["x"]) * scale, b=None, c=mode, d=(scale, 3))

    out = fun(dict(x=x, name="x"), 2.0, mode="sine")
    assert (out["b"], out["c"], out["d"]) == (None, "sine", (2.0, 3))
    assert_close(out["a"], jnp.sin(x) * 2.0)
    assert fun.__name__ == "fun"

    class Doubling(eqx.Module):
        weight: jax.Array

        @simplify
        def __call__(self, x):
            return self.weight * x + self.weight * x

    assert_close(Doubling(x)(x), 2 * x * x)
    # NumPy's arrays are inputs, and closed-over tracers are constants.
    assert_close(cse(lambda x: x + 1)(np.ones(2)), jnp.full(2, 2.0))
    assert_close(jax.grad(lambda y: simplify(lambda x: x * y + x * y)(2.0))(3.0), 4.0)  # fmt: skip


def test_axis_names():
    def fun(x):
        return lax.psum(x, "i") + lax.psum(x, "i") + lax.axis_index("i")

    with jax.numpy_dtype_promotion("standard"):
        mapped = [jax.vmap(f, axis_name="i")(X) for f in (fun, simplify(fun))]
    assert_close(*mapped)


@pytest.mark.parametrize("rewrite", [cse, simplify])
def test_bad_input(rewrite):
    name = rewrite.__name__
    with pytest.raises(TypeError, match="`?fun`?"):
        rewrite(3)
    with pytest.raises(TypeError, match=rf"{name}: the Python code of `fun`"):
        rewrite(lambda x: x if x > 0 else -x)(jnp.array(1.0))
    with pytest.raises(TypeError, match="reassociate"):
        simplify(jnp.sin, reassociate="no")


def test_as_deep_as_programs_get():
    """Long chains of sums and products do not meet Python's limit of recursion."""

    def fun(x, y):
        for _ in range(160):
            x = x * x + x * x + y
        return x

    x = jnp.array(0.1)
    jaxpr = simplified_jaxpr(jax.make_jaxpr(fun)(x, x))
    # 2 x^2 + y.
    assert len(jaxpr.eqns) == 3 * 160
    # Without compiling anything: by XLA that would be the longest test of all.
    with jax.disable_jit():
        assert_close(evaluate(jaxpr, [x, x])[0], fun(x, x))


def test_counts_do_not_depend_on_chance():
    """The order of sets and ids has no say."""
    order = random.Random(0)
    texts = set()
    for _ in range(3):
        [object() for _ in range(order.randint(1, 50))]
        texts.add(str(jax.make_jaxpr(simplify(derivatives(_front_page, 4)))(1.0)))
    assert len(texts) == 1


def test_public_names():
    assert eqx_taylor.programs.cse is cse and eqx_taylor.programs.simplify is simplify
