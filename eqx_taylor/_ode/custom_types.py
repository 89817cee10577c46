"""The types of ODEs in annotations."""

from typing import Any, TYPE_CHECKING

import diffrax


# Of any vector field and control, which static checkers want to be told.
if TYPE_CHECKING:
    AbstractTerm = diffrax.AbstractTerm[Any, Any]
    ODETerm = diffrax.ODETerm[Any]
else:
    AbstractTerm = diffrax.AbstractTerm
    ODETerm = diffrax.ODETerm
