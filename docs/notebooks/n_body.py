# %% [markdown]
# # An N-body problem with events: conjunctions and perihelia
#
# The Sun, Jupiter and Saturn for 200 years, by steps of ten months. When does Jupiter
# overtake Saturn, and when is it nearest to the Sun? All of it is found from one
# solution.

# %%
import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from eqx_taylor import find_events, taylor_method


jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The problem
#
# Distances are in astronomical units, times in years of 365 days, masses in that of the
# Sun (Hairer, Lubich, Wanner: "Geometric Numerical Integration", Section I.2.4). The
# barycentre is at rest.

# %%
G = (0.01720209895 * 365) ** 2
MASSES = np.array([1.00000597682, 1 / 1047.355, 1 / 3501.6])
POSITIONS = np.array(
    [
        [-5.137271893918405e-3, -5.288891104344273e-3, 6.180743702483316e-6],
        [3.404393156051084, 3.6305811472186558, 0.0342464685434024],
        [6.606942557811084, 6.381645992310656, -0.1361381213577972],
    ]
)
VELOCITIES = np.array(
    [
        [2.3859757364179156e-3, -2.3396779489468049e-3, -8.1384891821122709e-7],
        [-2.0433186406983279, 2.0141003472039567, -9.7316724504621210e-4],
        [-1.5233982268351876, 1.4589658329821569, 0.0061033600397708],
    ]
)

# %% [markdown]
# Newton's law is written for arrays, not for components: a short program for the
# compiler. A body does not attract itself, as the distance to itself, set to 1, is
# multiplied by a difference of zero.


# %%
def gravity(t, y, args):
    x, v = y
    d = x[None, :, :] - x[:, None, :]  # d[i, j] points from body i to body j.
    r2 = jnp.sum(d**2, axis=-1) + np.eye(3)
    weight = G * MASSES[None, :] * r2**-1.5
    return v, jnp.sum(weight[:, :, None] * d, axis=1)


def energy(x, v):
    i, j = np.triu_indices(3, k=1)
    distance = jnp.linalg.norm(x[i] - x[j], axis=-1)
    kinetic = 0.5 * jnp.sum(MASSES * jnp.sum(v**2, axis=-1))
    return kinetic - G * jnp.sum(MASSES[i] * MASSES[j] / distance)


@jax.jit
def solve(y0):
    solver, controller = taylor_method(rtol=1e-14, atol=1e-14)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(gravity),
        solver,
        t0=0.0,
        t1=200.0,
        dt0=None,
        y0=y0,
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(dense=True, steps=True),
        max_steps=512,
    )


y0 = jnp.array(POSITIONS), jnp.array(VELOCITIES)
solution = solve(y0)
steps = int(solution.stats["num_steps"])
energies = jax.vmap(energy)(*jax.tree.map(lambda y: y[:steps], solution.ys))
error = jnp.max(jnp.abs(energies / energy(*y0) - 1))
print(f"{steps} steps of {200 / steps:.2f} years")
print(f"relative error of the energy below 1e-13: {error < 1e-13}")

# %% [markdown]
# ## Two conditions
#
# Seen from the Sun, Jupiter overtakes Saturn where the sine of the angle between them
# goes through zero upwards, at a conjunction (at an opposition, it goes downwards). Its
# distance from the Sun is smallest where the derivative of the distance does so. The
# directions are part of the event. Steps may be longer than what lies between two
# events.


# %%
def lead(t, y, args, **kwargs):
    x, _ = y
    jupiter, saturn = x[1, :2] - x[0, :2], x[2, :2] - x[0, :2]
    cross = saturn[0] * jupiter[1] - saturn[1] * jupiter[0]
    return cross / (jnp.linalg.norm(jupiter) * jnp.linalg.norm(saturn))


def outwards(t, y, args, **kwargs):
    x, v = y
    return jnp.sum((x[1] - x[0]) * (v[1] - v[0]))


@jax.jit
def all_events(solution):
    event = diffrax.Event([lead, outwards], direction=[True, True])
    return find_events(solution, event, max_events=64)


events = all_events(solution)
conjunctions = np.asarray(events.ts[events.index == 0])
perihelia = np.asarray(events.ts[events.index == 1])
print("conjunctions:", np.array2string(conjunctions[:5], precision=6), "...")
print("perihelia:   ", np.array2string(perihelia[:5], precision=6), "...")
between = np.diff(conjunctions)
print(f"between two conjunctions: {between.min():.2f} to {between.max():.2f} years")
print(f"between two perihelia: {np.diff(perihelia).mean():.3f} years on average")

# %% [markdown]
# Conjunctions are 20 years apart, and each is two thirds of a circle further on: they
# form a triangle that turns slowly, which Kepler drew. The states at the events come
# with them.

# %%
x = np.asarray(events.ys[0])
relative = (x - x[:, :1])[np.asarray(events.index) == 0]
figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
axes.plot(*relative[:, 2, :2].T, color="0.8", lw=1)
axes.plot(*relative[:, 1, :2].T, "o", ms=4, label="Jupiter")
axes.plot(*relative[:, 2, :2].T, "o", ms=4, label="Saturn")
axes.plot(0, 0, "k*", label="Sun")
axes.set(aspect="equal", xlabel="x (AU)", ylabel="y (AU)")
axes.set(title="Where Jupiter overtakes Saturn")
axes.legend()

# %% [markdown]
# ## Why a Taylor method
#
# The tolerance is a few roundings, and steps are a fourteenth of the year of Jupiter: a
# Runge-Kutta method of order 8 takes several times as many. What is found between the
# ends of a step is as accurate as what is found at them.
#
# ## Next
#
# [Events](../events.md) has solves that end at an event, and states that change there.
# [The same planets with the error of the energy over 10 000
# years](../examples/three_body.md) are among the examples, as are [Poincaré
# sections](../examples/poincare_section.md).
