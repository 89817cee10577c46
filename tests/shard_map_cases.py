"""Derivatives inside of `jax.shard_map`, with its checks, on eight devices:

    python tests/shard_map_cases.py SECTION

prints what is wrong, as JSON: by the name of the case, the error. In a process of its
own, as the number of devices is chosen before JAX starts. `test_shard_map.py` runs all
sections.

Every device has values of its own wherever cases allow it. What is compared with is the
same function under `jax.vmap`, and nested derivatives.
"""

import os


os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
)

import functools as ft  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import conftest as conftest  # noqa: E402  (the settings of the tests)
import diffrax  # noqa: E402
import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.extend.core as jex  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jax.scipy as jsp  # noqa: E402
import jax.tree_util as jtu  # noqa: E402
import numpy as np  # noqa: E402
from helpers import assert_close, derivatives, jet, polynomial, random_series  # noqa: E402
from jax import lax  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P  # noqa: E402

import eqx_taylor as et  # noqa: E402
from eqx_taylor import TaylorController, TaylorSolver  # noqa: E402
from eqx_taylor._core.jax import vary  # noqa: E402


DEVICES = 8
MESH = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
FAULTS: dict[str, str] = {}


def attempt(name: str, check: Callable[[], Any]) -> bool:
    try:
        check()
    except Exception as e:
        FAULTS[name] = f"{type(e).__name__}: {str(e)[:500]}"
    return name not in FAULTS


def on_devices(fun, replicated, **kwargs):
    """`fun` on each device. Arguments that are not replicated, and all results, have an
    axis of the devices in front."""

    def body(*args):
        args = [
            x if same else jtu.tree_map(lambda x: x[0], x)
            for x, same in zip(args, replicated)
        ]
        return [_varying(y)[None] for y in jtu.tree_leaves(fun(*args))]

    specs = tuple(P() if same else P("d") for same in replicated)
    return jax.shard_map(body, mesh=MESH, in_specs=specs, out_specs=P("d"), **kwargs)


def _varying(x):
    return vary(x, frozenset({"d"}))


def stacked(x):
    return jnp.broadcast_to(x, (DEVICES, *jnp.shape(x)))


def compare(actual, expected, ulps: float = 200.0) -> None:
    for a, e in zip(actual, jtu.tree_leaves(expected), strict=True):
        assert_close(a, e, ulps)


# -- the table of all primitives

# Those that JAX itself does not take inside of a `shard_map`: alone, or in a second one.
_NOT_INSIDE = {
    "sinc", "random_gamma", "linear_solve", "vprim", "call", "pallas_call", "reshard",
    "shard_alike", "shard_map", "all_gather", "all_to_all", "pbroadcast", "ppermute",
    "psum", "reduce_scatter", "psum_invariant", "pvary", "preduced", "reduced_vary_cast",
    "reduced_vary_cast_p", "unreduced_psum", "vary_unreduced_cast",
    "vary_unreduced_cast_p", "all_gather_reduced", "unreduced_reduce_scatter",
    "all_gather_invariant", "ragged_all_to_all", "axis_index", "pbroadcast_dynamic",
    # With a carry or a branch that is the same on all devices where another is not.
    "scan_reverse", "scan_swapping", "switch",
}  # fmt: skip


# A CPU cannot run the first two, the third is about a mesh of one device, and JAX 0.10
# cannot lower a barrier for tokens here.
_NOT_RUN = {"fused_call", "mulhi", "sharding_constraint", "create_token", "after_all"}


def _table():
    import completeness_cases
    import programs
    import test_rules
    from test_completeness import installed

    there = installed()
    cases = {c.name: (c.fun, c.arrays()) for c in test_rules.REAL + test_rules.COMPLEX}
    for name, case in completeness_cases.CASES.items():
        if name in there:
            cases[name] = case.fun, case.arrays()
    for fun in programs.PROGRAMS:
        cases[fun.__name__] = fun, (jnp.asarray(programs.X),)
    return cases


def _inexact(outputs):
    return [y for y in jtu.tree_leaves(outputs) if jnp.issubdtype(y.dtype, jnp.inexact)]


def table(part: int, parts: int) -> None:
    """The programs of jets, operators and series of ODEs are traced, which is where JAX
    looks at what varies; and every fourth jet is computed, and is that outside."""
    programs: dict[str, tuple[Any, Any, Any]] = {}
    for number, (name, (fun, points)) in enumerate(list(_table().items())[part::parts]):
        series = random_series(points, 2)
        taken = ft.partial(_jet_in, fun)
        args = jtu.tree_map(stacked, (points, series))
        program = traced(f"jet {name}", taken, args)
        if program is None and _fails(fun, points):
            if name in _NOT_INSIDE:
                del FAULTS[f"jet {name}"]
            continue
        if program is not None and name not in _NOT_RUN and number % 4 == 0:
            programs[name] = program, args, (taken, (points, series))

        def laplacian(*args, fun=fun):
            return et.laplacian(lambda x: _inexact(fun(*x)), args)

        def field(t, y, args, fun=fun):
            outs = [x for x in jtu.tree_leaves(fun(y, *args)) if x.dtype == y.dtype]
            return sum(jnp.mean(x) for x in outs) * y + t.astype(y.dtype)

        def ode_jet(y, *args, field=field):
            return et.ode_jet(field, 0.3, y, args, order=3)

        for what, taken in dict(laplacian=laplacian, ode_jet=ode_jet).items():
            if traced(f"{what} {name}", taken, args[0]) is None:
                try:
                    jax.eval_shape(taken, *points)
                except Exception:
                    # Of integers or complex numbers, or of no real function.
                    del FAULTS[f"{what} {name}"]

    # One program is faster to compile than many.
    actual = run({name: entry[:2] for name, entry in programs.items()})
    outside = {name: entry[2] for name, entry in programs.items()}
    args = {name: pair[1] for name, pair in outside.items()}
    expected = jax.jit(
        lambda args: {name: outside[name][0](*args[name]) for name in outside}
    )(args)
    for name in programs:
        copies = [stacked(y) for y in expected[name]]
        attempt(f"jet {name}", lambda: compare(actual[name], copies))


def traced(name, fun, args, replicated=None):
    """The program of `fun` on the devices, or `None` with what is wrong noted."""
    replicated = replicated or [False] * len(args)
    found = []
    attempt(
        name,
        lambda: found.append(jax.make_jaxpr(on_devices(fun, replicated))(*args)),
    )
    return found[0] if found else None


def run(programs):
    """All of them at once; by their names, programs and their arguments."""
    args = {name: jtu.tree_leaves(args) for name, (_, args) in programs.items()}

    def all_of_them(args):
        return {
            name: jex.jaxpr_as_fun(program)(*args[name])
            for name, (program, _) in programs.items()
        }

    return jax.jit(all_of_them)(args)


def _fails(fun, points) -> bool:
    """Whether JAX does not even take the function inside."""
    try:
        many = [stacked(x) for x in points]
        jax.eval_shape(on_devices(fun, [False] * len(many)), *many)
    except Exception:
        return True
    return False


def _jet_in(fun, points, series):
    """The even-numbered arguments move along curves, the others along lines."""
    series = [
        terms if i % 2 == 0 else [terms[0], None] for i, terms in enumerate(series)
    ]
    return _inexact(jet(fun, points, series))


# -- public functions, of arguments that differ between devices and others that do not

_W = np.random.default_rng(0).normal(size=(4, 3))
_SIGMA = np.random.default_rng(1).normal(size=(3, 2))


def vector(x):
    return jnp.sin(jnp.asarray(_W, x.dtype) @ jnp.tanh(x))


def scalar(x):
    """With a branch, and with a zero in it."""
    y = jnp.where(x > 0.1, jnp.sin(x) * x[0], jnp.exp(x))
    return jnp.sum(y) + jnp.prod(x) + jnp.max(x) ** 2


def _scan(x, v):
    return lax.scan(lambda c, _: (jnp.sin(c) * v, c), x * v, None, length=3)


def _branch(x, v):
    return lax.cond(v[0] > 0, lambda x: jnp.sin(x * v), lambda x: v * x**3, x)


def _loop(x, v):
    def body(carry):
        return carry[0] + 1, jnp.sin(carry[1]) * v + x

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, x * v))[1]


def _fori(x, v):
    return lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y) * v + x, x * v)


def _matrix(x):
    return jnp.outer(x, x) + 4.0 * jnp.eye(3, dtype=x.dtype)


def _attention(x, v):
    """Over two blocks of queries and of keys."""
    tokens = jnp.sin(jnp.outer(np.arange(130.0), x))[:, None]
    options = dict(is_causal=True, mask=jnp.ones((1, 1, 1, 130), bool))
    return et.dot_product_attention(tokens, tokens * v[None, None], tokens, **options)


def _ode(field):
    return lambda y, args: et.ode_jet(field, 0.3, y, args, order=4)


def _solver_step(y, v):
    """As Diffrax takes it."""
    term = diffrax.ODETerm(lambda t, y, args: _branch(y, args) * t)
    solver, no = TaylorSolver(5), jnp.array(False)
    state = solver.init(term, 0.0, 0.1, y, v)
    y, *_, state, _ = solver.step(term, 0.0, 0.1, y, v, state, no)
    y, error, _, state, _ = solver.step(term, 0.1, 0.3, y, v, state, no)
    return y, jtu.tree_leaves(error), solver.step(term, 0.3, 0.4, y, v, state, ~no)[0]


def _solutions_series(field):
    return _ode(lambda t, y, v: field(y, v) * jnp.cos(t) + y)


def _of_pairs(x, v):
    """Of particles, whose Laplacians take few directions of all."""
    i, j = np.triu_indices(len(x), 1)
    h = jnp.concatenate([x[i] - x[j], x[i] * v[None]], axis=-1)
    h = jnp.sin(h @ jnp.outer(jnp.arange(1.0, 7.0), v))
    return jnp.sum(jnp.cos(h) * jnp.mean(h, axis=0, keepdims=True))


_KEY = jax.random.key(0)
_TERMS = [((2, 0, 1), 1.5), ((0, 1, 0), 2.0), ((0, 0, 0), 0.5)]
# Of a point, and of one more array of its shape.
PUBLIC: dict[str, Callable[[Any, Any], Any]] = {
    "derivatives": lambda x, v: et.derivatives(lambda t: vector(x * t), v[0], 4),
    "nth_derivative": lambda x, v: et.nth_derivative(lambda t: scalar(x * t), v[0], 3),
    "directional_derivatives": lambda x, v: et.directional_derivatives(vector, x, v, 3),
    "taylor_polynomial": lambda x, v: et.taylor_polynomial(vector, x, v, 4)
    .derivative().integral()(x[0]),
    "radius_of_convergence": lambda x, v: et.taylor_polynomial(
        vector, x, v, 12).radius_of_convergence(),
    "laplacian": lambda x, v: et.laplacian(lambda x: vector(x * v), x),
    "laplacian of a scalar": lambda x, v: et.laplacian(lambda x: scalar(x * v), x),
    "value_gradient_laplacian of pairs": lambda x, v: et.value_gradient_laplacian(
        _of_pairs, jnp.stack([x, 2 * v, jnp.sin(x)]), v),
    "weighted_laplacian": lambda x, v: et.weighted_laplacian(
        lambda x: scalar(x * v), x, _SIGMA),
    "weighted_laplacian, other weights": lambda x, v: et.weighted_laplacian(
        vector, x, v[:, None] * _SIGMA),
    "biharmonic": lambda x, v: et.biharmonic(lambda x: vector(x * v), x),
    "linear_operator": lambda x, v: et.linear_operator(
        vector, x, [(c, index) for index, c in _TERMS] + [(v[0], (1, 1, 0))]),
    "partial_derivative": lambda x, v: et.partial_derivative(
        lambda x: vector(x * v), x, (1, 2, 1)),
    "derivative_tensor": lambda x, v: et.derivative_tensor(
        lambda x: vector(x * v), x, 2),
    "value_jacobian_hessian, reverse": lambda x, v: et.value_jacobian_hessian(
        lambda x: scalar(x * v), x),
    "value_jacobian_hessian, forward": lambda x, v: et.value_jacobian_hessian(
        lambda x: vector(x * v), x),
    "hvp": lambda x, v: et.hvp(scalar, x, v),
    "directional_gradients": lambda x, v: et.directional_gradients(scalar, x, v, 3),
    "stochastic_laplacian": lambda x, v: et.stochastic_laplacian(
        lambda x: vector(x * v), x, _KEY, num_samples=2).mean,
    "stochastic_biharmonic": lambda x, v: et.stochastic_biharmonic(
        lambda x: scalar(x * v), x, _KEY, num_samples=3).mean,
    "jarrett": lambda x, v: jet(
        et.programs.jarrett(lambda a: jnp.sin(a) * a), [x], [[v, None, None]]),
    "cse": lambda x, v: et.programs.cse(lambda x: scalar(x * v))(x),
    "simplify": lambda x, v: et.programs.simplify(
        lambda x: et.laplacian(lambda x: scalar(x * v), x))(x),
    "laplacian of scan": lambda x, v: et.laplacian(lambda x: _scan(x, v), x),
    "laplacian of cond": lambda x, v: et.laplacian(lambda x: _branch(x, v), x),
    "laplacian of while": lambda x, v: et.laplacian(lambda x: _loop(x, v), x),
    "laplacian of fori_loop": lambda x, v: et.laplacian(lambda x: _fori(x, v), x),
    "laplacian of logsumexp, var, median": lambda x, v: et.laplacian(
        lambda x: (jax.nn.logsumexp(x * v), jnp.var(x * v), jnp.median(x * v)), x),
    "laplacian of cholesky, cumprod": lambda x, v: et.laplacian(
        lambda x: (jnp.linalg.cholesky(_matrix(x * v)), jnp.cumprod(x * v)), x),
    "laplacian of complex abs": lambda x, v: et.laplacian(
        lambda x: jnp.abs(jnp.exp(lax.complex(x, v)) + 0.3), x),
    "jet of det, expm": lambda x, v: jet(
        lambda x: (jnp.linalg.det(_matrix(x)), jsp.linalg.expm(_matrix(x) / 8)),
        [x], [[v, None, None]]),
    "jet of at[].add": lambda x, v: jet(
        lambda x: x.at[np.array([0, 0])].add(jnp.sin(x[1])), [x], [[v, None, v]]),
    "jet of scan": lambda x, v: jet(
        lambda x: _scan(x, jnp.ones_like(x)), [x], [[v, None, v]]),
    "jet of cond": lambda x, v: jet(_branch, [x, v], [[v, None, v], None]),
    "ode_jet": _ode(lambda t, y, v: vector(y)[:3] * t * v),
    "ode_jet, other time": lambda y, v: et.ode_jet(
        lambda t, y, args: vector(y)[:3] * jnp.cos(t), v[0], y, order=4),
    "ode_jet of a PyTree": lambda y, v: et.ode_jet(
        lambda t, y, args: dict(a=y["b"], b=-y["a"] * t), 0.2, dict(a=y, b=v), order=4),
    "ode_jet of scan": _solutions_series(lambda y, v: _scan(y, v)[0]),
    "ode_jet of cond": _solutions_series(_branch),
    "ode_jet of while": _solutions_series(_loop),
    "ode_jet of relu": _solutions_series(lambda y, v: jax.nn.relu(y - v)),
    "ode_jet of cond, constant": _solutions_series(
        lambda y, v: lax.cond(y[0] > 9, lambda: y * v, lambda: jnp.zeros_like(y * v))),
    "ode_jet of switch of scan": _solutions_series(
        lambda y, v: lax.switch(
            (v[0] > 0).astype(int), [_fori, _branch, lambda y, v: _scan(y, v)[0]], y, v)),
    "ode_jet of a constant slope": lambda y, v: et.ode_jet(
        lambda t, y, args: (jnp.ones(3), y[0] * jnp.sin(y[1])), 0.3, (y, v), order=3),
    "ode_jet of solve": _solutions_series(
        lambda y, v: jnp.linalg.solve(_matrix(v), y)),
    "a step of the solver": _solver_step,
    "jet of attention": lambda x, v: et.filter_jet(
        lambda x: _attention(x, v), (x,), ([v, None],)),
}  # fmt: skip


# With gradients, sums over directions, and fields: where what is the same on all devices
# meets what is not.
_MIXED = {
    "weighted_laplacian, other weights", "linear_operator", "hvp", "directional_gradients",
    "value_jacobian_hessian, reverse", "value_jacobian_hessian, forward", "laplacian",
    "jet of attention", "jet of cond", "ode_jet", "ode_jet, other time", "a step of the solver",
}  # fmt: skip


def public(part: int, parts: int) -> None:
    """Where one of the arguments is the same on all devices, some are computed, and the
    others traced."""
    names = list(PUBLIC)[part::parts]
    rng = np.random.default_rng(2)
    x, v = jnp.asarray(rng.uniform(0.2, 1, (2, DEVICES, 3)))
    v = v * jnp.asarray(rng.choice([-1.0, 1.0], (DEVICES, 1)))
    ways = dict(
        both=(False, False, x, v),
        v_alone=(True, False, x[0], v),
        x_alone=(False, True, x, v[0]),
    )
    programs = {}
    for way, (*replicated, a, b) in ways.items():
        for name in names:
            program = traced(f"{name}, {way}", PUBLIC[name], (a, b), replicated)
            if program is not None and (way == "both" or name in _MIXED):
                programs[f"{name}, {way}"] = program, (a, b)
    actual = run(programs)
    vmapped = jax.jit(jax.vmap(lambda x, v: {n: PUBLIC[n](x, v) for n in names}))
    expected = dict(
        both=vmapped(x, v),
        v_alone=vmapped(stacked(x[0]), v),
        x_alone=vmapped(x, stacked(v[0])),
    )
    for case in programs:
        name, _, way = case.rpartition(", ")
        attempt(case, lambda: compare(actual[case], expected[way][name], 1e4))


# -- against nested derivatives; between devices; sums over them; solves; other meshes


def nested(part: int, parts: int) -> None:
    """Jets inside, also of functions in which devices exchange values, and outside of
    the `shard_map`."""
    del part, parts
    pairs = [(i, (i + 1) % DEVICES) for i in range(DEVICES)]
    functions = dict(
        psum=lambda x: jnp.sin(x) * lax.psum(x * x, "d"),
        pmean=lambda x: jnp.exp(lax.pmean(x, "d")) * x,
        ppermute=lambda x: lax.ppermute(jnp.sin(x), "d", pairs) * x,
        all_gather=lambda x: jnp.prod(1 + lax.all_gather(x, "d") / 9) * x,
        all_to_all=lambda x: lax.all_to_all(
            jnp.broadcast_to(x, (DEVICES, 3)), "d", 0, 0, tiled=True).sum(0) * x,
        psum_scatter=lambda x: lax.psum_scatter(
            jnp.outer(jnp.arange(8.0), jnp.sin(x)), "d") * x,
        axis_index=lambda x: (lax.axis_index("d") + 1).astype(x.dtype) * x * x,
        where=lambda x: jnp.where(x > 0, jnp.sin(x), 0.0) * x,
        scan=lambda x: _scan(x, jnp.ones_like(x))[0],
        det=lambda x: jnp.linalg.det(_matrix(x)),
        scatter=lambda x: x.at[0].add(jnp.sin(x[1])) * jnp.max(x),
        cond=lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x * x[0], x),
    )  # fmt: skip

    def all_of_them(x):
        return {name: fun(x) for name, fun in functions.items()}

    x, *terms = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (4, DEVICES, 3)))

    def by_jet(x, *terms):
        return jet(all_of_them, [x], [list(terms)])

    def by_nesting(x, *terms):
        def along(t):
            return all_of_them(polynomial(x, terms, t))

        return derivatives(along, 3)(jnp.zeros(()))

    actual = jax.jit(on_devices(by_jet, [False] * 4))(x, *terms)
    vmapped = jax.jit(jax.vmap(by_nesting, axis_name="d"))(x, *terms)
    attempt("inside", lambda: compare(actual, vmapped))

    outside = jax.shard_map(
        lambda x: jtu.tree_map(lambda y: y[None], all_of_them(x[0])),
        mesh=MESH, in_specs=P("d"), out_specs=P("d"),
    )  # fmt: skip
    around = jax.jit(
        lambda x, *terms: jtu.tree_leaves(jet(outside, [x], [list(terms)]))
    )
    attempt("outside", lambda: compare(around(x, *terms), vmapped))


def sums(part: int, parts: int) -> None:
    """The gradient with respect to what is the same on all devices is a sum over them,
    in JAX: so are the products with a Hessian, unless the direction says otherwise."""
    del part, parts
    x, v, *data = jnp.asarray(
        np.random.default_rng(4).uniform(0.2, 1, (DEVICES + 2, 3))
    )
    data = jnp.stack(data)

    def loss(x, row):
        return scalar(x * row)

    def total(x):
        return sum(loss(x, row) for row in data)

    def compiled(fun, *args, out=P()):
        inside = jax.shard_map(
            fun, mesh=MESH, in_specs=(P("d"), *[P()] * len(args)), out_specs=out
        )
        return jax.jit(inside)(data, *args)

    actual = compiled(lambda d, x, v: et.hvp(lambda x: loss(x, d[0]), x, v), x, v)
    nested = compiled(
        lambda d, x, v: jax.jvp(jax.grad(lambda x: loss(x, d[0])), (x,), (v,))[1], x, v
    )
    attempt("hvp, as JAX", lambda: assert_close(actual, nested, 200))
    expected = jax.jvp(jax.grad(total), (x,), (v,))[1]
    attempt("hvp", lambda: assert_close(actual, expected, 200))
    actual = compiled(
        lambda d, x, v: et.directional_gradients(lambda x: loss(x, d[0]), x, v, 1), x, v
    )
    expected = jnp.stack([jax.grad(total)(x), expected])
    attempt("directional_gradients", lambda: assert_close(actual, expected, 200))
    # A Laplacian of the total: the user's sum.
    actual = compiled(
        lambda d, x: lax.psum(et.laplacian(lambda x: loss(x, d[0]), x), "d"), x
    )
    expected = jnp.trace(jax.hessian(total)(x))
    attempt("laplacian", lambda: assert_close(actual, expected, 200))


def solves(part: int, parts: int) -> None:
    """Diffrax does not run with the checks."""
    del part, parts

    def field(t, y, args):
        return _branch(y, args) * jnp.cos(t) - y

    def solve(y0, args):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), TaylorSolver(8), 0.0, 1.0, None, y0, args,
            stepsize_controller=TaylorController(rtol=1e-8, atol=1e-8),
        ).ys[0]  # fmt: skip

    x, v = jnp.asarray(np.random.default_rng(5).uniform(-1, 1, (2, DEVICES, 3)))
    for replicated in [(False, False), (False, True), (True, False)]:
        args = [a[0] if same else a for a, same in zip((x, v), replicated)]

        def body(*args, replicated=replicated):
            args = [a if same else a[0] for a, same in zip(args, replicated)]
            return solve(*args)[None]

        specs = tuple(P() if same else P("d") for same in replicated)
        inside = jax.shard_map(
            body, mesh=MESH, in_specs=specs, out_specs=P("d"), check_vma=False
        )

        def check(inside=inside, args=args, replicated=replicated):
            axes = tuple(None if same else 0 for same in replicated)
            expected = jax.jit(jax.vmap(solve, axes))(*args)
            np.testing.assert_allclose(jax.jit(inside)(*args), expected, rtol=1e-12)

        attempt(f"diffeqsolve, {replicated}", check)


def shardings(part: int, parts: int) -> None:
    """Arrays that are divided among devices with their types saying so; and `vmap` over
    an axis that is."""
    del part, parts
    x, v = jnp.asarray(np.random.default_rng(6).uniform(0.2, 1, (2, DEVICES, 3)))

    def fun(x):
        y = jnp.where(x > 0.5, jnp.sin(x), 0.0) * jnp.sum(x, 1, keepdims=True)
        y = jax.nn.relu(y - 0.3) + jnp.concatenate(
            [x[:, :1], jnp.zeros_like(x[:, 1:])], 1
        )

        def body(c, _):
            return jnp.sin(c) * x, None

        return lax.scan(body, y, None, length=2)[0] + (1 + y) ** 1.5

    operations = dict(
        jet=lambda x, v: jet(fun, [x], [[v, None, v]]),
        jet_in_one_direction=lambda x, v: jet(
            fun, [x], [[jnp.ones((8, 3)), None, None]]
        ),
        laplacian=lambda x, v: et.laplacian(fun, x),
        hvp=lambda x, v: et.hvp(lambda x: jnp.sum(fun(x)), x, v),
        ode_jet=lambda x, v: et.ode_jet(lambda t, y, args: fun(y) * t, 0.3, x, order=3),
        vmap=lambda x, v: jax.vmap(lambda x: et.laplacian(vector, x))(x),
    )
    explicit = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Explicit,))
    sharding = NamedSharding(explicit, P("d"))
    for name, operation in operations.items():
        expected = jax.jit(operation)(x, v)

        def check(operation=operation, expected=expected):
            with jax.set_mesh(explicit):
                places = [jax.device_put(a, sharding) for a in (x, v)]
                actual = jax.jit(operation)(*places)
            compare(jtu.tree_leaves(actual), expected)

        attempt(f"explicit, {name}", check)

    def check_spmd():
        axis = jax.vmap(lambda x: et.laplacian(scalar, x), spmd_axis_name="d")
        with jax.set_mesh(MESH):
            actual = jax.jit(axis)(jax.device_put(x, NamedSharding(MESH, P("d"))))
        expected = jax.vmap(lambda x: et.laplacian(scalar, x))(x)
        assert_close(np.asarray(actual), np.asarray(expected), 200)

    attempt("spmd_axis_name", check_spmd)


def refused(part: int, parts: int) -> None:
    """A function that takes what is the same on all devices, and nothing else: JAX
    refuses it where directions differ, and the message says why it is called so. Where
    they are the same, and of functions that take both, derivatives are those outside."""
    del part, parts

    def loop(x, v):
        return eqx.internal.while_loop(
            lambda c: jnp.sum(jnp.abs(c)) > 0.5, lambda c: 0.4 * jnp.cos(c) * c, x,
            kind="bounded", max_steps=4,
        )  # fmt: skip

    def carry(x, v):
        def body(c, _):
            return (c[0] * x, jnp.sin(c[1]) * x), None

        init = jnp.ones(3), jax.tree_util.tree_map(jnp.sin, x)
        return lax.scan(body, init, None, length=2)[0]

    def pull_back(x, v):
        return jax.vjp(jnp.sin, jnp.full(3, 0.3))[1](x)[0]

    def own_pull_back(x, v):
        return jax.vjp(lambda x: jnp.sin(x) * x, x)[1](x)[0]

    def gradient(x, v):
        return jax.grad(lambda x: scalar(jnp.sin(x)))(x)

    ways = {
        "jet": lambda fun, x, v: jet(lambda x: fun(x, v), [x], [[v, None, v]]),
        "directional_derivatives": lambda fun, x, v: et.directional_derivatives(
            lambda x: fun(x, v), x, v, 3),
        "weighted_laplacian": lambda fun, x, v: et.weighted_laplacian(
            lambda x: fun(x, v), x, v[:, None]),
        "ode_jet": lambda fun, x, v: et.ode_jet(
            lambda t, y, args: jnp.asarray(jtu.tree_leaves(fun(y, v))[0]) * args, 0.3,
            x, v, order=3),
    }  # fmt: skip
    x, *v = jnp.asarray(np.random.default_rng(7).uniform(0.2, 1, (DEVICES + 1, 3)))
    v = jnp.stack(v)
    programs = {}
    for name, way in ways.items():
        for fun in (loop, carry, pull_back, own_pull_back, gradient):
            case = f"{name}, {fun.__name__}"
            taken = ft.partial(way, fun)
            if fun in (own_pull_back, gradient):
                program = traced(case, taken, (x, v), [True, False])
                programs[case] = program, (x, v), (taken, (None, 0))
                continue
            program = traced(f"{case}, the same", taken, (x, v[0]), [True, True])
            programs[f"{case}, the same"] = program, (x, v[0]), (taken, (None, None))
            if traced(case, taken, (x, v), [True, False]) is not None:
                FAULTS[case] = "no error"
                continue
            message = FAULTS.pop(case)
            if any(w not in message for w in ("(over d)", "pcast", "check_vma")):
                FAULTS[case] = message
    actual = run({case: entry[:2] for case, entry in programs.items()})
    for case, (_, (x, v), (taken, axes)) in programs.items():
        many = jax.vmap(taken, axes, axis_size=DEVICES)
        attempt(case, lambda: compare(actual[case], jax.jit(many)(x, v), 1e4))


SECTIONS = dict(
    table=table, public=public, nested=nested, sums=sums, solves=solves,
    shardings=shardings, refused=refused,
)  # fmt: skip

if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    SECTIONS[name](*(map(int, numbers) if numbers else (0, 1)))
    json.dump(FAULTS, sys.stdout)
