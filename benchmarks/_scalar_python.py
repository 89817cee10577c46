"""A scalar program of `eqx_taylor._native` as Python source, for numba and for Warp:
the recurrences are the same, the orders are a loop, and so are the sums of products.

Nothing in the package uses it. It is here to compare ways to machine code.
"""

from typing import Any

from eqx_taylor._native.atoms import Atom, Linear
from eqx_taylor._native.program import Program
from eqx_taylor._native.recurrences import FIRST, LAGGED, NEXT, Step, Y


class _Expression:
    """Arithmetic with the names of integers, as text."""

    def __init__(self, text: str):
        self.text = text

    def _with(self, op: str, a: Any, b: Any) -> "_Expression":
        return _Expression(f"({_text(a)} {op} {_text(b)})")

    def __mul__(self, other):
        return self._with("*", self, other)

    def __rmul__(self, other):
        return self._with("*", other, self)

    def __sub__(self, other):
        return self._with("-", self, other)

    def __rsub__(self, other):
        return self._with("-", other, self)

    def __truediv__(self, other):
        return self._with("/", self, other)

    def __rtruediv__(self, other):
        return self._with("/", other, self)


def _text(x: Any) -> str:
    return x.text if isinstance(x, _Expression) else f"F({float(x)!r})"


class _Step(Step):
    """One order of one atom, as lines of source."""

    is_rare = False

    def __init__(self, lines: list[str], atom: Atom, rows: dict[Atom, int], k: str):
        self.attribute, self.lines, self.k = atom.attribute, lines, k
        self.rows: dict[Any, int] = {Y: rows[atom]}
        self.rows.update(enumerate(rows[x] for x in atom.operands))
        if atom.lagged:
            self.rows[LAGGED] = rows[atom.lagged[0]]

    def _entry(self, a: Any, k: str) -> str:
        return f"c[{self.rows[a]} * ROW + {k}]"

    def _new(self, text: str) -> str:
        self.lines.append(f"x{len(self.lines)} = {text}")
        return f"x{len(self.lines) - 1}"

    def at(self, a):
        return self._entry(a, self.k)

    def first(self, a):
        return self._entry(a, "0")

    def sum(self, a, b, first, without, weight=None):
        total = self._new("F(0.0)")
        stop = f"{self.k} + {1 - without}"
        self.lines.append(f"for j in range({first}, {stop}):")
        term = f"{self._entry(a, 'j')} * {self._entry(b, f'({self.k} - j)')}"
        if weight is not None:
            j: Any = _Expression("F(j)")
            k: Any = _Expression(f"F({self.k})")
            factor = weight(j, k)
            term = f"{_text(factor)} * {term}"
        self.lines.append(f"    {total} += {term}")
        return total

    def square_sum(self, a, first):
        return self.sum(a, a, first, first)

    def order(self, fun):
        k: Any = _Expression(f"F({self.k})")
        return k.text if fun is float else _text(fun(k))

    def number(self, x):
        return f"F({x!r})"

    def add(self, x, y):
        return self._new(f"{x} + {y}")

    def sub(self, x, y):
        return self._new(f"{x} - {y}")

    def mul(self, x, y):
        return self._new(f"{x} * {y}")

    def div(self, x, y):
        return self._new(f"{x} / {y}")

    def neg(self, x):
        return self._new(f"-{x}")

    def fma(self, x, y, z):
        return self._new(f"{x} * {y} + {z}")

    def call(self, name, x, *rest):
        if isinstance(name, tuple):
            return self._new(f"pow({x}, F({name[1]!r}))")
        if name == "tanh_slope":
            return self._new(f"F(1.0) - tanh({x}) * tanh({x})")
        return self._new(f"{name}({', '.join([x, *rest])})")

    def choose(self, test, x, y, a, b):
        return self._new(f"{a} if {x} {test} {y} else {b}")


def _sum(x: Linear, rows: dict[Atom, int], k: str) -> str:
    terms = [f"F({float(f)!r}) * c[{rows[a]} * ROW + {k}]" for a, f in x.terms.items()]  # pyright: ignore
    if k == "0" and x.constant != 0:
        terms.append(f"F({float(x.constant)!r})")  # pyright: ignore
    return " + ".join(terms) or "F(0.0)"


_SOLVE = """
def solve(start: ARRAY, ends: ARRAY, c: ARRAY, out: ARRAY):
    t = F(0.0)
    steps = F(0.0)
    for i in range(N):
        out[i] = start[i]
    h = F(0.0)
    while t < ends[0]:
        series(t, out, c)
        size = F(0.0)
        below = F(0.0)
        top = F(0.0)
        for i in range(N):
            y = abs(out[i])
            scale = ends[2] + ends[1] * y
            size += (y / scale) * (y / scale)
            p = c[(FIRST_STATE + i) * ROW + ORDER - 1] / scale
            q = c[(FIRST_STATE + i) * ROW + ORDER] / scale
            below += p * p
            top += q * q
        logs = F(0.5) * log(max(size / F(float(N)), F(1.0)))
        radius = min(
            (logs - F(0.5) * log(below / F(float(N)))) / F(float(ORDER - 1)),
            (logs - F(0.5) * log(top / F(float(N)))) / F(float(ORDER)),
        )
        h = min(F(0.9) * exp(radius - logs / F(float(ORDER + 1))), ends[0] - t)
        for i in range(N):
            y = c[(FIRST_STATE + i) * ROW + ORDER]
            for j in range(1, ORDER + 1):
                y = y * h + c[(FIRST_STATE + i) * ROW + ORDER - j]
            out[i] = y
        t += h
        steps += F(1.0)
    out[N] = steps
"""


def source(program: Program, order: int) -> tuple[str, int]:
    """Two functions of Python: `series(t, y, c)` and `solve(start, ends, c, out)`, with
    the end and the tolerances in `ends`; and the size of `c`. The names `F`, `ARRAY`,
    and those of mathematical functions are for the reader to define."""
    atoms = [a for a in program.atoms if a.kind != "state"]
    rows = {a: i for i, a in enumerate(atoms)}
    first = len(atoms)
    rows.update((a, first + a.attribute) for a in program.atoms if a.kind == "state")
    n = program.size
    head = [f"c[{first + i} * ROW] = y[{i}]" for i in range(n)]
    body: list[str] = []
    for lines, k, rules in [(head, "0", FIRST), (body, "k", NEXT)]:
        for atom in atoms:
            place = f"c[{rows[atom]} * ROW + {k}]"
            if atom.kind == "time":
                value = "t" if k == "0" else "F(1.0) if k == 1 else F(0.0)"
            elif atom.kind == "linear":
                terms = dict(zip(atom.operands, atom.coefficients))
                value = _sum(Linear(atom.constant, terms), rows, k)
            else:
                value = rules[atom.kind](_Step(lines, atom, rows, k))
            lines.append(f"{place} = {value}")
        for i, slope in enumerate(program.slopes):
            value = _sum(slope, rows, k)
            over = "" if k == "0" else " / F(k + 1)"
            place = f"c[{first + i} * ROW + {k} + 1]"
            lines.append(f"{place} = ({value}){over}")
    text = ["def series(t: F, y: ARRAY, c: ARRAY):"]
    text += [f"    {line}" for line in head]
    text += ["    for k in range(1, ORDER):"]
    text += [f"        {line}" for line in body]
    total = "\n".join(text) + "\n\n" + _SOLVE
    names = {"FIRST_STATE": first, "ORDER": order, "ROW": order + 1, "N": n}
    for name, value in names.items():
        total = _replaced(total, name, str(value))
    return total, (first + n) * (order + 1)


def _replaced(text: str, name: str, value: str) -> str:
    import re

    return re.sub(rf"\b{name}\b", value, text)
