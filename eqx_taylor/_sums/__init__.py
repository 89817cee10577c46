"""Weighted sums over directions, pushed through a program: collapsed Taylor mode."""
