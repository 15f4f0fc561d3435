"""Object-dtype `.npy` payloads, read without unpickling.

RingRift stores strings, policy rows and one dictionary as object arrays, which numpy writes as pickles. A
pickle is a program, and the files come from rented hosts. This module interprets the few opcodes numpy
needs for plain values and never imports, looks up or calls what a stream names: a whitelisted global
becomes an inert marker, anything else raises `HostilePickle`. The zip and header around a payload belong to
`npz_reader`; what the values mean to `npz_validator`.

Understood: int, float, bool, None, str, bytes, tuple, list, dict, numpy numeric and string arrays and
scalars, and the object array that holds them, as written by numpy 1.x and 2.x with pickle protocols 2 to 5.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from enum import Enum
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ObjectArray = npt.NDArray[np.object_]

MAX_PAYLOAD_BYTES: Final = 256 << 20
"""Largest payload that is interpreted at all; one million policy rows need about half of it."""
MAX_BYTES_PER_ELEMENT: Final = 16 << 10
MAX_INT_BYTES: Final = 32
MAX_NESTED_VALUES: Final = 10_000
MAX_DEPTH: Final = 8
MAX_DIMENSIONS: Final = 32


class ObjectArrayError(ValueError):
    """A payload that cannot be read; the message is one line."""


class HostilePickle(ObjectArrayError):
    """The stream asks for something plain data never needs."""


class CorruptPickle(ObjectArrayError):
    """The stream asks for nothing forbidden but does not describe an array of the declared shape."""


class _Known(Enum):
    """Inert markers for the only globals a stream may name."""

    RECONSTRUCT = "_reconstruct"
    SCALAR = "scalar"
    FROMBUFFER = "_frombuffer"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"
    BYTES = "bytes"


_GLOBALS: Final[dict[tuple[str, str], _Known]] = {
    **{
        (f"numpy.{core}.{module}", known.value): known
        for core in ("core", "_core")
        for module, known in (
            ("multiarray", _Known.RECONSTRUCT),
            ("multiarray", _Known.SCALAR),
            ("numeric", _Known.FROMBUFFER),
        )
    },
    ("numpy", "ndarray"): _Known.NDARRAY,
    ("numpy", "dtype"): _Known.DTYPE,
    ("_codecs", "encode"): _Known.ENCODE,
    ("__builtin__", "bytes"): _Known.BYTES,
    ("builtins", "bytes"): _Known.BYTES,
}
_RECONSTRUCT: Final = _Known.RECONSTRUCT
_RECONSTRUCT_ARGUMENTS: Final = (_Known.NDARRAY, (0,), b"b")
_BLANK: Final = np.empty(0, np.int8)
_DTYPE_CODE: Final = re.compile(r"[<|=]?(?:b1|i[1248]|u[1248]|f[248]|O8?|[US]\d{1,4})")
_NATIVE_ORDERS: Final = ("<", "|", "=")
_PLAIN_TYPES: Final = frozenset({int, float, bool, type(None), str, bytes})
_MALFORMED: Final = (
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    AttributeError,
    struct.error,
)


def load_object_array(payload: bytes, shape: tuple[int, ...]) -> ObjectArray:
    """Read the pickle that follows an object-dtype `.npy` header.

    `shape` is the header's; the stream must agree with it. Raises nothing but `ObjectArrayError`s.
    """
    limit = min(MAX_PAYLOAD_BYTES, (64 << 10) + MAX_BYTES_PER_ELEMENT * prod(shape))
    if len(payload) > limit:
        raise HostilePickle(f"{len(payload)} bytes of pickle for {prod(shape)} elements; at most {limit} are read")
    try:
        array = _Machine(payload).run()
    except ObjectArrayError:
        raise
    except _MALFORMED as error:
        raise CorruptPickle(f"not a well-formed pickle: {type(error).__name__}") from None
    if type(array) is not np.ndarray or array.dtype != np.dtype(object):
        raise CorruptPickle(f"the pickle holds {_describe(array)}, not an object array")
    if array.shape != shape:
        raise CorruptPickle(f"the pickle holds shape {array.shape}, the header says {shape}")
    _check_elements(array)
    return array


def _check_elements(array: ObjectArray) -> None:
    """Refuse elements whose later use could recurse or explode: shared or self-referring containers."""
    elements: list[Any] = array.ravel().tolist()
    budget = MAX_NESTED_VALUES
    if set(map(type, elements)) <= _PLAIN_TYPES:
        return
    for element in elements:
        if isinstance(element, tuple | list | dict):
            budget = _walk(element, budget, MAX_DEPTH)
        else:
            _check_leaf(element)


def _walk(value: Any, budget: int, depth: int) -> int:
    """Visit a nested value; returns what is left of the budget."""
    if budget <= 0 or depth == 0:
        raise HostilePickle("containers are nested or shared more than plain data needs")
    budget -= 1
    if isinstance(value, dict):
        for key, item in value.items():
            budget = _walk(item, _walk(key, budget, depth - 1), depth - 1)
    elif isinstance(value, tuple | list):
        for item in value:
            budget = _walk(item, budget, depth - 1)
    else:
        _check_leaf(value)
    return budget


def _check_leaf(value: Any) -> None:
    if type(value) in _PLAIN_TYPES:
        return
    if isinstance(value, np.ndarray | np.generic) and value.dtype != np.dtype(object):
        return
    raise HostilePickle(f"an element is {_describe(value)}")


def _describe(value: Any) -> str:
    return f"the global {value.value!r}" if isinstance(value, _Known) else f"a {type(value).__name__}"


class _Machine:
    """A pickle virtual machine with no way out: `run` inlines the opcodes that occur per element."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Interpret up to STOP and return the one value left on the stack."""
        data, stack, marks, memo = self.data, self.stack, self.marks, self.memo
        push, pop = stack.append, stack.pop
        read_double, read_u32, read_i32 = _DOUBLE.unpack_from, _U32.unpack_from, _I32.unpack_from
        rare = _RARE
        pos = 0
        while True:
            op = data[pos]
            pos += 1
            if op < 0x50:
                if op == 0x4D:  # BININT2
                    push(data[pos] | data[pos + 1] << 8)
                    pos += 2
                    continue
                if op == 0x47:  # BINFLOAT
                    push(read_double(data, pos)[0])
                    pos += 8
                    continue
                if op == 0x4B:  # BININT1
                    push(data[pos])
                    pos += 1
                    continue
                if op == 0x43:  # SHORT_BINBYTES
                    end = pos + 1 + data[pos]
                    push(data[pos + 1 : end])
                    pos = end
                    continue
                if op == 0x28:  # MARK
                    marks.append(len(stack))
                    continue
                if op == 0x4A:  # BININT
                    push(read_i32(data, pos)[0])
                    pos += 4
                    continue
                if op == 0x2E:  # STOP
                    break
            elif op < 0x80:
                if op == 0x68:  # BINGET
                    push(memo[data[pos]])
                    pos += 1
                    continue
                if op == 0x52:  # REDUCE
                    arguments = pop()
                    stack[-1] = _reduce(stack[-1], arguments)
                    continue
                if op == 0x62:  # BUILD
                    state = pop()
                    _build(stack[-1], state)
                    continue
                if op == 0x74:  # TUPLE
                    start = marks.pop()
                    stack[start:] = [tuple(stack[start:])]
                    continue
                if op == 0x6A:  # LONG_BINGET
                    push(memo[read_u32(data, pos)[0]])
                    pos += 4
                    continue
                if op == 0x72:  # LONG_BINPUT
                    memo[read_u32(data, pos)[0]] = stack[-1]
                    pos += 4
                    continue
            elif op == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                continue
            elif op == 0x8C:  # SHORT_BINUNICODE
                end = pos + 1 + data[pos]
                push(str(data[pos + 1 : end], "utf-8"))
                pos = end
                continue
            elif op == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
                continue
            elif op == 0x87:  # TUPLE3
                third, second = pop(), pop()
                stack[-1] = (stack[-1], second, third)
                continue
            step = rare.get(op)
            if step is None:
                raise HostilePickle(f"opcode 0x{op:02x} at byte {pos - 1} has no place in an array of plain values")
            self.pos = pos
            step(self)
            pos = self.pos
        if pos > len(data) or len(stack) != 1:
            raise CorruptPickle("the pickle ends in the middle of a value")
        return stack[0]

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        end = self.pos + count
        if end > len(self.data):
            raise CorruptPickle("the pickle ends in the middle of a value")
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def size(self, width: int) -> int:
        """An unsigned little-endian length field."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """A newline-terminated argument, as the GLOBAL opcode has two."""
        end = self.data.index(b"\n", self.pos)
        return self.take(end - self.pos + 1)[:-1].decode("utf-8")

    def since_mark(self) -> list[Any]:
        """Pop everything pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def extend(self, items: list[Any]) -> None:
        """Append items to the list on top of the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise HostilePickle(f"items are appended to {_describe(target)}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Add alternating keys and values to the dict on top of the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise HostilePickle(f"items are set on {_describe(target)}")
        target.update(zip(items[::2], items[1::2], strict=True))

    def push_global(self, module: str, name: str) -> None:
        """Push the marker of a whitelisted global; nothing is ever imported."""
        known = _GLOBALS.get((module, name))
        if known is None:
            raise HostilePickle(f"the pickle names {module[:80]}.{name[:80]}")
        self.stack.append(known)


def _reduce(function: Any, arguments: Any) -> Any:
    """What numpy's own reconstruction helpers return, for the arguments numpy gives them."""
    if type(arguments) is not tuple:
        raise HostilePickle("a call has no argument tuple")
    if function is _RECONSTRUCT and arguments == _RECONSTRUCT_ARGUMENTS:
        return _BLANK.copy()
    match function, arguments:
        case _Known.DTYPE, (str(code), *flags) if all(type(flag) in (bool, int) for flag in flags):
            if not _DTYPE_CODE.fullmatch(code):
                raise HostilePickle(f"the pickle asks for dtype {code[:40]!r}")
            return np.dtype(code)
        case _Known.SCALAR, (np.dtype() as dtype, bytes(raw)) if dtype.hasobject is False:
            if len(raw) != dtype.itemsize:
                raise CorruptPickle("a scalar has the wrong number of bytes")
            return np.frombuffer(raw, dtype)[0] if raw else dtype.type()
        case _Known.FROMBUFFER, (bytes(raw), np.dtype() as dtype, tuple(shape), str(order)) if order in (
            "C",
            "F",
        ):
            array = np.empty(0, np.int8)
            _build(array, (1, shape, dtype, order == "F", raw))
            return array
        case _Known.ENCODE, (str(text), "latin1"):
            return text.encode("latin1")
        case _Known.BYTES, ():
            return b""
        case _:
            raise HostilePickle(f"the pickle calls {_describe(function)}")


def _build(target: Any, state: Any) -> None:
    """Give an array or dtype its state, after checking every part of it.

    An array is filled in place, because the stream's memo may already refer to it. A dtype needs nothing: its
    code said everything that is allowed.
    """
    if isinstance(target, np.dtype):
        match state:
            case (int(), order, None, None, None, int(), int(), int()) if order in _NATIVE_ORDERS:
                return
        raise HostilePickle("a dtype has fields, a base type or foreign byte order")
    if type(target) is not np.ndarray or type(state) is not tuple or len(state) != 5:
        raise HostilePickle(f"the pickle sets the state of {_describe(target)}")
    version, shape, dtype, fortran, content = state
    if version != 1 or type(shape) is not tuple or not isinstance(dtype, np.dtype) or type(fortran) is not bool:
        raise HostilePickle("an array's state is not what numpy writes")
    if len(shape) > MAX_DIMENSIONS:
        raise CorruptPickle("an array has an impossible shape")
    for size in shape:
        if type(size) is not int or size < 0:
            raise CorruptPickle("an array has an impossible shape")
    count = prod(shape)
    if dtype.hasobject:
        if type(content) is not list or len(content) != count:
            raise CorruptPickle("an object array has another number of elements than its shape")
    elif type(content) is not bytes or len(content) != count * dtype.itemsize:
        raise CorruptPickle("an array has another number of bytes than its shape")
    target.__setstate__(state)


_DOUBLE: Final = struct.Struct(">d")
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")


def _proto(machine: _Machine) -> None:
    version = machine.size(1)
    if not 2 <= version <= 5:
        raise HostilePickle(f"pickle protocol {version}")


def _frame(machine: _Machine) -> None:
    machine.take(8)  # a hint for readers of streams; all of this one is in memory


def _binput(machine: _Machine) -> None:
    machine.memo[machine.size(1)] = machine.stack[-1]


def _long(machine: _Machine) -> None:
    width = machine.size(1)
    if width > MAX_INT_BYTES:
        raise HostilePickle(f"an integer of {width} bytes")
    machine.stack.append(int.from_bytes(machine.take(width), "little", signed=True))


def _text(width: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(str(machine.take(machine.size(width)), "utf-8"))


def _bytes(width: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.take(machine.size(width)))


def _constant(value: object) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


def _tuple2(machine: _Machine) -> None:
    second = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], second)


def _append(machine: _Machine) -> None:
    machine.extend([machine.stack.pop()])


def _setitem(machine: _Machine) -> None:
    value = machine.stack.pop()
    machine.set_items([machine.stack.pop(), value])


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise HostilePickle("a global is named by something else than text")
    machine.push_global(module, name)


_RARE: Final[dict[int, Callable[[_Machine], None]]] = {
    0x80: _proto,
    0x95: _frame,
    0x71: _binput,
    0x8A: _long,  # LONG1
    0x58: _text(4),  # BINUNICODE
    0x8D: _text(8),  # BINUNICODE8
    0x42: _bytes(4),  # BINBYTES
    0x8E: _bytes(8),  # BINBYTES8
    0x96: _bytes(8),  # BYTEARRAY8, only ever read from
    0x4E: _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    0x29: _constant(()),
    0x5D: lambda machine: machine.stack.append([]),  # EMPTY_LIST
    0x7D: lambda machine: machine.stack.append({}),  # EMPTY_DICT
    0x86: _tuple2,
    0x61: _append,
    0x65: lambda machine: machine.extend(machine.since_mark()),  # APPENDS
    0x73: _setitem,
    0x75: lambda machine: machine.set_items(machine.since_mark()),  # SETITEMS
    0x63: lambda machine: machine.push_global(machine.line(), machine.line()),  # GLOBAL
    0x93: _stack_global,
}
