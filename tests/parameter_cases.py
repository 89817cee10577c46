"""Programs that give the parameters of primitives other values than the programs of
`test_rules.py` and `completeness_cases.py` do; and the parameters that no coefficient
depends on.

A case is by file of the rules, as those of a file are compiled as one program. It says
which parameters it is for: `"pad: padding_config"`.
"""

from collections.abc import Callable
from typing import Any

import completeness_cases
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax
from jax.experimental import sparse
from test_rules import Case, IMAGE, SQUARE, X, Y


CASES: dict[str, list[Case]] = {}
# Of each case, by its name: the primitives and parameters that it is for.
COVERED: dict[str, list[tuple[str, str]]] = {}
_IS_NEW = jax.__version_info__ >= (0, 11)


# Of what treats all coefficients but the first in one way.
_ORDER = dict.fromkeys(["structural", "reductions", "sparse", "devices"], 2)


def _vary(file: str, name: str, fun: Callable[..., Any], *points: Any, **kwargs: Any):
    """The name is of primitives and their parameters, and may have a remark in
    brackets."""
    primitives, _, parameters = name.partition(" (")[0].partition(": ")
    assert name not in COVERED
    COVERED[name] = [(p, q) for p in primitives.split() for q in parameters.split()]
    CASES.setdefault(file, []).append(
        Case(name, fun, points or (X,), **{"order": _ORDER.get(file, 3), **kwargs})
    )


FIVE = np.array([0.3, -0.7, 0.9, 0.45, -0.2])
BLOCK = np.arange(24.0).reshape(2, 3, 4) % 5 / 5 + 0.1 * np.arange(4)
SYMMETRIC = SQUARE + SQUARE.T
COMPLEX = SQUARE + 1j * SQUARE.T


# -- structural: what lies outside, and where entries go

_OUTSIDE = np.array([1, 5, -1, -4])
for _value in (7.0, None, -np.inf):
    _vary(
        "structural",
        f"gather: mode fill_value ({_value})",
        lambda x, v=_value: (x * x).at[_OUTSIDE].get(mode="fill", fill_value=v),
    )
_vary(
    "structural",
    "gather: mode (clip)",
    lambda x: (x * x).at[_OUTSIDE].get(mode="clip", wrap_negative_indices=False),
)
_vary(
    "structural",
    "gather: indices_are_sorted unique_indices dimension_numbers",
    lambda a: (
        (a * a)
        .at[:, np.array([0, 2])]
        .get(indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds")
    ),
    SQUARE,
)
_vary(
    "structural",
    "gather: dimension_numbers (batches)",
    jax.vmap(lambda x: (x * x).at[(4 * x[:2]).astype(int)].get(mode="fill", fill_value=7.0)),
    SQUARE,
)  # fmt: skip
_vary("structural", "gather: fill_value (take)", lambda x: jnp.take(x * x, _OUTSIDE))
for _name, _method in {
    "scatter-add": "add",
    "scatter-sub": "subtract",
    "scatter-mul": "multiply",
    "scatter-min": "min",
    "scatter-max": "max",
    "scatter": "set",
}.items():
    _file = "structural" if _method in ("add", "subtract") else "reductions"
    for _mode in ("drop", "clip", "promise_in_bounds"):
        # Outside, where JAX has a derivative: with `clip` that of the smallest or the
        # largest of several is not a number.
        _inside = _mode == "promise_in_bounds" or (_mode, _file) == (
            "clip",
            "reductions",
        )
        _places = np.array([0, 2] if _inside else [1, 7])
        _vary(
            _file,
            f"{_name}: mode indices_are_sorted unique_indices ({_mode})",
            lambda x, y, method=_method, mode=_mode, places=_places: getattr(
                (x * x).at[places], method
            )(y, mode=mode, indices_are_sorted=True, unique_indices=True),
            X,
            Y[:2],
        )
    _vary(
        _file,
        f"{_name}: dimension_numbers",
        lambda a, y, method=_method: getattr((a * a).at[1:, np.array([2, 0])], method)(
            y, unique_indices=True
        ),
        SQUARE,
        SQUARE[:2, :2],
    )
_vary("structural", "dynamic_slice: slice_sizes (outside)", lambda a: lax.dynamic_slice(
    a * a, (5, -9), (2, 1)), SQUARE)  # fmt: skip
_vary(
    "structural",
    "pad: padding_config",
    lambda a, y: lax.pad(a, y, [(-1, 2, 1), (1, -1, 0)]),
    SQUARE,
    np.array(0.3),
)
_vary("structural", "rev: dimensions", lambda a: lax.rev(a, (0, 1)), SQUARE)
_vary("structural", "split: axis", lambda a: jnp.split(a * a, 3, axis=1), SQUARE)
_vary("structural", "tile: reps", lambda x: jnp.tile(x, 3))
_vary(
    "structural",
    "concatenate: dimension",
    lambda a: lax.concatenate([a, a * a], 1),
    SQUARE,
)
_vary(
    "structural",
    "slice: strides",
    lambda a: lax.slice(a * a, (0, 0), (3, 3), (1, 2)),
    SQUARE,
)
_vary(
    "structural",
    "stack: axis",
    lambda x, y: completeness_cases._bind("stack", x, y * y, axis=1),
    X,
    Y,
)
_vary(
    "structural",
    "unstack: axis",
    lambda a: completeness_cases._bind("unstack", a * a, axis=1),
    SQUARE,
)
_vary("structural", "conj: input_dtype", lambda x: lax.conj(x * x))
_vary(
    "structural",
    "convert_element_type: new_dtype (back and forth)",
    lambda x: (
        lax.convert_element_type(x, jnp.float32).astype(x.dtype) * x,
        (4 * x).astype(jnp.int32).astype(x.dtype) * x,
        x.astype(complex) ** 2,
    ),
    np.array([0.5, -0.75, 0.25]),
    ulps=1e9,  # What went through float32 has its rounding.
)
_vary(
    "structural",
    "reduce_precision: exponent_bits mantissa_bits",
    lambda x: lax.reduce_precision(x * x, 8, 23),
    ulps=1e9,  # That of float32.
)
_vary("structural", "cumsum: axis reverse", lambda a: lax.cumsum(a * a, 0), SQUARE)
_vary(
    "structural",
    "fft: fft_lengths fft_type",
    lambda a: (jnp.fft.fft2(a), jnp.fft.irfft(jnp.fft.rfft(a, 5), 7), jnp.fft.ihfft(a)),
    SQUARE,
)
_vary(
    "structural",
    "maybe_set: i_static",
    lambda x: eqxi.while_loop(
        lambda c: c[0] < 2,
        lambda c: (c[0] + 1, c[1].at[c[0], :1].set(x[:1] * c[1][0, 0])),
        (0, x[:, None] * x[None]),
        kind="bounded",
        max_steps=4,
        buffers=lambda c: c[1],
    )[1],
)

# -- windows

_WINDOW = dict(
    window_dimensions=(2, 3),
    window_strides=(1, 2),
    padding=((1, 0), (0, 2)),
    base_dilation=(2, 1),
    window_dilation=(1, 2),
)
_WINDOW_NAMES = " ".join(_WINDOW)


def _windows(operation, start):
    return lambda a: lax.reduce_window(a * a, start, operation, **_WINDOW)


_TALL = BLOCK.reshape(4, 6)
_vary(
    "structural",
    f"reduce_window_sum: {_WINDOW_NAMES}",
    _windows(lax.add, np.zeros(())),
    _TALL,
)
_vary(
    "reductions",
    f"reduce_window_max: {_WINDOW_NAMES}",
    _windows(lax.max, -np.inf),
    _TALL,
)
_vary(
    "reductions",
    f"reduce_window_min: {_WINDOW_NAMES}",
    _windows(lax.min, np.inf),
    _TALL,
)
_vary(
    "derived",
    f"reduce_window: {_WINDOW_NAMES}",
    _windows(completeness_cases._combined, np.zeros(())),
    _TALL[:2],
    order=2,
)
_vary(
    "reductions",
    "select_and_gather_add: select_prim padding window_dimensions window_strides",
    lambda x: jax.jvp(
        lambda x: lax.reduce_window(
            x, np.inf, lax.min, (3, 2), (2, 1), ((1, 0), (0, 1))
        ),
        (x * x,),
        (jnp.sin(x),),
    )[1],
    _TALL,
)
_vary(
    "reductions",
    "select_and_scatter_add: select_prim padding window_dimensions window_strides",
    lambda x: jax.vjp(
        lambda x: lax.reduce_window(
            x, np.inf, lax.min, (3, 2), (2, 1), ((1, 0), (0, 1))
        ),
        x,
    )[1](jnp.sin(x[:2, :]))[0],
    _TALL,
)

# -- reductions, cumulations and orderings

for _name in ("cummax", "cummin", "cumprod", "cumlogsumexp"):
    _vary(
        "reductions" if _name in ("cummax", "cummin") else "derived",
        f"{_name}: axis reverse",
        lambda a, fun=getattr(lax, _name): fun(a, axis=1, reverse=True),
        SQUARE,
    )
_vary("reductions", "reduce_min: axes", lambda a: jnp.min(a, (0, 1)), SQUARE)
_vary("reductions", "reduce_max: axes", lambda a: jnp.max(a, (0, 1)), SQUARE)
_vary("derived", "reduce_prod: axes", lambda a: jnp.prod(a, 1), SQUARE)
_vary(
    "derived",
    "reduce: dimensions",
    lambda a: lax.reduce(a, np.zeros(()), completeness_cases._combined, (1,)),
    SQUARE[:2],
)
_vary(
    "reductions",
    "sort: dimension is_stable num_keys",
    # Equal first keys, so that the second decides.
    lambda a, b: lax.sort(
        (jnp.round(a), b, a * b), dimension=1, is_stable=False, num_keys=2
    ),
    SQUARE,
    SQUARE.T,
)
_vary(
    "reductions",
    "top_k: k axis" + (" is_stable" if _IS_NEW else ""),
    lambda a: lax.top_k(a * a, 1, axis=1, **(dict(is_stable=False) if _IS_NEW else {}))[
        0
    ],
    SQUARE,
)
_vary(
    "reductions",
    "approx_top_k: k reduction_dimension is_max_k",
    lambda a: lax.approx_min_k(a * a, 1, reduction_dimension=0)[0],
    SQUARE,
)
_vary(
    "reductions",
    "approx_top_k: aggregate_to_topk recall_target reduction_input_size_override",
    lambda x: lax.approx_max_k(
        x * x, 3, recall_target=0.5, reduction_input_size_override=5,
        aggregate_to_topk=False,
    )[0],
    FIVE,
)  # fmt: skip
_vary(
    "reductions",
    "select_n: (three cases)",
    lambda x, y: lax.select_n(np.array([2, 0, 1], np.int32), x * x, x * y, y * y),
    X,
    Y,
)
_vary(
    "elementwise",
    "round: rounding_method",
    lambda x: lax.round(3 * x, lax.RoundingMethod.AWAY_FROM_ZERO) * x,
)

# -- products

_vary(
    "products",
    "mul: out_dtype",
    lambda x, y: lax.mul(
        x.astype(np.float32), y.astype(np.float32), out_dtype=np.float64
    ),
    np.array([0.5, -0.75, 0.25]),
    np.array([0.25, 0.5, -1.5]),
    ulps=1e9,
    oracle=lambda x, y: (
        x.astype(np.float32).astype(float) * y.astype(np.float32).astype(float)
    ),
)
_vary(
    "products",
    "dot_general: dimension_numbers precision preferred_element_type",
    lambda a, b: lax.dot_general(
        a, b, (((2, 1), (2, 1)), ((0,), (0,))), precision="highest",
        preferred_element_type=np.float64,
    ),
    BLOCK,
    BLOCK[::-1],
)  # fmt: skip
_vary(
    "products",
    "dot_general: preferred_element_type (of float32)",
    lambda a, b: lax.dot_general(
        a.astype(np.float32), b.astype(np.float32), (((1,), (0,)), ((), ())),
        preferred_element_type=np.float64,
    ),
    np.round(8 * SQUARE) / 8,
    np.round(8 * SQUARE.T) / 8,
    ulps=1e9,
)  # fmt: skip
_TWO_IMAGES = np.concatenate([IMAGE[:, :4, :4], IMAGE[:, 1:5, 1:5]], 3)
_NUMBERS = ("NHWC", "HWIO", "NHWC")
_KERNEL = BLOCK.reshape(2, 3, 1, 4)
_vary(
    "products",
    "conv_general_dilated: feature_group_count lhs_dilation rhs_dilation padding",
    lambda x, w: lax.conv_general_dilated(
        x, w, (1, 1), ((1, 0), (0, 2)), lhs_dilation=(2, 1), rhs_dilation=(1, 2),
        dimension_numbers=_NUMBERS, feature_group_count=2,
    ),
    _TWO_IMAGES,
    _KERNEL,
)  # fmt: skip
_vary(
    "products",
    "conv_general_dilated: batch_group_count precision preferred_element_type",
    lambda x, w: lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=_NUMBERS, batch_group_count=2,
        precision="highest", preferred_element_type=np.float64,
    ),
    np.concatenate([IMAGE[:, :4, :4], IMAGE[:, 1:5, 1:5]]),
    _KERNEL,
)  # fmt: skip
for _name, _dims, _a, _b in (
    ("contracted", ((((0,), (0,)), ((), ())), [0], []), SQUARE, SQUARE),
    ("batches", ((((2,), (1,)), ((0,), (0,))), [0], []),
     BLOCK.reshape(3, 2, 4), BLOCK.reshape(3, 4, 2)),
):  # fmt: skip
    _vary(
        "products",
        "ragged_dot_general: ragged_dot_dimension_numbers precision "
        f"preferred_element_type ({_name})",
        lambda a, b, dims=_dims: lax.ragged_dot_general(
            a, b, np.array([1, 2], np.int32), lax.RaggedDotDimensionNumbers(*dims),
            precision="highest", preferred_element_type=np.float64,
        ),
        _a,
        _b,
    )  # fmt: skip

# -- linear algebra

for _left, _lower, _transposed, _conjugated, _unit in (
    (False, False, False, False, True),
    (True, True, True, True, False),
    (False, True, True, False, False),
    (False, False, True, True, False),
):
    _vary(
        "linear_algebra",
        "triangular_solve: left_side lower transpose_a conjugate_a unit_diagonal "
        f"({_left}, {_lower}, {_transposed}, {_conjugated}, {_unit})",
        lambda a, b, left=_left, lower=_lower, t=_transposed, c=_conjugated, u=_unit: (
            lax.linalg.triangular_solve(
                a, b, left_side=left, lower=lower, transpose_a=t, conjugate_a=c,
                unit_diagonal=u,
            )
        ),
        COMPLEX,
        COMPLEX.T,
        ulps=1000,
    )  # fmt: skip
_vary(
    "linear_algebra",
    "triangular_solve: unit_diagonal (below)",
    lambda a, b: lax.linalg.triangular_solve(
        a, b, left_side=True, lower=True, unit_diagonal=True
    ),
    SQUARE,
    SQUARE,
)
_vary(
    "linear_algebra",
    "qr: full_matrices",
    lambda a: jnp.linalg.qr(a, mode="complete")[1],
    BLOCK[0].T,
    # JAX has no derivative of it: of the square part there is.
    oracle=lambda a: jnp.pad(jnp.linalg.qr(a)[1], ((0, 1), (0, 0))),
    ulps=1000,
)
_COLUMNS = scipy.linalg.qr(SQUARE, pivoting=True)[2]
_vary(
    "linear_algebra",
    "qr: pivoting",
    lambda a: lax.linalg.qr(a, pivoting=True, full_matrices=False)[:2],
    SQUARE,
    # JAX has no derivative where columns are exchanged.
    oracle=lambda a: lax.linalg.qr(a[:, _COLUMNS], full_matrices=False),
    ulps=1000,
)


# -- spectral


def _without_signs(pairs):
    """The signs of the vectors are LAPACK's."""
    vectors, values = pairs
    return vectors * vectors[:1], values


_vary(
    "spectral",
    "eigh: lower sort_eigenvalues",
    lambda a: _without_signs(
        lax.linalg.eigh(a, lower=False, symmetrize_input=False, sort_eigenvalues=False)
    ),
    SYMMETRIC,
    # JAX's derivative is of the lower triangle.
    oracle=lambda a: _without_signs(
        lax.linalg.eigh(jnp.triu(a) + jnp.triu(a, 1).T, symmetrize_input=False)
    ),
    ulps=1000,
)
_vary(
    "spectral",
    "svd: compute_uv full_matrices (values alone)",
    lambda a: jnp.linalg.svd(a, compute_uv=False),
    BLOCK[0],
    ulps=1000,
)
_vary(
    "spectral",
    "svd: full_matrices algorithm",
    lambda a: lax.linalg.svd(
        a, full_matrices=True, algorithm=lax.linalg.SvdAlgorithm.QR
    )[1],
    SQUARE,
    ulps=1000,
)
_vary(
    "spectral",
    "eig: compute_left_eigenvectors compute_right_eigenvectors enable_eigvec_derivs",
    lambda a: lax.linalg.eig(
        a, compute_left_eigenvectors=True, compute_right_eigenvectors=True,
        enable_eigvec_derivs=True,
    )[0],
    SQUARE,
    order=1,
    ulps=1000,
)  # fmt: skip

# -- loops, branches and calls

_vary(
    "control_flow",
    "scan: reverse unroll",
    lambda x: lax.scan(
        lambda c, a: (c * a, c + a), x[0], FIVE * x[1], reverse=True, unroll=2
    ),
)
_vary(
    "control_flow",
    "scan: length",
    lambda x: lax.scan(lambda c, _: (c * x, c), x, None, length=2)[0],
)
_vary(
    "control_flow",
    "while: cond_nconsts body_nconsts",
    lambda x, y: lax.while_loop(
        lambda c: c[0] < 2 + x[0], lambda c: (c[0] + 1, x * c[1] * y), (0, x)
    )[1],
    X,
    Y,
)
_vary(
    "control_flow",
    "cond: branches branches_platforms",
    lambda x: (
        lax.platform_dependent(x, tpu=jnp.exp, default=jnp.sin),
        lax.switch(2, [jnp.sin, jnp.cos, jnp.exp], x),
    ),
)
_vary(
    "control_flow",
    "remat2: policy prevent_cse",
    jax.checkpoint(
        lambda x: jnp.sin(x) * x,
        prevent_cse=False,
        policy=jax.checkpoint_policies.everything_saveable,
    ),
)


@jax.custom_jvp
def _with_zeros(x, y):
    return x * jnp.sin(y)


def _with_zeros_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    terms = []
    if not isinstance(dx, jax.custom_derivatives.SymbolicZero):
        terms.append(dx * jnp.sin(y))
    if not isinstance(dy, jax.custom_derivatives.SymbolicZero):
        terms.append(dy * x * jnp.cos(y))
    return _with_zeros(x, y), sum(terms)


_with_zeros.defjvp(_with_zeros_jvp, symbolic_zeros=True)
_vary(
    "control_flow",
    "custom_jvp_call: symbolic_zeros",
    lambda x: (_with_zeros(x, jnp.cos(x)), _with_zeros(x, jnp.ones_like(x))),
)
_vary(
    "control_flow",
    "custom_linear_solve: const_lengths jaxprs",
    lambda a, b: lax.custom_linear_solve(
        lambda x: a @ x + b[0] * x,
        b,
        lambda _, r: jnp.linalg.solve(a + b[0] * jnp.eye(3), r),
    ),
    SQUARE,
    X,
)


def _pallas(x):
    from jax.experimental import pallas as pl

    def kernel(x_ref, out_ref):
        out_ref[...] = jnp.sin(x_ref[...]) * x_ref[...]

    return pl.pallas_call(
        kernel,
        grid=(3,),
        in_specs=[pl.BlockSpec((1,), lambda i: (i,))],
        out_specs=pl.BlockSpec((1,), lambda i: (2 - i,)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        interpret=True,
    )(x)


_vary("derived", "pallas_call: grid_mapping", _pallas, order=2)

# -- sparse matrices


def _batched(x):
    """Two of two rows, with two entries each."""
    indices = np.array([[[0, 1], [1, 2]], [[1, 0], [0, 2]]])
    return sparse.BCOO((x.reshape(2, 2), indices), shape=(2, 2, 3))


_vary(
    "sparse",
    "bcoo_dot_general: dimension_numbers lhs_spinfo",
    lambda x, b: (
        _batched(x * x).todense(),
        sparse.bcoo_dot_general(
            _batched(x), b, dimension_numbers=(((1,), (1,)), ((0,), (0,)))
        ),
    ),
    FIVE[:4],
    BLOCK[:, :2],
)
_vary(
    "sparse",
    "bcoo_transpose: permutation spinfo",
    lambda x: sparse.bcoo_transpose(_batched(x * x), permutation=(0, 2, 1)).todense(),
    FIVE[:4],
)
_vary(
    "sparse",
    "bcoo_fromdense: n_batch n_dense nse (more than there are)",
    lambda a: (
        sparse.BCOO.fromdense(a * a, nse=3, n_batch=1).data,
        sparse.BCOO.fromdense(a * a, nse=3, n_dense=1).data,
        sparse.BCOO.fromdense(a * a, nse=8).data,
    ),
    completeness_cases._SPARSE,
)
for _kind in (sparse.BCSR, sparse.COO, sparse.CSR):
    _name = _kind.__name__.lower()
    _vary(
        "sparse",
        f"{_name}_fromdense: nse (more than there are)",
        lambda a, kind=_kind: kind.fromdense(a * a, nse=8).data,
        completeness_cases._SPARSE,
        # JAX's own derivative has entries of the matrix in the places that are left.
        oracle=lambda a: jnp.concatenate(
            [(a * a)[np.nonzero(completeness_cases._SPARSE)], jnp.zeros(4)]
        ),
    )
for _name, _make in dict(
    coo=completeness_cases._coo, csr=completeness_cases._csr
).items():
    _vary(
        "sparse",
        f"{_name}_matvec {_name}_matmat: transpose",
        lambda x, y, b, make=_make, name=_name: (
            getattr(sparse, f"{name}_matvec")(make(x), y, transpose=True),
            getattr(sparse, f"{name}_matmat")(make(x), b, transpose=True),
        ),
        X,
        Y,
        SQUARE,
    )
_vary(
    "sparse",
    "bcsr_fromdense: n_batch n_dense",
    lambda a: (
        sparse.BCSR.fromdense(a * a, nse=9, n_batch=1).data,
        sparse.BCSR.fromdense(a * a, nse=5, n_dense=1).data,
    ),
    BLOCK,
)
_vary(
    "sparse",
    "bcoo_spdot_general bcsr_dot_general: dimension_numbers preferred_element_type",
    lambda x, y, b: (
        sparse.bcoo_dot_general(
            completeness_cases._bcoo(x), completeness_cases._bcoo(y),
            dimension_numbers=(((1,), (1,)), ((), ())),
            preferred_element_type=np.float64,
        ).todense(),
        sparse.bcsr_dot_general(
            completeness_cases._bcsr(x), b,
            dimension_numbers=(((1,), (1,)), ((), ())),
            preferred_element_type=np.float64,
        ),
    ),
    X,
    Y,
    SQUARE,
)  # fmt: skip
_vary(
    "sparse",
    "bcoo_sum_duplicates: nse",
    lambda x: sparse.bcoo_sum_duplicates(
        sparse.BCOO((x * x, np.array([[0, 1], [0, 1], [2, 0]])), shape=(3, 3)), nse=4
    ).todense(),
)
_vary(
    "sparse",
    "bcoo_extract: assume_unique",
    lambda a: (
        sparse.bcoo_extract(
            sparse.BCOO(
                (jnp.asarray(X), np.array([[0, 1], [0, 1], [2, 0]])), shape=(3, 3)
            ),
            a * a,
            assume_unique=True,
        ).data
    ),
    SQUARE,
)
_vary(
    "sparse",
    "bcoo_dot_general_sampled: dimension_numbers",
    lambda a, b: sparse.bcoo_dot_general_sampled(
        a, b, np.array([[0, 1], [2, 0]]), dimension_numbers=(([0], [1]), ([], []))
    ),
    SQUARE,
    SQUARE.T,
)

# -- between devices


def _mapped(body):
    return completeness_cases._unchecked(body)


_vary("devices", "all_gather: all_gather_dimension tiled", _mapped(
    lambda a: lax.all_gather(a * a, "i", axis=1)), SQUARE)  # fmt: skip
_vary("devices", "all_to_all: concat_axis split_axis tiled", _mapped(
    lambda a: lax.all_to_all((a * a)[:, None], "i", 1, 2)), SQUARE)  # fmt: skip
_vary("devices", "reduce_scatter: scatter_dimension tiled", _mapped(
    lambda a: lax.psum_scatter((a * a)[:, None], "i", scatter_dimension=1)), SQUARE)  # fmt: skip


# -- those that cannot matter
#
# A parameter of this name, of any primitive; or of one primitive.

CANNOT_MATTER: dict[str, str] = {}


def _nothing(reason: str, names: str) -> None:
    for name in names.split():
        assert name not in CANNOT_MATTER
        CANNOT_MATTER[name] = reason


_nothing(
    "The function inside: every case has another.",
    "jaxpr call_jaxpr fwd_jaxpr cond_jaxpr body_jaxpr callee call computation _prim "
    "custom_jvp_call.jvp_jaxpr_fun prim vprim.params",
)
_nothing(
    "Of reverse mode: no part of a jet.",
    "bwd fwd_jaxpr_thunk fun_jaxpr_thunk out_trees transpose_thunk num_res "
    "custom_vjp_call.symbolic_zeros rule nondifferentiable_backward.msg "
    "nondifferentiable_backward.symbolic makes_false_steps perturb_singular "
    "remat2.differentiated",
)
_nothing(
    "How operands are divided among the functions of an equation, or flattened.",
    "num_consts in_tree out_tree num_callee_consts num_carry ft_in ft_out flatten "
    "static treedef i_treedef tree __axis_name __axis_size __batch_axes consts "
    "update_consts update_jaxpr out_avals which_linear is_initialized kwargs",
)
_nothing(
    "Where arrays are or are to be: the coefficients are where the value is.",
    "sharding out_sharding in_shardings out_shardings in_layouts out_layouts ctx_mesh "
    "devices srcs copy_semantics layout context_mesh unconstrained_dims mesh "
    "concrete_mesh dst_sharding global_mesh pspec memory_space out_spaces "
    "out_memory_spaces newly_manual_axes in_specs out_specs check_vma",
)
_nothing(
    "The axes of devices; a test has one device and one name. `test_surroundings.py` "
    "has several.",
    "psum.axes psum_invariant.axes pvary.axes preduced.axes reduced_vary_cast.axes "
    "reduced_vary_cast_p.axes unreduced_psum.axes vary_unreduced_cast.axes "
    "vary_unreduced_cast_p.axes axis_name axis_size axis_index_groups perm source",
)
_nothing(
    "How it is computed, or compiled, and not what.",
    "accuracy algorithm implementation use_magma compute_type compiler_options_json "
    "compiler_options_kvs compiler_params cost_estimate debug interpret metadata "
    "donated_invars keep_unused inline enforce exclude_mask strict_in strict_out "
    "reorder tol input_output_aliases index_dtype",
)
_nothing(
    "A name, or an annotation.",
    "name attributes version announce intermediates stack xla_metadata_kvs a "
    "ad_metadata xla_metadata",
)
_nothing("Whether a type is weak; the series are of the type.", "weak_type")
_nothing("Which random numbers: `test_rules.py` has those of a key.", "log_space")
_nothing(
    "Always `None` where JAX's public functions make it.",
    "reshape.dimensions group_offset",
)
_nothing(
    "Made where a rule is not defined for it: by JAX's derivative, of first order.",
    "subset_by_index",
)
_nothing(
    "The pattern of a matrix: another in every case.",
    "spinfo lhs_spinfo rhs_spinfo csr_matvec.shape csr_matmat.shape csr_todense.shape",
)

_nothing(
    "As for `all_gather` and `reduce_scatter`, whose rule they share.",
    "all_gather_invariant.all_gather_dimension all_gather_invariant.tiled "
    "all_gather_reduced.all_gather_dimension all_gather_reduced.tiled "
    "unreduced_reduce_scatter.scatter_dimension unreduced_reduce_scatter.tiled",
)

# Of these there is no value in the programs of some versions of JAX.
OF_SOME_VERSIONS = set(
    """
    a ad_metadata enforce exclude_mask ft_in ft_out num_carry reduced_vary_cast.axes
    reduced_vary_cast_p.axes strict_in strict_out vary_unreduced_cast.axes
    vary_unreduced_cast_p.axes xla_metadata
    """.split()
)
