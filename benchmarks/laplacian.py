"""Laplacians and the biharmonic operator of an MLP, against folx and others.

All of them are ordinary functions of a point, which `jax.vmap` takes to a batch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.jet import jet as jax_jet

import eqx_taylor

from ._particles import cost, FUNCTIONS, weights
from ._report import Figure, main, peer, Report
from ._timing import check_equal, compare, timing_table


BATCH, WIDTH, DEPTH = 64, 128, 4
THE_MLP = "the MLP itself"


def problem(size):
    """The MLP, which returns a number, and a batch of points."""
    key, x_key = jax.random.split(jax.random.key(0))
    mlp = eqx.nn.MLP(size, "scalar", WIDTH, DEPTH, jnp.tanh, key=key, dtype=jnp.float32)
    return mlp, jax.random.normal(x_key, (BATCH, size), jnp.float32)


def by_folx(fun, x):
    return peer("folx").forward_laplacian(fun)(x).laplacian


def by_hessian(fun, x):
    return jnp.trace(jax.hessian(fun)(x))


def forward_over_forward(fun, x):
    def second(v):
        return jax.jvp(lambda y: jax.jvp(fun, (y,), (v,))[1], (x,), (v,))[1]

    return jnp.sum(jax.vmap(second)(jnp.eye(x.size, dtype=x.dtype)))


def along(fun, x, v, order):
    """The derivative of this order along a line, by `jax.experimental.jet`."""
    series = [v, *[jnp.zeros_like(v)] * (order - 1)]
    return jax_jet(fun, (x,), (series,))[1][-1]


def by_jet(fun, x):
    units = jnp.eye(x.size, dtype=x.dtype)
    return jnp.sum(jax.vmap(lambda v: along(fun, x, v, 2))(units))


def biharmonic_by_jet(fun, x):
    """From fourth derivatives along the axes and the diagonals of all pairs of them:
    Σ_{i<j} ((a + b)⁴ + (a - b)⁴) / 6 + (4 - D) / 3 Σ_i a⁴."""
    units = jnp.eye(x.size, dtype=x.dtype)
    i, j = jnp.triu_indices(x.size, k=1)
    pairs = jnp.concatenate([units[i] + units[j], units[i] - units[j]])
    lines = jnp.concatenate([units, pairs])
    fourth = jax.vmap(lambda v: along(fun, x, v, 4))(lines)
    axes, pairs = fourth[: x.size], fourth[x.size :]
    return jnp.sum(pairs) / 6 + (4 - x.size) / 3 * jnp.sum(axes)


def biharmonic_by_terms(fun, x):
    """By the same lines, but collapsed."""
    axes = range(x.size)
    terms = [
        (1, tuple(2 * ((i == k) + (j == k)) for k in axes)) for i in axes for j in axes
    ]
    return eqx_taylor.linear_operator(fun, x, terms)


def _measure(size, rivals, seconds):
    mlp, x = problem(size)

    def batched(rival):
        return lambda x: jax.vmap(lambda x: rival(mlp, x))(x)

    timings = compare(
        [(name, batched(rival)) for name, rival in rivals],
        (x,),
        seconds,
        compiles=3,
    )
    for timing in timings:
        if timing.name == THE_MLP:
            continue
        # Of the roundings of float32, in sums of many terms of either sign.
        check_equal(timing.result, timings[0].result, 1e-4, timing.name)
    return timings


PARTICLES = (10, 40)


def sparse_by_folx(fun, x):
    forward = peer("folx").forward_laplacian(fun, sparsity_threshold=6)
    return forward(x).laplacian


def _of_particles(seconds):
    """Operations, bytes and times of Laplacians of functions of particles. Returns the
    lines of a table, and figures."""
    lines = [
        "| | n | operations, in evaluations: ours / folx / its sparse mode | MB | ms |",
        "|---|---:|---|---|---|",
    ]
    w, figures = weights(jnp.float32), []
    for name, fun in FUNCTIONS.items():
        for n in PARTICLES:
            x = jax.random.normal(jax.random.key(1), (n, 3), jnp.float32)
            of = lambda x, fun=fun: fun(w, x)  # noqa: E731
            rivals = [
                (rival_name, lambda x, of=of, rival=rival: rival(of, x))
                for rival_name, rival in (
                    ("`eqx_taylor.laplacian`", eqx_taylor.laplacian),
                    ("`folx.forward_laplacian`", by_folx),
                    ("`folx.forward_laplacian`, threshold 6", sparse_by_folx),
                )
            ]
            once, _ = cost(of, x)
            costs = [cost(rival, x) for _, rival in rivals]
            timings = compare(rivals, (x,), seconds)
            for timing in timings:
                check_equal(timing.result, timings[0].result, 1e-3, timing.name)
            columns = [
                " / ".join(f"{operations / once:.1f}" for operations, _ in costs),
                " / ".join(f"{size / 1e6:.2f}" for _, size in costs),
                " / ".join(f"{1e3 * timing.run:.3g}" for timing in timings),
            ]
            title = name.replace("_", " ")
            lines.append(f"| {title} | {n} | {' | '.join(columns)} |")
            work = f"Laplacian, {title}, {n} particles, float32"
            ours, _, theirs = timings
            figures += [
                Figure(work, "run", theirs.name, ours.run, theirs.run, at_most=1.0),
                Figure(
                    work, "operations", theirs.name, costs[0][0], costs[2][0], "",
                    at_most=1.0,
                ),
                Figure(
                    work, "memory traffic", theirs.name, costs[0][1], costs[2][1],
                    "bytes", at_most=1.0,
                ),
            ]  # fmt: skip
    return "\n".join(lines), figures


def run(seconds: float) -> Report:
    second = _measure(
        50,
        [
            ("`eqx_taylor.laplacian`", eqx_taylor.laplacian),
            ("`folx.forward_laplacian`", by_folx),
            ("`jnp.trace(jax.hessian)`", by_hessian),
            ("`jax.experimental.jet`, 50 directions", by_jet),
            (THE_MLP, lambda fun, x: fun(x)),
        ],
        seconds,
    )
    fourth = _measure(
        5,
        [
            ("`eqx_taylor.biharmonic`", eqx_taylor.biharmonic),
            ("`eqx_taylor.linear_operator`, 25 directions", biharmonic_by_terms),
            (
                "Laplacian of the Laplacian, each `jvp` of `jvp`",
                lambda fun, x: forward_over_forward(
                    lambda y: forward_over_forward(fun, y), x
                ),
            ),
            (
                "`folx.forward_laplacian` of itself",
                lambda fun, x: by_folx(lambda y: by_folx(fun, y), x),
            ),
            ("`jax.experimental.jet`, 25 directions", biharmonic_by_jet),
        ],
        seconds,
    )
    particles, of_particles = _of_particles(seconds)
    network = f"{WIDTH}-{WIDTH}-{WIDTH}-{WIDTH}-1"
    text = f"""
Of a tanh MLP at {BATCH} points at once, in float32. The Laplacian, of an MLP
50-{network}:

{timing_table(second)}

The biharmonic operator, of an MLP 5-{network}:

{timing_table(fourth)}

Compile times are medians of {len(second[0].compiles)} compilations.

Of functions of n particles in three dimensions (`benchmarks/_particles.py`), at one
point. Operations and bytes are XLA's count:

{particles}
"""
    targets = [
        (second, 50, "Laplacian", 0, {1: 0.9, 2: 0.6, 3: 1.0}),
        (fourth, 5, "biharmonic operator", 0, {2: 0.5, 3: None, 4: 1.0}),
        (fourth, 5, "biharmonic operator by its terms", 1, {4: 1.0}),
    ]
    figures = []
    for timings, size, what, ours, peers in targets:
        ours = timings[ours]
        for i, at_most in peers.items():
            figures.append(
                Figure(
                    f"{what}, MLP {size}-{network}, batch {BATCH}, float32",
                    "run",
                    timings[i].name,
                    ours.run,
                    timings[i].run,
                    ours_spread=ours.spread,
                    theirs_spread=timings[i].spread,
                    at_most=at_most,
                )
            )
    figures += of_particles
    data = {t.name: dict(run=t.run, compile=t.compile) for t in [*second, *fourth]}
    return Report("Laplacians of an MLP", text, figures, data)


if __name__ == "__main__":
    main(run, seconds=6)
