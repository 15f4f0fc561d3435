"""The inventory of one directory tree: scanned piece by piece, remembered, told as pages, and served by hash.

`TreeInventory` is a place on a file system of this machine; `DiskSource` is the same as a source the manifest can ask. What one
pass does is in `tree_scan`, what is remembered in `tree_cache`.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from ringrift_dagster.manifest.inventory import (
    Cursor,
    Disk,
    FoundItem,
    GonePath,
    Inventory,
    Name,
    NoAnswer,
    Scrubbed,
    SourceDatabase,
    UntrackedFile,
)
from ringrift_dagster.manifest.sources import tree_removal
from ringrift_dagster.manifest.sources.hashing import OPEN_FLAGS, Hashed, InFlux, hash_file, identity
from ringrift_dagster.manifest.sources.layouts import SNAPSHOT_FOLDER, Layout, is_listed
from ringrift_dagster.manifest.sources.page import MAX_ENTRIES, Collected, Page
from ringrift_dagster.manifest.sources.probe import Facts
from ringrift_dagster.manifest.sources.tree_cache import CacheDamaged, Entry, Session, TreeCache
from ringrift_dagster.manifest.sources.tree_scan import Scan, ScanReport
from ringrift_dagster.manifest.sources.tree_snapshots import Snapshots

SENTINEL = ".ringrift-location"
"""The file at the root of a drive or shared file system that holds the location's name: without it, nothing is mounted there."""
STATE = ".ringrift-node"
"""Where a tree's state lies by default, below its root: on the same file system."""
MIN_FREE_BYTES = 2 << 30
PAGE_BYTES = 16 << 20
"""About the size at which a page ends."""

_NAME = TypeAdapter(Name)
_T = TypeVar("_T")


class ContentChanged(Exception):
    """The content was here, and the file is not what was hashed any more."""


@dataclass(frozen=True)
class Opened:
    """A file that is what was hashed. `descriptor` is the caller's to close; `mtime` in seconds since 1970."""

    descriptor: int
    path: str
    sha256: str
    size: int
    mtime: float


class TreeInventory:
    """One directory tree, cached in `state`. Safe to use from many threads and processes; one scans at a time.

    `sentinel`: the root counts only with a sentinel file that holds `location`. `snapshot_interval` in seconds, and `scrub_rest`,
    in which a file that was verified is not scrubbed again. Nothing here declares a path gone unless the root is there before and
    after.
    """

    def __init__(
        self,
        location: str,
        root: Path,
        layout: Layout,
        state: Path | None = None,
        *,
        sentinel: bool = False,
        snapshot_interval: float = 300.0,
        min_free_bytes: int = MIN_FREE_BYTES,
        scrub_rest: float = 0.0,
    ) -> None:
        self.location = location
        self._scrub_rest = scrub_rest
        self.root = Path(root).absolute()
        self.layout = layout
        self.state = (state or self.root / STATE).absolute()
        self.sentinel = sentinel
        self._lock = threading.Lock()
        self._cache: TreeCache | None = None
        folder = self.state / "snapshots"
        inside = folder.is_relative_to(self.root)
        self.snapshots = Snapshots(
            folder,
            folder.relative_to(self.root).as_posix() if inside else SNAPSHOT_FOLDER,
            snapshot_interval,
            min_free_bytes,
            lambda: _disk(self.state).free,
        )

    def check(self) -> None:
        """Raises NoAnswer unless the root is there and is the place it should be."""
        try:
            if not stat.S_ISDIR(self.root.stat().st_mode):
                raise NoAnswer(self.location, "not_mounted", f"{self.root} is no directory")
            told = _sentinel(self.root)
        except (FileNotFoundError, NotADirectoryError):
            raise NoAnswer(self.location, "not_mounted", f"there is no {self.root}") from None
        except OSError as error:
            raise NoAnswer(self.location, "disk_error", f"{self.root}: {error.strerror or error}") from None
        if told is None and self.sentinel:
            raise NoAnswer(self.location, "not_mounted", f"there is no {SENTINEL} in {self.root}")
        if told is not None and told != self.location:
            raise NoAnswer(self.location, "wrong_node", f"{self.root} is marked as {told[:100]!r}")

    def disk(self) -> Disk | None:
        """Of the root's file system; None where nobody can tell."""
        try:
            return _disk(self.root)
        except OSError:
            return None

    def scan(self, timeout: float | None = None) -> ScanReport:
        """One pass: what changed is hashed and remembered. What does not get its turn within `timeout` seconds is pending.

        Raises NoAnswer when the root is not there or cannot be read; then nothing is declared gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.check()
        with self._scanning(deadline):
            return self._remembering(
                lambda session: Scan(self.root, self.layout, session, self.snapshots, self.check, deadline).run()
            )

    def since(self, cursor: Cursor | None, limit: int = 10_000) -> Page:
        """What is remembered, or what of it changed since `cursor`, as one page. Reads no file. Raises NoAnswer.

        Until the first pass of an epoch has seen everything, its name is a provisional one and no page is full: what is not in
        it may only not have been looked at yet.
        """
        return self._remembering(lambda session: self._page(session, cursor, max(1, limit)))

    def inventory(self, cursor: Cursor | None) -> Inventory:
        """All pages since `cursor`. Raises NoAnswer."""
        collected = Collected()
        while True:
            page = self.since(cursor)
            collected.add(page)
            cursor = Cursor(page.epoch, page.cursor)
            if collected.entries > MAX_ENTRIES:
                raise NoAnswer(self.location, "bad_answer", f"more than {MAX_ENTRIES} entries")
            if not page.more:
                return collected.inventory(self.location, page, None)

    def scanned_at(self) -> float | None:
        """When the last pass ended, in seconds since 1970. Raises NoAnswer."""
        return self._remembering(lambda session: session.meta("scanned_at"))

    def epoch(self) -> str:
        """The name of what is remembered now. Raises NoAnswer."""
        return self._remembering(_epoch)

    def counts(self) -> dict[str, int]:
        """Remembered paths by kind (found, untracked, database, gone), damaged items, and pending files. Raises NoAnswer."""
        return self._remembering(lambda session: {**session.counts(), "pending": session.meta("pending") or 0})

    def open(self, sha256: str) -> Opened | None:
        """Open the file that holds this content, or None if there is none.

        Raises ContentChanged when every such file has changed since it was hashed, or turned out damaged; NoAnswer.
        """
        return self.opener([sha256])(sha256)

    def opener(self, sha256s: Iterable[str]) -> Callable[[str], Opened | None]:
        """`open` for these: what is remembered of them is looked up once, now. Raises NoAnswer."""
        entries = self._remembering(lambda session: {sha256: session.by_hash(sha256) for sha256 in sha256s})

        def open_one(sha256: str) -> Opened | None:
            known = [entry for entry in entries[sha256] if entry.kind in ("found", "gone")]
            for entry in known:
                if not entry.damaged and (opened := self._open(entry, sha256)) is not None:
                    return opened
            if known:
                raise ContentChanged(sha256)
            return None

        return open_one

    def chunk_table(self, sha256: str) -> bytes | None:
        """The chunk table of an item that is, or lately was, here; None if none is remembered. Raises NoAnswer."""

        def read(session: Session) -> bytes | None:
            entries = (session.get(entry.path) for entry in session.by_hash(sha256))
            return next((entry.chunks for entry in entries if entry and entry.sha256 == sha256 and entry.chunks), None)

        return self._remembering(read)

    def known(self, sha256s: Iterable[str]) -> set[str]:
        """Those of which something here has, or lately had, the content, as far as is remembered. Raises NoAnswer."""
        return self._remembering(lambda session: {sha256 for sha256 in sha256s if session.by_hash(sha256)})

    def adopt(self, path: str, hashed: Hashed, facts: Facts) -> bool:
        """Remember a file that was just verified and published at `path`, as if a pass had hashed it: told and served at once.

        False, and nothing is remembered, when it is no longer what was hashed, or a pass would not take it for an item.
        Raises NoAnswer.
        """
        return bool(self.adopt_all([(path, hashed, facts)]))

    def adopt_all(self, files: Iterable[tuple[str, Hashed, Facts]]) -> set[str]:
        """The same for many; returns the paths that are remembered now."""
        entries = [entry for each in files if (entry := self._adopted(*each)) is not None]

        def write(session: Session) -> None:
            with session.transaction():
                session.write(entries)

        if entries:
            self._remembering(write)
        return {entry.path for entry in entries}

    def _adopted(self, path: str, hashed: Hashed, facts: Facts) -> Entry | None:
        rule = self.layout.rule(path)
        name = path.rpartition("/")[2]
        if rule is None or facts.problem or not is_listed(name) or self.layout.is_set_aside(path):
            return None
        if rule.live and name != f"{hashed.sha256}.db":
            return None
        entry = Entry(
            path,
            "found",
            hashed.size,
            hashed.mtime_ns,
            hashed.inode,
            type=rule.type,
            sha256=hashed.sha256,
            facts=facts.to_json(),
            chunks=hashed.chunks,
            verified_at=time.time(),
        )
        opened = self._open(entry, hashed.sha256)
        if opened is None:
            return None
        os.close(opened.descriptor)
        return entry

    def prove(self, sha256: str, timeout: float | None = None) -> float | None:
        """Hash a file of this content again, from the disk; returns when that was, None if no file here has it now.

        Raises NoAnswer, also when others scan for `timeout` seconds.
        """
        with self._alone(timeout):
            return self._remembering(lambda session: tree_removal.prove(session, sha256, self._real))

    def remove(self, sha256: str, timeout: float | None = None) -> list[str]:
        """Remove every file of this content that is an item, and still is what was hashed; returns their paths.

        Live databases and their snapshots stay. Raises NotRemoved when one may not go; NoAnswer, also when others scan for
        `timeout` seconds.
        """
        with self._alone(timeout):
            return self._remembering(
                lambda session: tree_removal.remove(session, sha256, self.root, self.layout, self.snapshots, self._real)
            )

    def scrub(self, max_bytes: int, timeout: float | None = None) -> Scrubbed:
        """Hash again what was verified longest ago, at least one file and at most about `max_bytes`. Raises NoAnswer."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.check()
        with self._scanning(deadline):
            return self._remembering(lambda session: self._scrub(session, max_bytes, deadline))

    def _scrub(self, session: Session, max_bytes: int, deadline: float | None) -> Scrubbed:
        started = time.time()
        files = done = 0
        damaged: list[str] = []
        waiting = list(session.least_verified(started - self._scrub_rest))
        for entry in waiting:
            if files and (done + entry.size > max_bytes or (deadline is not None and time.monotonic() >= deadline)):
                break
            files += 1
            try:
                real = self._real(entry)
                if real is None or identity(os.stat(real)) != (entry.size, entry.mtime_ns, entry.inode):  # noqa: PTH116
                    continue  # not the file that was hashed: the next pass looks at it
                hashed = hash_file(real, from_disk=True)
                broken = hashed.sha256 != entry.sha256
            except InFlux:
                continue
            except OSError as error:
                if error.errno != errno.EIO:
                    continue
                self.check()
                broken = True
            done += entry.size
            whole = session.get(entry.path)
            if whole is not None:
                whole.damaged, whole.verified_at = broken, time.time()
                with session.transaction():
                    session.write([whole])
            if broken:
                damaged.append(entry.path)
        return Scrubbed(files, done, tuple(damaged), len(waiting) - files)

    def _page(self, session: Session, cursor: Cursor | None, limit: int) -> Page:
        with session.transaction(write=False):
            epoch, newest = _epoch(session), int(session.meta("sequence"))
            known = cursor is not None and cursor.epoch == epoch and int(session.meta("horizon")) <= cursor.position <= newest
            position = cursor.position if known and cursor is not None else 0
            complete = bool(session.meta("complete"))
            lists: dict[type, list] = {FoundItem: [], GonePath: [], UntrackedFile: [], SourceDatabase: []}
            size, more = 0, False
            for count, entry in enumerate(session.since(position, limit + 1)):
                if count >= limit or size > PAGE_BYTES:
                    more = True
                    break
                for told in _told(entry):
                    lists[type(told)].append(told)
                size += 500 + len(entry.chunks or b"") * 4 // 3
                position = entry.sequence
            if not more:
                position = newest
            pending = int(session.meta("pending") or 0)
        return Page(
            epoch=epoch,
            cursor=position,
            full=complete and not known,
            more=more,
            now=time.time(),
            disk=self.disk(),
            pending=pending,
            found=lists[FoundItem],
            gone=lists[GonePath],
            untracked=lists[UntrackedFile],
            databases=lists[SourceDatabase],
        )

    def _real(self, entry: Entry) -> str | None:
        """Where an entry's file is, with no link left in the path; None if that is not within the tree."""
        if self.snapshots.owns(entry.path):
            inside, path = self.snapshots.folder, self.snapshots.file(entry.path)
        else:
            inside, path = self.root, self.root / entry.path
        real, real_inside = os.path.realpath(path), os.path.realpath(inside)
        return real if real.startswith(real_inside + os.sep) else None

    def _open(self, entry: Entry, sha256: str) -> Opened | None:
        real = self._real(entry)
        if real is None:
            return None
        try:
            descriptor = os.open(real, OPEN_FLAGS)
        except OSError:
            return None
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and identity(status) == (entry.size, entry.mtime_ns, entry.inode):
            return Opened(descriptor, entry.path, sha256, status.st_size, status.st_mtime)
        os.close(descriptor)
        return None

    def _remembering(self, work: Callable[[Session], _T]) -> _T:
        """Do something with the cache; once more, with a new one, if it turns out damaged."""
        if self.state.is_relative_to(self.root):
            self.check()  # where nothing is mounted, nothing is to be written
        try:
            if self._cache is None:
                digest = hashlib.sha256(self.layout.identity.encode()).hexdigest()[:16]
                self._cache = TreeCache(self.state / "cache.db", f"{self.location} {digest}")
            try:
                with self._cache.session() as session:
                    return work(session)
            except CacheDamaged:
                with self._cache.session() as session:
                    return work(session)
        except OSError as error:
            raise NoAnswer(self.location, "disk_error", f"{error.filename or self.root}: {error.strerror or error}") from error

    @contextmanager
    def _alone(self, timeout: float | None) -> Iterator[None]:
        """The root is there, and nobody else scans. Raises NoAnswer if it is not, or others do not end in so many seconds."""
        self.check()
        with self._scanning(None if timeout is None else time.monotonic() + timeout):
            yield

    @contextmanager
    def _scanning(self, deadline: float | None) -> Iterator[None]:
        """Nobody else scans or scrubs this tree meanwhile. Raises NoAnswer if others do not end in time."""
        if not self._lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise NoAnswer(self.location, "timeout", "another scan is still running")
        try:
            try:
                self.state.mkdir(parents=True, exist_ok=True)
                lock = (self.state / "scan.lock").open("wb")
            except OSError as error:
                raise NoAnswer(self.location, "disk_error", f"{self.state}: {error.strerror or error}") from error
            with lock:
                while True:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if deadline is not None and time.monotonic() >= deadline:
                            raise NoAnswer(self.location, "timeout", "another process is scanning") from None
                        time.sleep(0.05)
                yield
        finally:
            self._lock.release()


class DiskSource:
    """A tree of this machine as a source: local disk, shared file system or drive mounted here.

    A file system that hangs takes a thread along, not the caller; a pass that takes longer than an answer may goes on behind it.
    While others scan or scrub the tree, what is remembered is told.
    """

    def __init__(self, location: str, tree: TreeInventory) -> None:
        self._location = location
        self._tree = tree
        self._pass: _Background[ScanReport] | None = None

    @property
    def location(self) -> str:
        """The location's name."""
        return self._location

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        """Scan for about half of `timeout` seconds, then tell what is known by then. Raises NoAnswer, within `timeout` seconds."""

        def work() -> Inventory:
            started = time.monotonic()
            self._tree.check()
            latency = time.monotonic() - started
            if self._pass is None or not self._pass.is_alive():
                self._pass = _Background(lambda: self._tree.scan(timeout * 0.5))
            report = self._report(self._pass, timeout * 0.6)
            if report is None:
                self._tree.check()  # nobody has looked since
            answer = self._tree.inventory(since)
            answer.location, answer.latency = self._location, latency
            if report is None:
                answer.pending = max(1, answer.pending)
                if answer.full:  # what came since the last look is not in it, and is not gone: all is to be told again
                    answer.full, answer.epoch = False, f"{answer.epoch}-early"
            return answer

        return self._within(timeout, work)

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        """Re-hash what was verified longest ago. Raises NoAnswer."""
        return self._within(timeout, lambda: self._tree.scrub(max_bytes, timeout * 0.8))

    def prove(self, sha256: str, timeout: float) -> float | None:
        """Hash a file of this content again; when that was, None if no file here has it now. Raises NoAnswer."""
        found = self._within(timeout, lambda: [self._tree.prove(sha256, timeout * 0.8)])
        return found[0]

    def _report(self, scan: _Background[ScanReport], timeout: float) -> ScanReport | None:
        """What the pass did; None if it goes on, or never had its turn because others scan. Raises NoAnswer."""
        try:
            return scan.result(timeout)
        except NoAnswer as refused:
            if refused.code != "timeout":
                raise
            return None

    def _within(self, timeout: float, work: Callable[[], _T]) -> _T:
        answer = _Background(work).result(timeout)
        if answer is None:
            raise NoAnswer(self._location, "timeout", f"no answer from {self._tree.root} in {timeout:g} s")
        return answer


class _Background(threading.Thread, Generic[_T]):
    """A piece of work in a thread that nobody has to wait for."""

    def __init__(self, work: Callable[[], _T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._outcome: list[_T] = []
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome.append(self._work())
        except Exception as error:
            self._error = error

    def result(self, timeout: float) -> _T | None:
        """What came of it, or None if it is still going on after `timeout` seconds. Raises what it raised."""
        self.join(timeout)
        if self._error is not None:
            raise self._error
        return self._outcome[0] if self._outcome else None


def mark_location(root: Path, name: str) -> Path:
    """Say that `root` is the location `name`; returns the sentinel file. Repeating it changes nothing.

    Raises ValueError for a name that no location can have or a place that bears another, and OSError.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise ValueError(f"not a location's name: {name!r}") from None
    told = _sentinel(root)
    if told not in (None, name):
        raise ValueError(f"{root} is marked as {told!r}; remove {SENTINEL} there to give it another name")
    sentinel = root / SENTINEL
    if told is None:
        part = root / f"{SENTINEL}.{os.getpid()}.part"
        part.write_text(f"{name}\n", encoding="utf-8")
        part.replace(sentinel)
    return sentinel


def _sentinel(root: Path) -> str | None:
    """The name in the root's sentinel file; None if there is no such file."""
    try:
        descriptor = os.open(root / SENTINEL, OPEN_FLAGS)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(200).decode("utf-8", "replace").strip()


def _disk(path: Path) -> Disk:
    place = next((each for each in (path, *path.parents) if each.exists()), path)
    status = os.statvfs(place)
    return Disk(total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize)


def _epoch(session: Session) -> str:
    return f"{session.meta('epoch')}" if session.meta("complete") else f"{session.meta('epoch')}-first"


def _told(entry: Entry) -> Iterator[FoundItem | GonePath | UntrackedFile | SourceDatabase]:
    """An entry in the words of the contract."""
    if not entry.path.isprintable():
        return  # earlier versions listed such names, which could never be told
    mtime = max(0.0, entry.mtime_ns / 1e9)
    if entry.gone:
        yield GonePath.model_validate({"path": entry.path, "reason": entry.gone})
    if entry.kind == "found":
        item = {
            "path": entry.path,
            "sha256": entry.sha256,
            "size": entry.size,
            "type": entry.type,
            "mtime": mtime,
            "verified_at": entry.verified_at,
            "damaged": entry.damaged,
            "chunks": base64.b64encode(entry.chunks).decode() if entry.chunks is not None else None,
        }
        yield FoundItem.model_validate({**orjson.loads(entry.facts), **item})
    told = orjson.loads(entry.facts) if entry.kind == "database" else {}
    if entry.kind == "database" and (told or not entry.reason):
        yield SourceDatabase(path=entry.path, size=entry.size, mtime=mtime, **told)
    if entry.kind in ("untracked", "database") and entry.reason:
        yield UntrackedFile(path=entry.path, size=entry.size, mtime=mtime, reason=entry.reason, detail=entry.detail)
