# %% [markdown]
# # A Laplacian in quantum Monte Carlo: the energy of helium
#
# A small neural network is the wave function of the two electrons of helium. The energy
# is a mean of local energies, each of which contains a Laplacian.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from eqx_taylor import value_gradient_laplacian


# %% [markdown]
# ## The wave function
#
# For electrons at $x_1$ and $x_2$,
# $\log \psi = -2 (r_1 + r_2) + \frac{r_{12}/2}{1 + r_{12}} + f(x_1, x_2)$. The first
# two terms have the right cusps at the nucleus and where the electrons meet; the
# network $f$ corrects what is between, and is the same when the electrons are
# exchanged. It is zero at first.


# %%
class WaveFunction(eqx.Module):
    correction: eqx.nn.MLP

    def __init__(self, key):
        mlp = eqx.nn.MLP(3, "scalar", 24, 2, jnp.tanh, key=key)
        zero = jnp.zeros_like(mlp.layers[-1].weight)
        self.correction = eqx.tree_at(lambda mlp: mlp.layers[-1].weight, mlp, zero)

    def __call__(self, x):
        r1, r2 = jnp.sqrt(jnp.sum(x**2, axis=1))
        r12 = jnp.sqrt(jnp.sum((x[0] - x[1]) ** 2))
        # Squares: the distances themselves would have cusps of their own.
        smooth = jnp.stack([r1**2 + r2**2, r1**2 * r2**2, r12**2])
        f = self.correction(smooth / (1 + smooth))
        return -2 * (r1 + r2) + r12 / (2 + 2 * r12) + f


# %% [markdown]
# ## The local energy
#
# $E_L = -\frac12 (\Delta \log\psi + \lVert\nabla \log\psi\rVert^2) + V$.
# `value_gradient_laplacian` computes value, gradient and Laplacian in one pass. A test
# wave function has a known answer: $-2 (r_1 + r_2)$ alone solves the problem without
# the repulsion of the electrons, with the energy $-4$ at any point.


# %%
def local_energy(log_psi, x, repulsion=1.0):
    _, gradient, laplacian = value_gradient_laplacian(log_psi, x)
    r = jnp.sqrt(jnp.sum(x**2, axis=1))
    r12 = jnp.sqrt(jnp.sum((x[0] - x[1]) ** 2))
    kinetic = -(laplacian + jnp.sum(gradient**2)) / 2
    return kinetic - 2 * jnp.sum(1 / r) + repulsion / r12


x = jnp.array([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.2]])


def alone(x):
    return -2 * jnp.sum(jnp.sqrt(jnp.sum(x**2, axis=1)))


print(f"without repulsion: {local_energy(alone, x, repulsion=0.0):.4f}")

# %% [markdown]
# ## Training
#
# Walkers are moved by Metropolis' rule, so that they are distributed as $|\psi|^2$. The
# gradient of the energy is $2 \langle (E_L - \bar E) \nabla_\theta \log|\psi| \rangle$:
# it takes no derivative of the local energy.


# %%
def metropolis(psi, x, key, moves=8):
    def move(x, key):
        a, b = jax.random.split(key)
        new = x + 0.4 * jax.random.normal(a, x.shape)
        log_ratio = 2 * (jax.vmap(psi)(new) - jax.vmap(psi)(x))
        accepted = jnp.log(jax.random.uniform(b, (len(x),))) < log_ratio
        return jnp.where(accepted[:, None, None], new, x), None

    return jax.lax.scan(move, x, jax.random.split(key, moves))[0]


optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, 200))


@eqx.filter_jit
def train(psi, x, keys):
    arrays, static = eqx.partition(psi, eqx.is_array)

    def step(state, key):
        arrays, memory, x = state
        psi = eqx.combine(arrays, static)
        x = metropolis(psi, x, key)
        energies = jax.vmap(lambda x: local_energy(psi, x))(x)
        weights = energies - jnp.mean(energies)

        def weighted(arrays):
            return 2 * jnp.mean(weights * jax.vmap(eqx.combine(arrays, static))(x))

        updates, memory = optimiser.update(jax.grad(weighted)(arrays), memory)
        arrays = optax.apply_updates(arrays, updates)
        return (arrays, memory, x), (jnp.mean(energies), jnp.std(energies))

    start = (arrays, optimiser.init(arrays), x)
    (arrays, _, x), history = jax.lax.scan(step, start, keys)
    return eqx.combine(arrays, static), x, history


psi = WaveFunction(jax.random.key(0))
x = jax.random.normal(jax.random.key(1), (500, 2, 3))
x = eqx.filter_jit(metropolis)(psi, x, jax.random.key(2), moves=100)
psi, x, (means, spreads) = train(psi, x, jax.random.split(jax.random.key(3), 200))
print(f"spread of the local energies: {spreads[0]:.2f}, then {spreads[-1]:.2f}")

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(np.convolve(means, np.ones(10) / 10, mode="valid"), label="mean of ten")
axes.axhline(-2.9037, color="k", lw=1, label="exact")
axes.set(
    xlabel="iteration", ylabel="energy (hartree)", title="The energy while training"
)
axes.legend()

# %% [markdown]
# ## The energy
#
# The mean over new samples, with its error from twenty blocks. By the variational
# principle it is above the exact energy, $-2.9037$.


# %%
@eqx.filter_jit
def estimate(psi, x, key, blocks=20):
    def block(x, key):
        x = metropolis(psi, x, key, moves=40)
        return x, jnp.mean(jax.vmap(lambda x: local_energy(psi, x))(x))

    return jax.lax.scan(block, x, jax.random.split(key, blocks))[1]


blocks = estimate(psi, x, jax.random.key(4))
energy, error = jnp.mean(blocks), jnp.std(blocks) / jnp.sqrt(len(blocks) - 1)
print(f"{energy:.4f} ± {error:.4f}")

# %% [markdown]
# ## Why this Laplacian
#
# There are six coordinates, so that nested derivatives take six second derivatives, one
# after another or under `vmap`. Here their sum is propagated together with the
# gradient, and what depends on one electron, such as $r_1$, costs three directions and
# not six. The more electrons, the more that saves.
#
# ## Next
#
# [Quantum Monte Carlo](../quantum_monte_carlo.md) has determinants, more electrons, and
# what keeps directions few; the [migration guide](../migrating.md#from-folx) has the
# same programs with folx.
