"""Two estimates of the error of a step of Taylor's method: the defect, which
`TaylorSolver` returns, and the last coefficient, `|c_K| h^K`.

Both steer the same controller, `diffrax.PIDController`. The last coefficient is known
before the step is made, and of an order less: it is the error of the method of order
K - 1. It says nothing of a jump of the vector field within the step.
"""

import argparse
from typing import ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from eqx_taylor import TaylorInterpolation, TaylorSolver

from ._timing import print_machine
from .problems import choose, error, kepler, lorenz, pleiades, Problem


TOLERANCES = [1e-6, 1e-12]


class LastCoefficient(diffrax.AbstractAdaptiveSolver):
    """`TaylorSolver` with the last coefficient for an estimate of the error."""

    solver: TaylorSolver

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = TaylorInterpolation

    def order(self, terms):
        return self.solver.order(terms)

    def error_order(self, terms):
        # Of |c_K| h^K.
        return self.solver.order(terms)

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, _, dense_info, solver_state, result = self.solver.step(
            terms, t0, t1, y0, args, solver_state, made_jump
        )
        # In the unit of time that the coefficients are in.
        s = (t1 - t0) / dense_info["unit"]
        y_error = jtu.tree_map(
            lambda c: jnp.abs(c[-1]) * s ** (len(c) - 1), dense_info["coefficients"]
        )
        return y1, y_error, dense_info, solver_state, result

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)


def jump() -> Problem:
    """The solution is max(0, t - 0.37)."""

    def field(xp):
        return lambda t, y, args: xp.where(t < 0.37, 0.0, 1.0)

    return Problem(
        "Jump",
        field(jnp),
        jnp.array(0.0),
        1.0,
        field(np),
        closed_form=lambda: np.longdouble(1) - np.longdouble(0.37),
    )


class Row(NamedTuple):
    steps: int
    rejected: int
    error: float


def measure(problem: Problem, solver, tolerance: float, reference) -> Row:
    controller = diffrax.PIDController(
        tolerance,
        problem.atol_per_rtol * tolerance,
        pcoeff=0.3,
        icoeff=0.3,
        safety=0.95,
    )

    @jax.jit
    def solve(y0):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(problem.field),  # pyright: ignore[reportArgumentType]
            solver,
            t0=0.0,
            t1=problem.t1,
            dt0=None,
            y0=y0,
            stepsize_controller=controller,
            adjoint=diffrax.ForwardMode(),
            max_steps=None,
        )

    solution = solve(problem.y0)
    y1 = jtu.tree_map(lambda y: y[-1], solution.ys)
    return Row(
        int(solution.stats["num_steps"]),
        int(solution.stats["num_rejected_steps"]),
        error(y1, reference),
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="a part of the name of one problem")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print_machine()
    print("\n| | rtol | order | estimate | steps | rejected | error at the end |")
    print("|---|---:|---:|---|---:|---:|---:|")
    problems = [kepler(), lorenz(), pleiades(), jump()]
    for problem in choose(problems, args.only):
        reference = problem.reference()
        for tolerance in TOLERANCES:
            solver = TaylorSolver(rtol=tolerance, atol=tolerance)
            rivals = [
                ("defect", solver),
                ("last coefficient", LastCoefficient(solver)),
            ]
            for name, rival in rivals:
                row = measure(problem, rival, tolerance, reference)
                print(
                    f"| {problem.name} | {tolerance:.0e} | {solver.taylor_order} "
                    f"| {name} | {row.steps} | {row.rejected} | {row.error:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
