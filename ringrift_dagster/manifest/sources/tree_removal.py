"""Proving that an item of a tree is there, and removing one, only if it still is what it is taken for.

Whether it may go at all is decided elsewhere. The way there is opened folder by folder and never through a link. The file is put
aside first, under a hidden name, and looked at again there: whatever somebody puts at its path meanwhile is not what is removed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ringrift_dagster.manifest.inventory import Gone
from ringrift_dagster.manifest.sources.hashing import Hashed, InFlux, hash_file, identity
from ringrift_dagster.manifest.sources.layouts import Layout, is_named_by_hash
from ringrift_dagster.manifest.sources.tree_cache import Entry, Session, tombstone
from ringrift_dagster.manifest.sources.tree_snapshots import Snapshots

ASIDE = ".removing-"
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
"""Of what stands beside a database that somebody has open."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEFT = re.compile(re.escape(ASIDE) + r"([0-9a-f]{64})-(.+)", re.DOTALL)


class NotRemoved(Exception):
    """A file stays where it is: `code` is snapshot, outside, live_database or changed."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def prove(session: Session, sha256: str, real: Callable[[Entry], str | None]) -> float | None:
    """Hash a file of this content again, from the disk; returns when that was, None if none has it now.

    `real` tells where an entry's file is, None if that is not within the tree.
    """
    for entry in session.by_hash(sha256):
        path = real(entry) if entry.kind == "found" else None
        if path is None:
            continue
        try:
            if hash_file(path, from_disk=True).sha256 != sha256:
                continue
        except (InFlux, OSError):
            continue
        at = time.time()
        with session.transaction():
            session.settle(entry.path, at)
        return at
    return None


def remove(
    session: Session, sha256: str, root: Path, layout: Layout, snapshots: Snapshots, real: Callable[[Entry], str | None]
) -> list[str]:
    """Remove every file of this content that is an item, and say in the cache that it was retired; returns their paths.

    Raises NotRemoved for the first that may not go, before any went where that can be known, and OSError.
    """
    entries = [entry for entry in session.by_hash(sha256) if entry.kind == "found"]
    places = [_removable(entry, layout, snapshots, real(entry)) for entry in entries]
    real_root = Path(os.path.realpath(root))
    removed = []
    for entry, place in zip(entries, places, strict=True):
        try:
            gone = _remove_file(real_root, Path(place).relative_to(real_root).as_posix(), sha256)
        except InFlux:
            raise NotRemoved("changed", f"{entry.path} is not what was hashed any more") from None
        if gone:
            removed.append(entry.path)
        with session.transaction():
            session.write([tombstone(entry, Gone.SUPERSEDED)])
    return removed


def _removable(entry: Entry, layout: Layout, snapshots: Snapshots, real: str | None) -> str:
    """Where an entry's file is. Raises NotRemoved for one that may not go."""
    if snapshots.owns(entry.path):
        raise NotRemoved("snapshot", f"{entry.path} is the snapshot of a live database: it goes when a later one succeeds it")
    if real is None:
        raise NotRemoved("outside", f"{entry.path} leads out of the root")
    rule = layout.rule(entry.path)
    live = rule is None or (rule.live and not is_named_by_hash(entry.path.rpartition("/")[2]))
    if live or any(os.path.lexists(real + suffix) for suffix in LOG_SUFFIXES):
        raise NotRemoved("live_database", f"{entry.path} is a database in use, or no item")
    return real


def _remove_file(root: Path, path: str, sha256: str) -> bool:
    """Remove the file at a path below `root`; False if none is there.

    `root` and `path` have no links in them. Raises InFlux if it is not what its hash says, or changes meanwhile, and OSError.
    """
    try:
        with _folder(root, path) as folder:
            name = path.rpartition("/")[2]
            _finish_earlier(folder)
            hashed = _hash(folder, name)
            if hashed.sha256 != sha256:
                raise InFlux(path)
            aside = f"{ASIDE}{sha256}-{name}"
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
            _settle(folder, aside, name, hashed)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def _folder(root: Path, path: str) -> Iterator[int]:
    """The folder of a path, opened; a link on the way is no folder."""
    descriptor = os.open(root, _FOLDER)
    try:
        for part in path.split("/")[:-1]:
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except OSError as error:
                raise NotADirectoryError(path) if error.errno == errno.ELOOP else error from None
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _hash(folder: int, name: str) -> Hashed:
    """Hash a file in an open folder, which a link in the folder's place cannot lead astray."""
    return hash_file(f"/proc/self/fd/{folder}/{name}" if Path("/proc/self/fd").exists() else f"/dev/fd/{folder}/{name}")


def _settle(folder: int, aside: str, name: str, hashed: Hashed) -> None:
    """Remove what was put aside if it is what was hashed; else put it back."""
    status = os.stat(aside, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode) and identity(status) == (hashed.size, hashed.mtime_ns, hashed.inode):
        os.unlink(aside, dir_fd=folder)
        os.fsync(folder)
        return
    _put_back(folder, aside, name)
    raise InFlux(name)


def _put_back(folder: int, aside: str, name: str) -> None:
    """Under its name again, unless something newer stands there; then it stays where it is."""
    with suppress(FileExistsError):
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(aside, dir_fd=folder)


def _finish_earlier(folder: int) -> None:
    """What an earlier removal that was killed has left: removed if it is what it was, put back if not."""
    for left in [name for name in os.listdir(folder) if name.startswith(ASIDE)]:
        told = _LEFT.fullmatch(left)
        if told is None:
            continue
        try:
            hashed = _hash(folder, left)
        except (InFlux, FileNotFoundError):
            continue
        if hashed.sha256 == told[1]:
            os.unlink(left, dir_fd=folder)
        else:
            _put_back(folder, left, told[2])
