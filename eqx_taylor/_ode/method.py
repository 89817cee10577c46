"""A solver and its step size controller from one pair of tolerances."""

from collections.abc import Callable

import diffrax
import optimistix

from .._core.custom_types import PyTree, RealScalarLike
from .solver import TaylorSolver
from .step_size_controller import TaylorController
from .tolerances import choose_order


def taylor_method(
    rtol: RealScalarLike,
    atol: RealScalarLike,
    *,
    order: int | None = None,
    compensated: bool = False,
    warn_if_stiff: bool = False,
    probes: int = 1,
    unroll: bool | None = None,
    event: diffrax.Event | None = None,
    norm: Callable[[PyTree], RealScalarLike] = optimistix.rms_norm,
    dtmin: RealScalarLike | None = None,
    dtmax: RealScalarLike | None = None,
    force_dtmin: bool = True,
    safety: RealScalarLike = 0.9,
    factormax: RealScalarLike = 10.0,
) -> tuple[TaylorSolver, TaylorController]:
    """Creates an [`eqx_taylor.TaylorSolver`][] and an [`eqx_taylor.TaylorController`][]
    from one pair of tolerances. The order is chosen to suit them.

    **Arguments:**

    - `rtol`, `atol`: the relative and the absolute tolerance of the local error. They
        must not be negative, and one of them must be above zero. They are Python
        floats, or may be traced if `order` is given.
    - `order`: the order of the solver. By default it is chosen from the tolerances.
        Keyword only, like all arguments that follow.
    - `compensated`, `warn_if_stiff`, `probes`, `unroll`, `event`: as for
        [`eqx_taylor.TaylorSolver`][].
    - `norm`, `dtmin`, `dtmax`, `force_dtmin`, `safety`, `factormax`: as for
        [`eqx_taylor.TaylorController`][].

    **Returns:**

    A pair `(solver, controller)`.

    **Raises:**

    The errors of [`eqx_taylor.TaylorSolver`][] and [`eqx_taylor.TaylorController`][],
    whose messages name these.

    !!! example

        ```pycon
        >>> import diffrax
        >>> import jax.numpy as jnp
        >>> from eqx_taylor import taylor_method
        >>> solver, controller = taylor_method(rtol=1e-6, atol=1e-6)
        >>> solver
        TaylorSolver(order=8)
        >>> solution = diffrax.diffeqsolve(
        ...     diffrax.ODETerm(lambda t, y, args: -y),
        ...     solver,
        ...     t0=0.0,
        ...     t1=3.0,
        ...     dt0=None,
        ...     y0=jnp.array(1.0),
        ...     stepsize_controller=controller,
        ... )
        >>> print(jnp.abs(solution.ys[0] - jnp.exp(-3.0)) < 1e-6)
        True
        ```
    """
    solver = TaylorSolver(
        choose_order(None, rtol, atol) if order is None else order,
        compensated=compensated,
        warn_if_stiff=warn_if_stiff,
        probes=probes,
        unroll=unroll,
        event=event,
    )
    controller = TaylorController(
        rtol,
        atol,
        norm=norm,
        dtmin=dtmin,
        dtmax=dtmax,
        force_dtmin=force_dtmin,
        safety=safety,
        factormax=factormax,
    )
    return solver, controller
