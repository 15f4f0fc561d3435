"""What is wrong with a model's files in an open directory. Both published sets and RingRift trees are checked with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ringrift_dagster.models.manifest import Current
from ringrift_dagster.models.publishing.files import hash_of, open_regular
from ringrift_dagster.models.publishing.names import meta, meta_name, sidecar, sidecar_name
from ringrift_dagster.models.publishing.reasons import Finding

MAX_SIDE_BYTES = 64 << 10
Inode = tuple[int, int, int, int]
"""Device, number, size and time of modification in nanoseconds: names of one file are read once."""


def hash_by_inode(descriptor: int, hashes: dict[Inode, str]) -> str:
    """SHA-256 of an open file, read unless a file of the same inode was."""
    status = os.fstat(descriptor)
    inode = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if inode not in hashes:
        hashes[inode] = hash_of(descriptor)
    return hashes[inode]


def check_name(directory: int, name: str, config: str, current: Current, hashes: dict[Inode, str]) -> Iterator[Finding]:
    """What is wrong with one name of a config's model, in the directory that is open as a descriptor.

    `hashes` remembers what was read, so that names of one file cost one reading.
    """
    yield from _check_model(directory, name, current, hashes)
    yield from _check_side(directory, sidecar_name(name), sidecar(name, current.sha256), "sidecar")
    yield from _check_side(directory, meta_name(name), meta(name, config, current), "meta")


def kind_of(directory: int, name: str) -> str | None:
    """`file`, `symbolic_link` or `not_a_file`; None if the name is not there."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    return "file" if stat.S_ISREG(mode) else "symbolic_link" if stat.S_ISLNK(mode) else "not_a_file"


def _check_model(directory: int, name: str, current: Current, hashes: dict[Inode, str]) -> Iterator[Finding]:
    kind = kind_of(directory, name)
    if kind is None:
        yield Finding("missing_file", name, f"{name} is not there")
    elif kind != "file":
        yield Finding(kind, name, f"{name} is a {kind.replace('_', ' ')}" if kind == "symbolic_link" else f"{name} is no file")
    else:
        try:
            with open_regular(name, directory) as descriptor:
                actual = hash_by_inode(descriptor, hashes)
        except OSError as error:
            yield Finding("unreadable", name, f"{name}: {error.strerror or error}")
            return
        if actual != current.sha256:
            yield Finding("hash_mismatch", name, f"{name} has the SHA-256 {actual[:12]}…, not {current.sha256[:12]}…")


def _check_side(directory: int, name: str, expected: bytes, what: str) -> Iterator[Finding]:
    kind = kind_of(directory, name)
    if kind is None:
        yield Finding(f"no_{what}", name, f"{name} is not there")
        return
    if kind != "file":
        yield Finding(kind, name, f"{name} is no regular file")
        return
    try:
        with open_regular(name, directory) as descriptor:
            content = os.read(descriptor, MAX_SIDE_BYTES)
    except OSError as error:
        yield Finding("unreadable", name, f"{name}: {error.strerror or error}")
        return
    if content != expected:
        yield Finding(f"wrong_{what}", name, f"{name} does not say what the manifest says")
