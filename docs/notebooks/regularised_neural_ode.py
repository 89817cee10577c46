# %% [markdown]
# # A regularised neural ODE: one that is easy to solve
#
# Many ODEs map each point of an interval to the same final states. Two are trained
# here, one of them with a regulariser: the integral of the square of a third
# derivative, by which solutions bend little, so that a solver takes fewer steps. (After
# [Kelly et al., 2020](../references.md#kelly2020learning).)

# %%
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from eqx_taylor import GaussLegendre, solve_cost


jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The model
#
# $z' = f_\theta(z, t)$ maps $z(0)$ to $z(1)$, which is to be $z(0) + z(0)^3$. The
# weights of the network are four times as large as usual at first, so that it has room
# to bend.

# %%
STARTS = jnp.linspace(-1.0, 1.0, 21)
TARGETS = STARTS + STARTS**3
WEIGHTS = {"without R_3": 0.0, "with R_3": 0.01}


class Field(eqx.Module):
    mlp: eqx.nn.MLP

    def __init__(self, key):
        mlp = eqx.nn.MLP(2, "scalar", 32, 1, jnp.tanh, key=key)
        self.mlp = jax.tree.map(lambda x: 4 * x if eqx.is_array(x) else x, mlp)

    def __call__(self, t, z, args):
        return self.mlp(jnp.stack([z, t]))


# %% [markdown]
# ## The regulariser
#
# $R_3 = \int_0^1 (z''')^2\,\mathrm{d}t$. `GaussLegendre` says at which times the
# solution is saved, and computes the integral from the states there: the third
# derivative of the solution follows from the field, by a jet.

# %%
QUADRATURE = GaussLegendre(0.0, 1.0, num_points=5)


def solve(field, z0):
    """The final state, and the regulariser."""
    at_points = diffrax.SubSaveAt(ts=QUADRATURE.ts)
    at_end = diffrax.SubSaveAt(t1=True)
    inner, end = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=0.05,
        y0=z0,
        saveat=diffrax.SaveAt(subs=(at_points, at_end)),
        max_steps=20,
    ).ys
    return end[0], QUADRATURE.integrate(field, inner, order=3)


def loss(field, weight):
    ends, r = jax.vmap(solve, (None, 0))(field, STARTS)
    error = jnp.mean((ends - TARGETS) ** 2)
    return error + weight * jnp.mean(r), (error, jnp.mean(r))


# %% [markdown]
# ## Training
#
# Both fields are trained at once, by `eqx.filter_vmap`, from the same parameters.

# %%
ITERATIONS = 400
optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, ITERATIONS))


@eqx.filter_jit
@eqx.filter_vmap
def train(weight):
    arrays, static = eqx.partition(Field(jax.random.key(0)), eqx.is_array)

    def step(state, _):
        arrays, memory = state

        def loss_of(arrays):
            return loss(eqx.combine(arrays, static), weight)

        slope, terms = jax.grad(loss_of, has_aux=True)(arrays)
        updates, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(arrays, updates), memory), terms

    start = (arrays, optimiser.init(arrays))
    (arrays, _), terms = jax.lax.scan(step, start, length=ITERATIONS)
    return eqx.combine(arrays, static), terms


fields, (errors, regularisers) = train(jnp.array(list(WEIGHTS.values())))

# %% [markdown]
# ## What a solve costs
#
# `solve_cost` counts how often an adaptive solver evaluates the field.


# %%
@eqx.filter_jit
@eqx.filter_vmap
def measure(field):
    def cost(z0):
        tolerances = dict(rtol=1e-8, atol=1e-8)
        return solve_cost(field, diffrax.Tsit5(), 0.0, 1.0, z0, **tolerances)

    return jnp.mean(jax.vmap(cost)(STARTS).num_evaluations)


evaluations = measure(fields)
for k, name in enumerate(WEIGHTS):
    error = jnp.sqrt(errors[k, -1])
    print(f"{name:<12} error {error:.3f}, evaluations {evaluations[k]:.0f}")
print(f"R_3 is {regularisers[0, -1] / regularisers[1, -1]:.0f} times smaller")

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
ts = np.linspace(0, 1, 101)
saveat = diffrax.SaveAt(ts=ts)


@eqx.filter_jit
@eqx.filter_vmap
def trajectories(field):
    def one(z0):
        term = diffrax.ODETerm(field)
        return diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, 1.0, 0.01, z0, saveat=saveat
        ).ys

    return jax.vmap(one)(STARTS[::2])


for name, panel, zs in zip(WEIGHTS, panels, trajectories(fields)):
    panel.plot(ts, np.asarray(zs).T, "C0", lw=1)
    panel.plot(0 * TARGETS[::2] + 1, TARGETS[::2], "kx", ms=5)
    panel.set(title=name, xlabel="t")

# %% [markdown]
# ## Why the third derivative
#
# The steps of a solver of order 5 depend on derivatives of orders 5 and 6. Where the
# third is small, these tend to be small as well, and it is cheaper to differentiate. A
# jet computes it in one pass; nested `jax.jvp` takes longer to compile and to run.
#
# ## Next
#
# [Regularised neural ODEs](../regularization.md) has other regularisers, the integral
# as one more state of the solve, and what to watch. [Digits](../examples/digits.md) are
# classified by a neural ODE that takes a fraction of the evaluations.
