"""Mixed partial derivatives, and derivatives of gradients."""

import functools as ft
import itertools
import math
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import assert_close, assert_raises, derivatives as nested

from eqx_taylor import (
    derivative_tensor,
    directional_gradients,
    hvp,
    partial_derivative,
    value_jacobian_hessian,
)
from eqx_taylor._derivatives.interpolation_weights import (
    interpolated,
    of_operator,
    polarised,
    sparse,
)


def _product(x):
    return jnp.sin(jnp.prod(x**2))


def _repeated(fun, index):
    """A partial derivative, one variable after the other."""
    for i in index:

        def slope(x, fun=fun, i=i):
            return jax.jvp(fun, (x,), (jnp.eye(x.size)[i],))[1]

        fun = slope
    return jax.jit(fun)


# -- single ones


def test_partial_derivative_of_order_eight():
    """Griewank, Utke and Walther's example."""
    x = jnp.array([0.1, 0.2, 0.3, 0.4])
    actual = jax.jit(lambda x: partial_derivative(_product, x, (2, 2, 2, 2)))(x)
    # With u = x1 x2 x3 x4 it is the operator ((u d/du)² - u d/du)⁴ / u⁸ x ... of
    # sin(u²); its series, term by term.
    u = [Fraction(n, 10) for n in (1, 2, 3, 4)]
    exact = Fraction(0)
    for n in range(6):
        power = 2 * (2 * n + 1)
        term = Fraction((-1) ** n, math.factorial(2 * n + 1))
        for x_l in u:
            term *= power * (power - 1) * x_l ** (power - 2)
        exact += term
    assert abs(actual - float(exact)) < 1e-12 * abs(float(exact))


@pytest.mark.parametrize(
    "index", [(0, 0, 0), (1, 0, 0), (1, 1, 1), (0, 5, 0), (3, 1, 2), (2, 0, 4)]
)
def test_partial_derivatives(index):
    def fun(x):
        return jnp.stack([jnp.exp(x[0] * x[1]) * jnp.sin(x[2] + x[0]), jnp.tanh(x @ x)])

    x = jnp.array([0.3, -0.4, 0.5])
    order = [i for i, n in enumerate(index) for _ in range(n)]
    actual = jax.jit(lambda x: partial_derivative(fun, x, np.array(index)))(x)
    assert_close(actual, _repeated(fun, order)(x), ulps=4000)


def test_multi_index_of_a_tree():
    def fun(x):
        s, (m, _) = x
        return {"y": jnp.sin(s * jnp.sum(m[0] ** 3) + m[1, 0]), "n": 3}

    x = (jnp.array(0.7), (jnp.array([[0.1, 0.2], [0.3, 0.4]]), "text"))
    index = (2, ([[0, 1], [1, 0]], None))
    actual = eqx.filter_jit(lambda s: partial_derivative(fun, (s, x[1]), index))(x[0])
    assert actual["n"] is None
    with pytest.raises(ValueError, match="structure of `x`"):
        partial_derivative(fun, x, (2, [1, 1]))

    def flat(z):
        return fun((z[0], (z[1:].reshape(2, 2), "text")))["y"]

    z = jnp.array([0.7, 0.1, 0.2, 0.3, 0.4])
    assert_close(actual["y"], _repeated(flat, (0, 0, 2, 3))(z), ulps=500)


def test_weights_are_exact():
    """The polynomials are equal, coefficient by coefficient."""
    for index in [(1,), (4,), (2, 2), (3, 1, 2), (1, 1, 1, 1), (0, 2, 0, 1)]:
        index = sparse(index)
        order = sum(n for _, n in index)
        for weights in (polarised(index), interpolated(index, order)):
            found = {}
            places = [i for i, _ in index]
            for v, w in weights.items():
                v = dict(v)
                # (v·ξ)^K / K!
                for picks in itertools.combinations_with_replacement(places, order):
                    counts = [picks.count(i) for i in places]
                    term = math.prod(
                        Fraction(v.get(i, 0)) ** n for i, n in zip(places, counts)
                    )
                    term = w * term / math.prod(map(math.factorial, counts))
                    found[picks] = found.get(picks, 0) + term
            wanted = tuple(i for i, n in index for _ in range(n))
            assert {k: c for k, c in found.items() if c} == {wanted: 1}


def test_number_of_directions():
    def count(*terms):
        return len(of_operator({sparse(index): Fraction(c) for c, index in terms}))

    # Of the product of second derivatives, and with half as many as (2 + 1)^4.
    assert count((1, (2, 2, 2, 2))) == 40
    assert count((1, (1, 1))) == 2
    # Laplacians; the biharmonic operator, in four dimensions without the axes.
    assert count((1, (2, 0, 0)), (3, (0, 2, 0)), (1, (0, 0, 2))) == 3
    for size, expected in [(3, 9), (4, 12), (5, 25)]:
        terms = [
            (1, tuple(2 * ((i == k) + (j == k)) for k in range(size)))
            for i in range(size)
            for j in range(size)
        ]
        sums: dict = {}
        for c, index in terms:
            sums[index] = sums.get(index, 0) + c
        assert count(*[(c, index) for index, c in sums.items()]) == expected
    # All of them: one for each.
    hessian = itertools.combinations_with_replacement(range(4), 2)
    terms = [(1, tuple(pair.count(i) for i in range(4))) for pair in hessian]
    assert count(*terms) == 10
    # What cancels is not computed.
    assert of_operator({sparse((2,)): Fraction(0)}) == {}


# -- all of them


@jax.jit
@jax.vmap
def _of_tanh(z):
    return nested(jnp.tanh, 6)(z)


def _assert_symmetric(tensor):
    """To the last bit."""
    for axes in itertools.islice(itertools.permutations(range(tensor.ndim)), 1, 8):
        assert np.array_equal(tensor, np.transpose(tensor, axes))


@pytest.mark.parametrize("size", range(1, 7))
def test_tensors(size):
    """Of one layer of neurons: by the derivatives of tanh."""
    keys = jax.random.split(jax.random.key(size), 4)
    w, b = jax.random.normal(keys[0], (8, size)) / 2, jax.random.normal(keys[1], (8,))
    a, x = jax.random.normal(keys[2], (8,)), jax.random.normal(keys[3], (size,))

    def fun(x):
        return a @ jnp.tanh(w @ x + b)

    of_tanh = _of_tanh(w @ x + b)
    every = jax.jit(lambda x: [derivative_tensor(fun, x, k) for k in range(7)])(x)
    for order in range(1, 7):
        letters = "abcdef"[:order]
        formula = "z," + ",".join("z" + c for c in letters) + "->" + letters
        outer = [np.asarray(w)] * order
        expected = np.einsum(formula, np.asarray(a * of_tanh[order]), *outer)
        assert every[order].shape == expected.shape
        error = np.max(np.abs(every[order] - expected))
        assert error < 1e-12 * np.max(np.abs(expected))
        _assert_symmetric(np.asarray(every[order]))


@pytest.mark.parametrize("size", [2, 5])
def test_tensors_of_deep_networks(size):
    """Along lines, by nesting: T v...v for all v gives all of T."""
    mlp = eqx.nn.MLP(size, "scalar", 8, 2, jnp.tanh, key=jax.random.key(0))
    x = jnp.linspace(-0.5, 1.0, size)
    lines = jax.random.normal(jax.random.key(7), (5, size))

    @jax.jit
    @jax.vmap
    def along(v):
        return nested(lambda t: mlp(x + t * v), 6)(0.0)

    every = jax.jit(lambda x: [derivative_tensor(mlp, x, k) for k in range(7)])(x)
    for order, (tensor, slopes) in enumerate(zip(every, along(lines))):
        for v, slope in zip(np.asarray(lines), slopes):
            contracted = np.asarray(tensor)
            for _ in range(order):
                contracted = contracted @ v
            largest = np.max(np.abs(tensor)) * np.sum(np.abs(v)) ** order
            assert abs(contracted - slope) < 1e-12 * largest
        _assert_symmetric(np.asarray(tensor))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_tensors_of_random_polynomials(order):
    """Σ T_ab.. x_a x_b .. with a random symmetric T has the derivative K! T."""
    size = 4
    t = np.random.default_rng(order).normal(size=(size,) * order)
    t = sum(np.transpose(t, axes) for axes in itertools.permutations(range(order)))

    def fun(x):
        y = jnp.array(t)
        for _ in range(order):
            y = y @ x
        return y

    actual = derivative_tensor(fun, jnp.array([0.3, -0.2, 0.5, 0.9]), order)
    assert_close(actual, jnp.array(math.factorial(order) * t), ulps=100)


def test_tensors_of_trees():
    """In the structure of nested `jax.jacfwd`."""

    def fun(x):
        return {
            "u": jnp.outer(jnp.sin(x["a"]), x["b"][1]),
            "w": jnp.sum(x["a"]) * x["s"] ** 3,
        }

    x = dict(a=jnp.array([0.1, 0.2]), b=jnp.array([[0.5], [0.6]]), s=jnp.array(0.3))
    expected = fun
    for order in range(1, 3):
        expected = jax.jacfwd(expected)
        actual = jax.jit(ft.partial(derivative_tensor, fun, order=order))(x)
        assert_close(actual, jax.jit(expected)(x), ulps=100, scale=1.0)
    assert_close(derivative_tensor(fun, x, 0), fun(x))


# -- gradients of gradients


def test_value_jacobian_hessian():
    def scalar(x):
        return jnp.sin(x["a"][0]) * jnp.exp(jnp.sum(x["b"] * x["a"][1])) + x["s"] ** 2

    def several(x):
        return scalar(x), jnp.outer(x["a"], x["a"]) * x["s"]

    x = dict(a=jnp.array([0.1, 0.2]), b=jnp.array([[0.5], [0.6]]), s=jnp.array(0.3))
    # By reverse mode, and forwards.
    for fun in (scalar, several):
        actual = jax.jit(ft.partial(value_jacobian_hessian, fun))(x)
        all_three = (fun, jax.jacobian(fun), jax.hessian(fun))
        expected = jax.jit(
            lambda x, all_three=all_three: tuple(f(x) for f in all_three)
        )
        assert_close(actual, expected(x), scale=1.0)
    # Symmetric to the last bit, from reverse mode too.
    key = jax.random.key(0)
    mlp = eqx.nn.MLP(7, 2, 8, 2, activation=jnp.tanh, key=key)
    both = jax.jit(lambda x: value_jacobian_hessian(mlp, x)[1:])
    jacobian, hessian = both(jnp.linspace(0.0, 1.0, 7))
    assert jacobian.shape == (2, 7) and hessian.shape == (2, 7, 7)
    assert np.array_equal(hessian, np.swapaxes(hessian, 1, 2))
    z = jnp.array([0.1 + 0.2j, 0.3 - 0.1j])
    both = jax.jit(lambda z: value_jacobian_hessian(lambda z: z[0] ** 2 * z[1], z)[1:])
    gradient, hessian = both(z)
    assert_close(gradient, jnp.stack([2 * z[0] * z[1], z[0] ** 2]))
    assert_close(hessian[0], jnp.stack([2 * z[1], 2 * z[0]]))


def test_gradients_of_a_model():
    """With respect to the parameters of a Module."""
    mlp = eqx.nn.MLP(3, "scalar", 8, 2, activation=jnp.tanh, key=jax.random.key(0))
    x = jnp.array([0.3, -0.2, 0.5])
    arrays, static = eqx.partition(mlp, eqx.is_inexact_array)
    v = jtu.tree_map(
        lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), arrays
    )

    def loss(mlp):
        return jnp.sin(mlp(x))

    def gradient(t):
        moved = jtu.tree_map(lambda p, q: p + t * q, arrays, v)
        return jax.grad(lambda p: loss(eqx.combine(p, static)))(moved)

    expected = jax.jit(lambda t: nested(gradient, 3)(t))(0.0)
    actual = eqx.filter_jit(directional_gradients)(loss, mlp, v, 3)
    assert isinstance(actual, eqx.nn.MLP) and actual.activation is None
    for k in range(4):
        assert_close(jtu.tree_map(lambda p: p[k], actual), expected[k], scale=10.0)
    product = eqx.filter_jit(hvp)(loss, mlp, v)
    assert_close(product, expected[1], scale=10.0)
    assert_close(
        directional_gradients(loss, mlp, v, 0).layers[0].bias[0],
        expected[0].layers[0].bias,
    )
    # It takes the parameters that do not move as they are.
    one = eqx.tree_at(
        lambda p: p.layers[0].bias,
        jtu.tree_map(lambda p: None, arrays),
        v.layers[0].bias,
        is_leaf=lambda p: p is None,
    )
    part = eqx.filter_jit(hvp)(loss, mlp, one)
    assert part.layers[1].weight.shape == (8, 8)


# -- what is wrong

X = jnp.array([0.1, 0.2, 0.3])
WRONG = {
    "too short": (
        lambda: partial_derivative(jnp.sum, X, (1, 1)),
        ValueError,
        ["partial_derivative", "`multi_index`", "(2,)", "(3,)", "one integer for each"],
    ),
    "negative": (
        lambda: partial_derivative(jnp.sum, X, (1, -1, 0)),
        ValueError,
        ["partial_derivative", "negative", "(1, -1, 0)"],
    ),
    "no integers": (
        lambda: partial_derivative(jnp.sum, X, (1.0, 0.0, 0.0)),
        TypeError,
        ["partial_derivative", "integers"],
    ),
    "traced": (
        lambda: jax.jit(lambda i: partial_derivative(jnp.sum, X, i))(jnp.arange(3)),
        TypeError,
        ["partial_derivative", "known while tracing"],
    ),
    "integer inputs": (
        lambda: partial_derivative(jnp.sum, jnp.arange(3), (1, 0, 0)),
        TypeError,
        ["partial_derivative", "int", "floating point"],
    ),
    "negative order": (
        lambda: derivative_tensor(jnp.sum, X, -1),
        ValueError,
        ["derivative_tensor", "`order`", "-1"],
    ),
    "no scalar: hvp": (
        lambda: hvp(jnp.sin, X, X),
        TypeError,
        ["hvp", "real scalar", "(3,)", "value_jacobian_hessian"],
    ),
    "no scalar: gradients": (
        lambda: directional_gradients(lambda x: {"y": x[0]}, X, X, 2),
        TypeError,
        ["directional_gradients", "real scalar"],
    ),
    "complex: gradients": (
        lambda: directional_gradients(lambda x: jax.lax.complex(x[0], x[1]), X, X, 2),
        TypeError,
        ["directional_gradients", "real scalar", "complex"],
    ),
    "integers: hvp": (
        lambda: hvp(jnp.sum, jnp.arange(3), X),
        TypeError,
        ["hvp", "no floating-point array", "i64[3]"],
    ),
    "a direction that does not fit": (
        lambda: hvp(jnp.sum, X, X[:2]),
        ValueError,
        ["hvp", "(2,)", "(3,)"],
    ),
    "integers: all three": (
        lambda: value_jacobian_hessian(jnp.sum, jnp.arange(3)),
        TypeError,
        ["value_jacobian_hessian", "int"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_error(name):
    assert_raises(*WRONG[name])
