"""Programs that do the same with fewer equations."""

from .transform import cse as cse, simplify as simplify
