"""The order of a Taylor method for a tolerance, and a warning about unsuitable ones."""

import math
import warnings
from typing import Any

from jax.core import Tracer

from .check import check_order, check_tolerances


# The factor of steps, or of work, compared with the best order for the tolerance, above
# which there is a warning. Chosen so that order 8 at 1e-12 has one (198 steps of the
# Lorenz system instead of 52), and order 5 at 1e-6 has none.
_FAR_APART = 3


def choose_order(order: Any, rtol: Any, atol: Any) -> int:
    """Checks the order that is given, or chooses one from the tolerances."""
    if rtol is None and atol is None:
        return 5 if order is None else check_order("TaylorSolver", order)
    if order is not None:
        raise ValueError(
            "TaylorSolver: pass either `order`, or `rtol` and `atol` from which to "
            f"choose it, not both; got order={order!r}, rtol={rtol!r}, atol={atol!r}."
        )
    if isinstance(rtol, Tracer) or isinstance(atol, Tracer):
        raise TypeError(
            "TaylorSolver: `rtol` and `atol` must be known before tracing, as the "
            f"order is chosen from them; got rtol={rtol!r}, atol={atol!r}. Pass "
            "`order=...` instead."
        )
    rtol, atol = rtol or 0.0, atol or 0.0
    check_tolerances("TaylorSolver", rtol, atol)
    return _order_for(_relative(float(rtol), float(atol)))


def _relative(rtol: float, atol: float) -> float:
    """Returns the tolerance relative to the state, for a state of size 1. If the state
    is much larger, such as a distance in metres, so is `atol`. It therefore counts for
    at most `rtol`, if that is not zero."""
    return min(rtol + (min(atol, rtol) if rtol > 0 else atol), 1.0)


def _order_for(tolerance: float) -> int:
    return max(2, math.ceil(1 - math.log(tolerance) / 2))


def warn_if_far_apart(order: int, controller: Any) -> None:
    """Warns if the order of the solver is much too low or much too high for the
    tolerance of the step size controller. There is no warning if the tolerance relative
    to the state is not known: if it is traced, or `atol` is above `rtol`."""
    rtol, atol = getattr(controller, "rtol", None), getattr(controller, "atol", None)
    try:
        rtol, atol = float(rtol), float(atol)  # pyright: ignore[reportArgumentType]
    except TypeError:  # JAX's errors for traced values are of this type, too.
        return
    if not 0 <= atol <= rtol < 1 or rtol == 0:
        return
    tolerance = _relative(rtol, atol)
    best = _order_for(tolerance)

    def steps(order):
        return tolerance ** (-1 / (order + 1))

    more_steps = steps(order) / steps(best)
    more_work = more_steps * ((order + 1) / (best + 1)) ** 2
    if order < best and more_steps > _FAR_APART:
        what = f"about {more_steps:.0f} times as many steps"
    elif order > best and more_work > _FAR_APART:
        what = f"about {more_work:.0f} times as much work"
    else:
        return
    warnings.warn(
        f"TaylorSolver: with rtol + atol = {tolerance:.1e}, order {order} takes {what} "
        f"as order {best}. Make solver and controller by one call, `solver, controller "
        "= eqx_taylor.taylor_method(rtol=..., atol=...)`. If you chose this order on "
        "purpose, ignore this warning with `warnings.filterwarnings`.",
        stacklevel=3,
    )
