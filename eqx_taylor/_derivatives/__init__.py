"""Derivatives of functions: jets, derivatives, differential operators."""
