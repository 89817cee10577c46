import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close
from jax import lax

from eqx_taylor import filter_jet
from eqx_taylor.programs import count_primitives, jarrett, simplify


X = jnp.linspace(-1.9, 1.8, 6)


def _chain(length):
    def fun(x):
        for i in range(length):
            x = jnp.tanh(x) + 0.1 * i * x if i % 2 else jnp.sin(x) * x
        return x

    return fun


def _residuals(fun, *args):
    """The arrays that reverse mode stores."""
    _, pullback = jax.eval_shape(lambda *args: jax.vjp(fun, *args), *args)
    return jax.tree.leaves(pullback)


def _bytes(fun, *args):
    return sum(x.size * x.dtype.itemsize for x in _residuals(fun, *args))


# -- what is stored


def test_a_chain_stores_what_one_operation_does():
    assert _bytes(jarrett(_chain(20)), X) == _bytes(jnp.sin, X) == X.size * 8
    assert _bytes(_chain(20), X) > 20 * X.size * 8
    # Under `jit` and `vmap` as well.
    assert _bytes(jax.jit(jarrett(_chain(20))), X) == X.size * 8
    assert _bytes(jax.vmap(jarrett(_chain(20))), X) == X.size * 8


def test_gelu_stores_one_array():
    [stored] = _residuals(jarrett(jax.nn.gelu), X)
    assert stored.shape == X.shape
    assert len(_residuals(jax.nn.gelu, X)) > 1


def test_one_array_for_each_argument():
    def fun(x, y, z):
        return jnp.sin(x * y) * jnp.exp(z) / (1.0 + y**2)

    assert len(_residuals(jarrett(fun), X, X, X)) == 3
    # Of those that are differentiated.
    assert len(_residuals(lambda x: jarrett(fun)(x, X, X), X)) == 1


def test_three_sines_have_a_pullback_of_one_product():
    _, pullback = jax.vjp(jarrett(lambda x: jnp.sin(jnp.sin(jnp.sin(x)))), X)
    assert count_primitives(pullback, X).counts == {"mul": 1}


def test_second_derivatives_store_no_more():
    def second(fun):
        return lambda x: jax.vjp(lambda x: jax.vjp(fun, x)[1](jnp.ones_like(x))[0], x)

    def stored(fun):
        pullback = jax.eval_shape(second(fun), X)[1]
        return len(jax.tree.leaves(pullback))

    assert stored(jarrett(_chain(12))) <= 2 < stored(_chain(12))


# -- derivatives are what they were

_ACTIVATIONS = [
    jax.nn.relu, jax.nn.softplus, jax.nn.silu, jax.nn.elu, jax.nn.selu, jax.nn.mish,
    jax.nn.gelu, ft.partial(jax.nn.gelu, approximate=False), jax.nn.log_sigmoid,
    jax.nn.hard_swish, jax.nn.squareplus, jax.nn.celu, jax.nn.leaky_relu,
    jax.nn.soft_sign, jnp.tanh, jax.scipy.special.erf, jnp.cbrt, jnp.arctan,
]  # fmt: skip


def test_activations():
    """Values, slopes and second derivatives, in reverse mode."""

    def all_of(wrap, x):
        def each(fun):
            def second(x):
                return jnp.sum(jax.grad(lambda x: jnp.sum(wrap(fun)(x)))(x) * X)

            return wrap(fun)(x), jax.grad(second)(x), jax.vmap(jax.grad(wrap(fun)))(x)

        return [each(fun) for fun in _ACTIVATIONS]

    actual = jax.jit(ft.partial(all_of, jarrett))(X)
    expected = jax.jit(ft.partial(all_of, lambda fun: fun))(X)
    assert_close(actual, expected)


def _two(x, y):
    return jnp.tanh(jnp.sin(x * y) * y + x) / (1.0 + y * y)


@pytest.mark.parametrize("shapes", [((6,), ()), ((3, 1), (1, 2))])
def test_transformations(shapes):
    x, y = (jnp.asarray(np.random.default_rng(0).normal(size=s)) for s in shapes)

    def all_of(fun):
        def total(x, y):
            return jnp.sum(fun(x, y) ** 2)

        slopes = jax.grad(total, argnums=(0, 1))
        series = ([x, None, x], [y, y, None])
        return [
            fun(x, y),
            slopes(x, y),
            jax.hessian(total, argnums=(0, 1))(x, y),
            jax.jacrev(jax.jacrev(jax.grad(total)), argnums=1)(x, y),
            jax.jvp(slopes, (x, y), (x, y)),
            jax.vmap(slopes)(jnp.stack([x, 2 * x]), jnp.stack([y, y])),
            filter_jet(fun, (x, y), series),
            filter_jet(slopes, (x, y), series),
        ]

    actual, expected = jax.jit(ft.partial(all_of, jarrett(_two)))(), jax.jit(ft.partial(all_of, _two))()  # fmt: skip
    assert_close(actual, expected, ulps=1e3)


def test_closed_over_arrays_are_differentiated():
    def loss(scale, fun=jarrett):
        return jnp.sum(fun(lambda x: jnp.sin(scale * x))(X))

    assert_close(jax.grad(loss)(0.7), jax.grad(lambda s: loss(s, lambda f: f))(0.7))


def test_modules():
    prelu = eqx.nn.PReLU(0.3)

    def loss(prelu, wrap):
        return jnp.sum(wrap(prelu)(X) ** 2)

    actual = eqx.filter_grad(loss)(prelu, jarrett)
    expected = eqx.filter_grad(loss)(prelu, lambda f: f)
    assert_close(actual.negative_slope, expected.negative_slope)

    def mlp_slope(wrap):
        mlp = eqx.nn.MLP(3, 3, 4, 2, wrap(jax.nn.gelu), key=jr.key(0))
        batch = jnp.sin(jnp.arange(12.0)).reshape(4, 3)

        @eqx.filter_jit
        @eqx.filter_grad
        def slope(mlp):
            return jnp.sum(jax.vmap(mlp)(batch) ** 2)

        return jax.tree.leaves(eqx.filter(slope(mlp), eqx.is_array))

    assert_close(mlp_slope(jarrett), mlp_slope(lambda f: f))


def test_pytrees():
    @jarrett
    def fun(tree, *, power, mask):
        a = jnp.where(mask, tree["x"] ** power, -tree["y"])
        return dict(a=a, b="b", c=tree["x"] > 0, d=jnp.sin(tree["y"]))

    tree = dict(x=X, y=X + 1)
    out = fun(tree, power=3, mask=X > 0.5)
    assert out["b"] == "b" and out["c"].dtype == bool

    def total(tree):
        out = fun(tree, power=3, mask=X > 0.5)
        return jnp.sum(out["a"]) + jnp.sum(out["d"])

    slopes = jax.grad(total)(tree)
    assert_close(slopes["x"], jnp.where(X > 0.5, 3 * X**2, 0.0))
    assert_close(slopes["y"], jnp.where(X > 0.5, 0.0, -1.0) + jnp.cos(X + 1))
    # Of an output that depends on one argument only the one slope is stored.
    stored = _residuals(lambda x, y: jarrett(lambda x, y: (jnp.sin(x), jnp.cos(y)))(x, y), X, X)  # fmt: skip
    assert len(stored) == 2


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_dtypes(dtype):
    x = (lax.complex(X, X + 0.3) if dtype[0] == "c" else X).astype(dtype)

    def fun(x):
        return jnp.sin(x * x) * jnp.exp(-x)

    def slope(fun):
        return jax.vjp(fun, x)[1](jnp.ones_like(x))

    assert_close(slope(jarrett(fun)), slope(fun))
    # To another precision and back.
    wide = "complex128" if dtype[0] == "c" else "float64"
    both = [slope(lambda x: f(x.astype(wide)).astype(dtype)) for f in (jarrett(fun), fun)]  # fmt: skip
    assert_close(*both)


def test_simplified():
    fun = simplify(jax.grad(lambda x: jnp.sum(jarrett(_chain(4))(x))))
    assert_close(jax.jit(fun)(X), jax.grad(lambda x: jnp.sum(_chain(4)(x)))(X))


# -- what is refused

_REFUSED = {
    "reduce_max": jax.nn.softmax,
    "dot_general": lambda x: x @ x,
    "cumsum": jnp.cumsum,
    "rev": lambda x: x[::-1],
    "reduce_sum": lambda x: x + jnp.sum(x),
    "sort": jnp.sort,
    "broadcast_in_dim": lambda x: x[:, None] * x[None, :],
    "reshape": lambda x: x.reshape(2, 3),
    "transpose": lambda x: jnp.broadcast_to(x, (6, 6)).T,
    "cond": lambda x: lax.cond(True, jnp.sin, jnp.cos, x),
    "scan": lambda x: lax.scan(lambda y, _: (jnp.sin(y), None), x, length=3)[0],
    "argmax": lambda x: x * jnp.argmax(x).astype(float),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_what_is_not_elementwise(name):
    fun = _REFUSED[name]
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        with pytest.raises(ValueError, match=f"jarrett: .* not elementwise.* `{name}`"):
            jarrett(wrap(fun))(X)


def test_what_has_no_single_slope():
    @jax.custom_vjp
    def with_vjp(x):
        return jnp.sin(x)

    with_vjp.defvjp(lambda x: (with_vjp(x), x), lambda x, g: (jnp.cos(x) * g,))
    with pytest.raises(ValueError, match="custom_vjp.* forward mode"):
        jarrett(with_vjp)(X)
    for name, fun in [("real", jnp.real), ("abs", jnp.abs), ("conj", jnp.conj)]:
        with pytest.raises(ValueError, match=f"`{name}`.* complex argument"):
            jarrett(fun)(lax.complex(X, X))

    @jax.custom_jvp
    def odd(x):
        return jnp.sin(x)

    odd.defjvp(lambda x, dx: (odd(*x), jnp.cumsum(dx[0])))
    with pytest.raises(ValueError, match="`cumsum`"):
        jax.grad(lambda x: jnp.sum(jarrett(odd)(x)))(X)


def test_what_does_not_depend_on_the_arguments_may_be_anything():
    table = jnp.arange(6.0)

    def fun(x):
        return x * jnp.sum(table) + jnp.cumsum(table) + jr.normal(jr.key(0), x.shape)

    assert_close(jarrett(fun)(X), fun(X))


def test_bad_input():
    with pytest.raises(TypeError, match="`?fun`?"):
        jarrett(3)
    with pytest.raises(TypeError, match="jarrett: the Python code of `fun`"):
        jarrett(lambda x: x if x > 0 else -x)(jnp.array(1.0))


def test_axes_of_length_one_may_be_dropped():
    x = X[None]
    for fun in (
        lambda a: jnp.sin(a)[0],
        lambda a: jnp.squeeze(jnp.sin(a)[None], (0, 1)) * a[0],
    ):
        value, slope = jax.jvp(jarrett(fun), (x,), (2 * x,))
        expected = jax.jvp(fun, (x,), (2 * x,))
        assert_close([value, slope], list(expected))
        for wrap in (lambda f: f, jax.jit):
            gradient = jax.grad(lambda a, f=fun: jnp.sum(wrap(jarrett(f))(a)))(x)
            assert_close(gradient, jax.grad(lambda a, f=fun: jnp.sum(f(a)))(x))


def test_stop_gradient():
    def fun(x):
        return lax.stop_gradient(jnp.sin(x)) * x + lax.stop_gradient(x)

    hessian = jax.hessian(lambda x: jnp.sum(jarrett(fun)(x)))(X)
    assert_close(hessian, jnp.zeros_like(hessian))
    gradient = jax.grad(lambda x: jnp.sum(jarrett(fun)(x)))(X)
    assert_close(gradient, jnp.sin(X))
