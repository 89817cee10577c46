"""The outer Solar System: the problem that `python -m eqx_taylor` integrates.

The Sun and the five outer planets (including Pluto) are point masses under Newton's
gravity. The Sun's mass includes those of the inner planets. Units are astronomical
units (AU), days and solar masses.

The data are those of Section I.2.4 of Hairer, Lubich and Wanner, "Geometric Numerical
Integration" (initial values for 5 September 1994, 0h00), transformed to the frame in
which the barycentre is at rest.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


State = tuple[Float[Array, "6 3"], Float[Array, "6 3"]]

DAYS_PER_YEAR = 365.25

# In AU³ / (solar mass · day²): the square of Gauss's constant.
GRAVITATIONAL_CONSTANT = 0.01720209895**2

BODIES = ("Sun", "Jupiter", "Saturn", "Uranus", "Neptune", "Pluto")

# A NumPy array, so that it has all of its digits even if float64 was not enabled before
# this file was imported.
MASSES = np.array(
    [1.00000597682, 1 / 1047.355, 1 / 3501.6, 1 / 22869, 1 / 19314, 7.4074074e-9]
)

# fmt: off
_INITIAL_POSITIONS = np.array([
    [-4.06428567034226e-3, -6.08813756435987e-3, -1.66162304225834e-6],
    [3.40546614227466, 3.62978190075864, 3.42386261766577e-2],
    [6.60801554403466, 6.38084674585064, -1.36145963724542e-1],
    [1.11636331405597e1, 1.60373479057256e1, 3.61783279369958e-1],
    [-3.01777243405203e1, 1.91155314998064, -1.53887595621042e-1],
    [-2.13858977531573e1, 3.20719104739886e1, 2.49245689556096],
])
_INITIAL_VELOCITIES = np.array([
    [6.69048890636161e-6, -6.33922479583593e-6, -3.13202145590767e-9],
    [-5.59797969310664e-3, 5.51815399480116e-3, -2.66711392865591e-6],
    [-4.17354020307064e-3, 3.99723751748116e-3, 1.67206320571441e-5],
    [-3.25884806151064e-3, 2.06438412905916e-3, -2.17699042180559e-5],
    [-2.17471785045538e-4, -3.11361111025884e-3, 3.58344705491441e-5],
    [-1.76936577252484e-3, -2.06720938381724e-3, 6.58091931493844e-4],
])

# Computed by a Taylor series of order 30 in 80-bit floats, pair by pair (`python -m
# benchmarks.solar_system_reference`). With another order and other steps the result
# differs by 2e-14 AU.
POSITIONS_AFTER_1000_YEARS = np.array([
    [0.0029540035122844746, -0.002946057274671584, 4.369517764674574e-05],
    [-4.952666649321821, 2.1374923438929754, -0.018662849527148195],
    [8.542093196081055, 3.8552899083610495, -0.14097532375519192],
    [18.38163359592312, 7.856915400685414, 0.36711229782758964],
    [-28.45534319590268, -10.524017598854154, 0.0019069786418811126],
    [-25.701282772121196, 25.951477666162074, 4.218151329883725],
])
# fmt: on


def initial_state() -> State:
    """Returns positions in AU and velocities in AU per day, of shape `(6, 3)` each."""
    return jnp.asarray(_INITIAL_POSITIONS), jnp.asarray(_INITIAL_VELOCITIES)


def vector_field(t, y: State, args) -> State:
    """Newton's equations of motion, as a vector field for `diffrax.ODETerm`."""
    del t, args
    positions, velocities = y
    # displacement[i, j] points from body i to body j.
    displacement = positions[None, :, :] - positions[:, None, :]
    # The distance of a body from itself is set to 1, so that its force on itself is 0
    # and not 0/0.
    distance2 = jnp.sum(displacement**2, axis=-1) + np.eye(len(BODIES))
    weight = GRAVITATIONAL_CONSTANT * MASSES[None, :] * distance2**-1.5
    accelerations = jnp.sum(weight[:, :, None] * displacement, axis=1)
    return velocities, accelerations


def energy(y: State) -> Float[Array, ""]:
    """Computes the total energy, which is conserved."""
    positions, velocities = y
    kinetic = 0.5 * jnp.sum(MASSES * jnp.sum(velocities**2, axis=-1))
    i, j = np.triu_indices(len(BODIES), k=1)
    distance = jnp.linalg.norm(positions[i] - positions[j], axis=-1)
    potential = -GRAVITATIONAL_CONSTANT * jnp.sum(MASSES[i] * MASSES[j] / distance)
    return kinetic + potential
