"""Steps of networks: jets, precision of matrix products, Laplacians, neural ODEs."""

from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_taylor
from eqx_taylor import TaylorController, TaylorSolver

from ..jet_mlp import by_filter_jet, by_jax_jet, matrix_products
from ..jets import by_nested_jvp
from ..laplacian import by_hessian
from ..matmul_precision import EMULATED, emulated, errors_of_orders
from ._measure import (
    halved_to_fit,
    measured,
    peer,
    sketch,
    tolerance_for,
    unlike,
)
from ._record import Line
from ._steps import Context, Sizes, Step


OURS = "eqx_taylor"
# float32, and products in TensorFloat32 where the device has it by default.
SKETCHES_AGREE = 1e-2


def network(sizes: tuple[int, ...], key: int = 0, dtype: Any = jnp.float32):
    """A tanh MLP of these sizes of layers: its arrays, and a function of them and of
    one input."""
    keys = jax.random.split(jax.random.key(key), len(sizes))
    layers = []
    for before, after, k in zip(sizes, sizes[1:], keys):
        layers += [eqx.nn.Linear(before, after, key=k), eqx.nn.Lambda(jnp.tanh)]
    arrays, static = eqx.partition(eqx.nn.Sequential(layers[:-1]), eqx.is_array)
    arrays = jax.tree.map(lambda x: x.astype(dtype), arrays)
    return arrays, lambda arrays, x: eqx.combine(arrays, static)(x)


def named(sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, sizes))


def line(size: int, batch: int, dtype: Any = jnp.float32):
    """Points and directions; of float32, those of float64 rounded. The first are the
    same for all batches."""
    random = np.random.default_rng(1).normal(size=(batch, 2, size))
    return tuple(jnp.asarray(random[:, i], dtype) for i in range(2))


def check_against_ours(context: Context, section: str, row: Line, ours: str) -> Line:
    """Notes it where a peer's result is not ours."""
    for other in context.record.rows(section):
        if (other["who"], other["work"]) != (ours, row["work"]):
            continue
        if "sketch" in other and other.get("size") == row.get("size"):
            row["differs"] = unlike(row["sketch"], other["sketch"])
            if not row["differs"] <= SKETCHES_AGREE:
                context.note(
                    f"{row['who']}, {row['work']}: the result differs from ours by "
                    f"{row['differs']:.1e}"
                )
    return row


# -- jets


def _products(apply, arrays, x, v, order):
    class Layers:
        layers = [layer for layer in arrays.layers if hasattr(layer, "weight")]

    return matrix_products(Layers, x, v, order)


def _jet(method: Callable) -> Callable:
    def jet(apply, arrays, x, v, order):
        return method(lambda x: jax.vmap(lambda y: apply(arrays, y))(x), x, v, order)

    return jet


PRODUCTS, JAX_JET, NESTED = "the products alone", "jax.experimental.jet", "nested jvp"
JETS = {
    OURS: _jet(by_filter_jet),
    PRODUCTS: _products,
    JAX_JET: _jet(by_jax_jet),
    NESTED: _jet(by_nested_jvp),
}


def jets(sizes: Sizes) -> Iterator[Step]:
    for wave, order in enumerate(sizes.jet_orders, 1):
        for layers, batch in sizes.jets:
            for who in JETS:
                if who == NESTED and order > sizes.nested_at_most:
                    # Its program doubles with every order.
                    continue
                yield _jet_step(wave, layers, batch, order, who)


def _jet_step(wave, layers, batch, order, who) -> Step:
    work = f"order {order}, MLP {named(layers)}, batch {batch}"

    def run(context: Context) -> Iterator[Line]:
        arrays, apply = network(layers)

        def attempt(batch):
            x, v = line(layers[0], batch)
            fun = JETS[who]
            row, result = measured(
                context,
                lambda arrays, x, v: fun(apply, arrays, x, v, order),
                (arrays, x, v),
            )
            return row | dict(size=batch, sketch=sketch(result))

        row = halved_to_fit(context, batch, attempt)
        row |= dict(who=who, work=work, wanted=batch)
        if who in (JAX_JET, NESTED):
            row = check_against_ours(context, "jets", row, OURS)
        yield row

    doubling = 2 ** max(0, order - 4) / 2 if who == NESTED else 0
    return Step("jets", f"{work}: {who}", run, 4.0 + doubling, wave)


# -- what `jax_default_matmul_precision` does


SETTINGS = ("default", "high", "highest")


def precision(sizes: Sizes) -> Iterator[Step]:
    layers, batch = sizes.jets[-1]
    order = sizes.check_order

    def reference_and_problem(context):
        arrays, apply = network(layers)
        x, v = line(layers[0], batch)
        double = jax.device_put(
            jax.tree.map(lambda a: a.astype(jnp.float64), (arrays, x, v)), context.cpu
        )

        def jet(arrays, x, v):
            value, terms = JETS[OURS](apply, arrays, x, v, order)
            return [value, *terms]

        return jet, (arrays, x, v), jax.jit(jet)(*double)

    def step(setting: str) -> Step:
        def run(context: Context) -> Iterator[Line]:
            jet, args, exact = reference_and_problem(context)
            with jax.default_matmul_precision(setting):
                row, result = measured(context, jet, args)
            errors = errors_of_orders(result, exact)
            yield row | dict(
                who=setting,
                work=f"order {order}, MLP {named(layers)}, batch {batch}",
                errors=errors,
                error=max(errors),
            )

        return Step("precision", setting, run, 4.0)

    def emulations(context: Context) -> Iterator[Line]:
        jet, args, exact = reference_and_problem(context)
        args = jax.device_put(args, context.cpu)
        for name, bits in EMULATED.items():
            errors = errors_of_orders(jax.jit(emulated(jet, bits))(*args), exact)
            yield dict(
                who=f"{name}, emulated on the CPU",
                work=f"order {order}, MLP {named(layers)}, batch {batch}",
                errors=errors,
                error=max(errors),
            )

    for setting in SETTINGS:
        yield step(setting)
    yield Step("precision", "emulated", emulations, 6.0)


# -- Laplacians


THE_MLP = "the MLP itself"


def _by_folx(fun, x):
    return peer("folx").forward_laplacian(fun)(x).laplacian


LAPLACIANS = {
    OURS: eqx_taylor.laplacian,
    THE_MLP: lambda fun, x: fun(x),
    "jnp.trace(jax.hessian)": by_hessian,
    "folx": _by_folx,
}


def laplacians(sizes: Sizes) -> Iterator[Step]:
    for wave, (layers, batch) in enumerate(sizes.laplacians, 1):
        for who in LAPLACIANS:
            yield _laplacian_step(wave, layers, batch, who)


def _laplacian_step(wave, layers, batch, who) -> Step:
    work = f"MLP {named(layers)}, batch {batch}"

    def run(context: Context) -> Iterator[Line]:
        if who == "folx":
            peer("folx")
        arrays, apply = network(layers)

        def laplacian(arrays, x):
            def fun(x):
                return apply(arrays, x)[0]

            return jax.vmap(lambda x: LAPLACIANS[who](fun, x))(x)

        def attempt(batch):
            x, _ = line(layers[0], batch)
            row, result = measured(context, laplacian, (arrays, x))
            return row | dict(size=batch, sketch=sketch(result))

        row = halved_to_fit(context, batch, attempt)
        row |= dict(who=who, work=work, wanted=batch)
        if who != THE_MLP:
            row = check_against_ours(context, "laplacian", row, OURS)
        yield row

    needs = "folx" if who == "folx" else None
    return Step("laplacian", f"{work}: {who}", run, 5.0, wave, needs=needs)


# -- a neural ODE


TARGET = 1e-4
MAX_STEPS = 256


def _node_solvers(sizes: Sizes) -> dict[str, Any]:
    ours = {f"TaylorSolver({k})": TaylorSolver(order=k) for k in sizes.neural_orders}
    return ours | {name: getattr(diffrax, name)() for name in sizes.peers}


def _node(solver: Any, adjoint: Any, apply: Callable) -> Callable:
    """The final state and the number of steps, as a function of parameters, initial
    states and the tolerance. All of a batch take the same steps."""
    is_taylor = isinstance(solver, TaylorSolver)
    controller = TaylorController if is_taylor else diffrax.PIDController

    def solve(arrays, y0, tolerance):
        def field(t, y, arrays):
            return jax.vmap(lambda y: apply(arrays, y))(y)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),  # pyright: ignore[reportArgumentType]
            solver,
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=y0,
            args=arrays,
            stepsize_controller=controller(rtol=tolerance, atol=tolerance),
            adjoint=adjoint,
            max_steps=MAX_STEPS,
            throw=False,
        )
        assert solution.ys is not None
        return solution.ys[-1], solution.stats["num_steps"]

    return solve


def _node_problem(layers, batch, dtype):
    arrays, apply = network(layers, dtype=dtype)
    # With the weights that it is initialised to the field is next to linear.
    arrays = jax.tree.map(lambda x: 3 * x, arrays)
    return arrays, apply, line(layers[0], batch, dtype)[0]


def _node_tolerance(context: Context, who: str, layers, batch) -> tuple[float, float]:
    """For the same error of the final state; of the same run, if it is known."""
    for row in context.record.rows("neural_ode"):
        if row["who"] == who and row["work"] == "solve":
            return row["tolerance"], row["error"]
    sample = min(batch, 32)
    arrays, apply, y0 = _node_problem(layers, sample, jnp.float64)
    reference = jax.jit(_node(diffrax.Dopri8(), diffrax.ForwardMode(), apply))
    exact, _ = reference(arrays, y0, jnp.array(1e-11))
    arrays, apply, y0 = _node_problem(layers, sample, jnp.float32)
    solver = _node_solvers(context.sizes)[who]
    solve = jax.jit(_node(solver, diffrax.ForwardMode(), apply))
    size = float(jnp.max(jnp.abs(exact)))

    def error_at(tolerance):
        y1, _ = solve(arrays, y0, jnp.array(tolerance, jnp.float32))
        return float(jnp.max(jnp.abs(y1 - exact))) / size

    return tolerance_for(TARGET, error_at, 1e-7)


def neural_ode(sizes: Sizes) -> Iterator[Step]:
    solvers = _node_solvers(sizes)
    for who in solvers:
        yield _node_step(sizes, who, "solve", 1)
    for wave, adjoint in enumerate(sizes.adjoints, 1):
        for who in solvers:
            yield _node_step(sizes, who, f"gradient, {adjoint}", wave)


def _node_step(sizes: Sizes, who: str, work: str, wave: int) -> Step:
    layers, batch = sizes.neural_ode

    def run(context: Context) -> Iterator[Line]:
        # In TensorFloat32 the error that is aimed at cannot be had.
        with jax.default_matmul_precision("highest"):
            tolerance, error = _node_tolerance(context, who, layers, batch)

            def attempt(batch):
                arrays, apply, y0 = _node_problem(layers, batch, jnp.float32)
                _, _, name = work.partition(", ")
                adjoint = getattr(diffrax, name or "ForwardMode")()
                solve = _node(_node_solvers(sizes)[who], adjoint, apply)

                def gradient(arrays, y0, tolerance):
                    def loss(arrays):
                        y1, steps = solve(arrays, y0, tolerance)
                        return jnp.mean(y1**2), steps

                    return jax.grad(loss, has_aux=True)(arrays)

                args = arrays, y0, jnp.array(tolerance, jnp.float32)
                row, result = measured(context, gradient if name else solve, args)
                values, steps = result
                return row | dict(
                    size=batch, steps=float(np.max(steps)), sketch=sketch(values)
                )

            row = halved_to_fit(context, batch, attempt)
        row |= dict(who=who, work=work, tolerance=tolerance, error=error, wanted=batch)
        ours = f"TaylorSolver({sizes.neural_orders[0]})"
        yield check_against_ours(context, "neural_ode", row, ours)

    return Step("neural_ode", f"{work}: {who}", run, 8.0, wave)
