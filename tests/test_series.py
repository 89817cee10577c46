"""The truncated series themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as drawn, settings, strategies as st
from jax import lax

from eqx_taylor._core.convolution import convolve, convolve_square
from eqx_taylor._core.polynomial import evaluate
from eqx_taylor._core.series import (
    analytic_support,
    constant,
    given,
    mask,
    orders,
    product_support,
    Series,
    unknown,
)
from eqx_taylor._core.terms import add, scale, sub


AVAL = jax.ShapeDtypeStruct((2,), jnp.dtype("float64"))


def _term(*values):
    return jnp.array(values, jnp.float64)


def _series(*rows):
    return given(AVAL, [None if row is None else _term(*row) for row in rows])


# -- supports: sets of orders, as bits

_orders = st.sets(st.integers(0, 12))


def _bits(numbers):
    return sum(1 << k for k in numbers)


@drawn(_orders)
def test_orders_are_the_bits(numbers):
    assert orders(_bits(numbers)) == sorted(numbers)


def test_mask():
    assert orders(mask(3)) == [0, 1, 2, 3]


@drawn(_orders, _orders, st.integers(0, 12))
def test_product_support(a, b, order):
    expected = {i + j for i in a for j in b if i + j <= order}
    assert orders(product_support(_bits(a), _bits(b), order)) == sorted(expected)


@settings(deadline=None)
@drawn(_orders, st.integers(0, 12))
def test_analytic_support(numbers, order):
    """All sums of members, and nothing else."""
    reached = {0}
    for _ in range(order):
        reached |= {i + j for i in reached for j in numbers if i + j <= order}
    assert orders(analytic_support(_bits(numbers), order)) == sorted(reached)


# -- the class


def test_coefficients_are_computed_when_asked_for_and_once():
    asked = []

    def compute(k):
        asked.append(k)
        return _term(k, k)

    series = Series(AVAL, 0b1011, compute)
    assert asked == []
    assert series[2] is None
    assert asked == [0, 1]
    assert series[3][0] == 3 and series[1][0] == 1
    assert asked == [0, 1, 3]


def test_dense_makes_zeros_only_when_asked():
    series = _series((1, 2), None, (3, 4))
    assert series[1] is None
    np.testing.assert_array_equal(series.dense(1), np.zeros(2))
    assert series.dense(1).dtype == jnp.float64


@pytest.mark.parametrize(
    "series, expected",
    [(constant(AVAL, _term(1, 2)), True), (_series((1, 2)), True),
     (_series((1, 2), None), True), (_series((1, 2), (0, 0)), False)],
)  # fmt: skip
def test_is_constant(series, expected):
    assert series.is_constant is expected


def test_derivative():
    series = _series((1, 2), (3, 4), None, (5, 6))
    slope = series.derivative
    assert orders(slope.support) == [0, 2]
    np.testing.assert_array_equal(slope[0], [3, 4])
    assert slope[1] is None
    np.testing.assert_array_equal(slope[2], [15, 18])
    assert series.derivative is slope


def test_unknown_grows():
    series = unknown(AVAL, mask(2), [_term(1, 2)])
    assert not series.is_known
    with pytest.raises(AssertionError):
        series[1]
    series.append(_term(3, 4))
    np.testing.assert_array_equal(series[1], [3, 4])


# -- operations


def test_symbolic_zeros_of_sums():
    a = _term(1, 2)
    assert add(None, None) is None and sub(None, None) is None
    assert add(a, None) is a and add(None, a) is a and sub(a, None) is a
    np.testing.assert_array_equal(sub(None, a), [-1, -2])
    assert scale(None, 3) is None and scale(a, 1) is a
    np.testing.assert_array_equal(scale(a, -1), [-1, -2])
    np.testing.assert_array_equal(scale(a, 3), [3, 6])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_scale_keeps_the_dtype(dtype):
    assert scale(jnp.ones(2, dtype), 1 / 3).dtype == dtype


_A = [(1, 2), None, (3, 5), (7, 1), None, (2, 2)]
_B = [None, (2, 3), (4, -1), None, (1, 1), (5, 0)]


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("k", range(6))
def test_convolutions_are_products_of_polynomials(k, first):
    def dense(rows):
        return np.array([(0, 0) if row is None else row for row in rows])

    a, b = dense(_A), dense(_B)
    product = convolve(lax.mul, _series(*_A), _series(*_B), k, first)
    expected = sum((a[j] * b[k - j] for j in range(first, k + 1)), np.zeros(2))
    np.testing.assert_array_equal(np.zeros(2) if product is None else product, expected)
    square = convolve_square(_series(*_A), k, first)
    expected = sum((a[j] * a[k - j] for j in range(first, k + 1 - first)), np.zeros(2))
    np.testing.assert_array_equal(np.zeros(2) if square is None else square, expected)


def test_convolve_does_not_ask_for_what_is_multiplied_by_zero():
    """The last coefficient of a series under construction is not there yet."""
    growing = unknown(AVAL, mask(2), [_term(1, 2), _term(3, 4)])
    line = _series(None, (1, 1))
    np.testing.assert_array_equal(convolve(lax.mul, growing, line, 2), [3, 4])


def test_evaluate():
    terms = [_term(1, 2), _term(3, 4), _term(5, 6)]
    np.testing.assert_array_equal(evaluate(terms, 2.0), [27, 34])
    np.testing.assert_array_equal(evaluate(terms, 0.0), [1, 2])
