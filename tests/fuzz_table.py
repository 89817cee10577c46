"""The forms that a line of a random program may take (see `fuzz_programs`).

After `;`, what must hold of the values; `*` stands before forms of several values.
"""

# Of one shape, in an expression; of moderate size wherever they are taken.
REAL_SMOOTH = [
    "jnp.sin({})", "jnp.cos({})", "jnp.tanh({})", "0.7 * ({})", "({} - 0.4)", "-({})",
    "jnp.arctan({})", "jnp.exp(0.3 * jnp.cos({}))", "jnp.log(1.5 + jnp.tanh({}))",
    "jnp.sqrt(1.3 + jnp.sin({}))", "jax.nn.sigmoid({})", "jax.nn.softplus({})",
    "jax.nn.silu({})", "lax.erf({})", "lax.square(jnp.sin({}))", "jnp.tanh({}) ** 3",
    "(1.4 + jnp.cos({})) ** -1.5", "1 / (1.7 + jnp.sin({}))", "jnp.arcsinh({})",
    "jax.nn.relu({})", "jnp.abs({})", "jax.nn.gelu({})", "tripled({})", "cubed(0.4 * {})",
]  # fmt: skip
COMPLEX_SMOOTH = [
    "jnp.sin(0.5 * {})", "jnp.cos(0.5 * {})", "jnp.exp(0.3 * {})", "0.7 * ({})", "-({})",
    "({} - 0.4)", "jnp.tanh(0.2 * {})", "lax.square(0.4 * {})", "tripled(0.5 * {})",
    "cubed(0.4 * {})", "1 / (3.0 + 0.2 * {})", "jnp.log(4.0 + 0.3 * {})", "jnp.conj({})",
    "jnp.sqrt(5.0 + 0.3 * {})",
]  # fmt: skip

# Calls of a function of `w`, at `x`.
SMOOTH_CALLS = [
    "jax.jit(lambda {w}: {body})({x})",
    "jax.checkpoint(lambda {w}: {body})({x})",
    "lax.fori_loop(0, 2, lambda i, {w}: {body}, {x})",
    "lax.scan(lambda {w}, _: ({body}, None), {x}, None, length=2)[0]",
    "lax.cond(b0, lambda {w}: {body}, lambda {w}: 0.5 * {w}, {x})",
    "lax.switch(n0, [lambda {w}: {body}, lambda {w}: 0.5 * {w}, jnp.cos], {x})",
    "jax.jvp(lambda {w}: {body}, ({x},), ({x},))[1]",
    "second_derivative(lambda {w}: {body}, {x}, {x})",
    "jax.linearize(lambda {w}: {body}, {x})[1]({x})",
]
REAL_SMOOTH_CALLS = [
    "jax.grad(lambda {w}: jnp.sum({body}))({x})",
    "jax.vjp(lambda {w}: {body}, {x})[1]({x})[0]",
]

ELEMENTWISE = [
    "jnp.exp(0.5 * <a>)", "lax.exp2(0.5 * bounded(<a>))", "lax.expm1(bounded(<a>))",
    "jnp.log(2.5 + bounded(<a>))", "lax.log1p(0.6 * bounded(<a>))", "jnp.log2(3 + bounded(<a>))",
    "jnp.log10(3 + bounded(<a>))", "jnp.sin(<a>)", "jnp.cos(<a>)", "jnp.tan(0.8 * bounded(<a>))",
    "jnp.sinh(bounded(<a>))", "jnp.cosh(bounded(<a>))", "jnp.tanh(<r>)", "jnp.tanh(bounded(<a>))",
    "jnp.arcsin(0.8 * bounded(<r>))", "jnp.arccos(0.8 * bounded(<r>))", "jnp.arctan(<r>)",
    "jnp.arcsinh(bounded(<a>))", "jnp.arccosh(2.5 + bounded(<r>))", "jnp.arctanh(0.6 * bounded(<a>))",
    "jnp.arctan2(<r>, 1.5 + jnp.cos(<e>))", "jnp.arctan2(jnp.cos(<r>), <e1>) ; away e1",
    "lax.erf(<r>)", "lax.erfc(<r>)", "lax.erf_inv(0.8 * bounded(<r>))", "jnp.sinc(<r>) ; away r",
    "lax.logistic(<r>)", "jnp.sqrt(2.5 + bounded(<a>))", "lax.rsqrt(2.5 + bounded(<a>))",
    "jnp.cbrt(<r>) ; away r", "(2.5 + bounded(<a>)) ** 0.7", "(2.5 + bounded(<a>)) ** -1.5",
    "(2.5 + bounded(<a>)) ** bounded(<e>)", "1.7 ** bounded(<r>)", "<a> ** 2", "<a> ** 3",
    "bounded(<a>) ** 5", "(2.5 + bounded(<a>)) ** -3", "<a> ** 2.0", "lax.square(<a>)", "cubed(<a>)",
    "jnp.abs(<r>) ** 1.5 ; away r", "lax.integer_pow(2.5 + bounded(<a>), -2)",
    "(2.5 + bounded(<r>)) ** weights(<r>)",
    "jnp.hypot(<r>, <e>) ; away r", "jnp.logaddexp(<a>, <e>)", "jnp.logaddexp2(<r>, <e>)",
    "jnp.deg2rad(<r>)", "jnp.reciprocal(2.5 + bounded(<a>))", "compiled(<a>)", "tripled(<a>)",
    "jnp.exp(-<a> * <a>)", "applied(jnp.sin, <a>, <e>)", "applied(lambda q: <f q>, <a>, <e>)",
    "(lambda p, q: <f p q>)(<a>, <e>)", "(lambda p, q: <f p q>)(<a>, <h>)", "(lambda p: <f p>)(<a>)", "jnp.vectorize(lambda p, q: <f p q>)(<a>, <h>)",
]  # fmt: skip
SPECIAL = [
    "jsp.special.gammaln(2.5 + bounded(<r>))", "jsp.special.digamma(2.5 + bounded(<r>))",
    "jsp.special.polygamma(1, 2.5 + bounded(<r>))", "jsp.special.gamma(2.5 + bounded(<r>))",
    "lax.igamma(jnp.full_like(<r>, 1.7), 2.5 + bounded(<r>))",
    "lax.igammac(jnp.full_like(<r>, 1.7), 2.5 + bounded(<r>))",
    "lax.betainc(jnp.full_like(<r>, 1.7), jnp.full_like(<r>, 0.7), 0.5 + 0.4 * bounded(<r>))",
    "lax.bessel_i0e(<r>) ; away r", "lax.bessel_i1e(<r>) ; away r", "jsp.special.i0(<r>) ; away r",
    "jsp.special.i1(<r>) ; away r", "jsp.special.xlogy(<r>, 2.5 + bounded(<e>))",
    "jsp.special.xlog1py(<r>, 1.5 + bounded(<e>))", "jsp.special.entr(2.5 + bounded(<r>))",
    "jsp.special.ndtr(<r>)", "jsp.special.log_ndtr(<r>)", "jsp.special.ndtri(0.5 + 0.3 * bounded(<r>))",
    "jsp.special.expit(<r>)", "jsp.special.logit(0.5 + 0.3 * bounded(<r>))", "jsp.special.erfinv(0.7 * bounded(<r>))",
    "jsp.special.rel_entr(2.5 + bounded(<r>), 2.5 + bounded(<e>))", "jsp.special.betaln(2.5 + bounded(<r>), 2.5 + bounded(<e>))",
    "jsp.special.expi(2.5 + bounded(<r>))", "jsp.special.spence(2.5 + bounded(<r>))",
    "jsp.stats.norm.logpdf(<r>)", "jsp.stats.norm.cdf(<r>)", "jsp.stats.t.logpdf(<r>, 3.0)",
    "jax.nn.softplus(<a>)", "jax.nn.silu(<a>)", "jax.nn.gelu(<r>)", "jax.nn.gelu(<r>, approximate=False)",
    "jax.nn.elu(<r>) ; away r", "jax.nn.selu(<r>) ; away r", "jax.nn.celu(<r>) ; away r", "jax.nn.mish(<r>)",
    "jax.nn.log_sigmoid(<r>)", "jax.nn.soft_sign(<r>) ; away r", "jax.nn.squareplus(<r>)", "jax.nn.swish(<r>)",
    "jax.nn.softmax(<n>, <axis>)", "jax.nn.log_softmax(<n>, <axis>)", "jax.nn.standardize(<k>, <axis>, epsilon=0.1)",
    "jax.nn.glu(jnp.concatenate([<n>, jnp.cos(<n>)], <axis>), <axis>)", "jax.nn.sparse_plus(3 * <r>)",
]  # fmt: skip
KINKS = [
    "jnp.abs(<r>) ; away r", "jnp.maximum(<r>, <e1>) ; apart r e1", "jnp.minimum(<r>, <h1>) ; apart r h1",
    "jax.nn.relu(<r>) ; away r", "jax.nn.relu6(4 * <r>) ; away r", "jax.nn.leaky_relu(<r>) ; away r",
    "jax.nn.hard_tanh(<r>)", "jax.nn.hard_sigmoid(<r>)", "jnp.clip(<r>, -0.45, 0.55)", "lax.clamp(lax.full_like(<r>, -0.33), <r>, lax.full_like(<r>, 0.77))",
    "lax.clamp(-1.7 + bounded(<r>), <e1>, 1.7 + bounded(<r>))", "jnp.where(<r> > 0, <e>, <f r e>) ; away r",
    "jnp.where(b0, <a>, <h>)", "lax.select_n(<r> > 0.1, <r>, jnp.sin(<r>))", "jnp.sign(<r>) * <e> ; away r",
    "jnp.floor(<r>) * <e> ; between r", "lax.round(<r>) + <e> ; between r", "jnp.mod(<r>, 0.5) ; between r",
    "lax.rem(<r>, lax.full_like(<r>, 0.5)) ; between r", "jnp.fmod(<r>, 2.5 + bounded(<e>))",
    "jnp.max(<k>, <axis>) ; distinct k", "jnp.min(<k>) ; distinct k", "jnp.sort(<k>, <axis>) ; distinct k",
    "lax.sort((<k>, jnp.sin(<k>)), num_keys=1)[1] ; distinct k", "lax.cummax(<k>, <axis>) ; distinct k",
    "lax.cummin(<k>, <axis>, reverse=True) ; distinct k", "lax.top_k(<k>, 1)[0] ; distinct k", "jnp.median(<k>) ; distinct k",
    "jnp.argmax(<k>).astype(<k>.dtype) * <k> ; distinct k", "jnp.take(<k>, jnp.argsort(<k>, None)) ; distinct k",
    "jnp.ptp(<k>) ; distinct k", "jnp.percentile(<k>, 40.0) ; distinct k", "jnp.linalg.norm(<v>, jnp.inf) ; distinct v",
    "jnp.sum(jnp.abs(<n>), <axis>) ; away n", "lax.stop_gradient(<a>) * <e>", "jnp.copysign(<r>, <e>) ; away r ; away e",
    "jnp.interp(<r>, jnp.asarray([-2.0, 0.01, 2.0], <r>.dtype), jnp.asarray([0.0, 1.0, -1.0], <r>.dtype)) ; away r",
    "lax.reduce_window(<k>, -jnp.inf, lax.max, (2,) * <k>.ndim, (1,) * <k>.ndim, 'SAME') ; distinct k",
    "jax.grad(lambda q: jnp.sum(lax.reduce_window(q, -jnp.inf, lax.max, (2,) * q.ndim, (1,) * q.ndim, 'VALID') ** 2))(<k>) ; distinct k",
    "jnp.nan_to_num(<r>)", "jnp.trunc(<r>) * <e> ; between r", "jnp.select([<r> > 0.5, <r> > 0], [<e>, jnp.sin(<e>)], <r>) ; away r",
    "jnp.piecewise(<r>, [<r> > 0], [jnp.sin, jnp.cos]) ; away r",
]  # fmt: skip
PRODUCTS = [
    "<a> * <e>", "<a> * <h>", "<a> * <a>", "<a> / (2.5 + bounded(<h>))", "<c> / (2.5 + bounded(<a>))", "<a> + <e>",
    "<a> - <h>", "<s> - <a>", "<c> * <a>", "<c> - <a>", "<q> @ <q1>", "<q> @ <q1>.T", "<d> @ weights(eye(<d>))",
    "weights(eye(<d>)) @ jnp.swapaxes(jnp.atleast_2d(<d>), -1, -2)", "jnp.einsum('ij,ij->i', <m>, <e>)",
    "jnp.einsum('bi,bi->b', <m>, <e>)", "jnp.einsum('bij,bjk->bik', jnp.stack([<q>, jnp.sin(<q>)]), jnp.stack([<q1>, <q>]))", "jnp.vdot(<a>, <e>)",
    "lax.dot_general(<t>, <e1>, (((<t>.ndim - 1,), (<t>.ndim - 1,)), ((0,), (0,))))",
    "jnp.einsum('i,j->ij', <v>, <v1>)", "jnp.outer(<v>, <v1>)", "jnp.kron(<s>, <a>)", "jnp.tensordot(<q>, <q1>)",
    "jnp.cross(<w>, <w1>)", "jnp.convolve(<v>, <v1>)", "jnp.convolve(<v>, weights(<v>), 'same')", "jnp.inner(<v>, <e>)",
    "lax.conv_general_dilated(<m>[None, :, :, None], weights(<m>)[:2, :2, None, None], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))[0, ..., 0]",
    "lax.conv_general_dilated(<q>[None, :, :, None], jnp.sin(<q>)[..., None, None], (2, 1), 'SAME', rhs_dilation=(1, 2), dimension_numbers=('NHWC', 'HWIO', 'NHWC'))[0, ..., 0]",
    "lax.conv_general_dilated(<q>[None], <q1>[:, None, :2], (1,), [(1, 0)], feature_group_count=3)[0]",
    "jnp.polyval(weights(<v>), <s>)", "jnp.vander(0.5 * <v>, 3)", "jnp.linalg.multi_dot([<q>, <q1>, jnp.cos(<q>)])", "jnp.matvec(<q>, <v3>)" ,
    "jnp.linalg.matrix_power(0.4 * <q>, 3)", "jnp.corrcoef(weights(<q>) + 0.2 * bounded(<q>))", "jnp.cov(<q>)", "jnp.trapezoid(<v>)",
]  # fmt: skip
# Elementwise primitives take operands whose axes of size 1 broadcast.
BROADCASTING = [
    form.format("bounded(<v>)[:, None]", "bounded(<v1>)[None, :]")
    for form in [
        "{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} / (2.5 + {1})", "(2.5 + {0}) ** {1}", "(2.5 + {0}) ** 2.5 - {1}",
        "({0} + 2.5) ** weights({1})", "weights({0}) ** 2 + {1}", "weights({0}) * {1}", "weights({0}) - {1}", "{0} / weights({1})",
        "weights({0}) / (2.5 + {1})", "(2.5 + {0}) ** jnp.asarray(np.arange({1}.size)[None], {1}.dtype)", "2.5 ** ({0} * {1})", "jnp.logaddexp({0}, {1})",
        "jnp.where(b0, {0}, {1})", "jnp.where(weights({0}).real > 0, {0}, {1})", "(0.5 + weights({0}) ** 2) ** {1}", "lax.add({0}, {1})",
    ]
] + [
    form.format("<k>[:1]", "<e1>")
    for form in [
        "jnp.maximum({0}, {1})", "jnp.minimum({0}, {1})", "jnp.arctan2({0}, 2.5 + bounded({1}))", "jnp.hypot(2.5 + bounded({0}), {1})",
        "(lambda p, q: jnp.clip(q, -2.0 + bounded(p), 2.0 + bounded(p)))({0}, {1})", "jsp.special.xlogy({0}, 2.5 + bounded({1}))", "jnp.fmod({0}, 2.5 + bounded({1}))",
        "jnp.logaddexp({0}, {1})", "jnp.copysign(2.5 + bounded({0}), {1}) ; away e1", "{0} * {1}",
    ]
]  # fmt: skip
STRUCTURAL = [
    "jnp.reshape(<a>, -1)", "jnp.transpose(<a>)", "jnp.swapaxes(<t>, 0, 1)", "jnp.broadcast_to(<a>, (2, *<a>.shape))",
    "lax.broadcast_in_dim(<v>, (2, <v>.shape[0]), (1,))", "<n>[0]", "<n>[..., ::-1]", "<n>[1:]", "<n>[:-1]", "<n>[::2]",
    "lax.rev(<n>, (<axis>,))", "lax.dynamic_slice_in_dim(<n>, n0, 1)", "lax.dynamic_index_in_dim(<n>, n0, keepdims=False)",
    "lax.dynamic_update_slice(<n>, jnp.sin(<n>[:1]), (n0,) + (np.int32(0),) * (<n>.ndim - 1))", "jnp.roll(<n>, 1, <axis>)",
    "<n>[jnp.asarray([0, -1, 0])]", "<n>[n0]", "jnp.take(<n>, jnp.asarray([0, 0]), <axis>)", "<q>[jnp.asarray([0, 2]), jnp.asarray([1, 1])]",
    "jnp.take_along_axis(<n>, jnp.zeros((1,) * <n>.ndim, int), <axis>)", "<n>.at[0].add(<n>[-1])", "<n>.at[jnp.asarray([0, 0])].add(<s>)",
    "<n>.at[n0].set(<s>)", "<n>.at[0].multiply(<s>)", "<v>.at[jnp.asarray([0])].multiply(<s>, unique_indices=True)", "<k>.at[0].max(0.4) ; away k",
    "<n>.at[:1].subtract(<s>)", "<v>.at[0].divide(2.0)", "<v>.at[0].power(2)", "<v>.at[0].apply(jnp.sin)", "<r>.at[...].min(0.9)",
    "jnp.concatenate([<n>, <e>], <axis>)", "jnp.concatenate([<n>, jnp.ones_like(<n>)], <axis>)", "jnp.stack([<a>, <e>])", "jnp.stack([<a>, jnp.zeros_like(<a>)], -1)",
    "jnp.pad(<n>, 1)", "lax.pad(<v>, <s>, [(1, -1, 1)])", "jnp.pad(<v>, 1, 'edge')", "*jnp.split(<q>, 3)", "*jnp.split(<v>, [1])", "*jnp.unstack(<w>)",
    "jnp.squeeze(<n>[:1], 0)", "jnp.expand_dims(<a>, 0)", "jnp.tile(<n>, 2)", "jnp.repeat(<n>, 2, <axis>)", "jnp.flip(<a>)", "jnp.rot90(<q>)",
    "jnp.cumsum(<n>, <axis>)", "lax.cumsum(<n>, <axis>, reverse=True)", "jnp.diff(<n>)", "jnp.ravel(<a>)", "jnp.atleast_1d(<a>)", "jnp.moveaxis(<t>, 0, -1)",
    "jnp.tril(<q>)", "jnp.triu(<q>, 1)", "jnp.diag(<v>)", "jnp.diagonal(<q>)", "jnp.trace(<q>)", "jnp.fill_diagonal(<q>, <s>, inplace=False)",
    "jnp.copy(<a>)", "lax.optimization_barrier(<a>)", "*lax.optimization_barrier((<a>, <e>))", "lax.reduce_precision(<r>, 11, 52) * n0.astype(<r>.dtype)",
    "jnp.meshgrid(<v>, <v1>)[0]", "jnp.fft.fft(<v>).real", "jnp.fft.irfft(jnp.fft.rfft(<w>) ** 2, 3)", "jnp.array_split(<v>, 2)[0]", "jnp.where(b0, jnp.zeros_like(<a>), <a>)",
    "jnp.eye(3, dtype=<s>.dtype) * <s>", "jnp.zeros_like(<a>)", "weights(<a>) + <s>", "<a>[..., None]", "<a>[jnp.newaxis]", "jax.ops.segment_sum(<n>, jnp.zeros(<n>.shape[0], np.int32) + n0, 3)",
]  # fmt: skip
# Indices that are out of bounds, in every mode.
INDEXING = [
    form.format(mode=mode)
    for mode in ["mode='fill', fill_value=7.0", "mode='fill', fill_value=0", "mode='fill', fill_value=-0.5", "mode='clip'", "mode='wrap'"]
    for form in [
        "<n>.at[jnp.asarray([0, 5, -1, -7])].get({mode})", "<n>.at[n0 + 2].get({mode})", "jnp.take(<n>, jnp.asarray([[4, 0], [-1, 1]]), <axis>, {mode})",
        "jnp.take_along_axis(<v>, jnp.asarray([7, 0, -1]), 0, {mode})" if "wrap" not in mode else "jnp.take(<v>, n0 - 5, {mode})", "jax.vmap(lambda i: <v>.at[i].get({mode}))(jnp.asarray([0, 9, 1]))",
        "lax.scan(lambda c, i: (c + <v>.at[i].get({mode}), c), <s>, jnp.asarray([0, 6, 1]))[1]",
    ]
] + [
    form.format(mode=mode)
    for mode in ["drop", "clip", "fill", "wrap", "promise_in_bounds"]
    for form in [
        "<n>.at[n0 - n0].set(<s>, mode='{mode}')", "<v>.at[jnp.asarray([0, 0])].add(<s>, mode='{mode}')",
        *(["<v>.at[jnp.asarray([0, 5])].set(<s>, mode='{mode}')", "<v>.at[jnp.asarray([4, 0, 0])].add(jnp.sin(<s>), mode='{mode}')", "<v>.at[jnp.asarray([0, 8])].multiply(<s>, mode='{mode}', unique_indices=True)", "<v>.at[n0 + 2].subtract(<s>, mode='{mode}')"] if mode != "promise_in_bounds" else []),
        "<k>.at[n0 - n0].max(0.4, mode='{mode}') ; away k",
    ]
] + [
    "lax.gather(<v>, jnp.asarray([[0], [5]]), lax.GatherDimensionNumbers((), (0,), (0,)), (1,), mode='fill', fill_value=3)", "lax.gather(<v>, jnp.asarray([[0], [5]]), lax.GatherDimensionNumbers((), (0,), (0,)), (1,), mode='clip')",
    "<n>.at[jnp.asarray([0, 0])].get(mode='promise_in_bounds')", "<n>.at[0].get(indices_are_sorted=True, unique_indices=True)", "lax.dynamic_slice_in_dim(<n>, n0 + 3, 1)", "lax.dynamic_update_slice_in_dim(<n>, jnp.sin(<n>[:1]), n0 - 4, 0)",
]  # fmt: skip
# Exponents that are arguments; powers of what is clamped, below the edge and at it.
POWERS = [
    "(2.5 + bounded(<a>)) ** p0", "(2.5 + bounded(<a>)) ** (p0 * bounded(<e>))", "lax.pow(2.5 + bounded(<a>), jnp.full_like(<a>, 1.0) * p0)", "jnp.float_power(2.5 + bounded(<r>), p0)", "jnp.power(jnp.exp(bounded(<a>)), p0)", "jnp.exp(bounded(<a>)) ** p0",
    "p0 ** 2 + <a>", "(2.0 + p0 * p0) ** bounded(<a>)", "jax.jit(lambda p, q: jnp.exp(bounded(p)) ** q)(<a>, p0)", "lax.scan(lambda c, _: (jnp.exp(0.3 * bounded(c)) ** p0, None), <a>, None, length=2)[0]", "lax.cond(b0, lambda p: (2.5 + bounded(p)) ** p0, lambda p: p, <a>)",
    "jnp.maximum(<r>, 0.0) ** 1.5 ; away r", "jnp.maximum(<r>, 0.0) ** 3 ; away r", "jnp.maximum(<r>, 0.0) ** 2.5 + <r> ; away r", "jax.nn.relu(<r>) ** 1.5 ; away r", "jnp.sqrt(jnp.maximum(<r> - 3.0, 0.0))", "jnp.clip(<r>, 0.0, 0.6) ** 0.5 ; away r",
    "jnp.where(<r> > 0, jnp.maximum(<r>, 0.1), 1.0) ** p0 ; away r", "(0.0 * <a>) ** 2.5", "(<a> - <a>) ** 3", "jnp.zeros_like(<a>) ** 1.5 + <a>",
]  # fmt: skip
# Results that nobody uses, inside of what has several.
UNUSED = [
    "jax.jit(lambda p: (<f p>, <f p>))(<a>)[0]", "jax.jit(lambda p: (<f p>, jnp.cumsum(p), jnp.sort(p.real)))(<n>)[0]", "lax.scan(lambda c, x: (<f c x>, (<f c x>, <f x>)), <n>[0], <n>)[1][1]", "lax.scan(lambda c, x: ((<f c[0] x>, <f c[1] x>), None), (<n>[0], <n>[-1]), <n>)[0][0]",
    "lax.cond(b0, lambda p: (<f p>, <f p>), lambda p: (p, <f p>), <a>)[0]", "lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, <f c[1]>, <f c[1] c[2]>), (n0, <a>, <e>))[1]", "jax.checkpoint(lambda p: (<f p>, <f p>))(<a>)[1]", "several(<a>)[0]", "several(<a>)[1]",
    "jax.jit(lambda p: several(p)[0])(<a>)", "lax.scan(lambda c, x: (several(c)[1], several(x)), <n>[0], <n>)[1][0]", "lax.switch(n0, [lambda p: (<f p>, p), lambda p: (p, <f p>), several], <a>)[1]",
]  # fmt: skip
REDUCTIONS = [
    "jnp.sum(<a>)", "jnp.sum(<n>, <axis>)", "jnp.sum(<n>, <axis>, keepdims=True)", "jnp.mean(<n>, <axis>)", "jnp.prod(<a>)", "jnp.prod(<n>, <axis>)",
    "jnp.cumprod(<n>, <axis>)", "lax.cumprod(<n>, <axis>, reverse=True)", "lax.cumlogsumexp(<k>, <axis>)", "lax.cumlogsumexp(<k>, <axis>, reverse=True)",
    "jax.nn.logsumexp(<k>, <axis>)", "jax.nn.logsumexp(<a>)", "jax.nn.logsumexp(<k>, b=weights(<k>) ** 2)", "jnp.var(<k>, <axis>)", "jnp.std(weights(<k>) + 0.1 * bounded(<k>)) if <k>.size > 1 else jnp.sum(<k>)",
    "jnp.linalg.norm(<n>) ; away n", "jnp.linalg.norm(<k>, axis=<axis>) ; away k", "jnp.linalg.norm(<v>, 3) ; away v", "jnp.average(<k>, weights=2.5 + bounded(<k>))", "lax.reduce(<n>, np.zeros((), <n>.dtype), lax.add, (0,))",
    "lax.reduce(<k>, np.ones((), <k>.dtype), lax.mul, (0,))", "lax.reduce(<k>, np.asarray(-np.inf, <k>.dtype), lax.max, (0,)) ; distinct k", "lax.reduce_window(<n>, np.zeros((), <n>.dtype), lax.add, (2,) * <n>.ndim, (1,) * <n>.ndim, 'SAME')", "jnp.cumsum(<v>[::-1])",
    "jnp.nansum(<r>)", "jnp.sum(<a>, where=weights(<a>).real > 0)", "jnp.count_nonzero(<k>).astype(<k>.dtype) + <k>", "jnp.max(<k>, where=weights(<k>) > 2, initial=-9.0) + <k>",
]  # fmt: skip
LINEAR_ALGEBRA = [
    "jnp.linalg.solve(dominant(<q>), <q1>)", "jnp.linalg.solve(dominant(<q>), <v3>[:3]) if <v3>.size >= 3 else <v3>", "jnp.linalg.inv(dominant(<q>))", "jnp.linalg.det(0.3 * dominant(<q>))",
    "jnp.linalg.slogdet(dominant(<q>))[1]", "jnp.linalg.cholesky(definite(<q>))", "*jnp.linalg.qr(dominant(<q>))", "jnp.linalg.qr(dominant(<q>)[:, :2])[1]", "*jnp.linalg.eigh(separated(<q>))", "jnp.linalg.eigvalsh(separated(<q>))",
    "jnp.linalg.svd(dominant(<q>) @ separated(<q>), compute_uv=False)", "jnp.linalg.svd(dominant(<q>) @ separated(<q>), full_matrices=False)[1]", "jnp.linalg.pinv(dominant(<q>)[:, :2])",
    "jsp.linalg.solve_triangular(dominant(<q>), <q1>, lower=True)", "jsp.linalg.solve_triangular(dominant(<q>), <q1>, trans=1)", "jsp.linalg.solve_triangular(dominant(<q>), <q1>, lower=True, unit_diagonal=True, trans=1)",
    "lax.linalg.triangular_solve(dominant(<q>), <q1>, left_side=False, lower=True)", "lax.linalg.triangular_solve(dominant(<q>), <q1>, left_side=False, transpose_a=True, conjugate_a=True)", "jsp.linalg.cho_solve((jnp.linalg.cholesky(definite(<q>)), True), <q1>)",
    "jsp.linalg.expm(0.3 * bounded(<q>))", "jsp.linalg.lu_solve(jsp.linalg.lu_factor(dominant(<q>)), <q1>)", "jsp.linalg.lu(dominant(<q>))[2]", "jnp.linalg.lstsq(dominant(<q>)[:, :2], <q1>)[0]", "jnp.linalg.tensorinv(dominant(<q>), 1)",
    "jax.vmap(jnp.linalg.solve)(jax.vmap(dominant)(jnp.stack([<q>, <q1>])), jnp.stack([<q>, jnp.sin(<q>)]))", "jax.vmap(lambda p: jnp.linalg.cholesky(definite(p)))(jnp.stack([<q>, <q1>]))", "jax.vmap(lambda p: jnp.linalg.inv(dominant(p)))(jnp.stack([<q>, <q1>]))",
    "jax.grad(lambda p: jnp.linalg.slogdet(dominant(p))[1])(<q>) if not jnp.iscomplexobj(<q>) else <q>", "jax.grad(lambda p: jnp.sum(jnp.linalg.cholesky(definite(p))))(<q>) if not jnp.iscomplexobj(<q>) else <q>",
    "jax.jvp(lambda p: jnp.linalg.solve(dominant(p), <q1>), (<q>,), (<q1>,))[1]", "jnp.linalg.eigvals(separated(<q>)).real", "jax.lax.custom_linear_solve(lambda u: dominant(<q>) @ u, <q1>, lambda f, b: jnp.linalg.solve(dominant(<q>), b))",
    "lax.custom_root(lambda u: u + 0.2 * jnp.sin(u) - <s>, jnp.zeros_like(<s>), lambda f, u: lax.fori_loop(0, 60, lambda i, u: u - f(u), u), lambda g, b: b / g(jnp.ones_like(b)))",
]  # fmt: skip
CONTROL_FLOW = [
    "lax.scan(lambda c, x: (<f c x>, <f c x>), <n>[0], <n>)[1]", "lax.scan(lambda c, x: (<f c x>, <f c x>), <n>[0], <n>, reverse=True)[1]", "lax.scan(lambda c, x: (<f c>, c * x), <n>[-1], jnp.cos(<n>))[0]", "lax.scan(lambda c, x: (0.5 * c + <f x>, x), jnp.zeros_like(<n>[0]), <n>, unroll=2)[0]",
    "(lambda k: lax.scan(lambda c, x: (0.6 * c + <f k>, <f c x>), <n>[0], <n>)[1])(<s>)", "lax.scan(lambda c, x: ((c[1], <f c[0] x>), c[0]), (<n>[0], <n>[-1]), <n>)[0][1]", "lax.scan(lambda c, x: ((c[0] + 1, <f c[1] x>), c[0]), (0, <n>[0]), <n>)[0][1]", "lax.scan(lambda c, _: (<f c>, c), <a>, None, length=3)[1]",
    "*lax.scan(lambda c, x: (<f c x>, <f x>), <v>[0], <v>)", "lax.scan(lambda c, p: (<f c>, lax.cond(p[0] > 0, jnp.sin, jnp.cos, p[1])), <v>[0], (weights(<v>).real, <v>))[1]", "lax.scan(lambda c, x: (lax.scan(lambda d, y: (<f d y>, d), c, jnp.stack([x, c]))[0], c), <v>[0], <v>)[1]",
    "lax.fori_loop(0, 3, lambda i, c: <f c>, <a>)", "lax.fori_loop(0, n0 + 1, lambda i, c: <f c>, <a>)", "lax.fori_loop(0, <v>.shape[0], lambda i, c: c.at[i].set(0.5 * c[i - 1] + c[i]), <v>)", "lax.fori_loop(0, 2, lambda i, c: lax.fori_loop(0, 2, lambda j, d: <f d>, c), <a>)", "lax.fori_loop(0, 3, lambda i, c: (c[1], <f c[0] c[1]>), (<a>, <e>))[1]",
    "lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, <f c[1]>), (n0, <a>))[1]", "lax.while_loop(lambda c: jnp.sum(jnp.abs(c)) > 0.5, lambda c: 0.4 * (c + 0.3 * jnp.sin(c)), <a>)", "lax.while_loop(lambda c: jnp.sum(jnp.abs(c[0])) > 0.5, lambda c: (0.4 * c[0], <f c[1]>), (<a>, <a1>))[1]",
    "(lambda k: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, <f c[1] k>), (0, k))[1])(<a>)", "jax.vmap(lambda p: lax.while_loop(lambda c: jnp.abs(c) > 0.5, lambda c: 0.4 * (c + 0.3 * jnp.sin(c)), p))(<v>)", "eqx.internal.while_loop(lambda c: jnp.sum(jnp.abs(c)) > 0.5, lambda c: 0.4 * (c + 0.3 * jnp.sin(c)), <a>, kind='checkpointed', max_steps=16)",
    "eqx.internal.while_loop(lambda c: jnp.sum(jnp.abs(c)) > 0.5, lambda c: 0.4 * jnp.cos(c) * c, <a>, kind='bounded', max_steps=4)", "eqx.internal.scan(lambda c, x: (<f c x>, <f c>), <v>[0], <v>, kind='lax')[1]",
    "lax.cond(b0, lambda p: <f p>, lambda p: <f p>, <a>)", "lax.cond(jnp.sum(jnp.real(<a>)) > 0.1, lambda p, q: <f p q>, lambda p, q: q, <a>, <e>)", "lax.cond(b0, lambda p: jnp.zeros_like(p), lambda p: <f p>, <a>)", "lax.switch(n0, [lambda p: <f p>, jnp.ones_like, lambda p: <f p>], <a>)",
    "jax.vmap(lambda p: lax.cond(jnp.real(p) > 0.1, lambda q: <f q>, lambda q: <f q>, p))(<v>)", "jax.vmap(lambda i, p: lax.switch(i, [jnp.sin, jnp.cos, lambda q: <f q>], p))(jnp.arange(<v>.shape[0]), <v>)", "*lax.cond(b0, lambda p, q: (p, <f q>), lambda p, q: (<f p q>, p), <a>, <e>)",
    "lax.associative_scan(jnp.multiply, <n>)", "lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (jnp.cos(<n>), <e1>))[1]", "lax.map(lambda p: <f p>, <n>)", "lax.map(lambda p: <f p>, <n>, batch_size=2)", "lax.associative_scan(jnp.add, <n>, reverse=True)",
]  # fmt: skip
TRANSFORMATIONS = [
    "jax.jit(lambda p: <f p>)(<a>)", "eqx.filter_jit(lambda p: <f p>)(<a>)", "jax.checkpoint(lambda p: <f p>)(<a>)", "jax.checkpoint(lambda p, q: <f p q>)(<a>, <e>)", "eqx.filter_checkpoint(lambda p: <f p>)(<a>)", "jax.vmap(lambda p: <f p>)(<n>)", "jax.vmap(lambda p, q: <f p q>, (0, None))(<n>, <s>)",
    "jax.vmap(lambda p: <f p>, 1, 1)(<t>)", "jax.vmap(lambda p, q: p @ q, (1, 0))(<q>, <q1>)", "jax.vmap(jax.vmap(lambda p: <f p>))(<t>)", "jax.grad(lambda p: jnp.sum(<f p>))(<r>)", "*jax.value_and_grad(lambda p: jnp.sum(<f p>))(<r>)", "(lambda k: jax.grad(lambda p: jnp.sum(<f p k>))(k))(<r>)",
    "jax.grad(jax.grad(lambda p: <f p>))(<s>) if not jnp.iscomplexobj(<s>) else <s>", "jax.vmap(jax.grad(lambda p: <f p>))(<v>) if not jnp.iscomplexobj(<v>) else <v>", "*jax.jvp(lambda p: <f p>, (<a>,), (<e>,))", "jax.jvp(lambda p, q: <f p q>, (<a>, <e>), (<e>, <a>))[1]", "jax.vjp(lambda p: <f p>, <r>)[1](<e>)[0]",
    "jax.linearize(lambda p: <f p>, <a>)[1](<e>)", "jax.jacfwd(lambda p: <f p>)(<w>)", "jax.jacrev(lambda p: <f p>)(<w>)", "jax.hessian(lambda p: jnp.sum(<f p>))(<w>)", "jax.grad(lambda p: jnp.sum(lax.scan(lambda c, x: (<f c x>, c), p[0], p)[1]))(<k>)", "jax.jvp(lambda p: lax.fori_loop(0, 2, lambda i, c: <f c>, p), (<a>,), (<e>,))[1]",
    "second_derivative(lambda p: <f p>, <a>, <e>)", "second_derivative(lambda p: jnp.sum(<f p>), <a>, <e>)", "second_derivative(lambda p: lax.scan(lambda c, x: (<f c x>, c), p[0], p)[0], <n>, <e>)", "jax.vmap(lambda p: second_derivative(lambda q: <f q>, p, p))(<v>)", "jax.grad(lambda p: jnp.sum(second_derivative(lambda q: <f q>, p, p)))(<r>)", "second_derivative(jax.grad(lambda p: jnp.sum(<f p>)), <r>, <e>)",
    "jax.checkpoint(jax.grad(lambda p: jnp.sum(<f p>)))(<r>)", "jax.linear_transpose(lambda p: 2.0 * p[::-1], <v>)(<v>)[0]", "jax.grad(lambda p: applied(lambda q: <f q>, p, p))(<s>) if not jnp.iscomplexobj(<s>) else <s>", "jax.named_call(lambda p: <f p>, name='inner')(<a>)",
]  # fmt: skip
COMPLEX = [
    "jnp.real(<z>)", "jnp.imag(<z>)", "jnp.conj(<z>)", "jnp.abs(<z>) ; away z", "jnp.angle(<z>) ; away z", "lax.complex(jnp.real(<z>), jnp.imag(<z>)) ** 2", "lax.complex(<r>, <e>)", "<z> ** 3", "<z> ** -1 ; away z", "lax.sign(<z>) ; away z", "jnp.sum(jnp.abs(<z>) ** 2)",
    "jnp.vdot(<z>, <e>)", "<z> ** (0.3 + bounded(<e>)) ; away z", "jnp.log(<z>) ; away z", "jnp.sqrt(<z>) ; away z", "<r>.astype(complex) * (1.0 + 2.0j)", "jnp.linalg.norm(<z>) ; away z", "<z>.mT.conj() if <z>.ndim >= 2 else <z>", "jax.jvp(jnp.abs, (<z>,), (<e>,))[1] ; away z", "jnp.fft.fft(jnp.atleast_1d(<z>)) if <z>.size else <z>",
    "jnp.exp(1j * bounded(<z>))",
]  # fmt: skip

FORMS = dict(
    elementwise=ELEMENTWISE, special=SPECIAL, kinks=KINKS, products=PRODUCTS, broadcasting=BROADCASTING, structural=STRUCTURAL,
    reductions=REDUCTIONS, linear_algebra=LINEAR_ALGEBRA, control_flow=CONTROL_FLOW,
    transformations=TRANSFORMATIONS, complex=COMPLEX, indexing=INDEXING, powers=POWERS, unused=UNUSED,
)  # fmt: skip
