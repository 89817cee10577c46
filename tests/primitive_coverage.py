"""Every primitive of JAX, Equinox, Lineax, Optimistix and Diffrax: what becomes of it.

Tables by name, for all the versions of JAX that are supported: a name may be unknown to
the one that is installed. A test finds every primitive that is, and each must have a
rule or be in a table here or of the package. The page on primitives in the
documentation is made of them.
"""

from collections.abc import Hashable

from eqx_taylor._core.rule import RULES
from eqx_taylor._rules import refusals
from eqx_taylor._rules.refusals import enter, REFERENCES


# JAX has a derivative, which is read as a recurrence (`derived.py`).
DERIVED = frozenset(
    """
    announce_jaxpr call_hi_primitive cumlogsumexp cumprod noinline pallas_call
    polynomial random_gamma reduce reduce_prod reduce_window run_state scatter-max
    scatter-min scatter-mul
    """.split()
)

# The first coefficient is the only one: for each the reason.
ZERO: dict[str, str] = {}

# Not to be differentiated: those that a program of one's own may have, and others.
UNSUPPORTED: dict[str, str] = dict(refusals.UNSUPPORTED)


# -- of which no coefficient but the first is nonzero

enter(
    ZERO,
    "Returns integers or booleans.",
    """
    and argmax argmin axis_index clz eq eq_to ge gt is_finite le le_to lt lt_to
    lu_pivots_to_permutation mulhi ne not or platform_index population_count
    reduce_and reduce_or reduce_xor shift_left shift_right_arithmetic
    shift_right_logical xor unvmap_all unvmap_any unvmap_max
    """,
)
enter(
    ZERO,
    "Has no operands that can be differentiated.",
    "after_all create_token dim_as_value dimension_size empty empty2 iota",
)
enter(
    ZERO,
    "Computes random bits and keys: integers from integers.",
    """
    consume iota_2x32_shape philox2x32 philox4x32 random_bits random_clone
    random_fold_in random_seed random_split random_unwrap random_wrap
    rng_bit_generator threefry2x32 threefry4x32
    """,
)
enter(
    ZERO,
    "Has no outputs: it runs once, on the values.",
    """
    assert_consumed_value check dce_sink debug_callback debug_print inspect_sharding
    shape_assertion
    """,
)
enter(
    ZERO,
    "Has slope zero by JAX's convention: bits, taken for another type.",
    "bitcast_convert_type",
)

# -- that stand in no program that a jet is given

GRADIENT_REFERENCE = (
    "Adds to a gradient in place, while JAX transposes a program: in none that is "
    "given to a jet."
)
enter(UNSUPPORTED, GRADIENT_REFERENCE, "accum_grad_in_ref")
KERNEL = (
    "A part of a kernel (Pallas, for TPUs and GPUs), which stands inside `pallas_call` "
    "only, and has no derivative in JAX. Where there is no derivative of the whole "
    "kernel, give one to the function that calls it (`jax.custom_jvp`)."
)
enter(
    UNSUPPORTED,
    KERNEL,
    """
    _copysign add_dependency all_reduce_ffs all_reduce_population_count
    async_copy_scales_to_tmem async_copy_smem_to_tmem
    async_copy_sparse_metadata_to_tmem async_load async_prefetch async_store_smem
    async_store_tmem atomic_cas atomic_rmw barrier barrier_arrive
    barrier_arrive_and_wait barrier_test barrier_wait bitcast broadcast_to
    commit_group commit_smem commit_tmem conv copy_gmem_to_smem copy_smem_to_gmem
    core_map create_linear debug_barrier debug_barrier_p delay dma_start dma_wait
    einshape_lo elementwise_inline_asm elementwise_inline_asm_p emit_pipeline
    get_barrier_semaphore griddepcontrol_launch_dependents griddepcontrol_wait
    has_memory_space inline_mgpu inline_mgpu_p jaxpr_call layout_cast load
    masked_cummax masked_cummin masked_cumsum masked_sort matmul_acc_lhs
    matmul_lhs_fifo matmul_pop matmul_pop_fifo matmul_push_rhs max_contiguous
    mgpu_atomic_store mma mosaic_gpu_reduce_max mosaic_gpu_reduce_min
    mosaic_gpu_reduce_prod mosaic_gpu_reduce_sum multimem_load_reduce multimem_store
    multiple_of num_programs pack pack_dtype pack_elementwise parallel_loop pin
    pipeline_body print_layout prng_join prng_random_bits prng_seed prng_split
    program_id query_cluster_cancel reciprocal remove_memory_space roll run_scoped
    sc_fetch_and_add scan_count semaphore_read semaphore_signal
    semaphore_signal_multicast semaphore_signal_parallel semaphore_wait
    set_max_registers set_max_registers_p stochastic_round store
    tcgen05_commit_arrive tcgen05_mma trace_value try_cluster_cancel unique unpack
    unpack_dtype unpack_elementwise unpin wait_gmem_to_smem wait_load_tmem
    wait_smem_to_gmem wgmma wgmma_accumulator_deref wgmma_accumulator_deref_p
    wgmma_accumulator_store wgmma_accumulator_store_p wgmma_ref wgmma_wait
    """,
)
KERNEL_REFERENCE = (
    "Reads or writes memory of a kernel (Pallas). It stands inside `pallas_call` only, "
    "where JAX differentiates it, and the derivative of `pallas_call` is what is used."
)
enter(UNSUPPORTED, KERNEL_REFERENCE, "get_global masked_load masked_swap")
COMPILED_KERNEL = (
    "A kernel as a whole, for a TPU or a GPU, without derivative in JAX. What calls it "
    "may have a `custom_vjp`, which serves reverse mode only."
)
enter(
    UNSUPPORTED,
    COMPILED_KERNEL,
    """
    cudnn_fusion custom_fusion dot_product_attention_bwd
    dot_product_attention_bwd_wrapper dot_product_attention_fp8_bwd
    dot_product_attention_fp8_bwd_wrapper dot_product_attention_fp8_fwd
    dot_product_attention_fp8_fwd_wrapper dot_product_attention_fwd
    dot_product_attention_fwd_wrapper fusible mosaic_gpu_p mpmd_map rnn_bwd rnn_fwd
    scaled_matmul scaled_matmul_wrapper tpu_custom_call
    """,
)
ASYNCHRONOUS = (
    "One half of a collective operation that is begun and awaited separately. JAX "
    "defines no derivative for it; the operation in one piece has a rule."
)
enter(
    UNSUPPORTED,
    ASYNCHRONOUS,
    """
    all_gather_done all_gather_reduced_start all_gather_start all_to_all_done
    all_to_all_start pbroadcast_done pbroadcast_start ppermute_done ppermute_start
    psum_done psum_invariant_start psum_start reduce_scatter_done
    reduce_scatter_start unreduced_psum_start unreduced_reduce_scatter_start
    """,
)
THUNK = (
    "An instruction of a program that was written for XLA's run time (`thunky`), not "
    "for JAX's transformations: no derivative."
)
enter(
    UNSUPPORTED,
    THUNK,
    """
    thunky.all_gather thunky.all_reduce thunky.all_to_all thunky.async_done
    thunky.async_start thunky.call_jax thunky.call_thunky_nested
    thunky.collective_group thunky.collective_permute thunky.cond thunky.copy
    thunky.custom_call thunky.inline_constant thunky.memset thunky.memzero
    thunky.ptx_kernel thunky.reduce_scatter thunky.while
    """,
)
INTERNAL = (
    "Made by JAX itself while it transforms or lowers a program: in none that is given "
    "to a jet. JAX defines no derivative for it."
)
enter(
    UNSUPPORTED,
    INTERNAL,
    """
    call_hi_primitive_linearized coo_spmm coo_spmv csr_spmm csr_spmv
    custom_jvp_call_jaxpr custom_lin unreachable zeros_like
    """,
)

# -- the rules themselves

# What the words that `kind` returns say.
KINDS = {
    "linear": "The same operation, applied to each coefficient.",
    "product": "The Cauchy product of two series, with this operation as the product.",
    "piecewise linear": "The derivative at coefficient 0, applied to each of the "
    "others: the largest entry, for example, stays the same along the curve.",
    "differential equation": "A recurrence, from `y' = g(x, y) x'`.",
    "recurrence": "A recurrence of its own.",
    "rewrite": "The series of another expression.",
    "matrix equation": "A recurrence, from an equation between matrices: one "
    "factorisation serves all orders.",
    "implicit function": "A recurrence, from an equation that the result solves.",
    "control flow": "A loop or a branch over all coefficients.",
    "call": "The series of the function that is called.",
    "derived": "A recurrence, from the derivative that JAX defines.",
    "zero": "Coefficient 0 only: all others are zero.",
    "reference": "The value of a mutable reference (`jax.new_ref`) that the function "
    "itself has made.",
    "none": "A `NotImplementedError`, if an operand is differentiated.",
}


def kind(name: Hashable) -> str:
    """How the primitive of this name, or the function with this `custom_jvp`, is
    treated: one of `KINDS`."""
    if name in RULES:
        return RULES[name].kind
    if name in DERIVED:
        return "derived"
    if name in REFERENCES:
        return "reference"
    if name in ZERO:
        return "zero"
    if name in UNSUPPORTED:
        return "none"
    raise KeyError(f"The primitive `{name}` is in no table.")


# JAX's are all the others. Optimistix and Diffrax have none.
_PACKAGES = {
    "equinox": """
    announce_jaxpr maybe_set nonbatchable nondifferentiable_backward nontraceable
    noinline select_if_vmap unvmap_all unvmap_any unvmap_max vprim
    """.split(),
    "lineax": ["linear_solve"],
}


def package(name: str) -> str:
    """The package that a primitive is of."""
    for package, names in _PACKAGES.items():
        if name in names:
            return package
    return "jax"
