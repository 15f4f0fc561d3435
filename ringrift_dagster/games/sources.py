"""Source databases of a config: which they are, when they changed, and which snapshots of them are registered.

A source is live and may be damaged; what is damaged is reported and left out, never in the way of the others.
Only a later snapshot of the same source supersedes one: a source that is damaged, locked or gone keeps its last.
What is superseded stays until its games were judged (`retire_superseded`), so that no game is lost in between.
Judging is not done here.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable, describe, file_sha256
from ringrift_dagster.games.snapshots import discover, snapshot
from ringrift_dagster.home import Home

KNOWN_SCHEMAS = range(12, 19)
"""Schema versions of RingRift's game database that the reader understands."""


@dataclass(frozen=True)
class Problem:
    """A source that could not be registered, and why, in one line."""

    source: str
    detail: str


@dataclass(frozen=True)
class Registered:
    """One snapshot of one source; `games` counts the finished games of the config.

    `current`: no later snapshot of the source is known. The source need not be there any more.
    """

    source: str
    sha256: str
    size: int
    games: int
    schema_version: int | None
    newest_game: str | None
    current: bool = True

    def path(self, config: str, home: Home) -> Path:
        return home.snapshots / config / f"{self.sha256}.db"


@dataclass(frozen=True)
class Registration:
    """What is registered for a config: current snapshots, superseded ones not judged yet, and problems.

    `damaged` are snapshots whose bytes are not theirs any more, with games that no sound one is known to hold. They
    are judged no more, and told of as problems, until somebody restores or deletes the file.
    """

    config: str
    databases: tuple[Registered, ...] = ()
    problems: tuple[Problem, ...] = ()
    damaged: tuple[Registered, ...] = ()

    @property
    def current(self) -> tuple[Registered, ...]:
        return tuple(entry for entry in self.databases if entry.current)

    @property
    def digest(self) -> str:
        """Identity of the current snapshots, whatever their order."""
        return hashlib.sha256("".join(sorted(entry.sha256 for entry in self.current)).encode()).hexdigest()

    @property
    def unknown_schemas(self) -> tuple[Registered, ...]:
        return tuple(entry for entry in self.current if entry.schema_version not in KNOWN_SCHEMAS)


def register(config: str, home: Home) -> Registration:
    """Snapshot every source of `config` and write the register; returns what it now holds."""
    taken, problems = _take(config, home)
    before = registration(config, home)
    kept, renewed = {entry.sha256 for entry in taken}, {entry.source for entry in taken}
    older = [
        replace(entry, current=entry.current and entry.source not in renewed)
        for entry in (*before.databases, *before.damaged)
        if entry.sha256 not in kept
    ]
    told = {entry.sha256 for entry in before.damaged}
    harm = {entry: _harm(entry, config, home) for entry in older}
    sound = [entry for entry in older if harm[entry] is None]
    newest = {entry.source: entry for entry in (*taken, *sound) if entry.current}
    damaged: list[Registered] = []
    needless: list[Registered] = []
    for entry in older:
        path, newer = entry.path(config, home), newest.get(entry.source)
        if harm[entry] is None:
            continue
        if not path.exists():
            if entry.sha256 not in told:
                problems.append(Problem(entry.source, f"its snapshot {path.name} is gone, and what was not judged of it"))
        elif newer is not None and _holds_all_games(newer, entry, config, home):
            needless.append(entry)
        else:
            damaged.append(entry)
            problems.append(
                Problem(
                    entry.source,
                    f"its snapshot {path.name} is damaged ({harm[entry]}), and no other is known to hold all its games: "
                    "restore that file, or delete it to give up what was not judged of it",
                )
            )
    result = Registration(config, (*taken, *sound), tuple(problems), tuple(damaged))
    if result.databases or result.damaged or _register_file(config, home).exists():
        _write(result, home)
    _delete(needless, result, home)
    return result


def registration(config: str, home: Home) -> Registration:
    """The register as last written; empty if there is none."""
    try:
        data = json.loads(_register_file(config, home).read_bytes())
    except FileNotFoundError:
        return Registration(config)
    return Registration(
        config,
        tuple(Registered(**entry) for entry in data["databases"]),
        tuple(Problem(**entry) for entry in data["problems"]),
        tuple(Registered(**entry) for entry in data.get("damaged", ())),
    )


def damaged_snapshots(registered: Registration, home: Home) -> list[str]:
    """Registered snapshots whose bytes are missing or no longer what they were, one line each."""
    harm = ((entry, _harm(entry, registered.config, home)) for entry in registered.databases)
    return [f"{entry.sha256}.db: {what} (snapshot of {entry.source})" for entry, what in harm if what is not None]


def retire_superseded(config: str, home: Home, judged: Collection[str]) -> int:
    """Delete superseded snapshots whose games are judged (`judged`: their hashes); returns how many."""
    before = registration(config, home)
    retired = [entry for entry in before.databases if not entry.current and entry.sha256 in judged]
    if retired:
        after = replace(before, databases=tuple(entry for entry in before.databases if entry not in retired))
        _write(after, home)
        _delete(retired, after, home)
    return len(retired)


@dataclass(frozen=True)
class Watched:
    """A source as last seen: `stamp` changes whenever it is written to."""

    stamp: str
    configs: tuple[str, ...]


def watch(root: Path, before: Mapping[str, Watched]) -> dict[str, Watched]:
    """Every source below `root` by relative path. Only those whose stamp changed are opened."""
    seen = {}
    for source in discover(root):
        name, stamp = source.relative_to(root).as_posix(), _stamp(source)
        known = before.get(name)
        unchanged = known is not None and known.stamp == stamp
        seen[name] = known if unchanged else Watched(stamp, tuple(sorted(_configs_of(source)[0])))
    return seen


def states(watched: Mapping[str, Watched]) -> dict[str, str]:
    """For each config that has sources, a short digest of them all that changes when any is written to."""
    return {
        config: _digest(f"{name} {seen.stamp}" for name, seen in sorted(watched.items()) if config in seen.configs)
        for config in CONFIG_KEYS
        if any(config in seen.configs for seen in watched.values())
    }


def _take(config: str, home: Home) -> tuple[list[Registered], list[Problem]]:
    """A snapshot of every source of a config that can be read, and what is wrong with the others."""
    taken: list[Registered] = []
    problems: list[Problem] = []
    for source in discover(home.selfplay):
        configs, problem = _configs_of(source)
        name = source.relative_to(home.selfplay).as_posix()
        if problem and (not configs or config in configs):
            problems.append(Problem(name, problem))
        elif config in configs:
            try:
                taken.append(_register_one(config, source, name, home))
            except DatabaseUnreadable as error:
                problems.append(Problem(name, error.detail))
    return taken, problems


def _harm(entry: Registered, config: str, home: Home) -> str | None:
    """What happened to a snapshot's file; None if it has the bytes that it was registered with."""
    try:
        return None if file_sha256(entry.path(config, home)) == entry.sha256 else "content changed since it was registered"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"


def _holds_all_games(newer: Registered, damaged: Registered, config: str, home: Home) -> bool:
    """Whether a sound snapshot has every game of a damaged one. No, unless as many can be read there as were registered."""
    path = damaged.path(config, home)
    try:
        if describe(path).configs.get(config, 0) != damaged.games:
            return False
        return _game_ids(path) <= _game_ids(newer.path(config, home))
    except (DatabaseUnreadable, sqlite3.Error, OSError):
        return False


def _game_ids(path: Path) -> set[str]:
    name = quote(os.fsencode(path.absolute()))
    with closing(sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True)) as connection:
        return {game for (game,) in connection.execute("SELECT game_id FROM games")}


def _delete(entries: Iterable[Registered], remaining: Registration, home: Home) -> None:
    """Delete snapshots that are no longer registered; two sources of one content share one."""
    needed = {entry.sha256 for entry in (*remaining.databases, *remaining.damaged)}
    for entry in entries:
        if entry.sha256 not in needed:
            entry.path(remaining.config, home).unlink(missing_ok=True)


def _configs_of(source: Path) -> tuple[frozenset[str], str | None]:
    """The configs a source has games of (what its name says, if it tells nothing), and why it cannot be read, if so."""
    problem = None
    try:
        configs = frozenset(describe(source).configs)
    except DatabaseUnreadable as error:
        configs, problem = frozenset(), error.detail
    if not configs:
        with suppress(UnknownConfig):
            configs = frozenset({parse_config(source.name).key})
    return configs, problem


def _register_one(config: str, source: Path, name: str, home: Home) -> Registered:
    taken = snapshot(source, home.snapshots / config)
    return Registered(
        source=name,
        sha256=taken.sha256,
        size=taken.size,
        games=taken.config_counts.get(config, 0),
        schema_version=describe(taken.path).schema_version,
        newest_game=taken.newest_game,
    )


def _register_file(config: str, home: Home) -> Path:
    return home.snapshots / config / "register.json"


def _write(registered: Registration, home: Home) -> None:
    target = _register_file(registered.config, home)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with part.open("w") as file:
        json.dump(asdict(registered), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def _stamp(source: Path) -> str:
    """Size and time of a source and of its WAL. An empty WAL does not count: whoever opens the database to read may make one."""
    wal = source.with_name(source.name + "-wal")
    stats = (source.stat(), *([wal.stat()] if wal.exists() and wal.stat().st_size else ()))
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
