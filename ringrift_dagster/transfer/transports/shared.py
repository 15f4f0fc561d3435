"""A file system that source and target both see: a second name for the same file where that is safe, else a copy in the machine.

An offer's location is one of the agent's own roots, its address the path below it. What the root's inventory knows is found by
its hash; the path is for what it was never asked about.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, TypeVar

from ringrift_dagster.manifest.inventory import ItemType, NoAnswer
from ringrift_dagster.manifest.sources.hashing import OPEN_FLAGS
from ringrift_dagster.manifest.sources.layouts import is_named_by_hash
from ringrift_dagster.manifest.sources.tree import ContentChanged, TreeInventory
from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.transports.protocol import Probe, TransportFailure

OPEN_SECONDS = 4.0
"""A mount that has not opened a file by then hangs."""
COPY_BYTES = 8 << 20
HASH_LETTERS = 12
"""So much of its hash is in the name of a file that this project published."""

_T = TypeVar("_T")


class SharedTransport:
    """Fetches from `trees`, the agent's roots by the name of their location."""

    name: ClassVar[TransportName] = TransportName.SHARED

    def __init__(self, trees: Mapping[str, TreeInventory], *, open_seconds: float = OPEN_SECONDS) -> None:
        self._trees = trees
        self._open_seconds = open_seconds

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Whether the root is there."""
        began = time.monotonic()
        try:
            _within(timeout, lambda: _check(self._tree(offer)))
        except TransportFailure as failure:
            return Probe(failure=failure.code, detail=failure.detail)
        return Probe(latency=time.monotonic() - began)

    def fetch_whole(
        self,
        item: OrderedItem,
        offers: Sequence[Offer],
        into: Path,
        *,
        bytes_a_second: float | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        """See WholeTransport. `into` may be another file afterwards: the source's own, under a second name."""
        failure = TransportFailure("not_found", "nothing is offered")
        for offer in offers:
            try:
                tree = self._tree(offer)
                descriptor, path = _within(self._open_seconds, lambda tree=tree, offer=offer: _open(tree, offer.address, item))
            except TransportFailure as error:
                failure = error
                continue
            try:
                if not (_may_link(item, path, os.fstat(descriptor)) and _link(descriptor, into)):
                    _copy(descriptor, into, item.size, bytes_a_second, cancelled, progress)
                return
            except TransportFailure as error:
                if error.code == "cancelled":
                    raise
                failure = error
            finally:
                os.close(descriptor)
        raise failure

    def _tree(self, offer: Offer) -> TreeInventory:
        tree = self._trees.get(offer.location)
        if tree is None:
            raise TransportFailure("not_found", f"{offer.location} is no root of this agent")
        return tree


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    """What a piece of work that only reads comes to. Raises TransportFailure (timeout) when the file system hangs."""
    pool = ThreadPoolExecutor(1, "shared")
    try:
        return pool.submit(work).result(seconds)
    except Late:
        raise TransportFailure("timeout", f"the file system did not answer in {seconds:g} s") from None
    finally:
        pool.shutdown(wait=False)


def _check(tree: TreeInventory) -> None:
    try:
        tree.check()
    except NoAnswer as refusal:
        raise TransportFailure("unreachable", refusal.detail) from None


def _open(tree: TreeInventory, path: str, item: OrderedItem) -> tuple[int, str]:
    """The file of the item, which is the caller's to close, and its path below the root. Raises TransportFailure."""
    _check(tree)
    with suppress(ContentChanged, NoAnswer):
        if (opened := tree.open(item.sha256)) is not None:
            return opened.descriptor, opened.path
    rule = tree.layout.rule(path)
    if rule is None or rule.type != item.type or tree.layout.is_set_aside(path):
        raise TransportFailure("not_found", f"no {item.type} is expected at {path}")
    if rule.live and not is_named_by_hash(path.rpartition("/")[2]):
        raise TransportFailure("not_found", f"{path} is in use, and no item itself")
    inside, real = os.path.realpath(tree.root), os.path.realpath(tree.root / path)
    if not real.startswith(inside + os.sep):
        raise TransportFailure("not_found", f"{path} leads out of {tree.location}")
    try:
        descriptor = os.open(real, OPEN_FLAGS)
    except OSError as error:
        raise TransportFailure("not_found", f"{path}: {error.strerror}") from None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size == item.size:
        return descriptor, path
    os.close(descriptor)
    raise TransportFailure("changed", f"{path} has another size")


def _may_link(item: OrderedItem, path: str, status: os.stat_result) -> bool:
    """Whether nobody is going to write into the file again, so that it may have a second name.

    Databases are written to in place, and whoever saves a file again under its name may do so as well: only what bears its hash is
    safe. With a chunk table it is verified before it counts, and never written to by us.
    """
    ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == item.mode and not item.mode & 0o022
    return (
        ours and item.type != ItemType.GAME_DB and item.chunks is not None and item.sha256[:HASH_LETTERS] in path.rpartition("/")[2]
    )


def _link(descriptor: int, into: Path) -> bool:
    """Whether `into` is the same file now. It cannot be on another file system, nor on every kind of machine."""
    second = into.with_name(f"{into.name}.link")
    with suppress(OSError):
        second.unlink(missing_ok=True)
        os.link(
            f"/proc/self/fd/{descriptor}", second, src_dir_fd=descriptor, follow_symlinks=True
        )  # without a folder none is followed
        second.replace(into)
        return True
    return False


def _copy(
    source: int,
    into: Path,
    size: int,
    bytes_a_second: float | None,
    cancelled: Callable[[], bool],
    progress: Callable[[int], None],
) -> None:
    """Copy from the beginning, whatever is there: comparing would cost as much. Raises TransportFailure, OSError."""
    _part_from_others(into)
    target = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    began, done, piece = time.monotonic(), 0, COPY_BYTES
    if bytes_a_second is not None:
        piece = max(1, min(COPY_BYTES, int(bytes_a_second / 4)))
    try:
        while done < size:
            if cancelled():
                raise TransportFailure("cancelled")
            done += _copy_piece(source, target, done, min(piece, size - done))
            progress(done)
            if bytes_a_second is not None:
                _wait_until(began + done / bytes_a_second, cancelled)
        os.ftruncate(target, size)
    finally:
        os.close(target)


def _part_from_others(into: Path) -> None:
    """What an earlier call linked is never written to."""
    with suppress(FileNotFoundError):
        if into.stat(follow_symlinks=False).st_nlink > 1:
            into.unlink()


def _copy_piece(source: int, target: int, offset: int, length: int) -> int:
    """Copy some bytes, within the kernel where it can; returns how many."""
    if hasattr(os, "copy_file_range"):
        with suppress(OSError):
            if copied := os.copy_file_range(source, target, length, offset, offset):
                return copied
    try:
        data = os.pread(source, length, offset)
    except OSError as error:
        raise TransportFailure("failed", f"the source cannot be read: {error.strerror}") from None
    if not data:
        raise TransportFailure("short", "the source became shorter")
    return os.pwrite(target, data, offset)


def _wait_until(due: float, cancelled: Callable[[], bool]) -> None:
    while (left := due - time.monotonic()) > 0 and not cancelled():
        time.sleep(min(left, 0.1))
