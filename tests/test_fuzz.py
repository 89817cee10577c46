"""A few of the random programs; `fuzz.py` takes as many as one likes."""

import random

import pytest
from fuzz_programs import check_eager, check_nested, random_program, Skipped
from hypothesis import assume, given, HealthCheck, settings, strategies as st


# Examples are the same in every run, and leave nothing behind.
_settings = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Choices are recorded and shrunk: the program that is shown is a small one.
_rngs = st.randoms(use_true_random=False)


@settings(_settings, max_examples=12)
@given(_rngs)
def test_arrays(rng):
    try:
        check_nested(random_program(rng))
    except Skipped as e:
        assume(not e)


@pytest.mark.sample(2)
@pytest.mark.parametrize("programs", [12, 60])
def test_numbers(programs):
    pytest.importorskip("flint", reason="the reference is ball arithmetic")
    from fuzz_scalars import check_scalar, random_scalar_program

    @settings(_settings, max_examples=programs)
    @given(_rngs)
    def check(rng):
        check_scalar(random_scalar_program(rng))

    check()


def test_what_a_program_says_is_what_it_does():
    """A program's source and inputs, as they are shown, give the same jet."""
    program = random_program(random.Random(5))
    try:
        actual = check_nested(program)
    except Skipped as e:
        pytest.fail(str(e))
    check_eager(program, actual)
