"""Every parameter of every primitive that has a rule: programs in which it has several
values, compared with nested derivatives; or a reason why no coefficient depends on it."""

import collections
import functools as ft

import completeness_cases
import jax
import jax.extend.core as jex
import jax.tree_util as jtu
import numpy as np
import parameter_cases as cases
import primitive_coverage as coverage
import pytest
import test_rules
from helpers import assert_orders_close, derivatives, jet, polynomial, random_series

from eqx_taylor._core.rule import RULES


WITH_RULES = {name for name in RULES if isinstance(name, str)}
WITH_RULES |= coverage.DERIVED


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for leaf in jtu.tree_leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(leaf):
                yield from _equations(getattr(leaf, "jaxpr", leaf))


def _is_jaxpr(value):
    return isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)


def _values(case):
    """Of all parameters in a program, by primitive and name."""
    found = collections.defaultdict(set)
    try:
        jaxpr = jax.make_jaxpr(case.fun)(*case.arrays()).jaxpr
    except (AttributeError, ImportError, KeyError, TypeError):
        return found  # Not there in this version of JAX; `test_completeness.py` skips.
    for eqn in _equations(jaxpr):
        if eqn.primitive.name in WITH_RULES:
            for name, value in eqn.params.items():
                found[eqn.primitive.name, name].add(str(value))
    return found


@ft.cache
def _everywhere():
    """The values in the programs of the other tables; and in each of the cases here."""
    others = collections.defaultdict(set)
    for case in [
        *test_rules.REAL,
        *test_rules.COMPLEX,
        *{case.fun: case for case in completeness_cases.CASES.values()}.values(),
    ]:
        for key, some in _values(case).items():
            others[key] |= some
    here = {case.name: _values(case) for file in cases.CASES.values() for case in file}
    return others, here


def test_every_parameter_has_several_values_or_a_reason():
    others, here = _everywhere()
    found = collections.defaultdict(set)
    for values in [others, *here.values()]:
        for key, some in values.items():
            found[key] |= some
    wanting = [
        f"{primitive}: {parameter}"
        for (primitive, parameter), some in sorted(found.items())
        if len(some) < 2
        and parameter not in cases.CANNOT_MATTER
        and f"{primitive}.{parameter}" not in cases.CANNOT_MATTER
    ]
    assert not wanting, "one value only, and no reason: " + ", ".join(wanting)


def test_cases_are_of_the_parameters_that_they_name():
    others, here = _everywhere()
    for name, covered in cases.COVERED.items():
        for key in covered:
            if key[1]:
                assert here[name][key], f"{name}: not in the program"
                values = others[key] | ft.reduce(
                    set.union, (other[key] for other in here.values()), set()
                )
                assert len(values) > 1, f"{name}: {key} has one value"


def test_reasons_are_of_parameters_that_there_are():
    others, here = _everywhere()
    keys = {key for values in [others, *here.values()] for key in values}
    names = {name for _, name in keys} | {".".join(key) for key in keys}
    # Some are of other versions of JAX.
    unknown = sorted(set(cases.CANNOT_MATTER) - names - cases.OF_SOME_VERSIONS)
    assert not unknown


# -- the cases, as one program for the rules of each file


def _towers(case, points, terms):
    fun = case.oracle or case.fun

    def along(t):
        return fun(*[polynomial(x, some, t) for x, some in zip(points, terms)])

    return derivatives(along, case.order)(jax.numpy.zeros(()))


def _finite(actual, expected):
    """Both, with zeros where both are the same infinity or no number."""

    def both(a, e):
        a, e = np.asarray(a), np.asarray(e)
        same = ~np.isfinite(e) & ((a == e) | (a != a) & (e != e))
        return np.where(same, 0, a), np.where(same, 0, e)

    pairs = jax.tree.map(both, actual, expected)
    return jax.tree.transpose(jax.tree.structure(actual), None, pairs)


@pytest.mark.sample(4)
@pytest.mark.parametrize("file", cases.CASES)
def test_nested_derivatives(file):
    """Along curves and along lines."""
    chosen = cases.CASES[file]
    points = [case.arrays() for case in chosen]
    curves = [random_series(x, case.order) for case, x in zip(chosen, points)]

    @jax.jit
    def jets(points, curves):
        lines = [
            [[first, *[None] * len(rest)] for first, *rest in terms] for terms in curves
        ]
        return [
            [
                jet(case.fun, x, terms)
                for case, x, terms in zip(chosen, points, some, strict=True)
            ]
            for some in (curves, lines)
        ]

    @jax.jit
    def expected(points, curves):
        return [_towers(*one) for one in zip(chosen, points, curves, strict=True)]

    lines = [
        [[first, *[0 * term for term in rest]] for first, *rest in terms]
        for terms in curves
    ]
    for some, actual in zip((curves, lines), jets(points, curves), strict=True):
        for case, a, e in zip(chosen, actual, expected(points, some), strict=True):
            try:
                assert_orders_close(*_finite(a, e), case.ulps)
            except AssertionError as error:
                raise AssertionError(f"{case.name}: {error}") from error
