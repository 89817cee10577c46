"""The rules, one file for each kind of primitive. Importing this registers them."""

from .._core import rule
from . import bessel as bessel
from . import calls as calls
from . import control_flow as control_flow
from . import derived as derived
from . import determinant as determinant
from . import elementwise as elementwise
from . import implicit as implicit
from . import indexing as indexing
from . import linear_algebra as linear_algebra
from . import logarithms as logarithms
from . import normal_distribution as normal_distribution
from . import orderings as orderings
from . import powers as powers
from . import products as products
from . import reductions as reductions
from . import sparse as sparse
from . import special as special
from . import spectral as spectral
from . import structural as structural


rule.checks_names = True
