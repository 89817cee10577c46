"""Changes of sign of polynomials, against exact roots (python-flint)."""

import math

import flint
import jax
import jax.numpy as jnp
import numpy as np
import numpy.polynomial.polynomial as npp
import pytest

from eqx_taylor._ode.roots import departure, first_crossing, noise_of


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
