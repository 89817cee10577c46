"""Facts about primitives that do not depend on their rules: one table for each fact.

Facts that a rule declares about its primitive are in the table of rules. The installed
version of JAX may lack some of these names.
"""

from typing import Any, NamedTuple


class Call(NamedTuple):
    """A primitive that calls a function.

    **Fields:**

    - `callee`: the parameter that holds the function's jaxpr.
    - `is_read_in_place`: whether a jet reads the function as a part of the program
        around it.
    - `is_transparent`: whether it does nothing except call the function, so that it is
        not counted in addition to the function's equations.
    - `is_rewritten`: whether the function can be simplified in its place.
    """

    callee: str
    is_read_in_place: bool = False
    is_transparent: bool = False
    is_rewritten: bool = False


# A `custom_vjp` has no forward rule in JAX, so the function itself is differentiated.
# The batching rule of a `custom_vmap` does not apply to a jet.
CALLS = {
    "jit": Call("jaxpr", True, is_transparent=True, is_rewritten=True),
    "call": Call("call_jaxpr", True),
    "closed_call": Call("call_jaxpr", True, is_transparent=True),
    "eval_jaxpr": Call("jaxpr", True, is_transparent=True),
    "composite": Call("jaxpr", True),
    "custom_jvp_call": Call("call_jaxpr", is_rewritten=True),
    "custom_vjp_call": Call("call_jaxpr", True, is_rewritten=True),
    "custom_vmap_call": Call("call", True),
    "linear_call": Call("callee", True),
    "program_order": Call("call_jaxpr", True),
    "remat2": Call("jaxpr", is_rewritten=True),
    "remat_opt": Call("fwd_jaxpr", True),
    "xla_metadata_call": Call("jaxpr", True),
}


def callee(eqn: Any) -> Any:
    """Returns the jaxpr of the function that an equation calls, open or closed."""
    name = CALLS[eqn.primitive.name].callee
    # JAX has renamed some of these parameters.
    return eqn.params[name if name in eqn.params else "call_jaxpr"]


# Primitives that apply a function entry by entry.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp clz complex conj convert_element_type copy cos cosh digamma
    div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a
    igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt
    lt_to max min mul mulhi name ne neg nextafter not one_minus_square
    optimization_barrier or polygamma polynomial population_count pow pvary
    random_gamma_grad real reduce_precision regularized_incomplete_beta rem round
    rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    sqrt square sub tan tanh xor zeta
    """.split()
)

# Primitives that return the entries of an array along other axes, or several times.
REARRANGING = frozenset(["broadcast_in_dim", "reshape", "squeeze", "transpose"])

# Primitives that rearrange or select entries, without floating-point operations.
FREE = REARRANGING | frozenset(
    """
    concatenate convert_element_type copy device_put dynamic_slice
    dynamic_update_slice gather imag iota name optimization_barrier pad
    random_unwrap random_wrap real rev scatter select_n slice split stop_gradient
    """.split()
)
