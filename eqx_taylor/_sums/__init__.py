"""Collapsed Taylor mode: weighted sums over directions, propagated through a
program."""
