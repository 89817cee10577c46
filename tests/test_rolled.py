"""A loop over orders (`ode_jet(..., unroll=False)`): the coefficients are those of the
unrolled program, and known ones; its size does not depend on the order; and a field that
has no loop is unrolled, with the name of what has none."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from helpers import (
    assert_close,
    count_equations,
    count_primitives,
    mp_ode_coefficients,
    nested_ode_jet,
)
from jax import lax

from eqx_taylor import ode_jet, rules
from eqx_taylor._ode.unroll import is_unrolled


W = np.array(
    [
        [0.3, -1.1, 0.2, 0.5],
        [0.7, 0.1, -0.4, 0.2],
        [-0.6, 0.9, 0.8, -0.3],
        [0.1, 0.2, -0.5, 1.2],
    ]
)
Y = np.array([0.1, 0.5, -0.4, 0.9])
TWICE = np.array([1, 2, 2, 0])


@jax.custom_jvp
def _softplus(x):
    return jnp.logaddexp(x, 0.0)


_softplus.defjvps(lambda dx, y, x: dx * jax.nn.sigmoid(x))


@jax.jit
def _inner(x):
    return jnp.sin(x) * x


# Functions of t and y, by the kinds of rules that they have.
FIELDS = {
    "exp": lambda t, y: jnp.exp(-y) + jnp.exp2(y) + jnp.expm1(y / 2),
    "log": lambda t, y: jnp.log(y + 3) - jnp.log1p(y * y),
    "sin": lambda t, y: jnp.sin(y) * jnp.cos(2 * y) + jnp.tan(y / 3),
    "sinh": lambda t, y: jnp.sinh(y) - jnp.cosh(y) * y,
    "inverse": lambda t, y: jnp.arctan(y) + jnp.arcsin(y / 4) + jnp.arctanh(y / 3),
    "atan2": lambda t, y: jnp.arctan2(y, 1 + y[::-1]) + jnp.arcsinh(y),
    "tanh": lambda t, y: jnp.tanh(W @ jnp.tanh(W @ y + 0.1)),
    "logistic": lambda t, y: jax.nn.sigmoid(y) * jax.nn.silu(y),
    "erf": lambda t, y: lax.erf(y) + jax.nn.gelu(y),
    "roots": lambda t, y: jnp.sqrt(1 + y * y) + jnp.cbrt(2 + y) + lax.rsqrt(3 + y),
    "powers": lambda t, y: y**3 - (1 + y * y) ** -1.5 + (1 + y * y) ** 1.5 + y**-2,
    "quotient": lambda t, y: y / (1 + y * y) + 1 / (2 + y),
    "time": lambda t, y: jnp.sin(3 * t) + y * t**2 - t * y,
    "matrix": lambda t, y: W @ (jnp.outer(y, y) @ W.T @ jnp.outer(y, jnp.sin(y)))[0],
    "sums": lambda t, y: y * jnp.sum(y * y) - jnp.cumsum(y) * jnp.mean(y),
    "shapes": lambda t, y: jnp.concatenate([y[:2] * y[2:], jnp.sin(y.reshape(2, 2)[1])]),
    "gather": lambda t, y: (y * y)[TWICE] - jnp.zeros(4, y.dtype).at[TWICE].add(y * y),
    "choice": lambda t, y: jnp.where(jnp.array([True, False] * 2), y * y, jnp.sin(y)),
    "kinks": lambda t, y: jax.nn.relu(W @ y) * y + jnp.maximum(y, 0.3) - jnp.abs(y),
    "branch": lambda t, y: jnp.where(y > 0, y * y, jnp.sin(y)) + jnp.sort(y),
    "calls": lambda t, y: _inner(y) + _softplus(y) + jax.checkpoint(jnp.sin)(y),
    "softmax": lambda t, y: jax.nn.softmax(y) * jax.nn.logsumexp(y),
    "norm": lambda t, y: jnp.linalg.norm(y) * y + jnp.prod(y),
    "fourier": lambda t, y: jnp.fft.ifft(jnp.fft.fft(y) ** 2).real.astype(y.dtype),
    "constant": lambda t, y: jnp.ones_like(y),
    "nothing": lambda t, y: jnp.zeros_like(y),
}  # fmt: skip


def _jets(fields, t, y, order, unroll):
    """The jets of all these fields, in one program."""
    return {
        name: ode_jet(lambda t, y, _, f=f: f(t, y), t, y, order=order, unroll=unroll)
        for name, f in fields.items()
    }


def _compared(fields, y, order, ulps):
    y = jnp.asarray(y)
    t = jnp.asarray(0.3, jnp.finfo(y.dtype).dtype)

    @jax.jit
    def both(t, y):
        return [_jets(fields, t, y, order, unroll) for unroll in (False, True)]

    loop, unrolled = both(t, y)
    for name in fields:
        for k in range(order + 1):
            scale = np.max(np.abs(unrolled[name][k]), initial=0.1)
            assert_close(loop[name][k], unrolled[name][k], ulps=ulps, scale=scale)


def test_every_kind_of_rule_has_the_coefficients_of_the_unrolled_program():
    # If one of them had no loop, there would be a warning.
    _compared(FIELDS, Y, 4, ulps=100)


def _pairs(t, y):
    """The attraction between all pairs of rows: arrays of three axes."""
    d = y[:, None] - y[None] + jnp.eye(len(y))[:, :, None]
    return jnp.sum(d / jnp.sum(d * d, -1, keepdims=True) ** 1.5, 1)


# By the shape of the state: sums of products join axes, and broadcast.
MANY_AXES = {
    (): lambda t, y: jnp.sin(y) * y,
    (1,): lambda t, y: jnp.exp(-y) * y,
    (5, 3): _pairs,
    (2, 70): lambda t, y: jnp.tanh(y) * y[::-1] + jnp.sum(y * y),
    (2, 3, 4): lambda t, y: jnp.sin(y) * y[:1] * jnp.cos(y[:, :, :1]) / (2 + y * y),
    (3, 1, 2, 1): lambda t, y: jnp.exp(y) * jnp.log(4 + y) * y[..., ::-1, :] + t * y,
    (0, 3): lambda t, y: y * y,
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("shape", MANY_AXES, ids=str)
def test_states_of_many_axes(shape):
    y = np.random.default_rng(4).uniform(-1, 1, shape)
    fields = {"field": MANY_AXES[shape]}
    _compared(fields, y, 7, ulps=1000)

    def gradient(unroll):
        def size(t, y):
            return jnp.sum(_jets(fields, t, y, 4, unroll)["field"] ** 2)

        return jax.grad(size, (0, 1))

    loop, unrolled = jax.jit(lambda *x: [gradient(u)(*x) for u in (False, True)])(
        0.3, y
    )
    for a, b in zip(loop, unrolled):
        assert_close(a, b, ulps=1000, scale=np.max(np.abs(b), initial=0.1))


@pytest.mark.parametrize("order", [1, 2])
def test_lowest_orders(order):
    names = ["sin", "powers", "time", "gather", "nothing"]
    _compared({name: FIELDS[name] for name in names}, Y, order, ulps=100)


@pytest.mark.slow
def test_every_kind_of_rule_is_in_a_loop_indeed():
    for name, f in FIELDS.items():
        jet = lambda y, f=f: ode_jet(  # noqa: E731
            lambda t, y, _: f(t, y), 0.3, y, order=5, unroll=False
        )
        assert count_primitives(jet, jnp.asarray(Y)).get("scan") == 1, name


@pytest.mark.slow
def test_other_dtypes():
    def field(t, y):
        outer = jnp.outer(jnp.tanh(y), y) @ (W.astype(y.dtype) @ jnp.outer(y, y))
        return jnp.exp(outer @ y) / (2 + y) ** 3 + y * jnp.sum(y)

    def of_reals(t, y):
        return field(t, y) * jnp.sqrt(1 + t * t) + jnp.maximum(y, 0) ** 1.5

    _compared({"real": of_reals}, Y.astype(np.float32), 4, ulps=100)
    _compared({"complex": field}, Y + 0.2j, 4, ulps=100)


def test_high_order_against_forty_digits():
    def field(t, y):
        x, z = y
        return [(x * z).sin() - t * x, (x * x + 1) ** -1.5 + z.tanh()]

    def same(t, y, args):
        x, z = y
        return jnp.sin(x * z) - t * x, (x * x + 1) ** -1.5 + jnp.tanh(z)

    order = 20
    with mpmath.workdps(40):
        expected = mp_ode_coefficients(field, 0.25, [0.3, -0.7], order)
    y0 = jnp.array(0.3), jnp.array(-0.7)
    found = jax.jit(lambda y: ode_jet(same, 0.25, y, order=order, unroll=False))(y0)
    for terms, right in zip(found, expected):
        right = np.array([float(x) for x in right])
        sizes = np.maximum(np.abs(right), np.max(np.abs(right)) * 2.0 ** -np.arange(21))
        assert np.max(np.abs(terms - right) / sizes) < 200 * 2.0**-52


def test_known_series_at_high_order():
    order = 24
    k = np.arange(order + 1)
    # y' = y, y' = y^2, and y' = 1 + y^2 at 0, whose coefficients Bernoulli knew.
    field = lambda t, y, args: (y[0], y[1] * y[1], 1 + y[2] ** 2)  # noqa: E731
    y0 = jnp.array(1.0), jnp.array(0.5), jnp.array(0.0)
    jet = jax.jit(lambda y: ode_jet(field, 0.0, y, order=order, unroll=False))
    exp, pole, tan = jet(y0)
    assert_close(exp * jnp.exp(jax.lax.lgamma(k + 1.0)), np.ones(order + 1), ulps=1000)
    assert_close(pole * 2.0 ** (k + 1), np.ones(order + 1), ulps=50)
    with mpmath.workdps(40):
        expected = [float(x) for x in mpmath.taylor(mpmath.tan, 0, order)]
    assert_close(tan * 1.5**k, np.array(expected) * 1.5**k, ulps=50)


@pytest.mark.slow
def test_derivatives_and_batches():
    def field(t, y, args):
        mixed = jnp.sin(args @ y["a"]) / (1 + y["a"] ** 2) + t * y["b"]
        return dict(a=mixed, b=y["b"] * (2 + jnp.sum(y["a"] ** 2)) ** -1.5)

    def loss(unroll, t, y, w):
        jet = ode_jet(field, t, y, w, order=4, unroll=unroll)
        return jnp.sum(jnp.cos(jet["a"])) + jnp.sum(jet["b"] ** 2)

    y = dict(a=jnp.asarray(Y), b=jnp.array(0.3))
    two = jax.tree_util.tree_map(lambda x: jnp.stack([x, 2 * x]), y)

    @jax.jit
    def everything(t, y, two, w):
        def of(unroll):
            fun = lambda *args: loss(unroll, *args)  # noqa: E731
            reverse = jax.grad(fun, (0, 1, 2))(t, y, w)
            forward = jax.jacfwd(fun)(t, y, w)
            second = jax.jvp(lambda t: jax.grad(fun, 2)(t, y, w), (t,), (t,))[1]
            batch = jax.vmap(jax.grad(fun, 1), (None, 0, None))(t, two, w)
            return reverse, forward, second, batch

        return of(False), of(True)

    loop, unrolled = everything(jnp.array(0.2), y, two, jnp.asarray(W))
    for a, b in zip(
        jax.tree_util.tree_leaves(loop), jax.tree_util.tree_leaves(unrolled)
    ):
        assert_close(a, b, ulps=200)


def test_derivative_of_matrix_products_of_which_both_factors_move():
    def field(t, y, w):
        return jnp.outer(y, y) @ (w @ jnp.outer(jnp.sin(y), y)) @ y

    def coefficients(w):
        return ode_jet(field, 0.0, jnp.asarray(Y), w, order=3, unroll=False)

    def nested(w):
        return jnp.stack(nested_ode_jet(field, jnp.array(0.0), jnp.asarray(Y), w, 3))

    w, dw = jnp.asarray(W), jnp.asarray(W[::-1])
    found = jax.jit(lambda w: jax.jvp(coefficients, (w,), (dw,)))(w)
    assert_close(found, jax.jit(lambda w: jax.jvp(nested, (w,), (dw,)))(w), ulps=200)


def test_size_of_the_program_does_not_depend_on_the_order():
    def field(t, y, args):
        return jnp.tanh(W @ jnp.sin(y)) / (1 + y**2) + jnp.exp(t) * jnp.sqrt(2 + y)

    sizes = {
        count_equations(
            lambda y, n=order: ode_jet(field, 0.0, y, order=n, unroll=False),
            jnp.asarray(Y),
        )
        for order in (3, 8, 30)
    }
    assert len(sizes) == 1


def _scan(t, y, args):
    return lax.scan(lambda c, x: (c * x, c), y, W)[0]


FALLING_BACK = {
    "cond": lambda t, y, args: lax.cond(y[0] > 0, lambda: y * y, lambda: y),
    "scan": _scan,
    "pow": lambda t, y, args: (2 + y) ** args,
    "qr": lambda t, y, args: jnp.linalg.qr(W + jnp.diag(y))[0] @ y,
    "custom_linear_solve": lambda t, y, args: jnp.linalg.solve(W + jnp.diag(y), y),
}


@pytest.mark.parametrize("primitive", FALLING_BACK)
def test_field_without_a_loop_is_unrolled_and_says_so(primitive):
    field = FALLING_BACK[primitive]
    jet = lambda unroll: jax.make_jaxpr(  # noqa: E731
        lambda y, r: ode_jet(field, 0.0, y, r, order=3, unroll=unroll)
    )(jnp.asarray(Y), jnp.array(1.7))
    with pytest.warns(UserWarning, match=rf"no effect.*`{primitive}`"):
        loop = jet(False)
    # Nothing of the attempt is left in the program.
    assert len(loop.eqns) == len(jet(True).eqns)


def test_rules_of_users():
    @jax.custom_jvp
    def by_vocabulary(x):
        return jnp.exp(x)

    @jax.custom_jvp
    def by_hand(x):
        return jnp.exp(x)

    for fun in (by_vocabulary, by_hand):
        fun.defjvps(lambda dx, y, x: dx * y)

    @rules.define_recurrence(by_vocabulary)
    def _(y, x):
        def step(k):
            total = rules.convolve(lax.mul, x.derivative, y, k - 1)
            return rules.scale(total, 1 / k)

        return step

    @rules.define_recurrence(by_hand)
    def _(y, x):
        def step(k):
            terms = [j * x.dense(j) * y[k - j] for j in range(1, k + 1)]
            return sum(terms) / k

        return step

    y0 = jnp.asarray(Y)
    known = ode_jet(lambda t, y, _: jnp.exp(-y), 0.0, y0, order=5)
    field = lambda t, y, _: by_vocabulary(-y)  # noqa: E731
    found = ode_jet(field, 0.0, y0, order=5, unroll=False)
    assert_close(found, known, ulps=100)
    with pytest.warns(UserWarning, match="`by_hand`"):
        found = ode_jet(lambda t, y, _: by_hand(-y), 0.0, y0, order=5, unroll=False)
    assert_close(found, known, ulps=100)


def test_sides_of_kinks_and_where_roots_are_zero():
    # At 0 the side ahead decides, and 1.5 is no exponent of a series.
    fields = {
        "abs": lambda t, y: 1 + jnp.abs(y) * y + jnp.abs(y),
        "sign": lambda t, y: jnp.where(y > 0, 2 + y, 1 - y**2) + jnp.sign(t - 0.3),
        "root": lambda t, y: 1 + jnp.abs(y) ** 1.5,
        "norm": lambda t, y: jnp.linalg.norm(0 * y) + jnp.sqrt(0 * y) + y,
    }
    y = jnp.array([0.0, 0.5, 0.0])
    loop, unrolled = jax.jit(
        lambda t, y: [_jets(fields, t, y, 5, unroll) for unroll in (False, True)]
    )(0.3, y)
    for name in fields:
        finite = np.isfinite(unrolled[name])
        np.testing.assert_array_equal(np.isfinite(loop[name]), finite)
        assert_close(
            jnp.where(finite, loop[name], 0), jnp.where(finite, unrolled[name], 0)
        )


def test_choice_by_the_size_of_the_program():
    def field(t, y, args):
        for i in range(60):
            y = jnp.sin(y) * (1 + 0.1 * i * y)
        return y

    program = jax.make_jaxpr(lambda t, y: [field(t, y, None)])(0.0, jnp.array(0.3))

    def has_loop(order, unroll=None):
        return not is_unrolled("ode_jet", unroll, program, order)

    assert not has_loop(12)
    assert has_loop(20)
    assert not has_loop(20, unroll=True) and has_loop(4, unroll=False)
