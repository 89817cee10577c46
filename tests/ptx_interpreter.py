"""Runs NVIDIA's assembly language (PTX) without a GPU: what LLVM writes of it.

Each function of a module becomes one of Python, whose variables are the registers, and
threads run one after another. An instruction that is unknown here raises, and so does
an access to memory that is out of bounds or misaligned, that reads what nobody has
written, or that meets the work of another thread.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import ptx_arithmetic as arithmetic


class PtxError(Exception):
    pass


# -- memory

# Addresses are the number of an array above 32 bits for the place within it. Those of
# the memory of a thread are another kind, which a generic address marks.
_PLACE = 2**32 - 1
_LOCAL = 2**62
_HOST = 1


class _Form(struct.Struct):
    """Numbers that are moved at once.

    - `letters`: of each of them, as `struct` has them.
    - `unused`: the places of those of which nothing is used. (LLVM reads three numbers
        as a vector of four.)
    """

    def __init__(self, letters: str, unused: Sequence[int] = ()):
        sizes = [struct.calcsize(f"<{x}") for x in letters]
        parts = [
            f"{size}x" if i in unused else x
            for i, (x, size) in enumerate(zip(letters, sizes))
        ]
        super().__init__("<" + "".join(parts))
        self.padding = bytes(
            int(i in unused) for i, size in enumerate(sizes) for _ in range(size)
        )


class _Array:
    """Bytes; beside each of them, who has written it: no-one (0), the host, or a
    thread."""

    def __init__(self, content: bytes | int, align: int, *, is_constant=False):
        self.data = bytearray(content)
        who = 0 if isinstance(content, int) else _HOST
        self.written = bytearray([who]) * len(self.data)
        self.align, self.is_constant = align, is_constant

    def load(self, at: int, form: _Form, own: bytes) -> tuple:
        self._check(at, form.size)
        who = self.written[at : at + form.size]
        if 1 in form.padding:
            who = bytes(x for x, unused in zip(who, form.padding) if not unused)
        if others := who.strip(own):
            who = "nobody" if 0 in others else "another thread"
            raise PtxError(f"reads at {at} what {who} has written")
        return form.unpack_from(self.data, at)

    def store(self, at: int, form: _Form, own: bytes, values: tuple) -> None:
        self._check(at, form.size)
        if self.is_constant:
            raise PtxError("writes what may only be read")
        if self.written[at : at + form.size].strip(b"\0" + own):
            raise PtxError(f"writes at {at} over what another thread has written")
        form.pack_into(self.data, at, *values)
        self.written[at : at + form.size] = own[-1:] * form.size

    def _check(self, at: int, size: int) -> None:
        if not 0 <= at <= len(self.data) - size:
            raise PtxError(f"{size} bytes at {at} of an array of {len(self.data)}")
        if at % size or size > self.align:
            raise PtxError(f"{size} bytes at {at}, aligned by {self.align}")


class _Memory:
    """All arrays. `own` is who the running thread may read from."""

    def __init__(self):
        self.arrays: dict[int, _Array] = {}
        self.locals: dict[int, _Array] = {}
        self.own = bytes([_HOST])

    def add(self, array: _Array) -> int:
        number = len(self.arrays) + 1
        self.arrays[number] = array
        return number << 32

    def add_local(self, size: int, align: int) -> int:
        number = len(self.locals) + 1
        self.locals[number] = _Array(size, align)
        return number << 32

    def start(self, thread: int) -> None:
        self.locals.clear()
        self.own = bytes([_HOST, _HOST + 1 + thread % 250])

    def _at(self, space: str, address: int) -> tuple[_Array, int]:
        if space == "generic":
            space = "local" if address & _LOCAL else "global"
            address &= ~_LOCAL
        arrays = self.locals if space == "local" else self.arrays
        array = arrays.get(address >> 32)
        if array is None:
            raise PtxError(f"there is no {space} memory at {address:#x}")
        return array, address & _PLACE

    def load(self, space: str, address: int, form: _Form) -> tuple:
        array, at = self._at(space, address)
        return array.load(at, form, self.own)

    def store(self, space: str, address: int, form: _Form, values: tuple) -> None:
        array, at = self._at(space, address)
        array.store(at, form, self.own, values)


# -- the parts of a module


class _Function(NamedTuple):
    name: str
    is_kernel: bool
    result: str
    parameters: list[str]
    statements: list[str]


_KINDS = {f"{kind}{bits}": bits for kind in "bsu" for bits in (8, 16, 32, 64)}
_KINDS |= {"f32": 32, "f64": 64, "pred": 1}

_HEADER = re.compile(
    r"\.(func|entry)\s*(\([^)]*\))?\s*([\w$]+)\s*\(([^)]*)\)\s*(.*)", re.S
)
_DECLARED = re.compile(r"([\w$]+)(?:\[(\d+)\])?$")
_NUMBER = re.compile(r"-?\d+|0x[0-9a-fA-F]+|0[df][0-9a-fA-F]+")


def _parts(text: str) -> Iterator[str]:
    """What is declared at the top: functions with their bodies, and variables."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^\s*\.(version|target|address_size)\b[^\n]*", "", text, flags=re.M)
    start = depth = 0
    for match in re.finditer("[{};]", text):
        depth += {"{": 1, "}": -1, ";": 0}[match[0]]
        part = text[start : match.end()].strip()
        if depth == 0 and (match[0] == ";" or _HEADER.search(part)):
            yield part
            start = match.end()
    assert not text[start:].strip(), text[start:]


def _statements(body: str) -> list[str]:
    """Also labels. Braces around statements only limit where names are known."""
    body = re.sub(r"^\s*(\$[\w$]+):", r"label \1;", body, flags=re.M)
    found = re.findall(r"[^;{}]*(?:\{[^;{}]*\}[^;{}]*)*;|[{}]", body)
    found = [x.rstrip(";").strip() for x in found]
    return [x for x in found if x not in ("", "{", "}")]


def _function(header: re.Match) -> _Function:
    kind, result, name, parameters, body = header.groups()
    parameters = [x.strip() for x in parameters.split(",") if x.strip()]
    result = (result or "").strip("() \n\t")
    body = body.partition("{")[2]
    return _Function(name, kind == "entry", result, parameters, _statements(body))


def _declared(text: str) -> tuple[str, int, int]:
    """The name of a variable, its size, and what its address is a multiple of."""
    name, count = _DECLARED.search(text.strip()).groups()  # pyright: ignore
    [kind] = [x for x in re.findall(r"\.(\w+)", text) if x in _KINDS]
    size = _KINDS[kind] // 8
    align = re.search(r"\.align\s+(\d+)", text)
    # That of a parameter which is a pointer is of what it points to.
    known = int(align[1]) if align and ".ptr" not in text else size
    return name, size * int(count or 1), known


class Module:
    """**Arguments:**

    - `text`: of the module, in assembly language.
    """

    def __init__(self, text: str):
        self._memory = _Memory()
        self._registers: dict[str, int] = {}
        self._names = {
            **{x: getattr(arithmetic, x) for x in dir(arithmetic) if x[0] != "_"},
            "memory": self._memory,
            "register": self._registers,
            "Parameter": lambda size, align: _Array(size, max(align, 8)),
            "PtxError": PtxError,
        }
        self._variables: dict[str, int] = {}
        self._kernels: dict[str, _Function] = {}
        functions = []
        for part in _parts(text):
            if (header := _HEADER.search(part)) is None:
                self._add_variable(part)
            elif not part.endswith(";"):
                functions.append(_function(header))
        for function in functions:
            if function.is_kernel:
                self._kernels[function.name] = function
            source = _Translation(function, self._variables).source(self._names)
            exec(compile(source, function.name, "exec"), self._names)

    def _add_variable(self, text: str) -> None:
        declaration, equals, content = text.rstrip(";").partition("=")
        name, size, align = _declared(declaration)
        assert equals and re.search(r"\.(global|const)\b", declaration), text
        [kind] = re.findall(r"\.([busf]\d+)\b", declaration)
        numbers = [
            int(x, 0) if x[:2] not in ("0d", "0f") else int(x[2:], 16)
            for x in re.findall(r"[^\s,{}]+", content)
        ]
        width = _KINDS[kind] // 8
        data = b"".join(
            (x % 2 ** (8 * width)).to_bytes(width, "little") for x in numbers
        )
        array = _Array(data.ljust(size, b"\0"), align, is_constant=True)
        self._variables[name] = self._memory.add(array)

    def run(
        self,
        kernel: str,
        blocks: int,
        threads: int,
        operands: Sequence[np.ndarray],
        outs: Sequence[Any],
    ) -> list[np.ndarray]:
        """Calls a kernel with the addresses of arrays.

        **Arguments:**

        - `blocks`, `threads`: how many blocks there are, and threads in each of them.
        - `operands`: what is read.
        - `outs`: with the shapes and the dtypes of what is written. All bits are set
            where nothing is: numbers that are none, and -1.
        """
        arrays = [
            _Array(np.ascontiguousarray(x).tobytes(), 64, is_constant=True)
            for x in operands
        ]
        results = [
            _Array(math.prod(x.shape) * np.dtype(x.dtype).itemsize, 64) for x in outs
        ]
        addresses = [self._memory.add(x) for x in (*arrays, *results)]
        form = struct.Struct("<Q")
        parameters = [_Array(form.pack(x), 8, is_constant=True) for x in addresses]
        assert len(parameters) == len(self._kernels[kernel].parameters)
        self._registers |= {"%ntid.x": threads, "%nctaid.x": blocks}
        for block in range(blocks):
            for thread in range(threads):
                self._registers |= {"%ctaid.x": block, "%tid.x": thread}
                self._memory.start(block * threads + thread)
                try:
                    self._names[_name(kernel)](*parameters)
                except (PtxError, UnboundLocalError) as error:
                    place = f"thread {thread} of block {block}"
                    raise PtxError(f"{place}: {error}") from error
        for address in addresses:
            del self._memory.arrays[address >> 32]
        for x in results:
            data = np.frombuffer(x.data, np.uint8)
            data[np.frombuffer(x.written, np.uint8) == 0] = 255
        return [
            np.frombuffer(bytes(x.data), out.dtype).reshape(out.shape)
            for x, out in zip(results, outs)
        ]


# -- a function


def _name(name: str) -> str:
    """Python's name of a variable. Registers of a function begin with `%`; those of
    the assembly language within have names of their own."""
    if name.startswith("%"):
        return name[1:]
    return "_" + re.sub(r"\W", "_S", name)


# How often a function may branch.
_LIMIT = 10**6

_INTEGERS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul.lo": "{0} * {1}",
    "mul.hi": "{0} * {1} >> {bits}",
    "mul.wide": "{0} * {1}",
    "mad.lo": "{0} * {1} + {2}",
    "mad.hi": "({0} * {1} >> {bits}) + {2}",
    "mad.wide": "{0} * {1} + {2}",
    "neg": "-{0}",
    "abs": "abs({0})",
    "min": "min({0}, {1})",
    "max": "max({0}, {1})",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "~{0}",
    "shl": "{0} << min({1}, {bits})",
    "shr": "{0} >> min({1}, {bits})",
    "clz": "{bits} - {0}.bit_length()",
    "popc": "{0}.bit_count()",
    "bfe": "bit_field({0}, {1}, {2})",
}
# The kinds of operands that are not that of the instruction.
_OPERANDS = {"shl": (None, "u32"), "shr": (None, "u32"), "bfe": (None, "u32", "u32")}
_RESULTS = {"clz": "u32", "popc": "u32"}
# With a carry: `add.cc`, `addc`, `addc.cc`, ...
_CARRIED = {
    "add": "{0} + {1} + {cc}",
    "sub": "{0} - {1} - {cc}",
    "mad.lo": "({0} * {1} & {mask}) + {2} + {cc}",
    "mad.hi": "({0} * {1} >> {bits}) + {2} + {cc}",
}
_FLOATS = {
    "neg": "-{0}",
    "abs": "abs({0})",
    "min": "smaller({0}, {1})",
    "max": "larger({0}, {1})",
    # The sign is that of the first one.
    "copysign": "math.copysign({1}, {0})",
    "ex2.approx": "exp2({0})",
    "lg2.approx": "log2({0})",
    "rcp.approx": "div(1.0, {0})",
    "rsqrt.approx": "rsqrt({0})",
    "sqrt.approx": "sqrt({0})",
    "div.approx": "quotient({0}, {1})",
    "add.rn": "{0} + {1}",
    "add": "{0} + {1}",
    "sub.rn": "{0} - {1}",
    "sub": "{0} - {1}",
    "mul.rn": "{0} * {1}",
    "mul": "{0} * {1}",
    "div.rn": "div({0}, {1})",
    "rcp.rn": "div(1.0, {0})",
    "sqrt.rn": "sqrt({0})",
}
_APPROXIMATE = ("rcp.approx", "rsqrt.approx")


class _Translation:
    """Of one function."""

    def __init__(self, function: _Function, variables: dict[str, int]):
        self.function, self.variables = function, variables
        self.bits: dict[str, int] = {}
        # Parameters and results are arrays, of this function and of those it calls.
        own = [*function.parameters, *filter(None, [function.result])]
        self.arrays = {_declared(x)[0] for x in own}
        self.depots: set[str] = set()
        # As what registers are read and written: "i", "f" and "p". A register is kept
        # as a floating-point number if that is what is written into it, or read of
        # what came out of memory.
        self.reads: dict[str, set[str]] = {}
        self.writes: dict[str, set[str]] = {}
        self.floats: set[str] = set()
        self.unused: set[str] = set()

    def source(self, names: dict[str, Any]) -> str:
        self.names = names
        self.lines()  # In which all registers are met.
        for name in (*self.reads, *self.writes):
            written, read = (x.get(name, set()) for x in (self.writes, self.reads))
            if "f" in written | read and "i" not in written:
                self.floats.add(name)
            if not read:
                self.unused.add(name)
        body = "\n".join(f"        {x}" for x in self.lines())
        parameters = ", ".join(_name(_declared(x)[0]) for x in self.function.parameters)
        start = ""
        if self.function.result:
            name, size, align = _declared(self.function.result)
            start = f"    {_name(name)} = Parameter({size}, {align})\n"
        return (
            f"def {_name(self.function.name)}({parameters}):\n"
            f"{start}    at = 0\n"
            f"    for _ in range({_LIMIT}):\n{body}\n"
            f"    raise PtxError('{self.function.name} does not end')\n"
        )

    def lines(self) -> list[str]:
        statements = self.function.statements
        labels = [x.split()[1] for x in statements if x.startswith("label ")]
        self.labels = {name: i for i, name in enumerate(labels, 1)}
        found = ["if at == 0:", "    pass"]
        for statement in statements:
            if statement.startswith("label "):
                i = self.labels[statement.split()[1]]
                found += [f"    at = {i}", f"if at == {i}:", "    pass"]
                continue
            try:
                found += [f"    {x}" for x in self.statement(statement)]
            except (AssertionError, LookupError, ValueError) as error:
                raise NotImplementedError(f"`{statement}` ({error!r})") from error
        return found

    # What a statement is.

    def statement(self, text: str) -> list[str]:
        if text.startswith("."):
            return self.declaration(text)
        condition = ""
        if text.startswith("@"):
            guard, text = text.split(None, 1)
            negated = "not " if guard[1] == "!" else ""
            condition = f"if {negated}{self.read(guard.lstrip('@!'), 'pred')}: "
        opcode, rest = re.fullmatch(r"(\S+)\s*(.*)", text, re.S).groups()  # pyright: ignore
        operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s]+", rest)
        return [condition + "; ".join(self.instruction(opcode.split("."), operands))]

    def declaration(self, text: str) -> list[str]:
        kind = text.split()[0]
        if kind == ".reg":
            _, of, names = text.split(None, 2)
            for name in re.split(r",\s*", names):
                self.bits[re.sub(r"<\d+>$", "", name)] = _KINDS[of[1:]]
            return []
        if kind == ".pragma":
            return []
        name, size, align = _declared(text)
        if kind == ".local":
            self.depots.add(name)
            return [f"{_name(name)} = memory.add_local({size}, {align})"]
        if kind == ".param":
            self.arrays.add(name)
            return [f"{_name(name)} = Parameter({size}, {align})"]
        raise NotImplementedError(kind)

    def instruction(self, parts: list[str], operands: list[str]) -> list[str]:
        base, *modifiers = parts
        kinds = [x for x in modifiers if x in _KINDS]
        modifiers = [x for x in modifiers if x not in _KINDS]
        special = getattr(self, f"_{base}", None)
        if special is not None:
            return special(modifiers, kinds, operands)
        [kind] = kinds
        if kind == "pred":
            return self._logic(base, modifiers, operands)
        if kind[0] == "f":
            return self._float(base, modifiers, kind, operands)
        return self._integer(base, modifiers, kind, operands)

    # Registers, and numbers.

    def width(self, name: str) -> int:
        own = self.bits.get(name)
        return own or self.bits[re.sub(r"\d+$", "", name)]

    def is_register(self, operand: str) -> bool:
        try:
            return self.width(operand) > 0
        except LookupError:
            return False

    def kept_as(self, name: str) -> str:
        bits = self.width(name)
        if bits == 1:
            return "pred"
        return f"f{bits}" if name in self.floats else f"u{bits}"

    def read(self, operand: str, kind: str, is_moved: bool = False) -> str:
        """Python's expression of an operand. What is only moved does not say what it
        is."""
        if self.is_register(operand):
            self.reads.setdefault(operand, set()).add("" if is_moved else _group(kind))
            return self.converted(_name(operand), self.kept_as(operand), kind)
        if operand.startswith("%"):
            return f"register[{operand!r}]"
        if _NUMBER.fullmatch(operand):
            return self.number(operand, kind)
        symbol, _, offset = operand.partition("+")
        if symbol in self.depots:
            return f"({_name(symbol)} + {int(offset or 0)})"
        return str(self.variables[symbol] + int(offset or 0))

    def number(self, text: str, kind: str) -> str:
        if kind == "pred":
            return str(int(text) != 0)
        if text[:2] in ("0d", "0f"):
            bits, own = int(text[2:], 16), "f64" if text[1] == "d" else "f32"
            if kind[0] != "f":
                return str(bits)
            assert own == kind, text
        else:
            bits = int(text, 0)
            if kind[0] != "f":
                return f"({bits})" if kind[0] == "s" else str(bits % 2 ** _KINDS[kind])
        convert = {64: arithmetic.float_of_64, 32: arithmetic.float_of_32}[_KINDS[kind]]
        x = convert(bits)
        return f"({x!r})" if math.isfinite(x) else f"{convert.__name__}({bits})"

    def converted(self, x: str, own: str, kind: str) -> str:
        bits = _KINDS[kind]
        if own == "pred" or kind == "pred":
            assert own == kind
            return x
        if own[0] == "f":
            if kind[0] == "f":
                assert own == kind
                return x
            x = f"bits_of_{_KINDS[own]}({x})"
        elif kind[0] == "f":
            assert _KINDS[own] == bits
            return f"float_of_{bits}({x})"
        if _KINDS[own] > bits:
            x = f"({x} & {2**bits - 1})"
        return f"signed({x}, {bits})" if kind[0] == "s" else x

    def write(self, operand: str, kind: str, x: str, is_moved: bool = False) -> str:
        """Python's statement by which a register gets a value of that kind."""
        if operand == "_":
            return f"_ = {x}"
        self.writes.setdefault(operand, set()).add("" if is_moved else _group(kind))
        own = self.kept_as(operand)
        if own != kind and own != "pred":
            if kind[0] == "f":
                x = f"bits_of_{_KINDS[kind]}({x})"
            elif own[0] == "f":
                x = f"float_of_{_KINDS[own]}({x})"
            else:
                x = f"{x} & {2 ** _KINDS[own if kind[0] == 's' else kind] - 1}"
                x = (
                    x
                    if _KINDS[kind] <= _KINDS[own]
                    else f"{x} & {2 ** _KINDS[own] - 1}"
                )
        elif own[0] == "u":
            x = f"{x} & {2 ** _KINDS[own] - 1}"
        return f"{_name(operand)} = {x}"

    def untyped(self, operand: str, kind: str) -> str:
        """The kind in which bits are moved: as the register has them."""
        if kind[0] == "b" and self.is_register(operand):
            own = self.kept_as(operand)
            if _KINDS[own] == _KINDS[kind]:
                return own
        return kind.replace("b", "u")

    # Memory.

    def address(self, operand: str) -> tuple[str, str]:
        """Python's expressions of an array, if it is a parameter, and of the place in
        there, or else of an address."""
        base, _, offset = operand.strip("[] ").partition("+")
        if base in self.arrays:
            return _name(base), str(int(offset or 0))
        x = self.read(base, "u64")
        if offset:
            x = f"({x} + {int(offset)}) & {2**64 - 1}"
        return "", x

    def moved(self, items: str, modifiers: list[str], kind: str) -> list[tuple]:
        """Registers, or numbers, and the kinds in which they are moved."""
        found = re.findall(r"[^\s,{}]+", items)
        [count] = [int(x[1]) for x in modifiers if x in ("v2", "v4")] or [1]
        assert len(found) == count, items
        return [(x, self.untyped(x, kind)) for x in found]

    def form(self, kinds: list[str], unused: Sequence[int] = ()) -> str:
        letters = {
            "f32": "f",
            "f64": "d",
            "u8": "B",
            "u16": "H",
            "u32": "I",
            "u64": "Q",
        }
        letters |= {"s8": "b", "s16": "h", "s32": "i", "s64": "q"}
        text = "".join(letters[x] for x in kinds)
        name = "_".join(["form", text, *map(str, unused)])
        self.names[name] = _Form(text, unused)
        return name

    def space(self, modifiers: list[str]) -> str:
        known = {"nc", "v2", "v4", "volatile", "relaxed", "weak"}
        [space] = [x for x in modifiers if x not in known] or ["generic"]
        if space == "const":
            space = "global"
        if space not in ("generic", "global", "local", "param"):
            raise NotImplementedError(space)
        return space

    def _ld(self, modifiers, kinds, operands) -> list[str]:
        [kind] = kinds
        space = self.space(modifiers)
        items = self.moved(operands[0], modifiers, kind)
        unused = [i for i, (x, _) in enumerate(items) if x in self.unused]
        form = self.form([x for _, x in items], unused)
        array, at = self.address(operands[1])
        assert (space == "param") == bool(array), operands
        if array:
            load = f"{array}.load({at}, {form}, memory.own)"
        else:
            load = f"memory.load({space!r}, {at}, {form})"
        items = [x for i, x in enumerate(items) if i not in unused]
        temporary = [f"x{i}" for i in range(len(items))]
        lines = [f"{''.join(f'{x}, ' for x in temporary) or '_'} = {load}"]
        for x, (item, of) in zip(temporary, items):
            lines.append(self.write(item, of, x, kind[0] == "b"))
        return lines

    def _st(self, modifiers, kinds, operands) -> list[str]:
        [kind] = kinds
        space = self.space(modifiers)
        items = self.moved(operands[1], modifiers, kind)
        form = self.form([x for _, x in items])
        array, at = self.address(operands[0])
        assert (space == "param") == bool(array), operands
        is_moved = kind[0] == "b"
        values = "".join(f"{self.read(x, of, is_moved)}, " for x, of in items)
        if array:
            return [f"{array}.store({at}, {form}, memory.own, ({values}))"]
        return [f"memory.store({space!r}, {at}, {form}, ({values}))"]

    def _cvta(self, modifiers, kinds, operands) -> list[str]:
        assert kinds == ["u64"]
        x = self.read(operands[1], "u64")
        if modifiers[-1] == "local":
            operation = f"{x} & {~_LOCAL}" if "to" in modifiers else f"{x} | {_LOCAL}"
        elif modifiers[-1] in ("global", "const"):
            operation = x
        else:
            raise NotImplementedError(modifiers)
        return [self.write(operands[0], "u64", operation)]

    # Moves and conversions.

    def _mov(self, modifiers, kinds, operands) -> list[str]:
        [kind] = kinds
        to, of = operands
        assert not modifiers
        if to.startswith("{"):
            parts = re.findall(r"[^\s,{}]+", to)
            bits = _KINDS[kind] // len(parts)
            lines = [f"x = {self.read(of, f'u{2 * bits}')}"]
            return lines + [
                self.write(name, f"u{bits}", f"x >> {i * bits}")
                for i, name in enumerate(parts)
            ]
        if of.startswith("{"):
            parts = re.findall(r"[^\s,{}]+", of)
            bits = _KINDS[kind] // len(parts)
            x = " | ".join(
                f"{self.read(name, f'u{bits}')} << {i * bits}"
                for i, name in enumerate(parts)
            )
            return [self.write(to, f"u{_KINDS[kind]}", f"({x})")]
        if kind == "pred":
            return [self.write(to, "pred", self.read(of, "pred"))]
        own = self.untyped(to, kind)
        if of[:2] == "0d" or of[:2] == "0f":
            return [
                self.write(to, f"f{_KINDS[kind]}", self.read(of, f"f{_KINDS[kind]}"))
            ]
        return [self.write(to, own, self.read(of, own, True), True)]

    def _selp(self, modifiers, kinds, operands) -> list[str]:
        [kind] = kinds
        assert not modifiers
        to, x, y, condition = operands
        own, is_moved = self.untyped(to, kind), kind[0] == "b"
        x, y = (self.read(z, own, is_moved) for z in (x, y))
        choice = f"({x} if {self.read(condition, 'pred')} else {y})"
        return [self.write(to, own, choice, is_moved)]

    def _cvt(self, modifiers, kinds, operands) -> list[str]:
        kind, of = kinds
        x = self.read(operands[1], of)
        known = {"rn", "rni", "rzi", "rmi", "rpi", "sat", "ftz"}
        assert set(modifiers) <= known, modifiers
        [mode] = [x for x in modifiers if x[0] == "r"] or [""]
        if "ftz" in modifiers and of == "f32":
            x = f"flushed({x}, 32)"
        if of[0] != "f" and kind[0] != "f":
            assert not modifiers
        elif of[0] != "f":
            assert modifiers == ["rn"]
            x = f"float({x})" if kind == "f64" else f"int_to_float32({x})"
        elif kind[0] != "f":
            assert len(mode) == 3
            x = f"to_int({mode!r}, {x}, {kind!r}, {of!r})"
        elif len(mode) == 3:
            assert kind == of
            x = f"to_whole({mode!r}, {x})"
        elif (kind, of) == ("f32", "f64"):
            assert mode == "rn"
            x = f"to_float32({x})"
        if "sat" in modifiers:
            assert kind[0] == of[0] == "f"
            x = f"saturated({x})"
        return [self.write(operands[0], kind, x)]

    # Control.

    def _bra(self, modifiers, kinds, operands) -> list[str]:
        assert modifiers in ([], ["uni"]) and not kinds
        return [f"at = {self.labels[operands[0]]}", "continue"]

    def _ret(self, modifiers, kinds, operands) -> list[str]:
        assert not modifiers + kinds + operands
        if self.function.result:
            return [f"return {_name(_declared(self.function.result)[0])}"]
        return ["return"]

    def _call(self, modifiers, kinds, operands) -> list[str]:
        assert modifiers in ([], ["uni"]) and not kinds
        result = operands.pop(0) if operands[0].startswith("(") else None
        name, *arguments = operands
        names = re.findall(r"[\w$]+", arguments[0]) if arguments else []
        call = f"{_name(name)}({', '.join(map(_name, names))})"
        return [call if result is None else f"{_name(result.strip('() '))} = {call}"]

    # Arithmetic.

    def _setp(self, modifiers, kinds, operands) -> list[str]:
        [kind] = kinds
        comparison, *rest = [x for x in modifiers if x != "ftz"]
        to, x, y, *others = operands
        table = arithmetic.FLOAT_COMPARISONS
        if kind[0] != "f":
            comparison = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(
                comparison, comparison
            )
            table = arithmetic.COMPARISONS
        x, y = self.read(x, kind), self.read(y, kind)
        if "ftz" in modifiers:
            x, y = f"flushed({x}, 32)", f"flushed({y}, 32)"
        found = f"({table[comparison].format(x, y)})"
        if rest:
            [operation], [other] = rest, others
            sign = {"and": "and", "or": "or", "xor": "!="}[operation]
            found = f"{found} {sign} {self.read(other, 'pred')}"
        else:
            assert not others
        return [self.write(to, "pred", found)]

    def _logic(self, base, modifiers, operands) -> list[str]:
        assert not modifiers
        to, *others = operands
        form = {
            "and": "{} and {}",
            "or": "{} or {}",
            "xor": "{} != {}",
            "not": "not {}",
        }
        found = form[base].format(*[self.read(x, "pred") for x in others])
        return [self.write(to, "pred", found)]

    def _shf(self, modifiers, kinds, operands) -> list[str]:
        direction, mode = modifiers
        assert kinds == ["b32"] and mode == "wrap"
        to, low, high, n = operands
        low, high, n = (self.read(x, "u32") for x in (low, high, n))
        return [
            self.write(to, "u32", f"funnel({direction!r}, {low}, {high}, {n} & 31)")
        ]

    def _integer(self, base, modifiers, kind, operands) -> list[str]:
        to, *others = operands
        kind = kind.replace("b", "u")
        bits = _KINDS[kind]
        carries = "cc" in modifiers
        takes = base in ("addc", "subc", "madc")
        name = ".".join([base, *[x for x in modifiers if x != "cc"]])
        kinds = [kind] * len(others)
        for i, other in enumerate(_OPERANDS.get(base, ())):
            kinds[i] = other or kind
        if name in ("mad.wide",):
            kinds[2] = f"{kind[0]}{2 * bits}"
        xs = [self.read(x, of) for x, of in zip(others, kinds, strict=True)]
        if carries or takes:
            assert kind[0] == "u" or bits, kind
            name = (
                name.replace("addc", "add")
                .replace("subc", "sub")
                .replace("madc", "mad")
            )
            x = _CARRIED[name].format(
                *xs, bits=bits, mask=2**bits - 1, cc="cc" if takes else "0"
            )
            lines = [f"x = {x}", self.write(to, kind, "x")]
            return lines + ([f"cc = x >> {bits} & 1"] if carries else [])
        result = _RESULTS.get(base, kind)
        if name.endswith("wide"):
            result = f"{kind[0]}{2 * bits}"
        return [self.write(to, result, f"({_INTEGERS[name].format(*xs, bits=bits)})")]

    def _float(self, base, modifiers, kind, operands) -> list[str]:
        to, *others = operands
        bits = _KINDS[kind]
        flush = "ftz" in modifiers
        name = ".".join([base, *[x for x in modifiers if x not in ("ftz", "sat")]])
        xs = [self.read(x, kind) for x in others]
        if flush:
            xs = [f"flushed({x}, {bits})" for x in xs]
        if kind == "f64":
            if name in _APPROXIMATE:
                xs = [f"upper_half({x})" for x in xs]
            x = (
                f"fma_64({', '.join(xs)})"
                if name == "fma.rn"
                else _FLOATS[name].format(*xs)
            )
            x = f"upper_half({x})" if name in _APPROXIMATE else x
        elif base == "fma" or (base == "add" and name not in ("add", "add.rn")):
            x = f"{base}_32({name.split('.')[1]!r}, {', '.join(xs)})"
        else:
            x = f"to_float32({_FLOATS[name].format(*xs)})"
        if flush:
            x = f"flushed({x}, {bits})"
        if "sat" in modifiers:
            x = f"saturated({x})"
        return [self.write(to, kind, x)]


def _group(kind: str) -> str:
    return kind[0] if kind[0] in "fp" else "i"
