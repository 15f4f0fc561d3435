"""Snapshots of a tree's live databases: when one is taken, what it replaces, and where there is no room for it.

A snapshot gives way only to one of the same source that holds all its games. The copying itself is `games.snapshots`' business.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ringrift_dagster.games.database import DatabaseUnreadable
from ringrift_dagster.games.snapshots import snapshot
from ringrift_dagster.manifest.inventory import Gone, ItemType
from ringrift_dagster.manifest.sources.hashing import InFlux, hash_file, identity
from ringrift_dagster.manifest.sources.layouts import is_named_by_hash
from ringrift_dagster.manifest.sources.probe import holds_all_games, probe
from ringrift_dagster.manifest.sources.tree_cache import Entry, Session, gone_before, tombstone
from ringrift_dagster.manifest.sources.tree_walk import Seen

STAGING_PREFIX = ".snapshot-"
SOURCE_SUFFIX = ".source"
"""Beside a snapshot: the path of its source, for the case that the cache is lost."""


@dataclass
class Snapshots:
    """The snapshots of one tree, in `folder`; its inventory names them `prefix`/`<sha256>.db`.

    `interval`: seconds between two snapshots of one database at least. A retired snapshot is still served for as long, so that a
    transfer that began can end. `min_free_bytes` always stay free.
    """

    folder: Path
    prefix: str
    interval: float
    min_free_bytes: int
    free_bytes: Callable[[], int]

    def owns(self, path: str) -> bool:
        return path.startswith(self.prefix + "/")

    def file(self, path: str) -> Path:
        """Where a snapshot lies."""
        return self.folder / path.rpartition("/")[2]

    def run(self, databases: list[Seen], known: dict[str, Entry], session: Session, report: Any, deadline: float | None) -> int:
        """Bring snapshots up to date; returns how many databases have to wait for the next pass."""
        self._reconcile(known, session, report)
        pending = tried = 0
        for seen in sorted(databases, key=lambda each: _taken_at(known.get(each.path))):
            if not self._is_due(seen, known.get(seen.path)):
                continue
            if tried and deadline is not None and time.monotonic() >= deadline:
                pending += 1
                continue
            tried += 1
            entries = self._take(seen, known, report)
            with session.transaction():
                session.write(entries)
            known.update((entry.path, entry) for entry in entries)
            report.changed += len(entries)
        self._sweep(known)
        return pending

    def _is_due(self, seen: Seen, known: Entry | None) -> bool:
        if known is None or known.kind != "database" or known.at is None:
            return True
        since = time.time() - known.at
        over = since >= self.interval or since < 0
        return over and (known.stamp != _stamp(seen) or known.reason is not None)

    def _take(self, seen: Seen, known: dict[str, Entry], report: Any) -> list[Entry]:
        """What to write down after trying to take a snapshot of one database."""
        before = known.get(seen.path)
        if seen.size == 0 and not seen.log_bytes:
            return self._without(seen, before, "empty", "zero bytes")
        needed = seen.size + seen.log_bytes + self.min_free_bytes
        if self.free_bytes() < needed:
            self._sweep(known, all_retired=True)
        if self.free_bytes() < needed:
            return self._without(seen, before, "no_room", f"{self.free_bytes()} bytes are free, {needed} are needed")
        try:
            taken = snapshot(Path(seen.real), self.folder)
            Path(f"{taken.path}{SOURCE_SUFFIX}").write_text(seen.path, encoding="utf-8")
            hashed = hash_file(str(taken.path))
            if hashed.sha256 != taken.sha256:
                raise InFlux(str(taken.path))
        except DatabaseUnreadable as error:
            return self._without(seen, before, "unreadable", error.detail)
        except InFlux:
            return self._without(seen, before, "in_flux", "its snapshot changed")
        except OSError as error:
            no_room = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return self._without(seen, before, "no_room" if no_room else "unreadable", error.strerror or str(error))
        report.snapshots += 1
        report.hashed += 1
        report.bytes += hashed.size
        path = f"{self.prefix}/{hashed.sha256}.db"
        facts = probe(taken.path, ItemType.GAME_DB, seen.path, sha256=hashed.sha256)
        if facts.problem:
            if path not in known:
                self._remove(path)
            return self._without(seen, before, *facts.problem)
        told = {"games": facts.counts, "newest_game": facts.newest_game, "snapshot": hashed.sha256}
        database = _database(seen, before, told)
        there = known.get(path)
        unchanged = there is not None and (there.mtime_ns, there.inode) == (hashed.mtime_ns, hashed.inode)
        if there is not None and unchanged and there.kind == "found" and not there.damaged:
            return [database, *self._superseded(seen.path, path, known)]
        item = Entry(
            path,
            "found",
            hashed.size,
            hashed.mtime_ns,
            hashed.inode,
            type=ItemType.GAME_DB,
            sha256=hashed.sha256,
            facts=replace(facts, provenance={"source": seen.path[:500], **facts.provenance}).to_json(),
            chunks=hashed.chunks,
            verified_at=time.time(),
            source=seen.path,
            at=time.time(),
        )
        return [item, database, *self._superseded(seen.path, path, known)]

    def _superseded(self, source: str, newest: str, known: dict[str, Entry]) -> Iterable[Entry]:
        """Older snapshots of a source of which every game is in the newest, and which no other database stands for."""
        needed = {
            orjson.loads(entry.facts).get("snapshot")
            for entry in known.values()
            if entry.kind == "database" and entry.path != source
        }
        for entry in known.values():
            older = entry.source == source and entry.kind == "found" and self.owns(entry.path) and entry.path != newest
            if older and entry.sha256 not in needed and holds_all_games(self.file(newest), self.file(entry.path)):
                yield replace(entry, kind="gone", gone=Gone.SUPERSEDED, at=time.time(), chunks=None)

    def _without(self, seen: Seen, before: Entry | None, reason: str, detail: str) -> list[Entry]:
        """The database as it stands, when there is no new snapshot of it."""
        was = before is not None and before.kind == "database"
        if (
            was
            and before is not None
            and before.reason == reason
            and before.stamp == _stamp(seen)
            and before.detail == detail[:300]
        ):
            return []
        told = orjson.loads(before.facts) if was and before is not None else {}
        return [_database(seen, before, told, reason, detail[:300])]

    def _reconcile(self, known: dict[str, Entry], session: Session, report: Any) -> None:
        """Compare the folder with what is remembered of it: adopt what is there, bury what is not."""
        there = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder) as files:
            for file in files:
                if file.name.startswith(STAGING_PREFIX):
                    shutil.rmtree(file.path, ignore_errors=True)  # of a pass that was killed
                if is_named_by_hash(file.name) and file.is_file(follow_symlinks=False):
                    there[f"{self.prefix}/{file.name}"] = file.stat(follow_symlinks=False)
        changed = []
        for path, entry in list(known.items()):
            if self.owns(path) and entry.kind in ("found", "untracked") and path not in there:
                changed.append(tombstone(entry, Gone.VANISHED))
        for path, status in there.items():
            entry = known.get(path)
            unknown = entry is None or (entry.kind == "gone" and entry.gone != Gone.SUPERSEDED)
            altered = entry is not None and entry.kind != "gone" and (entry.size, entry.mtime_ns, entry.inode) != identity(status)
            if unknown or altered:
                changed += self._adopt(path, entry)
        if changed:
            with session.transaction():
                session.write(changed)
            known.update((entry.path, entry) for entry in changed)
            report.changed += len(changed)

    def _adopt(self, path: str, before: Entry | None) -> list[Entry]:
        file = self.file(path)
        try:
            hashed = hash_file(str(file))
        except (OSError, InFlux):
            return []
        source = self._source_of(file) or (before.source if before else None)
        facts = probe(file, ItemType.GAME_DB, source or path, sha256=hashed.sha256)
        problem = facts.problem or (("unreadable", "not what its name says") if file.stem != hashed.sha256 else None)
        entry = Entry(path, "untracked", hashed.size, hashed.mtime_ns, hashed.inode, source=source)
        if problem:
            return [replace(entry, reason=problem[0], detail=problem[1], gone=gone_before(before))]
        told = replace(facts, provenance={**({"source": source[:500]} if source else {}), **facts.provenance}).to_json()
        return [
            replace(
                entry,
                kind="found",
                type=ItemType.GAME_DB,
                sha256=hashed.sha256,
                facts=told,
                chunks=hashed.chunks,
                verified_at=time.time(),
                at=time.time(),
            )
        ]

    def _source_of(self, file: Path) -> str | None:
        try:
            with Path(f"{file}{SOURCE_SUFFIX}").open(encoding="utf-8") as beside:
                return beside.read(1024) or None
        except (OSError, ValueError):
            return None

    def _sweep(self, known: dict[str, Entry], *, all_retired: bool = False) -> None:
        """Delete retired snapshots that nobody can be in the middle of fetching any more."""
        now = time.time()
        for path, entry in known.items():
            retired = entry.kind == "gone" and entry.gone == Gone.SUPERSEDED and entry.at is not None
            if retired and self.owns(path) and (all_retired or not 0 <= now - (entry.at or 0) < self.interval):
                self._remove(path)

    def _remove(self, path: str) -> None:
        file = self.file(path)
        for each in (file, Path(f"{file}{SOURCE_SUFFIX}")):
            with suppress(OSError):
                each.unlink()


def _stamp(seen: Seen) -> str:
    return f"{seen.size}:{seen.mtime_ns}:{seen.inode} {seen.stamp}"


def _taken_at(known: Entry | None) -> float:
    return known.at or 0.0 if known is not None else 0.0


def _database(
    seen: Seen, before: Entry | None, told: dict[str, Any], reason: str | None = None, detail: str | None = None
) -> Entry:
    gone = None
    if before is not None:
        gone = before.gone or (Gone.REPLACED if before.kind in ("found", "untracked") or before.reason else None)
    return Entry(
        seen.path,
        "database",
        seen.size,
        seen.mtime_ns,
        seen.inode,
        _stamp(seen),
        facts=orjson.dumps({key: value for key, value in told.items() if value is not None}).decode(),
        reason=reason,
        detail=detail,
        gone=gone,
        at=time.time(),
    )
