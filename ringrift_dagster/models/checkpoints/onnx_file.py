"""ONNX files: the weights and metadata of the graph, read from the protobuf encoding without building the model.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Tensors in other files are refused, since their paths are the sender's
choice, and so are operators that ONNX itself does not define. The values of tensors are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

from ringrift_dagster.models.checkpoints.content import Content, Tensor
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.checkpoints.source import Source

MAX_FIELDS: Final = 100_000
"""Of all messages that are read; the elements of a tensor's values are none."""
MAX_TEXT_BYTES: Final = 1 << 16
MAX_TOTAL_TEXT_BYTES: Final = 16 << 20
MAX_ELEMENTS: Final = 1 << 53
MAX_DEPTH: Final = 16
MAX_DIMENSIONS: Final = 16
DOMAINS: Final = frozenset({"", "ai.onnx"})
"""Operator sets that may be used."""

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_TYPES: Final = {
    1: ("float32", 4),
    2: ("uint8", 1),
    3: ("int8", 1),
    5: ("int16", 2),
    6: ("int32", 4),
    7: ("int64", 8),
    9: ("bool", 1),
    10: ("float16", 2),
    11: ("float64", 8),
    16: ("bfloat16", 2),
}
"""TensorProto.DataType: name, and bytes an element in `raw_data`."""


@dataclass(frozen=True)
class _Field:
    """One field of a message: its number, and either an integer or the span of its bytes in the file."""

    number: int
    wire: int
    integer: int
    start: int
    end: int


class _Reader:
    """Fields of messages and their texts, and how many of both may still be read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = MAX_FIELDS
        self._text_left = MAX_TOTAL_TEXT_BYTES
        self._window = b""
        self._window_start = 0

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of the message in a span of the file. Raises CheckpointRefused."""
        position = start
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise CheckpointRefused("too_large", f"more than {MAX_FIELDS} fields")
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            integer, first = 0, position
            if wire == _VARINT:
                integer, position = self._varint(position, end)
            elif wire == _BYTES:
                length, first = self._varint(position, end)
                position = first + length
            elif wire in (_FIXED_32, _FIXED_64):
                position += 4 if wire == _FIXED_32 else 8
            else:
                raise CheckpointRefused("corrupt_header", f"wire type {wire} at {position}")
            if position > end:
                raise CheckpointRefused("truncated", f"a field ends beyond its message, at {position}")
            yield _Field(number, wire, integer, first, position)

    def text(self, field: _Field) -> str:
        if field.wire != _BYTES or field.end - field.start > MAX_TEXT_BYTES:
            raise CheckpointRefused("corrupt_header", f"field {field.number} is no text of at most {MAX_TEXT_BYTES} bytes")
        self._text_left -= field.end - field.start
        if self._text_left < 0:
            raise CheckpointRefused("too_large", f"names and metadata of more than {MAX_TOTAL_TEXT_BYTES} bytes")
        try:
            return self._source.read(field.start, field.end - field.start).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointRefused("corrupt_header", f"field {field.number} is not UTF-8") from error

    def integers(self, field: _Field) -> list[int]:
        """A repeated integer: one, or several packed."""
        if field.wire == _VARINT:
            return [field.integer]
        if field.wire != _BYTES:
            raise CheckpointRefused("corrupt_header", f"field {field.number} is no integer")
        values: list[int] = []
        position = field.start
        while position < field.end:
            value, position = self._varint(position, field.end)
            values.append(value)
            if len(values) > MAX_DIMENSIONS:
                raise CheckpointRefused("too_large", f"a tensor of more than {MAX_DIMENSIONS} dimensions")
        return values

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise CheckpointRefused("truncated", "the file ends within a number")
            byte = self._byte(position)
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, position
        raise CheckpointRefused("corrupt_header", "a number of more than ten bytes")

    def _byte(self, position: int) -> int:
        index = position - self._window_start
        if not 0 <= index < len(self._window):
            self._window = self._source.read(position, min(4096, self._source.size - position))
            self._window_start, index = position, 0
        return self._window[index]


def read_onnx(source: Source) -> Content:
    """Raises CheckpointRefused."""
    reader = _Reader(source)
    graph: _Field | None = None
    metadata: dict[str, str] = {}
    versions = 0
    for field in reader.fields(0, source.size):
        if field.number == 1 and field.wire == _VARINT:
            versions += 1
        elif field.number == 7 and field.wire == _BYTES and graph is None:
            graph = field
        elif field.number == 8 and field.wire == _BYTES:
            _check_operator_set(reader, field)
        elif field.number == 14 and field.wire == _BYTES:
            key, value = _pair(reader, field)
            metadata[key] = value
        elif field.number not in (2, 3, 4, 5, 6):
            raise CheckpointRefused("corrupt_header", f"field {field.number} is none of a model that only computes")
    if graph is None or versions != 1:
        raise CheckpointRefused("unknown_format", "not an ONNX model: no graph, or no version")
    tensors = _read_graph(reader, graph, 0)
    if not tensors:
        raise CheckpointRefused("no_weights", "the graph has no initializers")
    return Content("onnx", tensors, metadata)


def _check_operator_set(reader: _Reader, field: _Field) -> None:
    for part in reader.fields(field.start, field.end):
        if part.number == 1 and reader.text(part) not in DOMAINS:
            raise CheckpointRefused("forbidden_call", f"operators of {reader.text(part)[:60]!r}; only ONNX's own are permitted")


def _pair(reader: _Reader, field: _Field) -> tuple[str, str]:
    parts = {part.number: reader.text(part) for part in reader.fields(field.start, field.end)}
    return parts.get(1, ""), parts.get(2, "")


def _read_graph(reader: _Reader, graph: _Field, depth: int) -> dict[str, Tensor]:
    """The initializers of a graph by name; the graphs and tensors of its nodes' attributes are checked too."""
    if depth > MAX_DEPTH:
        raise CheckpointRefused("too_deep", f"graphs are nested more than {MAX_DEPTH} deep")
    tensors: dict[str, Tensor] = {}
    for field in reader.fields(graph.start, graph.end):
        if field.number == 1 and field.wire == _BYTES:
            _check_node(reader, field, depth)
        elif field.number == 5 and field.wire == _BYTES:
            name, tensor = _tensor(reader, field)
            if name in tensors:
                raise CheckpointRefused("corrupt_header", f"tensor {name[:60]!r} occurs twice")
            tensors[name] = tensor
        elif field.number == 15:
            raise CheckpointRefused("corrupt_header", "sparse tensors are not read")
    return tensors


def _check_node(reader: _Reader, node: _Field, depth: int) -> None:
    for field in reader.fields(node.start, node.end):
        if field.number == 7 and reader.text(field) not in DOMAINS:
            raise CheckpointRefused("forbidden_call", f"an operator of {reader.text(field)[:60]!r}; only ONNX's own are permitted")
        if field.number == 5 and field.wire == _BYTES:
            for part in reader.fields(field.start, field.end):
                if part.number in (5, 10) and part.wire == _BYTES:
                    _tensor(reader, part)
                elif part.number in (6, 11) and part.wire == _BYTES:
                    _read_graph(reader, part, depth + 1)
                elif part.number in (22, 23):
                    raise CheckpointRefused("corrupt_header", "sparse tensors are not read")


def _tensor(reader: _Reader, field: _Field) -> tuple[str, Tensor]:
    name, shape, kind, raw = "", [], 0, None
    for part in reader.fields(field.start, field.end):
        if part.number == 1:
            shape += reader.integers(part)
            if len(shape) > MAX_DIMENSIONS:
                raise CheckpointRefused("too_large", f"a tensor of more than {MAX_DIMENSIONS} dimensions")
        elif part.number == 2:
            kind = part.integer
        elif part.number == 8:
            name = reader.text(part)
        elif part.number == 9:
            raw = part.end - part.start
        elif part.number == 13 or (part.number == 14 and part.integer):
            raise CheckpointRefused("external_data", "a tensor's values are in another file")
    if kind not in _TYPES or any(size >= 1 << 48 for size in shape):
        raise CheckpointRefused("corrupt_header", f"tensor {name[:60]!r} has type {kind} and shape {tuple(shape)}")
    if prod(shape) > MAX_ELEMENTS:
        raise CheckpointRefused("too_large", f"tensor {name[:60]!r} has shape {tuple(shape)}")
    dtype, size = _TYPES[kind]
    if raw is not None and raw != prod(shape) * size:
        raise CheckpointRefused("corrupt_header", f"tensor {name[:60]!r} of shape {tuple(shape)} has {raw} bytes")
    return name, Tensor(dtype, tuple(shape))
