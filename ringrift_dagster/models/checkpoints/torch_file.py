"""Files of `torch.save`: the zip format since torch 1.6, and the legacy stream before it.

The values of tensors are passed over: only their CRCs and sizes are checked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ringrift_dagster.models.checkpoints.content import Content, Tensor
from ringrift_dagster.models.checkpoints.inert_pickle import StorageRef, TensorRef, read_pickle
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.checkpoints.source import Source
from ringrift_dagster.models.checkpoints.stored_zip import Entry, check_crc, read_entries

MAX_PICKLE_BYTES: Final = 2 << 20
"""RingRift's largest networks need about 100 KB with the optimizer's state."""
WEIGHT_KEYS: Final = ("model_state_dict", "state_dict", "model", "net", "best_state")
"""Where RingRift's checkpoints, old and new, have their weights. A dictionary of nothing but tensors is weights itself."""
METADATA_KEY: Final = "_versioning_metadata"
LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL: Final = 1001

_NAME: Final = re.compile(r"[^/\\\x00]{1,255}")
_SMALL: Final = frozenset({"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"})
_STORAGE: Final = re.compile(r"data/(0|[1-9][0-9]{0,5})")


def read_zip(source: Source) -> Content:
    """A file in the zip format. Raises CheckpointRefused."""
    entries = _by_role(read_entries(source))
    pickled = entries.get("data.pkl")
    if pickled is None:
        raise CheckpointRefused("hostile_archive", "no data.pkl in the archive")
    if pickled.size > MAX_PICKLE_BYTES:
        raise CheckpointRefused("too_large", f"a pickle of {pickled.size} bytes; at most {MAX_PICKLE_BYTES} are read")
    for entry in entries.values():
        check_crc(source, entry)
    order = entries.get("byteorder")
    if order is not None and source.read(order.offset, order.size) != b"little":
        raise CheckpointRefused("hostile_archive", "the byte order is not little")
    value, storages, end = read_pickle(source.read(pickled.offset, pickled.size))
    if end != pickled.size:
        raise CheckpointRefused("corrupt_pickle", "bytes after the end of the pickle")
    stored = {name.removeprefix("data/"): entry.size for name, entry in entries.items() if name.startswith("data/")}
    _check_storages(storages, stored)
    return _content("torch-zip", value)


def read_legacy(source: Source) -> Content:
    """A file in the legacy format: five pickles, then every storage behind its number of elements. Raises CheckpointRefused."""
    head = source.read(0, min(source.size, MAX_PICKLE_BYTES))
    position = 0
    values: list[Any] = []
    storages: dict[str, StorageRef] = {}
    for _ in range(5):
        try:
            value, named, position = read_pickle(head, position)
        except CheckpointRefused as refusal:
            if refusal.reason == "truncated" and source.size > len(head):
                raise CheckpointRefused("too_large", f"pickles of more than {MAX_PICKLE_BYTES} bytes") from refusal
            raise
        values.append(value)
        storages |= named
    magic, protocol, system, value, keys = values
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or type(system) is not dict or type(keys) is not list:
        raise CheckpointRefused("unknown_format", "a pickle, but none that torch wrote")
    if system.get("little_endian") is not True:
        raise CheckpointRefused("hostile_archive", "the byte order is not little")
    if len(keys) != len(storages) or not all(type(key) is str and key in storages for key in keys) or len({*keys}) != len(keys):
        raise CheckpointRefused("corrupt_tensor", "the list of storages is not that of the tensors")
    for key in keys:
        (elements,) = struct.unpack("<q", source.read(position, 8))
        if elements != storages[key].elements:
            raise CheckpointRefused("corrupt_tensor", f"storage {key[:40]!r} has another length than its tensors say")
        position += 8 + storages[key].bytes
        if position > source.size:
            raise CheckpointRefused("truncated", f"storage {key[:40]!r} ends beyond the file")
    if position != source.size:
        raise CheckpointRefused("corrupt_tensor", f"{source.size - position} bytes after the last storage")
    return _content("torch-legacy", value)


def _by_role(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Entries by name below the archive's one folder. Anything that torch does not write for tensors is refused."""
    folders = {name.partition("/")[0] for name in entries}
    if len(folders) != 1 or not _NAME.fullmatch(next(iter(folders))):
        raise CheckpointRefused("hostile_archive", "entries outside the one folder that torch writes")
    named = {name.partition("/")[2]: entry for name, entry in entries.items()}
    for name in named:
        if name != "data.pkl" and name not in _SMALL and not _STORAGE.fullmatch(name):
            raise CheckpointRefused("hostile_archive", f"entry {name[:60]!r} is none that torch writes")
    for name in _SMALL & named.keys():
        if named[name].size > 64:
            raise CheckpointRefused("hostile_archive", f"entry {name!r} has {named[name].size} bytes")
    return named


def _check_storages(storages: Mapping[str, StorageRef], stored: Mapping[str, int]) -> None:
    """Every storage that is named is there with its size, and there are no others."""
    for key, storage in storages.items():
        if stored.get(key) != storage.bytes:
            there = f"has {stored[key]} bytes" if key in stored else "is not there"
            raise CheckpointRefused("corrupt_tensor", f"storage {key[:40]!r} of {storage.bytes} bytes {there}")
    if unused := stored.keys() - storages.keys():
        raise CheckpointRefused("hostile_archive", f"no tensor uses entry 'data/{min(unused)}'")


def _content(format_name: str, value: Any) -> Content:
    weights = _weights(value)
    everything = set(map(id, _tensors(value)))
    metadata = value.get(METADATA_KEY) if type(value) is dict else None
    return Content(
        format_name,
        {name: Tensor(tensor.storage.dtype, tensor.shape) for name, tensor in weights.items()},
        metadata if type(metadata) is dict else {},
        len(everything - set(map(id, weights.values()))),
    )


def _weights(value: Any) -> dict[str, TensorRef]:
    if type(value) is not dict:
        raise CheckpointRefused("no_weights", "the file is no dictionary")
    candidates = [value[key] for key in WEIGHT_KEYS if type(value.get(key)) is dict] or [value]
    weights = {name: tensor for name, tensor in candidates[0].items() if type(name) is str and type(tensor) is TensorRef}
    if not weights or len(weights) != len(candidates[0]):
        raise CheckpointRefused(
            "no_weights", f"no dictionary of nothing but tensors under {', '.join(WEIGHT_KEYS)}, nor at the top"
        )
    return weights


def _tensors(value: Any) -> Iterator[TensorRef]:
    """All tensors, each once."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if type(current) is TensorRef:
            yield current
        elif type(current) is dict:
            pending.extend(current.values())
        elif type(current) in (list, tuple):
            pending.extend(current)
