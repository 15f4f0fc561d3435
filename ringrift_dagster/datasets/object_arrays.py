"""Object-dtype `.npy` payloads, read without unpickling.

RingRift stores strings, policy rows and one dictionary as object arrays, which numpy writes as pickles. A
pickle is a program, and the files come from rented hosts. This module interprets the few opcodes numpy
needs for plain values and never imports, looks up or calls what a stream names: a whitelisted global
becomes an inert marker, anything else raises `HostilePickle`. The zip and header around a payload belong to
`npz_reader`; what the values mean to `npz_validator`.

A payload is read in windows, and its elements are handed out as they come: memory holds one window, one block of
elements and what the stream memoises. numpy memoises every row, so its own files are bounded by `MAX_MEMO_BYTES`
(about three million policy rows of 20 entries); those of `npz_writer` memoise next to nothing and have no such limit.

Understood: int, float, bool, None, str, bytes, tuple, list, dict, numpy numeric and string arrays and
scalars, and the object array that holds them, as written by numpy 1.x and 2.x with pickle protocols 2 to 5.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from enum import Enum
from math import prod
from sys import getsizeof
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ObjectArray = npt.NDArray[np.object_]

WINDOW_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = 16 << 20
"""The largest value, and the most content that is handed out at once."""
BLOCK_ELEMENTS: Final = 1 << 16
MAX_ROW_ELEMENTS: Final = 1 << 17
"""The longest row of an array of two or more dimensions; the largest policy has 91876 moves."""
MAX_MEMO_BYTES: Final = 1 << 30
MAX_BYTES_PER_ELEMENT: Final = 16 << 10
MAX_EXPANSION: Final = 64
"""By how much values that are referred to repeatedly may outgrow the stream."""
MAX_INT_BYTES: Final = 32
MAX_NESTED_VALUES: Final = 10_000
MAX_DEPTH: Final = 8
MAX_DIMENSIONS: Final = 32
MAX_ARGUMENTS: Final = 8
MAX_GLOBAL_BYTES: Final = 256


class ObjectArrayError(ValueError):
    """A payload that cannot be read; the message is one line."""


class HostilePickle(ObjectArrayError):
    """The stream asks for something plain data never needs."""


class CorruptPickle(ObjectArrayError):
    """The stream asks for nothing forbidden but does not describe an array of the declared shape."""


class OversizePickle(ObjectArrayError):
    """The stream is plain data, but more of it than fits in memory."""


class _Short(Exception):
    """An opcode needs more bytes than the window still has: `needed` counts from its first byte."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _Known(Enum):
    """Inert markers for the only globals a stream may name, and for what the machine keeps elsewhere."""

    RECONSTRUCT = "_reconstruct"
    SCALAR = "scalar"
    FROMBUFFER = "_frombuffer"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"
    BYTES = "bytes"
    ITEMS = "list of all elements"
    TAKEN = "elements handed out"
    FORGOTTEN = "forgotten value"


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
_BLANK: Final = np.empty(0, "V1")
"""What an array is until its state is set: of a dtype that no stream can ask for."""
_DTYPE_CODE: Final = re.compile(r"[<|=]?(?:b1|i[1248]|u[1248]|f[248]|O8?|[US]\d{1,4})")
_NATIVE_ORDERS: Final = ("<", "|", "=")
_PLAIN_TYPES: Final = frozenset({int, float, bool, type(None), str, bytes})
_SIZELESS_TYPES: Final = frozenset({int, float, bool, type(None), tuple, list, dict})
_MALFORMED: Final = (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error)
_OBJECT: Final = np.dtype(object)
_UNFINISHED: Final = 8  # so many values on top of the stack may still become part of one
_HEAD: Final = 6  # the stack holds the array, four parts of its state and the list when the first element comes
_EARLY_PUTS: Final = 256  # memo indices below this may come in any order
_SHORTEST_LONG: Final = 16  # opcodes without a length are shorter than this


def load_object_array(payload: bytes, shape: tuple[int, ...]) -> ObjectArray:
    """Read the pickle that follows an object-dtype `.npy` header.

    `shape` is the header's; the stream must agree with it. Raises nothing but `ObjectArrayError`s and MemoryError.
    """
    elements = [element for block in object_blocks(io.BytesIO(payload).read, len(payload), shape) for element in block]
    return np.fromiter(elements, object, len(elements)).reshape(shape)


def object_blocks(read: Callable[[int], bytes], size: int, shape: tuple[int, ...]) -> Iterator[list[Any]]:
    """The elements of an object array in C order, in blocks of whole rows, from the `size` bytes that `read` returns.

    The blocks mean nothing before the last one is taken: only then is the stream known to be what numpy would read.
    Raises `ObjectArrayError`s and MemoryError.
    """
    count, row = prod(shape), prod(shape[1:])
    limit = (64 << 10) + MAX_BYTES_PER_ELEMENT * count
    if size > limit:
        raise HostilePickle(f"{size} bytes of pickle for {count} elements; at most {limit} are read")
    if count > size or (shape and count == 0 < shape[0]):
        raise CorruptPickle(f"{size} bytes of pickle cannot hold an array of shape {shape}")
    if row > MAX_ROW_ELEMENTS:
        raise OversizePickle(f"one row has {row} elements; at most {MAX_ROW_ELEMENTS} are read")
    held: list[Any] = []
    try:
        for elements in _Machine(read, size, shape).run():
            held += elements
            whole = len(held) - len(held) % row if row else 0
            yield from _parts(held[:whole], row)
            del held[:whole]
    except _MALFORMED as error:
        if isinstance(error, ObjectArrayError):
            raise
        raise CorruptPickle(f"not a well-formed pickle: {type(error).__name__}") from None


def _parts(elements: list[Any], row: int) -> Iterator[list[Any]]:
    """Cut a list of whole rows into blocks of bounded length and content."""
    step = max(1, BLOCK_ELEMENTS // row) * row if row else 1
    for start in range(0, len(elements), step):
        waiting = [elements[start : start + step]]
        while waiting:
            part = waiting.pop()
            if _content(part) <= BLOCK_BYTES:
                yield part
                continue
            if len(part) == row:
                raise OversizePickle(f"one row has more than {BLOCK_BYTES} bytes")
            half = len(part) // row // 2 * row
            waiting += [part[half:], part[:half]]


def _content(elements: list[Any]) -> int:
    """Bytes of text and numbers in the elements; containers are counted elsewhere."""
    kinds = set(map(type, elements))
    if kinds <= _SIZELESS_TYPES:
        return 0
    if kinds <= {str, bytes}:
        return sum(map(len, elements))
    return sum(map(_leaf_content, elements))


def _leaf_content(value: Any) -> int:
    if isinstance(value, np.ndarray | np.generic):
        return max(value.nbytes, 8 * value.size)  # whoever reads numbers makes wide ones of them
    return len(value) if isinstance(value, str | bytes) else 0


def _check_leaf(value: Any) -> None:
    if type(value) in _PLAIN_TYPES:
        return
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "OV":
        return
    raise HostilePickle(f"an element is {_describe(value)}")


def _check_unfinished(values: list[Any]) -> None:
    """Refuse what could only become a container with too many values, or with too many inside each other."""
    count = len(values)
    for _ in range(2 * MAX_DEPTH):
        inner = [value for value in values if type(value) in (tuple, list, dict)]
        count += sum(map(len, inner))
        if count > 2 * MAX_NESTED_VALUES:
            break
        if not inner:
            return
        values = [item for value in inner for item in (value.values() if isinstance(value, dict) else value)]
    raise HostilePickle("containers are nested or shared more than plain data needs")


def _describe(value: Any) -> str:
    return f"the global {value.value!r}" if isinstance(value, _Known) else f"a {type(value).__name__}"


class _Machine:
    """A pickle virtual machine with no way out.

    The list that holds all elements stands on its stack as the marker ITEMS, and what is appended to it leaves through
    `run`. Every opcode reads its argument before it touches the stack, so that one cut off by the end of the window can
    be repeated with a longer one.
    """

    def __init__(self, read: Callable[[int], bytes], size: int, shape: tuple[int, ...]) -> None:
        self.read = read
        self.shape = shape
        self.left = size
        self.data = b""
        self.pos = 0
        self.needed = 1
        self.opcode = 0  # where the one being interpreted begins, unless it is inlined
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.settled = 0  # so much of the memo was there at the last window's end
        self.memo_bytes = 0
        self.memoised = False
        self.put_early = False
        self.consumed = 0
        self.made = 0  # bytes in arrays and texts made so far
        self.containers = 0
        self.budget = MAX_NESTED_VALUES
        self.nested_bytes = 0
        self.content = 0
        self.sealed: dict[int, Any] = {}  # containers that were handed out
        self.items_made = self.closed = False
        self.ready: list[Any] = []
        self.count = 0

    def run(self) -> Iterator[list[Any]]:
        """Interpret up to STOP, and hand the elements out window by window, each checked."""
        self.refill()
        while not self.interpret():
            self.settle()
            yield self.hand_out()
            self.refill()
        if len(self.stack) != 1 or not self.closed:
            raise CorruptPickle("the pickle holds no object array")
        if self.left or self.pos < len(self.data):
            raise CorruptPickle(f"{self.left + len(self.data) - self.pos} bytes follow the pickle")
        if self.memoised and self.put_early:
            raise HostilePickle("two ways of numbering memoised values are mixed")
        yield self.hand_out()
        if self.count != prod(self.shape):
            raise CorruptPickle(f"the pickle holds {self.count} elements, not {prod(self.shape)}")

    def refill(self) -> None:
        """Move the window: it begins with the opcode that was cut off."""
        rest = self.data[self.pos :]
        if self.needed > len(rest) + self.left or not self.left:
            raise CorruptPickle("the pickle ends in the middle of a value")
        if self.needed > BLOCK_BYTES:
            raise OversizePickle(f"one value has {self.needed} bytes; at most {BLOCK_BYTES} are read")
        fresh = self.read(min(self.left, max(WINDOW_BYTES, self.needed)))
        if not fresh:
            raise CorruptPickle("the pickle ends in the middle of a value")
        self.left -= len(fresh)
        self.consumed += len(fresh)
        self.data, self.pos = rest + fresh, 0

    def settle(self) -> None:
        """At a window's end, take complete elements off the stack and bound what remains."""
        stack, marks = self.stack, self.marks
        if len(marks) > 1 and marks[1] == _HEAD and len(stack) >= _HEAD and stack[_HEAD - 1] is _Known.ITEMS:
            end = (marks[2] if len(marks) > 2 else len(stack)) - _UNFINISHED
            if end > _HEAD + 1:
                self.collect(stack[_HEAD:end])
                # Whatever reaches below the elements that may still change finds this, and is refused with it.
                stack[_HEAD:end] = [_Known.TAKEN]
                marks[2:] = [mark - (end - _HEAD - 1) for mark in marks[2:]]
        if len(marks) > MAX_NESTED_VALUES:
            raise HostilePickle("more marks than plain data needs")
        _check_unfinished(stack)
        # Tuples are what arrays were made of and are not met again, except those at the beginning that all have in common.
        fresh = self.memo[self.settled :]
        if self.settled:
            fresh = [_Known.FORGOTTEN if type(value) is tuple else value for value in fresh]
            self.memo[self.settled :] = fresh
        self.settled = len(self.memo)
        self.memo_bytes += 8 * len(fresh) + sum(getsizeof(value) for value in fresh if value is not _Known.FORGOTTEN)
        if self.memo_bytes > MAX_MEMO_BYTES:
            raise OversizePickle(f"more than {MAX_MEMO_BYTES} bytes of values are memoised; at most these are held in memory")

    def collect(self, elements: list[Any]) -> None:
        """Note elements for handing out; the marker for those that already were may come first."""
        self.ready += elements[1:] if elements and elements[0] is _Known.TAKEN else elements

    def hand_out(self) -> list[Any]:
        """The elements that are ready, checked."""
        elements, self.ready = self.ready, []
        self.count += len(elements)
        self.check(elements)
        return elements

    def check(self, elements: list[Any]) -> None:
        """Refuse elements whose later use could recurse or explode: shared or self-referring containers."""
        if not set(map(type, elements)) <= _PLAIN_TYPES:
            for element in elements:
                if type(element) in (tuple, list, dict):
                    self.walk(element, MAX_DEPTH)
                else:
                    _check_leaf(element)
        self.content += _content(elements)
        if self.content > BLOCK_BYTES + MAX_EXPANSION * self.consumed:
            raise HostilePickle("values are referred to more often than plain data needs")

    def walk(self, value: Any, depth: int) -> None:
        """Visit a nested value; containers in it may not change any more."""
        if self.budget <= 0 or depth == 0:
            raise HostilePickle("containers are nested or shared more than plain data needs")
        self.budget -= 1
        if type(value) not in (tuple, list, dict):
            _check_leaf(value)
            self.nested_bytes += _leaf_content(value)
            if self.nested_bytes > BLOCK_BYTES:
                raise HostilePickle(f"containers hold more than {BLOCK_BYTES} bytes")
            return
        if not isinstance(value, tuple):
            self.sealed[id(value)] = value
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            self.walk(item, depth - 1)

    def interpret(self) -> bool:
        """Interpret up to STOP, or else to the opcode that the window cuts off; the opcodes that occur per element are inlined."""
        data, stack, marks, memo = self.data, self.stack, self.marks, self.memo
        push, pop = stack.append, stack.pop
        read_double, read_u32, read_i32 = _DOUBLE.unpack_from, _U32.unpack_from, _I32.unpack_from
        size, rare = len(data), _RARE
        start = pos = self.pos
        try:
            while True:
                start = pos
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
                        if end > size:
                            raise _Short(end - start)
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
                        self.pos = pos
                        return True
                elif op < 0x80:
                    if op == 0x68:  # BINGET
                        push(memo[data[pos]])
                        pos += 1
                        continue
                    if op == 0x52:  # REDUCE
                        arguments = pop()
                        stack[-1] = _reduce(self, stack[-1], arguments)
                        continue
                    if op == 0x62:  # BUILD
                        state = pop()
                        _build(self, stack[-1], state)
                        continue
                    if op == 0x74:  # TUPLE
                        mark = marks.pop()
                        stack[mark:] = [tuple(stack[mark:])]
                        continue
                    if op == 0x6A:  # LONG_BINGET
                        push(memo[read_u32(data, pos)[0]])
                        pos += 4
                        continue
                    if op == 0x72:  # LONG_BINPUT
                        at = read_u32(data, pos)[0]
                        if at == len(memo):
                            memo.append(stack[-1])
                        else:
                            self.put(at)
                        pos += 4
                        continue
                elif op == 0x94:  # MEMOIZE
                    memo.append(stack[-1])
                    self.memoised = True
                    continue
                elif op == 0x8C:  # SHORT_BINUNICODE
                    end = pos + 1 + data[pos]
                    if end > size:
                        raise _Short(end - start)
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
                self.pos, self.opcode = pos, start
                step(self)
                pos = self.pos
        except _Short as short:
            self.needed = short.needed
        except (IndexError, struct.error):
            if size - start >= _SHORTEST_LONG:
                raise CorruptPickle("the pickle refers to a value that is not there") from None
            self.needed = size - start + 1
        self.pos = start
        return False

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        end = self.pos + count
        if end > len(self.data):
            raise _Short(end - self.opcode)
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def size(self, width: int) -> int:
        """An unsigned little-endian length field."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """A newline-terminated argument, as the GLOBAL opcode has two."""
        end = self.data.find(b"\n", self.pos, self.pos + MAX_GLOBAL_BYTES)
        if end < 0:
            if len(self.data) - self.pos >= MAX_GLOBAL_BYTES:
                raise HostilePickle(f"a global's name has more than {MAX_GLOBAL_BYTES} bytes")
            raise _Short(len(self.data) - self.opcode + 1)
        return self.take(end - self.pos + 1)[:-1].decode("utf-8")

    def since_mark(self) -> list[Any]:
        """Pop everything pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, at: int) -> None:
        """Memoise the value on top of the stack under an index that need not be the next."""
        memo, value = self.memo, self.stack[-1]
        if at >= len(memo):
            if at > len(memo):
                if at >= _EARLY_PUTS:
                    raise HostilePickle("a value is memoised out of turn")
                self.put_early = True
                memo.extend([_Known.FORGOTTEN] * (at - len(memo)))
            memo.append(value)
            return
        if memo[at] is not _Known.FORGOTTEN or at >= _EARLY_PUTS:
            raise HostilePickle("a value is memoised in place of another")
        memo[at] = value

    def contain(self, value: list[Any] | dict[Any, Any]) -> None:
        """Push a new container."""
        self.containers += 1
        if self.containers > MAX_NESTED_VALUES:
            raise HostilePickle(f"more than {MAX_NESTED_VALUES} lists and dictionaries")
        self.stack.append(value)

    def begin_items(self) -> None:
        """Push the marker for the list of all elements, once everything before it is as it must be."""
        self.check_state(tuple(self.stack[1:]))
        self.items_made = True
        self.stack.append(_Known.ITEMS)

    def check_state(self, state: tuple[Any, ...]) -> None:
        """Check the state of the array itself: version, shape, dtype, order."""
        target = self.stack[0]
        if (
            type(target) is not np.ndarray
            or state[0] != 1
            or not isinstance(state[2], np.dtype)
            or state[2] != _OBJECT
            or type(state[3]) is not bool
        ):
            raise CorruptPickle("the pickle holds no object array")
        if type(state[1]) is not tuple or not all(type(size) is int for size in state[1]) or state[1] != self.shape:
            raise CorruptPickle(f"the pickle holds another shape than the header, which says {self.shape}")

    def close(self, target: Any, state: tuple[Any, ...]) -> None:
        """Give the array itself its state: the end of its elements."""
        if self.closed or target is not self.stack[0] or len(self.stack) != 1 or state[4] is not _Known.ITEMS:
            raise HostilePickle("an array of objects is an element of another, or has no list of elements")
        self.check_state(state)
        self.closed = True

    def spend(self, size: int) -> None:
        """Account for an array or text that is about to be made; the stream has all content once, or twice with protocol 2."""
        self.made += size
        if self.made > 2 * self.consumed + MAX_BYTES_PER_ELEMENT:
            raise HostilePickle("content is copied more often than plain data needs")

    def extend(self, items: list[Any]) -> None:
        """Append items to the list on top of the stack."""
        target = self.stack[-1]
        if target is _Known.ITEMS and not self.closed:
            self.collect(items)
            return
        if type(target) is not list or id(target) in self.sealed:
            raise HostilePickle(f"items are appended to {_describe(target)}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Add alternating keys and values to the dict on top of the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2 or id(target) in self.sealed:
            raise HostilePickle(f"items are set on {_describe(target)}")
        keys = items[::2]
        if not set(map(type, keys)) <= _PLAIN_TYPES:  # hashing anything else may recurse without bound
            raise HostilePickle("a dictionary has a key that is no plain value")
        target.update(zip(keys, items[1::2], strict=True))

    def push_global(self, module: str, name: str) -> None:
        """Push the marker of a whitelisted global; nothing is ever imported."""
        known = _GLOBALS.get((module, name))
        if known is None:
            raise HostilePickle(f"the pickle names {module[:80]}.{name[:80]}")
        self.stack.append(known)


def _reduce(machine: _Machine, function: Any, arguments: Any) -> Any:
    """What numpy's own reconstruction helpers return, for the arguments numpy gives them."""
    if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
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
            machine.spend(len(raw))
            return np.frombuffer(raw, dtype)[0] if raw else dtype.type()
        case _Known.FROMBUFFER, (bytes(raw), np.dtype() as dtype, tuple(shape), str(order)) if order in (
            "C",
            "F",
        ):
            array = _BLANK.copy()
            _build(machine, array, (1, shape, dtype, order == "F", raw))
            return array
        case _Known.ENCODE, (str(text), "latin1"):
            machine.spend(len(text))
            return text.encode("latin1")
        case _Known.BYTES, ():
            return b""
        case _:
            raise HostilePickle(f"the pickle calls {_describe(function)}")


def _build(machine: _Machine, target: Any, state: Any) -> None:
    """Give an array or dtype its state, after checking every part of it.

    An array is filled in place, because the stream's memo may already refer to it. A dtype needs nothing: its
    code said everything that is allowed.
    """
    if isinstance(target, np.dtype):
        match state:
            case (int(), order, None, None, None, int(), int(), int()) if order in _NATIVE_ORDERS:
                return
        raise HostilePickle("a dtype has fields, a base type or foreign byte order")
    if type(target) is not np.ndarray or target.dtype.kind != "V" or type(state) is not tuple or len(state) != 5:
        raise HostilePickle(f"the pickle sets the state of {_describe(target)}")
    version, shape, dtype, fortran, content = state
    if version != 1 or type(shape) is not tuple or not isinstance(dtype, np.dtype) or type(fortran) is not bool:
        raise HostilePickle("an array's state is not what numpy writes")
    if len(shape) > MAX_DIMENSIONS:
        raise CorruptPickle("an array has an impossible shape")
    for size in shape:
        if type(size) is not int or size < 0:
            raise CorruptPickle("an array has an impossible shape")
    if dtype.hasobject:
        machine.close(target, state)
        return
    if type(content) is not bytes or len(content) != prod(shape) * dtype.itemsize or not dtype.itemsize:
        raise CorruptPickle("an array has another number of bytes than its shape")
    machine.spend(len(content))
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
    machine.put(machine.size(1))


def _empty_list(machine: _Machine) -> None:
    if not machine.items_made and machine.marks == [1] and len(machine.stack) == _HEAD - 1:
        machine.begin_items()
    else:
        machine.contain([])


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
    0x5D: _empty_list,
    0x7D: lambda machine: machine.contain({}),  # EMPTY_DICT
    0x86: _tuple2,
    0x61: _append,
    0x65: lambda machine: machine.extend(machine.since_mark()),  # APPENDS
    0x73: _setitem,
    0x75: lambda machine: machine.set_items(machine.since_mark()),  # SETITEMS
    0x63: lambda machine: machine.push_global(machine.line(), machine.line()),  # GLOBAL
    0x93: _stack_global,
}
