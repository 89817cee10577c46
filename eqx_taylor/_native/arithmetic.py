"""Arithmetic in LLVM's language, on scalars and on vectors alike."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # pyright: ignore[reportMissingImports]

from .elementary import exp, tanh


# Functions that LLVM knows, of vectors too.
INTRINSICS = frozenset(["sqrt", "exp", "exp2", "log", "log2", "sin", "cos", "fabs"])
# Functions of the C library, which every Python has loaded. (A name that nobody knows
# would end the process when it is called.)
LIBRARY = frozenset(
    """
    acos acosh asin asinh atan atanh cbrt cosh erf erfc expm1 log1p pow sinh tan tanh
    """.split()
)


class Operations:
    """Operations on values, each of the type of its operands.

    - `builder`: of llvmlite, at the place where instructions are written.
    """

    def __init__(self, builder: Any):
        self.builder = builder

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(x, y)

    def sub(self, x: Any, y: Any) -> Any:
        return self.builder.fsub(x, y)

    def mul(self, x: Any, y: Any) -> Any:
        return self.builder.fmul(x, y)

    def div(self, x: Any, y: Any) -> Any:
        return self.builder.fdiv(x, y)

    def neg(self, x: Any) -> Any:
        return self.builder.fneg(x)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """`x y + z`, rounded once where the machine can: a product and a sum elsewhere.
        So no flag for fast arithmetic is needed, and the order of sums is as written.
        """
        return self._intrinsic("fmuladd", x, y, z)

    def _intrinsic(self, name: str, *args: Any) -> Any:
        type_ = args[0].type
        is_vector = isinstance(type_, ir.VectorType)
        scalar = type_.element if is_vector else type_
        suffix = "f64" if scalar == ir.DoubleType() else "f32"
        suffix = f"v{type_.count}{suffix}" if is_vector else suffix
        fun = self._declared(f"llvm.{name}.{suffix}", type_, len(args))
        return self.builder.call(fun, args)

    def _declared(self, name: str, type_: Any, arguments: int) -> Any:
        module = self.builder.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(type_, [type_] * arguments), name)


class Arithmetic(Operations):
    """Operations on values of one kind of number, in one function.

    - `builder`: of llvmlite, at the place where instructions are written.
    - `dtype`: "float64" or "float32".
    - `lanes`: the number of solves that are made at once: an entry is a vector of them.

    A chunk of some entries of one solve is a vector, too; of several solves, one entry.
    """

    def __init__(self, builder: Any, dtype: str, lanes: int):
        super().__init__(builder)
        self.scalar = ir.DoubleType() if dtype == "float64" else ir.FloatType()
        self.suffix = "" if dtype == "float64" else "f"
        self.bytes = 8 if dtype == "float64" else 4
        self.lanes = lanes
        self.entry = self.scalar if lanes == 1 else ir.VectorType(self.scalar, lanes)

    def chunk(self, width: int) -> Any:
        """The type of some entries."""
        return self.entry if width == 1 else ir.VectorType(self.scalar, width)

    # -- numbers

    def number(self, x: float, type_: Any) -> Any:
        if isinstance(type_, ir.VectorType):
            one = ir.Constant(self.scalar, x)
            return ir.Constant(type_, [one] * type_.count)
        return ir.Constant(type_, x)

    def numbers(self, xs: Sequence[float]) -> Any:
        """A chunk of numbers that are known now."""
        if len(set(xs)) == 1:
            return self.number(xs[0], self.chunk(len(xs)))
        values = [ir.Constant(self.scalar, x) for x in xs]
        return ir.Constant(self.chunk(len(xs)), values)

    def splat(self, x: Any, type_: Any) -> Any:
        """A scalar, in all places of a vector."""
        if x.type == type_:
            return x
        undefined = ir.Constant(type_, ir.Undefined)
        index = ir.Constant(ir.IntType(32), 0)
        one = self.builder.insert_element(undefined, x, index)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), type_.count), None)
        return self.builder.shuffle_vector(one, undefined, mask)

    def vector(self, values: Sequence[Any]) -> Any:
        """A chunk of entries."""
        if len(values) == 1:
            return values[0]
        if all(x is values[0] for x in values):
            return self.splat(values[0], self.chunk(len(values)))
        out = ir.Constant(self.chunk(len(values)), ir.Undefined)
        for i, x in enumerate(values):
            out = self.builder.insert_element(out, x, ir.Constant(ir.IntType(32), i))
        return out

    def entry_of(self, chunk: Any, width: int, i: int) -> Any:
        if width == 1:
            return chunk
        return self.builder.extract_element(chunk, ir.Constant(ir.IntType(32), i))

    # -- operations

    def div(self, x: Any, y: Any) -> Any:
        # Each order divides a sum by the same coefficient 0, and the next one waits for
        # the quotient: LLVM may multiply by the reciprocal. (Kepler: 0.9 of the time.)
        return self.builder.fdiv(x, y, flags=("arcp",))

    def copysign(self, x: Any, sign: Any) -> Any:
        return self._intrinsic("copysign", x, sign)

    # -- functions

    def call(self, name: Any, x: Any) -> Any:
        """A function of a value, by its name; or `("pow", exponent)`."""
        if name in ("exp", "tanh") and isinstance(x.type, ir.VectorType):
            return exp(self, x) if name == "exp" else tanh(self, x)
        if name == "rsqrt":
            return self.div(self.number(1.0, x.type), self.call("sqrt", x))
        if name == "logistic":
            e = self.call("exp", self.neg(x))
            one = self.number(1.0, x.type)
            return self.div(one, self.add(one, e))
        if name == "softplus":
            e = self.call("exp", self.neg(self.call("fabs", x)))
            zero = self.number(0.0, x.type)
            # What is not a number stays what it is.
            is_negative = self.builder.fcmp_ordered("<", x, zero)
            positive = self.builder.select(is_negative, zero, x)
            return self.add(positive, self.call("log1p", e))
        if name == "tanh_slope":
            # 4 q / (1 + q)², q = exp(-2 |x|)
            two = self.number(-2.0, x.type)
            q = self.call("exp", self.mul(two, self.call("fabs", x)))
            return self.mul(self.number(4.0, x.type), self._bell(q))
        if name == "logistic_slope":
            return self._bell(self.call("exp", self.neg(self.call("fabs", x))))
        if name in INTRINSICS:
            return self._intrinsic(name, x)
        exponent = None
        if isinstance(name, tuple):
            name, exponent = name
        return self._each(name, x, exponent)

    def _bell(self, q: Any) -> Any:
        """`q / (1 + q)²`"""
        p = self.add(self.number(1.0, q.type), q)
        return self.div(q, self.mul(p, p))

    def _each(self, name: str, x: Any, exponent: Any) -> Any:
        """A function of the C library, of each number."""
        assert name in LIBRARY, name
        count = 1 if exponent is None else 2
        fun = self._declared(name + self.suffix, self.scalar, count)
        rest = []
        if exponent is not None:
            is_number = isinstance(exponent, float)
            rest = [ir.Constant(self.scalar, exponent) if is_number else exponent]
        if not isinstance(x.type, ir.VectorType):
            return self.builder.call(fun, [x, *rest])
        out = ir.Constant(x.type, ir.Undefined)
        for i in range(x.type.count):
            index = ir.Constant(ir.IntType(32), i)
            one = self.builder.extract_element(x, index)
            value = self.builder.call(fun, [one, *rest])
            out = self.builder.insert_element(out, value, index)
        return out

    # -- memory

    def at(self, pointer: Any, index: Any, type_: Any) -> Any:
        """The address of the entry `index` of an array."""
        if isinstance(index, int):
            index = ir.Constant(ir.IntType(64), index)
        return self.builder.gep(pointer, [index], inbounds=True, source_etype=type_)

    def load(self, pointer: Any, type_: Any) -> Any:
        return self.builder.load(pointer, typ=type_, align=self.alignment(type_))

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, pointer, align=self.alignment(value.type))

    def alignment(self, type_: Any) -> int:
        """In bytes, that is certain: a chunk may begin at any of its entries."""
        return self.bytes * (
            self.lanes if self.lanes > 1 and type_ == self.entry else 1
        )

    # -- sums

    def dot(self, pairs: Sequence[tuple[Any, Any]], first: Any = None) -> Any:
        """The sum of products, and of `first`. Some are formed side by side, as each
        addition waits for the one before."""
        n = len(pairs)
        sums: list[Any] = [None] * (1 if n < 4 else 2 if n < 8 else 4)
        sums[0] = first
        for i, (x, y) in enumerate(pairs):
            place = i % len(sums)
            total = sums[place]
            sums[place] = self.mul(x, y) if total is None else self.fma(x, y, total)
        while len(sums) > 1:
            sums = [
                a if b is None else self.add(a, b)
                for a, b in zip(sums[::2], sums[1::2], strict=True)
            ]
        return sums[0]
