"""The page on how to add a rule is a program, and what it says is so."""

import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.extend.core import Primitive

import eqx_taylor
from eqx_taylor import rules


_PAGE = pathlib.Path(__file__).parents[1] / "docs/devdocs/adding_a_rule.md"


@pytest.fixture(scope="module")
def page():
    text = _PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, _PAGE.name, "exec"), names)
    return names


def test_airy(page):
    terms = [1.0, 0.5, -0.3, 0.2]
    x = np.array([1.5, -2.0])

    def jet(x):
        moving = [jnp.full_like(x, term) for term in terms]
        return eqx_taylor.filter_jet(
            page["airy"], (x,), (moving,), factorial_scaled=False
        )

    for transformed in (jet, jax.jit(jet), jax.vmap(jet)):
        (value, _), found = transformed(x)
        for i, point in enumerate(x):
            path = [mpmath.mpf(point), *map(mpmath.mpf, terms)]
            exact = mpmath.taylor(
                lambda t, path=path: mpmath.airyai(mpmath.polyval(path, t, asc=True)),
                0,
                4,
            )
            actual = [value[i], *[term[i] for term, _ in found]]
            np.testing.assert_allclose(actual, np.array(exact, float), rtol=1e-12)


def test_airy_in_a_vector_field(page):
    def vector_field(t, y, args):
        return page["airy"](y)[0]

    y = jnp.array(0.5)
    found = eqx_taylor.ode_jet(vector_field, 0.0, y, None, order=4)
    f, g = page["airy"](y)
    # y' = f, y'' = f' f, y''' = f (f'' f + f'²), f'' = y f
    np.testing.assert_allclose(
        found[:4], [y, f, f * g / 2, f * (y * f * f + g * g) / 6], rtol=1e-12
    )


def test_hypot(page):
    def both(fun):
        moving = [jnp.array(1.0), jnp.array(0.5), jnp.array(-2.0)]
        return eqx_taylor.filter_jet(fun, (3.0, 4.0), (moving, moving[::-1]))

    expected = both(lambda a, b: jnp.sqrt(a * a + b * b))
    for actual, wanted in zip(
        jax.tree.leaves(both(page["hypot"])), jax.tree.leaves(expected)
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-14)


def count(jaxpr, name):
    return sum(eqn.primitive.name == name for eqn in jaxpr.eqns)


def test_rule_of_a_custom_jvp_is_used():
    @jax.custom_jvp
    def fun(x):
        return 3 * x

    @fun.defjvp
    def _(primals, tangents):
        raise AssertionError("its own rule is not to be asked")

    rules.define_linear(fun)
    x = jnp.arange(3.0)
    value, (first, second) = jax.jit(
        lambda x: eqx_taylor.filter_jet(fun, (x,), ([x, None],))
    )(x)
    assert eqx.tree_equal((value, first), (3 * x, 3 * x))
    assert np.all(second == 0)


def test_linear_and_bilinear_by_name():
    for name, define in (
        ("own_linear", rules.define_linear),
        ("own_product", rules.define_bilinear),
    ):
        primitive = Primitive(name)
        primitive.def_impl(lambda x, y=None: 2 * x if y is None else x * y)
        primitive.def_abstract_eval(lambda x, y=None: x)
        define(name)
        fun = (
            primitive.bind
            if name == "own_linear"
            else lambda x, p=primitive: p.bind(x, x)
        )
        wanted = (lambda x: 2 * x) if name == "own_linear" else lambda x: x * x
        args = (jnp.array(1.5),), ([jnp.array(2.0), jnp.array(3.0)],)
        actual = eqx_taylor.filter_jet(fun, *args)
        np.testing.assert_array_equal(
            jnp.stack(jax.tree.leaves(actual)),
            jnp.stack(jax.tree.leaves(eqx_taylor.filter_jet(wanted, *args))),
        )


def test_wrong_targets():
    with pytest.raises(TypeError, match="got <PjitFunction of <function sin"):
        rules.define_linear(jnp.sin)
    with pytest.raises(ValueError, match="call its `defjvp` first"):
        rules.define_linear(jax.custom_jvp(lambda x: x))
