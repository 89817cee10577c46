# %% [markdown]
# # First steps
#
# All derivatives of a function in one pass, a Laplacian, an ODE by its Taylor series,
# its events, and a gradient through the solve.

# %%
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from eqx_taylor import (
    derivatives,
    filter_jet,
    find_events,
    laplacian,
    ReplayAdjoint,
    taylor_method,
    taylor_polynomial,
)


jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## Derivatives of a function
#
# `derivatives` computes the function and all of its derivatives up to an order, here
# the sixth. For $f(t) = 1/(1 + t^2)$ at 0, every other one is zero, and the others are
# $\pm k!$.


# %%
def fun(t):
    return 1 / (1 + t**2)


print(derivatives(fun, 0.0, 6))

# %% [markdown]
# Divided by $k!$ they are the coefficients of the Taylor polynomial. It converges up to
# the nearest singularity in the complex plane, at $\pm i$, and its last coefficients
# say so:

# %%
polynomial = taylor_polynomial(fun, 0.0, 1.0, 30)
radius = polynomial.radius_of_convergence()
print(f"radius of convergence: {radius:.3f}")

ts = np.linspace(-1.5, 1.5, 301)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.axvspan(-radius, radius, color="0.92")
for order in (2, 6, 14, 30):
    coefficients = polynomial.coefficients[: order + 1]
    axes.plot(ts, np.polynomial.Polynomial(coefficients)(ts), label=f"order {order}")
axes.plot(ts, fun(ts), "k", label="function")
axes.set(ylim=(-0.2, 1.4), xlabel="t", title="Taylor polynomials of 1/(1 + t²)")
axes.legend()

# %% [markdown]
# ## Derivatives of a network
#
# `filter_jet` differentiates along a curve: here along the line $x + t v$, whose higher
# derivatives are zero, for which `None` stands. `laplacian` takes the directions of all
# inputs together, in one pass.

# %%
mlp = eqx.nn.MLP(3, "scalar", 32, 2, activation=jnp.tanh, key=jax.random.key(0))
x, v = jnp.array([0.3, -0.2, 0.5]), jnp.array([1.0, 0.5, 0.0])

value, along = filter_jet(mlp, (x,), ([v, None, None, None],))
print("along the line:", *[f"{derivative:.5f}" for derivative in along])
print(f"Laplacian: {laplacian(mlp, x):.5f}")

# %% [markdown]
# ## An ODE
#
# `taylor_method` makes a solver, whose order suits the tolerances, and a step size
# controller for `diffrax.diffeqsolve`. This is a pendulum, which is let go at 60
# degrees.


# %%
def pendulum(t, y, length):
    angle, velocity = y
    return jnp.stack([velocity, -9.81 / length * jnp.sin(angle)])


def solve(length, **kwargs):
    solver, controller = taylor_method(rtol=1e-8, atol=1e-8)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(pendulum),
        solver,
        t0=0.0,
        t1=5.0,
        dt0=None,
        y0=jnp.array([jnp.pi / 3, 0.0]),
        args=length,
        stepsize_controller=controller,
        max_steps=256,
        **kwargs,
    )


everywhere = diffrax.SaveAt(dense=True, steps=True)
solution = jax.jit(lambda length: solve(length, saveat=everywhere))(1.0)
print(f"{solution.stats['num_steps']} steps")

# %% [markdown]
# Steps are long. Within each of them the solution is a polynomial, which is as accurate
# inside as at the ends.

# %%
ts = np.linspace(0, 5, 501)
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.plot(ts, jax.vmap(solution.evaluate)(ts)[:, 0])
axes.plot(solution.ts, solution.ys[:, 0], "o", ms=4, label="ends of steps")
axes.set(xlabel="t", ylabel="angle", title="A pendulum in a few steps")
axes.legend()

# %% [markdown]
# ## Events
#
# When does the pendulum pass its lowest point? `find_events` takes the sign changes of
# a condition from the polynomials. Half a period lies between two of them.

# %%
lowest = diffrax.Event(lambda t, y, args, **kwargs: y[0])
events = jax.jit(lambda: find_events(solution, lowest, max_events=10))()
passes = events.ts[events.index >= 0]
print(passes)
print(f"period: {passes[2] - passes[0]:.8f}")

# %% [markdown]
# ## Gradients
#
# `jax.grad` differentiates through the solve: how does the last angle depend on the
# length? A difference of two solves says the same, in fewer digits.


# %%
@jax.jit
@jax.grad
def slope(length):
    return solve(length, adjoint=ReplayAdjoint()).ys[-1, 0]


h = 1e-4
last = [jax.jit(solve)(length).ys[-1, 0] for length in (1 - h, 1 + h)]
print(f"{slope(1.0):.5f}, by a difference {(last[1] - last[0]) / (2 * h):.5f}")

# %% [markdown]
# ## Next
#
# [Jets](../jets.md) says what else can be differentiated, the
# [cookbook](../derivatives.md) which function to take for which derivative, and [Order
# and step size controller](../solving.md) what solves can do. The other notebooks train
# [a PINN](pinn.md), follow [planets](n_body.md), regularise [a neural
# ODE](regularised_neural_ode.md), and compute [the energy of helium](helium.md).
