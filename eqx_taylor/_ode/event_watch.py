"""The event of a solve, and the check that the solver has the same one.

Diffrax does not pass the event to the solver, so the user does:
`TaylorSolver(event=...)`. If it is missing there, or is another one, nothing would show
this except results that may be wrong. So when a step is traced, the call of
`diffrax.diffeqsolve` is looked up on the Python stack. If it is not found, as Diffrax
may change, there is no warning.
"""

import sys
import warnings
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer

from .._core.check import describe


# The keywords with which Diffrax calls conditions, as far as the solver knows them only
# from the call of `diffeqsolve`.
_TOLD = ("t0", "t1", "dt0", "saveat", "stepsize_controller", "max_steps")


class Call(eqx.Module):
    """A call of `diffrax.diffeqsolve`: its event, and the keywords of conditions."""

    event: diffrax.Event | None
    told: dict[str, Any]

    @property
    def controller(self) -> Any:
        """The step size controller, without a `ClipStepSizeController` around it."""
        controller = self.told["stepsize_controller"]
        while hasattr(controller, "controller"):
            controller = controller.controller
        return controller


def find_call() -> Call | None:
    """Finds the call of `diffrax.diffeqsolve` on the Python stack, if there is one."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "diffrax":
            found = frame.f_locals
            if "event" in found and all(name in found for name in _TOLD):
                return Call(found["event"], {name: found[name] for name in _TOLD})
        frame = frame.f_back
    return None


def told_to_conditions(solver: Any, terms: Any, call: Call | None) -> dict[str, Any]:
    """Returns the keywords with which conditions are called."""
    told = {name: None for name in _TOLD} if call is None else call.told
    return {**told, "solver": solver, "terms": terms}


def check_event(event: Any) -> diffrax.Event | None:
    if event is not None and not isinstance(event, diffrax.Event):
        raise TypeError(
            "TaylorSolver: `event` must be the `diffrax.Event` that is also passed to "
            f"`diffeqsolve`; got {describe(event)}."
        )
    return event


def check_watched(
    watched: diffrax.Event | None, call: Call | None, t: Any, y: Any, args: Any
) -> None:
    """Raises if the solver watches for another event than that of the solve, or if the
    controller does not end steps after events. Warns if only one of the solver and the
    solve has an event."""
    if call is None:
        return
    if watched is None:
        if call.event is not None and _has_real_conditions(call, t, y, args):
            warnings.warn(_NOT_WATCHED, stacklevel=2)
        return
    if call.event is None:
        warnings.warn(_NOT_GIVEN, stacklevel=2)
    elif not _same(watched, call.event):
        raise ValueError(
            "TaylorSolver: the solver watches for other conditions than those of the "
            "event of `diffeqsolve`. Pass the same event to both: "
            "`diffeqsolve(..., solver=TaylorSolver(..., event=event), event=event)`."
        )
    controller = call.controller
    if not getattr(controller, "ends_steps_at_events", False):
        raise wrong_controller(f" Got {type(controller).__name__}.")


_WRONG_CONTROLLER = (
    "TaylorSolver: a solver that watches for an event needs a controller that ends a "
    "step after it. Use `eqx_taylor.TaylorController`, by itself or within a "
    "`diffrax.ClipStepSizeController`; or do not pass `event` to the solver: events "
    "are then checked only at the ends of steps."
)


def wrong_controller(got: str = "") -> TypeError:
    return TypeError(f"{_WRONG_CONTROLLER}{got}")


_NOT_WATCHED = (
    "TaylorSolver: `diffeqsolve` is given an event, and the solver is not. Diffrax "
    "checks events only at the ends of steps, which are long: events may be missed, or "
    "confused with one another. Pass the event to the solver as well: "
    "`TaylorSolver(..., event=event)`."
)


_NOT_GIVEN = (
    "TaylorSolver: the solver watches for an event that `diffeqsolve` is not given: "
    "steps end after it, and the solve continues. Pass it to both, or to neither."
)


def _has_real_conditions(call: Call, t: Any, y: Any, args: Any) -> bool:
    """Returns whether any condition is real, and so may be zero somewhere."""
    assert call.event is not None
    for condition in jtu.tree_leaves(call.event.cond_fn, is_leaf=callable):
        told = dict(call.told, solver=None, terms=None)
        try:
            out = jax.eval_shape(lambda t, y: condition(t, y, args, **told), t, y)
        except Exception:
            continue  # Diffrax raises the error; or the condition uses the solver.
        if jnp.issubdtype(getattr(out, "dtype", jnp.bool_), jnp.floating):
            return True
    return False


def _same(a: diffrax.Event, b: diffrax.Event) -> bool:
    """Returns whether two events have the same conditions. Traced values in them cannot
    be compared, and count as equal."""
    leaves, structure = jtu.tree_flatten(a.cond_fn)
    others, other_structure = jtu.tree_flatten(b.cond_fn)
    if structure != other_structure:
        return False
    pairs = [x for x in zip(leaves, others) if not any(map(_is_traced, x))]
    return bool(eqx.tree_equal(*map(list, zip(*pairs)))) if pairs else True


def _is_traced(x: Any) -> bool:
    return isinstance(x, Tracer)
