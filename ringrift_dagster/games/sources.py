"""Source databases of a config: which they are, when they changed, and which snapshots of them are registered.

A source is live and may be damaged; what is damaged is reported and left out, never in the way of the others.
A snapshot that a later one supersedes stays until its games were judged (`retire_superseded`), so that no
game is lost in between. Judging is not done here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable, describe
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
    """One snapshot of one source; `games` counts the finished games of the config."""

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
    """What is registered for a config: current snapshots, superseded ones not judged yet, and problems."""

    config: str
    databases: tuple[Registered, ...] = ()
    problems: tuple[Problem, ...] = ()

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
    databases: list[Registered] = []
    problems: list[Problem] = []
    for source in discover(home.selfplay):
        configs, problem = _configs_of(source)
        name = source.relative_to(home.selfplay).as_posix()
        if problem and (not configs or config in configs):
            problems.append(Problem(name, problem))
        elif config in configs:
            try:
                databases.append(_register_one(config, source, name, home))
            except DatabaseUnreadable as error:
                problems.append(Problem(name, error.detail))
    kept = {entry.sha256 for entry in databases}
    superseded = [
        replace(entry, current=False)
        for entry in registration(config, home).databases
        if entry.sha256 not in kept and entry.path(config, home).exists()
    ]
    result = Registration(config, (*databases, *superseded), tuple(problems))
    if result.databases or _register_file(config, home).exists():
        _write(result, home)
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
    )


def damaged_snapshots(registered: Registration, home: Home) -> list[str]:
    """Registered snapshots whose bytes are missing or no longer what they were, one line each."""
    problems = []
    for entry in registered.databases:
        path = entry.path(registered.config, home)
        if not path.exists():
            problems.append(f"{path.name}: missing (snapshot of {entry.source})")
        elif _sha256(path) != entry.sha256:
            problems.append(f"{path.name}: content changed since it was registered (snapshot of {entry.source})")
    return problems


def retire_superseded(config: str, home: Home) -> int:
    """Delete superseded snapshots, once their games are judged; returns how many."""
    before = registration(config, home)
    superseded = [entry for entry in before.databases if not entry.current]
    if superseded:
        _write(replace(before, databases=before.current), home)
        for entry in superseded:
            entry.path(config, home).unlink(missing_ok=True)
    return len(superseded)


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(source: Path) -> str:
    files = (source, source.with_name(source.name + "-wal"))
    stats = (file.stat() for file in files if file.exists())
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
