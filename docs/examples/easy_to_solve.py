"""One map by two ODEs: one that is easy to solve, and one that is not."""

import argparse
import json
import tempfile

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from eqx_taylor import regularized, regularized_rms_seminorm, solve_cost


jax.config.update("jax_enable_x64", True)

STARTS = np.linspace(-1.0, 1.0, 21)
TARGETS = STARTS + STARTS**3
TS = np.linspace(0.0, 1.0, 101)
WEIGHTS = {"without R_3": 0.0, "with R_3": 0.01}
TOLERANCE = 1.4e-8  # Which evaluations are counted at. Training has a looser one:
TRAINING_TOLERANCE = 1e-4
ITERATIONS = 1000
OPTIMISER = optax.adam(optax.cosine_decay_schedule(1e-2, ITERATIONS))


class Field(eqx.Module):
    """z' = mlp(z, t), with weights that are drawn `scale` times as large as usual."""

    mlp: eqx.nn.MLP

    def __init__(self, width, scale, *, key):
        mlp = eqx.nn.MLP(2, "scalar", width, 1, jnp.tanh, key=key)
        self.mlp = jax.tree.map(lambda x: scale * x if eqx.is_array(x) else x, mlp)

    def __call__(self, t, z, args):
        return self.mlp(jnp.stack([z, t]))


SIZES = dict(width=32, scale=4.0)


def make_fields(**sizes):
    """One for each of the weights, all of them the same."""

    def make(_):
        return Field(**sizes, key=jax.random.key(0))

    return eqx.filter_vmap(make)(jnp.arange(len(WEIGHTS)))


# --8<-- [start:core]
def solve(field, tolerance, saveat):
    """The solutions from all of `STARTS`, and the integral for all of them."""
    term = diffrax.ODETerm(eqx.filter_vmap(field, in_axes=(None, 0, None)))
    return diffrax.diffeqsolve(
        regularized(term, order=3),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=0.1,
        y0=(STARTS, 0.0),
        saveat=saveat,
        stepsize_controller=diffrax.PIDController(
            tolerance, tolerance, norm=regularized_rms_seminorm
        ),
        max_steps=256,
    ).ys


def loss_of(field, weight):
    z1, r = solve(field, TRAINING_TOLERANCE, diffrax.SaveAt(t1=True))
    error = jnp.mean((z1[-1] - TARGETS) ** 2)
    return error + weight * r[-1], error


@eqx.filter_jit
@eqx.filter_vmap
def train_step(field, state, weight):
    """Of all fields at once, by `vmap`. Returns the mean square of the errors, too."""
    gradient, error = eqx.filter_grad(loss_of, has_aux=True)(field, weight)
    updates, state = OPTIMISER.update(gradient, state)
    return eqx.apply_updates(field, updates), state, error


# --8<-- [end:core]


@eqx.filter_jit
@eqx.filter_vmap
def measure(field):
    """What came out, at the tolerance: the error, the regulariser, mean numbers of
    evaluations; and the solutions at `TS`."""
    zs, r = solve(field, TOLERANCE, diffrax.SaveAt(ts=TS))

    def evaluations(solver):
        def cost(z0):
            tolerances = dict(rtol=TOLERANCE, atol=TOLERANCE)
            return solve_cost(field, solver, 0.0, 1.0, z0, **tolerances)

        return jnp.mean(jax.vmap(cost)(STARTS).num_evaluations)

    error = jnp.sqrt(jnp.mean((zs[-1] - TARGETS) ** 2))
    numbers = [error, r[-1], *map(evaluations, (diffrax.Dopri5(), diffrax.Tsit5()))]
    return jnp.stack(numbers), zs


def save(path, fields):
    """What they are made from in a line of JSON, and then their leaves."""
    with open(path, "wb") as file:
        file.write(json.dumps(SIZES).encode() + b"\n")
        eqx.tree_serialise_leaves(file, fields)


def load(path):
    with open(path, "rb") as file:
        sizes = json.loads(file.readline())
        # Only the structure of these is used.
        like = eqx.filter_eval_shape(make_fields, **sizes)
        return eqx.tree_deserialise_leaves(file, like)


def main(plot=None, path=None, iterations=ITERATIONS):
    weights = jnp.array(list(WEIGHTS.values()))
    fields = make_fields(**SIZES)
    states = eqx.filter_vmap(OPTIMISER.init)(eqx.filter(fields, eqx.is_array))
    errors = []
    for _ in tqdm(range(iterations), unit="iteration"):
        fields, states, error = train_step(fields, states, weights)
        errors.append(error)
    results, zs = map(np.asarray, measure(fields))
    print(" " * 11 + "       error         R_3      Dopri5       Tsit5")
    for name, (error, r, *evaluations) in zip(WEIGHTS, results):
        row = "".join(f"{x:>12.1f}" for x in evaluations)
        print(f"{name:<11}{error:>12.1e}{r:>12.1e}" + row)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/easy_to_solve.eqx" if path is None else path
        save(path, fields)
        loaded = load(path)
    same = "the same" if eqx.tree_equal(fields, loaded) else "something else"
    print(f"Saved and loaded again: {same}")
    errors = np.array(errors)
    if plot is not None:
        draw(plot, zs, errors, results)
    return dict(results=results, fields=fields, loaded=loaded, errors=errors)


def draw(path, zs, errors, results):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    *panels, right = figure.subplots(1, 3)
    for i, (name, panel) in enumerate(zip(WEIGHTS, panels)):
        panel.plot(TS, zs[i, :, ::2], color=f"C{i}", lw=1)
        panel.plot(0 * STARTS[::2], STARTS[::2], "ko", ms=3)
        panel.plot(0 * STARTS[::2] + 1, TARGETS[::2], "kx", ms=5)
        panel.set(title=f"{name}: {results[i, 2]:.0f} evaluations")
        panel.set(xlabel="t", ylim=(-2.2, 2.2))
        right.semilogy(np.sqrt(errors[:, i]), color=f"C{i}", lw=1, label=name)
    panels[0].set(ylabel="z")
    right.set(title="Root mean square of the errors", xlabel="iteration")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="draw the trajectories")
    parser.add_argument("--save", metavar="FILE", help="where to save the fields")
    args = parser.parse_args()
    main(args.plot, args.save)
