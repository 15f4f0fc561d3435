"""From a filled part to a file under its name: verified, of its type, on disk, and never in the place of anything else.

Where an item belongs is `placement`'s business, filling the part `fetch`'s. What becomes of a part that is
refused, the caller decides.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from ringrift_dagster.games.config import UnknownConfig, parse_config
from ringrift_dagster.manifest.inventory import CHUNK_DIGEST_BYTES, ItemType, Soundness, chunk_count
from ringrift_dagster.manifest.sources.hashing import OPEN_FLAGS, Hashed, InFlux, hash_file, identity
from ringrift_dagster.manifest.sources.layouts import is_named_by_hash
from ringrift_dagster.manifest.sources.probe import Facts, probe
from ringrift_dagster.transfer import merging
from ringrift_dagster.transfer.model import OrderedItem
from ringrift_dagster.transfer.part import disk_cause

LOG_SUFFIXES = ("-wal", "-shm", "-journal")
"""What SQLite applies to a database when it lies beside it."""
FOLDER_MODE = 0o755
DAMAGED_FOLDER = "corrupted"
"""Beside a file: where it is moved when it turns out not to be what its name says. No scan takes anything there for an item."""
_PART_MODE = 0o600
_SYNC_THREADS = 8
_HERE = -100
_NO_REPLACE = 1
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class NotPublished(Exception):
    """The item does not stand under its name, or not surely after a loss of power; what stood there is untouched.

    `cause` is one of CAUSES; `detail` is one line.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = " ".join(detail.split())[:300]


class Part(Protocol):
    """What has to be known of a part: PartFile is one."""

    @property
    def path(self) -> Path: ...
    def digest(self) -> str: ...
    def discard(self) -> None: ...


@dataclass(frozen=True)
class Published:
    """Where an item now is, relative to the root, and what was found out about it. Times in seconds since 1970.

    `merged`: of a merge, how many games it added; then `path` is a live database, and `hashed` and `facts` are of what came.
    """

    path: str
    mtime: float
    verified_at: float
    merged: int | None
    hashed: Hashed
    facts: Facts


@dataclass(frozen=True)
class Arrival:
    """An item that is to be published: its part, and the path below the root at which it belongs."""

    part: Part
    item: OrderedItem
    path: str


@dataclass(frozen=True)
class _Checked:
    """An arrival that is what it should be, and goes into the real folder `folder`."""

    arrival: Arrival
    folder: Path
    hashed: Hashed
    facts: Facts

    @property
    def item(self) -> OrderedItem:
        return self.arrival.item

    @property
    def source(self) -> Path:
        return self.arrival.part.path

    @cached_property
    def target(self) -> Path:
        return self.folder / PurePosixPath(self.arrival.path).name

    def published(self, hashed: Hashed, *, mtime_ns: int, merged: int | None = None) -> Published:
        return Published(self.arrival.path, mtime_ns / 1e9, time.time(), merged, hashed, self.facts)


def publish(part: Part, item: OrderedItem, root: Path, path: str, *, fsync: bool = True) -> Published:
    """Give a filled part its name, `path` below `root`, and discard what was of use for filling it.

    Returns when it is on disk, unless `fsync` is False. A file of the same content that stands there is success; a damaged one that
    bears this item's hash in its name is moved aside. With `item.merge` its games go into the database there; if there is none,
    the part becomes it. Raises NotPublished; the part is then still the caller's.
    """
    (outcome,) = publish_many([Arrival(part, item, path)], root, fsync=fsync)
    if isinstance(outcome, NotPublished):
        raise outcome
    return outcome


def publish_many(arrivals: Sequence[Arrival], root: Path, *, fsync: bool = True) -> list[Published | NotPublished]:
    """The same for many, in order; each folder is brought to disk once."""
    placing = Folders(root)
    checked = [_attempt(lambda each: _check(each, placing), arrival) for arrival in arrivals]
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:  # many small files reach the disk together
        checked = list(pool.map(lambda each: _attempt(lambda one: _to_disk(one, fsync), each), checked))
    folders = sorted({each.folder for each in checked if isinstance(each, _Checked)})
    published = [_attempt(_name, each) for each in checked]
    if fsync:
        unsure = {folder: failure for folder in folders if isinstance(failure := _attempt(_sync, folder), NotPublished)}
        published = [
            unsure.get(each.folder, outcome) if isinstance(each, _Checked) else outcome
            for each, outcome in zip(checked, published, strict=True)
        ]
    for arrival, outcome in zip(arrivals, published, strict=True):
        if isinstance(outcome, Published):
            arrival.part.discard()
        else:
            with suppress(OSError):
                arrival.part.path.chmod(_PART_MODE)
    return published


def make_folder(root: Path, path: str) -> Path:
    """The real folder in which `path` below `root` is to stand; it is made as far as it is not there.

    Raises NotPublished for what leads out of the root, through links too, and when the root itself is not there.
    """
    parts = PurePosixPath(path).parts
    if not parts or any(part in ("/", "..") for part in parts) or PurePosixPath(path).is_absolute():
        raise NotPublished("unplaceable", f"not a path below {root}: {path!r}")
    try:
        top = os.path.realpath(root, strict=True)
        at = top
        for part in parts[:-1]:
            at = _enter(top, at, part)
    except OSError as error:
        cause = "unplaceable" if error.errno in _NO_FOLDER else disk_cause(error)
        raise NotPublished(cause, f"{error.filename or root}: {error.strerror or error}") from error
    return Path(at)


class Folders:
    """The same for many paths below one root: each folder is looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, Path] = {}

    def make(self, path: str) -> Path:
        """See `make_folder`."""
        parent, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            return make_folder(self._root, path)
        if parent not in self._known:
            self._known[parent] = make_folder(self._root, path)
        return self._known[parent]


def _enter(top: str, folder: str, name: str) -> str:
    wanted = os.path.join(folder, name)  # noqa: PTH118
    real = os.path.realpath(wanted)
    if not real.startswith(top.rstrip("/") + "/"):
        raise NotPublished("unplaceable", f"{wanted} leads out of {top}")
    if not Path(wanted).is_symlink():
        with suppress(FileExistsError):
            Path(real).mkdir(FOLDER_MODE)
            Path(real).chmod(FOLDER_MODE)
            _sync(Path(folder))
    if not stat.S_ISDIR(Path(real).stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), real)
    return real


def _attempt(work: Callable[[_In], _Out], given: _In | NotPublished) -> _Out | NotPublished:
    """One step of many: what failed before, or fails now, goes on as the failure."""
    if isinstance(given, NotPublished):
        return given
    try:
        return work(given)
    except NotPublished as failure:
        return failure
    except OSError as error:
        return NotPublished(disk_cause(error), f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))


def _check(arrival: Arrival, placing: Folders) -> _Checked:
    """Whether the bytes are the right ones, and what their type wants. Reads only, but makes the folder."""
    part, item = arrival.part, arrival.item
    if part.digest() != item.sha256:
        raise NotPublished("wrong_bytes", f"what came is not {item.sha256}")
    folder = placing.make(arrival.path)
    try:
        hashed = _hashed(part.path, item)
    except InFlux:
        raise NotPublished("wrong_bytes", "the part changed while it was read") from None
    facts = probe(part.path, item.type, arrival.path, sha256=item.sha256)
    problem = " ".join(facts.problem) if facts.problem else facts.reason
    if facts.problem or facts.soundness == Soundness.UNSOUND:
        raise NotPublished("not_sound", problem or "unsound")
    if item.config is not None and facts.config not in (None, item.config):
        raise NotPublished("not_sound", f"it is of {facts.config}, not of {item.config}")
    if item.merge:
        _check_config(arrival.path, facts)
    return _Checked(arrival, folder, hashed, facts)


def _hashed(part: Path, item: OrderedItem) -> Hashed:
    """What is known of a part of which the whole is right; the chunk table is made where none, or no whole one, came along.

    Raises NotPublished where the file says otherwise.
    """
    status = part.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != item.size:
        raise NotPublished("wrong_bytes", f"the part has {status.st_size} bytes, not {item.size}")
    try:
        chunks = base64.b64decode(item.chunks or "", validate=True)
    except ValueError:
        chunks = b""
    if len(chunks) != chunk_count(item.size) * CHUNK_DIGEST_BYTES:
        hashed = hash_file(str(part))
        if hashed.sha256 != item.sha256:
            raise NotPublished("wrong_bytes", f"the part is not {item.sha256}, whatever came")
        return hashed
    return Hashed(item.sha256, chunks, item.size, status.st_mtime_ns, status.st_ino)


def _check_config(path: str, facts: Facts) -> None:
    """A database that bears a config's name takes games of that config only."""
    try:
        named = parse_config(PurePosixPath(path).name).key
    except UnknownConfig:
        return
    others = sorted(facts.counts.keys() - {named})
    if others:
        raise NotPublished("unplaceable", f"games of {', '.join(others)} do not belong into {path}")


def _to_disk(checked: _Checked, fsync: bool) -> _Checked:
    descriptor = os.open(checked.source, OPEN_FLAGS)
    try:
        os.fchmod(descriptor, checked.item.mode)
    except OSError as error:
        if error.errno not in (errno.EPERM, *_NOT_SUPPORTED):  # a file system that knows no modes
            raise
    else:
        if fsync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return checked


def _name(checked: _Checked) -> Published:
    """Give the part its name, unless that is taken."""
    item, target = checked.item, checked.target
    if item.merge and os.path.lexists(target):
        return _merge(checked)
    if item.merge:
        _check_triggers(checked.source)
    if item.type == ItemType.GAME_DB and not os.path.lexists(target):
        _set_logs_aside(target)
    try:
        _rename(checked.source, target)
    except FileExistsError:
        if item.merge:
            return _merge(checked)
        if (there := _make_way(checked)) is not None:
            return checked.published(there, mtime_ns=there.mtime_ns)
        if item.type == ItemType.GAME_DB:
            _set_logs_aside(target)
        _rename(checked.source, target)
    status = target.lstat()
    hashed = Hashed(item.sha256, checked.hashed.chunks, status.st_size, status.st_mtime_ns, status.st_ino)
    return checked.published(hashed, mtime_ns=status.st_mtime_ns, merged=checked.facts.games if item.merge else None)


def _make_way(checked: _Checked) -> Hashed | None:
    """What stands there, if it is the same content; None when it was this item once, is damaged, and was set aside just now.

    Anything else stays where it is.
    """
    item, target = checked.item, checked.target
    status = target.lstat()
    try:
        there = hash_file(str(target))
    except (OSError, InFlux) as error:
        if not stat.S_ISREG(status.st_mode) or getattr(error, "errno", None) != errno.EIO:
            raise NotPublished("occupied", f"what stands at {checked.arrival.path} cannot be read: {error}") from error
        there = None
    if there is not None and there.sha256 == item.sha256:
        return there
    if item.type == ItemType.GAME_DB and not is_named_by_hash(target.name):
        raise NotPublished(
            "would_lose_games", f"another database stands at {checked.arrival.path}: its games are only ever added to"
        )
    if item.sha256[:12] not in target.name or (item.type == ItemType.GAME_DB and _is_in_use(target)):
        raise NotPublished("occupied", f"another content stands at {checked.arrival.path}")
    if identity(target.lstat()) != identity(status):
        raise NotPublished("occupied", f"what stands at {checked.arrival.path} changes")
    aside = make_folder(checked.folder, f"{DAMAGED_FOLDER}/{target.name}") / f"{time.time_ns()}_{target.name}"
    _rename(target, aside)
    _log.warning("%s was damaged and is now %s", target, aside)
    return None


def _is_in_use(database: Path) -> bool:
    """Whether a database that bears a hash as a name was written to since: then its games are somebody's."""
    if any(log.exists() and log.stat().st_size for log in (Path(f"{database}-wal"), Path(f"{database}-journal"))):
        return True
    facts = probe(database, ItemType.GAME_DB, database.name)
    damaged = facts.problem[0] in ("empty", "unreadable") if facts.problem else facts.soundness == Soundness.UNSOUND
    return not damaged


def _merge(checked: _Checked) -> Published:
    target = checked.target
    if not stat.S_ISREG(target.lstat().st_mode):
        raise NotPublished("occupied", f"{checked.arrival.path} is no regular file")
    try:
        merged = merging.merge(target, checked.source)
    except merging.MergeFailed as failure:
        raise NotPublished(failure.cause, failure.detail) from failure
    if merged.conflicts or merged.refused:
        _log.warning("%s into %s: %s", checked.item.sha256[:12], checked.arrival.path, merged)
    return checked.published(checked.hashed, mtime_ns=target.lstat().st_mtime_ns, merged=merged.added)


def _check_triggers(part: Path) -> None:
    try:
        foreign = merging.foreign_triggers(part)
    except sqlite3.Error as error:
        raise NotPublished("not_sound", str(error)) from error
    if foreign:
        raise NotPublished("not_sound", f"triggers that are none of RingRift's: {', '.join(foreign)}")


def _set_logs_aside(database: Path) -> None:
    """What is left of a database that stood there is never applied to this one, and never deleted."""
    name = str(database)
    for suffix in LOG_SUFFIXES:
        if os.path.lexists(f"{name}{suffix}"):
            log = Path(f"{name}{suffix}")
            aside = Path(f"{log}.stale-{time.time_ns()}")
            _rename(log, aside)
            _log.warning("%s lay beside no database and is now %s", log, aside.name)


def _rename(source: Path, target: Path) -> None:
    """Another name on the same file system, unless something has it already. Raises FileExistsError and OSError."""
    if _renameat2 is not None:
        if _renameat2(_HERE, os.fsencode(source), _HERE, os.fsencode(target), _NO_REPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NOT_SUPPORTED:
            raise OSError(code, os.strerror(code), str(target))
    os.link(source, target, follow_symlinks=False)
    source.unlink()


def _sync(path: Path) -> None:
    """Bring a file or folder to disk."""
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
