"""The pickles of torch files as plain values. Nothing that a stream names is imported, looked up or called.

An allow-list: opcodes that build plain values, and the constructors in `_CONSTRUCTORS`, each replaced by a function of this module
that checks its arguments. Time and memory are proportional to the length of the stream, which the caller bounds: work on shared
values is paid from a budget (`_Machine._spend`), and so are keys whose hashes a stream can choose.

Results consist of None, bool, int, float, str, bytes, list, tuple, dict, `Dtype`, `StorageRef` and `TensorRef`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused

MAX_DEPTH: Final = 64
"""How deep values may be nested."""
MAX_DIMENSIONS: Final = 16
MAX_TEXT_BYTES: Final = 1 << 20
MAX_INTEGER_BYTES: Final = 16
MAX_ELEMENTS: Final = 1 << 40
MAX_KEY_CHARACTERS: Final = 1024
"""Of the name of an entry or a storage: equal names are compared in full whenever one is set again."""
MAX_ARGUMENTS: Final = 8
"""Of any constructor."""
WORK_PER_BYTE: Final = 4
WORK_AT_LEAST: Final = 4 << 20
"""The budget of a stream is WORK_PER_BYTE for each of its bytes, and WORK_AT_LEAST."""
_CALL_WORK: Final = 32
_ITEM_WORK: Final = 16
"""Of an item of a list or tuple among the arguments: an entry of an OrderedDict needs about 100 bytes."""
_INTEGER_KEY_WORK: Final = 1024
"""Integers have hashes that anybody can predict: keys that collide take time in proportion to their number."""
_SHOWN: Final = 80
_CONTAINERS: Final = (list, tuple, dict)

ITEM_BYTES: Final = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
"""Element types of tensors, and how many bytes an element has."""
_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_NUMPY_NUMBERS: Final = {
    f"{kind}{size}": f"<{code}"
    for kind, size, code in (
        ("f", 8, "d"),
        ("f", 4, "f"),
        ("f", 2, "e"),
        ("i", 8, "q"),
        ("i", 4, "i"),
        ("i", 2, "h"),
        ("i", 1, "b"),
        ("u", 8, "Q"),
        ("u", 4, "I"),
        ("u", 2, "H"),
        ("u", 1, "B"),
        ("b", 1, "?"),
    )
}
"""Types of NumPy numbers, and their formats for `struct`."""


@dataclass(frozen=True)
class Dtype:
    """An element type of tensors: a key of ITEM_BYTES."""

    name: str


@dataclass(frozen=True)
class StorageRef:
    """A storage that tensors share: its key in the file, element type, and number of elements."""

    key: str
    dtype: str
    elements: int

    @property
    def bytes(self) -> int:
        """Bytes of the whole storage."""
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class TensorRef:
    """A tensor: its storage, shape, and where in the storage it begins, in elements. It lies within the storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class _Mark:
    pass


_MARK: Final = _Mark()
_NOTHING: Final = _Mark()
"""Stands in the memo where nothing has been put."""


@dataclass(frozen=True)
class _Constructor:
    """A name that the stream may call."""

    name: str
    call: Callable[[tuple[Any, ...]], Any]


@dataclass
class _NumpyType:
    """A NumPy type under construction: its code as in _NUMPY_NUMBERS."""

    code: str


@dataclass(frozen=True)
class _StorageType:
    """A class of typed storages."""

    dtype: str


def _refused(reason: str, detail: str) -> CheckpointRefused:
    return CheckpointRefused(reason, detail)


def _is_count(value: object, most: int = MAX_ELEMENTS) -> bool:
    return type(value) is int and 0 <= value <= most


def _counts(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS or not all(map(_is_count, value)):
        raise _refused("corrupt_tensor", "a shape or stride is no short tuple of counts")
    return value


def _tensor(storage: object, offset: object, shape: object, strides: object) -> TensorRef:
    if type(storage) is not StorageRef or not _is_count(offset):
        raise _refused("forbidden_call", "a tensor is made of something other than a storage")
    shape, strides = _counts(shape), _counts(strides)
    if len(shape) != len(strides):
        raise _refused("corrupt_tensor", f"shape {shape} with strides {strides}")
    last = -1 if 0 in shape else sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset + last >= storage.elements and last >= 0:  # type: ignore[operator]
        raise _refused("corrupt_tensor", f"a tensor of shape {shape} ends beyond its storage")
    if prod(shape) > storage.elements:
        raise _refused("corrupt_tensor", f"a tensor of shape {shape} overlaps itself")
    return TensorRef(storage, offset, shape)  # type: ignore[arg-type]


def _rebuild_tensor(arguments: tuple[Any, ...]) -> TensorRef:
    if len(arguments) != 4:
        raise _refused("forbidden_call", "_rebuild_tensor takes four arguments")
    return _tensor(*arguments)


def _rebuild_tensor_v2(arguments: tuple[Any, ...]) -> TensorRef:
    if len(arguments) not in (6, 7) or type(arguments[4]) is not bool or any(arguments[5:]):
        raise _refused("forbidden_call", "_rebuild_tensor_v2 takes a tensor without hooks")
    return _tensor(*arguments[:4])


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> TensorRef:
    if len(arguments) not in (7, 8) or type(arguments[6]) is not Dtype or arguments[5] or any(arguments[7:]):
        raise _refused("forbidden_call", "_rebuild_tensor_v3 takes a tensor without hooks, and its element type")
    storage, dtype = arguments[0], arguments[6].name
    if type(storage) is not StorageRef or storage.dtype != "uint8" or storage.elements % ITEM_BYTES[dtype]:
        raise _refused("forbidden_call", "_rebuild_tensor_v3 takes an untyped storage of whole elements")
    typed = StorageRef(storage.key, dtype, storage.elements // ITEM_BYTES[dtype])
    return _tensor(typed, *arguments[1:4])


def _rebuild_parameter(arguments: tuple[Any, ...]) -> TensorRef:
    if len(arguments) != 3 or type(arguments[0]) is not TensorRef or type(arguments[1]) is not bool or arguments[2]:
        raise _refused("forbidden_call", "_rebuild_parameter takes a tensor without hooks")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    pairs = arguments[0]
    if len(arguments) != 1 or type(pairs) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise _refused("forbidden_call", "OrderedDict takes nothing, or a list of pairs")
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if type(key) is not str:
            raise _refused("forbidden_call", f"OrderedDict takes pairs of a name and a value, not of a {type(key).__name__}")
        _set(result, key, value)
    return result


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1:
        raise _refused("forbidden_call", "Size takes one tuple")
    return _counts(arguments[0])


def _device(arguments: tuple[Any, ...]) -> str:
    if not 1 <= len(arguments) <= 2 or type(arguments[0]) is not str or not all(_is_count(number) for number in arguments[1:]):
        raise _refused("forbidden_call", "device takes a type and a number")
    return ":".join(str(part)[:_SHOWN] for part in arguments)


def _encode(arguments: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`, by which protocol 2 writes bytes."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] not in ("latin1", "latin-1"):
        raise _refused("forbidden_call", "encode takes text and latin1")
    try:
        return arguments[0].encode("latin-1")
    except UnicodeEncodeError as error:
        raise _refused("corrupt_pickle", "bytes beyond 255") from error


def _numpy_type(arguments: tuple[Any, ...]) -> _NumpyType:
    if not arguments or type(arguments[0]) is not str or arguments[0] not in _NUMPY_NUMBERS:
        raise _refused("forbidden_call", "dtype takes the code of a number")
    if not all(type(value) in (bool, int) for value in arguments[1:]):
        raise _refused("forbidden_call", "dtype takes the code of a number and flags")
    return _NumpyType(arguments[0])


def _numpy_number(arguments: tuple[Any, ...]) -> float | int | bool:
    if len(arguments) != 2 or type(arguments[0]) is not _NumpyType or type(arguments[1]) is not bytes:
        raise _refused("forbidden_call", "a NumPy number is a type and bytes")
    try:
        return struct.unpack(_NUMPY_NUMBERS[arguments[0].code], arguments[1])[0]
    except struct.error as error:
        raise _refused("corrupt_pickle", "a NumPy number of another length") from error


_CONSTRUCTORS: Final[dict[str, Any]] = {
    **{
        name: _Constructor(name, call)
        for name, call in (
            ("collections OrderedDict", _ordered_dict),
            ("torch._utils _rebuild_tensor", _rebuild_tensor),
            ("torch._utils _rebuild_tensor_v2", _rebuild_tensor_v2),
            ("torch._utils _rebuild_tensor_v3", _rebuild_tensor_v3),
            ("torch._utils _rebuild_parameter", _rebuild_parameter),
            ("torch Size", _size),
            ("torch device", _device),
            ("_codecs encode", _encode),
            ("numpy dtype", _numpy_type),
            ("numpy.core.multiarray scalar", _numpy_number),
            ("numpy._core.multiarray scalar", _numpy_number),
        )
    },
    **{f"torch {name}": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage UntypedStorage": _StorageType("uint8"),
    **{f"torch {name}": Dtype(name) for name in ITEM_BYTES},
}
"""Everything that a stream may name, with what stands for it here."""


def _set(target: dict[Any, Any], key: object, value: object) -> None:
    if type(key) not in (str, int):  # to hash a tuple would recurse as deep as it is nested
        raise _refused("forbidden_call", f"a {type(key).__name__} as the key of a dictionary")
    if type(key) is str and len(key) > MAX_KEY_CHARACTERS:
        raise _refused("too_large", f"a key of {len(key)} characters")
    target[key] = value


def _work(arguments: tuple[Any, ...]) -> int:
    """What a call costs: its result may be as large as its arguments, which the stream need not repeat."""
    texts = sum(len(value) for value in arguments if type(value) in (str, bytes))
    return _CALL_WORK + texts + _ITEM_WORK * sum(len(value) for value in arguments if type(value) in (list, tuple))


class _Machine:
    """One pickle being read. `position` is where the next opcode is."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position
        self._stack: list[Any] = []
        self._memo: list[Any] = []
        self._memoized = 0
        self._budget = WORK_AT_LEAST + WORK_PER_BYTE * (len(data) - position)
        self.storages: dict[str, StorageRef] = {}

    def run(self) -> Any:
        while True:
            opcode = self._take(1)[0]
            if opcode == ord("."):
                return self._end()
            action = _OPCODES.get(opcode)
            if action is None:
                raise _refused("forbidden_opcode", f"opcode 0x{opcode:02x} at {self.position - 1}")
            action(self)

    def _spend(self, work: int) -> None:
        """Account for work that the length of the opcode does not bound. Raises CheckpointRefused with `too_large`."""
        self._budget -= work
        if self._budget < 0:
            raise _refused("too_large", "a pickle whose values are far larger than the pickle")

    def _end(self) -> Any:
        value = self._pop()
        if self._stack:
            raise _refused("corrupt_pickle", "values are left at the end")
        return value

    def _take(self, count: int) -> bytes:
        taken = self._data[self.position : self.position + count]
        if len(taken) != count:
            raise CheckpointRefused("truncated", "a pickle ends within an opcode")
        self.position += count
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + 2 * _SHOWN)
        if end < 0:
            raise _refused("corrupt_pickle", "a name without an end")
        try:
            line = self._data[self.position : end].decode("ascii")
        except UnicodeDecodeError as error:
            raise _refused("forbidden_global", "a name that is not ASCII") from error
        self.position = end + 1
        return line

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _refused("corrupt_pickle", "a value is missing")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _refused("corrupt_pickle", "a value is missing")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise _refused("corrupt_pickle", "a mark is missing")

    # What the opcodes do.

    def protocol(self) -> None:
        if self._take(1)[0] > 5:
            raise _refused("forbidden_opcode", "a pickle protocol beyond 5")

    def frame(self) -> None:
        self._number("<Q")

    def mark(self) -> None:
        self._stack.append(_MARK)

    def constant(self, value: Any) -> None:
        self._stack.append(value)

    def number(self, form: str) -> None:
        self._stack.append(self._number(form))

    def long(self) -> None:
        length = self._take(1)[0]
        if length > MAX_INTEGER_BYTES:
            raise _refused("too_large", f"an integer of {length} bytes")
        self._stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def text(self, form: str) -> None:
        try:
            self._stack.append(self._take(self._length(form)).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise _refused("corrupt_pickle", "text that is not UTF-8") from error

    def raw(self, form: str) -> None:
        self._stack.append(self._take(self._length(form)))

    def _length(self, form: str) -> int:
        length = self._number(form)
        if length > MAX_TEXT_BYTES:
            raise _refused("too_large", f"text of {length} bytes")
        return length

    def empty(self, kind: type) -> None:
        self._stack.append(kind())

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def marked_tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise _refused("corrupt_pickle", "something is appended to no list")
        target.extend(values)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self) -> None:
        self._update(self._since_mark())

    def _update(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(values) % 2:
            raise _refused("corrupt_pickle", "something is set in no dictionary")
        self._spend(_INTEGER_KEY_WORK * sum(type(key) is int for key in values[::2]))
        for key, value in zip(values[::2], values[1::2], strict=True):
            _set(target, key, value)

    def put(self, form: str) -> None:
        self._put(self._number(form))

    def memoize(self) -> None:
        self._put(self._memoized)

    def _put(self, index: int) -> None:
        value = self._top()
        if index >= len(self._data):
            raise _refused("corrupt_pickle", "a value is numbered beyond all that the stream can have")
        if index >= len(self._memo):
            self._memo.extend([_NOTHING] * (index + 1 - len(self._memo)))
        self._memoized += self._memo[index] is _NOTHING
        self._memo[index] = value

    def get(self, form: str) -> None:
        index = self._number(form)
        if index >= len(self._memo) or self._memo[index] is _NOTHING:
            raise _refused("corrupt_pickle", "a value is referred to that is not there")
        self._stack.append(self._memo[index])

    def name_lines(self) -> None:
        self._name(self._line(), self._line())

    def name_values(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise _refused("corrupt_pickle", "a name that is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        full = f"{module} {name}"
        if full not in _CONSTRUCTORS:
            raise _refused("forbidden_global", f"{full[:_SHOWN]!r} is named: save a state dict, not an object")
        self._stack.append(_CONSTRUCTORS[full])

    def call(self) -> None:
        arguments, constructor = self._pop(), self._pop()
        if type(constructor) is not _Constructor or type(arguments) is not tuple:
            raise _refused("forbidden_call", "something other than a constructor is called")
        if len(arguments) > MAX_ARGUMENTS:
            raise _refused("forbidden_call", f"{constructor.name} is called with {len(arguments)} arguments")
        self._spend(_work(arguments))
        self._stack.append(constructor.call(arguments))

    def build(self) -> None:
        """Attributes of an object: of a state dict its `_metadata`, of a NumPy type its byte order."""
        state, target = self._pop(), self._top()
        if type(target) is dict and type(state) is dict and set(state) <= {"_metadata"}:
            return
        if type(target) is _NumpyType and type(state) is tuple and len(state) >= 2 and state[1] in ("<", "|"):
            return
        raise _refused("forbidden_call", "attributes are set that plain data do not have")

    def storage(self) -> None:
        """A persistent id: ("storage", class, key, device, elements), in the legacy format with a view, which is None."""
        value = self._pop()
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage" or any(value[5:]):
            raise _refused("forbidden_call", "a persistent id that names no storage")
        _, kind, key, device, elements = value[:5]
        if type(kind) is not _StorageType or type(key) is not str or type(device) is not str or not _is_count(elements):
            raise _refused("forbidden_call", "a persistent id that names no storage")
        if len(key) > MAX_KEY_CHARACTERS:
            raise _refused("too_large", f"a storage named with {len(key)} characters")
        storage = StorageRef(key, kind.dtype, elements)
        if self.storages.setdefault(key, storage) != storage:
            raise _refused("corrupt_tensor", f"storage {key[:_SHOWN]!r} has two types or lengths")
        self._stack.append(storage)


_OPCODES: Final[dict[int, Callable[[_Machine], None]]] = {
    code[0]: action
    for code, action in (
        (b"\x80", _Machine.protocol),
        (b"\x95", _Machine.frame),
        (b"(", _Machine.mark),
        (b"N", lambda machine: machine.constant(None)),
        (b"\x88", lambda machine: machine.constant(True)),
        (b"\x89", lambda machine: machine.constant(False)),
        (b"K", lambda machine: machine.number("<B")),
        (b"M", lambda machine: machine.number("<H")),
        (b"J", lambda machine: machine.number("<i")),
        (b"G", lambda machine: machine.number(">d")),
        (b"\x8a", _Machine.long),
        (b"X", lambda machine: machine.text("<I")),
        (b"\x8c", lambda machine: machine.text("<B")),
        (b"B", lambda machine: machine.raw("<I")),
        (b"C", lambda machine: machine.raw("<B")),
        (b"}", lambda machine: machine.empty(dict)),
        (b"]", lambda machine: machine.empty(list)),
        (b")", lambda machine: machine.empty(tuple)),
        (b"t", _Machine.marked_tuple),
        (b"\x85", lambda machine: machine.tuple_of(1)),
        (b"\x86", lambda machine: machine.tuple_of(2)),
        (b"\x87", lambda machine: machine.tuple_of(3)),
        (b"a", _Machine.append),
        (b"e", _Machine.appends),
        (b"s", _Machine.set_item),
        (b"u", _Machine.set_items),
        (b"q", lambda machine: machine.put("<B")),
        (b"r", lambda machine: machine.put("<I")),
        (b"\x94", _Machine.memoize),
        (b"h", lambda machine: machine.get("<B")),
        (b"j", lambda machine: machine.get("<I")),
        (b"c", _Machine.name_lines),
        (b"\x93", _Machine.name_values),
        (b"R", _Machine.call),
        (b"b", _Machine.build),
        (b"Q", _Machine.storage),
    )
}
"""Everything that a stream may do; what stands for STOP is in `_Machine.run`."""


def read_pickle(data: bytes, position: int = 0) -> tuple[Any, dict[str, StorageRef], int]:
    """The value of the pickle at `position`, the storages that it names by key, and where it ends.

    Raises CheckpointRefused (`truncated`, `too_large`, `too_deep`, `corrupt_tensor`, and all reasons that begin with `forbidden_`).
    """
    machine = _Machine(data, position)
    value = machine.run()
    _check_depth(value)
    return value, machine.storages, machine.position


def _check_depth(value: object) -> None:
    """Refuse values that contain themselves or are nested too deep. Visits every value once, however often it is referred to."""
    depths: dict[int, int] = {}
    under_way: set[int] = set()
    pending: list[tuple[Any, bool]] = [(value, False)]
    while pending:
        current, finished = pending.pop()
        key = id(current)
        if finished:
            depths[key] = 1 + max((depths.get(id(child), 0) for child in _children(current)), default=0)
            under_way.discard(key)
            if depths[key] > MAX_DEPTH:
                raise _refused("too_deep", f"values are nested more than {MAX_DEPTH} deep")
        elif key not in depths:
            if key in under_way:
                raise _refused("too_deep", "a value contains itself")
            under_way.add(key)
            pending.append((current, True))
            containers = {id(child): child for child in _children(current) if type(child) in _CONTAINERS and child}
            pending.extend((child, False) for child in containers.values())


def _children(value: Any) -> Iterable[Any]:
    """The values in a container, without a copy; keys contain nothing."""
    if type(value) is dict:
        return value.values()
    return value if type(value) in _CONTAINERS else ()
