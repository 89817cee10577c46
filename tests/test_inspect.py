import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import count_equations
from jax import lax

from eqx_taylor import filter_jet
from eqx_taylor._programs.inspect import counts_by_order, nested
from eqx_taylor.programs import count_primitives, cse, plot_primitive_counts, simplify


def _fun(x):
    return 0.3 * jnp.sin(x) * x**10


def test_counts():
    found = count_primitives(_fun, 1.3)
    assert found.counts == {"mul": 2, "integer_pow": 1, "sin": 1}
    assert list(found.counts)[0] == "mul"
    assert found.total == 4
    # x^10 is four products.
    assert found.flops == 2 + 4 + 1
    assert count_primitives(jnp.sin, jax.ShapeDtypeStruct((3,), float)).flops == 3


def test_calls_are_looked_through():
    @jax.jit
    def inner(x):
        return jnp.sin(x) * 2.0

    found = count_primitives(lambda x: inner(x) + inner(inner(x)), 1.0)
    assert found.counts == {"mul": 3, "sin": 3, "add": 1}
    # Those of a checkpoint and of a custom rule as well, besides these themselves.
    found = count_primitives(jax.checkpoint(inner), 1.0)
    assert found.total == 3 and found.counts["sin"] == 1
    found = count_primitives(jax.nn.relu, 1.0)
    assert found.counts == {"custom_jvp_call": 1, "max": 1}


def test_loops_and_branches():
    def inner(y):
        return lax.scan(lambda z, _: (z * 2.0, None), y, None, length=3)[0]

    def fun(x):
        def body(y, _):
            return jnp.sin(inner(y)), None

        y = lax.scan(body, x, None, length=5)[0]
        y = lax.while_loop(lambda y: jnp.sum(y) < 3, lambda y: y + 1, y)
        return lax.cond(y[0] > 0, jnp.cos, lambda y: y * y + y, y)

    x = jnp.ones(2)
    once = count_primitives(fun, x)
    assert (once.counts["sin"], once.counts["scan"], once.counts["mul"]) == (1, 2, 2)
    weighed = count_primitives(fun, x, weigh_loops=True)
    assert weighed.counts["sin"] == 5 and weighed.counts["mul"] == 5 * 3 + 1
    # Operations are of all turns in any case; of branches, those of the larger one.
    cond = 1 + 2 * 2
    loop = (1 + 2) + 2
    assert once.flops == weighed.flops == 5 * (2 + 3 * 2) + loop + cond


def test_operations():
    a, b = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
    assert count_primitives(jnp.matmul, a, b).flops == 2 * 2 * 3 * 4 * 5
    assert count_primitives(lambda a: jnp.sum(a, axis=1), a).flops == 24
    assert count_primitives(lambda a: a.T.reshape(6, 4)[::2], a).flops == 0
    image, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((5, 3, 2, 2))
    conv = count_primitives(lambda x, k: lax.conv(x, k, (1, 1), "VALID"), image, kernel)
    assert conv.flops == 2 * (5 * 7 * 7) * (3 * 2 * 2)
    assert count_primitives(jnp.linalg.cholesky, jnp.eye(6)).flops >= 6**3 / 3


def test_modules_and_pytrees():
    mlp = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jr.key(0))
    found = count_primitives(lambda m, tree: m(tree["x"]), mlp, dict(x=jnp.ones(3), y=None))  # fmt: skip
    assert found.counts == {"add": 2, "dot_general": 2, "tanh": 1}
    assert found == count_primitives(mlp, jnp.ones(3))
    # Integers and strings are a part of the program.
    found = count_primitives(lambda x, *, n, mode: [x * n, mode], jnp.ones(2), n=3, mode="")  # fmt: skip
    assert found.total == 1


def test_agrees_with_the_count_of_the_tests():
    for fun in (_fun, jax.hessian(_fun), nested(_fun, 3), simplify(nested(_fun, 2))):
        assert count_primitives(fun, 1.3).total == count_equations(fun, 1.3)


def test_counts_by_order():
    counts = counts_by_order(_fun, [1, 3], 1.0)
    assert list(counts) == ["nested jvp", "cse", "simplify", "jet"]
    for order, *totals in zip([1, 3], *counts.values(), strict=True):
        by_jvp = nested(_fun, order)
        expected = [by_jvp, cse(by_jvp), simplify(by_jvp)]
        expected = [count_equations(fun, 1.0) for fun in expected]
        assert totals[:3] == expected
        terms = [jnp.ones_like(1.0)] + [None] * (order - 1)
        jet = count_equations(lambda x: filter_jet(_fun, (x,), (terms,)), 1.0)  # noqa: B023
        assert totals[3] == jet
        assert totals[0] >= totals[1] > totals[2]


def test_nested_are_the_derivatives():
    x = jnp.array(0.4)
    np.testing.assert_allclose(
        nested(jnp.sin, 3)(x), [np.sin(x), np.cos(x), -np.sin(x), -np.cos(x)]
    )


def test_plot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = plot_primitive_counts(jnp.sin, range(1, 3), x=jnp.ones(2))
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["nested jvp", "cse", "simplify", "jet"]
    counts = counts_by_order(jnp.sin, [1, 2], jnp.ones(2))
    for name, line in lines.items():
        np.testing.assert_array_equal(line.get_xdata(), [1, 2])
        np.testing.assert_array_equal(line.get_ydata(), counts[name])
    ax.figure.savefig(tmp_path / "counts.png")
    figure, own = plt.subplots()
    assert plot_primitive_counts(jnp.sin, [1], ax=own) is own
    plt.close("all")


def test_bad_input():
    for orders in ([], [0], [2, -1]):
        with pytest.raises(ValueError, match="`orders` must be positive integers"):
            plot_primitive_counts(jnp.sin, orders)
    with pytest.raises(TypeError, match="`?fun`?"):
        count_primitives(3)
    with pytest.raises(TypeError, match="count_primitives: the Python code of `fun`"):
        count_primitives(lambda x: x if x > 0 else -x, 1.0)
