"""Names (`jax.named_scope`) and lines of source of what is computed, as a profile shows
them."""

import re
import traceback

import diffrax
import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from eqx_taylor import filter_jet, laplacian, ode_jet, TaylorController, TaylorSolver
from eqx_taylor.programs import jarrett


X = jnp.array([0.1, 0.2, 0.3])
SCOPES = {"one", "two", "turn", "called", "left", "right", "held"}


def two_scopes(x):
    with jax.named_scope("one"):
        y = jnp.tanh(x) * jnp.exp(x)  # The first line.
    with jax.named_scope("two"):
        return jnp.sin(y) / (1 + y**2)  # The second line.


def with_programs_inside(x):
    def turn(carry, _):
        with jax.named_scope("turn"):
            return jnp.sin(carry) * carry, None

    def branch(name, fun):
        def in_scope(x):
            with jax.named_scope(name):
                return fun(x) * x

        return in_scope

    with jax.named_scope("one"):
        y, _ = jax.lax.scan(turn, x, None, length=2)
    with jax.named_scope("called"):
        y = jax.jit(branch("two", jnp.cosh))(y)
    y = jax.lax.cond(x[0] > 0, branch("left", jnp.exp), branch("right", jnp.cos), y)
    return jax.checkpoint(branch("held", jnp.sinh))(y)


def names(fun, *args):
    """The names of all equations of a program, and of those in it."""

    def inside(jaxpr):
        for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            yield str(eqn.source_info.name_stack)
            for param in eqn.params.values():
                for x in param if isinstance(param, tuple | list) else [param]:
                    if isinstance(x, Jaxpr | ClosedJaxpr):
                        yield from inside(x)

    return list(inside(jax.make_jaxpr(fun)(*args)))


def share(found):
    """How many of them carry one of the names, which are the user's."""
    words = [set(re.findall(r"\w+", name)) for name in found]
    return sum(bool(SCOPES & some) for some in words) / len(found)


def jet(fun, order=3):
    return lambda x: filter_jet(fun, (x,), ([x] + [None] * (order - 1),))


def field_of(fun):
    return lambda t, y, args: fun(y)


def solution(y0):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field_of(two_scopes)),
        TaylorSolver(4),
        t0=0.0,
        t1=1.0,
        dt0=0.1,
        y0=y0,
        stepsize_controller=TaylorController(rtol=1e-3, atol=1e-3),
    ).ys


def test_a_jet_has_the_names_that_its_function_has():
    by_jvp = names(lambda x: jax.jvp(two_scopes, (x,), (x,)), X)
    assert set(by_jvp) == {"jvp(one)", "jvp(two)"}
    by_jet = names(jet(two_scopes, 1), X)
    assert set(by_jet) == {"jet(one)", "jet(two)"}
    # At higher orders there are the factorials as well, which stand for no equation.
    found = names(jet(two_scopes), X)
    assert set(found) == {"jet(one)", "jet(two)", "jet()"}
    assert found.count("jet()") <= 4

    # Names around the jet stand in front, once.
    def around(x):
        with jax.named_scope("around"):
            return jet(two_scopes, 1)(x)

    assert set(names(around, X)) == {"around/jet(one)", "around/jet(two)"}
    # The `jvp` is that of a primitive whose derivative JAX is asked for.
    twice = {
        name.removesuffix("/jvp()") for name in names(jet(jet(two_scopes, 1), 1), X)
    }
    assert twice == {"jet(jet(one))", "jet(jet(two))"}


def test_derivatives_of_primitives_without_a_rule_have_their_names():
    def fun(x):
        with jax.named_scope("one"):
            return jax.lax.linalg.cholesky(jnp.eye(3) + jnp.outer(x, x)), jnp.arctan(x)

    jaxpr = jax.make_jaxpr(jet(fun))(X)
    found = {str(eqn.source_info.name_stack) for eqn in jaxpr.eqns}
    assert all(name.startswith("jet(one)") or name == "jet()" for name in found)
    assert len(jaxpr.eqns) > 30


def test_programs_inside_of_programs():
    fun = with_programs_inside
    for fun in (jet(fun), lambda x, f=fun: jax.jvp(f, (x,), (x,))):
        found = names(fun, X)
        for name in SCOPES:
            assert any(name in one for one in found), name
        # A name that stands in front of all that is inside of an equation is added when
        # it is lowered, and is not there twice.
        assert not any(one.count("one") > 1 for one in found)
        assert not any("one" in one and "turn" in one for one in found)
    # That of a call is there although the call is not.
    found = names(jet(with_programs_inside), X)
    assert "jet(called)/jit(in_scope)/two" in found
    assert share(found) > 0.9


def test_sums_over_directions():
    for fun in (two_scopes, with_programs_inside):
        found = names(lambda x: laplacian(lambda x: jnp.sum(fun(x)), x), X)
        assert share(found) > 0.9
        assert not any(one.count("one") > 1 for one in found)
        for name in share_of(fun):
            assert any(name in one for one in found), name


def share_of(fun):
    """The names that a function has."""
    return {word for one in names(fun, X) for word in re.findall(r"\w+", one)} & SCOPES


def test_series_of_solutions():
    found = names(lambda y: ode_jet(field_of(two_scopes), 0.0, y, order=4), X)
    assert set(found) == {"ode_jet", "ode_jet/one", "ode_jet/two"}
    # The rest divides by the order, and stores.
    assert share(found) > 0.8
    found = names(lambda y: ode_jet(field_of(with_programs_inside), 0.0, y, order=3), X)
    for name in SCOPES:
        assert any(name in one for one in found), name
    assert not any("one" in one and "turn" in one for one in found)


def test_steps():
    found = set(names(solution, X))
    assert {"taylor_step", "taylor_step/defect"} <= found
    # Within the loop and its branches names start anew.
    for name in ("ode_jet", "defect", "runge_kutta"):
        assert name in found
    for name in ("ode_jet/one", "ode_jet/two", "defect/one", "defect/two"):
        assert name in found
    # XLA has all of them, one behind the other, as a profile shows them.
    text = jax.jit(solution).lower(X).compile().as_text()
    inside = re.findall(r'op_name="[^"]*(taylor_step/while/body/[^"]*)"', text)
    for name in ("ode_jet", "defect", "runge_kutta"):
        for scope in ("one", "two"):
            assert any(f"/{name}/" in x and f"/{scope}/" in x for x in inside)


def test_other_programs_keep_names():
    @jarrett
    def fun(x):
        with jax.named_scope("one"):
            return jnp.tanh(x) * jnp.exp(x)

    assert {"jet(one)", "jet()"} >= set(names(jet(fun, 1), X))
    assert any("one" in name for name in names(fun, X))


def test_lines_of_source():
    """JAX writes them into the lowered program, from where profiles have them."""

    def lines(fun):
        text = jax.jit(fun).lower(X).as_text(debug_info=True)
        return set(map(int, re.findall(r'test_names\.py":(\d+):', text)))

    with open(__file__) as file:
        source = file.read().splitlines()
    wanted = {
        i
        for i, line in enumerate(source, 1)
        if line.endswith(("first line.", "second line."))
    }
    assert len(wanted) == 2
    for fun in (
        jet(two_scopes),
        lambda x: laplacian(lambda x: jnp.sum(two_scopes(x)), x),
        lambda y: ode_jet(field_of(two_scopes), 0.0, y, order=3),
        solution,
    ):
        assert wanted <= lines(fun)


def test_an_operation_of_a_jet_is_where_its_function_is():
    text = jax.jit(jet(two_scopes, 1)).lower(X).as_text(debug_info=True)
    # No operation is in a file of the package, where all of them are emitted.
    assert "test_names.py" in text
    called = re.findall(r'loc\("([^"]*)"\((#loc\d+)\)', text)
    places = dict(re.findall(r"(#loc\d+) = loc\((.*)\)\n", text))
    scoped = [
        place for name, place in called if "jet(one)" in name or "jet(two)" in name
    ]
    assert scoped
    for place in scoped:
        assert "eqx_taylor/_" not in places[place]


def test_an_error_says_which_line_it_is_about():
    def fun(x):
        y = jax.lax.igamma(x, x)  # The line that has no second derivative.
        return 2 * y

    with pytest.raises(NotImplementedError) as caught:
        jet(fun)(X)
    text = "".join(traceback.format_exception(caught.value))
    assert "# The line that has no second derivative." in text
