"""Bad input: an error while tracing that names the argument, shows what was given and
what was expected, and says what to do."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import eqx_taylor
from eqx_taylor import filter_jet, jet, laplacian, ode_jet, TaylorSolver


pytestmark = pytest.mark.usefixtures("without_types")

X = np.array([0.3, -0.7, 0.9])


def _mul(x, y):
    return x * y


def _if_positive(x):
    return x if x[0] > 0 else -x


def _while_small(x):
    while jnp.sum(x) < 10:
        x = 2 * x + 1
    return x


def _with_numpy(x):
    return np.sin(x) * x


def _field(t, y, args):
    return -y


def _solve(y0=X, terms=None, **kwargs):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_field) if terms is None else terms,
        TaylorSolver(**kwargs),
        t0=0.0,
        t1=1.0,
        dt0=0.1,
        y0=y0,
    )


def _control_term():
    ts = jnp.linspace(0.0, 1.0, 3)
    return diffrax.ControlTerm(_field, diffrax.LinearInterpolation(ts, ts))


_WEIGHTS = dict(w=jnp.ones((2, 3)), b=jnp.ones(2))


# A call, the type of the error, and what its message must have in it.
CASES = {
    # -- shapes and structures of series
    "jet: shape": (
        lambda: jet(jnp.sin, (X,), ([X[:2], X],)),
        ValueError,
        ["jet", "primals[0]", "order 1", "(2,)", "(3,)"],
    ),
    "jet: scalar for an array": (
        lambda: jet(jnp.sin, (np.ones((2, 1)),), ([1.0, 0.0],)),
        ValueError,
        ["jet", "primals[0]", "order 1", "()", "(2, 1)"],
    ),
    "jet: array for a scalar": (
        lambda: jet(jnp.sin, (0.5,), ([1.0, X],)),
        ValueError,
        ["jet", "primals[0]", "order 2", "(3,)", "()"],
    ),
    "jet: shape of a leaf": (
        lambda: jet(lambda p: p["w"], (_WEIGHTS,), (dict(w=[X], b=[X[:2]]),)),
        ValueError,
        ["jet", "primals[0]['w']", "order 1", "(3,)", "(2, 3)"],
    ),
    "jet: not a sequence of terms": (
        lambda: jet(jnp.sin, (X,), (X,)),
        TypeError,
        ["jet", "primals[0]", "tuple or list", "array of shape (3,)"],
    ),
    "jet: structure": (
        lambda: jet(lambda p: p["w"], (_WEIGHTS,), (dict(w=[1.0]),)),
        ValueError,
        ["jet", "series[0]", "structure of primals[0]", "'b'", "'w'"],
    ),
    "filter_jet: shape": (
        lambda: filter_jet(jnp.sin, (X,), ([X, X[:2]],)),
        ValueError,
        ["filter_jet", "primals[0]", "order 2", "(2,)", "(3,)"],
    ),
    "filter_jet: structure of a term": (
        lambda: filter_jet(
            lambda p: p["w"], (_WEIGHTS,), ([dict(w=None, b=None), dict(w=None)],)
        ),
        ValueError,
        ["filter_jet", "order 2", "series[0]", "structure of primals[0]", "None"],
    ),
    "filter_jet: terms of a leaf, as for jet": (
        lambda: filter_jet(lambda p: p["w"], (_WEIGHTS,), (dict(w=[X], b=[X]),)),
        TypeError,
        ["filter_jet", "series[0]", "tuple or list", "primals[0]", "dict"],
    ),
    "filter_jet: term of a string": (
        lambda: filter_jet(
            lambda x: x["x"], (dict(x=X, s="s"),), ([dict(x=X, s=1.0)],)
        ),
        TypeError,
        ["filter_jet", "primals[0]['s']", "'s'", "None"],
    ),
    "filter_jet: a string for a term": (
        lambda: filter_jet(jnp.sin, (X,), (["up"],)),
        TypeError,
        ["filter_jet", "primals[0]", "order 1", "'up'", "array"],
    ),
    "filter_jet: no sequence": (
        lambda: filter_jet(jnp.sin, (X,), (X,)),
        TypeError,
        ["filter_jet", "series[0]", "tuple or list", "array of shape (3,)"],
    ),
    # -- dtypes
    "jet: integer primal": (
        lambda: jet(_mul, (X, 2), ([X], [1])),
        TypeError,
        ["jet", "primals[1]", "int", "order 1", "zero", "floating-point"],
    ),
    "filter_jet: integer primal": (
        lambda: filter_jet(_mul, (X, jnp.array(2)), ([X, X], [None, 1])),
        TypeError,
        ["filter_jet", "primals[1]", "int", "order 2", "None", "floating-point"],
    ),
    "jet: integer primal with a traced term": (
        lambda: jax.jit(lambda s: jet(_mul, (X, 2), ([X], [s])))(0),
        TypeError,
        ["jet", "primals[1]", "int", "order 1", "known to be zero"],
    ),
    "jet: complex term of a real primal": (
        lambda: jet(jnp.sin, (X,), ([1j * X],)),
        TypeError,
        ["jet", "primals[0]", "order 1", "complex128", "float64", "Convert"],
    ),
    "jet: wide term of a narrow primal": (
        lambda: jet(jnp.sin, (X.astype(np.float32),), ([X],)),
        TypeError,
        ["jet", "primals[0]", "order 1", "float64", "float32", "Convert"],
    ),
    # -- numbers of things
    "jet: different lengths": (
        lambda: jet(_mul, (X, X), ([X, X], [X])),
        ValueError,
        ["jet", "2 for primals[0]", "1 for primals[1]", "same number", "Pad"],
    ),
    "filter_jet: different lengths": (
        lambda: filter_jet(_mul, (X, X), ([X], [X, X, None])),
        ValueError,
        ["filter_jet", "1 for primals[0]", "3 for primals[1]", "same number", "None"],
    ),
    "jet: missing primal": (
        lambda: jet(_mul, (X,), ([X],)),
        TypeError,
        ["jet", "`fun`", "1 primal", "missing", "'y'"],
    ),
    "jet: extra primal": (
        lambda: jet(jnp.sin, (X, X), ([X], [X])),
        TypeError,
        ["jet", "`fun`", "2 primals", "too many"],
    ),
    "jet: more primals than series": (
        lambda: jet(_mul, (X, X), ([X],)),
        ValueError,
        ["jet", "`primals`", "`series`", "2 primals", "1 series"],
    ),
    "filter_jet: missing primal": (
        lambda: filter_jet(_mul, (X,), ([X],)),
        TypeError,
        ["filter_jet", "`fun`", "1 primal", "missing", "'y'"],
    ),
    "filter_jet: extra primal": (
        lambda: filter_jet(_mul, (X, X, X), ([X], None, None)),
        TypeError,
        ["filter_jet", "`fun`", "3 primals", "too many"],
    ),
    "filter_jet: more series than primals": (
        lambda: filter_jet(jnp.sin, (X,), ([X], [X])),
        ValueError,
        ["filter_jet", "`primals`", "`series`", "1 primal", "2 series"],
    ),
    "jet: primals not in a tuple": (
        lambda: jet(jnp.sin, X, ([X],)),
        TypeError,
        ["jet", "`primals`", "tuple", "array of shape (3,)"],
    ),
    "filter_jet: series not in a tuple": (
        lambda: filter_jet(jnp.sin, (X,), None),
        TypeError,
        ["filter_jet", "`series`", "tuple", "None"],
    ),
    "filter_jet: no function": (
        lambda: filter_jet(X, (X,), ([X],)),
        TypeError,
        ["filter_jet", "`fun`", "callable", "array of shape (3,)"],
    ),
    # -- orders
    "jet: order 0": (
        lambda: jet(jnp.sin, (X,), ([],)),
        ValueError,
        ["jet", "series", "at least one term", "empty", "call `fun`"],
    ),
    "filter_jet: order 0": (
        lambda: filter_jet(jnp.sin, (X,), ([],)),
        ValueError,
        ["filter_jet", "series", "at least one term", "empty", "call `fun`"],
    ),
    "filter_jet: no order at all": (
        lambda: filter_jet(jnp.sin, (X,), (None,)),
        ValueError,
        ["filter_jet", "`series`", "order", "[None] * order"],
    ),
    "ode_jet: order 0": (
        lambda: ode_jet(_field, 0.0, X, order=0),
        ValueError,
        ["ode_jet", "`order`", "at least 1", "0"],
    ),
    "TaylorSolver: neither unrolled nor not": (
        lambda: TaylorSolver(unroll=0),  # type: ignore
        TypeError,
        ["TaylorSolver", "`unroll`", "True, False or None", "0 (a int)"],
    ),
    "ode_jet: neither unrolled nor not": (
        lambda: ode_jet(_field, 0.0, X, order=2, unroll="no"),  # type: ignore
        TypeError,
        ["ode_jet", "`unroll`", "True, False or None", "'no'"],
    ),
    "ode_jet: order -3": (
        lambda: ode_jet(_field, 0.0, X, order=-3),
        ValueError,
        ["ode_jet", "`order`", "at least 1", "-3"],
    ),
    "ode_jet: order 2.5": (
        lambda: ode_jet(_field, 0.0, X, order=2.5),
        TypeError,
        ["ode_jet", "`order`", "integer", "2.5"],
    ),
    "ode_jet: order True": (
        lambda: ode_jet(_field, 0.0, X, order=True),
        TypeError,
        ["ode_jet", "`order`", "integer", "True"],
    ),
    "ode_jet: traced order": (
        lambda: jax.jit(lambda n: ode_jet(_field, 0.0, X, order=n))(3),
        TypeError,
        ["ode_jet", "`order`", "integer", "before tracing"],
    ),
    "TaylorSolver: order 0": (
        lambda: TaylorSolver(order=0),
        ValueError,
        ["TaylorSolver", "`order`", "at least 1", "0"],
    ),
    "TaylorSolver: order 5.0": (
        lambda: TaylorSolver(order=5.0),
        TypeError,
        ["TaylorSolver", "`order`", "integer", "5.0"],
    ),
    "TaylorSolver: order '5'": (
        lambda: TaylorSolver(order="5"),
        TypeError,
        ["TaylorSolver", "`order`", "integer", "'5'"],
    ),
    "TaylorSolver: order True": (
        lambda: TaylorSolver(order=True),
        TypeError,
        ["TaylorSolver", "`order`", "integer", "True"],
    ),
    # -- keywords
    "jet: misspelt keyword": (
        lambda: jet(jnp.sin, (X,), ([X],), factorial_scale=False),
        TypeError,
        ["factorial_scale"],
    ),
    "filter_jet: misspelt keyword": (
        lambda: filter_jet(jnp.sin, (X,), ([X],), factorial_scale=False),
        TypeError,
        ["filter_jet", "`factorial_scale`", "`factorial_scaled`"],
    ),
    "filter_jet: misspelt keyword, which fun would swallow": (
        lambda: filter_jet(
            lambda x, **kwargs: x, (X,), ([X],), factorials_scaled=False
        ),
        TypeError,
        ["filter_jet", "`factorials_scaled`", "`factorial_scaled`"],
    ),
    "filter_jet: keyword that fun does not have": (
        lambda: filter_jet(_mul, (X, X), ([X], None), order=3),
        TypeError,
        ["filter_jet", "`fun`", "order"],
    ),
    "ode_jet: misspelt keyword": (
        lambda: ode_jet(_field, 0.0, X, oder=3),
        TypeError,
        ["oder"],
    ),
    "TaylorSolver: misspelt keyword": (
        lambda: TaylorSolver(oder=3),
        TypeError,
        ["oder"],
    ),
    # -- Python on traced values
    "jet: if": (
        lambda: jet(_if_positive, (X,), ([X],)),
        TypeError,
        ["jet", "`fun`", "depends on the value", "lax.cond", "`jnp.where`"],
    ),
    "filter_jet: while": (
        lambda: filter_jet(_while_small, (X,), ([X],)),
        TypeError,
        ["filter_jet", "`fun`", "depends on the value", "lax.while_loop"],
    ),
    "filter_jet: NumPy": (
        lambda: filter_jet(_with_numpy, (X,), ([X],)),
        TypeError,
        ["filter_jet", "`fun`", "depends on the value", "`jax.numpy`"],
    ),
    "filter_jet: range": (
        lambda: filter_jet(lambda x: sum(range(jnp.sum(x).astype(int))), (X,), ([X],)),
        TypeError,
        ["filter_jet", "`fun`", "depends on the value"],
    ),
    "filter_jet: boolean mask": (
        lambda: filter_jet(lambda x: x[x > 0], (jnp.asarray(X),), ([X],)),
        TypeError,
        ["filter_jet", "`fun`", "depends on the value", "`jnp.where`"],
    ),
    "ode_jet: if on the state": (
        lambda: ode_jet(lambda t, y, args: _if_positive(y), 0.0, X, order=3),
        TypeError,
        ["ode_jet", "vector field", "depends on the value", "lax.cond"],
    ),
    "ode_jet: if on the time": (
        lambda: ode_jet(lambda t, y, args: y if t > 1 else -y, 0.0, X, order=3),
        TypeError,
        ["ode_jet", "vector field", "depends on the value", "`jnp.where`"],
    ),
    # -- primitives without a derivative
    "jet: no derivative": (
        lambda: jet(lambda x: lax.igamma_grad_a(x, x), (X,), ([X],)),
        NotImplementedError,
        ["`igamma_grad_a`", "cannot be differentiated", "stop_gradient", "custom_jvp"],
    ),
    "jet: no second derivative": (
        lambda: jet(lambda a: lax.igamma(a, jnp.ones_like(a)), (X**2,), ([X, X],)),
        NotImplementedError,
        ["cannot be differentiated", "stop_gradient", "custom_jvp"],
    ),
    "jet: callback": (
        lambda: jet(
            lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), float), x),
            (X,),
            ([X],),
        ),
        (NotImplementedError, ValueError),
        ["allback", "custom_jvp"],
    ),
    "ode_jet: no derivative": (
        lambda: ode_jet(lambda t, y, args: lax.igamma_grad_a(y, y), 0.0, X, order=2),
        NotImplementedError,
        ["`igamma_grad_a`", "cannot be differentiated", "stop_gradient"],
    ),
    # -- vector fields and states
    "ode_jet: no vector field": (
        lambda: ode_jet(X, 0.0, X, order=2),
        TypeError,
        ["ode_jet", "`vector_field`", "f(t, y, args)"],
    ),
    "ode_jet: field of other arguments": (
        lambda: ode_jet(lambda t, y: y, 0.0, X, order=2),
        TypeError,
        ["ode_jet", "`vector_field`", "f(t, y, args)"],
    ),
    "ode_jet: structure of the slope": (
        lambda: ode_jet(
            lambda t, y, args: dict(x=y["x"]), 0.0, dict(x=X, v=X), order=2
        ),
        ValueError,
        ["ode_jet", "`vector_field`", "structure of `y0`", "'v'"],
    ),
    "ode_jet: shape of the slope": (
        lambda: ode_jet(lambda t, y, args: y["x"][:2], 0.0, dict(x=X), order=2),
        ValueError,
        ["ode_jet", "`vector_field`"],
    ),
    "ode_jet: shape of the slope of a leaf": (
        lambda: ode_jet(lambda t, y, args: dict(x=y["x"][:2]), 0.0, dict(x=X), order=2),
        ValueError,
        ["ode_jet", "`vector_field`", "y0['x']", "(2,)", "(3,)"],
    ),
    "ode_jet: complex slope of a real state": (
        jax.numpy_dtype_promotion("standard")(
            lambda: ode_jet(lambda t, y, args: 1j * y, 0.0, X, order=2)
        ),
        TypeError,
        ["complex", "float64", "state"],
    ),
    "ode_jet: integer state": (
        lambda: ode_jet(_field, 0.0, dict(n=np.arange(3)), order=2),
        TypeError,
        ["ode_jet", "y0['n']", "int", "floating-point", "`args`"],
    ),
    "ode_jet: state of strings": (
        lambda: ode_jet(_field, 0.0, dict(n="one"), order=2),
        TypeError,
        ["ode_jet", "y0['n']", "'one'", "arrays"],
    ),
    "ode_jet: t0 not a scalar": (
        lambda: ode_jet(_field, X, X, order=2),
        ValueError,
        ["ode_jet", "`t0`", "scalar", "(3,)"],
    ),
    "ode_jet: ControlTerm": (
        lambda: ode_jet(_control_term(), 0.0, 1.0, order=2),
        ValueError,
        ["ode_jet", "ControlTerm", "to_ode()"],
    ),
    "ode_jet: ControlTerm in a MultiTerm": (
        lambda: ode_jet(
            diffrax.MultiTerm(diffrax.ODETerm(_field), _control_term()),
            0.0,
            1.0,
            order=2,
        ),
        ValueError,
        ["ode_jet", "ControlTerm", "to_ode()"],
    ),
    "TaylorSolver: ControlTerm": (
        lambda: _solve(1.0, _control_term()),
        ValueError,
        ["TaylorSolver", "ControlTerm", "to_ode()"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name):
    call, kind, parts = CASES[name]
    with pytest.raises(kind) as info:
        call()
    message = str(info.value)
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in:\n{message}"


@pytest.mark.parametrize("name", ["jet: shape", "filter_jet: while", "jet: callback"])
def test_while_tracing(name):
    """Under `jit` too, before anything runs."""
    call, kind, parts = CASES[name]
    with pytest.raises(kind) as info:
        jax.jit(call).trace()
    assert all(part in str(info.value) for part in parts)


def test_no_false_alarms():
    """What resembles the mistakes above and is right."""
    # Zeros for integers; the integer 1 for a float; NumPy numbers for the order.
    jet(_mul, (X, 2), ([X], [0]))
    jet(jnp.sin, (0.5,), ([1, 0],))
    ode_jet(_field, 0, X, order=np.int64(2))
    # Keywords of the function itself, similar as they may be.
    filter_jet(lambda x, factorial_scale: x, (X,), ([X],), factorial_scale=1.0)
    # Static `if`s, and those on what does not move.
    filter_jet(lambda x, n: x if n > 1 else -x, (X, 2), ([X], None))
    # Default arguments and any number of arguments.
    jet(lambda x, y=2.0: x * y, (X,), ([X],))
    jet(lambda *xs: sum(xs), (X, X), ([X], [X]))
    # A derivative of first order is all that is needed here.
    jet(lambda a: lax.igamma(a, jnp.ones_like(a)), (X**2,), ([X],))
    # A primitive without derivative of what does not move.
    jet(lambda x: x * lax.nextafter(lax.stop_gradient(x), 2 * X), (X,), ([X, X],))


def test_errors_of_the_function_are_its_own():
    """A `TypeError` raised inside the function is not taken for a wrong call."""

    def fun(x):
        raise TypeError("inside")

    with pytest.raises(TypeError, match="^inside"):
        jet(fun, (X,), ([X],))
    with pytest.raises(TypeError, match="^inside"):
        eqx.filter_jit(lambda y: ode_jet(lambda t, y, args: fun(y), 0.0, y, order=2))(X)


# -- every function by its own name

_KEY = jax.random.key(0)
# Calls of a function at a point of two numbers, and in a direction.
ENTRY_POINTS = {
    "filter_jet": lambda f, x, v: filter_jet(f, (x,), ([v],)),
    "jet": lambda f, x, v: jet(f, (x,), ([v],)),
    "derivatives": lambda f, x, v: eqx_taylor.derivatives(f, x[0], 2),
    "nth_derivative": lambda f, x, v: eqx_taylor.nth_derivative(f, x[0], 2),
    "directional_derivatives": lambda f, x, v: eqx_taylor.directional_derivatives(
        f, x, v, 2
    ),
    "taylor_polynomial": lambda f, x, v: eqx_taylor.taylor_polynomial(f, x, v, 2),
    "laplacian": lambda f, x, v: eqx_taylor.laplacian(f, x),
    "biharmonic": lambda f, x, v: eqx_taylor.biharmonic(f, x),
    "weighted_laplacian": lambda f, x, v: eqx_taylor.weighted_laplacian(
        f, x, jnp.stack([v], -1)
    ),
    "linear_operator": lambda f, x, v: eqx_taylor.linear_operator(f, x, [(1, (1, 1))]),
    "partial_derivative": lambda f, x, v: eqx_taylor.partial_derivative(f, x, (1, 1)),
    "derivative_tensor": lambda f, x, v: eqx_taylor.derivative_tensor(f, x, 2),
    "hvp": lambda f, x, v: eqx_taylor.hvp(f, x, v),
    "directional_gradients": lambda f, x, v: eqx_taylor.directional_gradients(
        f, x, v, 2
    ),
    "value_jacobian_hessian": lambda f, x, v: eqx_taylor.value_jacobian_hessian(f, x),
    "stochastic_laplacian": lambda f, x, v: eqx_taylor.stochastic_laplacian(
        f, x, _KEY, num_samples=2
    ),
    "stochastic_biharmonic": lambda f, x, v: eqx_taylor.stochastic_biharmonic(
        f, x, _KEY, num_samples=2
    ),
}
_POINT, _DIRECTION = jnp.array([0.3, 0.4]), jnp.ones(2)


def _if_large(x):
    return jnp.sum(x) if jnp.sum(x) > 0 else x[0]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_messages_begin_with_what_was_called(name):
    call = ENTRY_POINTS[name]
    mistakes = {
        "an `if`": (_if_large, _POINT),
        "no function": (3, _POINT),
        "two arguments": (_mul, _POINT),
        "integers": (jnp.sum, jnp.arange(2)),
        "nothing to differentiate": (lambda x: jnp.sum(x).astype(int), _POINT),
    }
    for mistake, (fun, x) in mistakes.items():
        if mistake == "nothing to differentiate" and name in ("jet", "filter_jet"):
            continue  # Their terms are zero, or `None`.
        with pytest.raises((TypeError, ValueError)) as info:
            call(fun, x, _DIRECTION)
        assert str(info.value).startswith(f"{name}: "), mistake


def test_order_zero_under_jit():
    call = jax.jit(lambda x: eqx_taylor.directional_gradients(_if_large, x, x, 0))
    with pytest.raises(TypeError, match="^directional_gradients: the Python code of"):
        call(_POINT)


def test_a_point_that_is_no_scalar():
    for fun in (
        lambda: eqx_taylor.derivatives(jnp.sin, 0, 3),
        lambda: eqx_taylor.nth_derivative(jnp.sin, "zero", 3),
        lambda: eqx_taylor.nth_derivative(jnp.sum, X, 3),
    ):
        with pytest.raises((TypeError, ValueError), match=r": `?x`? "):
            fun()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, jnp.array(np.inf)])
def test_coefficients_of_operators_are_finite(value):
    with pytest.raises(ValueError, match=r"^linear_operator: .* terms\[1\] .* finite"):
        eqx_taylor.linear_operator(jnp.sum, _POINT, [(1.0, (1, 0)), (value, (0, 2))])


def test_keywords_of_any_name():
    """Those of the function are not taken for ours."""

    def fun(x, *, fun, primals, series, caller, t):
        return x * fun + primals + series + caller + t

    keywords = dict(fun=2.0, primals=3.0, series=4.0, caller=5.0, t=6.0)
    value, [slope] = filter_jet(fun, (1.0,), ([1.0],), **keywords)
    assert (value, slope) == (20.0, 2.0)
    assert eqx_taylor.programs.count_primitives(fun, 1.0, **keywords).total > 0


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_python_numbers_are_points(name):
    """And PyTrees of them; all functions take the same."""
    at_number = {
        "derivatives": lambda: eqx_taylor.derivatives(jnp.sin, 0.5, 2),
        "nth_derivative": lambda: eqx_taylor.nth_derivative(jnp.sin, 0.5, 2),
        "weighted_laplacian": lambda: eqx_taylor.weighted_laplacian(
            jnp.sin, 0.5, jnp.ones(1)
        ),
        "linear_operator": lambda: eqx_taylor.linear_operator(jnp.sin, 0.5, [(1, 2)]),
        "partial_derivative": lambda: eqx_taylor.partial_derivative(jnp.sin, 0.5, 2),
    }.get(name, lambda: ENTRY_POINTS[name](jnp.sin, 0.5, 1.0))
    found = [x for x in jax.tree.leaves(at_number()) if jnp.shape(x) != (2,)]
    assert all(np.all(np.isfinite(x)) for x in found if name[:10] != "stochastic")
    assert len(found) > 0


def test_hessian_of_python_numbers():
    """The Hessian of x² y³ is [[2 y³, 6 x y²], [6 x y², 6 x² y]]."""

    def fun(p):
        return p["x"] ** 2 * p["y"] ** 3

    p = {"x": 2.0, "y": 3.0}
    assert eqx_taylor.hvp(fun, p, {"x": 1.0, "y": 0.0}) == {"x": 54.0, "y": 108.0}
    # Numbers without a direction are not parameters, as in a model.
    assert eqx_taylor.hvp(fun, p, {"x": 1.0, "y": None}) == {"x": 54.0, "y": None}
    mixed = {"x": jnp.array(2.0), "y": 3.0}
    found = eqx_taylor.hvp(fun, mixed, {"x": jnp.array(1.0), "y": None})
    assert found == {"x": 54.0, "y": None}
    gradients = eqx_taylor.directional_gradients(jnp.sin, 0.0, 1.0, 2)
    np.testing.assert_array_equal(gradients, [1.0, 0.0, -1.0])


def test_value_that_a_custom_derivative_closes_over():
    """It is made inside of the function that is differentiated."""

    def fun(x):
        scale = jnp.sin(x)

        @jax.custom_jvp
        def doubled(z):
            return 2 * z

        @doubled.defjvp
        def _(primals, tangents):
            return doubled(*primals), 2 * tangents[0] * (scale / scale)

        return doubled(x) * x

    x = jnp.array(1.0)
    for call in (
        lambda: filter_jet(fun, (x,), ([x, None],)),
        lambda: ode_jet(lambda t, y, args: fun(y), 0.0, x, order=3),
        lambda: laplacian(fun, x),
    ):
        with pytest.raises(ValueError, match="closes over a value .* as an argument"):
            call()
    with pytest.raises(ValueError, match="derivative of `doubled`"):
        filter_jet(fun, (x,), ([x, None],))


def test_product_in_places_that_occur_twice():
    def fun(x):
        return x.at[jnp.array([0, 0])].multiply(x[:2])

    with pytest.raises(NotImplementedError, match="unique_indices=True.*fori_loop"):
        filter_jet(fun, (jnp.asarray(X),), ([jnp.asarray(X), None],))
