"""Reverse mode through adaptive solves: how exact, in how much memory.

The Jacobian of the final state by reverse mode, with Diffrax's default adjoint, against
that of a variational integration by SciPy's DOP853. The adjoint runs steps again from
checkpoints, in another XLA program, with other roundings; where these change the length
of a step, the gradient is that of a slightly different solve. The last column is the
difference from forward mode, in which nothing is run again, and so that part alone.

Memory is what XLA sets aside for the gradient of a solve of a neural ODE, as its
`memory_analysis` has it.
"""

from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from eqx_taylor import TaylorController, TaylorSolver

from ._timing import print_machine
from .problems import kepler_slopes, lorenz_slopes


def lorenz(t, y, args):
    return jnp.stack(lorenz_slopes(y, *args))


def kepler(t, y, args):
    return jnp.concatenate(kepler_slopes(y[:2], y[2:], *args))


PROBLEMS = [
    ("Lorenz, t = 5", lorenz, [1.0, 1.0, 1.0], [10.0, 28.0, 8 / 3], 5.0),
    ("Kepler 0.6, two orbits", kepler, [0.4, 0.0, 0.0, 2.0], [1.0], 4 * np.pi),
]


def variational_jacobian(field, y0, args, t1):
    """Of the state at `t1` by the initial state and `args`."""
    n, m = len(y0), len(args)

    @jax.jit
    def linearised(y):
        return (
            field(0.0, y, args),
            jax.jacfwd(lambda y: field(0.0, y, args))(y),
            jax.jacfwd(lambda args: field(0.0, y, args))(args),
        )

    def right_hand_side(t, z):
        slope, by_y, by_args = (np.asarray(x) for x in linearised(jnp.asarray(z[:n])))
        moved = by_y @ z[n:].reshape(n, n + m)
        moved[:, n:] += by_args
        return np.concatenate([slope, moved.ravel()])

    start = np.concatenate([np.asarray(y0), np.eye(n, n + m).ravel()])
    solution = solve_ivp(
        right_hand_side, (0, t1), start, method="DOP853", rtol=1e-13, atol=1e-14
    )
    return solution.y[n:, -1].reshape(n, n + m)


def methods(tol):
    pid = diffrax.PIDController(rtol=tol, atol=tol)
    damped = diffrax.PIDController(
        rtol=tol, atol=tol, pcoeff=0.3, icoeff=0.3, safety=0.95
    )
    taylor = TaylorController(rtol=tol, atol=tol)
    yield "TaylorSolver, TaylorController", TaylorSolver(rtol=tol), taylor
    yield "TaylorSolver, PIDController", TaylorSolver(rtol=tol), damped
    yield "Dopri8, PIDController", diffrax.Dopri8(), pid


def exactness(tolerances=(1e-9, 1e-12)):
    print("\n| problem | tolerance | method | error | from forward mode |")
    print("|---|---|---|---:|---:|")
    for name, field, y0, args, t1 in PROBLEMS:
        y0, args = jnp.array(y0), jnp.array(args)
        exact = variational_jacobian(field, y0, args, t1)
        for tol in tolerances:
            for method, solver, controller in methods(tol):

                def solve(adjoint, y0, args):
                    solution = diffrax.diffeqsolve(
                        diffrax.ODETerm(field),
                        solver,
                        t0=0.0,
                        t1=t1,
                        dt0=None,
                        y0=y0,
                        args=args,
                        stepsize_controller=controller,
                        adjoint=adjoint,
                    )
                    assert solution.ys is not None
                    return solution.ys[0]

                def jacobian(mode, adjoint):
                    run = jax.jit(mode(partial(solve, adjoint), argnums=(0, 1)))
                    return np.concatenate(run(y0, args), axis=1)

                reverse = jacobian(jax.jacrev, diffrax.RecursiveCheckpointAdjoint())
                forward = jacobian(jax.jacfwd, diffrax.ForwardMode())
                size = np.max(np.abs(exact))
                error = np.max(np.abs(reverse - exact)) / size
                again = np.max(np.abs(reverse - forward)) / size
                print(
                    f"| {name} | {tol:g} | {method} | {error:.1e} | {again:.1e} |",
                    flush=True,
                )


def memory(batch=64):
    """Of the gradient with respect to the parameters of an MLP field."""
    mlp = eqx.nn.MLP(64, 64, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(mlp, eqx.is_inexact_array)
    y0 = jax.random.normal(jax.random.key(1), (batch, 64))
    print(f"\nState: {batch} x 64 float64, {y0.nbytes / 2**20:.3f} MiB.")
    print("\n| method | max_steps | MiB | states |")
    print("|---|---:|---:|---:|")
    rivals = [
        ("TaylorSolver(order=5)", TaylorSolver(order=5)),
        ("TaylorSolver(order=8)", TaylorSolver(order=8)),
        ("TaylorSolver(order=15)", TaylorSolver(order=15)),
        ("Tsit5()", diffrax.Tsit5()),
        ("Dopri8()", diffrax.Dopri8()),
    ]
    for name, solver in rivals:
        for max_steps in (64, 4096):

            def loss(params):
                field = jax.vmap(eqx.combine(params, static))
                is_taylor = isinstance(solver, TaylorSolver)
                controller = TaylorController if is_taylor else diffrax.PIDController
                solution = diffrax.diffeqsolve(
                    diffrax.ODETerm(lambda t, y, args: field(y)),
                    solver,
                    t0=0.0,
                    t1=1.0,
                    dt0=None,
                    y0=y0,
                    stepsize_controller=controller(rtol=1e-6, atol=1e-6),
                    max_steps=max_steps,
                )
                assert solution.ys is not None
                return jnp.sum(solution.ys**2)

            compiled = jax.jit(jax.grad(loss)).lower(params).compile()
            analysis: Any = compiled.memory_analysis()
            bytes_ = analysis.temp_size_in_bytes
            print(
                f"| {name} | {max_steps} | {bytes_ / 2**20:.1f} "
                f"| {bytes_ / y0.nbytes:.0f} |",
                flush=True,
            )


def main():
    jax.config.update("jax_enable_x64", True)
    print_machine()
    exactness()
    memory()


if __name__ == "__main__":
    main()
