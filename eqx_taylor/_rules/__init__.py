"""The rules, one file for each kind of primitive. Importing this registers them."""

from . import (
    bessel as bessel,
    calls as calls,
    control_flow as control_flow,
    custom_jvps as custom_jvps,
    derived as derived,
    determinant as determinant,
    elementwise as elementwise,
    implicit as implicit,
    linear_algebra as linear_algebra,
    powers as powers,
    products as products,
    reductions as reductions,
    sparse as sparse,
    special as special,
    spectral as spectral,
    structural as structural,
)
