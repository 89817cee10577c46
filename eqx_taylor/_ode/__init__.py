"""Ordinary differential equations: their jets, the solver, its controller."""
