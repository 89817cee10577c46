"""Programs whose values on the device are compared with those on the CPU: networks,
linear algebra, control flow, operators, solves and their gradients."""

import functools as ft
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np
import optimistix as optx

import eqx_taylor
from eqx_taylor import (
    _outer_solar_system as solar_system,
    TaylorController,
    TaylorSolver,
)

from ._check import Check
from ._ensembles import lorenz_problem, NATIVE_ADJOINT
from ._networks import network
from ._steps import Sizes


def _random(shape: tuple[int, ...], key: int) -> Callable[[Any], Any]:
    # Of NumPy, so that float32 is float64 rounded, and both devices have the same.
    values = np.random.default_rng(key).normal(size=shape)
    return lambda dtype: jnp.asarray(values, dtype)


def _jet(name: str, fun: Callable, shape: tuple[int, ...], order: int, arrays=None):
    """The jet along a line; `fun` takes `arrays`, if there are any, and the point."""
    x, v = _random(shape, 1), _random(shape, 2)

    def args(dtype):
        cast = jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays)
        return cast, x(dtype), v(dtype)

    def coefficients(arrays, x, v):
        along = fun if arrays is None else lambda x: fun(arrays, x)
        value, terms = eqx_taylor.filter_jet(
            along, (x,), ([v] + [None] * (order - 1),), factorial_scaled=False
        )
        return [*jax.tree.leaves(value), *jax.tree.leaves(terms)]

    return Check(name, coefficients, args)


# -- jets


def _in_module(module: Any) -> tuple[Any, Callable]:
    arrays, static = eqx.partition(module, eqx.is_inexact_array)
    return arrays, lambda arrays: eqx.combine(arrays, static)


def networks(sizes: Sizes) -> list[Check]:
    order = sizes.check_order
    mlp_arrays, mlp = network((16, 128, 128, 16), dtype=jnp.float64)
    layer, attention = _in_module(
        eqx.nn.MultiheadAttention(4, 32, key=jax.random.key(4), inference=True)
    )
    kernel, convolution = _in_module(eqx.nn.Conv2d(3, 8, 3, key=jax.random.key(2)))
    return [
        _jet("MLP", jax.vmap(mlp, in_axes=(None, 0)), (32, 16), order, mlp_arrays),
        _jet("attention", lambda a, x: attention(a)(x, x, x), (16, 32), order, layer),
        _jet(
            "convolution",
            lambda a, x: jnp.tanh(convolution(a)(x)),
            (3, 12, 12),
            order,
            kernel,
        ),
    ]


def linear_algebra(sizes: Sizes) -> list[Check]:
    order = sizes.check_order

    def positive(x):
        return x @ x.T + 8 * jnp.eye(8, dtype=x.dtype)

    def right_side(x):
        return jnp.arange(1, 9, dtype=x.dtype)

    def cholesky_solve(x):
        factor = jax.scipy.linalg.cho_factor(positive(x), lower=True)
        return jax.scipy.linalg.cho_solve(factor, right_side(x))

    def solve(x):
        return jnp.linalg.solve(positive(x) + 2 * x, right_side(x))

    def least_squares(x):
        q, r = jnp.linalg.qr(positive(x) + 2 * x)
        return jax.scipy.linalg.solve_triangular(r, q.T @ right_side(x))

    def spectrum(x):
        # Eigenvalues well apart, so that their derivatives are of size 1.
        a = (x + x.T) / 8 + jnp.diag(5 * right_side(x))
        values, vectors = jnp.linalg.eigh(a)
        return values, vectors[:, :1] @ vectors[:, :1].T

    def singular_values(x):
        a = x / 8 + jnp.diag(5 * right_side(x))
        return jnp.linalg.svd(a, compute_uv=False)

    def log_determinant(x):
        return jnp.linalg.slogdet(positive(x) + 2 * x)[1]

    named = {
        "Cholesky solve": cholesky_solve,
        "LU solve": solve,
        "QR solve": least_squares,
        "eigh": spectrum,
        "singular values": singular_values,
        "slogdet": log_determinant,
    }
    return [_jet(name, fun, (8, 8), order) for name, fun in named.items()]


def control_flow(sizes: Sizes) -> list[Check]:
    order = sizes.check_order
    cell, gru = _in_module(eqx.nn.GRUCell(8, 16, key=jax.random.key(3)))

    def scan(arrays, xs):
        h = jnp.zeros(16, xs.dtype)
        return jax.lax.scan(lambda h, x: (gru(arrays)(x, h), None), h, xs)[0]

    def while_loop(x):
        def body(state):
            i, y = state
            return i + 1, jnp.sin(y) + y / 2

        return jax.lax.while_loop(lambda state: state[0] < 10, body, (0, x))[1]

    def cond(x):
        branches = (jnp.exp, jnp.sin)
        return jax.vmap(lambda y: jax.lax.cond(y > 0, *branches, y))(x)

    def switch(x):
        index = jnp.argmax(x)
        return jax.lax.switch(index % 3, [jnp.sin, jnp.cos, jnp.tanh], x)

    return [
        _jet("scan (GRU)", scan, (10, 8), order, cell),
        _jet("while_loop", while_loop, (16,), order),
        _jet("cond under vmap", cond, (16,), order),
        _jet("switch", switch, (16,), order),
        _jet("sort, cumsum", lambda x: jnp.cumsum(jnp.sort(jnp.tanh(x))), (16,), order),
    ]


def operators(sizes: Sizes) -> list[Check]:
    order = sizes.check_order
    arrays, apply = network((5, 32, 32, 1), dtype=jnp.float64)
    x = _random((16, 5), 5)
    state = solar_system.initial_state()

    def args(dtype):
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays), x(dtype)

    def at_points(operator):
        def fun(arrays, x):
            return [jax.vmap(lambda x: operator(lambda y: apply(arrays, y)[0], x))(x)]

        return fun

    def coefficients(y):
        found = eqx_taylor.ode_jet(
            solar_system.vector_field, jnp.zeros_like(y[0][0, 0]), y, order=order
        )
        return jax.tree.leaves(found)

    def initial(dtype):
        return (jax.tree.map(lambda y: jnp.asarray(y, dtype), state),)

    return [
        Check("laplacian", at_points(eqx_taylor.laplacian), args),
        Check("biharmonic", at_points(eqx_taylor.biharmonic), args),
        Check("ode_jet", coefficients, initial),
    ]


# -- solves


def _order(sizes: Sizes) -> int:
    """The same for all dtypes, so that one program does for both."""
    return min(10, sizes.highest_order)


def _tolerance(sizes: Sizes) -> Callable[[Any], float]:
    exact = 1e-9 if _order(sizes) == 10 else 1e-3
    return lambda dtype: max(exact, 1e-5) if dtype == jnp.float32 else exact


def _pendulum(t, y, args):
    angle, velocity = y
    return velocity, -args * jnp.sin(angle)


def _solve(sizes, y0, length, tolerance, *, t1=3.0, adjoint=None, **kwargs):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_pendulum),  # pyright: ignore[reportArgumentType]
        TaylorSolver(order=_order(sizes)),
        t0=jnp.zeros_like(tolerance),
        t1=jnp.full_like(tolerance, t1),
        dt0=None,
        y0=y0,
        args=length,
        stepsize_controller=TaylorController(rtol=tolerance, atol=tolerance),
        max_steps=256,
        **({} if adjoint is None else dict(adjoint=adjoint)),
        **kwargs,
    )


def _solve_args(sizes):
    def args(dtype):
        values = (1.0, 0.2), 1.3, _tolerance(sizes)(dtype)
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), values)

    return args


def solves(sizes: Sizes) -> list[Check]:
    accuracy = _tolerance(sizes)

    def at_the_end(y0, length, tolerance):
        return jax.tree.leaves(_solve(sizes, y0, length, tolerance).ys)

    def event(y0, length, tolerance):
        found = diffrax.Event(
            # With float64 enabled, Diffrax wants its own dtype of floats from it.
            lambda t, y, args, **kwargs: jnp.asarray(y[0], float),
            optx.Bisection(rtol=tolerance, atol=tolerance),
        )
        solution = _solve(sizes, y0, length, tolerance, event=found, t1=10.0)
        # The angle there is zero, of which there are no relative errors.
        assert solution.ys is not None
        return [solution.ts, solution.ys[1]]

    def dense(y0, length, tolerance, **kwargs):
        ts = jnp.linspace(0.1, 2.9, 7, dtype=tolerance.dtype)
        save = diffrax.SaveAt(ts=ts, dense=True, steps=False)
        solution = _solve(sizes, y0, length, tolerance, saveat=save, **kwargs)
        between = jax.vmap(solution.evaluate)(ts + 0.05)
        return jax.tree.leaves((solution.ys, between))

    def in_lanes(y0, rho, tolerance, **kwargs):
        def one(y0, rho):
            def field(t, y, rho):
                a, b, c = y
                return jnp.stack([10 * (b - a), a * (rho - c) - b, a * b - 8 * c / 3])

            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                TaylorSolver(order=_order(sizes)),
                t0=jnp.zeros_like(tolerance),
                t1=jnp.ones_like(tolerance),
                dt0=None,
                y0=y0,
                args=rho,
                stepsize_controller=TaylorController(rtol=tolerance, atol=tolerance),
                max_steps=4096,
                **kwargs,
            )
            assert solution.ys is not None
            return solution.ys[-1]

        return [jax.vmap(one, in_axes=-1, out_axes=-1)(y0, rho)]

    def lanes(dtype):
        tolerance = jnp.asarray(accuracy(dtype), dtype)
        return (*lorenz_problem(sizes.check_lanes, dtype), tolerance)

    native = ft.partial(dense, adjoint=NATIVE_ADJOINT)
    named = {
        "diffeqsolve": at_the_end,
        "event": event,
        "SaveAt(ts, dense)": dense,
        "NativeAdjoint, SaveAt(ts, dense)": native,
    }
    # Steps, and what is found between them, differ within the tolerance.
    return [
        *[
            Check(name, fun, _solve_args(sizes), accuracy)
            for name, fun in named.items()
        ],
        *[
            Check(
                f"{name}vmap over {sizes.check_lanes} lanes",
                fun,
                lanes,
                lambda dtype: 10 * accuracy(dtype),
            )
            for name, fun in [
                ("", in_lanes),
                ("NativeAdjoint, ", ft.partial(in_lanes, adjoint=NATIVE_ADJOINT)),
            ]
        ],
    ]


def gradients(sizes: Sizes) -> list[Check]:
    accuracy = _tolerance(sizes)

    def derivative(name):
        adjoint = getattr(diffrax, name)

        def loss(y0, length, tolerance):
            solution = _solve(sizes, y0, length, tolerance, adjoint=adjoint())
            assert solution.ys is not None
            angle, velocity = solution.ys
            return angle[-1] ** 2 + velocity[-1]

        transform = jax.jacfwd if name == "ForwardMode" else jax.grad

        def fun(y0, length, tolerance):
            both = transform(loss, argnums=(0, 1))(y0, length, tolerance)
            return jax.tree.leaves(both)

        return fun

    return [
        Check(
            f"gradient by {name}",
            derivative(name),
            _solve_args(sizes),
            # Of the error of the backward solve, which grows with the solution.
            lambda dtype: 100 * accuracy(dtype),
        )
        for name in (*sizes.adjoints, "ForwardMode")
    ]


def groups() -> dict[str, Callable[[Sizes], list[Check]]]:
    return {
        "networks": networks,
        "operators, ODE coefficients": operators,
        "solves": solves,
        "gradients of solves": gradients,
        "linear algebra": linear_algebra,
        "control flow": control_flow,
    }
