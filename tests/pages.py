"""What a page of the documentation shows, compared with what its code prints."""

import re

import numpy as np


_NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]\d+)?")


def _assert_same_number(shown, printed, line):
    """To one unit of the last digit shown; and to a factor of ten where it is rounding
    (1e-12 and below), which differs between machines. Numbers of steps at an error that
    lies between two tolerances differ by a few, as that does."""
    a, b = float(shown), float(printed)
    if shown.isdecimal() and a > 100:
        assert abs(a - b) < 0.03 * a, line
        return
    mantissa, _, exponent = shown.partition("e")
    if exponent and int(exponent) <= -12:
        assert abs(np.log10(a / b)) < 1, line
        return
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    assert abs(a - b) < 1.5 * 10.0**-decimals, line


def assert_same_line(shown, printed):
    assert _NUMBER.sub("", shown).split() == _NUMBER.sub("", printed).split()
    if re.search(r"\bms\b", shown):  # Times are what they are.
        return
    both = [_NUMBER.findall(line) for line in (shown, printed)]
    if "±" in shown:
        # From random numbers or chaos: within what it says itself.
        (*_, a, a_error), (*_, b, b_error) = [
            _NUMBER.findall(line.partition("±")[0])[-1:]
            + _NUMBER.findall(line.partition("±")[2])[:1]
            for line in (shown, printed)
        ]
        assert abs(float(a) - float(b)) < 4 * np.hypot(float(a_error), float(b_error))
        return
    for a, b in zip(*both, strict=True):
        _assert_same_number(a, b, (shown, printed))


def assert_same_output(shown, printed):
    shown, printed = shown.splitlines(), printed.splitlines()
    assert len(shown) == len(printed), (shown, printed)
    for line, actual in zip(shown, printed):
        assert_same_line(line, actual)
