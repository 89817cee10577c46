"""Programs that do the same with fewer equations."""

from ._transform import cse as cse, simplify as simplify
