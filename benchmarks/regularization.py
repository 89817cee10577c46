"""A step of training a neural ODE, with and without its third derivative in the loss.

The model is that of Kelly et al. for digits: a network of one hidden layer, to both
layers of which the time is appended, and a linear classifier of the state at the end.
"""

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.jet import jet as jax_jet

from eqx_taylor import GaussLegendre, regularized

from ._report import Figure, main, Report
from ._timing import check_equal, compare, timing_table


BATCH, SIZE, HIDDEN, CLASSES = 128, 64, 100, 10
ORDER, STEPS, POINTS = 3, 8, 4
WEIGHT, RATE = 0.1, 0.1
WITHOUT = "without regularisation"
QUADRATURE = f"`GaussLegendre`, {POINTS} points"
STATE = "`regularized`"
JET = "`jax.experimental.jet`"
NESTED = "nested `jax.jvp`"


class Field(eqx.Module):
    """Of a batch: a state of shape `(batch, size)`."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __call__(self, t, y, args):
        time = jnp.broadcast_to(t, (len(y), 1))
        x = jax.vmap(self.first)(jnp.concatenate([y, time], axis=1))
        return jax.vmap(self.second)(jnp.concatenate([jnp.tanh(x), time], axis=1))


def model():
    keys = jax.random.split(jax.random.key(0), 3)
    first, second, classifier = (
        eqx.nn.Linear(*sizes, dtype=jnp.float32, key=key)
        for sizes, key in zip(
            [(SIZE + 1, HIDDEN), (HIDDEN + 1, SIZE), (SIZE, CLASSES)], keys
        )
    )
    return Field(first, second), classifier


def by_jet(field):
    """The field of `(y, r)`. Each call finds one more derivative, as in Kelly et al."""

    def augmented(t, state, args):
        y, _ = state

        def slope(t, y):
            return field(t, y, args)

        derivatives = [slope(t, y)]
        for k in range(1, ORDER):
            times = [jnp.ones_like(t), *[jnp.zeros_like(t)] * (k - 1)]
            first, rest = jax_jet(slope, (t, y), (times, derivatives))
            derivatives = [first, *rest]
        # Without this barrier XLA makes a program of it (a "YNN fusion", on a CPU, in
        # float32) that returns NaN.
        last = jax.lax.optimization_barrier(derivatives[-1])
        return derivatives[0], jnp.mean(last**2)

    return diffrax.ODETerm(augmented)


def by_nested_jvp(field):
    def augmented(t, state, args):
        def slope(t, y):
            return field(t, y, args)

        def total(g):
            return lambda t, y: jax.jvp(g, (t, y), (jnp.ones_like(t), slope(t, y)))[1]

        last = slope
        for _ in range(1, ORDER):
            last = total(last)
        y, _ = state
        return slope(t, y), jnp.mean(last(t, y) ** 2)

    return diffrax.ODETerm(augmented)


def solve(term, y0, saveat) -> Any:
    return diffrax.diffeqsolve(
        term, diffrax.Tsit5(), 0.0, 1.0, 1 / STEPS, y0, saveat=saveat, max_steps=STEPS
    ).ys


def at_end(term, y0):
    return jax.tree.map(lambda y: y[0], solve(term, y0, diffrax.SaveAt(t1=True)))


def without(field, y0):
    return at_end(diffrax.ODETerm(field), y0), jnp.float32(0)


def as_state(term_of):
    return lambda field, y0: at_end(term_of(field), (y0, jnp.float32(0)))


def by_quadrature(field, y0):
    quadrature = GaussLegendre(0.0, 1.0, POINTS)
    term = diffrax.ODETerm(field)
    at_points = diffrax.SubSaveAt(ts=quadrature.ts)
    subs = at_points, diffrax.SubSaveAt(t1=True)
    ys, y1 = solve(term, y0, diffrax.SaveAt(subs=subs))
    return y1[0], quadrature.integrate(term, ys, order=ORDER)


def training_step(final):
    """Of gradient descent: the parameters after it, and the regulariser."""

    def step(parameters, static, images, labels):
        def loss(parameters):
            field, classifier = eqx.combine(parameters, static)
            y1, r = final(field, images)
            scores = jax.nn.log_softmax(jax.vmap(classifier)(y1))
            chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)
            return WEIGHT * r - jnp.mean(chosen), r

        gradient, r = jax.grad(loss, has_aux=True)(parameters)
        moved = jax.tree.map(lambda p, g: p - RATE * g, parameters, gradient)
        return moved, r

    return step


RIVALS = {
    QUADRATURE: by_quadrature,
    STATE: as_state(lambda field: regularized(field, order=ORDER)),
    JET: as_state(by_jet),
    NESTED: as_state(by_nested_jvp),
    WITHOUT: without,
}


def run(seconds: float) -> Report:
    parameters, static = eqx.partition(model(), eqx.is_array)
    key, label_key = jax.random.split(jax.random.key(1))
    images = jax.random.normal(key, (BATCH, SIZE), jnp.float32)
    labels = jax.random.randint(label_key, (BATCH,), 0, CLASSES)

    def with_static(step):
        return lambda parameters, *data: step(parameters, static, *data)

    timings = compare(
        [(name, with_static(training_step(f))) for name, f in RIVALS.items()],
        (parameters, images, labels),
        seconds,
        compiles=3,
    )
    by_name = {t.name: t for t in timings}
    moved, exact = by_name[NESTED].result
    for t in timings[:-1]:
        # The rule of quadrature has an error of its own.
        allowed = 1e-2 if t.name == QUADRATURE else 1e-4
        check_equal(t.result[1], exact, allowed, t.name)
        check_equal(t.result[0], moved, 1e-4, t.name)
    error = abs(float(by_name[QUADRATURE].result[1] / exact - 1))
    network = f"{SIZE}-{HIDDEN}-{SIZE}"
    text = f"""
This is one step of gradient descent for a neural ODE with a tanh network {network},
with time appended to the input of both layers, and a linear classifier; the batch has
{BATCH} members, in float32. The ODE is solved by {STEPS} steps of Tsit5
with Diffrax's default adjoint.
$R_{ORDER}$, the integral of the mean square of the derivative of order {ORDER}, is one
more state of the equation, or is computed from {POINTS} points of the solution (here
with a relative error of {math.ceil(error * 1e6) * 1e-6:.0e}).

{timing_table(timings)}

Compile times are medians of {len(timings[0].compiles)} compilations.
"""
    work = f"training step with $R_{ORDER}$, neural ODE {network}, batch {BATCH}"
    targets = [
        (QUADRATURE, WITHOUT, 2.5),
        (STATE, WITHOUT, 2.5),
        (QUADRATURE, JET, 1.0),
        (STATE, JET, 1.0),
        (STATE, NESTED, None),
    ]
    figures = [
        Figure(
            f"{work}, {ours}",
            "run",
            theirs,
            by_name[ours].run,
            by_name[theirs].run,
            ours_spread=by_name[ours].spread,
            theirs_spread=by_name[theirs].spread,
            at_most=at_most,
        )
        for ours, theirs, at_most in targets
    ]
    data = {t.name: dict(run=t.run, compile=t.compile) for t in timings}
    return Report("Training a regularised neural ODE", text, figures, data)


if __name__ == "__main__":
    main(run, seconds=10)
