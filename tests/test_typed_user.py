"""The script of a user who relies on types, and what the types promise."""

import inspect
import math
import pydoc

import numpy as np
import pytest
import typed_user

from eqx_taylor.programs import cse, jarrett, simplify


# Pyright and mypy are no part of the tests: `.ci/run lint` runs them on the script.
def test_script_of_a_user_runs():
    assert typed_user.of_programs().startswith("simplify: ")
    found = typed_user.main()
    np.testing.assert_allclose(found["own"], 1.0, rtol=1e-14)
    of_decay = [(-1) ** k / math.factorial(k) for k in range(4)]
    np.testing.assert_allclose(found["coefficients"][0], of_decay, rtol=1e-14)
    times, number = found["times"]
    assert int(number) == 1
    np.testing.assert_allclose(times[0], math.log(2) / 2, rtol=1e-7)
    # Of a³ (1 - exp(-a)) / 2, where a is 2.
    gradient = (12 * (1 - math.exp(-2)) + 8 * math.exp(-2)) / 2
    np.testing.assert_allclose(found["gradient"][0], gradient, rtol=1e-6)


def scaled(x, factor=2.0):
    """Scales a number."""
    return factor * x


@pytest.mark.parametrize("wrap", [cse, simplify, jarrett])
def test_wrappers_look_like_what_they_wrap(wrap):
    wrapper = wrap(scaled)
    assert wrapper.__doc__ == scaled.__doc__
    assert wrapper.__name__ == "scaled"
    assert inspect.signature(wrapper) == inspect.signature(scaled)
    assert repr(wrapper) == f"{wrap.__name__}(scaled)"
    shown = pydoc.plain(pydoc.render_doc(wrapper))
    assert "scaled(x, factor=2.0)" in shown and "Scales a number." in shown
    assert wrapper(3.0, factor=4.0) == 12.0


def test_repr_of_a_wrapper_names_options_and_classes():
    assert repr(simplify(scaled, reassociate=False)) == (
        "simplify(scaled, reassociate=False)"
    )
    assert repr(cse(typed_user.Field.__call__)) == "cse(Field.__call__)"
    assert repr(simplify(cse(scaled))) == "simplify(Rewritten)"
