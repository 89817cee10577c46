"""The memory that a jet of order 12 takes, against `jax.experimental.jet`."""

import functools

import jax

from ._report import Figure, main, quantity, Report
from ._timing import check_equal
from .jet_mlp import by_filter_jet, by_jax_jet, by_jet, ORDER, problem


def memory(fun, *args):
    """What XLA has planned for the executable, and its result."""
    executable = jax.jit(fun).lower(*args).compile()
    sizes = executable.memory_analysis()
    assert sizes is not None, "XLA does not tell on this platform."
    return sizes, executable(*args)


def run(seconds: float) -> Report:
    # Nothing is timed here.
    del seconds
    mlp, x, v = problem()
    rivals = {
        "`eqx_taylor.filter_jet`": by_filter_jet,
        "`eqx_taylor.jet`, zeros given as arrays": by_jet,
        "`jax.experimental.jet`": by_jax_jet,
    }
    found = {
        name: memory(functools.partial(method, mlp), x, v)
        for name, method in rivals.items()
    }
    lines = ["| | temporary | results |", "|---|---:|---:|"]
    for name, (sizes, _) in found.items():
        temporary = quantity(sizes.temp_size_in_bytes, "bytes")
        results = quantity(sizes.output_size_in_bytes, "bytes")
        lines.append(f"| {name} | {temporary} | {results} |")
    (ours, result), _, (theirs, expected) = found.values()
    error = check_equal(result, expected, 1e-3, "filter_jet")
    table = "\n".join(lines)
    text = f"""
The jet of a tanh MLP 64-256-256-256-64 at 128 points, in float32. The table has the
memory that XLA allocates for everything that is neither an argument nor a result,
according to the executable's `memory_analysis`. This is the peak, as buffers whose
lifetimes do not overlap share memory. The MLP's weights are constants of the program
and are not counted.

{table}

The largest relative difference between the results is {error:.1e}.
"""
    figure = Figure(
        f"jet of order {ORDER}, MLP 64-256-256-256-64, batch 128, float32",
        "memory",
        "`jax.experimental.jet`",
        ours.temp_size_in_bytes,
        theirs.temp_size_in_bytes,
        unit="bytes",
        at_most=0.7,
    )
    return Report(f"The memory of a jet of order {ORDER}", text, [figure])


if __name__ == "__main__":
    main(run)
