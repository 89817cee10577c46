"""Linear solves, roots and optima: what is defined by an equation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from helpers import (
    assert_close,
    assert_orders_close,
    count_primitives,
    jet,
    nested_jet,
    nested_ode_jet,
    random_series,
)
from jax import lax

import eqx_taylor


A = np.array([[2.5, -0.3, 0.2], [0.1, 1.7, -0.4], [-0.6, 0.2, 1.9]])
B = np.array([0.3, -0.7, 0.9])
STACK = np.stack([A, A.T, A + 0.1])
COLUMNS = np.stack([B, 2 * B, B + 0.1])


def _dense_solve(matvec, b):
    return jnp.linalg.solve(jax.jacfwd(matvec)(b), b)


def _custom_solve(matvec, b):
    return lax.custom_linear_solve(matvec, b, _dense_solve, _dense_solve)


def _matvec_in_a_scan(a, b):
    return _custom_solve(
        lambda x: lax.scan(lambda _, row: (None, row @ x), None, a)[1], b
    )


def _matvec_in_a_branch(a, b):
    def matvec(x):
        return lax.cond(a[0, 0] > 0, lambda x: a @ (a @ x), lambda x: x, x)

    return _custom_solve(matvec, b)


def _solve_in_a_matvec(a, b):
    return _custom_solve(lambda x: x + jnp.linalg.solve(a + 2 * np.eye(3), x), b)


@jax.custom_jvp
def _twice(x):
    return 2 * x


@_twice.defjvp
def _twice_jvp(primals, tangents):
    return _twice(*primals), _twice(*tangents)


def _lineax(solver, operator=lx.MatrixLinearOperator, **kwargs):
    def solve(a, b):
        return lx.linear_solve(operator(a, **kwargs), b, solver).value

    return solve


def _gram(a):
    return lx.MatrixLinearOperator(a @ a.T, lx.positive_semidefinite_tag)


def _scipy(name, **kwargs):
    def solve(a, b):
        solver = getattr(jax.scipy.sparse.linalg, name)
        return solver(lambda x: a @ (a.T @ x), b, tol=1e-15, atol=1e-15, **kwargs)[0]

    return solve


# Each a function of `a, b` and the points.
SYSTEMS = {
    "solve": (jnp.linalg.solve, A, B),
    "solve, many right-hand sides": (jnp.linalg.solve, A, STACK[2]),
    "inv": (lambda a, b: jnp.linalg.inv(a) @ b, A, B),
    "complex solve": (jnp.linalg.solve, A + 0.3j * A.T, B - 0.5j * B[::-1]),
    "vmap of solve": (jax.vmap(jnp.linalg.solve), STACK, COLUMNS),
    "vmap of solve over a": (jax.vmap(jnp.linalg.solve, (0, None)), STACK, B),
    "a product of matrices": (lambda a, b: _custom_solve(lambda x: a @ (a.T @ x), b), A, B),
    "a nonlinear function of a": (
        lambda a, b: _custom_solve(lambda x: jnp.tanh(a) @ x + 2 * x, b), A, B,
    ),
    "matvec in a scan": (_matvec_in_a_scan, A, B),
    "matvec in a branch": (_matvec_in_a_branch, A, B),
    "solve in a matvec": (_solve_in_a_matvec, A, B),
    "custom_jvp in a matvec": (
        lambda a, b: _custom_solve(lambda x: a @ _twice(x), b), A, B,
    ),
    "cg": (_scipy("cg"), A, B),
    "gmres": (_scipy("gmres", solve_method="incremental"), A, B),
    "bicgstab": (_scipy("bicgstab"), A, B),
    "lineax": (_lineax(lx.AutoLinearSolver(well_posed=True)), A, B),
    "lineax QR": (_lineax(lx.QR()), A, B),
    "lineax Cholesky": (_lineax(lx.Cholesky(), _gram), A, B),
    "lineax diagonal": (_lineax(lx.Diagonal(), lx.DiagonalLinearOperator), B, B + 2),
    "lineax triangular": (
        _lineax(lx.Triangular(), tags=lx.lower_triangular_tag), np.tril(A), B,
    ),
    "lineax tridiagonal": (
        lambda a, b: lx.linear_solve(
            lx.TridiagonalLinearOperator(jnp.diag(a), jnp.diag(a, -1), jnp.diag(a, 1)), b
        ).value, A, B,
    ),
    "lineax CG": (_lineax(lx.CG(1e-15, 1e-15), _gram), A, B),
    "lineax GMRES of a function": (
        lambda a, b: lx.linear_solve(
            lx.FunctionLinearOperator(lambda x: a @ x, jax.eval_shape(lambda: b)),
            b, lx.GMRES(1e-15, 1e-15),
        ).value, A, B,
    ),
    "lineax of a Jacobian": (
        lambda a, b: lx.linear_solve(
            lx.JacobianLinearOperator(lambda x, _: jnp.sin(x) + a @ x, b), b
        ).value, A, B,
    ),
    "lineax of trees": (
        lambda a, b: lx.linear_solve(
            lx.PyTreeLinearOperator(
                {"x": {"x": a[0, 0], "y": a[0, 1]}, "y": {"x": a[1, 0], "y": a[1, 1]}},
                jax.eval_shape(lambda: {"x": b[0], "y": b[1]}),
            ),
            {"x": b[0], "y": b[1]},
        ).value, A, B,
    ),
    "lineax SVD": (_lineax(lx.SVD()), A, B),
    "lineax SVD, tall": (_lineax(lx.SVD()), A[:, :2], B),
    "lineax QR, tall": (_lineax(lx.QR()), A[:, :2], B),
    "lineax QR, wide": (_lineax(lx.QR()), A[:2], B[:2]),
    "vmap of lineax over b": (
        jax.vmap(_lineax(lx.LU()), (None, 1), 1), A, COLUMNS,
    ),
    "vmap of lineax over a": (jax.vmap(_lineax(lx.LU()), (2, None)), STACK, B),
    "vmap of vmap of lineax": (
        jax.vmap(jax.vmap(_lineax(lx.LU()), (None, 0)), (0, None)), STACK, COLUMNS,
    ),
}  # fmt: skip


def _newton_root(a, b):
    def fun(y, args):
        a, b = args
        return {"y": a @ y["y"] + jnp.sin(y["y"]) - b}

    solver = optx.Newton(1e-14, 1e-14)
    return optx.root_find(fun, solver, {"y": jnp.zeros(3)}, (a, b)).value


def _fixed_point(a, b):
    def fun(y, args):
        a, b = args
        return 0.1 * jnp.sin(a @ y) + b

    solver = optx.FixedPointIteration(1e-15, 1e-15)
    return optx.fixed_point(fun, solver, jnp.zeros(3), (a, b)).value


def _minimum(a, b):
    def fun(y, args):
        a, b = args
        return jnp.sum(jnp.cosh(a @ y - b))

    solver = optx.BFGS(1e-14, 1e-14)
    return optx.minimise(fun, solver, jnp.zeros(3), (a, b)).value


def _least_squares(a, b):
    def fun(y, args):
        a, b = args
        return jnp.sinh(a[:, :2] @ y) - b

    solver = optx.LevenbergMarquardt(1e-14, 1e-14)
    return optx.least_squares(fun, solver, jnp.zeros(2), (a, b)).value


def _custom_root(a, b):
    def solve(f, x):
        # As many steps as it takes, and of no use to a derivative.
        return lax.fori_loop(
            0, 50, lambda _, x: x - jnp.linalg.solve(jax.jacfwd(f)(x), f(x)), x
        )

    return lax.custom_root(
        lambda y: a @ y + jnp.sin(y) - b, jnp.zeros(3), solve, _dense_solve
    )


ROOTS = {
    "custom_root": _custom_root,
    "root_find": _newton_root,
    "fixed_point": _fixed_point,
    "minimise": _minimum,
    "least_squares": _least_squares,
    "vmap of root_find": jax.vmap(_newton_root),
}


def _agrees(fun, points, order, ulps):
    points = tuple(map(jnp.asarray, points))
    series = random_series(points, order)
    expected = nested_jet(fun, points, series)
    # The tolerances of iterative solvers are relative to right-hand sides, which are
    # others here.
    assert_orders_close(eqx.filter_jit(jet)(fun, points, series), expected, ulps)


# The rule is the same for all of Lineax: nested derivatives, which grow exponentially,
# to order 3 of a few systems, and to order 2 of what makes operators and solvers known.
_TO_ORDER_3 = ("lineax", "lineax QR, tall", "lineax QR, wide")


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name):
    fun, *points = SYSTEMS[name]
    order = 2 if "lineax" in name and name not in _TO_ORDER_3 else 3
    _agrees(fun, points, order, ulps=500)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ROOTS)
def test_roots(name):
    points = (STACK, COLUMNS) if name.startswith("vmap") else (A, B)
    # Of minima: the gradient vanishes to within its tolerance only.
    _agrees(ROOTS[name], points, 3, ulps=1e5 if name == "minimise" else 2000)


def test_high_order_root():
    """y³ + y = t at t = 2, where y = 1: against the equation itself."""

    def root(t):
        return lax.custom_root(
            lambda y: y**3 + y - t,
            jnp.array(0.9),
            lambda f, y: lax.fori_loop(
                0, 30, lambda _, y: y - f(y) / jax.grad(f)(y), y
            ),
            lambda g, r: r / g(1.0),
        )

    def residual(t):
        return root(t) ** 3 + root(t) - t

    t = (jnp.array(2.0),)
    terms = [[jnp.array(1.0), *[None] * 19]]
    y, ys = eqx_taylor.filter_jet(root, t, tuple(terms), factorial_scaled=False)
    r, rs = eqx_taylor.filter_jet(residual, t, tuple(terms), factorial_scaled=False)
    assert y == 1
    for y_k, r_k in zip(ys, rs, strict=True):
        assert_close(r_k, jnp.zeros(()), 10, scale=4 * max(1.0, abs(float(y_k))))
    # y' = 1 / (1 + 3 y²), y'' = -6 y y'³
    assert_close(ys[0], jnp.array(1 / 4), 2)
    assert_close(ys[1], jnp.array(-6 / 64 / 2), 4)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["solve", "matvec in a scan", "solve in a matvec",
                                  "lineax", "vmap of lineax over b"])  # fmt: skip
def test_in_a_vector_field(name):
    fun, a, b = SYSTEMS[name]

    def field(t, y, args):
        return fun(args * (1 + 0.1 * jnp.sin(t) + 0.1 * jnp.sum(y * y)), jnp.cos(y))

    args = (jnp.array(0.3), jnp.asarray(b), jnp.asarray(a))
    actual = jax.jit(lambda *args: eqx_taylor.ode_jet(field, *args, order=4))(*args)
    for a_k, e_k in zip(actual, nested_ode_jet(field, *args, 4), strict=True):
        assert_close(a_k, e_k, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["solve", "matvec in a scan", "lineax"])
def test_in_a_loop_in_a_vector_field(name):
    """Where what was computed at lower orders is kept from trace to trace."""
    fun, a, b = SYSTEMS[name]

    def field(t, y, args):
        def turn(y, _):
            return fun(args * (1 + 0.1 * t + 0.1 * jnp.sum(y * y)), jnp.cos(y)), None

        return lax.scan(turn, y, None, length=2)[0]

    args = (jnp.array(0.3), jnp.asarray(b), jnp.asarray(a))
    actual = jax.jit(lambda *args: eqx_taylor.ode_jet(field, *args, order=4))(*args)
    for a_k, e_k in zip(actual, nested_ode_jet(field, *args, 4), strict=True):
        assert_close(a_k, e_k, 300)


def _line(fun, order):
    def along(a, b):
        terms = [[x, *[None] * (order - 1)] for x in (a, b)]
        return jet(fun, (a, b), terms)

    return along


@pytest.mark.sample(4)
@pytest.mark.parametrize("name, solve", [
    ("solve", "custom_linear_solve"),
    ("lineax", "linear_solve"),
    ("vmap of lineax over b", "vprim"),
    ("root_find", "linear_solve"),
    ("custom_root", None),
])  # fmt: skip
def test_cost(name, solve):
    """One factorisation, one solve an order, and at most `K` products an order."""
    fun, *points = SYSTEMS.get(name) or (ROOTS[name], A, B)
    points = tuple(map(jnp.asarray, points))
    primal = count_primitives(fun, *points)
    counts = {k: count_primitives(_line(fun, k), *points) for k in (4, 8, 16)}
    if name in SYSTEMS:
        for k, count in counts.items():
            assert count["lu"] == primal["lu"]
            assert count[solve] == k + 1
    elif solve is not None:
        assert counts[16][solve] - counts[8][solve] == 8
    low, middle, high = (sum(count.values()) for count in counts.values())
    assert high - middle <= 4.2 * (middle - low)


@pytest.mark.slow
def test_operators_that_differ_in_what_they_close_over():
    """The same function but for an array, which is not an argument: two solves."""

    def fun(a, b):
        def solve(matrix):
            operator = lx.FunctionLinearOperator(
                lambda x: matrix @ x, jax.ShapeDtypeStruct(b.shape, b.dtype)
            )
            return lx.linear_solve(operator, b, lx.GMRES(1e-14, 1e-14)).value

        return solve(a) + 2 * solve(a.T) - solve(jnp.asarray(A))

    _agrees(fun, (A, B), 3, ulps=1e4)


def test_gradient_of_a_jet():
    def third(a, b):
        terms = [[a.T, None, None], [b * b, None, None]]
        return jet(jnp.linalg.solve, (a, b), terms)[3]

    a, b = jnp.asarray(A), jnp.asarray(B)
    slope = jax.jvp(third, (a, b), (a @ a, b * b))[1]
    cotangent = jax.vjp(third, a, b)[1](jnp.ones(3))
    by_vjp = jnp.sum(cotangent[0] * (a @ a)) + jnp.sum(cotangent[1] * b * b)
    assert_close(by_vjp, jnp.sum(slope), 500)
