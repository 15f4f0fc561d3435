"""Durable files: hashed copies, exchange of two names, and bringing files and directories to disk. Nothing about models here.

Every function raises OSError where the file system refuses.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHUNK: Final = 1 << 20
_CANNOT_EXCHANGE: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_CANNOT_LINK: Final = (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_LINUX_EXCHANGE: Final = 2  # RENAME_EXCHANGE of renameat2(2)
_MACOS_SWAP: Final = 2  # RENAME_SWAP of renamex_np(2)
_AT_FDCWD: Final = -100


class ExchangeUnsupported(OSError):
    """The file system, or the operating system, cannot exchange two names in one step."""


class ContentDiffers(ValueError):
    """The bytes of a file are not those of the hash; the message is one line."""


def exchange(first: Path, second: Path) -> None:
    """Exchange two names of one file system in one step. Both must exist. Raises ExchangeUnsupported and OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    name = "renamex_np" if sys.platform == "darwin" else "renameat2"
    function = getattr(library, name, None)
    if function is None:
        raise ExchangeUnsupported(errno.ENOSYS, os.strerror(errno.ENOSYS), str(first))
    paths = (os.fsencode(first), os.fsencode(second))
    if sys.platform == "darwin":
        failed = function(*paths, ctypes.c_uint(_MACOS_SWAP))
    else:
        failed = function(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_LINUX_EXCHANGE))
    if failed:
        code = ctypes.get_errno()
        kind = ExchangeUnsupported if code in _CANNOT_EXCHANGE else OSError
        raise kind(code, os.strerror(code), str(first))


def rename_to_free_name(source: Path, target: Path) -> None:
    """Rename a file unless something has the name. Raises FileExistsError where the file system has hard links."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        source.rename(target)
    else:
        source.unlink()


def link_or_copy(source: Path, target: Path, sha256: str, mode: int) -> None:
    """Give a file another name, or copy it where the file system has no hard links. Raises ContentDiffers for a copy."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        copy_verified(source, target, sha256, mode)


def copy_verified(source: Path, target: Path, sha256: str, mode: int = 0o666) -> None:
    """Copy a regular file to a new one, on disk when this returns, unless its bytes differ from the hash. `mode` is before umask.

    The target must not exist; it does not afterwards either if ContentDiffers is raised.
    """
    digest = hashlib.sha256()
    with _new_file(target, mode) as out, open_regular(source) as descriptor:
        while block := os.read(descriptor, CHUNK):
            digest.update(block)
            _write(out, block)
        if digest.hexdigest() != sha256:
            target.unlink()
            raise ContentDiffers(f"{source}: its SHA-256 is {digest.hexdigest()}, not {sha256}")


def write_durably(target: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a new file; it is on disk when this returns, its name is not. `mode` is before umask."""
    with _new_file(target, mode) as out:
        _write(out, content)


def hash_of(descriptor: int) -> str:
    """SHA-256 of an open file, from its beginning."""
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, CHUNK):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def open_regular(path: Path | str, directory: int | None = None) -> Iterator[int]:
    """Open a regular file for reading, by a path or by its name in an open directory; a symbolic link is none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _new_file(target: Path, mode: int) -> Iterator[int]:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
