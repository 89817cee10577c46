"""The 25 problems of DETEST (Hull, Enright, Fellen and Sedgwick, "Comparing Numerical
Methods for Ordinary Differential Equations", SIAM J. Numer. Anal. 9 (1972), 603-637),
classes A to E, all from t = 0 to t = 20; and their solutions at the end, where there is
a closed form.

The data of C5 are the planets from Jupiter to Pluto, relative to the Sun, in
astronomical units and in days times 100; `test_detest.py` compares them with the
planets' orbits, so that a misprint does not stay unnoticed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Array

from benchmarks.problems import kepler_slopes


END = 20.0


class Problem(NamedTuple):
    name: str
    # `field(t, y, args)` of a scalar, a vector, and the matrix of a linear problem.
    field: Callable[[Array, Array, Array | None], Array]
    y0: np.ndarray
    args: np.ndarray | None
    # The solution at `END`; `None` without a closed form.
    end: np.ndarray | None


def _linear(t, y, matrix):
    return matrix @ y


# -- A: single equations


def _a1(t, y, args):
    return -y


def _a2(t, y, args):
    return -(y**3) / 2


def _a3(t, y, args):
    return y * jnp.cos(t)


def _a4(t, y, args):
    return y / 4 * (1 - y / 20)


def _a5(t, y, args):
    return (y - t) / (y + t)


def _a5_end():
    """In polar coordinates, t = r cos(phi) and y = r sin(phi), r' = -r: a spiral."""

    def excess(phi):
        return 4 * np.exp(np.pi / 2 - phi) * np.cos(phi) - END

    phi = scipy.optimize.brentq(excess, -np.pi / 4, np.pi / 2, xtol=1e-15)
    return [END * np.tan(phi)]


# -- B: small systems


def _b1(t, y, args):
    """The growth of two conflicting populations."""
    both = y[0] * y[1]
    return jnp.stack([2 * (y[0] - both), both - y[1]])


# A linear chemical reaction.
_B2 = np.array([[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]])


def _b2_end():
    # Eigenvalues 0, -1, -3, with eigenvectors (1, 1, 1), (1, 0, -1), (1, -2, 1).
    vectors = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    parts = vectors @ [2.0, 0.0, 1.0] / np.sum(vectors**2, axis=1)
    return np.exp(np.array([0.0, -1.0, -3.0]) * END) * parts @ vectors


def _b3(t, y, args):
    """A nonlinear chemical reaction."""
    square = y[1] ** 2
    return jnp.stack([-y[0], y[0] - square, square])


def _b3_end():
    """y_2 = u'/u makes of Riccati's equation u'' = exp(-t) u, whose solutions are
    Bessel functions of order 0 of z = 2 exp(-t/2). dz/dt = -z/2."""
    i0, i1, k0, k1 = [
        lambda z, f=f: getattr(scipy.special, f)(z) for f in ("i0", "i1", "k0", "k1")
    ]
    # u'(0) = 0 for u = a I_0 + b K_0.
    a, b = k1(2.0), i1(2.0)
    z = 2 * np.exp(-END / 2)
    slope = -z / 2 * (a * i1(z) - b * k1(z))
    y = np.exp(-END), slope / (a * i0(z) + b * k0(z))
    return [*y, 1 - sum(y)]


def _b4(t, y, args):
    """The integral surface of a torus."""
    radius = jnp.sqrt(y[0] ** 2 + y[1] ** 2)
    return jnp.stack(
        [-y[1] - y[0] * y[2] / radius, y[0] - y[1] * y[2] / radius, y[0] / radius]
    )


def _b4_end():
    """The angle in the plane of y_1 and y_2 is t, the radius 2 + cos(t)."""
    radius = 2 + np.cos(END)
    return [radius * np.cos(END), radius * np.sin(END), np.sin(END)]


def _b5(t, y, args):
    """Euler's equations of a rigid body without external forces."""
    return jnp.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])


# -- C: moderate systems


def _chain(rates):
    """Of substances each of which decays into the next, the last one stable."""
    rates = np.array([*rates, 0.0])
    return np.diag(-rates) + np.diag(rates[:-1], -1)


def _diffusion(size):
    return np.diag(np.full(size, -2.0)) + np.eye(size, k=1) + np.eye(size, k=-1)


def _c1_end():
    """All rates are 1: Poisson's distribution."""
    k = np.arange(9)
    y = END**k * np.exp(-END) / scipy.special.factorial(k)
    return [*y, 1 - np.sum(y)]


def _c2_end():
    """Rates 1, 2, 3, ...: a geometric distribution."""
    p = np.exp(-END)
    return [*(p * (1 - p) ** np.arange(9)), (1 - p) ** 9]


def _diffusion_end(size):
    """Sines are the eigenvectors of a chain with its ends held at 0."""
    angles = np.pi * np.arange(1, size + 1) / (size + 1)
    sines = np.sin(np.arange(1, size + 1)[:, None] * angles)
    decay = np.exp(-4 * np.sin(angles / 2) ** 2 * END)
    return 2 / (size + 1) * sines @ (decay * np.sin(angles))


GRAVITY = 2.95912208286
SUN = 1.00000597682
# Jupiter, Saturn, Uranus, Neptune, Pluto.
# fmt: off
PLANETS = np.array([
    0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449,
    0.00000277777777778,
])
_POSITIONS = np.array([
    [3.42947415189, 3.35386959711, 1.35494901715],
    [6.64145542550, 5.97156957878, 2.18231499728],
    [11.2630437207, 14.6952576794, 6.27960525067],
    [-30.1552268759, 1.65699966404, 1.43785752721],
    [-21.1238353380, 28.4465098142, 15.3882659679],
])
_VELOCITIES = np.array([
    [-0.557160570446, 0.505696783289, 0.230578543901],
    [-0.415570776342, 0.365682722812, 0.169143213293],
    [-0.325325669158, 0.189706021964, 0.0877265322780],
    [-0.0240476254170, -0.287659532608, -0.117219543175],
    [-0.176860753121, -0.216393453025, -0.0148647893090],
])
# fmt: on


def _c5(t, y, args):
    """The motion of five outer planets about the Sun, which accelerates too."""
    x, v = y.reshape(2, 5, 3)
    inverse_cubes = jnp.sum(x**2, axis=1) ** -1.5
    # d[i, j] points from planet i to planet j. The planet itself is at distance 1.
    d = x[None] - x[:, None]
    weights = PLANETS[None] * (jnp.sum(d**2, axis=2) + np.eye(5)) ** -1.5
    from_sun = (SUN + PLANETS) * inverse_cubes
    # The pull of the other planets on the Sun.
    others = (1 - np.eye(5)) * (PLANETS * inverse_cubes)[None]
    acceleration = GRAVITY * (
        jnp.sum(weights[:, :, None] * d, axis=1)
        - from_sun[:, None] * x
        - jnp.sum(others[:, :, None] * x[None], axis=1)
    )
    return jnp.concatenate([v.ravel(), acceleration.ravel()])


# -- D: Kepler's orbits


def _orbit(t, y, args):
    return jnp.concatenate(kepler_slopes(y[:2], y[2:]))


def _orbit_start(e):
    return [1 - e, 0, 0, np.sqrt((1 + e) / (1 - e))]


def _orbit_end(e):
    # Kepler's equation, t = u - e sin(u); x = cos(u) - e, y = sqrt(1 - e²) sin(u).
    u = scipy.optimize.brentq(
        lambda u: u - e * np.sin(u) - END, END - 1, END + 1, xtol=1e-15
    )
    du = 1 / (1 - e * np.cos(u))
    b = np.sqrt(1 - e**2)
    return [np.cos(u) - e, b * np.sin(u), -np.sin(u) * du, b * np.cos(u) * du]


# -- E: equations of second order


def _e1(t, y, args):
    """Bessel's equation of order 1/2, with the origin one unit to the left."""
    z = t + 1
    return jnp.stack([y[1], -(y[1] / z + (1 - 0.25 / z**2) * y[0])])


def _e1_solution(t):
    z = t + 1
    y = np.sqrt(2 / (np.pi * z)) * np.sin(z)
    return [y, np.sqrt(2 / (np.pi * z)) * np.cos(z) - y / (2 * z)]


def _e2(t, y, args):
    """Van der Pol's equation."""
    return jnp.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def _e3(t, y, args):
    """Duffing's equation."""
    return jnp.stack([y[1], y[0] ** 3 / 6 - y[0] + 2 * jnp.sin(2.78535 * t)])


def _e4(t, y, args):
    """A body that falls through air."""
    return jnp.stack([y[1], 0.032 - 0.4 * y[1] ** 2])


def _e4_end():
    rate = np.sqrt(0.032 * 0.4)
    return [
        30 + np.log(np.cosh(rate * END)) / 0.4,
        rate / 0.4 * np.tanh(rate * END),
    ]


def _e5(t, y, args):
    """A pursuit along a line."""
    return jnp.stack([y[1], jnp.sqrt(1 + y[1] ** 2) / (25 - t)])


def _e5_end():
    """y_2 = sinh(log(25/(25 - t)))."""
    left = 25 - END
    y = (25 * np.log(25 / left) - (25**2 - left**2) / 50) / 2
    return [y, (25 / left - left / 25) / 2]


def _problem(name, field, y0, end, args=None):
    y0 = np.array(y0, np.float64)
    if end is not None:
        end = np.array(end, np.float64)
    return Problem(name, field, y0, args, end)


def _linear_problem(name, matrix, end):
    return _problem(name, _linear, np.eye(len(matrix))[0], end, matrix)


PROBLEMS = [
    _problem("A1", _a1, [1], [np.exp(-END)]),
    _problem("A2", _a2, [1], [1 / np.sqrt(1 + END)]),
    _problem("A3", _a3, [1], [np.exp(np.sin(END))]),
    _problem("A4", _a4, [1], [20 / (1 + 19 * np.exp(-END / 4))]),
    _problem("A5", _a5, [4], _a5_end()),
    _problem("B1", _b1, [1, 3], None),
    _problem("B2", _linear, [2, 0, 1], _b2_end(), _B2),
    _problem("B3", _b3, [1, 0, 0], _b3_end()),
    _problem("B4", _b4, [3, 0, 0], _b4_end()),
    # Jacobi's elliptic functions sn, cn and dn.
    _problem("B5", _b5, [0, 1, 1], scipy.special.ellipj(END, 0.51)[:3]),
    _linear_problem("C1", _chain(np.ones(9)), _c1_end()),
    _linear_problem("C2", _chain(np.arange(1, 10)), _c2_end()),
    _linear_problem("C3", _diffusion(10), _diffusion_end(10)),
    _linear_problem("C4", _diffusion(51), _diffusion_end(51)),
    _problem("C5", _c5, [*_POSITIONS.ravel(), *_VELOCITIES.ravel()], None),
    *[
        _problem(f"D{i}", _orbit, _orbit_start(e), _orbit_end(e))
        for i, e in enumerate([0.1, 0.3, 0.5, 0.7, 0.9], 1)
    ],
    _problem("E1", _e1, _e1_solution(0.0), _e1_solution(END)),
    _problem("E2", _e2, [2, 0], None),
    _problem("E3", _e3, [0, 0], None),
    _problem("E4", _e4, [30, 0], _e4_end()),
    _problem("E5", _e5, [0, 0], _e5_end()),
]
