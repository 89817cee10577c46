"""A neural network as a vector field: errors and costs of three solvers."""

import argparse
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import TaylorController, TaylorSolver


jax.config.update("jax_enable_x64", True)

T1 = 20.0
# Binary fractions, so that the reference's steps meet them to the last digit.
TS = np.linspace(0.0, T1, 1025)


# --8<-- [start:core]
class Field(eqx.Module):
    """y' = mlp(y, cos t, sin t) - y: driven by the network, drawn to the origin."""

    mlp: eqx.nn.MLP

    def __call__(self, t, y, args):
        drive = jnp.stack([jnp.cos(t), jnp.sin(t)])
        return self.mlp(jnp.concatenate([y, drive])) - y


def make_field():
    """With weights of three times the usual size, so that there is something to see."""
    mlp = eqx.nn.MLP(4, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(0))
    return Field(jax.tree.map(lambda x: 3 * x if eqx.is_array(x) else x, mlp))


@eqx.filter_jit
def solve(field, y0, solver, controller, saveat, dt0=None):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=0.0,
        t1=T1,
        dt0=dt0,
        y0=y0,
        stepsize_controller=controller,
        saveat=saveat,
        max_steps=20_000,
        adjoint=diffrax.ForwardMode(),  # Nothing is differentiated backwards.
    )


# --8<-- [end:core]


METHODS = {
    "TaylorSolver": (TaylorSolver(order=15), TaylorController),
    "Dopri8": (diffrax.Dopri8(), diffrax.PIDController),
    "Tsit5": (diffrax.Tsit5(), diffrax.PIDController),
}
TOLERANCES = 10.0 ** -np.arange(3, 14)
# To be compared at: errors that all of the methods come to, densely and at the end.
ERRORS = (1e-5, 1e-7, 1e-9, 1e-10)


def reference_solution(field, y0):
    """At `TS`, by so many steps of order 8 that their truncation is below rounding."""
    saveat = diffrax.SaveAt(t0=True, steps=8)
    dt0 = T1 / (8 * (len(TS) - 1))
    controller = diffrax.ConstantStepSize()
    ys = solve(field, y0, diffrax.Dopri8(), controller, saveat, dt0).ys
    return np.asarray(ys)[: len(TS)]


def measure(field, y0, solver, controller, reference):
    """For all of `TOLERANCES`: errors of the dense output and at the end, numbers of
    steps, run times (the dense output included)."""
    rows = []
    for tol in TOLERANCES:
        tol = jnp.asarray(tol)  # And not a number, which would be compiled into it.
        args = field, y0, solver, controller(rtol=tol, atol=tol)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            solution = jax.block_until_ready(solve(*args, diffrax.SaveAt(ts=TS)))
            times.append(time.perf_counter() - start)
        errors = np.max(np.abs(np.asarray(solution.ys) - reference), axis=1)
        steps = int(solution.stats["num_steps"])
        rows.append((errors.max(), errors[-1], steps, min(times)))
    return np.array(rows).T


def at_equal_errors(errors, costs):
    """The costs at `ERRORS`, between those measured: by lines in a log-log plot."""
    order = np.argsort(errors)
    logs = np.interp(np.log(ERRORS), np.log(errors[order]), np.log(costs[order]))
    return np.exp(logs)


def main(plot=None):
    field, y0 = make_field(), jnp.array([1.0, 0.0])
    reference = reference_solution(field, y0)
    runs = {
        name: measure(field, y0, *method, reference) for name, method in METHODS.items()
    }
    print(f"{'error':<40}" + "".join(f"{e:>9g}" for e in ERRORS))
    for name, (dense, end, steps, times) in runs.items():
        for kind, errors, costs in (
            ("steps for the dense output", dense, steps),
            ("steps for the end alone", end, steps),
            ("ms for the dense output", dense, 1e3 * times),
        ):
            costs = at_equal_errors(errors, costs)
            print(f"{name:<13}{kind:<27}" + "".join(f"{c:>9.0f}" for c in costs))
    if plot is not None:
        draw(plot, reference, runs)
    return dict(reference=reference, runs=runs)


def draw(path, reference, runs):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(TS, reference)
    left.set(title="The solution", xlabel="t")
    for name, (dense, _, steps, _) in runs.items():
        right.loglog(steps, dense, "o-", ms=4, label=name)
    right.set(title="Error of the dense output", xlabel="steps")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw errors against steps")
    main(parser.parse_args().plot)
