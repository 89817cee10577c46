"""`filter_jet`: PyTrees of anything, Modules among them."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from helpers import assert_close, assert_orders_close, derivatives, nested_jet
from jax import lax
from jaxtyping import Array

from eqx_taylor import filter_jet


X = np.array([0.3, -0.7, 0.9])
V = np.array([0.5, 0.4, -0.2])


class Affine(eqx.Module):
    """With a function, a string, an integer and `None` among its leaves."""

    weight: Array
    bias: Array | None
    activation: object
    name: str
    power: int

    def __call__(self, x):
        y = self.weight @ x
        if self.bias is not None:
            y = y + self.bias
        assert self.name == "affine"
        return self.activation(y) ** self.power

    def twice(self, x, *, factor=1.0):
        return self(self(x)) * factor


def _affine(bias=True):
    weight = jnp.array([[0.2, 0.4, -0.3], [0.1, -0.6, 0.5], [0.7, 0.2, 0.1]])
    return Affine(weight, jnp.asarray(V) if bias else None, jnp.tanh, "affine", 2)


def _call(module, x):
    return module(x)


def _orders(out):
    value, series = out
    assert isinstance(series, list)
    return [value, *series]


# -- what may be a primal, a term, a leaf


@pytest.mark.parametrize("bias", [True, False])
def test_module_as_primal(bias):
    """Its term is the module, filtered: `None` for all that is not an array."""
    module, x = _affine(bias), jnp.asarray(X)
    slope = eqx.filter(jtu.tree_map(lambda a: a * 0.3, eqx.filter(module, eqx.is_array)),
                       eqx.is_inexact_array)  # fmt: skip
    actual = _orders(
        filter_jet(
            _call, (module, x), ([slope, None, None], [None, x, slope.weight[0]])
        )
    )

    def along(t):
        moved = eqx.apply_updates(module, jtu.tree_map(lambda a: a * t, slope))
        return moved(x + x * t**2 / 2 + slope.weight[0] * t**3 / 6)

    assert_orders_close(actual, derivatives(along, 3)(jnp.array(0.0)))


def test_leaves_that_are_not_arrays():
    def fun(tree, nothing):
        assert tree["mode"] == "sin" and nothing is None and tree["f"] is jnp.sin
        return tree["f"](tree["x"]) * tree["n"] * tree["pair"][0]

    x = jnp.asarray(X)
    tree = dict(mode="sin", f=jnp.sin, x=x, n=3, pair=(2.0, None), flag=True)
    nothing = dict(mode=None, f=None, x=None, n=None, pair=(None, None), flag=None)
    first = dict(nothing, x=V)
    second = dict(nothing, pair=(0.5, None))
    actual = _orders(filter_jet(fun, (tree, None), ([first, second], None)))

    def along(t):
        return jnp.sin(x + t * V) * 3 * (2.0 + 0.25 * t**2)

    assert_orders_close(actual, derivatives(along, 2)(jnp.array(0.0)))


@pytest.mark.parametrize(
    "series, moves",
    [
        (([V, None], None), (1, 0)),
        (([V, V], [None, None]), (2, 0)),
        (([None, V], [V, None]), (2, 1)),
        ((None, (None, V)), (0, 2)),
        (([None, None], None), (0, 0)),
    ],
    ids=lambda x: str(x) if isinstance(x[0], int) else "",
)
def test_none_for_terms_and_for_whole_primals(series, moves):
    x, y = jnp.asarray(X), jnp.asarray(V)
    actual = _orders(filter_jet(lambda x, y: x * jnp.exp(y), (x, y), series))
    dense = [
        [jnp.zeros(3) if term is None else term for term in terms or [None, None]]
        for terms in series
    ]
    assert_orders_close(actual, nested_jet(lambda x, y: x * jnp.exp(y), (x, y), dense))


def test_a_leaf_of_a_term_may_be_none():
    def fun(tree):
        return tree["a"] * jnp.sin(tree["b"][0])

    tree = dict(a=jnp.asarray(X), b=[jnp.asarray(V)])
    series = [dict(a=V, b=[None]), dict(a=None, b=[X]), dict(a=None, b=[None])]
    actual = _orders(filter_jet(fun, (tree,), (series,)))
    zero = jnp.zeros(3)
    expected = nested_jet(
        lambda a, b: a * jnp.sin(b), (X, V), [[V, zero, zero], [zero, X, zero]]
    )
    assert_orders_close(actual, expected)


# -- what may be a function


def _plain(module):
    return lambda x: module.twice(x)


_FUNCTIONS = {
    "function": _plain,
    "module": lambda module: eqx.nn.Sequential([eqx.nn.Lambda(_plain(module))]),
    "bound method": lambda module: module.twice,
    "partial": lambda module: ft.partial(Affine.twice, module),
    "filter_jit": lambda module: eqx.filter_jit(module.twice),
    "filter_jit of a plain function": lambda module: eqx.filter_jit(_plain(module)),
    "filter_checkpoint": lambda module: eqx.filter_checkpoint(_plain(module)),
    "filter_custom_jvp": lambda module: eqx.filter_custom_jvp(_plain(module)),
    "filter_closure_convert": lambda module: eqx.filter_closure_convert(
        _plain(module), jnp.asarray(X)
    ),
    "finalise_jaxpr": lambda module: eqx.internal.finalise_fn(_plain(module)),
    "jit": lambda module: jax.jit(_plain(module)),
    "checkpoint": lambda module: jax.checkpoint(_plain(module)),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_functions(name):
    module = _affine()
    fun = _FUNCTIONS[name](module)
    if name == "filter_custom_jvp":
        fun.def_jvp(lambda primals, tangents: eqx.filter_jvp(
            _plain(module), primals, tangents))  # fmt: skip
    actual = _orders(filter_jet(fun, (jnp.asarray(X),), ([V, X, None],)))
    expected = nested_jet(_plain(module), (X,), [[V, X, jnp.zeros(3)]])
    assert_orders_close(actual, expected)


def test_keywords():
    """They go to the function, whether it names them or takes all."""
    module, x = _affine(), jnp.asarray(X)
    value, series = filter_jet(module.twice, (x,), ([V, None],), factor=3.0)
    expected = nested_jet(lambda x: module.twice(x) * 3.0, (X,), [[V, jnp.zeros(3)]])
    assert_orders_close([value, *series], expected)

    def takes_all(x, **kwargs):
        return x * kwargs["scale"] if kwargs["mode"] == "times" else x

    value, [slope] = filter_jet(takes_all, (x,), ([V],), scale=x, mode="times")
    assert_close(slope, x * V)


def test_keywords_do_not_move():
    x = jnp.asarray(X)

    def fun(x, *, shift):
        return jnp.sin(x + shift)

    out = jax.jit(lambda s: filter_jet(fun, (x,), ([V, None],), shift=s))(x)
    expected = nested_jet(lambda x: jnp.sin(x + X), (X,), [[V, jnp.zeros(3)]])
    assert_orders_close(_orders(out), expected)


# -- results


def test_results_that_do_not_move():
    def fun(x):
        return dict(
            y=x * x, n=jnp.array([1, 2]), name="out", f=jnp.sin, none=None, one=1
        )

    value, (first, second) = filter_jet(fun, (jnp.asarray(X),), ([V, None],))
    assert value["name"] == "out" and value["f"] is jnp.sin
    assert value["none"] is None and value["one"] == 1
    np.testing.assert_array_equal(value["n"], [1, 2])
    for term in (first, second):
        assert set(term) == {"y", "n", "name", "f", "none", "one"}
        assert all(term[name] is None for name in term if name != "y")
    assert_close(first["y"], 2 * X * V)
    assert_close(second["y"], 2 * V * V)


def test_module_as_result():
    def fun(x):
        return Affine(jnp.outer(x, x), None, jnp.tanh, "affine", 2)

    value, [first, second] = filter_jet(fun, (jnp.asarray(X),), ([V, None],))
    assert isinstance(value, Affine) and value.name == "affine"
    assert isinstance(second, Affine) and second.name is None
    assert_close(first.weight, np.outer(X, V) + np.outer(V, X))
    assert_close(second.weight, 2 * np.outer(V, V))


def test_terms_go_in_as_they_come_out():
    """The composition of two jets is the jet of the composition."""
    x, module = jnp.asarray(X), _affine()
    series = [V, X, None, None]
    middle, middle_series = filter_jet(module, (x,), (series,))
    actual = _orders(filter_jet(module, (middle,), (middle_series,)))
    assert_orders_close(actual, _orders(filter_jet(module.twice, (x,), (series,))))


def test_factorial_scaled():
    x = jnp.asarray(X)
    coefficients = filter_jet(jnp.sin, (x,), ([V, X / 2],), factorial_scaled=False)
    derivatives = filter_jet(jnp.sin, (x,), ([V, X],))
    by_order = _orders(coefficients)
    assert_orders_close([*by_order[:2], 2 * by_order[2]], _orders(derivatives))


def test_dtypes_of_leaves_are_their_own():
    def fun(tree):
        return jtu.tree_map(jnp.sin, tree)

    dtypes = ["float16", "float32", "float64", "complex64", "bfloat16"]
    tree = {dtype: jnp.ones(2, dtype) for dtype in dtypes}
    value, series = filter_jet(fun, (tree,), ([tree, None, None],))
    for term in (value, *series):
        assert {dtype: term[dtype].dtype.name for dtype in dtypes} == dict(
            zip(dtypes, dtypes)
        )


# -- composition with Equinox's transformations; the third derivative of an MLP


def _mlp():
    return eqx.nn.MLP(3, 2, 4, 2, activation=jnp.tanh, key=jax.random.key(0))


def _third(mlp, x):
    return filter_jet(mlp, (x,), ([V, None, None],))[1][2]


def _third_nested(mlp, x):
    return derivatives(lambda t: mlp(x + t * V), 3)(jnp.array(0.0))[3]


def _per_transformation(third):
    def loss(mlp, x):
        return jnp.sum(third(mlp, x) ** 2)

    def body(x, _):
        y = third(_mlp(), x)
        return x + jnp.sum(y), y

    mlp_slope = eqx.filter(_mlp(), eqx.is_inexact_array)
    both = jnp.stack([X, V])
    ensemble = eqx.filter_vmap(
        lambda key: eqx.nn.MLP(3, 2, 4, 2, activation=jnp.tanh, key=key)
    )(jax.random.split(jax.random.key(1), 2))
    x = jnp.asarray(X)
    return {
        "filter_jit": lambda: eqx.filter_jit(third)(_mlp(), x),
        "filter_vmap over x": lambda: eqx.filter_vmap(third, in_axes=(None, 0))(
            _mlp(), both
        ),
        "filter_vmap over modules": lambda: eqx.filter_vmap(third)(ensemble, both),
        "filter_grad": lambda: eqx.filter_grad(loss)(_mlp(), x),
        "filter_checkpoint": lambda: eqx.filter_grad(eqx.filter_checkpoint(loss))(
            _mlp(), x
        ),
        "filter_jvp": lambda: eqx.filter_jvp(third, (_mlp(), x), (mlp_slope, x)),
        "scan": lambda: lax.scan(body, x, None, length=2),
    }


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", _per_transformation(_third))
def test_composition(name):
    actual, expected = (
        eqx.filter_jit(_per_transformation(third)[name])()
        for third in (_third, _third_nested)
    )
    assert_close(
        eqx.filter(actual, eqx.is_array), eqx.filter(expected, eqx.is_array), 500
    )


def test_filter_jet_of_filter_jet():
    """Mixed derivatives: in the input twice, in the weights twice."""
    mlp, x = _mlp(), jnp.asarray(X)
    slope = eqx.filter(mlp, eqx.is_inexact_array)

    def second(mlp):
        return filter_jet(mlp, (x,), ([V, None],))[1][1]

    def nested(t):
        moved = eqx.apply_updates(mlp, jtu.tree_map(lambda a: a * t, slope))
        return derivatives(lambda s: moved(x + s * V), 2)(jnp.array(0.0))[2]

    actual = _orders(eqx.filter_jit(filter_jet)(second, (mlp,), ([slope, None],)))
    assert_orders_close(actual, jax.jit(derivatives(nested, 2))(jnp.array(0.0)), 200)


def test_stateful_layers_and_keys():
    """Random keys, and the state of a normalisation layer."""
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        3, axis_name="batch", mode="batch"
    )
    dropout = eqx.nn.Dropout(0.5)
    key = jax.random.key(3)

    def fun(x, state, key):
        y, state = norm(jnp.sin(x), state)
        return dropout(y, key=key), state

    def jet(x):
        (y, _), series = filter_jet(fun, (x, state, key), ([x, None], None, None))
        return [y, *[term[0] for term in series]]

    def nested(x):
        return derivatives(lambda t: fun(x + t * x, state, key)[0], 2)(jnp.array(0.0))

    xs = jnp.stack([X, V])
    actual, expected = (jax.vmap(f, axis_name="batch")(xs) for f in (jet, nested))
    assert_orders_close(actual, expected, 200)


# -- types

_TYPED = {
    "sin": jnp.sin,
    "relu": jax.nn.relu,
    "power": lambda x: x**3,
    "quotient": lambda x: 1 / x,
    "where": lambda x: jnp.where(x > 0, x, 0.0),
    "scan": lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=2)[0],
    "while": lambda x: lax.while_loop(lambda c: c < 1, lambda c: c * 2, x),
    "cond": lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x),
    "logsumexp": jax.nn.logsumexp,
    "conversion": lambda x: x.astype("float16"),
    "complex": lambda x: lax.complex(x, jnp.sin(x)),
}


@pytest.mark.parametrize("x", [0.7, np.float32(0.7)], ids=["weak", "strong"])
@pytest.mark.parametrize("name", _TYPED)
def test_types_are_those_of_jvp(name, x):
    """Shapes, dtypes and weak types: a Python number in does not fix the dtype of what
    comes out."""
    fun = _TYPED[name]

    def by_jvp(x):
        x = jnp.asarray(x)
        return jax.jvp(fun, (x,), (jnp.ones_like(x),))

    def by_jet(x):
        value, terms = filter_jet(fun, (x,), ([1.0, None, 0.5],))
        return value, *terms

    value, slope = jax.eval_shape(by_jvp, x)
    first, *others = jax.eval_shape(by_jet, x)
    types = [(x.shape, x.dtype, x.weak_type) for x in (value, slope, first, *others)]
    assert types[2] == types[0]
    assert set(types[3:]) == {types[1]}
