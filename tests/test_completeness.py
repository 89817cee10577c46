"""Every primitive of the installed packages is one of four: it has a rule, or a
derivative in JAX, or no slope, or a reason why it cannot be differentiated. And what
is said of each is so."""

import functools as ft
import json
import pathlib
import subprocess
import sys
from typing import Any

import completeness_cases as cases
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import jax.tree_util as jtu
import primitive_coverage as coverage
import pytest
import test_rules
from helpers import assert_orders_close, nested_jet, random_series
from jax.experimental import checkify

import eqx_taylor
from eqx_taylor._core.rule import OTHERWISE, RULES as _RULES
from eqx_taylor._core.walk import Walk
from eqx_taylor._rules import refusals


RULES = {name for name in _RULES if isinstance(name, str)} - {OTHERWISE}
TABLES = {
    "RULES": RULES,
    "DERIVED": set(coverage.DERIVED),
    "REFERENCES": set(refusals.REFERENCES),
    "ZERO": set(coverage.ZERO),
    "UNSUPPORTED": set(coverage.UNSUPPORTED),
}
EXERCISED = RULES.union(*(TABLES[k] for k in ("DERIVED", "REFERENCES", "ZERO")))

# In a process of its own: other tests define primitives, and import what they need.
_FIND_ALL = """
import contextlib, gc, importlib, io, json, pkgutil, sys, warnings

def import_all(name):
    try:
        # Deprecated modules warn, and others want packages that are not installed.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except Exception:
        return
    for inner in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
        # What is private is imported by what is not; JAX has a module of tests.
        last = inner.name.rpartition(".")[2]
        if not (last.startswith("_") and name == "jax") and "test" not in last:
            import_all(inner.name)

found = {}
for package in ("jax", "equinox", "lineax", "optimistix", "diffrax"):
    import_all(package)
    from jax.extend.core import Primitive
    from jax.interpreters import ad
    for primitive in gc.get_objects():
        if isinstance(primitive, Primitive):
            rule = ad.primitive_jvps.get(primitive)
            # A method that stands for none in JAX's base class.
            missing = getattr(rule, "__qualname__", "") == "HiPrimitive.jvp"
            entry = found.setdefault(primitive.name, [package, False])
            entry[1] |= rule is not None and not missing
json.dump(found, sys.stdout)
"""


@ft.cache
def installed() -> dict[str, tuple[str, bool]]:
    """By name: the package, and whether JAX has a derivative."""
    command = [sys.executable, "-c", _FIND_ALL]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: tuple(entry) for name, entry in json.loads(result.stdout).items()}


# -- the tables


def test_every_primitive_is_in_a_table():
    found = installed()
    assert len(found) > 350  # More where optional packages are installed.
    assert {"mul", "noinline", "linear_solve"} <= set(found)
    unknown = sorted(set(found).difference(*TABLES.values()))
    assert not unknown, f"in no table: {unknown}"


def test_no_primitive_is_in_two_tables():
    names = [name for table in TABLES.values() for name in table]
    assert sorted(set(names)) == sorted(names)


def test_packages():
    for name, (package, _) in installed().items():
        assert coverage.package(name) == package, name


def test_every_rule_has_a_kind():
    kinds = {coverage.kind(name) for name in _RULES}
    # All that have no rule are derived, or zero, or refused.
    assert kinds == set(coverage.KINDS) - {"none", "reference"}
    assert coverage.kind("sin") == "differential equation"
    assert coverage.kind("reduce_prod") == "derived"
    assert coverage.kind("eq") == "zero"
    assert coverage.kind("pmax") == "none"
    with pytest.raises(KeyError, match="nothing_of_the_kind"):
        coverage.kind("nothing_of_the_kind")


# Of which JAX has a derivative, and the reason says why there is none here.
_NEVERTHELESS = {
    refusals.CALLBACK,
    refusals.EXTENDED_TYPE,
    coverage.GRADIENT_REFERENCE,
    coverage.KERNEL_REFERENCE,
    refusals.MUTABLE_TYPE,
    refusals.NOT_ALLOWED,
}


def test_what_is_not_supported_has_no_derivative_in_jax():
    for name, (_, has_derivative) in installed().items():
        reason = coverage.UNSUPPORTED.get(name)
        if reason is not None and reason not in _NEVERTHELESS:
            assert not has_derivative, name


def test_what_is_derived_has_a_derivative_in_jax():
    for name, (_, has_derivative) in installed().items():
        if name in coverage.DERIVED:
            assert has_derivative, name


def test_page():
    """The page in the documentation is the one that the tables make."""
    docs = pathlib.Path(__file__).parents[1] / "docs"
    command = [sys.executable, str(docs / "generate_primitives.py")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert made == (docs / "primitives.md").read_text(encoding="utf-8"), (
        "write it again: python docs/generate_primitives.py > docs/primitives.md"
    )


# -- the cases


class _Met:
    """The primitives that a jet has met: all of them, and those with an operand that
    moves."""

    def __init__(self, monkeypatch):
        self.all: set[str] = set()
        self.moving: set[str] = set()
        apply = Walk.apply

        def recorded(walk, eqn, inputs):
            self.all.add(eqn.primitive.name)
            if any(not series.is_constant for series in inputs):
                self.moving.add(eqn.primitive.name)
            return apply(walk, eqn, inputs)

        monkeypatch.setattr(Walk, "apply", recorded)


def _jet(fun):
    def jet(points, series):
        value, terms = eqx_taylor.filter_jet(fun, points, series)
        return [value, *terms]

    return jet


def test_every_primitive_is_exercised(monkeypatch):
    met = _Met(monkeypatch)
    for case in [*test_rules.REAL, *test_rules.COMPLEX]:
        points = case.arrays()
        series = tuple(random_series(points, 1))
        jax.eval_shape(_jet(case.fun), points, series)
    # These cases are compared with nested derivatives there; the others, below.
    exercised = met.moving | set(cases.CASES) | set(cases.UNREACHABLE)
    wanting = sorted(EXERCISED & set(installed()) - exercised)
    assert not wanting, f"without a case: {wanting}"


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for leaf in jtu.tree_leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(leaf):
                yield from _equations(getattr(leaf, "jaxpr", leaf))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)


# Those that share one program are tested together.
_PROGRAMS: dict[Any, list[str]] = {}
for _name, _case in cases.CASES.items():
    _PROGRAMS.setdefault(_case.fun, []).append(_name)


@pytest.mark.sample(5)
@pytest.mark.parametrize("names", _PROGRAMS.values(), ids="-".join)
def test_nested_derivatives(names, monkeypatch):
    case = cases.CASES[names[0]]
    names = {name for name in names if name in installed()} - set(cases.UNREACHABLE)
    if not names:
        pytest.skip("not there in this version of JAX")
    points = case.arrays()
    series = tuple(random_series(points, case.order))
    equations = list(_equations(jax.make_jaxpr(case.fun)(*points).jaxpr))
    there = {eqn.primitive.name for eqn in equations}
    assert names <= there, "not in the program"

    met = _Met(monkeypatch)
    if names & cases.NOT_ON_CPU:
        types = jax.eval_shape(case.fun, *points)
        assert jax.eval_shape(_jet(case.fun), points, series) == [types] * 4
    else:
        # Compiled, as JAX cannot compute some of these operation by operation.
        actual = jax.jit(_jet(case.fun))(points, series)
        nested = jax.jit(ft.partial(nested_jet, case.oracle or case.fun))
        assert_orders_close(actual, nested(points, series), case.ulps)
        # Along a line the slope of an operand may stand still while another moves.
        line = tuple([first, *[None] * len(rest)] for first, *rest in series)
        dense = [[first, *[0 * x for x in rest]] for first, *rest in series]
        actual = jax.jit(_jet(case.fun))(points, line)
        assert_orders_close(actual, nested(points, dense), case.ulps)
    zero = names & TABLES["ZERO"]
    # Of references nothing is left.
    assert not met.all & refusals.REFERENCES
    assert names - zero - refusals.REFERENCES <= met.moving, "no operand moves"
    for eqn in equations:
        if eqn.primitive.name in zero:
            _assert_no_slope(eqn)


def _assert_no_slope(eqn):
    """Integers out, or none but integers in, or a derivative of zero."""
    inputs = [var.aval for var in eqn.invars]
    outputs = [var.aval for var in eqn.outvars]
    if not (any(map(_moves, inputs)) and any(map(_moves, outputs))):
        return
    ones = [jnp.ones(aval.shape, aval.dtype) for aval in inputs]
    _, slopes = jax.jvp(
        lambda *args: eqn.primitive.bind(*args, **eqn.params), ones, ones
    )
    assert all(not jnp.any(slope) for slope in jtu.tree_leaves(slopes))


def _moves(aval) -> bool:
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def test_checkify():
    def fun(x):
        checkify.check(jnp.all(x < 2), "too large")
        return x * x

    def jet(x):
        return eqx_taylor.filter_jet(fun, (x,), ([x, None],))

    x = jnp.asarray([0.3, 0.4])
    error, (value, terms) = checkify.checkify(jet)(x)
    error.throw()
    assert_orders_close([value, *terms], [x * x, 2 * x * x, 2 * x * x])
    error, _ = checkify.checkify(jet)(x + 2)
    with pytest.raises(checkify.JaxRuntimeError, match="too large"):
        error.throw()


# -- the refusals


@pytest.mark.parametrize("name", sorted(cases.REFUSED))
def test_refused(name):
    fun, points = cases.REFUSED[name]
    points = tuple(map(jnp.asarray, points))
    series = tuple(random_series(points, 2))
    with pytest.raises(NotImplementedError) as info:
        jax.eval_shape(_jet(fun), points, series)
    assert f"The primitive `{name}` cannot be differentiated" in str(info.value)
    assert refusals.reason(name) in str(info.value)


def test_constants_are_not_refused():
    x = jnp.asarray([0.3, -0.7])

    def fun(x):
        y = jax.lax.stop_gradient(x)
        kind = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return x * jax.pure_callback(lambda y: 2 * y, kind, y)

    value, terms = eqx_taylor.filter_jet(fun, (x,), ([x, None],))
    assert_orders_close([value, *terms], [2 * x * x, 2 * x * x, 0 * x])
