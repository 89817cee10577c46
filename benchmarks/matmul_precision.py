"""What reduced precision of matrix products does to the coefficients of a jet.

GPUs and TPUs may round the operands of a product of float32 matrices to fewer bits
(`jax_default_matmul_precision`): to the 10 bits of TensorFloat32, or to the 7 of
bfloat16. Both are emulated here, on any device: the program of a jet is evaluated with
the operands of every product rounded, sums are in float32.
"""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .jet_mlp import by_filter_jet


# Bits of the mantissa behind the point.
EMULATED = {"float32": 23, "TensorFloat32": 10, "bfloat16": 7}
ORDER = 8
# Primitives that do what is in them once.
CALLS = {"pjit", "jit", "closed_call", "custom_jvp_call"}
# What `--page` replaces.
BEGIN, END = "<!-- begin: precision -->", "<!-- end: precision -->"


def emulated(fun: Callable, bits: int) -> Callable:
    """`fun` with the operands of its matrix products rounded to so many bits. Products
    in loops and branches are not reached: that would be an error."""

    def rounded(x):
        return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)

    def evaluate(jaxpr, consts, args):
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts))
        known |= zip(jaxpr.invars, args)

        def read(atom):
            return atom.val if hasattr(atom, "val") else known[atom]

        for eqn in jaxpr.eqns:
            values = [read(atom) for atom in eqn.invars]
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name == "dot_general":
                values = [rounded(x) for x in values]
            elif eqn.primitive.name in CALLS:
                outputs = evaluate(inner.jaxpr, inner.consts, values)
                known |= zip(eqn.outvars, outputs)
                continue
            elif any("dot_general" in str(x) for x in eqn.params.values()):
                raise NotImplementedError(f"products within `{eqn.primitive.name}`")
            outputs = eqn.primitive.bind(*values, **eqn.params)
            if not eqn.primitive.multiple_results:
                outputs = [outputs]
            known |= zip(eqn.outvars, outputs)
        return [read(atom) for atom in jaxpr.outvars]

    def run(*args):
        program, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        outputs = evaluate(program.jaxpr, program.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return run


def errors_of_orders(actual: Sequence[Any], exact: Sequence[Any]) -> list[float]:
    """Of each coefficient: the largest error, relative to its largest entry."""
    found = []
    for a, b in zip(actual, exact, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        found.append(float(np.max(np.abs(a - b)) / np.max(np.abs(b))))
    return found


def table() -> str:
    """In Markdown; float64 has to be enabled."""
    orders = " | ".join(map(str, range(ORDER + 1)))
    lines = [
        f"| tanh MLP | operands rounded to | {orders} |",
        "|---|---|" + "---:|" * (ORDER + 1),
    ]
    for width in (256, 1024):
        mlp = eqx.nn.MLP(64, 64, width, 3, jnp.tanh, key=jax.random.key(0))
        arrays, static = eqx.partition(mlp, eqx.is_array)
        arrays = jax.tree.map(lambda x: x.astype(jnp.float32), arrays)
        keys = jax.random.split(jax.random.key(1))
        x, v = (jax.random.normal(key, (32, 64), jnp.float32) for key in keys)

        def jet(arrays, x, v):
            net = jax.vmap(eqx.combine(arrays, static))
            value, terms = by_filter_jet(net, x, v, ORDER)
            return [value, *terms]

        double = jax.tree.map(lambda x: x.astype(jnp.float64), (arrays, x, v))
        exact = jax.jit(jet)(*double)
        for name, bits in EMULATED.items():
            errors = errors_of_orders(jax.jit(emulated(jet, bits))(arrays, x, v), exact)
            cells = " | ".join(f"{error:.0e}" for error in errors)
            lines.append(f"| 64-{width}-{width}-{width}-64 | {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--page",
        type=pathlib.Path,
        metavar="FILE",
        help="puts the table between the marks in this file, too",
    )
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    text = table()
    print(text)
    if args.page is not None:
        before, rest = args.page.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        middle = f"{BEGIN}\n\n{text}\n\n{END}"
        args.page.write_text(before + middle + after, encoding="utf-8")


if __name__ == "__main__":
    main()
