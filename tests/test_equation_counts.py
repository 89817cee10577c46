"""What jets cost, in equations of their jaxprs: the part of the cost that is the same on
every machine."""

import equinox as eqx
import jax
import jax.experimental.jet
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import count_equations, count_primitives, derivatives
from jax import lax

from eqx_taylor import derivatives as eqx_derivatives, filter_jet, jet, ode_jet, rules


def _front_page(t):
    return 0.3 * jnp.sin(t) * t**10


_MLP = eqx.nn.MLP(3, 3, 4, 2, activation=jnp.tanh, key=jax.random.key(0))
FUNCTIONS = [(_front_page, jnp.array(1.1, float)), (_MLP, jnp.ones(3))]

# Limits: the counts when they were written down. Lower ones are welcome.
# "curve" is a jet with a nonzero term of every order, "line" one along a straight line.
# fmt: off
TABLE = [
    # order, 0.3 sin(t) t^10:      tanh MLP:
    #             curve,     line,        curve,     line
    ( 1,         25,        25,           29,        29),
    ( 2,         57,        50,           48,        43),
    ( 3,         99,        74,           75,        63),
    ( 4,        155,       101,          108,        87),
    ( 5,        219,       127,          149,       117),
    ( 6,        297,       155,          194,       149),
    ( 7,        383,       183,          247,       187),
    ( 8,        483,       212,          304,       227),
    ( 9,        591,       240,          369,       273),
    (10,        713,       268,          438,       321),
    (11,        843,       295,          515,       375),
    (12,        987,       322,          596,       431),
    (13,       1139,       349,          685,       493),
    (14,       1305,       376,          778,       557),
    (15,       1479,       403,          879,       627),
    (16,       1667,       430,          984,       699),
    (17,       1863,       457,         1097,       777),
    (18,       2073,       484,         1214,       857),
    (19,       2291,       511,         1339,       943),
    (20,       2523,       538,         1468,      1031),
]
# fmt: on


def _count(jet_function, fun, x, order, line=False):
    """Counted once, for all tests that ask for it."""
    # Arrays have no hash, but there is one `x` to each `fun`.
    key = jet_function, id(fun), order, line
    if key not in _COUNTS:
        _COUNTS[key] = _counted(jet_function, fun, x, order, line)
    return _COUNTS[key]


_COUNTS = {}


def _counted(jet_function, fun, x, order, line):
    def run(x, terms):
        if line:
            terms = [terms[0], *[np.zeros(x.shape)] * (order - 1)]
        return jet_function(fun, (x,), (terms,))

    return count_equations(run, x, [x] * order)


@pytest.mark.sample(6)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"order {row[0]}")
def test_table(row):
    order, *limits = row
    counts = [
        _count(jet, fun, x, order, line)
        for fun, x in FUNCTIONS
        for line in (False, True)
    ]
    assert all(count <= limit for count, limit in zip(counts, limits, strict=True)), (
        f"counted {counts}, allowed {limits}"
    )


def test_table_is_of_orders_1_to_20_and_quadratic():
    table = np.array(TABLE)
    np.testing.assert_array_equal(table[:, 0], range(1, 21))
    # The second differences of a quadratic do not grow. Over two orders, as even and
    # odd ones differ.
    second = table[4:, 1:] - 2 * table[2:-2, 1:] + table[:-4, 1:]
    assert np.all(second[-6:] <= second[:6].max(axis=0))
    # And each of the last ten orders costs less than four times one half as high.
    assert np.all(table[11::2, 1:] < 4 * table[5:10, 1:])


@pytest.mark.sample(6)
@pytest.mark.parametrize("order", range(1, 21))
def test_fewer_than_jax_experimental_jet(order):
    for fun, x in FUNCTIONS:
        for line in (False, True):
            ours = _count(jet, fun, x, order, line)
            theirs = _count(jax.experimental.jet.jet, fun, x, order, line)
            assert ours < theirs


@pytest.mark.parametrize("order", [4, 5, 6])
def test_fewer_than_nested_jvp(order):
    """From order 6 on these grow by a factor of 2.7 with each order, the jet's counts by
    1.4 and less."""
    for fun, x in FUNCTIONS:
        nested = count_equations(derivatives(lambda t: fun(x + t), order), 0.0)
        assert _count(jet, fun, x, order) < nested


# -- zeros that are known cost nothing


def _terms(order):
    """Of a straight line: the first, and zeros that are known."""
    return [1.0] + [None] * (order - 1)


def test_constants_have_no_coefficients():
    """Functions of what does not move are computed once, at any order."""
    constant = jnp.array(0.3)

    def fun(x, y):
        return jnp.tanh(constant) * jnp.exp(y) * x

    def run(order):
        return lambda x, y: filter_jet(fun, (x, y), (_terms(order), None))

    counts = [count_primitives(run(order), 1.0, 2.0) for order in (1, 10)]
    assert [count["tanh"] for count in counts] == [1, 1]
    assert [count["exp"] for count in counts] == [1, 1]
    # A product with a constant of orders 0 and 1, and no factorials of zeros.
    assert counts[0]["mul"] == counts[1]["mul"] == 3


@pytest.mark.parametrize("order", [1, 2, 20])
def test_affine_functions_have_one_coefficient(order):
    weight, x = jnp.ones((3, 3)), jnp.ones(3)

    def fun(x):
        return weight @ x + x[::-1] * 2 - 1

    def run(x):
        return filter_jet(fun, (x,), ([x, *[None] * (order - 1)],))

    assert count_primitives(run, x)["dot_general"] == 2
    _, terms = filter_jet(fun, (x,), ([x, *[None] * (order - 1)],))
    assert not any(np.any(term) for term in terms[1:])


@pytest.mark.parametrize("order", [1, 5, 12])
def test_linear_operations_once_per_order(order):
    """And not once for each pair of orders."""
    counts = count_primitives(
        lambda x: jet(lambda x: jnp.ones((3, 3)) @ x, (x,), ([x] * order,)), jnp.ones(3)
    )
    assert counts["dot_general"] == order + 1


def test_orders_that_cannot_occur():
    """`sin(x_0 + x_3 t³)` has orders 0, 3, 6, 9 only: with nine terms the cost is that
    of three."""

    def count(terms):
        return count_primitives(
            lambda x: filter_jet(jnp.sin, (x,), (terms,), factorial_scaled=False), 1.0
        )

    sparse = count([None, None, 1.0] + [None] * 6)
    # Of these only the weights differ, of which 1 is not multiplied with.
    dense = count([1.0, None, None])
    assert sparse["mul"] <= dense["mul"] + 3
    assert sparse.get("add", 0) == dense.get("add", 0)


def test_a_polynomial_has_no_orders_above_its_degree():
    """x³ + x along a line: from order 3 on nothing is added."""

    def count(order):
        return count_primitives(
            lambda x: filter_jet(lambda x: x * x * x + x, (x,), (_terms(order),)), 1.0
        )

    assert count(3)["mul"] == count(15)["mul"] and count(3)["add"] == count(15)["add"]


# -- common subexpressions are found


def test_transcendental_functions_are_called_once():
    """Sine and cosine are a pair; each function is called for order 0 only."""

    def fun(x):
        y = jnp.sin(x) * jnp.cos(x) + jnp.sin(x)
        return y * jnp.exp(x) + jnp.exp(x) * jnp.tanh(x) + jnp.log(x)

    counts = count_primitives(lambda x: jet(fun, (x,), ([1.0] * 8,)), 1.0)
    for name in ("sin", "cos", "tanh", "log"):
        assert counts[name] == 1, name
    # Another one is in the slope of tanh.
    assert counts["exp"] <= 2


def test_each_linear_solve_has_one_factorisation():
    a = jnp.eye(3) + 0.1

    def fun(a, b):
        return jnp.linalg.solve(a, b)

    def count(order):
        return count_primitives(
            lambda a: jet(fun, (a, a[0]), ([a] * order, [a[0]] * order)), a
        )

    assert count(2)["lu"] == count(6)["lu"] == 1
    # One solve for each order, with two triangular ones in it.
    solves = [count(order)["triangular_solve"] for order in (2, 4, 6)]
    assert solves[2] - solves[1] == solves[1] - solves[0]


@jax.custom_jvp
def _with_its_own_jvp(x):
    return jnp.sinh(x)


@_with_its_own_jvp.defjvp
def _(primals, tangents):
    y = _with_its_own_jvp(*primals)
    return y, tangents[0] * jnp.sqrt(1 + y * y)


_X, _MATRIX = jnp.array(0.7), jnp.eye(3) + 0.1
_COSTLY = {
    "custom_jvp": (_with_its_own_jvp, _X),
    "lgamma": (jax.lax.lgamma, _X),
    "polygamma": (lambda x: jax.lax.polygamma(2.0, x), _X),
    "igamma": (lambda x: jax.lax.igamma(2.5, x), _X),
    "betainc": (lambda x: jax.lax.betainc(2.5, 1.5, x), _X),
    "erf_inv": (jax.lax.erf_inv, _X),
    "log_ndtr": (jax.scipy.special.log_ndtr, _X),
    "bessel_i0e": (jax.lax.bessel_i0e, _X),
    "pow": (lambda x: x**x, _X),
    "softplus": (jax.nn.softplus, _X),
    "logsumexp": (jax.nn.logsumexp, _MATRIX),
    "cumlogsumexp": (jax.lax.cumlogsumexp, _MATRIX),
    "cumprod": (jax.lax.cumprod, _MATRIX),
    "prod": (jnp.prod, _MATRIX),
    "complex abs": (lambda x: jnp.abs(x + 1j), _X),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("line", [False, True], ids=["curve", "line"])
@pytest.mark.parametrize("name", _COSTLY)
def test_no_rule_is_more_than_quadratic(name, line):
    fun, x = _COSTLY[name]
    at_4, at_8, at_16 = (_count(jet, fun, x, k, line) for k in (4, 8, 16))
    # For a + b K + c K² with b, c >= 0; K³ would be twice as much.
    assert at_16 - at_8 <= 4 * (at_8 - at_4), (at_4, at_8, at_16)


# -- coefficients of solutions


def test_ode_jet_reads_the_field_once():
    """One call of each function, and one matrix product per order."""
    weight = jnp.ones((3, 3))

    def field(t, y, args):
        return jnp.tanh(weight @ y) * jnp.sin(t)

    for order in (1, 4, 12):
        counts = count_primitives(
            lambda y: ode_jet(field, 0.3, y, order=order), jnp.ones(3)
        )
        assert counts["tanh"] == counts["sin"] == 1
        assert counts["dot_general"] == order


def test_autonomous_linear_field():
    """y' = A y: one product and one scaling per order, and nothing else."""
    weight = jnp.ones((3, 3))

    def count(order):
        return count_primitives(
            lambda y: ode_jet(lambda t, y, args: weight @ y, 0.0, y, order=order),
            jnp.ones(3),
        )

    for order in (2, 10):
        counts = count(order)
        assert counts["dot_general"] == order and counts["mul"] <= 2 * order
        assert counts.get("add", 0) == 0


# -- results that nobody uses cost nothing, wherever they are


def _alive(x):
    return jnp.sin(x) * x


def _dead(x):
    return jnp.tanh(jnp.exp(x) * jnp.sin(x)) / (1 + x * x)


def _nothing(x):
    return x


def _pair(other):
    """Both functions in one with a `custom_jvp`, whose rule is a call."""

    @jax.custom_jvp
    def pair(x):
        return _alive(x), other(x)

    @pair.defjvp
    @jax.jit
    def _(primals, tangents):
        [x], [dx] = primals, tangents
        slope = jnp.cos(x) * x + jnp.sin(x)
        return pair(x), (slope * dx, other(pair(x)[1]) * dx)

    return pair


def _pair_of_reverse_mode(other):
    @jax.custom_vjp
    def pair(x):
        return _alive(x), other(x)

    pair.defvjp(lambda x: (pair(x), x), lambda x, ct: (ct[0] * x,))
    return pair


def _in_shard_map(both, x):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    mapped = jax.shard_map(both, mesh=mesh, in_specs=spec, out_specs=spec)
    return mapped(x[None])[0][0]


def _turn(other):
    return lambda carry, _: ((_alive(carry[0]), other(carry[1])), None)


UNUSED = {
    "jit": lambda other, x: jax.jit(lambda x: (_alive(x), other(x)))(x)[0],
    "jit in jit": lambda other, x: jax.jit(
        lambda x: jax.jit(lambda x: (other(x), _alive(x)))(x)
    )(x)[1],
    "operand": lambda other, x: jax.jit(lambda x, y: _alive(x))(x, other(x)),
    "carry of scan": lambda other, x: lax.scan(_turn(other), (x, x), length=2)[0][0],
    "ys of scan": lambda other, x: lax.scan(
        lambda x, _: (_alive(x), other(x)), x, length=2
    )[0],
    "scan in jit": lambda other, x: jax.jit(
        lambda x: lax.scan(_turn(other), (x, x), length=2)[0]
    )(x)[0],
    "fori_loop": lambda other, x: lax.fori_loop(
        0, 2, lambda i, carry: _turn(other)(carry, i)[0], (x, x)
    )[0],
    "while_loop": lambda other, x: lax.while_loop(
        lambda carry: carry[0] < 2,
        lambda carry: (carry[0] + 1, _alive(carry[1]), other(carry[2])),
        (0, x, x),
    )[1],
    "start of while_loop": lambda other, x: lax.while_loop(
        lambda carry: carry[0] < 2,
        lambda carry: (carry[0] + 1, _alive(carry[1]), carry[2]),
        (0, x, other(x)),
    )[1],
    "cond": lambda other, x: lax.cond(
        x > 0, lambda x: (_alive(x), other(x)), lambda x: (x, x), x
    )[0],
    "checkpoint": lambda other, x: jax.checkpoint(lambda x: (_alive(x), other(x)))(x)[
        0
    ],
    "custom_jvp": lambda other, x: _pair(other)(x)[0],
    "custom_jvp in jit": lambda other, x: jax.jit(_pair(other))(x)[0],
    "custom_vjp": lambda other, x: _pair_of_reverse_mode(other)(x)[0],
    "shard_map": lambda other, x: _in_shard_map(lambda x: (_alive(x), other(x)), x),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", UNUSED)
def test_unused_results(name):
    def counts(other):
        def fun(x):
            return UNUSED[name](other, x)

        jets = [
            count_equations(lambda t, k=k: eqx_derivatives(fun, t, k), 0.7)
            for k in (2, 5)
        ]
        return *jets, count_equations(
            lambda y: ode_jet(lambda t, y, args: fun(y), 0.0, y, order=4),
            jnp.array(0.7),
        )

    assert counts(_dead) == counts(_nothing)


def test_unused_results_are_left_out_of_the_right_values():
    def all_values(other):
        def fun(x):
            return [program(other, x) for program in UNUSED.values()]

        return jax.jit(lambda t: eqx_derivatives(fun, t, 3))(0.7)

    # JAX has no forward mode of a `custom_vjp`.
    others = [name for name in UNUSED if name != "custom_vjp"]
    expected = jax.jit(
        derivatives(lambda x: [UNUSED[name](_dead, x) for name in others], 3)
    )(0.7)
    expected = dict(zip(others, zip(*expected), strict=True))
    expected["custom_vjp"] = expected["jit"]
    for name, actual in zip(UNUSED, all_values(_dead), strict=True):
        np.testing.assert_allclose(actual, expected[name], rtol=1e-13, err_msg=name)


def _exponential_integral(x):
    """A function as JAX defines its own: a `custom_jvp` for several orders, whose rule
    is under `jit` and computes the function again."""
    return _e_n(jnp.array(3.0), x)


@jax.custom_jvp
def _e_n(n, x):
    return jnp.exp(-x) / (x + n)


@_e_n.defjvp
@jax.jit
def _e_n_jvp(primals, tangents):
    (n, x), (_, dx) = primals, tangents
    return _e_n(jnp.floor(n), x), -_e_n(n - 1, x) * dx


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exp1", "expn", "of one's own"])
def test_rules_under_jit_are_no_more_than_quadratic(name):
    """Where each order took the function twice the programs doubled: 605 994 equations
    of `exp1` at order 10."""
    fun = {
        "exp1": jax.scipy.special.exp1,
        "expn": lambda x: jax.scipy.special.expn(2, x),
        "of one's own": _exponential_integral,
    }[name]
    four, eight, sixteen = (
        count_equations(lambda t, k=k: eqx_derivatives(fun, t, k), 0.7)
        for k in (4, 8, 16)
    )
    assert sixteen - eight <= 4 * (eight - four)
    assert sixteen < 7000


def test_a_rule_for_several_results_of_which_one_is_used():
    """JAX's own elimination of dead code leaves out the others, of which the rule knows
    nothing."""

    @jax.custom_jvp
    def fun(x):
        return jnp.sin(x), jnp.cos(x)

    @fun.defjvp
    def _(primals, tangents):
        raise AssertionError("its own rule is not to be asked")

    @rules.register(fun)
    def rule(walk, eqn, inputs):
        [x] = inputs
        assert len(eqn.outvars) == 2

        def compute_s(k):
            if k == 0:
                return rules.bind(eqn, [x[0]])[0]
            return rules.scale(rules.convolve(lax.mul, c, x.derivative, k - 1), 1 / k)

        def compute_c(k):
            if k == 0:
                return rules.bind(eqn, [x[0]])[1]
            return rules.scale(rules.convolve(lax.mul, s, x.derivative, k - 1), -1 / k)

        support = walk.analytic_support(inputs)
        s = rules.Series(x.aval, support, compute_s)
        c = rules.Series(x.aval, support, compute_c)
        return [s, c]

    for one in (
        lambda x: fun(x)[1],
        lambda x: jax.jit(fun)(x)[1],
        lambda x: lax.scan(lambda x, _: (x, fun(x)), x, length=2)[1][1][0],
    ):
        np.testing.assert_allclose(
            eqx_derivatives(one, 0.3, 3),
            [np.cos(0.3), -np.sin(0.3), -np.cos(0.3), np.sin(0.3)],
            rtol=1e-15,
        )
