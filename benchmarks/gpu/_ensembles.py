"""Steps of ensembles, where every trajectory is a lane under `vmap`; and of the times
that solves take to compile."""

from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from eqx_taylor import (
    _outer_solar_system as solar_system,
    NativeAdjoint,
    TaylorController,
    TaylorSolver,
)

from ..problems import extrapolation, lorenz_slopes
from ._measure import halved_to_fit, measured, tolerance_for
from ._networks import named, network
from ._record import Line
from ._steps import Context, Sizes, Step


# Bounds the loop where a tolerance is out of reach and steps become ever shorter.
MAX_STEPS = 2**16
OURS = "TaylorSolver"
# On a GPU the solve is one kernel, with a thread for each trajectory.
NATIVE = "NativeAdjoint: TaylorSolver"


def solve(
    field: Callable,
    who: str,
    y0: Any,
    args: Any,
    t1: Any,
    *,
    tolerance: Any = None,
    atol_per_rtol: float = 1.0,
    order: int | None = None,
    fixed_step: float | None = None,
) -> tuple[Any, Any]:
    """The final state of one trajectory and the number of its steps."""
    adjoint = diffrax.ForwardMode()
    if who in (OURS, NATIVE):
        solver = TaylorSolver(order=order)
        controller = TaylorController
        if who == NATIVE:
            adjoint = NATIVE_ADJOINT
    else:
        solver = getattr(diffrax, who)()
        controller = diffrax.PIDController
    if fixed_step is not None:
        steps = diffrax.ConstantStepSize()
    else:
        steps = controller(rtol=tolerance, atol=atol_per_rtol * tolerance)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),  # pyright: ignore[reportArgumentType]
        solver,
        t0=jnp.zeros_like(t1),
        t1=t1,
        dt0=fixed_step,
        y0=y0,
        args=args,
        stepsize_controller=steps,
        adjoint=adjoint,
        max_steps=MAX_STEPS,
        # An error of one lane would have to be looked for on the host.
        throw=False,
    )
    y1 = jax.tree.map(lambda y: y[-1], solution.ys)
    return y1, solution.stats["num_steps"]


class _NoOther(diffrax.AbstractAdjoint):
    """What is measured as a kernel is not to run in XLA unnoticed."""

    def loop(self, **kwargs: Any) -> Any:
        raise RuntimeError("there is no machine code of this solve")


NATIVE_ADJOINT = NativeAdjoint(otherwise=_NoOther())


def lanes(fun: Callable) -> Callable:
    """Of `fun(y0, args, tolerance)`, with trajectories along the last axes."""
    return jax.vmap(fun, in_axes=(-1, -1, None), out_axes=(-1, 0))


# The order is chosen for the tolerance that an error takes. The error is 1000 times the
# tolerance or so, of Lorenz to t = 1 as of the Solar System over 100 years.
GROWTH = 1e3


def order_for(tolerance: float, sizes: Sizes) -> int:
    order = TaylorSolver(rtol=tolerance, atol=tolerance).taylor_order
    return min(order, sizes.highest_order)


def lane_errors(y: Any, exact: Any) -> np.ndarray:
    """Of each trajectory: the largest error, relative to the largest number of the
    leaf."""
    found = []
    for a, b in zip(jax.tree.leaves(y), jax.tree.leaves(exact), strict=True):
        axes = tuple(range(a.ndim - 1))
        error = np.max(np.abs(np.asarray(a, np.longdouble) - b), axis=axes)
        found.append(error / np.max(np.abs(b), axis=axes))
    return np.max(np.stack(found), axis=0).astype(np.float64)


def summary(steps: Any) -> dict[str, float]:
    steps = np.asarray(steps)
    return dict(steps=float(np.mean(steps)), most_steps=float(np.max(steps)))


# -- Lorenz


def _lorenz(stack: Callable) -> Callable:
    return lambda t, y, rho: stack(lorenz_slopes(y, rho=rho))


def lorenz_problem(number: int, dtype: Any):
    """The public benchmark of GPUs: from (1, 0, 0), with rho spread over [0, 21]."""
    rho = jnp.linspace(0.0, 21.0, number, dtype=dtype)
    y0 = jnp.zeros((3, number), dtype).at[0].set(1)
    return y0, rho


def _lorenz_solve(who: str, dtype: Any, **kwargs) -> Callable:
    field = _lorenz(jnp.stack)
    t1 = jnp.ones((), dtype)
    return lanes(
        lambda y0, rho, tolerance: solve(
            field, who, y0, rho, t1, tolerance=tolerance, **kwargs
        )
    )


class _Sample:
    """Some of the systems, with what they end at."""

    def __init__(self, number: int, dtype: Any):
        self.args = lorenz_problem(number, dtype)
        y0, rho = (np.asarray(x, np.longdouble) for x in self.args)
        field = _lorenz(np.stack)
        self.exact = extrapolation(lambda t, y, _: field(t, y, rho), y0, 1.0, 10)

    def error(self, call: Callable, tolerance: Any) -> float:
        y1, _ = call(*self.args, tolerance)
        return float(np.max(lane_errors(y1, self.exact)))


def lorenz(sizes: Sizes) -> Iterator[Step]:
    solvers = OURS, *sizes.peers
    adaptive = OURS, NATIVE, *sizes.peers
    for who in adaptive:
        yield _lorenz_step(sizes, who, "float32", 1)
    for wave, target in enumerate(sizes.errors, 1):
        for who in adaptive:
            yield _lorenz_step(sizes, who, "float64", wave, target=target)
    for who in solvers:
        yield _lorenz_step(sizes, who, "float32", 2, fixed_step=sizes.fixed_step)


PUBLISHED_TOLERANCE = 1e-8
# Of fixed steps. That of Tsit5 is 5.
FIXED_ORDER = 5


def _lorenz_step(
    sizes: Sizes,
    who: str,
    dtype: str,
    wave: int,
    target: float | None = None,
    fixed_step: float | None = None,
) -> Step:
    if fixed_step is not None:
        work, kwargs = f"{dtype}, fixed steps of {fixed_step:g}", {}
        if who == OURS:
            kwargs = dict(order=min(FIXED_ORDER, sizes.highest_order))
    else:
        work = (
            f"{dtype}, tolerance {PUBLISHED_TOLERANCE:g}"
            if target is None
            else f"{dtype}, error {target:g}"
        )
        tolerance = PUBLISHED_TOLERANCE if target is None else target / GROWTH
        kwargs = {}
        if who in (OURS, NATIVE):
            kwargs = dict(order=order_for(tolerance, sizes))

    def run(context: Context) -> Iterator[Line]:
        fun = _lorenz_solve(who, dtype, fixed_step=fixed_step, **kwargs)
        sample = _Sample(sizes.sample, dtype)
        call = jax.jit(fun)
        tolerance = PUBLISHED_TOLERANCE
        if target is None or fixed_step is not None:
            error = sample.error(call, jnp.array(tolerance, dtype))
        else:
            tolerance, error = tolerance_for(
                target, lambda tol: sample.error(call, jnp.array(tol, dtype)), 1e-15
            )
        for number in sizes.lorenz:

            def attempt(number):
                args = (*lorenz_problem(number, dtype), jnp.array(tolerance, dtype))
                row, (_, steps) = measured(context, fun, args)
                return (
                    row | summary(steps) | dict(size=number, each=row["run"] / number)
                )

            row = halved_to_fit(context, number, attempt)
            yield row | dict(
                who=who,
                work=f"{number} systems, {work}",
                wanted=number,
                error=error,
                tolerance=None if fixed_step is not None else tolerance,
                order=kwargs.get("order"),
            )

    return Step("lorenz", f"{work}: {who}", run, 20.0, wave, at_most=120.0)


# -- the outer Solar System


def _solar_field(xp: Any) -> Callable:
    masses = solar_system.GRAVITATIONAL_CONSTANT * solar_system.MASSES

    def field(t, y, args):
        """Trajectories may be along a last axis."""
        del t, args
        positions, velocities = y
        after = (None,) * (positions.ndim - 2)
        displacement = positions[None] - positions[:, None]
        itself = np.eye(len(masses))[:, :, *after]
        distance2 = xp.sum(displacement**2, axis=2) + itself
        weight = masses[None, :, *after] * distance2**-1.5
        return velocities, xp.sum(weight[:, :, None] * displacement, axis=1)

    return field


def solar_problem(number: int) -> Any:
    """Each number of the state is changed by a thousandth."""
    random = np.random.default_rng(0)

    def around(y):
        y = np.asarray(y)[..., None]
        # Drawn one trajectory after the other: the first are always the same.
        noise = random.normal(size=(number, *y.shape[:-1]))
        return jnp.asarray(y * (1 + 1e-3 * np.moveaxis(noise, 0, -1)))

    return jax.tree.map(around, solar_system.initial_state())


SOLAR_ERROR = 1e-9


def solar(sizes: Sizes) -> Iterator[Step]:
    for who in (OURS, NATIVE, *sizes.peers):
        yield _solar_step(sizes, who)


def _solar_step(sizes: Sizes, who: str) -> Step:
    t1 = sizes.years * solar_system.DAYS_PER_YEAR

    def run(context: Context) -> Iterator[Line]:
        def one(y0, args, tolerance):
            return solve(
                _solar_field(jnp),
                who,
                y0,
                args,
                jnp.array(t1),
                tolerance=tolerance,
                # Velocities are 1e-3 AU/day and below.
                atol_per_rtol=1e-3,
                order=order_for(SOLAR_ERROR / GROWTH, sizes),
            )

        fun = lanes(one)
        number = min(sizes.sample, 32)
        y0 = solar_problem(number)
        wide = jax.tree.map(lambda y: np.asarray(y, np.longdouble), y0)
        exact = extrapolation(_solar_field(np), wide, t1, 10)
        call = jax.jit(fun)

        def error_at(tolerance):
            y1, _ = call(y0, jnp.zeros(number), jnp.array(tolerance))
            return float(np.max(lane_errors(y1, exact)))

        tolerance, error = tolerance_for(SOLAR_ERROR, error_at, 1e-15)
        is_ours = who not in sizes.peers

        def attempt(number):
            args = solar_problem(number), jnp.zeros(number), jnp.array(tolerance)
            row, (_, steps) = measured(context, fun, args)
            return row | summary(steps) | dict(size=number, each=row["run"] / number)

        row = halved_to_fit(context, sizes.solar_systems, attempt)
        yield row | dict(
            who=who,
            work=f"{sizes.solar_systems} systems, {sizes.years:g} years, "
            f"float64, error {SOLAR_ERROR:g}",
            wanted=sizes.solar_systems,
            error=error,
            tolerance=tolerance,
            order=order_for(SOLAR_ERROR / GROWTH, sizes) if is_ours else None,
        )

    return Step("solar", who, run, 25.0, at_most=120.0)


# -- blocks of lanes, one after another


BLOCKS_TOLERANCE = 1e-9


def blocks(sizes: Sizes) -> Iterator[Step]:
    for order in ("shuffled", "sorted by rho"):
        for size in (None, *sizes.blocks):
            # All at once, the order makes no difference.
            if size is not None or order == "shuffled":
                yield _blocks_step(sizes, order, size)


def _blocks_step(sizes: Sizes, order: str, block: int | None) -> Step:
    what = "all at once" if block is None else f"blocks of {block}, {order}"

    def run(context: Context) -> Iterator[Line]:
        def one(y0, rho):
            return solve(
                _lorenz(jnp.stack),
                OURS,
                y0,
                rho,
                jnp.array(1.0),
                tolerance=BLOCKS_TOLERANCE,
                order=order_for(BLOCKS_TOLERANCE, sizes),
            )

        def fun(y0, rho):
            if block is None:
                return jax.vmap(one)(y0, rho)
            return jax.lax.map(lambda x: one(*x), (y0, rho), batch_size=block)

        def attempt(number):
            y0, rho = lorenz_problem(number, jnp.float64)
            if order == "shuffled":
                rho = jax.random.permutation(jax.random.key(0), rho)
            row, (_, steps) = measured(context, fun, (y0.T, rho))
            return row | summary(steps) | dict(size=number, each=row["run"] / number)

        row = halved_to_fit(context, sizes.blocked, attempt)
        yield row | dict(
            who=what,
            work=f"{sizes.blocked} systems, float64, tolerance {BLOCKS_TOLERANCE:g}",
            wanted=sizes.blocked,
        )

    return Step("blocks", what, run, 10.0)


# -- compile times


def compiling(sizes: Sizes) -> Iterator[Step]:
    programs = [(OURS, order) for order in sizes.compile_orders]
    programs += [(who, None) for who in sizes.peers]
    for wave, problem in enumerate(("Lorenz", "MLP"), 1):
        for who, order in programs:
            yield _compile_step(sizes, problem, who, order, wave)


def _compile_step(sizes, problem, who, order, wave) -> Step:
    layers, _ = sizes.neural_ode
    name = who if order is None else f"{who}({order})"
    work = f"{problem}, one solve" if problem == "Lorenz" else f"MLP {named(layers)}"

    def run(context: Context) -> Iterator[Line]:
        if problem == "Lorenz":
            field, args = _lorenz(jnp.stack), jnp.array(28.0)
            y0 = jnp.array([1.0, 2.0, 3.0])
        else:
            args, apply = network(layers, dtype=jnp.float64)
            y0 = jnp.linspace(-1.0, 1.0, layers[0])

            def field(t, y, args):
                return apply(args, y)

        def fun(y0, args, tolerance):
            return solve(
                field, who, y0, args, jnp.array(1.0), tolerance=tolerance, order=order
            )

        row, _ = measured(context, fun, (y0, args, jnp.array(1e-9)), run=False)
        yield row | dict(who=name, work=work, order=order)

    guess = 4.0 if order is None else 3.0 + order / 2
    return Step("compile", f"{work}: {name}", run, guess, wave)
