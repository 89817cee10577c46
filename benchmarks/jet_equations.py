"""The number of equations in the jaxpr of a jet, against `jax.experimental.jet` and
nested `jvp`, for orders 1 to 20 of `0.3 sin(t) t^10`."""

import jax
import jax.numpy as jnp
from jax.experimental.jet import jet as jax_jet

import eqx_taylor

from ._timing import print_machine


def fun(t):
    return 0.3 * jnp.sin(t) * t**10


def by_filter_jet(t, order):
    return eqx_taylor.filter_jet(fun, (t,), ([1.0] + [None] * (order - 1),))


def by_jax_jet(t, order):
    return jax_jet(fun, (t,), ([1.0] + [0.0] * (order - 1),))


def by_nested_jvp(t, order):
    derivatives, f = [fun(t)], fun
    for _ in range(order):
        f = (lambda f: lambda t: jax.jvp(f, (t,), (1.0,))[1])(f)
        derivatives.append(f(t))
    return derivatives


def count(jaxpr) -> int:
    """Equations, those of inner jaxprs in the place of the call."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [value for value in eqn.params.values() if hasattr(value, "jaxpr")]
        total += sum(count(x.jaxpr) for x in inner) if inner else 1
    return total


def equations(method, order) -> int:
    return count(jax.make_jaxpr(lambda t: method(t, order))(1.1).jaxpr)


def main():
    print_machine()
    print("\n| order | eqx_taylor.filter_jet | jax.experimental.jet | nested jvp |")
    print("|---:|---:|---:|---:|")
    for order in [1, 2, 3, 4, 6, 8, 10, 12, 16, 20]:
        # Nested `jvp` triples with every order.
        nested = equations(by_nested_jvp, order) if order <= 8 else "-"
        print(
            f"| {order} | {equations(by_filter_jet, order)} "
            f"| {equations(by_jax_jet, order)} | {nested} |"
        )


if __name__ == "__main__":
    main()
