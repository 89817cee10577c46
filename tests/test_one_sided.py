"""Kinks and jumps at the start of a step: derivatives are those of the side into which
the solution goes.

Jets are compared with total derivatives of that side, written out by hand; solves with
integrals and solutions put together from pieces.
"""

import diffrax as dx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, count_equations, nested_ode_jet
from jax import lax

from eqx_taylor import filter_jet, ode_jet, TaylorController, TaylorSolver
from eqx_taylor._core.jax import trace
from eqx_taylor._core.walk import Walk


KNOTS = np.array([-1.0, 0.0, 0.5, 2.0])
VALUES = np.array([0.5, 1.0, 2.0, -1.0])


def _interp(x):
    return jnp.interp(x, jnp.asarray(KNOTS, x.dtype), jnp.asarray(VALUES, x.dtype))


@jax.custom_jvp
def _ramp(x):
    return jnp.where(x > 0, x, 0)


@_ramp.defjvp
def _(primals, tangents):
    [x], [dx] = primals, tangents
    return _ramp(x), jnp.where(x > 0, dx * jnp.cos(x) / jnp.cos(x), 0 * dx)


def _layers(x):
    """Kinks in the body of a loop, by what is carried."""
    weights = jnp.array([1.0, 2.0, 0.5], x.dtype)
    return lax.scan(lambda c, w: (jax.nn.relu(w * c), jnp.sin(c)), x, weights)[0]


def _held(t):
    """A value that is held until the next knot."""
    knots = jnp.array([0.1, 0.3, 0.7], t.dtype)
    return jnp.array([1.0, 2.0, 4.0, 8.0], t.dtype)[jnp.searchsorted(knots, t)]


def _sorted_pairs(y):
    return lax.sort((y, jnp.sin(y[::-1])), num_keys=1)[1]


def _bounded(t):
    """As of a table that complains about times it does not have."""
    return eqx.error_if(jnp.sin(t), (t > 0.5) | (t < 0), "no such time")


EIGHT = sum([0.1] * 8)  # 0.7999999999999999
UP, DOWN = lambda y: y + 1, lambda y: y - 1  # noqa: E731

# The field, the side of it that the solution goes to, time and state. Fields of several
# components have an array for a state.
FIELDS = {
    # of the state
    "relu": (lambda t, y: 1 + jax.nn.relu(y), lambda t, y: 1 + y, 0.0, 0.0),
    "max": (lambda t, y: 1 + jnp.maximum(y, 0), lambda t, y: 1 + y, 0.0, 0.0),
    "min": (lambda t, y: jnp.minimum(y, 0) - 1, lambda t, y: y - 1, 0.0, 0.0),
    "abs, upwards": (lambda t, y: 1 + abs(y) * y, lambda t, y: 1 + y * y, 0.0, 0.0),
    "abs, downwards": (lambda t, y: -1 - abs(y), lambda t, y: y - 1, 0.0, 0.0),
    "clip": (lambda t, y: 2 - jnp.clip(y, 0, 1), lambda t, y: 1 + 0 * y, 0.0, 1.0),
    "clamp": (lambda t, y: 1 + lax.clamp(0 * t, y, t + 2), lambda t, y: 1 + y, 0.3, 0.0),
    "clamp to scalars": (
        lambda t, y: 1 + lax.clamp(0 * t, y, t + 2),
        lambda t, y: 1 + y,
        0.3,
        [0.0, 0.0],
    ),
    "leaky_relu": (lambda t, y: jax.nn.leaky_relu(y) - 1, lambda t, y: 0.01 * y - 1, 0.0, 0.0),
    "relu6": (lambda t, y: jax.nn.relu6(y) - 1, lambda t, y: 5 + 0 * y, 0.0, 6.0),
    "hard_tanh": (lambda t, y: jax.nn.hard_tanh(y), lambda t, y: 1 + 0 * y, 0.0, 1.0),
    "elu": (lambda t, y: 1 + 2 * jax.nn.elu(y, 0.5), lambda t, y: 1 + 2 * y, 0.0, 0.0),
    "where": (lambda t, y: 1 + jnp.where(y > 0, jnp.sin(y), 2 * y), lambda t, y: 1 + jnp.sin(y), 0.0, 0.0),
    "where it is not": (lambda t, y: 1 + jnp.where(y != 0, jnp.sin(y), 0), lambda t, y: 1 + jnp.sin(y), 0.0, 0.0),
    "cond": (lambda t, y: lax.cond(y > 0, lambda y: 1 + y * y, UP, y), lambda t, y: 1 + y * y, 0.0, 0.0),
    "kink in a branch": (lambda t, y: lax.cond(t > 0, lambda y: 1 + jax.nn.relu(y), UP, y), lambda t, y: 1 + y, 0.5, 0.0),
    "switch": (lambda t, y: lax.switch((y >= 0).astype(int), [lambda y: 3 * y - 1, DOWN], y), lambda t, y: 3 * y - 1, 0.0, 0.0),
    "piecewise": (lambda t, y: jnp.piecewise(y, [y < 1, y >= 1], [lambda y: y, lambda y: y**3]), lambda t, y: y**3, 0.0, 1.0),
    "interp, upwards": (lambda t, y: _interp(y), lambda t, y: 2 - 2 * (y - 0.5), 0.0, 0.5),
    "interp, downwards": (lambda t, y: -_interp(y), lambda t, y: -(1 + 2 * y), 0.0, 0.5),
    "custom_jvp": (lambda t, y: 1 + _ramp(y), lambda t, y: 1 + y, 0.0, 0.0),
    "in a loop": (lambda t, y: 1 + _layers(y), lambda t, y: 1 + y, 0.0, 0.0),
    "in a loop, of time": (lambda t, y: y + _layers(t - 0.8), lambda t, y: y + t - 0.8, EIGHT, 1.0),
    "checkpoint": (lambda t, y: 1 + jax.checkpoint(jax.nn.relu)(y), lambda t, y: 1 + y, 0.0, 0.0),
    "checkpoint, of time": (lambda t, y: y + jax.checkpoint(jax.nn.relu)(t), lambda t, y: y + t, 0.0, 0.0),
    "stopped": (lambda t, y: 1 + jnp.where(lax.stop_gradient(y) > 0, y, 2 * y), lambda t, y: 1 + y, 0.0, 0.0),
    # several components
    "one of several": (lambda t, y: 1 + jax.nn.relu(y - jnp.arange(3.0).astype(y.dtype)), lambda t, y: 1 + jnp.stack([y[0], 0 * t, 0 * t]), 0.0, [0.0, 0.5, 0.7]),
    "at rest": (lambda t, y: jnp.stack([y[1], 1 - jax.nn.relu(y[0])]), lambda t, y: jnp.stack([y[1], 1 - y[0]]), 0.0, [0.0, 0.0]),
    "at rest, where": (lambda t, y: jnp.stack([y[1], 1 - jnp.where(y[0] > 0, y[0], 0)]), lambda t, y: jnp.stack([y[1], 1 - y[0]]), 0.0, [0.0, 0.0]),
    "sort": (lambda t, y: jnp.sort(y) * jnp.array([1.0, 2.0, 3.0], y.dtype), lambda t, y: jnp.stack([y[0], 2 * y[1], 3 * y[2]]), 0.0, [1.0, 1.0, 1.0]),
    "sort of pairs": (lambda t, y: jnp.array([2.0, 1.0], y.dtype) * y + _sorted_pairs(y) * (y - 1), lambda t, y: jnp.array([2.0, 1.0], y.dtype) * y + jnp.sin(y) * (y - 1), 0.0, [1.0, 1.0]),
    "median": (lambda t, y: jnp.median(y) * jnp.array([1.0, 2.0, 3.0], y.dtype), lambda t, y: y[1] * jnp.array([1.0, 2.0, 3.0], y.dtype), 0.0, [1.0, 1.0, 1.0]),
    "reduce_max": (lambda t, y: jnp.max(y) * jnp.array([2.0, 1.0], y.dtype), lambda t, y: y[0] * jnp.array([2.0, 1.0], y.dtype), 0.0, [1.0, 1.0]),
    "masked": (
        lambda t, y: jnp.max(y, where=jnp.arange(2) > 0, initial=-jnp.inf) - jnp.min(jnp.stack([y[0], t + jnp.inf])) + jnp.array([2.0, 3.0], y.dtype) * jnp.max(y),
        lambda t, y: y[1] - y[0] + jnp.array([2.0, 3.0], y.dtype) * y[1],
        0.0,
        [1.0, 1.0],
    ),
    "argmax": (lambda t, y: y[jnp.argmax(y)] * jnp.array([1.0, 2.0], y.dtype), lambda t, y: y[1] * jnp.array([1.0, 2.0], y.dtype), 0.0, [1.0, 1.0]),
    "top_k": (lambda t, y: lax.top_k(y, 2)[0] * jnp.array([1.0, 2.0], y.dtype), lambda t, y: y[::-1] * jnp.array([1.0, 2.0], y.dtype), 0.0, [1.0, 1.0]),
    # of time
    "ramp": (lambda t, y: y + jnp.maximum(t - 0.5, 0), lambda t, y: y + t - 0.5, 0.5, 1.0),
    "a sum of steps": (lambda t, y: y + abs(t - 0.3), lambda t, y: y + t - 0.3, 0.1 + 0.1 + 0.1, 1.0),
    "a sum of steps, below": (lambda t, y: y + abs(t - 0.8), lambda t, y: y + t - 0.8, EIGHT, 1.0),
    "triangle wave": (lambda t, y: y + abs(t % 2 - 1), lambda t, y: y + 3 - t, 2.0, 1.0),
    "triangle wave, below": (lambda t, y: y + abs(t % 0.2 - 0.1), lambda t, y: y + 0.1 - (t - 0.8), EIGHT, 1.0),
    "floor": (lambda t, y: y + abs(t - jnp.floor(t) - 0.5), lambda t, y: y + 1.5 - t, 1.0, 1.0),
    "round": (lambda t, y: y + abs(t - jnp.round(t)), lambda t, y: y + 1 - t, 0.5, 1.0),
    "held": (lambda t, y: y + _held(t), lambda t, y: y + 4.0, 0.3, 1.0),
    "held, below": (lambda t, y: y + _held(t), lambda t, y: y + 8.0, 0.7 - 1e-15, 1.0),
    # What is singular on the side ahead is not decided ahead.
    "sinc": (lambda t, y: y + jnp.sinc(t), lambda t, y: y + 1 - (jnp.pi * t) ** 2 / 6 + (jnp.pi * t) ** 4 / 120, 0.0, 1.0),
    "safe": (lambda t, y: y + jnp.where(t > 0, jnp.log(jnp.where(t > 0, t, 1)), 0), lambda t, y: y, 0.0, 1.0),
    "error_if": (lambda t, y: y + _bounded(t), lambda t, y: y + jnp.sin(t), 0.5, 1.0),
}  # fmt: skip


ORDER = 4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["64", "32"])
def test_side_of_a_kink(dtype):
    """All in one program: of each field, and of its side."""

    def points():
        for _, _, t, y in FIELDS.values():
            yield jnp.array(t, dtype), jnp.array(y, dtype)

    @jax.jit
    def jets(points):
        return [
            ode_jet(lambda t, y, args, f=f: f(t, y), t, y, order=ORDER)
            for (f, *_), (t, y) in zip(FIELDS.values(), points)
        ]

    @jax.jit
    def sides(points):
        return [
            jnp.stack(
                nested_ode_jet(lambda t, y, args, f=f: f(t, y), t, y, None, ORDER)
            )
            for (_, f, *_), (t, y) in zip(FIELDS.values(), points)
        ]

    points = list(points())
    for name, actual, expected in zip(FIELDS, jets(points), sides(points)):
        try:
            assert_close(actual, expected, 50)
        except AssertionError as e:
            raise AssertionError(f"{name}: {e} {actual} {expected}") from e


# -- solves


def _solve(field, y0, t0, t1, *, order=8, dt0=None, args=None, **kwargs):
    kwargs.setdefault("stepsize_controller", dx.ConstantStepSize())
    term = dx.ODETerm(field)
    solver = TaylorSolver(order=order)
    y0 = jax.tree.map(jnp.asarray, y0)
    return dx.diffeqsolve(term, solver, t0, t1, dt0, y0, args, **kwargs)


TS = np.array([0.0, 1.0, 2.0, 3.0])
US = np.array([0.0, 1.0, -1.0, 2.0])
AREAS = np.array([0, 0.5, 0.5, 1.0])  # of the trapezoids, one after the other


def _hermite_areas(ts, us):
    """Of the cubics with the slopes of the chord behind each knot, as Diffrax has
    them: h (u_0 + u_1) / 2 + h² (m_0 - m_1) / 12."""
    h = np.diff(ts)
    m = np.concatenate([np.diff(us)[:1] / h[:1], np.diff(us) / h])
    pieces = h * (us[1:] + us[:-1]) / 2 + h * h * (m[:-1] - m[1:]) / 12
    return np.concatenate([[0], np.cumsum(pieces)])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["64", "32"])
def test_steps_on_knots(dtype):
    """Inputs that are interpolated, with steps from knot to knot; in both directions of
    time, and with a field that takes the interpolant from behind."""
    ts, us = jnp.array(TS, dtype), jnp.array(US, dtype)
    fine = jnp.arange(31, dtype=dtype) / 10  # Not exact in binary.
    noise = jnp.asarray(np.random.default_rng(0).normal(size=31), dtype)

    @jax.jit
    def solves(ts, us, fine, noise):
        linear = dx.LinearInterpolation(ts, us)
        cubic = dx.CubicInterpolation(ts, dx.backward_hermite_coefficients(ts, us))
        save = dict(saveat=dx.SaveAt(ts=ts))
        to = dict(stepsize_controller=dx.StepTo(ts=ts))
        zero, end, tenth = jnp.zeros((), dtype), ts[-1], fine[1]
        back = dict(
            saveat=dx.SaveAt(ts=ts[::-1]),
            stepsize_controller=dx.StepTo(ts=ts[::-1]),
        )
        return {
            "to": _solve(lambda t, y, a: linear.evaluate(t) + 0 * y, zero, 0, end, **to, **save).ys,
            "constant": _solve(lambda t, y, a: linear.evaluate(t), zero, 0, end, dt0=ts[1], **save).ys,
            "cubic": _solve(lambda t, y, a: cubic.evaluate(t), zero, 0, end, **to, **save).ys,
            "noise": _solve(lambda t, y, a: jnp.interp(t, fine, noise), zero, 0, end, dt0=tenth, **save).ys,
            "back": _solve(lambda t, y, a: jnp.interp(t, ts, us), zero, end, 0, **back).ys,
            "left": _solve(lambda t, y, a: linear.evaluate(t, left=False), zero, end, 0, **back).ys,
            "late": _solve(
                lambda t, y, a: jnp.interp(t, ts + 1024, us), zero, 1024, end + 1024, dt0=ts[1],
                saveat=dx.SaveAt(ts=ts + 1024),
            ).ys,
        }  # fmt: skip

    found = solves(ts, us, fine, noise)
    areas = jnp.array(AREAS, dtype)
    assert_close(found["to"], areas, 4)
    assert_close(found["constant"], areas, 4)
    assert_close(found["cubic"], jnp.array(_hermite_areas(TS, US), dtype), 8)
    trapezoids = np.convolve(np.asarray(noise, float), [0.05, 0.05], "valid")
    sums = np.concatenate([[0], np.cumsum(trapezoids)])[::10]
    assert_close(found["noise"], jnp.array(sums, dtype), 100, scale=1.0)
    assert_close(found["back"], areas[::-1] - areas[-1], 4)
    assert_close(found["left"], areas[::-1] - areas[-1], 4)
    assert_close(found["late"], areas, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Complex dtype")
def test_kinks_of_the_state():
    """With fixed steps that begin on a kink, with controlled ones, and resumed."""
    e, step = np.e, TaylorController(rtol=1e-8, atol=1e-8)

    @jax.jit
    def solves(starts):
        def ends(field, y0, **kwargs):
            ys = _solve(field, y0, 0.0, 1.0, order=12, **kwargs).ys
            return jax.tree.map(lambda y: y[0], ys)

        relu = lambda t, y, a: 1 + jax.nn.relu(y)  # noqa: E731
        adaptive = _solve(relu, 0.0, 0.0, 1.0, stepsize_controller=step)
        whole = _solve(
            relu, -0.5, 0.0, 0.5, order=12, dt0=0.1,
            saveat=dx.SaveAt(t1=True, solver_state=True, dense=True),
        )  # fmt: skip
        resumed = _solve(
            relu, whole.ys[0], 0.5, 1.5, order=12, dt0=0.1,
            solver_state=whole.solver_state, saveat=dx.SaveAt(ts=[0.75, 1.5]),
        )  # fmt: skip
        return {
            "relu": ends(relu, 0.0, dt0=0.1),
            "max": ends(lambda t, y, a: jnp.maximum(y, 0) + 1, 0.0, dt0=0.1),
            "abs": ends(lambda t, y, a: -1 - abs(y), 0.0, dt0=0.1),
            "ramp": ends(lambda t, y, a: jnp.maximum(t - 0.5, 0), 0.0, dt0=0.1),
            "off zero": ends(lambda t, y, a: abs(t - 0.3), 0.0, dt0=0.1),
            "wave": ends(lambda t, y, a: abs(t % 0.2 - 0.1), 0.0, dt0=0.1),
            "complex": ends(
                lambda t, y, a: lax.complex(0 * y.real, 1 + jax.nn.relu(y.imag)), 0j, dt0=0.1
            ),
            "tree": ends(
                lambda t, y, a: {"a": 1 + jax.nn.relu(y["a"]), "b": y["b"]},
                {"a": 0.0, "b": 1.0}, dt0=0.1,
            ),
            "rest": ends(
                lambda t, y, a: jnp.stack([y[1], 1 - jax.nn.relu(y[0])]),
                jnp.zeros(2), dt0=0.1,
            ),
            "vmap": jax.vmap(lambda y0: ends(relu, y0, dt0=0.1))(starts),
            "adaptive": (adaptive.ys[0], adaptive.stats["num_steps"]),
            "resumed": resumed.ys,
            "dense": whole.evaluate(0.25),
        }  # fmt: skip

    found = solves(jnp.array([0.0, -2.0, 1.0]))
    expected = {
        "relu": e - 1, "max": e - 1, "abs": 1 - e, "ramp": 1 / 8, "off zero": 0.29,
        "wave": 0.05, "complex": (e - 1) * 1j, "tree": {"a": e - 1, "b": e},
        "rest": np.array([1 - np.cos(1), np.sin(1)]),
        "vmap": np.array([e - 1, -1.0, 2 * e - 1]),
        "resumed": np.array([np.expm1(0.25), np.expm1(1.0)]), "dense": np.array(-0.25),
    }  # fmt: skip
    value, steps = found.pop("adaptive")
    assert_close(found, jax.tree.map(jnp.asarray, expected), 20)
    assert abs(value - (e - 1)) < 1e-8 and steps < 10


@pytest.mark.slow
def test_gradients_at_knots():
    """The derivative of an integral with respect to the values of the input: the
    weights of the trapezoidal rule. With respect to a state on a kink: that of the
    side."""
    controller = dx.StepTo(ts=TS)

    def end(us, y0, adjoint):
        def field(t, y, us):
            return jnp.stack([dx.LinearInterpolation(TS, us).evaluate(t), y[1]]) + (
                jax.nn.relu(y[::-1] - 7) * jnp.array([0.0, 1.0])
            )

        solution = _solve(
            field, y0, 0.0, 3.0, args=us, adjoint=adjoint, max_steps=4,
            stepsize_controller=controller,
        )  # fmt: skip
        return solution.ys[0, 0]

    def start(y0):
        """y' = 1 + relu(y) from 0: what is added at the start grows as the side."""
        return _solve(
            lambda t, y, a: 1 + jax.nn.relu(y), y0, 0.0, 1.0, dt0=0.1, order=14
        ).ys[0]

    def safe(y0):
        """What is decided at the point has no infinite derivatives either."""

        def field(t, y, args):
            norm2 = jnp.sum(y * y)
            norm = jnp.where(norm2 > 0, jnp.sqrt(jnp.where(norm2 > 0, norm2, 1)), 0)
            return 1 - norm * y

        controller = TaylorController(rtol=1e-6, atol=1e-6)
        return jnp.sum(_solve(field, y0, 0.0, 0.5, stepsize_controller=controller).ys)

    @jax.jit
    def gradients(us, y0):
        adjoints = [dx.RecursiveCheckpointAdjoint(), dx.DirectAdjoint()]
        reverse = [jax.grad(end)(us, y0, adjoint) for adjoint in adjoints]
        forward = jax.jacfwd(end)(us, y0, dx.ForwardMode())
        side = jax.grad(start)(jnp.array(0.0))
        return [*reverse, forward], side, jax.grad(safe)(jnp.zeros(2))

    weights, side, at_rest = gradients(jnp.array(US), jnp.array([0.0, 1.0]))
    for found in weights:
        assert_close(found, jnp.array([0.5, 1.0, 1.0, 0.5]), 20)
    assert_close(side, jnp.array(np.e), 20)
    assert bool(jnp.all(jnp.isfinite(at_rest)))


def test_jump_that_a_controller_is_told_of():
    """A step ends just before it. That the field jumps then is no error of the step."""

    def field(t, y, args):
        return jnp.where(t < 0.5, 1.0, 3.0) * y

    controller = dx.ClipStepSizeController(
        TaylorController(rtol=1e-10, atol=1e-10), jump_ts=jnp.array([0.5])
    )
    solution = _solve(field, 1.0, 0.0, 1.0, order=12, stepsize_controller=controller)
    assert_close(solution.ys[0], jnp.array(np.exp(2.0)), 1e7)
    assert solution.stats["num_rejected_steps"] == 0


# -- what is as it was


def test_jets_have_the_conventions_of_jax():
    fields = {name: FIELDS[name] for name in ("relu", "max", "sort", "where", "floor")}
    for name, (field, _, t, y) in fields.items():
        t, y = jnp.array(t), jnp.array(y)
        line = (jnp.ones_like(t), jnp.ones_like(y))
        _, (ours, *_) = filter_jet(field, (t, y), tuple([d, None] for d in line))
        assert_close(ours, jax.jvp(field, (t, y), line)[1], 4), name


def _attention(y):
    y = y.reshape(4, 2)
    scores = jax.nn.softmax(y @ y.T, axis=-1) @ y
    return (scores + jax.nn.logsumexp(y)).reshape(-1)


def _linear_algebra(y):
    a = jnp.eye(8) + jnp.outer(y, y[::-1])
    return (
        jnp.linalg.solve(a, y)
        + jnp.linalg.inv(a) @ y
        + jnp.linalg.norm(y)
        + abs(lax.complex(y, 1 - y))
    )


SMOOTH = {
    "attention": _attention,
    "activations": lambda y: jax.nn.gelu(y) + jax.nn.softplus(y) + jax.nn.silu(y),
    "linear algebra": _linear_algebra,
    "constant masks": lambda y: jnp.where(
        jnp.arange(8) > 3, y, jnp.triu(jnp.outer(y, y))[0]
    ),
    "indices": lambda y: (
        y.at[jnp.array([1, 2])].set(y[3:5])[::-1] + jnp.nan_to_num(jnp.arange(8.0))
    ),
    "a loop": lambda y: lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) * y[i], y),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_fields_are_not_looked_at_twice(name):
    y = jnp.linspace(0.1, 1, 8)
    jaxpr = trace(lambda y: [SMOOTH[name](y)], y)
    assert not Walk(order=4).decisions(jaxpr)


def test_what_a_kink_costs():
    """The series is made once. Besides it there are the field at the point, one series
    of order 2, and a field for the decisions."""

    def count(field, order):
        return count_equations(
            lambda y: ode_jet(field, 0.0, y, order=order), jnp.ones(4)
        )

    def relu(t, y, args):
        return jax.nn.relu(jnp.sin(y) * y)

    def branch(t, y, args):
        return jnp.sin(y) * y + 0

    added = [count(relu, order) - count(branch, order) for order in (6, 12)]
    assert added[1] - added[0] <= 6 * 6
