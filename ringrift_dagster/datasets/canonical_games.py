"""The canonical store: games that passed the gate, in Parquet, append-only.

Each append writes one file of moves and then one of games, both named by their content; a games file names its moves file and is
what makes an append count. One row a game, one row a position's move; provenance stands in the schema metadata.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ringrift_dagster.canonical.gate import RULES_VERSION, Gate, JudgedGame, Observer, judged_games
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.datasets.npz_writer import publish
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, file_sha256, recorded_metadata
from ringrift_dagster.games.digest import game_digest
from ringrift_dagster.games.geometry import coordinates
from ringrift_dagster.games.moves import PackedMoves, pack
from ringrift_dagster.games.position import RULE, Position, empty_position
from ringrift_dagster.home import Home

_GAMES_PER_FILE = 2_000
_MOVES_PER_FILE = 200_000
"""What is not written yet is held in memory, about 1 KB a move; large boards have a thousand moves a game."""

_WAIT_SECONDS = 180.0
_STRING_COLUMNS = (
    "game_id",
    "termination_reason",
    "source",
    "created_at",
    "completed_at",
    "engine_mode",
    "opponent_type",
    "opponent_model_id",
    "metadata_json",
)
GAMES = pa.schema(
    [
        ("digest", pa.string()),
        ("config", pa.string()),
        ("rules_version", pa.string()),
        ("database_sha256", pa.string()),
        ("database_name", pa.string()),
        ("winner", pa.int8()),
        ("total_moves", pa.int32()),
        ("swap_rule", pa.bool_()),
        ("variant", pa.string()),
        ("hashes_checked", pa.int32()),
        ("initial_state", pa.binary()),
        *[(name, pa.string()) for name in _STRING_COLUMNS],
    ]
)
MOVES = pa.schema(
    [
        ("digest", pa.string()),
        ("move_number", pa.int32()),
        ("player", pa.int8()),
        ("phase", pa.dictionary(pa.int8(), pa.string())),
        ("move_type", pa.dictionary(pa.int8(), pa.string())),
        ("move_json", pa.binary()),
        ("move_probs", pa.binary()),
    ]
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CanonicalGame:
    """A game that passed the gate, in the form that exports need."""

    digest: str
    row: Mapping[str, Any]
    moves: PackedMoves
    swap_rule: bool
    variant: str = RULE
    probabilities: Mapping[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, judged: JudgedGame) -> CanonicalGame:
        """From a judged game, which has to be canonical."""
        if judged.verdict.reason is not None or judged.verdict.digest is None or judged.moves is None:
            raise ValueError(f"game {judged.record.game_id} is not canonical")
        record = judged.record
        return cls(
            judged.verdict.digest, record.row, judged.moves, judged.swap_rule, judged.verdict.variant or RULE, record.probabilities
        )

    def start(self, config: Config) -> Position:
        """The starting position of the game, with the variant under which it was judged."""
        return empty_position(config, swap_rule=self.swap_rule, variant=self.variant)

    @property
    def time(self) -> str | None:
        return self.row.get("completed_at") or self.row.get("created_at")

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The recorded metadata; empty when it is no JSON object."""
        return recorded_metadata(self.row) or {}


@dataclass(frozen=True)
class CanonicalSummary:
    """What the store of a config holds."""

    config: str
    games: int = 0
    moves: int = 0
    digest_root: str = ""
    newest_game: str | None = None
    files: list[Path] = field(default_factory=list)
    bytes: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    victory_types: dict[str, int] = field(default_factory=dict)
    databases: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class AppendResult:
    """What an append did: of the databases' games, how many were judged, and what became of them."""

    config: str
    judged: int
    accepted: int
    rejected: int
    already: int
    unfinished: int
    reasons: dict[str, int]
    rejected_games: list[dict[str, Any]]
    unreadable: list[dict[str, str]]
    files: list[Path]
    games_total: int
    moves_total: int
    digest_root: str
    newest_game: str | None
    bytes: int


def append_canonical(
    config: str,
    databases: Sequence[Path],
    home: Home,
    progress: Progress | None = None,
    *,
    wait_seconds: float = _WAIT_SECONDS,
    observe: Observer | None = None,
) -> AppendResult:
    """Judge the games of `databases` and append the canonical ones that the store lacks; the rest go to quarantine.

    Idempotent: a game already in the store is passed over. A database that cannot be read is reported and stops no other.
    `observe` sees every judged game, new or not.
    Raises StoreBusy if another process still appends to this store after `wait_seconds`.
    """
    parsed = parse_config(config)
    with _sole_append(parsed, home, wait_seconds):
        return _append_new(parsed, databases, home, progress, observe)


class StoreBusy(Exception):
    """Another process appends to the store of the config."""

    def __init__(self, config: Config) -> None:
        super().__init__(f"another process is adding games to the store of {config.key}: run this again when it has finished")


@contextmanager
def _sole_append(config: Config, home: Home, wait_seconds: float) -> Iterator[None]:
    """One append to a store at a time, across processes; the lock goes with the process that holds it.

    It lies beside the config's directory, so that it holds while somebody moves that aside.
    """
    home.canonical.mkdir(parents=True, exist_ok=True)
    with (home.canonical / f".{config.key}.lock").open("w") as lock:
        give_up = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise StoreBusy(config) from None
                time.sleep(0.2)
        for left_behind in _directory(config, home).glob(".*.part"):
            left_behind.unlink()  # of an append that was killed: its lock is free
        yield


def _append_new(
    config: Config, databases: Sequence[Path], home: Home, progress: Progress | None, observe: Observer | None
) -> AppendResult:
    known = {digest for path in _games_files(config, home) for digest in _column(path, "digest")}
    outcomes: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    files: list[Path] = []
    judged_count = already = 0
    with VerdictStore(home.verdicts) as store:
        gate = Gate(store, known)
        for path in databases:
            accepted = _Accepted()
            sha256 = ""
            try:
                with GameDatabase(path) as database:
                    sha256 = file_sha256(path)
                    total = database.count()
                    for judged in judged_games(database, gate, config):
                        judged_count += 1
                        if judged.verdict.digest in known:
                            already += 1
                        elif judged.verdict.reason is None:
                            accepted.add(judged)
                            outcomes["canonical"] += 1
                        else:
                            outcomes[judged.verdict.reason] += 1
                            rejected.append({"database": path.name, **judged.verdict.rejection()})
                        if observe is not None:
                            observe(judged)
                        if accepted.full:
                            store.commit()  # a verdict is remembered no later than its game is stored
                            files += _append(config, home, accepted, path.name, sha256)
                            accepted = _Accepted()
                        if progress is not None:
                            progress(str(path), judged_count, total)
            except DatabaseUnreadable as error:
                unreadable.append({"database": path.name, "detail": error.detail})
                sha256 = ""
            store.commit()
            files += _append(config, home, accepted, path.name, sha256)
    _quarantine(config, home, rejected)
    summary = summarise(config.key, home)
    return AppendResult(
        config=config.key,
        judged=judged_count,
        accepted=outcomes["canonical"],
        rejected=len(rejected) - outcomes["unfinished"],
        already=already,
        unfinished=outcomes["unfinished"],
        reasons={reason: count for reason, count in sorted(outcomes.items()) if reason != "canonical"},
        rejected_games=rejected,
        unreadable=unreadable,
        files=files,
        games_total=summary.games,
        moves_total=summary.moves,
        digest_root=summary.digest_root,
        newest_game=summary.newest_game,
        bytes=summary.bytes,
    )


def stored_games(config: Config, home: Home) -> Iterator[CanonicalGame]:
    """The games of a config's store in the order in which they were appended.

    Raises CorruptStore when a game's moves no longer give the digest it was stored under.
    """
    at = coordinates(config.board)
    for path in _games_files(config, home):
        moves = _MovesReader(_moves_file(path))
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                records, probabilities = moves.take(row["digest"], row["total_moves"])
                packed = pack(records, at)
                game = CanonicalGame(row["digest"], row, packed, row["swap_rule"], row["variant"], probabilities)
                if game_digest(config, game.start(config), packed) != row["digest"]:
                    raise CorruptStore(path, f"game {row['game_id']} is not what was stored")
                yield game


def stored_digests(config: Config, home: Home) -> set[str]:
    """The digests of all games of a config's store. Raises OSError, and CorruptStore for files that cannot be read."""
    digests: set[str] = set()
    for path in _games_files(config, home):
        try:
            digests.update(_column(path, "digest"))
        except pa.ArrowException as error:
            raise CorruptStore(path, str(error).splitlines()[0]) from error
    return digests


class CorruptStore(Exception):
    """A file of the canonical store is damaged."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")


def summarise(config: str, home: Home) -> CanonicalSummary:
    """Count what the store of a config holds; `games` is 0 when there is none."""
    parsed = parse_config(config)
    phases: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    sources: Counter[tuple[str, str]] = Counter()
    digests: list[str] = []
    files: list[Path] = []
    newest = ""
    for path in _games_files(parsed, home):
        games = pq.read_table(
            path,
            columns=[
                "digest", "winner", "termination_reason", "created_at", "completed_at", "database_name", "database_sha256",
            ],
        ).to_pylist()  # fmt: skip
        moves = _moves_file(path)
        files += [path, moves]
        for game in games:
            digests.append(game["digest"])
            outcomes[str(game["winner"])] += 1
            endings[str(game["termination_reason"]).rpartition(":")[2]] += 1
            sources[(game["database_name"], game["database_sha256"])] += 1
            newest = max(newest, game["completed_at"] or game["created_at"] or "")
        for phase in pq.read_table(moves, columns=["phase"]).column("phase").value_counts().to_pylist():
            phases[str(phase["values"])] += phase["counts"]
    if not digests:
        return CanonicalSummary(parsed.key)
    return CanonicalSummary(
        config=parsed.key,
        games=len(digests),
        moves=sum(phases.values()),
        digest_root=hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        newest_game=newest or None,
        files=files,
        bytes=sum(path.stat().st_size for path in files),
        phases=dict(phases),
        outcomes=dict(sorted(outcomes.items())),
        victory_types=dict(endings),
        databases=[{"name": name, "sha256": sha256, "games": count} for (name, sha256), count in sorted(sources.items())],
    )


def check_store(config: str, home: Home) -> list[str]:
    """What is wrong with the store of a config, one line a problem; empty when it is consistent."""
    parsed = parse_config(config)
    problems: list[str] = []
    seen: set[str] = set()
    for path in _games_files(parsed, home):
        try:
            moves = _moves_file(path)
            for file in (path, moves):
                if file_sha256(file)[:16] != file.stem.rpartition("-")[2]:
                    problems.append(f"{file.name}: content is not what its name says")
            metadata = pq.read_schema(path).metadata or {}
            for key, expected, remedy in (
                (b"ringrift.config", parsed.key, ""),
                (b"ringrift.rules_version", RULES_VERSION, f"; move {path.parent} aside and materialise canonical_games"),
            ):
                found = metadata.get(key, b"").decode("utf-8", "replace")
                if found != expected:
                    problems.append(f"{path.name}: {key.decode()} is {found!r}, not {expected!r}{remedy}")
            digests = _column(path, "digest")
            if duplicates := [digest for digest in digests if digest in seen]:
                problems.append(f"{path.name}: {len(duplicates)} games are stored twice")
            seen.update(digests)
        except (OSError, pa.ArrowException, CorruptStore) as error:
            problems.append(f"{path.name}: {str(error).splitlines()[0]}")
    return problems


def _directory(config: Config, home: Home) -> Path:
    return home.canonical / config.key


def _games_files(config: Config, home: Home) -> list[Path]:
    """Games files in the order of their appends, which is the number in their names."""
    return sorted(_directory(config, home).glob("games-*.parquet"))


def _moves_file(games: Path) -> Path:
    name = (pq.read_schema(games).metadata or {}).get(b"ringrift.moves_file", b"").decode()
    if not name or Path(name).name != name:
        raise CorruptStore(games, "names no moves file")
    return games.with_name(name)


def _column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path, columns=[name]).column(name).to_pylist()


class _MovesReader:
    """Reads a moves file once, in the order in which its games file lists the games."""

    _COLUMNS = ("digest", "move_number", "move_json", "move_probs")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._batches = pq.ParquetFile(path).iter_batches(batch_size=4096, columns=list(self._COLUMNS))
        self._ahead: list[list[Any]] = [[] for _ in self._COLUMNS]

    def take(self, digest: str, count: int) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
        """The next `count` move records, which have to be those of the game `digest`, and their recorded probabilities."""
        while len(self._ahead[0]) < count:
            batch = next(self._batches, None)
            if batch is None:
                raise CorruptStore(self._path, "ends before its last game")
            for column, values in zip(self._ahead, batch.columns, strict=True):
                column += values.to_pylist()
        digests, numbers, texts, weights = (column[:count] for column in self._ahead)
        self._ahead = [column[count:] for column in self._ahead]
        if set(digests) != {digest}:
            raise CorruptStore(self._path, "moves and games are not in the same order")
        records = orjson.loads(b"[" + b",".join(texts) + b"]")
        return records, {number: weight for number, weight in zip(numbers, weights, strict=True) if weight}


class _Accepted:
    """Accepted games that are not written yet, as columns of moves and rows of games: a third of what judged games take."""

    def __init__(self) -> None:
        self.games: list[dict[str, Any]] = []
        self.moves: dict[str, list[Any]] = {name: [] for name in MOVES.names}

    def add(self, judged: JudgedGame) -> None:
        self.games.append(_game_row(judged))
        for row in _move_rows(judged):
            for name, column in self.moves.items():
                column.append(row[name])

    @property
    def full(self) -> bool:
        return len(self.games) >= _GAMES_PER_FILE or len(self.moves["digest"]) >= _MOVES_PER_FILE


def _append(config: Config, home: Home, accepted: _Accepted, name: str, sha256: str) -> list[Path]:
    """Write one pair of files for the accepted games; the games file last, which commits."""
    if not accepted.games:
        return []
    directory = _directory(config, home)
    directory.mkdir(parents=True, exist_ok=True)
    number = len(_games_files(config, home))
    provenance = {
        "ringrift.config": config.key,
        "ringrift.rules_version": RULES_VERSION,
        "ringrift.databases": json.dumps([{"name": name, "sha256": sha256}]),
    }
    moves = pa.Table.from_pydict(accepted.moves, schema=MOVES)
    moves_file = _write(directory, f"moves-{number:06d}", moves, provenance)
    source = {"config": config.key, "rules_version": RULES_VERSION, "database_sha256": sha256, "database_name": name}
    games = pa.Table.from_pylist([{**game, **source} for game in accepted.games], schema=GAMES)
    games_file = _write(directory, f"games-{number:06d}", games, {**provenance, "ringrift.moves_file": moves_file.name})
    return [games_file, moves_file]


def _game_row(judged: JudgedGame) -> dict[str, Any]:
    """What the game itself says; what it came from is added when it is written."""
    record = judged.record
    return {
        "digest": judged.verdict.digest,
        "winner": record.row.get("winner"),
        "total_moves": len(record.moves),
        "swap_rule": judged.swap_rule,
        "variant": judged.verdict.variant,
        "hashes_checked": judged.verdict.hashes_checked,
        "initial_state": record.initial_state,
        **{column: _text(record.row.get(column)) for column in _STRING_COLUMNS},
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _move_rows(judged: JudgedGame) -> Iterator[dict[str, Any]]:
    record = judged.record
    for move, text in zip(record.moves, record.move_json, strict=True):
        yield {
            "digest": judged.verdict.digest,
            "move_number": move.number,
            "player": move.player,
            "phase": move.phase,
            "move_type": move.kind,
            "move_json": text,
            "move_probs": record.probabilities.get(move.number),
        }


def _write(directory: Path, stem: str, table: pa.Table, provenance: Mapping[str, str]) -> Path:
    """Write a Parquet file in staging and publish it under a name that ends with its own hash."""
    staged = directory / f".{stem}.{os.getpid()}.part"
    try:
        pq.write_table(table.replace_schema_metadata(dict(provenance)), staged, compression="zstd")
        final = directory / f"{stem}-{file_sha256(staged)[:16]}.parquet"
        publish(staged, final)
    finally:
        staged.unlink(missing_ok=True)
    return final


def quarantined(config: str, home: Home) -> list[dict[str, Any]]:
    """The rejected games of a config, each with its reason and move number; a line that was torn or damaged is passed over."""
    path = _quarantine_file(parse_config(config), home)
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [entry for line in lines if (entry := _rejection(line)) is not None]


def _quarantine_file(config: Config, home: Home) -> Path:
    return home.quarantine / f"{config.key}.jsonl"


def _rejection(line: bytes) -> dict[str, Any] | None:
    try:
        entry = orjson.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("game_id", "reason")):
        return None
    return entry


def _quarantine(config: Config, home: Home, rejected: list[dict[str, Any]]) -> None:
    """Add newly rejected games to the config's quarantine list: one line a game, reason and move number.

    The database that a line names is the one in which this was first seen; the next snapshot of a source says nothing new.
    """
    present = quarantined(config.key, home)
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in [*present, *rejected]:
        entries.setdefault((entry["game_id"], entry["reason"], str(entry.get("move_number"))), entry)
    if list(entries.values()) == present:
        return
    path = _quarantine_file(config, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.part")
    try:
        staged.write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in entries.values()))
        publish(staged, path)
    finally:
        staged.unlink(missing_ok=True)
