"""What `TaylorSolver(warn_if_stiff=True)` costs where nothing is stiff.

The check itself is made every 256 steps. That there is a callback in the program is
what costs: XLA runs the operations of a loop on a CPU one after another, in one go,
only if none of them is one.
"""

import diffrax
import jax

from eqx_taylor import TaylorController, TaylorSolver

from ._timing import compare, print_machine, print_table
from .problems import lorenz, mlp


def main(tol=1e-9):
    jax.config.update("jax_enable_x64", True)
    print_machine()
    for problem in (lorenz(), mlp()):

        def solve(y0, warn_if_stiff):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(problem.field),
                TaylorSolver(rtol=tol, warn_if_stiff=warn_if_stiff),
                t0=0.0,
                t1=problem.t1,
                dt0=None,
                y0=y0,
                stepsize_controller=TaylorController(rtol=tol, atol=tol),
                max_steps=None,
                adjoint=diffrax.ForwardMode(),
            ).ys

        rivals = [
            ("warn_if_stiff=True", lambda y0: solve(y0, True)),
            ("warn_if_stiff=False", lambda y0: solve(y0, False)),
        ]
        print_table(
            f"{problem.name}, tolerance {tol:g}", compare(rivals, (problem.y0,))
        )


if __name__ == "__main__":
    main()
