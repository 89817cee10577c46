# pyright: strict
# JAX and Diffrax leave types of arguments out: `jnp.ones`, `diffrax.diffeqsolve` and
# the keywords that an event function is passed are partially unknown to pyright.
# pyright: reportUnknownMemberType=false
"""A user's script, with the types that it relies on.

`test_typed_user.py` runs it; pyright in its strict mode and `mypy --strict` find no
error in it.
"""

from typing import Any, assert_type, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

import eqx_taylor
from eqx_taylor import programs, rules


class Field(eqx.Module):
    """A function of two coordinates, with parameters."""

    net: eqx.nn.MLP
    scale: Array

    def __init__(self, key: Array):
        self.net = eqx.nn.MLP(2, "scalar", 4, 1, jnp.tanh, key=key)
        self.scale = jnp.array(2.0)

    def __call__(self, x: Array) -> Array:
        value: Array = self.net(x)
        return self.scale * value


def loss(field: Field, x: Array) -> Array:
    return field(x) ** 2


def with_norm(x: Array) -> tuple[Array, dict[str, Array]]:
    return jnp.sin(x), {"norm": jnp.sum(x**2)}


def square(t: Array) -> Array:
    """The square."""
    return t**2


def of_functions() -> list[Array]:
    """Jets, derivatives and operators."""
    field, x = Field(jax.random.key(0)), jnp.array([0.3, 0.7])
    v = jnp.array([1.0, 0.0])

    y, terms = eqx_taylor.filter_jet(field, (x,), ([v, None],))
    assert_type(y, Array)
    assert_type(terms, list[Array])
    all_of_them = eqx_taylor.derivatives(square, 3.0, 2)
    assert_type(all_of_them, Array)
    slope, aux = eqx_taylor.nth_derivative(with_norm, 0.0, 1, has_aux=True)
    assert_type(slope, Array)
    assert_type(aux, dict[str, Array])
    direction = cast(Field, eqx.filter(field, eqx.is_array))
    product = eqx_taylor.hvp(loss, field, direction, x)
    assert_type(product, Field)
    polynomial = eqx_taylor.taylor_polynomial(field, x, v, 4)
    assert_type(polynomial, eqx_taylor.TaylorPolynomial)
    laplacian = eqx_taylor.laplacian(field, x)
    assert_type(laplacian, Array)
    return [y, *terms, all_of_them, slope, aux["norm"], product.scale, laplacian]


@programs.simplify
def fourth(x: Array, factor: float = 1.0) -> Array:
    """The fourth derivative of the sine, in a program that is simplified."""
    return factor * eqx_taylor.nth_derivative(jnp.sin, x, 4)


def of_programs() -> str:
    assert_type(fourth(jnp.array(0.5), factor=2.0), Array)
    both = programs.jarrett(square)(jnp.ones(2)) + programs.cse(square)(jnp.ones(2))
    assert_type(both, Array)
    return fourth.explain(jnp.array(0.5), factor=2.0)


def decay(t: Any, y: Array, args: Array) -> Array:
    return -args * y


def above_half(t: Any, y: Array, args: Any, **kwargs: Any) -> Array:
    return y - 0.5


def half_life(rate: Array) -> eqx_taylor.Events:
    """The time at which half is left."""
    solver, controller = eqx_taylor.taylor_method(rtol=1e-8, atol=1e-8, order=6)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(decay),
        solver,
        t0=0.0,
        t1=1.0,
        dt0=None,
        y0=jnp.array(1.0),
        args=rate,
        stepsize_controller=controller,
        saveat=diffrax.SaveAt(dense=True),
        max_steps=32,
    )
    event = diffrax.Event(above_half)
    return eqx_taylor.find_events(solution, event, rate, max_events=2)


def roughness(rate: Array) -> Array:
    """The square of the second derivative of a solution, integrated along it."""
    solver, controller = eqx_taylor.taylor_method(rtol=1e-8, atol=1e-8, order=6)
    solution = diffrax.diffeqsolve(
        eqx_taylor.regularized(decay, order=2),
        solver,
        t0=0.0,
        t1=0.5,
        dt0=None,
        y0=(jnp.array(1.0), jnp.array(0.0)),
        args=rate,
        stepsize_controller=controller,
        adjoint=eqx_taylor.ReplayAdjoint(),
        max_steps=32,
    )
    assert solution.ys is not None
    return cast(Array, solution.ys[1][0])


@jax.custom_jvp
def own_exp(x: Array) -> Array:
    return jnp.exp(x)


@own_exp.defjvp
def own_exp_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = own_exp(primals[0])
    return y, y * tangents[0]


def own_derivative(y: Array, x: Array, dx: Array) -> Array:
    return y * dx


def main() -> dict[str, list[Array]]:
    rules.define_derivative(own_exp, own_derivative)
    coefficients = eqx_taylor.ode_jet(
        decay, 0.0, jnp.array(1.0), jnp.array(1.0), order=3
    )
    assert_type(coefficients, Array)
    events = half_life(jnp.array(2.0))
    assert_type(events.num_events, Array)
    return {
        "functions": of_functions(),
        "own": [eqx_taylor.nth_derivative(own_exp, 0.0, 3)],
        "coefficients": [coefficients],
        "times": [events.ts, events.num_events],
        "gradient": [jax.grad(roughness)(jnp.array(2.0))],
    }


if __name__ == "__main__":
    print(of_programs())
    print(main())
