"""Initial value problems with known solutions, for benchmarks of solvers and for tests;
and the equations of Lorenz and of Kepler, for all of them.

A reference is a closed form (Kepler's orbit); or it is computed by a method that is
none of those compared: extrapolation (Gragg, Bulirsch and Stoer; Section II.9 of
Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I"), in NumPy's
`longdouble`, of 64 bits and more where the machine has them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from eqx_taylor import _outer_solar_system as solar_system


# A function of t, y, args, as `diffrax.ODETerm` takes it.
Field = Callable[[Any, Any, Any], Any]


class Problem(NamedTuple):
    name: str
    field: Field
    # From t = 0 to t1.
    y0: Any
    t1: float
    # The field by NumPy, for numbers with more digits.
    numpy_field: Field
    # The solution at t1, if it is known.
    closed_form: Callable[[], Any] | None = None
    # `atol` is this times `rtol`, for states of another size than 1.
    atol_per_rtol: float = 1.0
    # Whether an implicit method is worth a look: the state is a few numbers.
    small: bool = False

    def reference(self, columns: int = 10) -> Any:
        """The solution at `t1`, as a PyTree of `np.longdouble`."""
        if self.closed_form is not None:
            return self.closed_form()
        return extrapolation(self.numpy_field, self.y0, self.t1, columns)

    def uncertainty(self, reference: Any) -> float:
        """Of the reference: how far another order, of other steps, is from it."""
        other = extrapolation(self.numpy_field, self.y0, self.t1, columns=8)
        return error(other, reference)


def error(y: Any, reference: Any) -> float:
    """The largest error, relative to the largest number of the same leaf: positions to
    positions, velocities to velocities."""
    errors = jtu.tree_map(
        lambda y, r: (
            np.max(np.abs(np.asarray(y, np.longdouble) - r)) / np.max(np.abs(r))
        ),
        y,
        reference,
    )
    return float(max(jtu.tree_leaves(errors)))


# -- the method of the references


def extrapolation(field: Field, y0: Any, t1: float, columns: int) -> Any:
    """Extrapolates the midpoint rule with 2, 4, ..., 2 `columns` steps to infinitely
    many. The steps are chosen for an error of some roundings."""
    leaves, treedef = jtu.tree_flatten(y0)
    leaves = [np.asarray(leaf, np.longdouble) for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(vector):
        parts = np.split(vector, ends)
        return jtu.tree_unflatten(
            treedef, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves)]
        )

    def slope(t, vector):
        out = jtu.tree_leaves(field(t, unravel(vector), None))
        return np.concatenate([np.ravel(x) for x in out])

    tolerance = 16 * np.finfo(np.longdouble).eps
    y = np.concatenate([leaf.ravel() for leaf in leaves])
    t, end = np.longdouble(0), np.longdouble(t1)
    first = slope(t, y)
    h = end / 100
    while t < end:
        h = min(h, end - t)
        row: list[np.ndarray] = []
        for j in range(1, columns + 1):
            previous, row = row, [_midpoint(slope, t, y, first, h, 2 * j)]
            # The error is a series in the square of the step (Aitken and Neville).
            for m, lower in enumerate(previous, 1):
                ratio = (np.longdouble(j) / (j - m)) ** 2
                row.append(row[-1] + (row[-1] - lower) / (ratio - 1))
        size = np.abs(y) + np.max(np.abs(y)) / 1000
        estimate = np.max(np.abs(row[-1] - row[-2]) / size) / tolerance
        if estimate <= 1:
            # Not `t + h`, which may miss the end by a rounding.
            t = end if h == end - t else t + h
            y = y + row[-1]
            first = slope(t, y)
        exponent = np.longdouble(1) / (2 * columns - 1)
        factor = (np.maximum(estimate, np.longdouble(1e-30))) ** -exponent
        h = h * np.clip(0.9 * factor, 0.2, 2)
    return unravel(y)


def _midpoint(slope, t, y, first, h, steps):
    """The increment: extrapolation multiplies its roundings by some thousands, and
    those of `y` would be too many."""
    h = h / steps
    before, now = np.zeros_like(y), h * first
    for n in range(1, steps):
        before, now = now, before + 2 * h * slope(t + n * h, y + now)
    # Gragg's last step, which removes an oscillation.
    return (before + now + h * slope(t + steps * h, y + now)) / 2


# -- the problems


def lorenz_slopes(y: Any, sigma: Any = 10, rho: Any = 28, beta: Any = None) -> list:
    """The three slopes of Lorenz's equations, for numbers of any kind. `beta` is 8/3 if
    it is not given."""
    a, b, c = y
    # No floating-point number is 8/3.
    damping = 8 * c / 3 if beta is None else beta * c
    return [sigma * (b - a), a * (rho - c) - b, a * b - damping]


def _lorenz(xp) -> Field:
    return lambda t, y, args: xp.stack(lorenz_slopes(y))


def lorenz() -> Problem:
    """Chaotic: errors grow by a factor of some thousands until the end."""
    y0 = jnp.array([1.0, 2.0, 3.0])
    return Problem("Lorenz", _lorenz(jnp), y0, 10.0, _lorenz(np), small=True)


def _arenstorf(xp) -> Field:
    moon = 0.012277471
    # Rounded here, so that it is the same number for all.
    earth = 1 - moon

    def field(t, y, args):
        del t, args
        x, v = y
        to_earth = xp.stack([x[0] + moon, x[1]])
        to_moon = xp.stack([x[0] - earth, x[1]])
        earth_pull = earth * xp.sum(to_earth**2) ** -1.5
        moon_pull = moon * xp.sum(to_moon**2) ** -1.5
        coriolis = 2 * xp.stack([v[1], -v[0]])
        return v, x + coriolis - earth_pull * to_earth - moon_pull * to_moon

    return field


def arenstorf() -> Problem:
    """A satellite of the Earth and the Moon, on a closed orbit, once around (Hairer,
    Norsett and Wanner, Section II.0). It passes the Moon closely."""
    y0 = jnp.array([0.994, 0.0]), jnp.array([0.0, -2.00158510637908252240537862224])
    t1 = 17.0652165601579625588917206249
    return Problem("Arenstorf", _arenstorf(jnp), y0, t1, _arenstorf(np), small=True)


def _gravity(xp, masses) -> Field:
    """Point masses; positions and velocities have the shape (bodies, dimensions)."""
    itself = np.eye(len(masses))

    def field(t, y, args):
        del t, args
        positions, velocities = y
        displacement = positions[None] - positions[:, None]
        distance2 = xp.sum(displacement**2, axis=-1) + itself
        weight = masses[None, :] * distance2**-1.5
        return velocities, xp.sum(weight[:, :, None] * displacement, axis=1)

    return field


def pleiades() -> Problem:
    """Seven stars in a plane, some of which pass each other closely (Hairer, Norsett
    and Wanner, Section II.10)."""
    masses = np.arange(1.0, 8.0)
    # fmt: off
    positions = [[3.0, 3], [3, -3], [-1, 2], [-3, 0], [2, 0], [-2, -4], [2, 4]]
    velocities = [[0.0, 0], [0, 0], [0, 0], [0, -1.25], [0, 1], [1.75, 0], [-1.5, 0]]
    # fmt: on
    return Problem(
        "Pleiades",
        _gravity(jnp, masses),
        (jnp.array(positions), jnp.array(velocities)),
        3.0,
        _gravity(np, masses),
    )


def kepler_slopes(x: Any, v: Any, strength: Any = 1, xp: Any = jnp) -> tuple[Any, Any]:
    """The slopes of the position and the velocity of a body that is attracted by a
    point."""
    return v, -strength * x * xp.sum(x**2) ** -1.5


def _kepler(xp) -> Field:
    return lambda t, y, args: kepler_slopes(*y, xp=xp)


def kepler() -> Problem:
    """An orbit of eccentricity 0.6, ten times around and a bit."""
    e, t1 = 0.6, 65.0
    y0 = jnp.array([1 - e, 0.0]), jnp.array([0.0, np.sqrt((1 + e) / (1 - e))])

    def solution():
        # The orbit of the numbers that were rounded to `y0`: a is not quite 1.
        x, v = [np.asarray(part, np.longdouble) for part in y0]
        a = 1 / (2 / x[0] - v[1] ** 2)
        e = 1 - x[0] / a
        motion = a ** np.longdouble(-1.5)
        # Kepler's equation, by Newton's method.
        u = mean = motion * np.longdouble(t1)
        for _ in range(50):
            u = u - (u - e * np.sin(u) - mean) / (1 - e * np.cos(u))
        b = a * np.sqrt(1 - e**2)
        rate = motion / (1 - e * np.cos(u))
        return (
            np.stack([a * (np.cos(u) - e), b * np.sin(u)]),
            np.stack([-a * np.sin(u), b * np.cos(u)]) * rate,
        )

    return Problem(
        "Kepler", _kepler(jnp), y0, t1, _kepler(np), closed_form=solution, small=True
    )


def outer_solar_system() -> Problem:
    """The Sun and five planets over 100 years."""
    masses = solar_system.GRAVITATIONAL_CONSTANT * solar_system.MASSES
    return Problem(
        "Outer Solar System",
        solar_system.vector_field,
        solar_system.initial_state(),
        100 * solar_system.DAYS_PER_YEAR,
        _gravity(np, masses),
        # Velocities are 1e-3 AU/day and below.
        atol_per_rtol=1e-3,
    )


def mlp() -> Problem:
    """A neural ODE: a tanh MLP 64-256-256-64 with the weights it is initialised to."""
    net = eqx.nn.MLP(64, 64, 256, 2, activation=jnp.tanh, key=jax.random.key(0))

    layers = [
        [np.asarray(x, np.longdouble) for x in (layer.weight, layer.bias)]
        for layer in net.layers
    ]

    def numpy_field(t, y, args):
        del t, args
        for i, (weight, bias) in enumerate(layers):
            y = weight @ (np.tanh(y) if i > 0 else y) + bias
        return y

    y0 = jnp.linspace(-1, 1, 64)
    return Problem("MLP", lambda t, y, args: net(y), y0, 20.0, numpy_field)


def all_problems() -> list[Problem]:
    """In float64, which has to be enabled before."""
    assert jnp.zeros(()).dtype == jnp.float64, "Enable float64: `jax_enable_x64`."
    makers = [lorenz, arenstorf, pleiades, kepler, outer_solar_system, mlp]
    return [maker() for maker in makers]


def choose(problems: list[Problem], name: str | None) -> list[Problem]:
    """Those whose names have a part `name`."""
    return [p for p in problems if name is None or name.lower() in p.name.lower()]


def main():
    """Prints how well the references are known."""
    jax.config.update("jax_enable_x64", True)
    print("| problem | t1 | uncertainty of the reference |")
    print("|---|---:|---:|")
    for problem in all_problems():
        uncertainty = problem.uncertainty(problem.reference())
        print(f"| {problem.name} | {problem.t1:g} | {uncertainty:.1e} |")


if __name__ == "__main__":
    main()
