"""The event of a solve, and the solver that is to know it.

Diffrax hands the event to nobody but itself: `TaylorSolver(event=...)` is told. That it
was not told, or was told of another one, would be seen in nothing but results that may
be wrong. So the call of `diffrax.diffeqsolve` is looked for among those that are being
executed when a step is traced. If it is not found (Diffrax may change) nothing is said.
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


# What Diffrax tells conditions besides time, state and `args`, and the solver knows
# from the call alone.
_TOLD = ("t0", "t1", "dt0", "saveat", "stepsize_controller", "max_steps")


class Call(eqx.Module):
    """A call of `diffrax.diffeqsolve`: its event, and what it tells conditions."""

    event: diffrax.Event | None
    told: dict[str, Any]

    @property
    def controller(self) -> Any:
        """The step size controller; the one within a `ClipStepSizeController`."""
        controller = self.told["stepsize_controller"]
        while hasattr(controller, "controller"):
            controller = controller.controller
        return controller


def find_call() -> Call | None:
    """Finds the call of `diffrax.diffeqsolve` that this is within, if there is one."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "diffrax":
            found = frame.f_locals
            if "event" in found and all(name in found for name in _TOLD):
                return Call(found["event"], {name: found[name] for name in _TOLD})
        frame = frame.f_back
    return None


def told_to_conditions(solver: Any, terms: Any, call: Call | None) -> dict[str, Any]:
    """Returns what conditions are called with, besides time, state and `args`."""
    told = {name: None for name in _TOLD} if call is None else call.told
    return {**told, "solver": solver, "terms": terms}


def check_event(event: Any) -> diffrax.Event | None:
    if event is not None and not isinstance(event, diffrax.Event):
        raise TypeError(
            "TaylorSolver: `event` must be the `diffrax.Event` that `diffeqsolve` is "
            f"given; got {describe(event)}."
        )
    return event


def check_watched(
    watched: diffrax.Event | None, call: Call | None, t: Any, y: Any, args: Any
) -> None:
    """Raises if the solver watches for another event than that of the solve, or with a
    controller that does not end steps behind it; and warns if it watches for none."""
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
            "event that `diffeqsolve` is given. Give both the same: "
            "`diffeqsolve(..., solver=TaylorSolver(..., event=event), event=event)`."
        )
    controller = call.controller
    if not getattr(controller, "ends_steps_at_events", False):
        raise wrong_controller(f" Got {type(controller).__name__}.")


_WRONG_CONTROLLER = (
    "TaylorSolver: a solver that watches for an event needs a controller that ends a "
    "step behind it, which is `eqx_taylor.TaylorController`, also within a "
    "`diffrax.ClipStepSizeController`. Use it, or leave `event` out of the solver: "
    "events are then looked for at the ends of steps only."
)


def wrong_controller(got: str = "") -> TypeError:
    return TypeError(f"{_WRONG_CONTROLLER}{got}")


_NOT_WATCHED = (
    "TaylorSolver: `diffeqsolve` is given an event, and the solver is not. Diffrax "
    "looks at the ends of steps only, which are long: events may be missed, or taken "
    "for another one. Tell the solver as well: `TaylorSolver(..., event=event)`."
)


_NOT_GIVEN = (
    "TaylorSolver: the solver watches for an event that `diffeqsolve` is not given: "
    "steps end behind it, and the solve goes on. Give it to both, or to neither."
)


def _has_real_conditions(call: Call, t: Any, y: Any, args: Any) -> bool:
    """Whether a condition is real, and so has a place where it is zero."""
    assert call.event is not None
    for condition in jtu.tree_leaves(call.event.cond_fn, is_leaf=callable):
        told = dict(call.told, solver=None, terms=None)
        try:
            out = jax.eval_shape(lambda t, y: condition(t, y, args, **told), t, y)
        except Exception:
            continue  # Diffrax says so, or it is one that looks at the solver.
        if jnp.issubdtype(getattr(out, "dtype", jnp.bool_), jnp.floating):
            return True
    return False


def _same(a: diffrax.Event, b: diffrax.Event) -> bool:
    """Whether two events have the same conditions, as far as it is known while tracing
    what is in them."""
    leaves, structure = jtu.tree_flatten(a.cond_fn)
    others, other_structure = jtu.tree_flatten(b.cond_fn)
    if structure != other_structure:
        return False
    pairs = [x for x in zip(leaves, others) if not any(map(_is_traced, x))]
    return bool(eqx.tree_equal(*map(list, zip(*pairs)))) if pairs else True


def _is_traced(x: Any) -> bool:
    return isinstance(x, Tracer)
