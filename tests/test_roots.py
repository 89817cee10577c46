"""Changes of sign of polynomials, against exact roots (python-flint)."""

import math

import flint
import jax
import jax.numpy as jnp
import numpy as np
import numpy.polynomial.polynomial as npp
import pytest

from eqx_taylor._ode.interpolated import POINTS
from eqx_taylor._ode.quiet_steps import stay_away_from_zero
from eqx_taylor._ode.roots import (
    departure,
    first_crossing,
    is_far_from_zero,
    noise_of,
    normalised,
)


MOST = 8


@jax.jit
@jax.vmap
def crossings(p):
    """All crossings of a polynomial, and the noise: one after another."""
    p = p[None]
    noise = noise_of(p)

    def next_one(carry, _):
        start, side = carry
        [root], [behind] = first_crossing(p, side, start, noise)
        found = jnp.isfinite(root)
        start = jnp.where(found, behind, start)
        side = jnp.where(found, -side, 0)
        return (start, side), root

    first = jnp.zeros(1, p.dtype), departure(p, noise)
    return jax.lax.scan(next_one, first, None, length=MOST)[1], noise[0]


def exact(p):
    """A polynomial with floating-point coefficients, as one with rational ones."""
    return flint.fmpq_poly([flint.fmpq(*float(c).as_integer_ratio()) for c in p])


def real_roots(poly):
    """The real roots in [0, 1], without multiplicity, to 30 digits."""
    numerator = poly.numer()
    roots = []
    with flint.ctx.workdps(50):
        for root, _ in numerator.complex_roots():
            if root.imag == 0 and 0 <= root.real.mid() <= 1:
                roots.append(float(root.real.mid()))
    return sorted(roots)


def magnitude(poly, x):
    return abs(float(poly(flint.fmpq(*float(x).as_integer_ratio()))))


def lobes(poly, roots):
    """The largest value before, between and behind the roots."""
    extremes = real_roots(poly.derivative())
    ends = [0.0, *roots, 1.0]
    return [
        max(magnitude(poly, x) for x in [low, high, *extremes] if low <= x <= high)
        for low, high in zip(ends, ends[1:])
    ]


def random_polynomial(rng, i, order=20):
    """With up to three roots; every fourth has two more close to each other."""
    roots = list(rng.uniform(0.0, 1.0, rng.integers(0, 4)))
    if i % 4 == 0:
        center = rng.uniform(0.05, 0.9)
        roots += [center, center + 10 ** rng.uniform(-6, -1)]
    p = npp.polyfromroots(roots) if roots else np.ones(1)
    while len(p) < order:
        z = complex(rng.uniform(-1.5, 2.5), rng.uniform(0.2, 1.5))
        p = npp.polymul(p, [abs(z) ** 2, -2 * z.real, 1])
    return np.pad(p / np.abs(p).max(), (0, order + 1 - len(p)))


def check(ps, found, noises):
    """Each root is found unless rounding errors hide the change of sign; and nothing
    else is. Returns the number of roots."""
    total = 0
    for p, xs, noise in zip(ps, found, noises):
        poly = exact(p)
        roots = real_roots(poly)
        xs = sorted(xs[np.isfinite(xs)])
        heights = lobes(poly, roots)
        slope = poly.derivative()
        eps = float(np.finfo(p.dtype).eps)
        for x in xs:
            assert magnitude(poly, x) <= noise
        # Roots between two lobes that are higher than the noise.
        for root, before, behind in zip(roots, heights, heights[1:]):
            if min(before, behind) > 4 * noise:
                # Rounding errors move it by this.
                moved = noise / magnitude(slope, root)
                assert min(abs(x - root) for x in xs) <= 2 * eps + moved, (root, xs)
        assert len(xs) <= len(roots)
        total += len(xs)
    return total


def test_random_polynomials():
    rng = np.random.default_rng(0)
    ps = np.array([random_polynomial(rng, i) for i in range(400)])
    found, noises = map(np.asarray, crossings(ps))
    assert check(ps, found, noises) > 600


def test_random_polynomials_in_float32():
    rng = np.random.default_rng(1)
    ps = np.array([random_polynomial(rng, i) for i in range(100)], np.float32)
    found, noises = map(np.asarray, crossings(ps))
    assert check(ps, found, noises) > 100


@pytest.mark.parametrize(
    "terms, roots",
    [
        ([1.0, -2.0], [0.5]),
        ([0.0, 1.0], []),  # At the start: left behind.
        ([0.0, -1.0, 2.0], [0.5]),
        ([1.0, -1.0], []),  # At the end there is nothing on the other side.
        ([0.25, -1.0, 1.0], []),  # It touches zero.
        ([0.25 - 1e-12, -1.0, 1.0], [0.5 - 1e-6, 0.5 + 1e-6]),
        ([0.0, 0.0], []),
        ([math.nan, 1.0], []),
        ([1.0, math.inf], []),
        ([-3.0, 1.0], []),
        ([0.125, -0.75, 1.5, -1.0], [0.5]),  # A triple root.
        ([1e-280, -2e-280], [0.5]),
        ([1e200, -2e200], [0.5]),
    ],
    ids=str,
)
def test_special_polynomials(terms, roots):
    p = np.zeros((1, 5))
    p[0, : len(terms)] = terms
    found = np.asarray(crossings(p)[0][0])
    found = found[np.isfinite(found)]
    # Half the digits of a double root are known, and a third of a triple one.
    tol = 1e-4 if len(terms) == 4 else 1e-9 if len(terms) == 3 else 1e-15
    np.testing.assert_allclose(found, roots, rtol=0, atol=tol)


def test_roots_of_multiplicity():
    """Those of odd multiplicity m are found, to the m-th root of rounding errors; at
    those of even multiplicity nothing changes its sign."""
    ms = np.arange(1, 7)
    ps = np.array([np.pad(npp.polyfromroots([0.375] * m), (0, 6 - m)) for m in ms])
    found, noises = map(np.asarray, crossings(ps))
    for m, xs, noise in zip(ms, found, noises):
        xs = xs[np.isfinite(xs)]
        assert len(xs) == m % 2
        # Half of the noise more is what the value there is rounded to.
        assert all(abs(xs - 0.375) <= (1.5 * noise) ** (1 / m))


@pytest.mark.parametrize("size", [1e-307, 1e-300, 1e300, 1e307])
def test_normalised(size):
    """Sums of coefficients do not overflow, and rounding errors do not underflow."""
    p, factor = normalised(jnp.array([[1.0, -3.0, 1.5], [0.0, 0.0, 0.0]]) * size)
    assert np.all(np.abs(p[0]) <= 4) and np.max(np.abs(p[0])) >= 0.5
    np.testing.assert_array_equal(p[1], 0)
    np.testing.assert_array_equal(p[0] / factor[0], np.array([1.0, -3.0, 1.5]) * size)
    assert np.log2(factor[0]) % 1 == 0


def test_far_from_zero():
    """What is said to have no root has none, for certain."""
    rng = np.random.default_rng(3)
    ps = rng.normal(size=(2000, 6)) * 0.25 ** np.arange(6)
    said = np.asarray(is_far_from_zero([*map(jnp.array, ps.T)]))
    values = npp.polyval(np.linspace(0, 1, 400), ps.T)
    has_root = (values.min(1) < 0) & (values.max(1) > 0)
    assert not np.any(said & has_root) and said.sum() > 0.8 * (~has_root).sum()
    for terms in ([0.0, 0.0], [1.0, -1.0], [1e-16, 1.0], [np.nan, 0.0], [np.inf, 0.0]):
        assert not is_far_from_zero([*map(jnp.array, terms)])
    assert is_far_from_zero([jnp.array(1.0)])


def _say(function, dtype=float):
    """What is said of functions of points in [0, 1], by columns; and whether they have
    roots."""
    values = function(np.linspace(0, 1, 1001)[:, None])
    ends_and_inside = values[0], function(POINTS[:, None]), values[-1]
    said = stay_away_from_zero(*(jnp.asarray(x, dtype) for x in ends_and_inside))
    return np.asarray(said), (values.min(0) <= 0) & (values.max(0) >= 0)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_stay_away_from_zero(dtype):
    """What is said by values to have no root has none: polynomials of order 20 with
    coefficients that fall fast and slowly, waves, poles near the step, kinks, and what
    vanishes at the nodes or is constant there."""
    rng = np.random.default_rng(4)
    number = 4000
    offset, phase = rng.uniform(-2, 2, number), rng.uniform(0, 7, number)
    place, wave = rng.uniform(0, 1, number), rng.uniform(0, 60, number)
    for ratio, least in ((0.13, 0.99), (0.5, 0.98), (0.9, 0.75), (1.0, 0.5)):
        terms = rng.normal(size=(21, number)) * ratio ** np.arange(21)[:, None]
        terms[0] *= 3
        said, has_root = _say(
            lambda x: sum(c * x**k for k, c in enumerate(terms)), dtype
        )
        assert not np.any(said & has_root)
        assert said.sum() > least * (~has_root).sum()
    others = [
        lambda x: offset + np.cos(wave * x + phase),
        lambda x: offset - 1 / (1 + ((x - place) / 0.1) ** 2),
        lambda x: np.abs(x - place) - 0.1 * offset,
        lambda x: np.where(np.abs(x - place) < 0.1, offset, 0.3),
    ]
    for k in (8, 15, 16, 17, 32, 48):
        angles = rng.uniform(0.98, 1.02, number)
        others.append(
            lambda x, k=k: offset / 2 + np.cos(k * angles * np.arccos(2 * x - 1))
        )
    for function in others:
        said, has_root = _say(function, dtype)
        assert not np.any(said & has_root)


def test_stay_away_from_zero_on_one_side():
    """Of a constant; of one that starts on another side, or at zero; and of what is not
    finite somewhere."""
    ones = jnp.ones((len(POINTS), 6))
    start = jnp.array([1.0, -1.0, 0.0, jnp.nan, 1.0, 1.0])
    inside = ones.at[3, 4].set(jnp.nan)
    end = ones[0].at[5].set(-1.0)
    said = stay_away_from_zero(start, inside, end)
    np.testing.assert_array_equal(said, [True, False, False, False, False, False])
    np.testing.assert_array_equal(stay_away_from_zero(-start, -inside, -end), said)
    assert not np.any(stay_away_from_zero(*(0 * x for x in (start, inside, end))))


def test_first_of_several():
    """Rows behind the first crossing may be left out; a `side` of 0 is not left, and
    nothing before the start counts."""
    ps = jnp.array([[0.75, -1.0], [0.25, -1.0], [0.1, -1.0], [0.5, -1.0]])
    noise = noise_of(ps)

    @jax.jit
    def first(side, start):
        return first_crossing(ps, side, jnp.full(4, start), noise)

    root, behind = first(jnp.array([1.0, 1.0, 0.0, 1.0]), jnp.array(0.0))
    assert int(jnp.argmin(root)) == 1
    np.testing.assert_allclose(root[1], 0.25, rtol=1e-15)
    assert root[2] == jnp.inf
    assert 0.25 < behind[1] < 0.25 + 1e-14
    # The second is on its other side already at 0.3, and so crosses at the start.
    root, _ = first(jnp.array([1.0, -1.0, 0.0, 1.0]), jnp.array(0.3))
    assert int(jnp.argmin(root)) == 3
    np.testing.assert_allclose(root[3], 0.5, rtol=1e-15)
