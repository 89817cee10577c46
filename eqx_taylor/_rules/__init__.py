"""The rules, one file for each kind of primitive. Importing this registers them."""

from . import bessel as bessel
from . import calls as calls
from . import control_flow as control_flow
from . import custom_jvps as custom_jvps
from . import derived as derived
from . import determinant as determinant
from . import elementwise as elementwise
from . import implicit as implicit
from . import linear_algebra as linear_algebra
from . import powers as powers
from . import products as products
from . import reductions as reductions
from . import sparse as sparse
from . import special as special
from . import spectral as spectral
from . import structural as structural
