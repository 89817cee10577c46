"""Kinetic energies of neural wave functions, and residuals of networks for differential
equations, against folx and nested derivatives.

Each rival computes `-(Δ log|psi| + |∇ log|psi||²) / 2`, or `u, ∇u, Δu` of a network, of
a batch of points by `jax.vmap`; and the gradient of the mean of all energies with
respect to the parameters. (`_wave_functions.py` has the wave functions.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_taylor

from ._particles import cost
from ._report import Figure, main, peer, Report
from ._timing import compare, difference
from ._wave_functions import FIELDS, WAVE_FUNCTIONS


WALKERS, POINTS = 8, 256
OURS = "`value_gradient_laplacian`"
SPARSE = "folx, threshold 6"


# Each returns the value, the gradient, flat, and the Laplacian of a scalar function.


def ours(fun, x):
    y, gradient, laplacian = eqx_taylor.value_gradient_laplacian(fun, x)
    return y, gradient.reshape(-1), laplacian


def by_folx(fun, x, threshold=0):
    found = peer("folx").forward_laplacian(fun, sparsity_threshold=threshold)(x)
    return found.x, found.jacobian.dense_array, found.laplacian


def by_sparse_folx(fun, x):
    return by_folx(fun, x, 6)


def nested_jvp(fun, x):
    """Second derivatives along all axes, by `jvp` of `jvp`."""
    shape = x.shape

    def along(v):
        def slope(x):
            y, dy = jax.jvp(fun, (x,), (v.reshape(shape),))
            return dy, (y, dy)

        _, second, (y, dy) = jax.jvp(slope, (x,), (v.reshape(shape),), has_aux=True)
        return y, dy, second

    y, first, second = jax.vmap(along)(jnp.eye(x.size, dtype=x.dtype))
    return y[0], first, jnp.sum(second)


def by_hessian(fun, x):
    y, gradient = jax.value_and_grad(fun)(x)
    hessian = jax.hessian(fun)(x).reshape(x.size, x.size)
    return y, gradient.reshape(-1), jnp.trace(hessian)


RIVALS = {
    OURS: ours,
    "folx": by_folx,
    SPARSE: by_sparse_folx,
    "`jvp` of `jvp`": nested_jvp,
    "`jax.hessian`": by_hessian,
}


def kinetic(rival):
    def energy(fun, x):
        _, gradient, laplacian = rival(fun, x)
        return -(laplacian + jnp.sum(gradient**2)) / 2

    return energy


def slope_of(energy):
    """The gradient of the mean energy of a batch, with respect to the parameters."""

    def mean(arrays, static, xs):
        fun = eqx.combine(arrays, static)
        return jnp.mean(jax.vmap(lambda x: energy(fun, x))(xs))

    def slope(fun, xs):
        arrays, static = eqx.partition(fun, eqx.is_inexact_array)
        leaves = jax.tree.leaves(jax.grad(mean)(arrays, static, xs))
        return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

    return slope


def as_float(tree, dtype):
    is_float = eqx.is_inexact_array
    return jax.tree.map(lambda x: x.astype(dtype) if is_float(x) else x, tree)


def walkers(n, number):
    """Electrons at some distance of each other, in float32."""
    rng = np.random.default_rng(n)
    return jnp.asarray(rng.normal(size=(number, n, 3)) * 1.5, jnp.float32)


def _rows(title, n, fun, xs, of_batch, once, seconds, rivals):
    """Lines of a table, and the timings: operations and bytes of one evaluation of a
    batch, time, and the error of float32."""
    functions = [(name, of_batch(rival)) for name, rival in rivals.items()]
    operations, _ = cost(lambda xs: once(fun, xs), xs)
    costs = {name: cost(lambda xs, f=f: f(fun, xs), xs) for name, f in functions}
    timings = compare(
        [(name, lambda xs, f=f: f(fun, xs)) for name, f in functions], (xs,), seconds
    )
    with jax.enable_x64(True):
        exact = jax.jit(lambda xs: of_batch(by_hessian)(as_float(fun, jnp.float64), xs))
        exact = np.asarray(exact(xs.astype(jnp.float64)))
    first, lines = timings[0], []
    for t in timings:
        error = difference(t.result, exact)
        if t is first and not error < 1e-2:
            raise RuntimeError(f"{title}: the energies are off by {error:.1e}.")
        ops, size = costs[t.name]
        lines.append(
            f"| {title} | {n} | {t.name} | {ops / operations:.1f} | {size / 1e6:.1f} | "
            f"{1e3 * t.run:.3g} | {t.run / first.run:.2f} | {error:.0e} |"
        )
        title = n = ""
    return lines, timings, costs


ELECTRONS = (8, 16)


def _jobs():
    """Of each row: its title, n, the function, a batch of points, what is computed of a
    rival, and the rivals."""

    def batch(one):
        return lambda rival: lambda f, xs: jax.vmap(lambda x: one(rival)(f, x))(xs)

    def second(rival):
        return lambda fun, x: rival(fun, x)[2]

    few = {name: RIVALS[name] for name in (OURS, SPARSE, "`jax.hessian`")}
    for name, make in WAVE_FUNCTIONS.items():
        title = name.replace("_", " ")
        for n in ELECTRONS:
            fun, xs = make(n, jax.random.key(0)), walkers(n, WALKERS)
            yield title, n, fun, xs, batch(kinetic), RIVALS
        fun, xs = make(ELECTRONS[0], jax.random.key(0)), walkers(ELECTRONS[0], WALKERS)
        slope = lambda rival: slope_of(kinetic(rival))  # noqa: E731
        # The other rivals take minutes to compile.
        yield f"{title}, gradient", ELECTRONS[0], fun, xs, slope, few
    for name, make in FIELDS.items():
        fun = make(3, jax.random.key(0))
        xs = jax.random.uniform(jax.random.key(1), (POINTS, 3))
        yield name.replace("_", " "), 3, fun, xs, batch(second), RIVALS


def run(seconds: float, only=None) -> Report:
    lines = [
        "| | n | | operations | MB | ms | of ours | error |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    figures = []
    once = lambda f, xs: jax.vmap(lambda x: f(x))(xs)  # noqa: E731
    for title, n, fun, xs, of_batch, rivals in _jobs():
        if only and not title.startswith(tuple(only)):
            continue
        rows, timings, costs = _rows(title, n, fun, xs, of_batch, once, seconds, rivals)
        print("\n".join(rows), flush=True)
        lines += rows
        first, *others = timings
        for t in others:
            if not t.name.startswith("folx"):
                continue
            work = f"{title}, n = {n}, float32"
            figures += [
                Figure(
                    work, "run", t.name, first.run, t.run,
                    ours_spread=first.spread, theirs_spread=t.spread, at_most=1.0,
                ),
                Figure(
                    work, "operations", t.name, costs[first.name][0], costs[t.name][0],
                    "", at_most=1.0,
                ),
            ]  # fmt: skip
    table = "\n".join(lines)
    text = f"""
Local kinetic energies of {WALKERS} walkers of n electrons, the gradient of their mean
with respect to all parameters, and Laplacians of networks at {POINTS} points of space.
Operations are XLA's count, in evaluations of the wave function; the error is the
largest, in float32, relative to the largest energy:

{table}
"""
    return Report("Wave functions and fields", text, figures, {})


def _options(parser) -> None:
    parser.add_argument("--only", nargs="*", help="beginnings of the names of rows")


if __name__ == "__main__":
    main(run, seconds=2, options=_options)
