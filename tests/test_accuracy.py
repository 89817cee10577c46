"""Every elementwise function to the last digits, over its whole domain.

Coefficients 0 to 20 are compared with ball arithmetic of as many bits as it takes. For
a straight line `x(t) = x_0 + s t`, where `s` is a power of two near the distance to the
next singularity (or the scale on which the function changes), let `f_n` be the true
coefficients and

    F_n = max(|f_n|, sqrt(|f_{n-1} f_{n+1}|)),

which is the size of coefficient `n` where it is not zero by chance. An error of `50 (K
+ 1)` roundings of `F_n` is allowed, `K = 20`.

On a curve the same is allowed, where `f_n` are the coefficients along the curve; or as
much as follows from a rounding of each coefficient of the curve, whose size is

    Σ_{j=1..k} |x_j| G_{k-j},

with `G_n` made as `F_n` of the coefficients of `f'(x(t))`. It is no larger for terms
that cancel: a composition of the coefficients of the function with powers of `x(t) -
x_0` has errors of 1e6 roundings at order 20. There are two curves through each point,
`x_0 + s (e^t - 1)`, on which coefficients fall off as those of solutions do, and one
with coefficients near `s` of any sign.

A function that is by definition a sum of larger terms, such as `x^a e^(-x)` far beyond
its maximum, is measured by these: with `F_n` their sizes on the line, they are as large
as `Σ_n F_n [|h|^n]_k` on a curve `x_0 + h(t)`.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from accuracy_cases import APPROXIMATIONS, Case, COMPLEX_CASES, REAL_CASES
from balls import (
    ball_series,
    curve_sizes,
    exact_terms,
    size,
    smooth_sizes,
    to_ball,
)
from flint import arb, arb_series
from jax import lax

import eqx_taylor


ORDER = 20


def allowed_ulps(order):
    return 50 * (order + 1)


def power_of_two(x):
    return 2.0 ** np.floor(np.log2(x)) if x > 1e-308 else 2.0**-1022


def units_of(case, points):
    return np.array([power_of_two(case.unit(x.item())) for x in points])


def line_of(case, dtype):
    """Points, the scales there, and coefficients 1 to `ORDER` of lines through them."""
    points = np.array(case.points).astype(dtype)
    units = units_of(case, points)
    h = np.zeros((ORDER, len(points)))
    h[0] = 1
    return spread(points, units, (h * units).astype(dtype))


# All cases have the same shape, so that every operation is compiled once for all.
PLACES = 48


def spread(points, units, h):
    assert len(points) <= PLACES
    places = np.arange(PLACES) % len(points)
    return points[places], units[places], h[:, places]


def curves_of(case, dtype):
    """The same of two curves through each point, some of them several times."""
    points = np.array(case.points).astype(dtype)
    units = units_of(case, points)
    # The coefficients of others would underflow.
    points, units = points[units > 1e-280], units[units > 1e-280]
    rng = np.random.default_rng(0)
    shape = (ORDER, len(points))
    rough = rng.uniform(0.5, 1, shape) * rng.choice([-1, 1], shape)
    factorials = np.cumprod(np.arange(1.0, ORDER + 1))[:, None]
    smooth = np.broadcast_to(1 / factorials, shape)
    points, units = np.tile(points, 2), np.tile(units, 2)
    h = np.concatenate([rough, smooth], axis=1) * units
    return spread(points, units, h.astype(dtype))


def jet_of(case, moving, points, h):
    """All coefficients, of all points at once."""
    series = [h[k] if k < moving else None for k in range(ORDER)]
    value, terms = eqx_taylor.filter_jet(
        case.fun, (points,), (series,), factorial_scaled=False
    )
    return [value, *terms]


def exact_and_sizes(case, x, unit, h, curved):
    """The true coefficients, and how large the terms are that they are made of."""
    own = None if case.sizes is None else case.sizes(ball_series([x, float(unit)]))
    if not curved:
        exact = exact_terms(case.exact, [x, float(unit)], ORDER + 1)
        sizes = smooth_sizes(exact)
        if own is not None:
            sizes = [max(known, own[k].mid()) for k, known in enumerate(sizes)]
        return exact, sizes
    exact = exact_terms(case.exact, [x, *h], ORDER + 1)
    sizes = curve_sizes(exact, h)
    if own is not None:
        path = arb_series([0, *[arb(abs(v)) for v in h]]) / arb(unit)
        total, power = arb_series([0]), arb_series([1])
        for n in range(ORDER + 1):
            total += power * own[n].mid()
            power *= path
        sizes = [max(known, total[k].mid()) for k, known in enumerate(sizes)]
    return exact, sizes


def errors(case: Case, dtype: str, curved: bool):
    """The error of each coefficient at each point, in roundings of the largest term."""
    info = ml_dtypes.finfo(jnp.finfo(dtype).dtype)
    eps, tiny, largest = (float(v) for v in (info.eps, info.tiny, info.max))
    points, units, h = (curves_of if curved else line_of)(case, dtype)
    # A program of twenty orders takes longer to compile than its operations one by one.
    moving = ORDER if curved else 1
    actual = jet_of(case, moving, jnp.asarray(points), list(jnp.asarray(h)))
    actual = np.stack(jax.device_get(actual))
    found = {}
    for i, x in enumerate(points):
        moving = [v.item() for v in h[:, i]]
        if (x.item(), moving[-1], 1) in found:
            continue
        exact, sizes = exact_and_sizes(case, x.item(), units[i], moving, curved)
        for k in range(1, ORDER + 1):
            if max(float(s) for s in sizes[: k + 1]) * 1e3 > largest:
                break  # It overflows, or terms that it is made of do.
            value = actual[k, i].item()
            error = (
                float(size(exact[k] - to_ball(value))) if np.isfinite(value) else np.inf
            )
            found[x.item(), moving[-1], k] = error / (eps * float(sizes[k]) + tiny)
    return found


def check(case, dtype, curved):
    found = errors(case, dtype, curved)
    assert len(found) > 0
    wrong = {where: e for where, e in found.items() if not e <= allowed_ulps(ORDER)}
    assert not wrong, f"(point, highest coefficient, order): roundings {wrong}"


def ids(case):
    return case.name


EXACT_CASES = [case for case in REAL_CASES if case.name not in APPROXIMATIONS]


@pytest.mark.sample(5)
@pytest.mark.parametrize("curved", [False, True], ids=["line", "curve"])
@pytest.mark.parametrize("case", EXACT_CASES, ids=ids)
def test_real(case, curved):
    check(case, "float64", curved)


@pytest.mark.sample(5)
@pytest.mark.parametrize("curved", [False, True], ids=["line", "curve"])
@pytest.mark.parametrize("case", COMPLEX_CASES, ids=ids)
def test_complex(case, curved):
    check(case, "complex128", curved)


# Half precision has few points; JAX's own functions are enough to see the conversions.
LAX_CASES = [
    case for case in REAL_CASES if getattr(lax, getattr(case.fun, "__name__", ""), None)
]


def in_range(case, dtype):
    """The case with those points only that this dtype has, and that are not on a
    singularity by their rounding."""
    info = ml_dtypes.finfo(jnp.finfo(dtype).dtype)
    smallest, largest = 100 * float(info.tiny), float(info.max) / 100
    points = []
    for point in case.points:
        with np.errstate(over="ignore", under="ignore"):
            rounded = np.array(point).astype(dtype).item()
        fits = point == 0 or smallest < abs(rounded) < largest
        if fits and case.unit(rounded) > smallest:
            points.append(point)
    if len(points) == 0:
        pytest.skip("no point of it is in the range of this dtype")
    return case._replace(points=points)


@pytest.mark.sample(6)
@pytest.mark.parametrize("case", EXACT_CASES, ids=ids)
def test_single_precision(case):
    check(in_range(case, "float32"), "float32", curved=False)


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", COMPLEX_CASES, ids=ids)
def test_single_precision_complex(case):
    check(in_range(case, "complex64"), "complex64", curved=False)


@pytest.mark.sample(7)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", LAX_CASES, ids=ids)
def test_half_precision(case, dtype):
    check(in_range(case, dtype), dtype, curved=False)


SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 1 + 2**-52]


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", [*REAL_CASES, *COMPLEX_CASES], ids=ids)
def test_order_0_is_the_function(case):
    """Bit for bit, at infinities, zeros and NaN as well. There is no NaN among the
    coefficients where JAX has none in a first derivative, and the function is finite."""
    points = np.array(case.points)
    points = np.concatenate([np.array(SPECIAL, points.dtype), points])
    assert len(points) <= PLACES
    x = jnp.asarray(np.resize(points, PLACES))
    value, terms = eqx_taylor.filter_jet(case.fun, (x,), ([jnp.ones_like(x), None],))
    expected = np.asarray(case.fun(x))
    if not np.array_equal(value, expected, equal_nan=True):
        with jax.disable_jit():  # Compiled as a whole, some round otherwise.
            expected = np.asarray(case.fun(x))
    # NaNs are equal here, 0.0 and -0.0 are not.
    np.testing.assert_array_equal(value, expected)
    for part in (np.real, np.imag):
        a, b = part(np.asarray(value)), part(expected)
        np.testing.assert_array_equal(
            np.signbit(a) & (a == 0), np.signbit(b) & (b == 0)
        )
    try:
        _, slope = jax.jvp(case.fun, (x,), (jnp.ones_like(x),))
    except NotImplementedError:
        return  # Ours alone.
    regular = np.isfinite(expected) & np.isfinite(slope)
    assert np.all(np.isfinite(terms[0])[regular]), x[~np.isfinite(terms[0]) & regular]
