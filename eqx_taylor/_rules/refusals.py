"""Primitives that cannot be differentiated, with the reason for each."""

# Primitives of mutable references. References that a function makes itself are replaced
# by values before the function is read (`without_references`).
REFERENCES = frozenset("addupdate empty_ref free_ref freeze get new_ref swap".split())

# Reasons, by primitives that cannot be differentiated.
UNSUPPORTED: dict[str, str] = {}


def enter(table: dict[str, str], reason: str, names: str) -> None:
    for name in names.split():
        if name in table:
            raise ValueError(f"`{name}` has two reasons.")
        table[name] = reason


NO_DERIVATIVE = "JAX defines no derivative for it."
enter(
    UNSUPPORTED,
    NO_DERIVATIVE,
    """
    call_exported call_tf cholesky_update custom_partitioning geqp3 geqrf hessenberg
    householder_product igamma_grad_a nonbatchable ormqr pmax pmin precv psend
    rng_uniform scaled_dot schur select_and_scatter symmetric_product tridiagonal
    unreduced_pmax unreduced_pmin
    """,
)

CALLBACK = (
    "A function that JAX cannot see into, so that it has no derivative unless one is "
    "given to the function that calls it (`jax.custom_jvp`)."
)
enter(
    UNSUPPORTED,
    CALLBACK,
    "buffer_callback ffi_call io_callback pure_callback",
)

NOT_ALLOWED = "Its purpose is to raise an error where it is differentiated."
enter(UNSUPPORTED, NOT_ALLOWED, "nontraceable")

EXTENDED_TYPE = (
    "Converts to or from an extended type (a dtype with rules of its own), which JAX's "
    "public functions do not define; its tangents have another type."
)
enter(UNSUPPORTED, EXTENDED_TYPE, "from_edtype to_edtype")
MUTABLE_TYPE = (
    "A mutable value of one of JAX's experimental types, which are no arrays: it has "
    "no coefficients. Return the values from the function instead."
)
enter(
    UNSUPPORTED,
    MUTABLE_TYPE,
    "box_get box_set log_extend log_read new_box new_log",
)

# Remedies, by primitives of which JAX differentiates some equations, and not others.
REMEDIES = {
    "scatter-mul": "JAX can do so if no index occurs twice: "
    "`x.at[indices].multiply(y, unique_indices=True)`. Otherwise multiply by one entry "
    "after the other, in a `jax.lax.fori_loop`.",
}


def is_refused(name: str) -> bool:
    """Returns whether the primitive is known not to be differentiable."""
    return name in UNSUPPORTED or name in REFERENCES


def reason(name: str) -> str:
    """Explains why the primitive of this name is not differentiated."""
    if name in REFERENCES:
        return (
            "The mutable reference is from outside of the function, so there is no "
            "place for its derivatives. Create it inside the function (`jax.new_ref`), "
            "and return its value."
        )
    otherwise = REMEDIES.get(name, "Neither eqx_taylor nor JAX can do so.")
    return UNSUPPORTED.get(name, otherwise)
