"""The types of ODEs in annotations."""

from typing import Any, TYPE_CHECKING

import diffrax


# Static checkers require type arguments: any vector field, and any control.
if TYPE_CHECKING:
    AbstractTerm = diffrax.AbstractTerm[Any, Any]
    ODETerm = diffrax.ODETerm[Any]
else:
    AbstractTerm = diffrax.AbstractTerm
    ODETerm = diffrax.ODETerm
