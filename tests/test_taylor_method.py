"""One pair of tolerances for solver and controller; and objects that are shown as the
calls that make them, and can be replaced in part."""

import copy
import dataclasses
import inspect
import sys
import warnings

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest

import eqx_taylor
from eqx_taylor import taylor_method, TaylorController, TaylorSolver


def _lorenz(t, y, args):
    x, v, z = y
    return jnp.stack([10 * (v - x), x * (28 - z) - v, x * v - 8 / 3 * z])


def _solve(solver, controller, field=_lorenz, t1=10.0, y0=(1.0, 2.0, 20.0)):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=0.0,
        t1=t1,
        dt0=None,
        y0=jnp.array(y0),
        stepsize_controller=controller,
    )


def _decay(t, y, args):
    return -y


def _traced(solver, controller):
    """The warnings of a solve that is traced, and not run."""

    def solve(y):
        return _solve(solver, controller, _decay, y0=y).ys

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        jax.eval_shape(solve, jnp.zeros(2))
    return {str(w.message) for w in found if "takes about" in str(w.message)}


def test_order_suits_tolerances():
    for tolerance, order in [(1e-3, 5), (1e-6, 8), (1e-9, 12), (1e-12, 15)]:
        solver, controller = taylor_method(tolerance / 2, tolerance / 2)
        assert solver == TaylorSolver(order=order)
        assert (controller.rtol, controller.atol) == (tolerance / 2, tolerance / 2)
        assert not _traced(solver, controller)


def test_large_states():
    """An orbit in metres: `atol` says nothing of the tolerance beside the state."""
    solver, _ = taylor_method(rtol=1e-9, atol=100.0)
    assert solver == TaylorSolver(order=11) or solver == TaylorSolver(order=12)
    assert TaylorSolver(rtol=0.0, atol=1e-9) == TaylorSolver(order=12)
    assert TaylorSolver(rtol=1e308, atol=1e308) == TaylorSolver(order=2)


def test_defaults_are_those_of_the_classes():
    options = dict(inspect.signature(taylor_method).parameters)
    for made in (TaylorSolver, TaylorController):
        for name, parameter in inspect.signature(made).parameters.items():
            if name in ("rtol", "atol", "taylor_order"):
                continue
            default = options.pop(name).default
            assert default is parameter.default or default == parameter.default, name
    assert list(options) == ["rtol", "atol"]


def test_options_reach_solver_and_controller():
    event = diffrax.Event(lambda t, y, args, **kwargs: y[0])
    for_solver = dict(
        order=9, compensated=True, warn_if_stiff=True, probes=2, unroll=True
    )
    for_controller = dict(
        norm=optimistix.max_norm,
        dtmin=1e-5,
        dtmax=2.0,
        force_dtmin=False,
        safety=0.8,
        factormax=5.0,
    )
    solver, controller = taylor_method(
        1e-4, 1e-5, event=event, **for_solver, **for_controller
    )
    assert solver == TaylorSolver(event=event, **for_solver)
    assert controller == TaylorController(1e-4, 1e-5, **for_controller)


def test_traced_tolerances_need_an_order(without_types):
    @jax.jit
    def solve(rtol):
        solver, controller = taylor_method(rtol, 1e-8, order=8)
        return _solve(solver, controller, _decay, t1=1.0).ys[0]

    error = solve(1e-6) - jnp.exp(-1.0) * jnp.array([1.0, 2.0, 20.0])
    assert jnp.max(jnp.abs(error)) < 1e-5
    with pytest.raises(TypeError, match="must be known before tracing"):
        jax.jit(lambda rtol: taylor_method(rtol, 1e-8)[1].rtol)(1e-6)


@pytest.mark.parametrize("rtol, atol", [(-1e-6, 1e-6), (0.0, 0.0), ("1e-6", 1e-6)])
def test_wrong_tolerances(rtol, atol, without_types):
    with pytest.raises((TypeError, ValueError), match="Taylor.*tol"):
        taylor_method(rtol, atol)


# -- an order that does not suit the tolerances

_LOOSE = dict(rtol=1e-6, atol=1e-6)
_TIGHT = dict(rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    "solver, controller, times",
    [
        (TaylorSolver(**_LOOSE), TaylorController(**_TIGHT), "4 times as many steps"),
        (TaylorSolver(), TaylorController(**_TIGHT), "18 times as many steps"),
        (TaylorSolver(), diffrax.PIDController(**_TIGHT), "18 times as many steps"),
        (
            TaylorSolver(),
            diffrax.ClipStepSizeController(
                TaylorController(**_TIGHT), step_ts=jnp.array([0.5])
            ),
            "18 times as many steps",
        ),
        (
            TaylorSolver(order=20),
            TaylorController(rtol=1e-3, atol=0.0),
            "5 times as much work",
        ),
    ],
)
def test_far_apart(solver, controller, times):
    (message,) = _traced(solver, controller)
    assert times in message
    assert "taylor_method(rtol=..., atol=...)" in message


@pytest.mark.parametrize("order, times", [(5, 18), (8, 4)])
def test_numbers_of_steps_are_as_the_warning_says(order, times):
    few, many = (
        _solve(TaylorSolver(order=k), TaylorController(**_TIGHT), t1=3.0).stats[
            "num_steps"
        ]
        for k in (15, order)
    )
    assert 0.7 * times < many / few < 1.3 * times


@pytest.mark.parametrize(
    "solver, controller",
    [
        (TaylorSolver(), TaylorController(**_LOOSE)),
        (TaylorSolver(order=12), TaylorController(**_TIGHT)),
        (TaylorSolver(order=20), TaylorController(**_TIGHT)),
        (TaylorSolver(), TaylorController(rtol=0.01, atol=0.01)),
        # Nothing is known of the tolerance beside the state.
        (TaylorSolver(order=12), TaylorController(rtol=1e-9, atol=100.0)),
        (TaylorSolver(order=4), TaylorController(rtol=1e-9, atol=1e-3)),
        (TaylorSolver(order=12), TaylorController(rtol=0.0, atol=1.0)),
        (TaylorSolver(), diffrax.StepTo(ts=jnp.array([0.0, 10.0]))),
    ],
)
def test_not_far_apart(solver, controller):
    if isinstance(controller, diffrax.StepTo):
        field = diffrax.ODETerm(_decay)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            diffrax.diffeqsolve(
                field, solver, 0.0, 10.0, None, 1.0, stepsize_controller=controller
            )
    else:
        assert not _traced(solver, controller)


def test_tolerances_that_are_traced_are_not_known():
    @jax.jit
    def solve(rtol):
        controller = TaylorController(rtol=rtol, atol=1e-14)
        return _solve(TaylorSolver(), controller, _decay, t1=1e-3).ys

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(1e-12)


# -- how objects are shown, and replaced in part


def test_representations_are_calls():
    names = vars(eqx_taylor)
    for text in [
        "TaylorSolver(order=8)",
        "TaylorSolver(order=20, compensated=True, probes=0, unroll=False)",
        "TaylorController(rtol=1e-06, atol=0.0)",
        "TaylorController(rtol=1e-06, atol=1e-09, dtmax=0.5, safety=0.8)",
        "ReplayAdjoint()",
        "GaussLegendre(t0=0.0, t1=2.0, num_points=3)",
        "KineticEnergy()",
        "SolutionDerivative(order=3)",
    ]:
        made = eval(text, dict(names))
        assert repr(made) == text
    # What is traced, too.
    seen = []
    jax.jit(lambda x: seen.append(repr(TaylorController(x, 0.0))))(1e-6)
    assert seen[0].startswith("TaylorController(rtol=")


def _instances():
    field = diffrax.ODETerm(_decay)
    solver, controller = taylor_method(1e-6, 1e-6)
    solution = diffrax.diffeqsolve(
        field,
        solver,
        0.0,
        1.0,
        None,
        jnp.array(1.0),
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(dense=True),
    )
    event = diffrax.Event(lambda t, y, args, **kwargs: y - 0.5)
    events = eqx_taylor.find_events(solution, event, max_events=2)
    hybrid = eqx_taylor.hybrid_solve(
        field,
        solver,
        0.0,
        1.0,
        None,
        jnp.array(1.0),
        event=event,
        update=lambda t, y, args, event_mask: y + 1.0,
        max_events=2,
        stepsize_controller=controller,
    )
    cost = eqx_taylor.solve_cost(
        field, diffrax.Tsit5(), 0.0, 1.0, jnp.array(1.0), rtol=1e-3, atol=1e-3
    )
    estimate = eqx_taylor.stochastic_laplacian(
        lambda x: jnp.sum(x**2), jnp.ones(3), key=jax.random.key(0), num_samples=4
    )
    interpolation = eqx_taylor.TaylorInterpolation(
        t0=0.0, t1=1.0, unit=1.0, coefficients=jnp.ones(3)
    )
    return [
        solver,
        controller,
        eqx_taylor.NativeAdjoint(),
        events,
        hybrid,
        cost,
        estimate,
        interpolation,
        eqx_taylor.ReplayAdjoint(),
        eqx_taylor.GaussLegendre(0.0, 1.0, num_points=3),
        eqx_taylor.KineticEnergy(),
        eqx_taylor.JacobianFrobenius(),
        eqx_taylor.SolutionDerivative(3),
        eqx_taylor.taylor_polynomial(jnp.sin, 0.3, 1.0, order=3),
        eqx_taylor.programs.count_primitives(jnp.sin, 0.3),
    ]


def test_replace():
    classes = set()
    for made in _instances():
        classes.add(type(made).__name__)
        if isinstance(made, tuple):
            again = made._replace()
        else:
            again = dataclasses.replace(made)
        assert type(again) is type(made)
        assert jax.tree.structure(again) == jax.tree.structure(made)
        leaves = map(jax.tree.leaves, (again, made))
        for x, y in zip(*leaves, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=type(made).__name__)
        if sys.version_info >= (3, 13):
            assert type(copy.replace(made)) is type(made)
    public = {
        name
        for module in (eqx_taylor, eqx_taylor.programs)
        for name, value in vars(module).items()
        if inspect.isclass(value) and not inspect.isabstract(value)
    }
    assert classes == public - {"AbstractRegularizer"}


def test_replace_a_part():
    solver = TaylorSolver(order=8, probes=2)
    assert dataclasses.replace(solver, order=12) == TaylorSolver(order=12, probes=2)
    assert dataclasses.replace(solver, probes=0) == TaylorSolver(order=8, probes=0)
    by_tolerance = dataclasses.replace(solver, rtol=1e-9, atol=0.0)
    assert by_tolerance == TaylorSolver(rtol=1e-9, atol=0.0, probes=2)
    controller = dataclasses.replace(TaylorController(1e-6, 1e-6), rtol=1e-3)
    assert controller == TaylorController(1e-3, 1e-6)
    longer = dataclasses.replace(eqx_taylor.GaussLegendre(0.0, 1.0, 3), t1=2.0)
    assert eqx.tree_equal(longer, eqx_taylor.GaussLegendre(0.0, 2.0, 3))
    assert jnp.allclose(jnp.sum(longer.weights), 2.0, rtol=1e-15)
