"""Derivatives along lines, and Taylor polynomials."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_raises, derivatives as nested

import eqx_taylor
from eqx_taylor import (
    derivatives,
    directional_derivatives,
    nth_derivative,
    taylor_polynomial,
    TaylorPolynomial,
)


class Wave(eqx.Module):
    frequency: jax.Array
    name: str = "wave"

    def __call__(self, t, phase=0.0):
        y = jnp.sin(self.frequency * t + phase)
        return {"y": y, "two": jnp.stack([y**2, jnp.exp(t)]), "name": self.name}


def test_derivatives():
    wave = Wave(jnp.array(1.3))
    out = jax.jit(lambda t: derivatives(wave, t, 6, phase=0.4)["two"])(0.7)
    expected = nested(lambda t: wave(t, 0.4)["two"], 6)(jnp.array(0.7))
    assert_close(out, jnp.stack(expected))
    # Everything that is no array is `None`, and so are integers.
    out = derivatives(wave, jnp.array(0.7), 2)
    assert out["name"] is None and out["y"].shape == (3,)
    assert derivatives(lambda t: (t, jnp.arange(3)), 0.5, 1)[1] is None
    # Each derivative is the derivative of the one before.
    for n in range(1, 4):
        slope = jax.grad(lambda t: nth_derivative(wave, t, n - 1)["y"])(0.7)
        assert_close(nth_derivative(wave, 0.7, n)["y"], slope)
    assert nth_derivative(jnp.sin, 0.3, 0) == jnp.sin(0.3)
    assert_close(derivatives(lambda t: jnp.exp(t), jnp.zeros(()), 0), jnp.ones(1))
    # A constant, and numbers that are no arrays.
    constant = derivatives(lambda t: 3.0, 0.1, 2)
    np.testing.assert_array_equal(constant, [3.0, 0.0, 0.0])


def test_derivatives_are_transformed():
    ts = jnp.linspace(0.1, 0.9, 5)
    out = jax.vmap(lambda t: derivatives(jnp.sin, t, 3))(ts)
    expected = jnp.stack([jnp.sin(ts), jnp.cos(ts), -jnp.sin(ts), -jnp.cos(ts)], 1)
    assert_close(out, expected)
    # With respect to the function's parameters.
    slope = eqx.filter_grad(lambda wave: nth_derivative(wave, 0.7, 2)["y"])
    w, t = 1.3, 0.7
    expected = -2 * w * math.sin(w * t) - w * w * t * math.cos(w * t)
    assert_close(slope(Wave(jnp.array(w))).frequency, jnp.array(expected))
    z = jnp.array(0.3 + 0.4j)
    assert_close(nth_derivative(jnp.sin, z, 3), -jnp.cos(z))


def test_directional_derivatives():
    x = {"a": jnp.array([0.1, 0.2]), "b": jnp.array(0.3), "c": "text"}
    v = {"a": jnp.array([1.0, -0.5]), "b": None, "c": None}

    def fun(x):
        return jnp.sin(x["a"]) * jnp.exp(x["b"] * jnp.sum(x["a"]))

    def along(t):
        return fun({"a": x["a"] + t * v["a"], "b": x["b"]})

    out = jax.jit(lambda a: directional_derivatives(fun, {**x, "a": a}, v, 5))(x["a"])
    assert_close(out, jnp.stack(nested(along, 5)(jnp.zeros(()))))
    # A direction that is zero as a whole.
    out = directional_derivatives(fun, x, {"a": 0 * v["a"], "b": None, "c": None}, 2)
    assert_close(out, jnp.stack([fun(x), jnp.zeros(2), jnp.zeros(2)]))


def test_polynomial():
    x = jnp.array(0.2)
    p = jax.jit(lambda x: taylor_polynomial(jnp.sin, x, 2.0, 18))(x)
    assert isinstance(p, TaylorPolynomial) and p.order == 18
    s = jnp.linspace(-0.3, 0.3, 6).reshape(2, 3)

    @jax.jit
    def values(p, s):
        others = [p, p.derivative(), p.derivative(3), p.integral()]
        return [q.evaluate(s) for q in others], p(0.2)

    actual, middle = values(p, s)
    z = 0.2 + 2 * s
    cosines = [2 * jnp.cos(z), -8 * jnp.cos(z), (jnp.cos(0.2) - jnp.cos(z)) / 2]
    assert_close(actual, [jnp.sin(z), *cosines])
    assert_close(middle, jnp.sin(0.6).astype(float))
    assert_close(p(0.2 + 0.1j), jnp.asarray(jnp.sin(0.2 + 2 * (0.2 + 0.1j))))
    assert p.integral().derivative().order == 18
    assert_close(p.integral().derivative().coefficients, p.coefficients, ulps=2)
    assert p.derivative(30).order == 0 and p.derivative(30)(0.1) == 0
    # Of PyTrees; and as one.
    q = taylor_polynomial(Wave(jnp.array(1.0)), jnp.array(0.0), 1.0, 5)
    assert q(jnp.zeros(4))["two"].shape == (4, 2)
    value = eqx.filter_jit(lambda q, s: q(s)["y"])(q, 0.1)
    assert_close(value, jnp.asarray(0.1 - 0.1**3 / 6 + 0.1**5 / 120), ulps=5)
    constant = taylor_polynomial(jnp.sin, jnp.array(0.2), 2.0, 0)
    assert constant.order == 0 and constant(7.0) == jnp.sin(0.2)


@pytest.mark.parametrize(
    "fun, x, radius",
    [
        (lambda x: 1 / (2 - x), 0.0, 2.0),
        (lambda x: 1e-200 / (1e-3 + x), 0.0, 1e-3),
        (jnp.log, 1.5, 1.5),
        (lambda x: x**-2.5, 3.0, 3.0),
        (lambda x: 1 / (1 + 25 * x**2), 0.3, math.hypot(0.3, 0.2)),
        (lambda x: 1 / (1 + 25 * x**2), 0.0, 0.2),
        (jnp.tan, 0.0, math.pi / 2),
        (jnp.tanh, 0.5, math.hypot(0.5, math.pi / 2)),
        (lambda x: jnp.stack([jnp.sin(x), jnp.log(x)]), 2.0, 2.0),
    ],
)
def test_radius_of_convergence(fun, x, radius):
    p = taylor_polynomial(fun, jnp.array(x), 1.0, 20)
    estimate = jax.jit(lambda p: p.radius_of_convergence())(p)
    assert estimate.shape == () and abs(estimate / radius - 1) < 0.01


def test_radius_of_entire_functions():
    for fun in (jnp.exp, jnp.sin):
        radius = taylor_polynomial(fun, jnp.array(1.0), 1.0, 30).radius_of_convergence()
        assert radius > 10
    for fun in (lambda x: x**3, lambda x: 0 * x + 1.0):
        radius = taylor_polynomial(fun, jnp.array(1.0), 1.0, 12).radius_of_convergence()
        assert np.isinf(radius)


X = jnp.array([0.1, 0.2])
WRONG = {
    "negative order": (
        lambda: derivatives(jnp.sin, 0.1, -1),
        ValueError,
        ["derivatives", "`order`", "at least 0", "-1"],
    ),
    "negative n": (
        lambda: nth_derivative(jnp.sin, 0.1, -2),
        ValueError,
        ["nth_derivative", "`order`", "-2"],
    ),
    "an order that is a flag": (
        lambda: taylor_polynomial(jnp.sin, 0.1, 1.0, True),
        TypeError,
        ["taylor_polynomial", "integer", "True"],
    ),
    "an integer": (
        lambda: derivatives(jnp.sin, 1, 2),
        TypeError,
        ["derivatives", "int", "floating point"],
    ),
    "a vector": (
        lambda: nth_derivative(jnp.sin, X, 2),
        ValueError,
        ["nth_derivative", "scalar", "(2,)", "jax.vmap"],
    ),
    "an argument too many": (
        lambda: derivatives(lambda t: t, 0.1, 2, 0.2),
        TypeError,
        ["derivatives", "too many positional arguments"],
    ),
    "integers in a PyTree": (
        lambda: directional_derivatives(lambda x: x["a"], {"a": X, "n": 3}, {"a": X, "n": None}, 2),
        TypeError,
        ["directional_derivatives", "x['n']", "int", "close over"],
    ),
    "a direction of another shape": (
        lambda: directional_derivatives(jnp.sin, X, jnp.ones(3), 2),
        ValueError,
        ["directional_derivatives", "`v`", "(3,)", "(2,)"],
    ),
    "a direction of another structure": (
        lambda: taylor_polynomial(lambda x: x["a"], {"a": X}, [X], 2),
        ValueError,
        ["taylor_polynomial", "`v`", "structure of `x`"],
    ),
    "nothing that moves": (
        lambda: directional_derivatives(lambda x: 1.0, {"a": "b"}, {"a": None}, 2),
        TypeError,
        ["directional_derivatives", "no floating-point array"],
    ),
    "nothing comes out": (
        lambda: derivatives(lambda t: jnp.arange(3), 0.1, 2),
        TypeError,
        ["derivatives", "returned nothing that can be differentiated"],
    ),
    "too few coefficients": (
        lambda: taylor_polynomial(jnp.sin, 0.1, 1.0, 3).radius_of_convergence(),
        ValueError,
        ["radius_of_convergence", "at least 4", "3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_error(name):
    assert_raises(*WRONG[name])


# -- one convention for all of them


def _pair(x, scale, *, power=2):
    """What is differentiated, and what is not: of several kinds."""
    return jnp.sum(scale * x**power), {"twice": 2 * x, "name": "pair", "of": 3}


_POINT, _ALONG = jnp.array([0.3, 0.7]), jnp.array([1.0, -1.0])
EVALUATED = {
    "derivatives": lambda f, *a, **k: derivatives(f, 0.3, 3, *a, **k),
    "nth_derivative": lambda f, *a, **k: nth_derivative(f, 0.3, 2, *a, **k),
    "directional_derivatives": (
        lambda f, *a, **k: directional_derivatives(f, _POINT, _ALONG, 3, *a, **k)
    ),
    "taylor_polynomial": (
        lambda f, *a, **k: taylor_polynomial(f, _POINT, _ALONG, 3, *a, **k)
    ),
    "partial_derivative": (
        lambda f, *a, **k: eqx_taylor.partial_derivative(f, _POINT, (2, 0), *a, **k)
    ),
    "derivative_tensor": (
        lambda f, *a, **k: eqx_taylor.derivative_tensor(f, _POINT, 2, *a, **k)
    ),
    "the value as a tensor": (
        lambda f, *a, **k: eqx_taylor.derivative_tensor(f, _POINT, 0, *a, **k)
    ),
    "hvp": lambda f, *a, **k: eqx_taylor.hvp(f, _POINT, _ALONG, *a, **k),
    "directional_gradients": (
        lambda f, *a, **k: eqx_taylor.directional_gradients(
            f, _POINT, _ALONG, 2, *a, **k
        )
    ),
    "a gradient": (
        lambda f, *a, **k: eqx_taylor.directional_gradients(
            f, _POINT, _ALONG, 0, *a, **k
        )
    ),
    "value_jacobian_hessian": (
        lambda f, *a, **k: eqx_taylor.value_jacobian_hessian(f, _POINT, *a, **k)
    ),
    "laplacian": lambda f, *a, **k: eqx_taylor.laplacian(f, _POINT, *a, **k),
    "biharmonic": lambda f, *a, **k: eqx_taylor.biharmonic(f, _POINT, *a, **k),
    "weighted_laplacian": (
        lambda f, *a, **k: eqx_taylor.weighted_laplacian(f, _POINT, jnp.eye(2), *a, **k)
    ),
    "linear_operator": (
        lambda f, *a, **k: eqx_taylor.linear_operator(
            f, _POINT, [(2.0, (1, 1)), (1.0, (0, 0))], *a, **k
        )
    ),
    "stochastic_laplacian": (
        lambda f, *a, **k: eqx_taylor.stochastic_laplacian(
            f, _POINT, jax.random.key(0), *a, num_samples=4, batch_size=2, **k
        )
    ),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_further_arguments_and_what_is_not_differentiated(name):
    call = EVALUATED[name]
    x = 0.3 if name in ("derivatives", "nth_derivative") else _POINT
    plain = call(lambda x: jnp.sum(1.5 * x**3))
    found, aux = call(_pair, 1.5, power=3, has_aux=True)
    for a, b in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
        assert_close(a, b, ulps=4)
    assert aux["name"] == "pair" and aux["of"] == 3
    assert_close(aux["twice"], 2 * jnp.asarray(x))
    # Under `jit`, of arrays alone.
    compiled = jax.jit(
        lambda scale: call(lambda x, s: (jnp.sum(s * x**3), x + s), scale, has_aux=True)
    )
    found, aux = compiled(1.5)
    for a, b in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
        assert_close(a, b, ulps=4)
    assert_close(aux, jnp.asarray(x) + 1.5)
    with pytest.raises(TypeError, match="with `has_aux=True` `fun` must return a pair"):
        call(lambda x: jnp.sum(x), has_aux=True)


@pytest.mark.parametrize("name", EVALUATED)
def test_what_is_not_differentiated_is_differentiated_by_others(name):
    """As that of `jax.grad(fun, has_aux=True)` is."""
    call = EVALUATED[name]

    def aux(w):
        def fun(x):
            y = jnp.sin(w * jnp.sum(x))
            return y, y**2

        return call(fun, has_aux=True)[1]

    x = 0.3 if name in ("derivatives", "nth_derivative") else jnp.sum(_POINT)
    slope = jnp.sin(4.0 * x) * x
    assert_close(jax.grad(aux)(2.0), slope, ulps=8)
    assert_close(jax.jvp(aux, (2.0,), (1.0,))[1], slope, ulps=8)


@pytest.mark.parametrize("new, name", [(derivatives, "order"), (nth_derivative, "n")])
def test_old_forms(new, name):
    wanted = new(lambda t, a: jnp.sin(a * t), 0.3, 3, 2.0)

    def fun(t, a):
        return jnp.sin(a * t)

    for call in (lambda: new(fun, 3), lambda: new(fun, **{name: 3})):
        with pytest.warns(
            DeprecationWarning, match=rf"{new.__name__}\(fun, x, order\)"
        ):
            old = call()
        assert_close(old(0.3, 2.0), wanted)
        assert_close(old(0.3, a=2.0), wanted)
    with pytest.warns(DeprecationWarning):
        old = new(lambda t: (jnp.sin(2 * t), 5), 3, has_aux=True)
    assert old(0.3)[1] == 5
    with pytest.warns(DeprecationWarning):
        assert_close(new(fun, 3, a=2.0)(0.3), wanted)
    with pytest.warns(DeprecationWarning):
        assert_close(new(fun=fun, **{name: 3})(0.3, 2.0), wanted)
    # What is no old form is not taken for one.
    assert_close(new(fun, 0.3, order=3, a=2.0), wanted)
    assert_close(new(fun, x=0.3, order=3, a=2.0), wanted)
    for keywords in ({}, {"x": 3.0}, {"n": 3} if name == "n" else {"x": 1.0}):
        with pytest.raises(TypeError):
            new(fun, 0.3, **keywords) if keywords else new(fun)


# -- compiled, and exported


def test_jitted_as_they_are():
    mlp = eqx.nn.MLP(3, "scalar", 8, 1, jnp.tanh, key=jax.random.key(0))
    x = jnp.array([0.1, 0.2, 0.3])
    hessian = jax.hessian(mlp)(x)
    laplacian = eqx.filter_jit(eqx_taylor.laplacian)
    assert_close(laplacian(mlp, x), jnp.trace(hessian), ulps=50)
    masked = laplacian(mlp, x, mask=(True, False, True))
    assert_close(masked, hessian[0, 0] + hessian[2, 2], ulps=50)
    weighted = eqx.filter_jit(eqx_taylor.weighted_laplacian)
    # Columns that are traced, as an array and as rows of a list.
    for sigma in (jnp.eye(3), [*jnp.eye(3)], np.eye(3)):
        assert_close(weighted(mlp, x, sigma), jnp.trace(hessian), ulps=50)
    partial = eqx.filter_jit(eqx_taylor.partial_derivative)
    assert_close(partial(mlp, x, (1, 0, 1)), hessian[0, 2], ulps=200)
    with pytest.raises(TypeError, match="integers that are known while tracing"):
        partial(mlp, x, jnp.array([1, 0, 1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_radius_of_convergence_has_the_precision_of_its_coefficients(dtype):
    p = taylor_polynomial(jnp.log, jnp.asarray(1.5, dtype), jnp.asarray(1.0, dtype), 20)
    radius = p.radius_of_convergence()
    assert radius.dtype == dtype and abs(radius / 1.5 - 1) < 0.01


def _energy(x):
    return jnp.sum(jnp.sin(x) ** 2)


_EXPORTED = {
    "jet": lambda x: eqx_taylor.filter_jet(_energy, (x,), ([x, None],)),
    "derivatives": jax.vmap(lambda t: derivatives(jnp.sin, t, 4)),
    "hvp": lambda x: eqx_taylor.hvp(_energy, x, x),
    "directional_gradients": (
        lambda x: eqx_taylor.directional_gradients(_energy, x, x, 2)
    ),
    "ode_jet": lambda x: eqx_taylor.ode_jet(lambda t, y, _: -y * y, 0.0, x, order=3),
    "laplacian": jax.vmap(
        lambda x: eqx_taylor.laplacian(lambda q: _energy(q * x), jnp.ones(3))
    ),
    "simplify": eqx_taylor.programs.simplify(lambda x: jnp.sin(x) ** 2 - jnp.sin(x)),
}


@pytest.mark.parametrize("name", _EXPORTED)
def test_symbolic_dimensions(name):
    fun, x = jax.jit(_EXPORTED[name]), jnp.array([0.3, 0.5, -0.2])
    shape = jax.export.symbolic_shape("n")
    program = jax.export.export(fun)(jax.ShapeDtypeStruct(shape, x.dtype))
    for a, b in zip(*map(jax.tree.leaves, (program.call(x), fun(x))), strict=True):
        assert_close(a, b, ulps=10)


@pytest.mark.parametrize(
    "operator",
    [
        eqx_taylor.laplacian,
        eqx_taylor.biharmonic,
        eqx_taylor.value_jacobian_hessian,
        lambda fun, x: eqx_taylor.derivative_tensor(fun, x, 2),
    ],
)
def test_a_direction_for_each_of_unknown_numbers(operator):
    shape = jax.export.symbolic_shape("n")
    with pytest.raises(TypeError, match="number of entries must be known; it is n,"):
        jax.export.export(jax.jit(lambda x: operator(_energy, x)))(
            jax.ShapeDtypeStruct(shape, float)
        )
