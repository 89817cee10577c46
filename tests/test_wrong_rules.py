"""Rules of users that are wrong: one message, with the rule, the equation, the remedy."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Primitive

from eqx_taylor import filter_jet, rules
from eqx_taylor._core.jax import primitive_names
from eqx_taylor._core.rule import RULES


def _function():
    @jax.custom_jvp
    def double(x):
        return 2 * x

    double.defjvps(lambda dx, y, x: 2 * dx)
    return double


def _jet(fun, x=1.0):
    x = jnp.asarray(x)
    return filter_jet(fun, (x,), ([jnp.ones_like(x), None],))


def test_facts_that_there_are_not():
    with pytest.raises(TypeError, match=r"no fact `liner` to declare.*linear, factors"):
        rules.register(_function(), liner=slice(0, 1))


_DECLARATIONS = {
    "register": lambda target: rules.register(target),
    "define_recurrence": lambda target: rules.define_recurrence(target)(
        lambda y, x: lambda k: None
    ),
    "define_rewrite": lambda target: rules.define_rewrite(target, jnp.sin),
    "define_jet_rule": lambda target: rules.define_jet_rule(target, jnp.sin),
    "define_derivative": lambda target: rules.define_derivative(
        target, lambda y, x, dx: dx
    ),
    "define_linear": lambda target: rules.define_linear(target),
    "define_bilinear": lambda target: rules.define_bilinear(target),
    "define_piecewise_linear": lambda target: rules.define_piecewise_linear(target),
}


@pytest.mark.parametrize("name", _DECLARATIONS)
def test_names_that_no_primitive_has(name):
    """There are typing errors; and primitives are known from when they are made."""
    assert set(_DECLARATIONS) == {
        declaration
        for declaration in dir(rules)
        if declaration == "register" or declaration.startswith("define_")
    }
    before = dict(RULES)
    with pytest.raises(ValueError, match="'tanhh' is not .* there are: tanh.*Import"):
        _DECLARATIONS[name]("tanhh")
    words = "'my_own_thing' is not the name of any primitive that has been imported. I"
    with pytest.raises(ValueError, match=words):
        _DECLARATIONS[name]("my_own_thing")
    assert RULES == before
    made = Primitive(f"made_{name}")
    try:
        _DECLARATIONS[name](made.name)
        assert name == "register" or made.name in RULES
    finally:
        RULES.pop(made.name, None)


def test_names_of_other_versions_of_jax_are_the_packages_own():
    names = {name for name in RULES if isinstance(name, str)}
    assert names - primitive_names() > {"otherwise"}


@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda y: y, r"each output, 1 here; it returned <"),
        (lambda y: [y, y], r"each output, 1 here; it returned 2 of them"),
        (lambda y: [], r"each output, 1 here; it returned 0 of them"),
    ],
)
def test_other_numbers_of_series(returned, words):
    fun = _function()

    @rules.register(fun)
    def my_rule(walk, eqn, inputs):
        [x] = inputs
        y = rules.Series(eqn.outvars[0].aval, x.support, lambda k: rules.scale(x[k], 2))
        return returned(y)

    with pytest.raises(ValueError, match=rf"my_rule for `double` must.*{words}"):
        _jet(fun)


@pytest.mark.parametrize(
    "wrong, what",
    [
        (lambda x: x.astype(jnp.float32), r"float32\[3\]"),
        (lambda x: x[None], r"float64\[1, 3\]"),
        (lambda x: jnp.sum(x), r"float64\[\]"),
    ],
)
def test_other_types_of_coefficients(wrong, what):
    x = [1.0, 2.0, 3.0]
    words = rf"`double`.*my_rule.*coefficient 1 of type {what}.*float64\[3\]"
    fun = _function()

    @rules.register(fun)
    def my_rule(walk, eqn, inputs):
        [x] = inputs

        def compute(k):
            if k == 0:
                return rules.bind(eqn, [x[0]])[0]
            return None if x[k] is None else wrong(2 * x[k])

        return [rules.Series(eqn.outvars[0].aval, x.support, compute)]

    with pytest.raises(ValueError, match=words):
        _jet(fun, x)

    fun = _function()

    @rules.define_recurrence(fun)
    def my_rule_too(y, x):
        return lambda k: None if x[k] is None else wrong(2 * x[k])

    with pytest.raises(ValueError, match=words.replace("my_rule", "my_rule_too")):
        _jet(fun, x)


def test_other_types_of_series():
    fun = _function()

    @rules.register(fun)
    def my_rule(walk, eqn, inputs):
        kind = jax.ShapeDtypeStruct((2,), jnp.float32)
        return [rules.Series(kind, 0b11, lambda k: jnp.ones(2, jnp.float32))]

    with pytest.raises(ValueError, match=r"a series of type float32\[2\].*float64\[\]"):
        _jet(fun)


def test_derivatives_and_rewrites_of_other_types():
    fun = _function()
    rules.define_derivative(fun, lambda y, x, dx: (2 * dx).astype(jnp.float32))
    with pytest.raises(ValueError, match=r"`double` as its derivative returns float32"):
        _jet(fun)
    rules.define_derivative(fun, lambda y, x, dx: (2 * dx, dx))
    with pytest.raises(ValueError, match=r"float64\[\], float64\[\], and must return"):
        _jet(fun)
    rules.define_rewrite(fun, lambda x: jnp.stack([x, x]))
    with pytest.raises(ValueError, match=r"another expression returns float64\[2\]"):
        _jet(fun)


def test_other_numbers_of_arguments():
    """One that closes over an array is told of its arguments only."""
    matrix = jnp.ones(3)

    @jax.custom_jvp
    def inner(x):
        return matrix @ (x * matrix)

    inner.defjvps(lambda dx, y, x: inner(dx))
    words = r"`inner`, and cannot be called with 3 arguments.* 1 output.* 1 operand"
    x = jnp.ones(3)
    rules.define_derivative(inner, lambda y, x: x)
    with pytest.raises(TypeError, match=words):
        _jet(inner, x)
    words = r"`inner`, and cannot be called with 2 arguments"
    rules.define_recurrence(inner)(lambda y: None)
    with pytest.raises(TypeError, match=words):
        _jet(inner, x)
    words = r"`inner`, and cannot be called with 1 arguments"
    rules.define_rewrite(inner, lambda x, y, z: x)
    with pytest.raises(TypeError, match=words):
        _jet(inner, x)
    # And what is right stays right.
    rules.define_derivative(inner, lambda y, x, dx: inner(dx))
    value, (first, second) = _jet(inner, x)
    assert (value, first, second) == (3, 3, 0)


def test_errors_in_a_rule_are_its_own():
    def raises(y, x, dx):
        raise TypeError("my own")

    fun = _function()
    rules.define_derivative(fun, raises)
    with pytest.raises(TypeError, match="^my own"):
        _jet(fun)


def test_facts_and_rules_of_other_types():
    fun = _function()
    with pytest.raises(TypeError, match="`linear` must be a slice.*got 0"):
        rules.register(fun, linear=0)
    for factors in (1, (0,), (0, 1, 2)):
        with pytest.raises(
            TypeError, match=r"`factors` must be the places.*\(0, 1\); got"
        ):
            rules.register(fun, factors=factors)
    with pytest.raises(TypeError, match="a rule must be a function.*got 3"):
        rules.register(fun)(3)
    # Nothing was registered.
    assert _jet(fun) == (2, [2, 0])


def test_recurrences_without_a_step():
    fun = _function()

    @rules.define_recurrence(fun)
    def forgotten(y, x):
        def step(k):
            return rules.scale(x[k], 2)

    with pytest.raises(
        TypeError, match="`double` must return a function.*returned None"
    ):
        _jet(fun)
