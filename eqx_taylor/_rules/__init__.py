"""The rules, one file for each kind of primitive. Importing this registers them."""

from . import (
    calls as calls,
    control_flow as control_flow,
    derived as derived,
    elementwise as elementwise,
    products as products,
    reductions as reductions,
    structural as structural,
)
