"""The public names, as one surface: which there are, and what is said of each of them.

An example in a docstring is a block of `>>>` lines, which `doctest` runs as for a user:
in 32 bits, and with the conversions that JAX makes by default.
"""

import doctest
import inspect
import pathlib
import re
import textwrap

import diffrax
import equinox as eqx
import jax
import matplotlib
import pytest

import eqx_taylor
from eqx_taylor import programs, rules


_REFERENCE = {
    path.name: path.read_text(encoding="utf-8")
    for path in (pathlib.Path(__file__).parents[1] / "docs/api").glob("*.md")
}


def _names_in(module):
    names = [name for name in dir(module) if not name.startswith("_")]
    return {
        name: getattr(module, name)
        for name in names
        if not inspect.ismodule(getattr(module, name))
    }


_PUBLIC = _names_in(eqx_taylor)
for _module in (programs, rules):
    _inside = _module.__name__.removeprefix("eqx_taylor.")
    _PUBLIC |= {f"{_inside}.{name}": x for name, x in _names_in(_module).items()}


def _documented_members(name):
    """Of a class: those that its entry in the reference names."""
    entry = re.search(
        rf"^::: eqx_taylor\.{re.escape(name)}\n((?: +.*\n)*)",
        "\n".join(_REFERENCE.values()) + "\n",
        re.MULTILINE,
    )
    assert entry is not None
    return re.findall(r"^ +- (\w+)$", entry[1], re.MULTILINE)


# -- which there are

# Whoever adds a name to the interface adds it here, and knows that it is one.
_EXPECTED = """
    AbstractRegularizer Estimate Events GaussLegendre HybridSolution JacobianFrobenius KineticEnergy
    NativeAdjoint ReplayAdjoint SolutionDerivative SolveCost TaylorController TaylorInterpolation
    TaylorPolynomial TaylorSolver biharmonic derivative_tensor derivatives
    directional_derivatives directional_gradients dot_product_attention filter_jet find_events hvp hybrid_solve jet laplacian
    linear_operator nth_derivative ode_jet partial_derivative
    regularized regularized_rms_seminorm solve_cost stochastic_biharmonic stochastic_laplacian taylor_method taylor_polynomial
    value_gradient_laplacian value_jacobian_hessian weighted_laplacian
    programs.PrimitiveCounts programs.count_primitives programs.cse programs.jarrett
    programs.plot_primitive_counts programs.simplify
    rules.Series rules.Walk rules.add rules.bind rules.convolve rules.convolve_square
    rules.define_bilinear rules.define_derivative rules.define_jet_rule rules.define_linear
    rules.define_piecewise_linear rules.define_recurrence rules.define_rewrite
    rules.over rules.register rules.scale rules.sub
""".split()


def test_nothing_is_exported_by_accident():
    assert sorted(_PUBLIC) == sorted(_EXPECTED)
    for module, inside in (
        (eqx_taylor, {"programs", "rules"}),
        (programs, set()),
        (rules, set()),
    ):
        modules = {
            name
            for name, value in vars(module).items()
            if inspect.ismodule(value) and not name.startswith("_")
        }
        # `jaxtyping` is put there by its import hook, under which the tests run.
        assert modules - {"jaxtyping"} == inside


def test_reference_has_every_name_once():
    entries = re.findall(
        r"^::: eqx_taylor\.(\S+)$", "\n".join(_REFERENCE.values()), re.MULTILINE
    )
    assert sorted(entries) == sorted(_PUBLIC)


def _own_members(cls):
    """What a class adds to what its bases, which others document, have."""
    inherited = {name for base in cls.__mro__[1:] for name in vars(base)}
    return {
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and name not in inherited
        and name not in getattr(cls, "__dataclass_fields__", ())
        and (isinstance(value, property) or inspect.isroutine(value))
    }


# What these have besides is for the interpreter.
_FOR_RULES = {
    "rules.Series": ["__getitem__", "dense", "is_constant", "derivative"],
    "rules.Walk": ["order", "analytic_support"],
}


@pytest.mark.parametrize(
    "name", [name for name, value in _PUBLIC.items() if inspect.isclass(value)]
)
def test_members_of_classes_are_in_the_reference(name):
    cls = _PUBLIC[name]
    listed = set(_documented_members(name))
    if name in _FOR_RULES:
        wanted = {
            member
            for member in _FOR_RULES[name]
            if inspect.isroutine(vars(cls).get(member))
            or isinstance(vars(cls).get(member), property)
        }
    else:
        wanted = _own_members(cls) | ({"evaluate"} & set(vars(cls)))
    assert listed == wanted
    for member in listed:
        assert inspect.getdoc(getattr(cls, member)), f"{name}.{member}"
        examples = "".join(_examples(cls) + _examples(getattr(cls, member)))
        used = {"__getitem__": r"\w\["}.get(member, rf"[. ]{member}\b")
        assert re.search(used, examples), f"no example has {name}.{member}"


# -- what is said of each


def _docstring(value):
    return inspect.getdoc(value.fget if isinstance(value, property) else value) or ""


def _examples(value):
    """The blocks of the examples, without their indentation."""
    blocks = re.findall(
        r"^( *)```pycon\n(.*?)^\1```$", _docstring(value), re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(block) for _, block in blocks]


_NEVER_RAISE = ("rules.scale", "rules.convolve", "rules.convolve_square")


@pytest.mark.parametrize("name", sorted(_PUBLIC))
def test_docstring(name):
    value = _PUBLIC[name]
    text = _docstring(value)
    assert _examples(value), f"{name} has no example"
    # There is one kind of example only, and it is run.
    assert "```python" not in text and text.count(">>> ") >= 2
    if inspect.isroutine(value):
        headings = ["Arguments", "Returns"] + ["Raises"] * (name not in _NEVER_RAISE)
        for heading in headings:
            assert _section(text, heading).strip(), f"{name}: no {heading}"
        described = re.findall(r"`[^`]*`", _section(text, "Arguments"))
        known = set(re.findall(r"\w+", " ".join(described)))
        missing = set(inspect.signature(value).parameters) - known
        assert not missing, f"{name} does not say what {missing} are"


def _section(text, heading):
    return text.partition(f"**{heading}:**")[2].partition("\n**")[0]


# Those that take or return derivatives or coefficients of several orders.
_OF_SERIES = """
    AbstractRegularizer.rate TaylorInterpolation TaylorPolynomial derivative_tensor derivatives
    directional_derivatives directional_gradients filter_jet jet linear_operator
    nth_derivative ode_jet partial_derivative taylor_polynomial rules.Series
    rules.convolve rules.convolve_square rules.define_derivative rules.register
""".split()


@pytest.mark.parametrize("name", _OF_SERIES)
def test_factorials_are_spoken_of(name):
    parts = name.removeprefix("rules.").split(".")
    value = rules if name.startswith("rules.") else eqx_taylor
    for part in parts:
        value = getattr(value, part)
    assert re.search(r"k!|factorial", _docstring(value)), name


class _NearlyEqual(doctest.OutputChecker):
    """Numbers with a point or an exponent, as far as they are the same in 32 bits on
    every machine; everything else exactly, but for white space."""

    _NUMBER = re.compile(r"-?\d+(?:\.\d*(?:e[+-]\d+)?|e[+-]\d+)")

    def check_output(self, want, got, optionflags):
        def text(s):
            return re.sub(r"\s+", "", self._NUMBER.sub("#", s))

        def numbers(s):
            return [float(x) for x in self._NUMBER.findall(s)]

        return text(want) == text(got) and numbers(got) == pytest.approx(
            numbers(want), rel=2e-5, abs=2e-6
        )


def test_the_comparison_of_examples_can_fail():
    same = _NearlyEqual().check_output
    assert same("[1. 2.5]\n", "[1.  2.50001]\n", 0)
    assert not same("[1. 2.5]\n", "[1. 2.51]\n", 0)
    assert not same("(2, 3)\n", "(2, 4)\n", 0)
    assert not same("1.0 a\n", "1.0 b\n", 0)
    assert not same("", "1.0\n", 0)


def _run(name, block):
    test = doctest.DocTestParser().get_doctest(block, {}, name, None, 0)
    assert test.examples
    report = []
    runner = doctest.DocTestRunner(_NearlyEqual(), verbose=False)
    runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize("name", sorted(_PUBLIC))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "NativeAdjoint":
        pytest.importorskip("llvmlite", reason="pip install 'eqx_taylor[native]'")
        monkeypatch.setenv("EQX_TAYLOR_CACHE_DIR", str(tmp_path))
    matplotlib.use("Agg")
    value = _PUBLIC[name]
    blocks = _examples(value)
    if inspect.isclass(value):
        for member in _documented_members(name):
            blocks += _examples(getattr(value, member))
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for block in blocks:
            _run(name, block)


# -- one manner

# The order of arguments: what a function has of these comes in this order.
_ORDER = """
    fun vector_field regularizer solver primals series x v order n multi_index sigma
    terms key orders t0 t1 dt0 y0 args
""".split()


# Functions that have the arguments of a function of JAX, and its messages.
_OF_JAX = ("dot_product_attention",)


def test_arguments_have_one_order():
    for name, value in _PUBLIC.items():
        if name.startswith("rules.") or not inspect.isroutine(value):
            continue
        parameters = inspect.signature(value).parameters.values()
        kinds = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        required = [p.name for p in parameters if p.kind in kinds]
        # A norm, for others to call; what is applied to a solution; what makes a solver;
        # and what has JAX's arguments.
        if name in (
            "regularized_rms_seminorm",
            "find_events",
            "taylor_method",
            "dot_product_attention",
        ):
            continue
        assert required[0] in ("fun", "vector_field"), name
        places = [_ORDER.index(p) for p in required]
        assert places == sorted(places), name


def _calls_with_bad_arguments():
    def square(x):
        return x * x

    bad = {
        "fun": 3,
        "primals": 1.0,
        "series": 1.0,
        "order": 1.5,
        "n": -1,
        "v": {"a": 1.0},
        "x": 1,
        "multi_index": 0.5,
        "sigma": "no",
        "terms": 1.0,
        "orders": [0],
        "vector_field": 3,
        "solver": 3,
        "regularizer": 3,
        "t0": [0.0, 1.0],
        "t1": [0.0, 1.0],
        "y0": 1,
        "rtol": -1.0,
        "atol": "no",
        "max_steps": 0.5,
        "num_points": 0,
        "compensated": 1,
        "warn_if_stiff": 1,
        "probes": -1,
        "unroll": 1,
        "norm": 3,
        "dtmin": -1.0,
        "dtmax": -1.0,
        "force_dtmin": "no",
        "safety": 2.0,
        "factormax": 1.0,
        "state": 1.0,
        "key": 0,
        "num_samples": 0,
        "batch_size": 3,
        "sampling": "no",
        "mask": 1.0,
        "reassociate": 1,
        "factorial_scaled": "no",
    }
    good = {
        "fun": square,
        "primals": (1.0,),
        "series": ([1.0],),
        "order": 2,
        "n": 2,
        "v": 1.0,
        "x": 1.0,
        "multi_index": 2,
        "sigma": [1.0],
        "terms": [(1.0, 2)],
        "orders": [1],
        "vector_field": lambda t, y, args: y,
        "solver": diffrax.Dopri5(),
        "regularizer": eqx_taylor.KineticEnergy(),
        "state": (1.0, 1.0),
        "t0": 0.0,
        "t1": 1.0,
        "y0": 1.0,
        "rtol": 1e-3,
        "atol": 1e-3,
        "key": jax.random.key(0),
        "num_samples": 4,
        "num_points": 4,
        "dt0": None,
        "event": diffrax.Event(lambda t, y, args, **kwargs: y),
        "max_events": 2,
        "stepsize_controller": eqx_taylor.TaylorController(1e-3, 1e-3),
    }
    checked = (
        "GaussLegendre",
        "SolutionDerivative",
        "TaylorController",
        "TaylorSolver",
    )
    for name, value in sorted(_PUBLIC.items()):
        is_function = inspect.isroutine(value) and not name.startswith("rules.")
        if (not is_function and name not in checked) or name in _OF_JAX:
            continue
        parameters = inspect.signature(value).parameters
        required = {
            p: good[p]
            for p, parameter in parameters.items()
            if parameter.default is parameter.empty and p in good
        }
        for p in parameters:
            if p in bad and (name, p) not in _ANYTHING:
                yield pytest.param(value, {**required, p: bad[p]}, id=f"{name}-{p}")


# What only calls others, whose errors are better known by their names.
_MADE_OF = {"taylor_method": ("TaylorSolver", "TaylorController")}
# Arguments that may be of any kind.
_ANYTHING = {
    ("programs.count_primitives", "args"),
    ("programs.plot_primitive_counts", "x"),
}


@pytest.mark.usefixtures("without_types")
@pytest.mark.parametrize("fun, arguments", list(_calls_with_bad_arguments()))
def test_errors_have_one_style(fun, arguments):
    """`caller: what is wrong`, and the name of the argument."""
    parameters = inspect.signature(fun).parameters.values()
    in_place = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    keywords = {k: value for k, value in arguments.items() if k not in in_place}
    with pytest.raises((TypeError, ValueError)) as error:
        result = fun(*[arguments[k] for k in in_place if k in arguments], **keywords)
        if callable(result) and not isinstance(result, eqx.Module):
            result(1.0)
    callers = _MADE_OF.get(fun.__name__, (fun.__name__,))
    assert str(error.value).startswith(tuple(f"{x}: " for x in callers)), error.value


def test_names_that_have_moved():
    for name in ("cse", "simplify", "jarrett", "count_primitives", "PrimitiveCounts"):
        with pytest.warns(DeprecationWarning, match=f"`eqx_taylor.programs.{name}`"):
            assert getattr(eqx_taylor, name) is getattr(programs, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        eqx_taylor.nothing
    assert not hasattr(eqx_taylor, "annotations")
