# %% [markdown]
# # A PINN: Burgers' equation
#
# A physics-informed neural network (PINN) solves a partial differential equation in
# space and time by least squares.
#
# $$
# u_t + u\,u_x = \nu\,u_{xx}, \qquad u(0, x) = -\sin(\pi x), \qquad u(t, \pm 1) = 0.
# $$

# %%
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from eqx_taylor import value_gradient_laplacian


jax.config.update("jax_enable_x64", True)

VISCOSITY = 0.1

# %% [markdown]
# ## The network
#
# It is built such that initial and boundary values hold whatever its parameters are. So
# the residual of the equation is all that there is to minimise, without weights between
# several losses. The solution is odd in $x$, and so is the network.


# %%
class Solution(eqx.Module):
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(2, "scalar", 16, 2, jnp.tanh, key=key)

    def __call__(self, tx):
        t, x = tx
        odd = self.mlp(jnp.stack([t, x])) - self.mlp(jnp.stack([t, -x]))
        return -jnp.sin(jnp.pi * x) + t * (1 - x**2) * odd


# %% [markdown]
# ## The residual
#
# `value_gradient_laplacian` computes $u$, $(u_t, u_x)$ and $u_{xx}$ in one pass. The
# mask says that the Laplacian is over $x$ alone.


# %%
def residual(u, tx):
    space = np.array([False, True])
    value, (u_t, u_x), u_xx = value_gradient_laplacian(u, tx, mask=space)
    return u_t + value * u_x - VISCOSITY * u_xx


# %% [markdown]
# ## Least squares
#
# For a small network, Levenberg and Marquardt's method takes a hundred steps where Adam
# takes many thousands. It needs the gradient of each residual, which `jax.vmap` of
# `jax.value_and_grad` computes. A step that fails is repeated with more damping.

# %%
t, x = np.meshgrid((np.arange(20) + 0.5) / 20, (np.arange(20) + 0.5) / 20)
points = jnp.array(np.stack([t.ravel(), x.ravel()], axis=1))
model = Solution(jax.random.key(1))
arrays, static = eqx.partition(model, eqx.is_inexact_array)
flat, unflatten = jax.flatten_util.ravel_pytree(arrays)


@jax.jit
def linearised(flat):
    """All residuals, and the gradient of each."""

    def at(flat, tx):
        return residual(eqx.combine(unflatten(flat), static), tx)

    return jax.vmap(jax.value_and_grad(at), (None, 0))(flat, points)


@jax.jit
def step(flat, residuals, jacobian, damping):
    matrix = jacobian.T @ jacobian + damping * jnp.eye(flat.size)
    return flat - jnp.linalg.solve(matrix, jacobian.T @ residuals)


damping, losses = 1e-2, []
residuals, jacobian = linearised(flat)
for _ in range(120):
    losses.append(float(jnp.mean(residuals**2)))
    new = step(flat, residuals, jacobian, damping)
    new_residuals, new_jacobian = linearised(new)
    if jnp.mean(new_residuals**2) < losses[-1]:
        flat, residuals, jacobian = new, new_residuals, new_jacobian
        damping /= 3
    else:
        damping *= 2
solution = eqx.combine(unflatten(flat), static)
print(f"{flat.size} parameters, {len(points)} residuals")
print(f"last mean square below 1e-5: {losses[-1] < 1e-5}")

# %% [markdown]
# ## The error
#
# Cole and Hopf's transformation solves the equation by two integrals, which a sum
# computes by Gauss and Hermite's rule:


# %%
def exact(t, x):
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    y = x[..., None] - np.sqrt(4 * VISCOSITY * t)[..., None] * nodes
    weights = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * VISCOSITY))
    return -np.sum(weights * np.sin(np.pi * y), -1) / np.sum(weights, -1)


t, x = np.meshgrid(np.linspace(0, 1, 51), np.linspace(-1, 1, 101))
found = jax.vmap(solution)(jnp.array(np.stack([t.ravel(), x.ravel()], 1)))
error = np.abs(np.asarray(found).reshape(t.shape) - exact(t, x))
print(f"largest error below 1e-3: {error.max() < 1e-3}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for k in (0, 10, 25, 50):
    left.plot(x[:, 0], found.reshape(t.shape)[:, k], label=f"t = {t[0, k]:g}")
left.set(xlabel="x", ylabel="u", xticks=[-1, 0, 1], title="The wave at four times")
left.legend()
right.semilogy(losses)
right.set(xlabel="step", title="Mean square of the residual")

# %% [markdown]
# ## Why jets
#
# The second derivative and the first ones share all of their work, and are
# differentiated once more for the gradients with respect to the parameters. Nested
# `jax.grad` evaluates the network again for each of them, unless the compiler notices.
#
# ## Next
#
# [PINNs](../pinns.md) has a table of residuals with the function for each, SIREN and
# Fourier features. [A clamped plate](../examples/clamped_plate.md) takes fourth
# derivatives.
