"""Transformations to equivalent programs with fewer equations."""

from .transform import cse as cse, simplify as simplify
