"""One pass over a directory tree: what was listed against what is remembered, and the difference written down.

Every write is a small transaction, so a pass may be killed anywhere and the next one goes on from there. Listing is `tree_walk`'s,
remembering `tree_cache`'s, live databases `tree_snapshots`' business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ringrift_dagster.manifest.inventory import Gone, ItemType
from ringrift_dagster.manifest.sources.hashing import Hashed, InFlux, hash_file, identity
from ringrift_dagster.manifest.sources.layouts import Layout, is_named_by_hash
from ringrift_dagster.manifest.sources.probe import probe
from ringrift_dagster.manifest.sources.tree_cache import Entry, Session, gone_before, tombstone
from ringrift_dagster.manifest.sources.tree_snapshots import Snapshots
from ringrift_dagster.manifest.sources.tree_walk import Listing, Seen, walk

BATCH_ENTRIES = 500
BATCH_SECONDS = 1.0
SETTLED_SECONDS = 2.5
"""A file younger than this when it was read is read once more: some file systems tell times to two seconds only."""

_MODELS = (ItemType.MODEL, ItemType.CHECKPOINT)


@dataclass
class ScanReport:
    """What a pass did. Times in seconds; `bytes` were read for hashing. `skipped` names fit no inventory."""

    listed: int = 0
    hashed: int = 0
    bytes: int = 0
    changed: int = 0
    gone: int = 0
    snapshots: int = 0
    pending: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0


class Scan:
    """One pass. `check` raises when the root is not (or no longer) there; `deadline` is on the monotonic clock."""

    def __init__(
        self,
        root: Path,
        layout: Layout,
        session: Session,
        snapshots: Snapshots,
        check: Callable[[], None],
        deadline: float | None,
    ) -> None:
        self.root = root
        self.layout = layout
        self.session = session
        self.snapshots = snapshots
        self.check = check
        self.deadline = deadline
        self.report = ScanReport()
        self.batch: list[Entry] = []
        self.settled: list[tuple[str, float]] = []
        self.flushed = time.monotonic()
        self.known: dict[str, Entry] = {}
        self.left = 0

    def run(self) -> ScanReport:
        started = time.monotonic()
        self.known = self.session.all()
        listing = walk(self.root, self.layout)
        self.check()
        self.report.listed, self.report.failed, self.report.skipped = len(listing.files), len(listing.failed), listing.skipped
        files, databases = self._sort(listing)
        vanished = self._vanished(listing)
        self._hash(files, databases, vanished)
        self._flush()
        self.report.pending += self.snapshots.run(databases, self.known, self.session, self.report, self.deadline)
        self.check()
        self._finish(listing, vanished)
        self.report.seconds = time.monotonic() - started
        return self.report

    def _sort(self, listing: Listing) -> tuple[list[Seen], list[Seen]]:
        """Write down what needs no reading; returns files to hash and live databases."""
        files, databases = [], []
        for seen in listing.files.values():
            name = seen.path.rpartition("/")[2]
            finished = seen.rule.live and is_named_by_hash(name)
            if seen.set_aside:
                self._untracked(seen, "set_aside")
            elif seen.rule.live and not finished:
                databases.append(seen)
            elif seen.size == 0:
                self._untracked(seen, "empty", "zero bytes")
            elif seen.rule.type == ItemType.GAME_DB and not seen.rule.live and seen.log_bytes:
                self._untracked(seen, "live_database", f"a log of {seen.log_bytes} bytes stands beside it")
            elif not self._is_unchanged(seen):
                if finished and self._is_live_after_all(seen):
                    databases.append(seen)
                else:
                    files.append(seen)
        for path, why in listing.unsafe.items():
            self._untracked_at(path, "unsafe_link", why)
        for folder, why in listing.failed.items():
            path = folder.rstrip("/")
            if path and (path not in self.known or self.known[path].kind in ("untracked", "gone")):
                self._untracked_at(path, "unreadable", f"cannot be listed: {why}")
        return files, databases

    def _is_unchanged(self, seen: Seen) -> bool:
        known = self.known.get(seen.path)
        if known is None or not _same(known, seen):
            return False
        if known.kind == "found":
            return known.settled and (known.type not in _MODELS or known.stamp == seen.stamp) and known.type == seen.rule.type
        return known.kind == "untracked" and known.settled and known.sha256 is not None

    def _is_live_after_all(self, seen: Seen) -> bool:
        """Whether it is remembered that the content is not what the name says."""
        known = self.known.get(seen.path)
        return known is not None and known.kind == "database"

    def _vanished(self, listing: Listing) -> dict[str, Entry]:
        there = listing.files.keys() | listing.unsafe.keys() | {path.rstrip("/") for path in listing.failed}
        return {
            path: entry
            for path, entry in self.known.items()
            if entry.kind != "gone" and path not in there and not self.snapshots.owns(path) and not listing.is_unknown(path)
        }

    def _hash(self, files: list[Seen], databases: list[Seen], vanished: dict[str, Entry]) -> None:
        """Read what is new, the small first; what does not get its turn is pending."""
        moved = {(entry.inode, entry.size, entry.mtime_ns): entry for entry in vanished.values() if entry.kind == "found"}
        self.left = len(files)
        if files:
            with self.session.transaction():
                self.session.set_meta("pending", self.left)
        for index, seen in enumerate(sorted(files, key=lambda each: (each.size, each.path))):
            if self.deadline is not None and time.monotonic() >= self.deadline and index:
                known = self.known.get(seen.path)
                if (known is None or known.kind != "found" or not _same(known, seen)) and not self._was_adopted(seen):
                    self._untracked(seen, "pending")
                    self.report.pending += 1
                continue
            self.left -= 1
            if self._was_adopted(seen):
                continue
            try:
                self._take(seen, moved.get((seen.inode, seen.size, seen.mtime_ns)), databases)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went meanwhile; the next pass sees that
            except InFlux:
                self._untracked(seen, "in_flux", "changed while it was read")
            except OSError as error:
                self._untracked(seen, "unreadable", error.strerror or str(error))

    def _was_adopted(self, seen: Seen) -> bool:
        """Whether it was published here since the pass began, and is known by that."""
        known, now = self.known.get(seen.path), self.session.get(seen.path)
        entered = now is not None and now.kind == "found" and (known is None or known.sequence != now.sequence)
        return entered and now is not None and _same(now, seen) and now.type == seen.rule.type

    def _take(self, seen: Seen, moved: Entry | None, databases: list[Seen]) -> None:
        known = self.known.get(seen.path)
        now = time.time()
        same = known is not None and known.kind == "found" and _same(known, seen) and known.type == seen.rule.type
        if same and known is not None and known.settled:
            # Only what stands beside a model changed; the remembered row has no chunk table with it.
            stored = self.session.get(seen.path)
            if stored is not None:
                self._record(seen, _hashed(stored), None, stored.verified_at or now, settled=True)
            return
        if moved is not None and moved.settled and (stored := self.session.get(moved.path)) is not None:
            self._record(seen, _hashed(stored), stored, stored.verified_at or now, settled=True)
            return
        hashed = hash_file(seen.real)
        self.report.hashed += 1
        self.report.bytes += hashed.size
        if seen.rule.live and seen.path.rpartition("/")[2] != f"{hashed.sha256}.db":
            databases.append(seen)
            return
        settled = now - hashed.mtime_ns / 1e9 > SETTLED_SECONDS
        if same and known is not None and known.sha256 == hashed.sha256:
            self.settled.append((seen.path, now))
            return
        self._record(seen, hashed, None, now, settled=settled)

    def _record(self, seen: Seen, hashed: Hashed, moved: Entry | None, verified_at: float, *, settled: bool) -> None:
        """Look into a hashed file and write down what it is."""
        kept = moved is not None and moved.type == seen.rule.type and moved.type in (ItemType.NPZ, ItemType.CANONICAL_GAMES)
        if kept and moved is not None:
            told = moved.facts
        else:
            facts = probe(Path(seen.real), seen.rule.type, seen.path, sha256=hashed.sha256)
            status = os.stat(seen.real, follow_symlinks=False)  # noqa: PTH116
            if identity(status) != (hashed.size, hashed.mtime_ns, hashed.inode):
                raise InFlux(seen.real)
            if facts.problem:
                self._untracked(
                    seen, *facts.problem, settled=settled, sha256=None if facts.problem[0] == "in_flux" else hashed.sha256
                )
                return
            told = facts.to_json()
        self._put(
            Entry(
                seen.path,
                "found",
                hashed.size,
                hashed.mtime_ns,
                hashed.inode,
                seen.stamp,
                seen.rule.type,
                hashed.sha256,
                told,
                hashed.chunks,
                verified_at,
                settled,
            )
        )

    def _untracked(
        self, seen: Seen, reason: str, detail: str | None = None, *, settled: bool = True, sha256: str | None = None
    ) -> None:
        """Write down why a file is no item. With `sha256` it was read, and is not read again until it changes."""
        known = self.known.get(seen.path)
        detail = detail and detail[:300]
        same = known is not None and known.kind == "untracked" and _same(known, seen)
        if same and known is not None and (known.reason, known.detail, known.sha256) == (reason, detail, sha256):
            if settled and not known.settled:
                self.settled.append((seen.path, time.time()))
            return
        self._put(
            Entry(
                seen.path,
                "untracked",
                seen.size,
                seen.mtime_ns,
                seen.inode,
                seen.stamp,
                sha256=sha256,
                settled=settled,
                reason=reason,
                detail=detail,
                gone=gone_before(known),
            )
        )

    def _untracked_at(self, path: str, reason: str, detail: str) -> None:
        known = self.known.get(path)
        if known is None or (known.kind, known.reason, known.detail) != ("untracked", reason, detail[:300]):
            self._put(Entry(path, "untracked", reason=reason, detail=detail[:300], gone=gone_before(known)))

    def _put(self, entry: Entry) -> None:
        self.batch.append(entry)
        self.report.changed += 1
        if len(self.batch) >= BATCH_ENTRIES or time.monotonic() - self.flushed > BATCH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self.batch or self.settled:
            with self.session.transaction():
                self.session.set_meta("pending", max(0, self.left))
                self.session.write(self.batch)
                for path, at in self.settled:
                    self.session.settle(path, at)
            self.batch.clear()
            self.settled.clear()
        self.flushed = time.monotonic()

    def _why_gone(self, path: str) -> Gone:
        rule = self.layout.rule(path)
        return Gone.SUPERSEDED if rule is not None and rule.retired else Gone.VANISHED

    def _finish(self, listing: Listing, vanished: dict[str, Entry]) -> None:
        """Say what is gone, last: what was renamed is then known under its new name first."""
        with self.session.transaction():
            tombstones = [
                tombstone(entry, self._why_gone(entry.path))
                for entry in vanished.values()
                if (now := self.session.get(entry.path)) is None or now.sequence == entry.sequence  # else it came back meanwhile
            ]
            self.session.write(tombstones)
            self.session.forget_oldest_gone()
            self.session.set_meta("scanned_at", time.time())
            self.session.set_meta("pending", self.report.pending)
            if not listing.failed and not self.report.pending:
                self.session.set_meta("complete", 1)
        self.report.gone += len(tombstones)


def _same(known: Entry, seen: Seen) -> bool:
    return (known.size, known.mtime_ns, known.inode) == (seen.size, seen.mtime_ns, seen.inode)


def _hashed(entry: Entry) -> Hashed:
    return Hashed(entry.sha256 or "", entry.chunks or b"", entry.size, entry.mtime_ns, entry.inode)
