"""A program for each primitive that `test_rules.py` does not already have one for.

`CASES` is by the primitive's name: a function in whose jaxpr it stands, and points for
it to be taken at. `UNREACHABLE` are those which no program on one CPU can have.
"""

import functools as ft
import gc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.extend.random
import jax.numpy as jnp
import jax.scipy as jsp
import lineax as lx
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import sparse
from jax.extend import linear_util
from jax.extend.core import Primitive
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from test_rules import Case, IMAGE, POSITIVE, SQUARE, X, Y


CASES: dict[str, Case] = {}


def _define(name: str, fun: Callable[..., Any], *points: Any, **kwargs: Any) -> None:
    assert name not in CASES
    CASES[name] = Case(name, fun, points or (X,), **{"order": 3, **kwargs})


def case_for(*names: str, points: tuple[Any, ...] = (X,), **kwargs: Any):
    """The function below is a case for these."""

    def decorator(fun):
        for name in names:
            _define(name, fun, *points, **kwargs)
        return fun

    return decorator


@ft.cache
def _primitives() -> dict[str, Primitive]:
    gc.unfreeze()  # Objects that `conftest.py` keeps from the collector are not listed.
    return {x.name: x for x in gc.get_objects() if isinstance(x, Primitive)}


def _bind(name: str, *args: Any, **params: Any) -> Any:
    """For those that are called by no public function."""
    return _primitives()[name].bind(*args, **params)


# -- elementwise and special functions

_define("igammac", lambda x: lax.igammac(jnp.full_like(x, 1.7), x), POSITIVE, order=2)
_define(
    "zeta",
    lambda x: lax.zeta(jnp.full_like(x, 2), x),
    POSITIVE,
    # JAX has no derivative of zeta.
    oracle=lambda x: lax.polygamma(jnp.ones_like(x), x),
)
_define("log2", lambda x: lax.log2(x), POSITIVE)
_define(
    "one_minus_square",
    # The derivative of tanh has it.
    lambda x: jax.jvp(jnp.tanh, (x,), (x * x,))[1],
)
_define("reduce_precision", lambda x: lax.reduce_precision(x * x, 11, 52))
_define(
    "nextafter",
    lambda x: lax.nextafter(x * x, jnp.ones_like(x)),
    # Before 0.12 JAX had no derivative: later, that of `x * x`.
    oracle=lambda x: x * x,
)
_define("polynomial", lambda x, y: lax.polynomial(x, [y, x * y, y]), X, Y)
_define(
    "random_gamma",
    # Of which there is but one derivative.
    lambda a: jax.random.gamma(jax.random.key(0), a),
    POSITIVE,
    order=1,
)
_define("stop_gradient", lambda x: lax.stop_gradient(x) * x)

# -- reductions and orderings


def _combined(a, b):
    return a * b + a + b


_define("approx_top_k", lambda x: lax.approx_max_k(x * x, 2)[0])
_define("reduce", lambda x: lax.reduce(x, np.zeros(()), _combined, (0,)))
_define(
    "reduce_window",
    lambda x: lax.reduce_window(x, np.zeros(()), _combined, (2,), (1,), "VALID"),
)
_define(
    "reduce_window_min",
    lambda x: lax.reduce_window(x, np.inf, lax.min, (2,), (1,), "SAME"),
)
_define("scatter-max", lambda x, y: (x * x).at[np.array([2, 0])].max(y * y), X, Y[:2])
_define("scatter-min", lambda x, y: (x * x).at[np.array([2, 0])].min(y * y), X, Y[:2])
_define(
    "select_and_gather_add",
    # The derivative of max pooling.
    lambda x: jax.jvp(
        lambda x: lax.reduce_window(
            x, -np.inf, lax.max, (1, 2, 2, 1), (1, 1, 2, 1), "VALID"
        ),
        (x * x,),
        (jnp.sin(x),),
    )[1],
    IMAGE + np.arange(36).reshape(IMAGE.shape) / 100,
)
_define("unstack", lambda x: [2 * a for a in lax_unstack(x)], SQUARE)
_define("stack", lambda x, y: _bind("stack", x, y * y, axis=0), X, Y)


def lax_unstack(x):
    return _bind("unstack", x, axis=0)


# -- linear algebra

# Of which there are but first derivatives, without those of the vectors.
_define("eig", jnp.linalg.eigvals, SQUARE, order=1)
_define("lu", lambda a: jsp.linalg.lu_factor(a)[0], SQUARE)
_define(
    "tridiagonal_solve",
    lambda a, d, b: lax.linalg.tridiagonal_solve(a, d, a, b[:, None]),
    np.array([0.0, 0.3, 0.2]),
    POSITIVE,
    X,
)
_define(
    "ragged_dot_general",
    lambda a, b: lax.ragged_dot(a, b, np.array([1, 2], np.int32)),
    SQUARE,
    np.stack([SQUARE, 2 * SQUARE]),
)


@case_for("linear_solve", points=(SQUARE, X))
def _lineax(a, b):
    return lx.linear_solve(lx.MatrixLinearOperator(a), b).value


@case_for("vprim", points=(np.stack([SQUARE, SQUARE + 0.1]), np.stack([X, Y])))
def _vmapped_lineax(a, b):
    return jax.vmap(_lineax)(a, b)


# -- calls


@jax.custom_vjp
def _with_vjp(x):
    return jnp.sin(x) * x


_with_vjp.defvjp(lambda x: (jnp.sin(x) * x, x), lambda x, g: (g,))
_define(
    "custom_vjp_call",
    _with_vjp,
    # In forward mode, JAX has no derivative of a function with a `custom_vjp`.
    oracle=lambda x: jnp.sin(x) * x,
)


@jax.custom_vjp
def _optimised(x):
    return jnp.sin(x) * x


_optimised.defvjp(
    lambda x: (jnp.sin(x) * x, jnp.cos(x) * x + jnp.sin(x)),
    lambda slope, g: (g * slope,),
    optimize_remat=True,
)


@case_for("remat_opt", oracle=lambda x: jnp.sin(x) * (x + 1) + jnp.cos(x) * x)
def _remat_opt(x):
    # Where reverse mode is a part of the program, which needs what is kept for it.
    y, pullback = jax.vjp(_optimised, x)
    return y + pullback(jnp.ones_like(y))[0]


@jax.custom_batching.custom_vmap
def _with_vmap(x):
    return jnp.sin(x) * x


@_with_vmap.def_vmap
def _(axis_size, in_batched, x):
    return _with_vmap(x), in_batched[0]


_define("custom_vmap_call", _with_vmap)
_define("jit", jax.jit(lambda x: jnp.sin(x) * x))
_define("remat2", jax.checkpoint(lambda x: jnp.sin(x) * x))
_define(
    "composite",
    lax.composite(lambda x: jnp.sin(x) * x, "test.composite"),
    # JAX has no derivative of these: it might not be that of their decomposition.
    oracle=lambda x: jnp.sin(x) * x,
)


@case_for("call")
def _call(x):
    def body(x):
        return [jnp.sin(x) * x]

    info = jax.api_util.debug_info("call", body, (x,), {})
    return _bind("call", x, subfuns=(linear_util.wrap_init(body, debug_info=info),))[0]


# Which is which depends on JAX's version.
@case_for("closed_call", "eval_jaxpr")
def _eval_jaxpr(x):
    traced = jax.make_jaxpr(lambda x: jnp.sin(x) * x)(x)
    parameter = "jaxpr" if jax.__version_info__ < (0, 11) else "call_jaxpr"
    return _bind("eval_jaxpr", x, **{parameter: traced})[0]


@case_for("linear_call", points=(X, Y))
def _linear_call(x, y):
    def product(matrix, y):
        return matrix @ y

    return jax.custom_derivatives.linear_call(
        product, lambda matrix, y: matrix.T @ y, jnp.asarray(SQUARE), x * y
    )


@case_for("xla_metadata_call")
def _metadata_call(x):
    from jax.experimental.scheduling_groups import xla_metadata_call

    return xla_metadata_call(lambda x: jnp.sin(x) * x, a="b")(x)


@case_for("xla_metadata_value")
def _metadata_value(x):
    from jax.experimental.xla_metadata import set_xla_metadata

    return set_xla_metadata(jnp.sin(x) * x, a="b")


@case_for("compute_on")
def _compute_on(x):
    from jax.experimental import compute_on

    decorator = getattr(compute_on, "compute_on2", compute_on.compute_on)
    return decorator(
        lambda x: (jnp.sin(x) * x, x * x),
        compute_type="device_host",
        out_memory_spaces=(jax.memory.Space.Device,) * 2,
    )(x)


@case_for("program_order")
def _program_order(x):
    from jax.experimental.overlap import program_order

    return program_order(lambda x: jnp.sin(x) * x, enforce=False)(x)


@case_for("noinline")
def _noinline(x):
    return eqxi.noinline(lambda x: jnp.sin(x) * x)(x)


@case_for("call_hi_primitive")
def _high_level(x):
    from jax.experimental import hijax

    class Product(getattr(hijax, "VJPHiPrimitive", None) or hijax.HiPrim):
        def __init__(self, aval):
            self.in_avals, self.out_aval, self.params = (aval,), aval, {}
            super().__init__()

        def expand(self, x):
            return jnp.sin(x) * x

        def jvp(self, primals, tangents):
            [x], [dx] = primals, tangents
            return self(x), (jnp.cos(x) * x + jnp.sin(x)) * dx

    return Product(jax.typeof(x))(x)


@case_for("pallas_call")
def _pallas(x):
    from jax.experimental import pallas as pl

    def kernel(x_ref, out_ref):
        out_ref[...] = jnp.sin(x_ref[...]) * x_ref[...]

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x)


@case_for("run_state")
def _run_state(x):
    from jax.experimental import pallas as pl

    def body(reference):
        reference[0] = jnp.sin(reference[1]) * reference[2]

    return pl.run_state(body)(x * x)


@case_for("addupdate", "freeze", "get", "new_ref", "swap")
def _references(x):
    reference = jax.new_ref(x * x)
    reference[...] = jnp.sin(x) * reference[...]
    jax.ref.addupdate(reference, 0, 3.0 * x[1])

    def body(i, _):
        reference[i] = x[i] * reference[i]

    @jax.jit
    def double():
        inner = jax.new_ref(reference[...])
        inner[...] = 2.0 * inner[...]
        reference[...] = inner[...]

    lax.fori_loop(0, 2, body, None)
    lax.cond(x[0] < 1, double, lambda: None)
    return jax.freeze(reference)


@case_for("empty_ref", "free_ref")
def _empty_reference(x):
    reference = jax.empty_ref(x)
    reference[...] = jnp.sin(x)
    value = reference[...]
    jax.free_ref(reference)
    return value


# -- control flow

_define("scan", lambda x: lax.scan(lambda c, a: (c * a, c + a), x[0], x))
_define(
    "while",
    lambda x: lax.while_loop(
        lambda c: c[0] < 2, lambda c: (c[0] + 1, x * c[1]), (0, x)
    )[1],
)
_define("cond", lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x))


_define("select_if_vmap", lambda x: _bind("select_if_vmap", x[0] > 0, x * x, x))


@case_for("maybe_set")
def _bounded_loop(x):
    return eqxi.while_loop(
        lambda c: c[0] < 2,
        lambda c: (c[0] + 1, c[1].at[c[0]].set(x[0] * c[1][0])),
        (0, x),
        kind="bounded",
        max_steps=4,
        buffers=lambda c: c[1],
    )[1]


# -- placement

_define("device_put", lambda x: jax.device_put(x * x, jax.devices("cpu")[0]))
_define("name", lambda x: checkpoint_name(x * x, "square"))
_define("nondifferentiable_backward", lambda x: eqxi.nondifferentiable_backward(x * x))
_define("tie", lambda x: _bind("tie", x, x * x))
_define(
    "with_memory_space_constraint",
    lambda x: _bind(
        "with_memory_space_constraint", x * x, memory_space=jax.memory.Space.Device
    ),
    # Before 0.12 JAX had no derivative.
    oracle=lambda x: x * x,
)


def _mesh(*kinds):
    return jax.make_mesh((1,), ("i",), axis_types=kinds or (AxisType.Auto,))


_define(
    "sharding_constraint",
    lambda x: lax.with_sharding_constraint(x * x, NamedSharding(_mesh(), P("i"))),
)


@case_for("layout_constraint")
def _layout(x):
    from jax.experimental.layout import Layout, with_layout_constraint

    return with_layout_constraint(x * x, Layout(major_to_minor=(0,)))


@case_for("reshard")
def _reshard(x):
    mesh = _mesh(AxisType.Explicit)
    return jax.sharding.reshard(x * x, NamedSharding(mesh, P("i")))


@case_for("shard_alike")
def _shard_alike(x):
    from jax.experimental.shard_alike import shard_alike

    return shard_alike(x * x, jnp.sin(x))


@case_for("global_array_to_host_local_array")
def _to_local(x):
    from jax.experimental import multihost_utils

    return multihost_utils.global_array_to_host_local_array(x * x, _mesh(), P("i"))


@case_for("host_local_array_to_global_array")
def _to_global(x):
    from jax.experimental import multihost_utils

    return multihost_utils.host_local_array_to_global_array(x * x, _mesh(), P("i"))


# -- between devices


def _mapped(body, out_spec=P("i"), kind=AxisType.Auto, **kwargs):
    def fun(*args):
        return jax.shard_map(
            body, mesh=_mesh(kind), in_specs=P("i"), out_specs=out_spec, **kwargs
        )(*args)

    return fun


def _unchecked(body):
    """Without the checks, for which most have other names."""
    return _mapped(body, check_vma=False)


_define("shard_map", _mapped(lambda x: jnp.sin(x) * x))
_define("all_gather", _unchecked(lambda x: lax.all_gather(x * x, "i", tiled=True)))
_define(
    "all_to_all", _unchecked(lambda x: lax.all_to_all(x * x, "i", 0, 0, tiled=True))
)
_define("pbroadcast", _unchecked(lambda x: lax.pbroadcast(x * x, "i", 0)))
_define("ppermute", _unchecked(lambda x: lax.ppermute(x * x, "i", [(0, 0)])))
_define("psum", _unchecked(lambda x: lax.psum(x * x, "i")))
_define(
    "reduce_scatter", _unchecked(lambda x: lax.psum_scatter(x * x, "i", tiled=True))
)


# The names say between which of four states values go: varying from device to device;
# invariant; unreduced, which are the terms of a sum; and reduced, their derivatives.
@case_for(
    "psum_invariant", "pvary", "preduced", "reduced_vary_cast", "reduced_vary_cast_p",
    "unreduced_psum", "vary_unreduced_cast", "vary_unreduced_cast_p",
)  # fmt: skip
def _states(x):
    def body(x):
        x = lax.psum(lax.pcast(x * x, "i", to="unreduced"), "i")
        x = lax.pcast(lax.pcast(x, "i", to="reduced"), "i", to="varying")
        return lax.pcast(lax.psum(x, "i"), "i", to="varying")

    return _on_explicit_mesh(body, x)


@case_for("all_gather_reduced", "unreduced_reduce_scatter")
def _gathered(x):
    def body(x):
        x = lax.all_gather(x * x, "i", tiled=True, to="reduced")
        x = lax.pcast(lax.pcast(x, "i", to="varying"), "i", to="unreduced")
        return lax.psum_scatter(x, "i", tiled=True)

    return _on_explicit_mesh(body, x)


@case_for("all_gather_invariant")
def _all_gather_invariant(x):
    def body(x):
        return _bind(
            "all_gather_invariant", x * x, all_gather_dimension=0, axis_name=("i",),
            axis_size=1, tiled=True,
        )  # fmt: skip

    return _mapped(body, out_spec=P())(x)


@case_for("ragged_all_to_all")
def _ragged_all_to_all(x):
    def body(x):
        one = np.ones(1, np.int32)
        return lax.ragged_all_to_all(
            x * x, jnp.sin(x), 0 * one, 2 * one, one, 2 * one, axis_name="i"
        )

    return _unchecked(body)(x)


def _on_explicit_mesh(body, x):
    mesh = _mesh(AxisType.Explicit)
    x = jax.sharding.reshard(x, NamedSharding(mesh, P("i")))
    return jax.shard_map(body, mesh=mesh, in_specs=P("i"), out_specs=P("i"))(x)


# -- sparse matrices

_SPARSE = np.array([[0.4, 0.0, -0.3], [0.0, 0.7, 0.0], [0.2, 0.0, 0.0]])


def _bcoo(x):
    """With the three entries `x`."""
    return sparse.BCOO((x, np.array([[0, 1], [1, 2], [2, 0]])), shape=(3, 3))


def _bcsr(x):
    pointers = np.array([0, 1, 2, 3])
    return sparse.BCSR((x, np.array([1, 2, 0]), pointers), shape=(3, 3))


def _coo(x):
    return sparse.COO((x, np.array([0, 1, 2]), np.array([1, 2, 0])), shape=(3, 3))


def _csr(x):
    pointers = np.array([0, 1, 2, 3])
    return sparse.CSR((x, np.array([1, 2, 0]), pointers), shape=(3, 3))


for _name, _make in dict(bcoo=_bcoo, bcsr=_bcsr, coo=_coo, csr=_csr).items():
    _define(f"{_name}_todense", lambda x, make=_make: make(x * x).todense())
for _name, _make in dict(coo=_coo, csr=_csr).items():
    _define(f"{_name}_matvec", lambda x, y, make=_make: make(x) @ y, X, Y)
    _define(f"{_name}_matmat", lambda x, b, make=_make: make(x) @ b, X, SQUARE)

_define("todense", lambda x: sparse.todense(_bcoo(x * x)))
_define("bcoo_dot_general", lambda x, b: _bcoo(x) @ b, X, SQUARE)
_define("bcsr_dot_general", lambda x, b: _bcsr(x) @ b, X, SQUARE)
_define(
    "bcoo_spdot_general",
    lambda x, y: (_bcoo(x) @ sparse.BCOO((y, _bcoo(y).indices), shape=(3, 3))).data,
    X,
    Y,
)
_define(
    "bcoo_dot_general_sampled",
    lambda a, b: sparse.bcoo_dot_general_sampled(
        a, b, _bcoo(X).indices, dimension_numbers=(([1], [0]), ([], []))
    ),
    SQUARE,
    SQUARE.T,
)
_define("bcoo_transpose", lambda x: _bcoo(x * x).T.todense())
_define("bcoo_sort_indices", lambda x: _bcoo(x * x)[::-1].sort_indices().data)
_define("bcoo_sum_duplicates", lambda x: _bcoo(x * x).sum_duplicates(nse=3).todense())
_define(
    "bcoo_extract",
    lambda a: sparse.bcoo_extract(_bcoo(jnp.asarray(X)), a * a).data,
    SQUARE,
)
_define(
    "bcsr_extract",
    lambda a: sparse.bcsr_extract(_bcsr(X).indices, _bcsr(X).indptr, a * a),
    SQUARE,
)
_define("bcoo_fromdense", lambda a: sparse.BCOO.fromdense(a * a, nse=4).data, _SPARSE)
_define("bcsr_fromdense", lambda a: sparse.BCSR.fromdense(a * a, nse=4).data, _SPARSE)
_define("coo_fromdense", lambda a: sparse.COO.fromdense(a * a, nse=4).data, _SPARSE)
_define("csr_fromdense", lambda a: sparse.CSR.fromdense(a * a, nse=4).data, _SPARSE)


@case_for("spsolve", points=(SQUARE.ravel(), X))
def _spsolve(data, b):
    from jax.experimental.sparse.linalg import spsolve

    columns = np.tile(np.arange(3, dtype=np.int32), 3)
    pointers = np.arange(0, 10, 3, dtype=np.int32)
    return spsolve(data, columns, pointers, b)


# -- whose series are zero


for _fun in (lax.eq, lax.ne, lax.lt, lax.le, lax.gt, lax.ge):
    _define(_fun.__name__, lambda x, y, fun=_fun: jnp.where(fun(x, y), x * y, x), X, Y)


def _counted(fun: Callable[[Any], Any]):
    """A function of integers: here, of those that the first coefficient rounds to."""
    return lambda x: fun((10 * x).astype(jnp.int64)).astype(x.dtype) * x


for _name, _fun in dict[str, Callable[[Any], Any]](
    and_=lambda n: n & 3,
    or_=lambda n: n | 3,
    xor=lambda n: n ^ 3,
    not_=lambda n: ~n,
    clz=lax.clz,
    population_count=lax.population_count,
    shift_left=lambda n: n << 1,
    shift_right_arithmetic=lambda n: n >> 1,
    shift_right_logical=lambda n: lax.shift_right_logical(n, np.array([1, 1, 1])),
    mulhi=lambda n: lax.mulhi(n, n),
    reduce_and=lambda n: lax.reduce_and(n, (0,)),
    reduce_or=lambda n: lax.reduce_or(n, (0,)),
    reduce_xor=lambda n: lax.reduce_xor(n, (0,)),
).items():
    _define(_name.rstrip("_"), _counted(_fun))
for _name in ("eq_to", "le_to", "lt_to"):
    _define(
        _name, lambda x, y, name=_name: jnp.where(_bind(name, x, y), x * y, x), X, Y
    )

_define("is_finite", lambda x: jnp.where(jnp.isfinite(x), x * x, x))
_define("argmax", lambda x: x[jnp.argmax(x)] * x)
_define("argmin", lambda x: x[jnp.argmin(x)] * x)
_define("iota", lambda x: lax.iota(x.dtype, 3) * x)
_define("dce_sink", lambda x: (_bind("dce_sink", x, prevent_mlir_dce=False), x * x)[1])
_define(
    "iota_2x32_shape",
    lambda x: x * _bind("iota_2x32_shape", shape=(3,))[1].astype(x.dtype),
)
_define("threefry2x32", lambda x: x * jax.extend.random.threefry_2x32(
    np.arange(2, dtype=np.uint32), np.arange(3, dtype=np.uint32)).astype(x.dtype))  # fmt: skip
_define("empty", lambda x: jnp.where(True, x * x, lax.empty(x.shape, x.dtype)))
_define(
    "bitcast_convert_type",
    lambda x: lax.bitcast_convert_type(x, np.dtype("int64")).astype(x.dtype) * x,
)
_define(
    "axis_index", _unchecked(lambda x: (lax.axis_index("i") + 1).astype(x.dtype) * x)
)
_define(
    "platform_index", lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)
)
_define(
    "lu_pivots_to_permutation",
    lambda x: (
        x[lax.linalg.lu_pivots_to_permutation(np.array([1, 2, 2], np.int32), 3)] * x
    ),
)
_define("unvmap_all", lambda x: jnp.where(eqxi.unvmap_all(x > 0), x, x * x))
_define("unvmap_any", lambda x: jnp.where(eqxi.unvmap_any(x > 0), x * x, x))
_define("unvmap_max", lambda x: x[eqxi.unvmap_max((x > 0).astype(np.int32))] * x)


@case_for(
    "random_bits", "random_fold_in", "random_seed", "random_split", "random_unwrap",
    "random_wrap",
)  # fmt: skip
def _random(x):
    key, other = jax.random.split(jax.random.fold_in(jax.random.key(0), 1))
    other = jax.random.wrap_key_data(jax.random.key_data(other))
    return x * jax.random.normal(key, (3,)) * jax.random.uniform(other)


_define(
    "random_clone",
    lambda x: x * jax.random.uniform(jax.random.clone(jax.random.key(0))),
)
_define("rng_bit_generator", lambda x: x * (lax.rng_bit_generator(
    np.arange(4, dtype=np.uint32), (3,))[1] % 7).astype(x.dtype))  # fmt: skip


@case_for("debug_callback")
def _callback(x):
    jax.debug.callback(lambda x: None, x)
    return x * x


@case_for("create_token", "after_all")
def _token(x):
    token = lax.after_all(lax.create_token())
    return lax.optimization_barrier((token, x * x))[1]


@case_for("debug_print")
def _print(x):
    jax.debug.print("", skip_format_check=True)
    return x * x


@case_for("inspect_sharding")
def _inspect(x):
    jax.debug.inspect_array_sharding(x, callback=lambda x: None)
    return x * x


@case_for("announce_jaxpr")
def _announced(x):
    return eqx.debug.announce_transform(x * x, announce=lambda _: None)


# -- of which there is a trace, but no program that a CPU could run


@case_for("fused_call")
def _fused(x):
    from jax.experimental.fused import fused

    spaces = (jax.memory.Space.Device,) * 2
    return fused(out_spaces=spaces)(lambda x: (jnp.sin(x) * x, x * x))(x)


_define("pbroadcast_dynamic", _unchecked(
    lambda x: lax.pbroadcast(x * x, "i", lax.axis_index("i"))))  # fmt: skip
NOT_ON_CPU = {"fused_call", "pbroadcast", "pbroadcast_dynamic", "ragged_all_to_all"}

# -- without any

UNREACHABLE = {
    "assert_consumed_value": "In programs that JAX checks for keys used twice.",
    "check": "Within `checkify` only, by which it is tested.",
    "consume": "In programs that JAX checks for keys used twice.",
    "dim_as_value": "Of symbolic shapes.",
    "dimension_size": "Of symbolic shapes.",
    "empty2": "Made where a loop is lowered.",
    "philox2x32": "Made where random bits are lowered.",
    "philox4x32": "Made where random bits are lowered.",
    "relayout": "Of types with layouts, which no public function makes yet.",
    "shape_assertion": "Of symbolic shapes.",
    "stage": "Of constants only: what is traced passes it by.",
    "threefry4x32": "Made where random bits are lowered.",
}
if jax.__version_info__ < (0, 11):
    UNREACHABLE |= {
        "after_all": "Tokens are for what a program is lowered to.",
        "create_token": "Tokens are for what a program is lowered to.",
        "eval_jaxpr": "Becomes `closed_call`.",
    }

# -- programs that have no derivative: for each primitive the function and its points

REFUSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}


def refused(name: str, *points: Any):
    def decorator(fun):
        REFUSED[name] = (fun, points or (X,))
        return fun

    return decorator


_LIKE_X = jax.ShapeDtypeStruct(X.shape, X.dtype)

refused("pure_callback")(lambda x: jax.pure_callback(np.sin, _LIKE_X, x))
refused("ffi_call")(lambda x: jax.ffi.ffi_call("nothing", _LIKE_X)(x))
refused("nontraceable")(lambda x: eqxi.nontraceable(x * x))
refused("nonbatchable")(lambda x: eqxi.nonbatchable(x * x))
refused("pmax")(_unchecked(lambda x: lax.pmax(x * x, "i")))
refused("pmin")(_unchecked(lambda x: lax.pmin(x * x, "i")))
refused("igamma_grad_a", POSITIVE)(lambda x: lax.igamma_grad_a(1 + x, x))
refused("rng_uniform", np.array(0.3))(lambda x: lax.rng_uniform(x, 2 + x, (3,)))
refused("schur", SQUARE)(jsp.linalg.schur)
refused("hessenberg", SQUARE)(lambda a: lax.linalg.hessenberg(a)[0])
refused("householder_product", SQUARE, X)(lax.linalg.householder_product)
refused("symmetric_product", SQUARE)(
    lambda a: lax.linalg.symmetric_product(a, jnp.zeros_like(a))
)
refused("tridiagonal", SQUARE + SQUARE.T)(lambda a: lax.linalg.tridiagonal(a)[1])


@refused("io_callback")
def _io_callback(x):
    from jax.experimental import io_callback

    return io_callback(np.sin, _LIKE_X, x)


@refused("buffer_callback")
def _buffer_callback(x):
    from jax.experimental.buffer_callback import buffer_callback

    return buffer_callback(lambda *_: None, _LIKE_X)(x)


@refused("call_exported")
def _call_exported(x):
    from jax import export

    return export.export(jax.jit(jnp.sin))(_LIKE_X).call(x)


@refused("select_and_scatter", SQUARE)
def _select_and_scatter(x):
    return _bind(
        "select_and_scatter", x, x, jnp.zeros(()),
        select_jaxpr=jax.make_jaxpr(lax.ge)(1.0, 1.0).jaxpr, select_consts=(),
        scatter_jaxpr=jax.make_jaxpr(lax.add)(1.0, 1.0).jaxpr, scatter_consts=(),
        window_dimensions=(1, 1), window_strides=(1, 1), padding=((0, 0), (0, 0)),
    )  # fmt: skip


@refused("custom_partitioning")
def _custom_partitioning(x):
    from jax.experimental.custom_partitioning import custom_partitioning

    partitioned = custom_partitioning(lambda x: jnp.sin(x))
    partitioned.def_partition(
        infer_sharding_from_operands=None, partition=None, sharding_rule="i -> i"
    )
    return partitioned(x)


@refused("swap")
def _reference(x):
    _OUTSIDE[0] = x[1] * x[2]
    return _OUTSIDE[...] * x


_OUTSIDE = jax.new_ref(X)
