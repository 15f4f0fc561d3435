"""Files in the safetensors format: a JSON header that lists tensors and where their bytes are, then the bytes.

https://github.com/huggingface/safetensors#format: offsets are contiguous, so that nothing is hidden between tensors.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

from ringrift_dagster.models.checkpoints.content import Content, Tensor
from ringrift_dagster.models.checkpoints.metadata import parse_json
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.checkpoints.source import Source

MAX_HEADER_BYTES: Final = 2 << 20
MAX_DIMENSIONS: Final = 16
METADATA_KEY: Final = "__metadata__"
_TYPES: Final = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}


def header_bytes(source: Source) -> int:
    """The length of the header that the file declares."""
    return int.from_bytes(source.read(0, 8), "little")


def read_safetensors(source: Source) -> Content:
    """Raises CheckpointRefused."""
    length = header_bytes(source)
    if length > MAX_HEADER_BYTES:
        raise CheckpointRefused("too_large", f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    try:
        text = source.read(8, length).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointRefused("corrupt_header", "the header is not UTF-8") from error
    header = parse_json(text, "the header", _unique)
    metadata = header.pop(METADATA_KEY, {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise CheckpointRefused("corrupt_header", "the metadata are not texts by name")
    if not header:
        raise CheckpointRefused("no_weights", "the file has no tensors")
    spans: list[tuple[int, int]] = []
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        tensors[name], span = _tensor(name, entry)
        spans.append(span)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise CheckpointRefused("corrupt_header", "the tensors overlap or leave a gap")
        end = last
    if 8 + length + end != source.size:
        reason = "truncated" if 8 + length + end > source.size else "corrupt_header"
        raise CheckpointRefused(reason, f"the tensors end at {8 + length + end} of {source.size} bytes")
    return Content("safetensors", tensors, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _tensor(name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    try:
        dtype, size = _TYPES[entry["dtype"]]
        shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointRefused("corrupt_header", f"tensor {name[:60]!r} has no dtype, shape and data_offsets") from error
    if (
        len(entry) != 3
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, first, last))
    ):
        raise CheckpointRefused("corrupt_header", f"tensor {name[:60]!r} has a shape or data_offsets that no tensor has")
    if last - first != prod(shape) * size:
        raise CheckpointRefused("corrupt_header", f"tensor {name[:60]!r} of shape {shape} has {last - first} bytes")
    return Tensor(dtype, shape), (first, last)
