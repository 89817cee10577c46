"""The rules, one file for each kind of primitive. Importing this registers them."""

from . import (
    calls as calls,
    control_flow as control_flow,
    custom_jvps as custom_jvps,
    derived as derived,
    elementwise as elementwise,
    implicit as implicit,
    powers as powers,
    products as products,
    reductions as reductions,
    special as special,
    sparse as sparse,
    structural as structural,
)
