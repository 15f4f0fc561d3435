"""Taking an inventory into the manifest: one transaction an answer, with only what changed written.

Decides what is missing (manifest before, the answer, manifest after) and when so much is missing that a person has to say so.
Whether a location is alive is `liveness`' business; what a loss means for the cluster that of `orphans`.
"""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.manifest import orphans
from ringrift_dagster.manifest.holdings import Counted, Holdings
from ringrift_dagster.manifest.inventory import FoundItem, Gone, Inventory, Soundness
from ringrift_dagster.manifest.schema import (
    chunk_tables,
    items,
    locations,
    replicas,
    source_databases,
    untracked,
)
from ringrift_dagster.manifest.states import ARCHIVED, CONTRADICTED, HELD, ReplicaState
from ringrift_dagster.manifest.store import Store, Writer, in_batches, upsert

BRAKE_SHARE = 0.01
"""More than this share of a location missing at once stops and asks."""
BRAKE_FLOOR = 5
"""So few are never a share; but everything at once always is."""
_FACTS = ("config", "games", "samples", "quality", "newest_game", "elo")
_CONFIG, _NEWEST = _FACTS.index("config"), _FACTS.index("newest_game")
_GAMES, _SAMPLES, _QUALITY, _ELO = 1, 2, 4, 8
_LACKS = (
    sa.case((items.c.games.is_(None), _GAMES), else_=0)
    + sa.case((items.c.samples.is_(None), _SAMPLES), else_=0)
    + sa.case((items.c.quality.is_(None), _QUALITY), else_=0)
    + sa.case((items.c.elo.is_(None), _ELO), else_=0)
)
"""Which of an item's facts nobody knew, beyond those that are in `Counted`."""
_FILLED = (*_FACTS, "provenance", "soundness", "reason")
_NOTHING = (None, Soundness.UNKNOWN)
_FILL = (
    sa.update(items)
    .where(items.c.id == sa.bindparam("item"))
    .values(
        {name: sa.func.coalesce(items.c[name], sa.bindparam(name)) for name in (*_FACTS, "provenance")}
        | {
            name: sa.case(
                (items.c.soundness == sa.literal_column(f"'{Soundness.UNKNOWN}'"), sa.bindparam(name)), else_=items.c[name]
            )
            for name in ("soundness", "reason")
        }
    )
)
"""What nobody knew becomes known; what is known stays. Takes `item` and the _FILLED: any other column given would be set too."""
STORAGE_CLASS = "storage_class"
ARCHIVED_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Not readable on demand: such a copy is no source, but it is a copy."""
_COUNTED = ("restored", "replaced", "lost", "superseded", "damaged", "held", "contradicted")
_DISTRUSTED = (ReplicaState.BAD, ReplicaState.SUSPICIOUS)
EXAMPLES = 20
"""Paths named in a change; the rest are counted."""


@dataclass
class Merged:
    """What an inventory changed, in replicas. `held` are missing ones that a brake keeps from being LOST."""

    added: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    """By type and config."""
    restored: int = 0
    replaced: int = 0
    lost: int = 0
    superseded: int = 0
    damaged: int = 0
    held: int = 0
    contradicted: int = 0
    untracked: int = 0
    lost_items: set[int] = field(default_factory=set)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __bool__(self) -> bool:
        return bool(self.added) or any(getattr(self, name) for name in _COUNTED)

    def detail(self) -> dict[str, Any]:
        """For the change that tells of it."""
        counts = {name: getattr(self, name) for name in _COUNTED if getattr(self, name)}
        added = {f"{kind} {config or '-'}": count for (kind, config), count in sorted(self.added.items(), key=str)}
        return {**counts, **({"added": added} if added else {}), "examples": dict(self.examples)}


def merge(store: Store, inventory: Inventory, *, before: int, at: float) -> Merged:
    """Take in an answer that was asked for when the manifest stood at revision `before`; `at` is now.

    What others wrote since `before` stands: the answer may be older than that. Raises KeyError if the location is not registered.
    """
    with store.writing() as writer:
        return _Merge(writer, inventory, before, at).run()


class _Merge:
    """One merge; collects rows to write, then writes each table once."""

    def __init__(self, writer: Writer, inventory: Inventory, before: int, at: float) -> None:
        self.writer = writer
        self.connection: Connection = writer.connection
        self.inventory = inventory
        self.before = before
        self.at = at
        place = self.connection.execute(sa.select(locations).where(locations.c.name == inventory.location)).one_or_none()
        if place is None:
            raise KeyError(inventory.location)
        self.place = place
        self.merged = Merged()
        self.overtaken = False
        self.held = 0
        self.facts: dict[int, Counted] = {}
        self.lacks: dict[int, int] = {}
        self.elsewhere: set[int] = set()
        self.written: list[dict[str, Any]] = []
        self.dropped: list[dict[str, Any]] = []
        self.holdings = Holdings()
        self.unhashed = {entry.path: entry.size for entry in inventory.untracked if entry.reason in ("pending", "no_hash")}

    def run(self) -> Merged:
        found = {entry.path: entry for entry in self.inventory.found}
        gone = {entry.path: entry.reason for entry in self.inventory.gone if entry.path not in found}
        paths = None if self.inventory.full else [*found, *gone]
        known = self._known(paths)
        fresh = [entry for path, entry in found.items() if self._is_news(entry, known.get(path, ()))]
        items_known = self._items({bytes.fromhex(entry.sha256) for entry in fresh})
        if self._correct_sizes(fresh, items_known[0]):
            known, items_known = self._known(paths), self._items(items_known[0])
        ids = self._take_in_items(fresh, *items_known)
        for entry in fresh:
            self._place(entry, ids, known.get(entry.path, ()))
        if self.inventory.full:
            gone = {
                path: gone.get(path, Gone.VANISHED) for path in known if path not in found and not self._waits(path, known[path])
            }
        self._remove(gone, known)
        self._write_replicas()
        self.holdings.write(self.writer)
        self._write_untracked(found, gone)
        self._write_databases(gone)
        self._write_place()
        if self.merged.lost_items:
            orphans.detect_lost(self.writer, self.merged.lost_items, self.place.id, self.inventory.location, at=self.at)
        if self.merged.added or self.merged.restored:
            orphans.resolve(self.writer, {row["item_id"] for row in self.written}, at=self.at)
        if self.merged:
            self.writer.note(self.at, "REPLICAS_CHANGED", self.inventory.location, **self.merged.detail())
        return self.merged

    def _known(self, paths: Sequence[str] | None) -> dict[str, list[Counted]]:
        """The replicas of this location, all of them or those at certain paths."""
        columns = (
            replicas.c.item_id, replicas.c.path, replicas.c.state, replicas.c.reason, replicas.c.mtime, replicas.c.verified_at,
            replicas.c.revision, items.c.sha256, items.c.type, items.c.config, items.c.size, items.c.soundness, items.c.newest_game,
            _LACKS,
        )  # fmt: skip
        query = sa.select(*columns).join_from(replicas, items).where(replicas.c.location_id == self.place.id)
        known: dict[str, list[Counted]] = defaultdict(list)
        batches = [None] if paths is None else in_batches(paths)
        for batch in batches:
            for row in self.writer.rows(query if batch is None else query.where(replicas.c.path.in_(batch))):
                known[row[1]].append(Counted._make(row[:-1]))
                self.lacks[row[0]] = row[-1]
        return known

    def _is_news(self, entry: FoundItem, rows: Iterable[Counted]) -> bool:
        """Whether the manifest does not say all of it already."""
        digest = bytes.fromhex(entry.sha256)
        for row in rows:
            if row.sha256 == digest:
                return (
                    row.state != _told_state(entry)[0]
                    or row.reason == HELD
                    or row.mtime != entry.mtime
                    or (row.verified_at or 0) < (entry.verified_at or 0)
                    or (row.newest_game is None and entry.newest_game is not None)
                    or (row.config is None and entry.config is not None)
                    or (row.soundness == Soundness.UNKNOWN and entry.soundness != Soundness.UNKNOWN)
                    or _tells(entry, self.lacks[row.item_id])
                )
        return True

    def _waits(self, path: str, rows: Iterable[Counted]) -> bool:
        """Whether what stood at a path is still there as far as anybody can tell: the source has only not hashed it yet."""
        return any(row.size == self.unhashed.get(path) for row in rows)

    def _correct_sizes(self, entries: Iterable[FoundItem], known: Mapping[bytes, Counted]) -> bool:
        """Believe a verified copy, rather than those that gave an item its size and were never read; returns whether any was.

        What the others told of the content was told of other bytes: all of it gives way, and none of them is a source any more.
        """
        verified: dict[int, tuple[Counted, FoundItem]] = {}
        for entry in entries:
            item = known.get(bytes.fromhex(entry.sha256))
            if item is not None and item.size != entry.size and entry.verified_at is not None and not entry.damaged:
                verified[item.item_id] = (item, entry)
        for batch in in_batches(list(verified)):
            proven = sa.select(replicas.c.item_id).where(
                replicas.c.item_id.in_(batch),
                replicas.c.verified_at.is_not(None),
                replicas.c.state.not_in((ReplicaState.BAD, ReplicaState.LOST)),
                sa.func.coalesce(replicas.c.reason, "") != CONTRADICTED,
            )
            for item_id in self.connection.execute(proven).scalars():
                verified.pop(item_id, None)
        for item, entry in verified.values():
            self._correct_size(item, entry)
        return bool(verified)

    def _correct_size(self, item: Counted, entry: FoundItem) -> None:
        believed = (replicas.c.item_id == item.item_id, replicas.c.state == ReplicaState.AVAILABLE)
        for copy in self.connection.execute(sa.select(replicas).where(*believed)).all():
            self.holdings.remove(copy.location_id, item._replace(mtime=copy.mtime, verified_at=copy.verified_at))
            self.elsewhere.add(copy.location_id)
            self.merged.contradicted += 1
        here = replicas.c.location_id == self.place.id  # of which this answer is the latest word
        doubted = {
            "state": ReplicaState.SUSPICIOUS,
            "reason": CONTRADICTED,
            "revision": sa.case((here, replicas.c.revision), else_=self.writer.revision),
        }
        self.connection.execute(sa.update(replicas).where(*believed).values(doubted))
        self.connection.execute(sa.delete(chunk_tables).where(chunk_tables.c.item_id == item.item_id))
        told = {name: value for name, value in self._item_row(item.sha256, entry).items() if name not in ("sha256", "first_seen")}
        self.connection.execute(sa.update(items).where(items.c.id == item.item_id).values(told))
        self.merged.lost_items.add(item.item_id)

    def _take_in_items(
        self, entries: Sequence[FoundItem], known: dict[bytes, Counted], lacking: Mapping[bytes, Sequence[str]]
    ) -> dict[bytes, Counted]:
        """Make sure that every item is there, filling in what nobody knew; returns them by hash, as items only."""
        told = [(bytes.fromhex(entry.sha256), entry) for entry in entries]
        unique = dict(told)
        fill = []
        for digest, entry in told:
            tells = any(getattr(entry, name) not in _NOTHING for name in lacking.get(digest, ()))
            if tells and known[digest].size == entry.size:
                row = self._item_row(digest, entry)
                fill.append({"item": known[digest].item_id, **{name: row[name] for name in _FILLED}})
        self.writer.many(_FILL, fill)
        if fill:
            before = known
            known, _ = self._items(unique)
            self._refile(before, known)
        news = [digest for digest in unique if digest not in known]
        # Whoever writes is alone, so numbers can be given here, and need not be asked for afterwards.
        first = self.connection.execute(sa.select(sa.func.coalesce(sa.func.max(items.c.id), 0))).scalar_one() + 1 if news else 0
        rows = [{"id": number, **self._item_row(digest, unique[digest])} for number, digest in enumerate(news, first)]
        self.writer.many(sa.insert(items), rows)
        for row in rows:
            known[row["sha256"]] = Counted(
                row["id"], "", "", None, None, None, 0, row["sha256"], row["type"], row["config"], row["size"], row["soundness"],
                row["newest_game"],
            )  # fmt: skip
        self.facts = {row.item_id: row for row in known.values()}
        tables = [
            {"item_id": known[digest].item_id, "digests": base64.b64decode(entry.chunks)}
            for digest, entry in unique.items()
            if entry.chunks is not None and known[digest].size == entry.size
        ]
        self.writer.many(upsert(self.connection, chunk_tables).on_conflict_do_nothing(), tables)
        return known

    def _items(self, digests: Iterable[bytes]) -> tuple[dict[bytes, Counted], dict[bytes, list[str]]]:
        """The items that are known already, and which of their facts are not."""
        columns = (items.c.id, items.c.sha256, items.c.type, items.c.size, items.c.soundness, *(items.c[name] for name in _FACTS))
        known, lacking = {}, {}
        for batch in in_batches(list(digests)):
            for id_, sha256, kind, size, soundness, *facts in self.writer.rows(
                sa.select(*columns).where(items.c.sha256.in_(batch))
            ):
                config, newest = facts[_CONFIG], facts[_NEWEST]
                known[sha256] = Counted(id_, "", "", None, None, None, 0, sha256, kind, config, size, soundness, newest)
                missing = [name for name, value in zip(_FACTS, facts, strict=True) if value is None] if None in facts else []
                if soundness == Soundness.UNKNOWN:
                    missing.append("soundness")
                if missing:
                    lacking[sha256] = missing
        return known, lacking

    def _item_row(self, digest: bytes, entry: FoundItem) -> dict[str, Any]:
        return {
            "sha256": digest,
            "type": entry.type.value,
            "config": entry.config,
            "size": entry.size,
            "games": entry.games,
            "samples": entry.samples,
            "quality": entry.quality,
            "newest_game": entry.newest_game,
            "elo": entry.elo,
            "soundness": entry.soundness.value,
            "reason": entry.reason,
            "provenance": _item_provenance(entry),
            "first_seen": self.at,
        }

    def _refile(self, before: Mapping[bytes, Counted], after: Mapping[bytes, Counted]) -> None:
        """Move what is counted at any location when an item's facts became known."""
        changed = {
            row.item_id: (old, row)
            for digest, old in before.items()
            if (row := after[digest])[9:] != old[9:]  # config, size, soundness, newest game
        }
        for batch in in_batches(list(changed)):
            for replica in self.connection.execute(
                sa.select(replicas).where(replicas.c.item_id.in_(batch), replicas.c.state == ReplicaState.AVAILABLE)
            ):
                old, new = (row._replace(mtime=replica.mtime, verified_at=replica.verified_at) for row in changed[replica.item_id])
                self.holdings.remove(replica.location_id, old)
                self.holdings.add(replica.location_id, new)

    def _place(self, entry: FoundItem, ids: Mapping[bytes, Counted], rows: Iterable[Counted]) -> None:
        """Say that the content stands at its path, and that what stood there does not."""
        item = ids[bytes.fromhex(entry.sha256)]._replace(path=entry.path, mtime=entry.mtime, verified_at=entry.verified_at)
        here = None
        for row in rows:
            if row.revision > self.before:
                self.overtaken = True
                return
            if row.item_id == item.item_id:
                here = row
            elif row.state not in (ReplicaState.LOST, ReplicaState.COPYING):
                self._leave(row, Gone.REPLACED)
        state, reason = _told_state(entry)
        if item.size != entry.size:
            if here and _contradicted_before(here, entry):
                return
            state, reason = ReplicaState.SUSPICIOUS, CONTRADICTED
            self.merged.contradicted += 1
        elif here and state == ReplicaState.AVAILABLE and _still_distrusted(here, entry):
            state, reason = ReplicaState(here.state), here.reason
        if state == ReplicaState.BAD and (here is None or here.state != ReplicaState.BAD):
            self.merged.damaged += 1
            self.merged.lost_items.add(item.item_id)
            self._example("damaged", entry.path)
        self._count(here, item, state)
        self.written.append(self._replica(item, state, reason))

    def _count(self, here: Counted | None, item: Counted, state: ReplicaState) -> None:
        """Keep counters and story: from what stood here to what does."""
        was = here is not None and here.state == ReplicaState.AVAILABLE
        if here is not None and here.reason == HELD:
            self.held -= 1
        if was and here is not None:
            self._uncount(here)
        if state == ReplicaState.AVAILABLE:
            self.holdings.add(self.place.id, item)
            if here is None:
                self.merged.added[item.type, item.config] += 1
                self._example("added", item.path)
            elif not was:
                self._restored(item.path)
        elif state == ReplicaState.UNAVAILABLE and here is not None and here.reason == HELD:
            self._restored(item.path)

    def _restored(self, path: str) -> None:
        self.merged.restored += 1
        self._example("restored", path)

    def _remove(self, paths: Mapping[str, Gone], known: Mapping[str, Sequence[Counted]]) -> None:
        """Take away what the source says is gone, or hold it if that is too much to believe."""
        missing = []
        for path, reason in paths.items():
            for row in known.get(path, ()):
                if row.revision > self.before:
                    self.overtaken = True
                elif row.state in (ReplicaState.LOST, ReplicaState.COPYING) or row.reason == HELD:
                    continue
                elif reason == Gone.VANISHED:
                    missing.append(row)
                else:
                    self._leave(row, reason)
        if missing and self._brakes(len(missing)):
            for row in missing:
                self._hold(row)
        else:
            for row in missing:
                self._leave(row, Gone.VANISHED)

    def _brakes(self, missing: int) -> bool:
        held = self.place.held + self.held
        there = self.place.replicas + held
        return held > 0 or missing > max(BRAKE_FLOOR, BRAKE_SHARE * there) or (missing >= there > 1)

    def _hold(self, row: Counted) -> None:
        self.held += 1
        self.merged.held += 1
        self._example("held", row.path)
        if row.state == ReplicaState.AVAILABLE:  # what could not be read before is told of already
            self.merged.lost_items.add(row.item_id)
        self._uncount(row)
        self.written.append(self._replica(row, ReplicaState.UNAVAILABLE, HELD))

    def _leave(self, row: Counted, reason: Gone) -> None:
        """A copy that is gone: kept as LOST, except a snapshot that its source retired."""
        self._uncount(row)
        if row.reason == HELD:
            self.held -= 1
        if reason == Gone.SUPERSEDED:
            self.merged.superseded += 1
            self.dropped.append({"i": row.item_id, "l": self.place.id, "p": row.path})
            return
        if reason == Gone.VANISHED:
            self.merged.lost += 1
            self.merged.lost_items.add(row.item_id)
            self._example("lost", row.path)
        else:
            self.merged.replaced += 1
            self._example("replaced", row.path)
        self.written.append(self._replica(row, ReplicaState.LOST, reason.value))

    def _uncount(self, row: Counted) -> None:
        """Take it from the counters, under the facts by which it stands there now."""
        if row.state == ReplicaState.AVAILABLE:
            item = self.facts.get(row.item_id, row)
            now = row._replace(config=item.config, soundness=item.soundness, newest_game=item.newest_game)
            self.holdings.remove(self.place.id, now)

    def _replica(self, row: Counted, state: ReplicaState, reason: str | None) -> dict[str, Any]:
        return {
            "item_id": row.item_id,
            "location_id": self.place.id,
            "path": row.path,
            "state": state.value,
            "reason": reason,
            "mtime": row.mtime,
            "verified_at": row.verified_at,
            "revision": self.writer.revision,
        }

    def _example(self, what: str, path: str) -> None:
        examples = self.merged.examples[what]
        if len(examples) < EXAMPLES:
            examples.append(path)

    def _write_replicas(self) -> None:
        insert = upsert(self.connection, replicas)
        changed = {name: insert.excluded[name] for name in ("state", "reason", "mtime", "verified_at", "revision")}
        keys = ["item_id", "location_id", "path"]
        self.writer.many(insert.on_conflict_do_update(index_elements=keys, set_=changed), self.written)
        bound = (
            replicas.c.item_id == sa.bindparam("i"),
            replicas.c.location_id == sa.bindparam("l"),
            replicas.c.path == sa.bindparam("p"),
        )
        self.writer.many(sa.delete(replicas).where(*bound), self.dropped)

    def _write_untracked(self, found: Mapping[str, FoundItem], gone: Mapping[str, Gone]) -> None:
        here = untracked.c.location_id == self.place.id
        known = dict(self.connection.execute(sa.select(untracked.c.path, untracked.c.reason).where(here)).all())
        listed = {entry.path: entry for entry in self.inventory.untracked}
        over = [path for path in known if path in found or path in gone or (self.inventory.full and path not in listed)]
        for batch in in_batches(over):
            self.connection.execute(sa.delete(untracked).where(here, untracked.c.path.in_(batch)))
        insert = upsert(self.connection, untracked)
        changed = {name: insert.excluded[name] for name in ("size", "mtime", "reason", "detail")}
        rows = [{**entry.model_dump(), "location_id": self.place.id, "first_seen": self.at} for entry in listed.values()]
        self.writer.many(insert.on_conflict_do_update(index_elements=["location_id", "path"], set_=changed), rows)
        self.merged.untracked = sum(path not in known for path in listed)

    def _write_databases(self, gone: Mapping[str, Gone]) -> None:
        here = source_databases.c.location_id == self.place.id
        listed = {entry.path: entry for entry in self.inventory.databases}
        if self.inventory.full:
            self.connection.execute(sa.delete(source_databases).where(here))
        else:
            for batch in in_batches([*listed, *gone]):
                self.connection.execute(sa.delete(source_databases).where(here, source_databases.c.path.in_(batch)))
        rows = [
            {
                "location_id": self.place.id,
                "path": entry.path,
                "size": entry.size,
                "mtime": entry.mtime,
                "games": orjson.dumps(entry.games).decode(),
                "newest_game": entry.newest_game,
                "snapshot": bytes.fromhex(entry.snapshot) if entry.snapshot else None,
            }
            for entry in listed.values()
        ]
        self.writer.many(sa.insert(source_databases), rows)

    def _write_place(self) -> None:
        told = self.inventory
        count, size = self.holdings.total(self.place.id)
        values: dict[str, Any] = {
            "replicas": locations.c.replicas + count,
            "bytes": locations.c.bytes + size,
            "held": self.place.held + self.held,
            "pending": told.pending,
        }
        if not self.overtaken:
            values |= {"epoch": told.epoch, "cursor": told.cursor}
        if told.disk is not None:
            values |= {"disk_total": told.disk.total, "disk_free": told.disk.free}
        self.connection.execute(sa.update(locations).where(locations.c.id == self.place.id).values(values))
        for other in self.elsewhere - {self.place.id}:
            count, size = self.holdings.total(other)
            values = {"replicas": locations.c.replicas + count, "bytes": locations.c.bytes + size}
            self.connection.execute(sa.update(locations).where(locations.c.id == other).values(values))
        if self.merged or self.written or self.dropped:
            self.writer.touched = True


def _still_distrusted(row: Counted, entry: FoundItem) -> bool:
    """Whether a copy is in doubt and was not verified since: being listed is no proof, unless its size was all the doubt."""
    return row.reason != CONTRADICTED and row.state in _DISTRUSTED and (entry.verified_at or 0) <= (row.verified_at or 0)


def _contradicted_before(row: Counted, entry: FoundItem) -> bool:
    """Whether a copy of another size than its item's is told of as it was the last time."""
    known = row.state == ReplicaState.SUSPICIOUS and row.reason == CONTRADICTED
    return known and row.mtime == entry.mtime and row.verified_at == entry.verified_at


def _tells(entry: FoundItem, lacks: int) -> bool:
    """Whether an entry tells a fact that its item lacks."""
    return bool(
        (lacks & _GAMES and entry.games is not None)
        or (lacks & _SAMPLES and entry.samples is not None)
        or (lacks & _QUALITY and entry.quality is not None)
        or (lacks & _ELO and entry.elo is not None)
    )


def _told_state(entry: FoundItem) -> tuple[ReplicaState, str | None]:
    """The state in which the source itself says that the copy is."""
    if entry.damaged:
        return ReplicaState.BAD, "its bytes do not have its hash"
    if entry.provenance.get(STORAGE_CLASS) in ARCHIVED_CLASSES:
        return ReplicaState.UNAVAILABLE, ARCHIVED
    return ReplicaState.AVAILABLE, None


def _item_provenance(entry: FoundItem) -> str | None:
    """What is told about the content; where a copy lies is the replica's matter."""
    told = {name: value for name, value in entry.provenance.items() if name != STORAGE_CLASS}
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode() if told else None
