"""Random programs (`fuzz_programs.py`), simplified: equal values, never more equations.

`python tests/fuzz_simplify.py 200` takes the derivatives of the first 200, with
`--seed` others, and with `--seconds` no more than fit in; `test_simplify.py` takes a
few.
"""

import argparse
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
from fuzz_programs import random_program, second_by_nesting

from eqx_taylor._core.jax import evaluate
from eqx_taylor._programs.counts import count_equations, count_jaxpr
from eqx_taylor._programs.simplify.cse import cse_jaxpr
from eqx_taylor._programs.simplify.exact import exact_jaxpr
from eqx_taylor._programs.simplify.reform import simplified_jaxpr


STAGES = {"cse": cse_jaxpr, "exact": exact_jaxpr, "simplify": simplified_jaxpr}


def derivatives_of(seed, order):
    """A program's jaxpr with those of its derivatives along a line, and its inputs;
    `None` for one that JAX cannot differentiate so often."""
    program = random_program(random.Random(seed))
    fun = program.function(second_by_nesting)
    inputs = {k: jnp.asarray(v) for k, v in program.inputs.items()}
    moving = {k: inputs[k] for k in program.series}
    line = {
        k: jnp.asarray(np.cos(np.arange(x.size) + 1.0).reshape(x.shape), x.dtype)
        for k, x in moving.items()
    }

    def extended(tower):
        return lambda moving: jax.jvp(tower, (moving,), (line,))

    tower = lambda moving: fun(**{**inputs, **moving})  # noqa: E731
    for _ in range(order):
        tower = extended(tower)
    try:
        jaxpr = jax.make_jaxpr(tower)(moving)
    except NotImplementedError:
        return None
    # Of a `custom_vjp` JAX says so only when the program is compiled.
    if "custom_lin" in count_jaxpr(jaxpr).counts:
        return None
    return jaxpr, jax.tree.leaves(moving)


def check(jaxpr, inputs, values=True):
    """The number of equations before, and after each stage; an `AssertionError` if one
    adds any, or changes the values by more than rounding."""
    stages = {name: stage(jaxpr) for name, stage in STAGES.items()}
    counts = [count_equations(j) for j in [jaxpr, *stages.values()]]
    assert counts == sorted(counts, reverse=True), counts
    if values:
        expected = run(jaxpr, inputs)
        for name, simplified in stages.items():
            actual = run(simplified, inputs)
            for a, e in zip(actual, expected, strict=True):
                assert (a.shape, a.dtype) == (e.shape, e.dtype)
                assert_equal(a, e, 1e4 if name == "simplify" else 16, name)
    return counts


def run(jaxpr, inputs):
    return jax.device_get(jax.jit(lambda *x: evaluate(jaxpr, x))(*inputs))


def assert_equal(a, e, ulps, name):
    if e.dtype.kind not in "fc":
        np.testing.assert_array_equal(a, e)
        return
    size = max(1.0, np.max(np.abs(e), initial=0))
    error = np.max(np.abs(a - e), initial=0) / size / float(jnp.finfo(e.dtype).eps)
    assert error <= ulps, f"{name}: {error} ulps"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    begin, totals, checked, failed = time.perf_counter(), np.zeros(4, int), 0, 0
    for seed in range(args.seed, args.seed + args.count):
        if time.perf_counter() - begin > args.seconds:
            print(f"stopped before seed {seed}")
            break
        found = derivatives_of(seed, args.order)
        if found is None:
            continue
        try:
            totals += check(*found)
            checked += 1
        except AssertionError as e:
            failed += 1
            print(f"seed {seed}: {e}", flush=True)
    before, cse, exact, simplified = totals
    print(
        f"{checked} programs equal, {failed} not; equations: {before}, with cse {cse}, "
        f"without reassociation {exact}, simplified {simplified}; "
        f"{time.perf_counter() - begin:.0f} s"
    )
    return failed


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
