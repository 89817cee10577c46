"""The page on how to add a rule is a program, and what it says is so."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from helpers import derivatives
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

import eqx_taylor
from eqx_taylor import jet, rules


_PAGE = pathlib.Path(__file__).parents[1] / "docs/devdocs/adding_a_rule.md"


@pytest.fixture(scope="module")
def page():
    text = _PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
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


# -- what a function closes over, of which JAX makes operands


_WEIGHTS = np.array([1.0, 0.5, 0.25])


def _scaled(define):
    """`_WEIGHTS * x`, with a rule."""

    @jax.custom_jvp
    def scaled(x):
        return jnp.asarray(_WEIGHTS, x.dtype) * x

    scaled.defjvp(lambda primals, tangents: (scaled(*primals), scaled(*tangents)))
    define(scaled)
    return scaled


def _of_arguments(target):
    @rules.register(target)
    def rule(walk, eqn, inputs):
        [x] = inputs
        [var] = eqn.invars
        assert var.aval.shape == x.aval.shape

        def compute(k):
            return None if x[k] is None else rules.bind(eqn, [x[k]])[0]

        return [rules.Series(eqn.outvars[0].aval, x.support, compute)]


DEFINITIONS = {
    "define_linear": rules.define_linear,
    "define_piecewise_linear": rules.define_piecewise_linear,
    "define_rewrite": lambda target: rules.define_rewrite(
        target, lambda x: x * jnp.asarray(_WEIGHTS, x.dtype)
    ),
    "define_derivative": lambda target: rules.define_derivative(
        target, lambda y, x, dx: dx * jnp.asarray(_WEIGHTS, dx.dtype)
    ),
    "register": _of_arguments,
    "no rule": lambda target: None,
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_function_that_closes_over_an_array(name):
    """The rule is given the arguments alone: a linear function is not linear in what
    it closes over."""
    fun = _scaled(DEFINITIONS[name])
    n = np.arange(1.0, 4.0)

    def curve(t):
        return fun(jnp.sin(t * n))

    t = 0.3
    exact = _WEIGHTS * np.stack(
        [np.sin(t * n), n * np.cos(t * n), -(n**2) * np.sin(t * n)]
    )

    def second(t):
        return eqx_taylor.derivatives(curve, t, 2)

    np.testing.assert_allclose(second(t), exact, rtol=1e-14)
    np.testing.assert_allclose(jax.jit(second)(t), exact, rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(second)(jnp.array([t]))[0], exact, rtol=1e-14)
    # In a loop, and in a jet of a jet, where the call has been applied anew.
    in_a_loop = eqx_taylor.derivatives(
        lambda t: jax.lax.scan(lambda y, _: (fun(y), None), curve(t), length=2)[0], t, 2
    )
    np.testing.assert_allclose(in_a_loop, exact * _WEIGHTS**2, rtol=1e-14)
    fourth = eqx_taylor.derivatives(lambda t: second(t)[2], t, 2)[2]
    np.testing.assert_allclose(fourth, -(n**2) * exact[2], rtol=1e-13)
    terms = eqx_taylor.ode_jet(lambda t, y, args: fun(y), 0.0, jnp.ones(3), order=2)
    np.testing.assert_allclose(
        terms, [np.ones(3), _WEIGHTS, _WEIGHTS**2 / 2], rtol=1e-15
    )
    # Sums over directions.
    laplacian = eqx_taylor.laplacian(lambda x: fun(jnp.sin(x)), jnp.asarray(n))
    np.testing.assert_allclose(laplacian, -_WEIGHTS * np.sin(n), rtol=1e-14)


# -- what is declared, as the collapsed mode reads it


def _number_of_vectors(fun, x, name):
    """How many vectors all operations of this name are applied to."""

    def jaxprs(values):
        for value in values:
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield inner

    def count(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == name:
                total += int(np.prod(eqn.outvars[0].aval.shape[:-1]))
            total += sum(map(count, jaxprs(eqn.params.values())))
        return total

    # Not `fun` itself, of which JAX may know the program before a rule was registered.
    return count(jax.make_jaxpr(lambda x: fun(x))(x).jaxpr)


def _filtered(x):
    return jnp.fft.irfft(jnp.fft.rfft(x) / 2, x.shape[-1]) + x


def test_collapsed_mode_knows_what_is_declared_linear():
    """One transform of the sum, and not one for each direction."""
    n = 6
    matrix = jax.random.normal(jax.random.key(0), (n, n))
    x = jnp.linspace(0.0, 1.0, n)

    @jax.custom_jvp
    def smooth(x):
        return _filtered(x)

    # Linear for whoever knows trigonometry, and not by the program alone.
    @smooth.defjvp
    def _(primals, tangents):
        one = jnp.cos(primals[0]) ** 2 + jnp.sin(primals[0]) ** 2
        return smooth(*primals), one * smooth(*tangents)

    def fun(x):
        return smooth(jnp.sin(matrix @ x))

    def laplacian(x):
        return eqx_taylor.laplacian(fun, x)

    hessian = jax.jit(jax.hessian(lambda x: _filtered(jnp.sin(matrix @ x))))(x)
    exact = jnp.trace(hessian, axis1=1, axis2=2)
    np.testing.assert_allclose(laplacian(x), exact, rtol=1e-12)
    assert _number_of_vectors(laplacian, x, "fft") > 2
    rules.define_linear(smooth, fused=False)
    np.testing.assert_allclose(laplacian(x), exact, rtol=1e-12)
    # There and back, and nothing of the rule for `jax.jvp`.
    assert _number_of_vectors(laplacian, x, "fft") == 2
    assert _number_of_vectors(laplacian, x, "cos") == 0
    # Inside of a call, a loop, a checkpoint.
    for within in (
        lambda x: jax.jit(fun)(x),
        lambda x: jax.checkpoint(fun)(x),
        lambda x: jax.lax.scan(lambda y, _: (smooth(y), None), fun(x), length=1)[0],
    ):
        count = _number_of_vectors(
            lambda x, f=within: eqx_taylor.laplacian(f, x), x, "fft"
        )
        assert count in (2, 4)
    # Another rule takes it back.
    rules.define_piecewise_linear(smooth)
    assert _number_of_vectors(laplacian, x, "cos") > 0
    np.testing.assert_allclose(laplacian(x), exact, rtol=1e-12)


def test_collapsed_mode_knows_a_primitive_of_ones_own():
    primitive = Primitive("own_mean")

    def implementation(x):
        return (x + jnp.flip(x, -1)) / 2

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(lambda x: x)
    batching.primitive_batchers[primitive] = lambda args, axes: (
        primitive.bind(batching.moveaxis(args[0], axes[0], 0)),
        0,
    )
    mlir.register_lowering(
        primitive, mlir.lower_fun(implementation, multiple_results=False)
    )
    rules.define_linear(primitive)
    x = jnp.arange(1.0, 4.0)

    def laplacian(x):
        return eqx_taylor.laplacian(lambda x: primitive.bind(jnp.sin(x)), x)

    assert _number_of_vectors(laplacian, x, "own_mean") == 1
    np.testing.assert_allclose(laplacian(x), implementation(-jnp.sin(x)), rtol=1e-15)


def test_collapsed_mode_knows_the_right_hand_sides_of_systems():
    """One solution for the sum, where the matrix does not depend on the direction."""
    matrix = jnp.eye(3) + jax.random.normal(jax.random.key(0), (3, 3)) / 4
    x = jnp.arange(1.0, 4.0)
    systems = {
        "custom_linear_solve": lambda b: jnp.linalg.solve(matrix, b),
        "triangular_solve": lambda b: jax.scipy.linalg.solve_triangular(
            matrix, b, lower=True
        ),
        "tridiagonal_solve": lambda b: jax.lax.linalg.tridiagonal_solve(
            jnp.array([0.0, 0.1, 0.2]),
            jnp.ones(3),
            jnp.array([0.3, 0.1, 0.0]),
            b[:, None],
        )[:, 0],
    }
    for name, solve in systems.items():

        def laplacian(x, solve=solve):
            return eqx_taylor.laplacian(lambda x: solve(jnp.sin(x)), x)

        np.testing.assert_allclose(laplacian(x), solve(-jnp.sin(x)), rtol=1e-13)
        jaxpr = jax.make_jaxpr(laplacian)(x)
        shapes = [
            eqn.outvars[0].aval.shape
            for eqn in jaxpr.eqns
            if eqn.primitive.name == name
        ]
        assert all(np.prod(shape) == 3 for shape in shapes), name


# -- a primitive in the package itself

_MADE_UP = """
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

made_up_p = Primitive("made_up")
made_up = made_up_p.bind
made_up_p.def_abstract_eval(lambda x: x)
made_up_p.def_impl(jax.jit(made_up))
mlir.register_lowering(made_up_p, mlir.lower_fun(jax.nn.softplus, multiple_results=False))
ad.defjvp(made_up_p, lambda dx, x: dx * jax.nn.sigmoid(x))
batching.defvectorized(made_up_p)
"""


@pytest.mark.slow
def test_diff_on_the_page(tmp_path):
    """It is all that a new elementwise primitive takes."""
    root = _PAGE.parents[2]
    for folder in ("eqx_taylor", "tests", "benchmarks"):
        shutil.copytree(root / folder, tmp_path / folder)
    shutil.copy(root / "pyproject.toml", tmp_path)
    text = _PAGE.read_text(encoding="utf-8")
    [diff] = re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines)
        path = tmp_path / name
        before = path.read_text(encoding="utf-8")
        assert before.count(old) == 1, name
        path.write_text(before.replace(old, new), encoding="utf-8")
    (tmp_path / "tests" / "made_up.py").write_text(_MADE_UP, encoding="utf-8")
    row = tmp_path / "tests" / "test_rules.py"
    before = row.read_text(encoding="utf-8")
    head = "import jax\n"
    assert head in before
    after = before.replace(head, f"{head}from made_up import made_up\n", 1)
    row.write_text(after, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/test_rules.py",
        "-k",
        "made_up",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stdout
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None and int(passed[1]) >= 5


# -- rules that were written for `jax.experimental.jet`


def _product_rule(primals_in, series_in):
    """As `jax.experimental.jet` has it for bilinear primitives."""
    u, w = ([x, *terms] for x, terms in zip(primals_in, series_in))
    v = [sum(u[j] * w[k - j] for j in range(k + 1)) for k in range(len(u))]
    return v[0], v[1:]


def _times():
    @jax.custom_jvp
    def times(x, y):
        return x * y

    @times.defjvp
    def _(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        return times(x, y), times(dx, y) + times(x, dy)

    return times


def test_jet_rule():
    calls = []

    def rule(primals_in, series_in):
        calls.append(len(series_in[0]))
        return _product_rule(primals_in, series_in)

    times = _times()
    rules.define_jet_rule(times, rule)
    x = jnp.array([0.3, -0.7])
    found = jax.jit(
        lambda t: eqx_taylor.derivatives(
            lambda t: times(jnp.sin(t * x), jnp.exp(t * x)), t, 5
        )
    )(0.4)
    exact = derivatives(lambda t: jnp.sin(t * x) * jnp.exp(t * x), 5)(0.4)
    np.testing.assert_allclose(found, np.stack(exact), rtol=1e-13, atol=1e-15)
    assert max(calls) == 5
    # In a vector field, and in a sum over directions.
    terms = eqx_taylor.ode_jet(lambda t, y, args: times(y, y), 0.0, x, order=4)
    np.testing.assert_allclose(terms, [x**k for k in range(1, 6)], rtol=1e-14)
    laplacian = eqx_taylor.laplacian(lambda x: jnp.sum(times(x, x)), x)
    np.testing.assert_allclose(laplacian, 4.0, rtol=1e-15)


def test_jet_rule_of_a_primitive_with_several_outputs():
    primitive = Primitive("sin_and_sign")
    primitive.multiple_results = True

    def implementation(x, *, scale):
        return [jnp.sin(scale * x), jnp.sign(x)]

    primitive.def_impl(implementation)
    primitive.def_abstract_eval(lambda x, *, scale: [x, x])
    mlir.register_lowering(primitive, mlir.lower_fun(implementation, True))

    def rule(primals_in, series_in, *, scale):
        y, terms = jet(
            lambda x: jnp.sin(scale * x), primals_in, series_in, factorial_scaled=False
        )
        return [y, jnp.sign(primals_in[0])], [terms, None]

    rules.define_jet_rule(primitive, rule)
    y, (of_sin, of_sign) = jet(
        lambda x: primitive.bind(x, scale=2.0), (jnp.array(0.3),), ([1.0, 0.0],)
    )
    np.testing.assert_allclose(y[0], np.sin(0.6))
    assert y[1] == 1
    exact = [2 * np.cos(0.6), -4 * np.sin(0.6)]
    np.testing.assert_allclose(of_sin, exact, rtol=1e-15)
    np.testing.assert_array_equal(of_sign, 0)


def test_jet_rule_of_a_custom_jvp_with_several_outputs():
    @jax.custom_jvp
    def both(x, y):
        return x * y, x + y

    @both.defjvp
    def _(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        return both(x, y), (x * dy + y * dx, dx + dy)

    def rule(primals_in, series_in):
        product, terms = _product_rule(primals_in, series_in)
        sums = [a + b for a, b in zip(*series_in)]
        return [product, sum(primals_in)], [terms, sums]

    rules.define_jet_rule(both, rule)
    found = eqx_taylor.derivatives(lambda t: both(jnp.sin(t), t**2), 0.3, 4)
    exact = derivatives(lambda t: (jnp.sin(t) * t**2, jnp.sin(t) + t**2), 4)(0.3)
    for a, b in zip(found, zip(*exact)):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "rule",
    [
        lambda primals, series: primals[0],
        lambda primals, series: (primals[0], []),
        lambda primals, series: None,
    ],
)
def test_wrong_jet_rules(rule):
    times = _times()
    rules.define_jet_rule(times, rule)
    with pytest.raises(ValueError, match="the jet rule for `times` must return a pair"):
        jet(times, (1.0, 2.0), ([1.0], [1.0]))


def test_jet_rule_of_another_type():
    times = _times()
    rules.define_jet_rule(times, lambda p, s: (p[0], [jnp.ones(3) for _ in s[0]]))
    with pytest.raises(ValueError, match=r"coefficient 1 of type float64\[3\]"):
        jet(times, (1.0, 2.0), ([1.0], [1.0]))
