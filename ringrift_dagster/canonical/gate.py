"""The gate: judges games one by one, in a fixed order of questions, and databases by their games.

There is no bypass. What is asked, and the reason code of each "no", is the table of DESIGN: see REASONS. RingRift's own
evidence (`evidence`) is shown beside a verdict and never changes it.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ringrift_dagster.canonical.verdicts import StoredVerdict, VerdictStore
from ringrift_dagster.games.config import BOARDS, LPS_ROUNDS_REQUIRED, PLAYER_COUNTS, Config, parse_config
from ringrift_dagster.games.database import (
    MIN_MOVES,
    DatabaseUnreadable,
    GameDatabase,
    GameRecord,
    file_sha256,
)
from ringrift_dagster.games.digest import game_digest
from ringrift_dagster.games.fingerprint import buffer_for, fingerprint, hash_text, hash_text_of
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.moves import (
    MOVE_TYPES,
    PHASE,
    PHASES,
    TYPE,
    MoveType,
    PackedMoves,
    Phase,
    UnreadableMove,
    pack,
)
from ringrift_dagster.games.position import (
    COMPLETED,
    VARIANTS,
    Position,
    UnreadableState,
    canonical_start,
    empty_position,
    read_position,
)
from ringrift_dagster.games.replay import replay
from ringrift_dagster.games.rules.compiled import engine
from ringrift_dagster.games.rules.legality import CONTRACT, FAULT_TEXT, Fault

RULES_VERSION = "canonical-3"
"""Changes whenever the same game could get another verdict; old verdicts then no longer count."""

REASONS: tuple[str, ...] = (
    "unreadable",
    "unfinished",
    "holdout_source",
    "wrong_config",
    "missing_initial_state",
    "too_few_moves",
    "noncontiguous_moves",
    "phase_contract",
    "illegal_move",
    "state_hash_mismatch",
    "result_mismatch",
    "duplicate_game",
)
"""Why a game is rejected, in the order in which the questions are asked."""

HOLDOUT_SOURCES = ("tournament", "gauntlet", "eval", "holdout")
"""Games whose recorded source names one of these are kept for evaluation and never trained on."""

Progress = Callable[[str, int, int], None]
Observer = Callable[["JudgedGame"], None]
"""Called with every judged game; has no influence on verdicts."""


@dataclass(frozen=True)
class GameVerdict:
    """The gate's answer for one game; `reason` None means canonical, and then `variant` says under which of VARIANTS."""

    game_id: str
    digest: str | None
    reason: str | None = None
    move_number: int | None = None
    detail: str | None = None
    moves: int = 0
    hashes_checked: int = 0
    variant: str | None = None
    reused: bool = False

    def rejection(self) -> dict[str, Any]:
        """The entry of a rejected game in a report."""
        return {
            "game_id": self.game_id,
            "reason": self.reason,
            "move_number": self.move_number,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class JudgedGame:
    """A game with its verdict, and with its moves and starting position where these could be read."""

    record: GameRecord
    verdict: GameVerdict
    config: Config | None = None
    moves: PackedMoves | None = None
    swap_rule: bool = False


@dataclass
class DatabaseVerdict:
    """The gate's answer for a database: the keys of `ringrift-data verify --json`."""

    path: str
    sha256: str | None = None
    config: str | None = None
    schema_version: int | None = None
    rules_version: str = RULES_VERSION
    verdict: str = "unreadable"
    games: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("total", "canonical", "rejected", "unfinished"), 0))
    reasons: dict[str, int] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    moves: int = 0
    hashes_checked: int = 0
    variants: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class _Rejected(Exception):
    def __init__(self, reason: str, detail: str, move: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.move = move


class Gate:
    """Judges games that are given together: remembers what it accepted, so that a game counts once.

    `known` holds digests that are already in the canonical store. With a `store`, content that was judged before under the
    same rules is not replayed again.
    """

    def __init__(self, store: VerdictStore | None = None, known: Container[str] = ()) -> None:
        self._store = store
        self._known = known
        self._accepted: set[str] = set()

    def judge(self, record: GameRecord) -> JudgedGame:
        """The verdict on one recorded game. Never raises for what the record contains."""
        digest: str | None = None
        config: Config | None = None
        moves: PackedMoves | None = None
        start: Position | None = None
        try:
            config = _admit(record)
            start = _starting_position(record, config)
            moves = _packed(record, config)
            digest = game_digest(config, start, moves)
            if digest in self._accepted or digest in self._known:
                # Asked before the replay: this content was judged, and whatever else the second record claims, it is a copy.
                raise _Rejected("duplicate_game", "the same initial state and moves were accepted before")
            verdict = self._play(record, config, start, moves, digest)
            if verdict.reason is None:
                self._accepted.add(digest)
        except _Rejected as rejected:
            verdict = _rejection(record, digest, rejected)
        return JudgedGame(record, verdict, config, moves, bool(start is not None and start.swap_rule))

    def retract(self, digests: Iterable[str]) -> None:
        """Forget that these games were accepted: what they came from turned out to be unreadable, and a good copy counts."""
        self._accepted.difference_update(digests)

    def _play(self, record: GameRecord, config: Config, start: Position, moves: PackedMoves, digest: str) -> GameVerdict:
        claims = _claims(record)
        stored = self._store.get(digest, claims, RULES_VERSION) if self._store else None
        if stored is None:
            stored = _judge(record, config, start, moves)
            if self._store:
                self._store.put(digest, claims, RULES_VERSION, stored)
            reused = False
        else:
            reused = True
        return _verdict(record, digest, stored, reused)


def judge_holdout(record: GameRecord) -> GameVerdict:
    """The verdict on one game that is kept for evaluation: all questions but whether the game was seen before.

    A game of any other source is rejected as `holdout_source`, so that none is both accepted here and by a `Gate`. The verdict
    comes without moves: nothing can be trained on it. Never raises for what the record contains.
    """
    digest: str | None = None
    try:
        config = _admit(record, holdout=True)
        start = _starting_position(record, config)
        moves = _packed(record, config)
        digest = game_digest(config, start, moves)
        return _verdict(record, digest, _judge(record, config, start, moves))
    except _Rejected as rejected:
        return _rejection(record, digest, rejected)


def _verdict(record: GameRecord, digest: str, stored: StoredVerdict, reused: bool = False) -> GameVerdict:
    return GameVerdict(
        record.game_id,
        digest,
        stored.reason,
        stored.move_number,
        stored.detail,
        stored.moves,
        stored.hashes_checked,
        stored.variant,
        reused,
    )


def _rejection(record: GameRecord, digest: str | None, rejected: _Rejected) -> GameVerdict:
    return GameVerdict(record.game_id, digest, rejected.reason, rejected.move, rejected.detail[:300], moves=len(record.moves))


def _judge(record: GameRecord, config: Config, start: Position, moves: PackedMoves) -> StoredVerdict:
    """Judge a game by replaying it under each of VARIANTS; if none accepts it, the rejection is that of the first, the rule."""
    rejection: _Rejected | None = None
    for variant in VARIANTS:
        position = empty_position(config, swap_rule=bool(start.swap_rule), variant=variant)
        try:
            checked = _replay(record, config, position, moves)
        except _Rejected as rejected:
            rejection = rejection or rejected
            if rejected.reason == "unreadable":
                break
        else:
            return StoredVerdict(None, None, None, len(moves), checked, variant, engine())
    assert rejection is not None
    return StoredVerdict(rejection.reason, rejection.move, rejection.detail[:300], len(moves), 0, None, engine())


def _admit(record: GameRecord, *, holdout: bool = False) -> Config:
    """The questions that need no moves: readable, finished, for this purpose, of a known config, with a beginning and moves."""
    if record.damage is not None:
        raise _Rejected("unreadable", record.damage, record.damaged_move)
    row = record.row
    if not record.finished:
        raise _Rejected("unfinished", f"game_status is {str(row.get('game_status'))[:40]!r}")
    source = str(row.get("source") or "").lower()
    if any(word in source for word in HOLDOUT_SOURCES) != holdout:
        purpose = "not kept for evaluation" if holdout else "kept for evaluation"
        raise _Rejected("holdout_source", f"source {source[:80]!r} is {purpose}")
    board, players = row.get("board_type"), row.get("num_players")
    if board not in BOARDS or type(players) is not int or players not in PLAYER_COUNTS:  # SQLite keeps 2.0 in an untyped column
        raise _Rejected("wrong_config", f"{record.config_key[:60]!r} is no config")
    if record.initial_state is None:
        raise _Rejected("missing_initial_state", "no initial state was recorded")
    return Config(board, players)


def _starting_position(record: GameRecord, config: Config) -> Position:
    """Where the replay starts: never what was recorded, but what it was found to be equal to.

    So the position that is judged is the one that the digest names and the store and its exports replay from.
    """
    try:
        state = orjson.loads(record.initial_state or b"")
        if type(state) is not dict:
            raise UnreadableState("not an object")
        recorded, position = read_position(state)
    except (ValueError, RecursionError) as error:
        raise _Rejected("unreadable", f"initial state: {str(error)[:200]}") from error
    if recorded != config:
        raise _Rejected("wrong_config", f"the row says {config.key}, the initial state {recorded.key}")
    for name, observed, canonical in (
        ("victoryThreshold", state["victoryThreshold"], config.victory_threshold),
        ("territoryVictoryThreshold", state["territoryVictoryThreshold"], config.territory_threshold),
        ("lpsRoundsRequired", state.get("lpsRoundsRequired"), LPS_ROUNDS_REQUIRED),
    ):
        if observed != canonical:
            raise _Rejected("wrong_config", f"{name} is {str(observed)[:20]}, canonical is {canonical}")
    minimum = state.get("territoryVictoryMinimum")
    if minimum is not None and minimum != config.territory_threshold:
        raise _Rejected(
            "wrong_config", f"territoryVictoryMinimum is {str(minimum)[:20]}, canonical is {config.territory_threshold}"
        )
    options = state.get("rulesOptions")
    for name, canonical in (
        ("ringsPerPlayer", config.spec.rings_per_player),
        ("lpsRoundsRequired", LPS_ROUNDS_REQUIRED),
    ):
        override = options.get(name) if isinstance(options, dict) else None
        if override is not None and override != canonical:
            raise _Rejected("wrong_config", f"rulesOptions.{name} is {str(override)[:20]}, canonical is {canonical}")
    start = canonical_start(config, position)
    if start is None:
        raise _Rejected("wrong_config", "the game does not begin at the canonical starting position")
    return start


def _packed(record: GameRecord, config: Config) -> PackedMoves:
    if len(record.moves) < MIN_MOVES:
        raise _Rejected("too_few_moves", f"{len(record.moves)} moves, at least {MIN_MOVES} make a game")
    for index, move in enumerate(record.moves):
        if move.number != index:
            raise _Rejected("noncontiguous_moves", f"move_number {move.number} where {index} belongs", index)
    try:
        moves = pack([move.record for move in record.moves], coordinates(config.board))
    except UnreadableMove as error:
        raise _Rejected("unreadable", error.detail, error.index) from error
    _check_contract(record, moves)
    return moves


def _check_contract(record: GameRecord, moves: PackedMoves) -> None:
    """Every (phase, move type) pair is one that canonical play has, and columns and JSON tell the same."""
    kinds, phases = moves.rows[:, TYPE], moves.rows[:, PHASE]
    known = (kinds >= 0) & (phases >= -1)
    allowed = np.where(phases >= 0, CONTRACT[np.maximum(phases, 0), np.maximum(kinds, 0)], True) & known
    for index, move in enumerate(record.moves):
        column_phase = move.phase if move.phase is not None else move.record.get("phase")
        column_kind = move.kind if move.kind is not None else move.record.get("type")
        if not allowed[index] or column_kind != move.record.get("type"):
            raise _Rejected("phase_contract", f"{_name(column_kind)} in phase {_name(column_phase)}", index)
        if move.record.get("phase") is not None and column_phase != move.record["phase"]:
            raise _Rejected(
                "phase_contract",
                f"column says phase {_name(column_phase)}, record {_name(move.record['phase'])}",
                index,
            )
        if column_phase is not None and not _pair_allowed(column_phase, column_kind):
            raise _Rejected("phase_contract", f"{_name(column_kind)} in phase {_name(column_phase)}", index)
        if move.player is not None and move.player != move.record.get("player"):
            raise _Rejected("illegal_move", "column and record name different players", index)


def _pair_allowed(phase: object, kind: object) -> bool:
    return phase in PHASES and kind in MOVE_TYPES and bool(CONTRACT[PHASES[phase], MOVE_TYPES[kind]])  # type: ignore[index]


def _name(value: object) -> str:
    return str(value)[:40]


def _replay(record: GameRecord, config: Config, start: Position, moves: PackedMoves) -> int:
    """Play the game, compare every recorded hash and the result; returns how many hashes were compared."""
    hashed = np.zeros(len(moves) + 1, dtype=np.uint8)
    for claim in record.hashes:
        if not 0 <= claim.played <= len(moves):
            raise _Rejected("state_hash_mismatch", f"a state is recorded after move {claim.played - 1}, beyond the game")
        hashed[claim.played] = 1
    played = replay(config, start, moves, hashed)
    for claim in sorted(record.hashes, key=lambda claim: claim.played):
        if played.fault is not Fault.NONE and claim.played > played.played:
            break
        expected = claim.value if claim.value is not None else _hash_of_state(claim.state)
        replayed = hash_text_of(int(played.hashes[claim.played]))
        if expected != replayed:
            raise _Rejected(
                "state_hash_mismatch",
                f"recorded {_name(expected)}, replayed {replayed}",
                max(0, claim.played - 1),
            )
    if played.fault is not Fault.NONE:
        row = moves.rows[played.played]
        kind = MoveType(int(row[TYPE])).name.lower()
        phase = Phase(int(start.phase)).name.lower()
        raise _Rejected(
            "illegal_move",
            f"{kind} by player {int(row[1])} in {phase} of player {int(start.player)}: {FAULT_TEXT[played.fault]}",
            played.played,
        )
    _check_result(record, start, len(moves))
    return len(record.hashes)


def _hash_of_state(state: bytes | None) -> str:
    try:
        parsed = orjson.loads(state or b"")
        config, position = read_position(parsed)
    except (ValueError, RecursionError) as error:
        raise _Rejected("unreadable", f"snapshot: {str(error)[:200]}") from error
    tables = topology(config.board)
    text = np.frombuffer(fingerprint(tables, position).encode("ascii"), dtype=np.uint8)
    buffer = buffer_for(tables)
    buffer[: len(text)] = text
    return hash_text_of(int(hash_text(buffer, len(text))))


def _check_result(record: GameRecord, end: Position, moves: int) -> None:
    row = record.row
    if end.status != COMPLETED:
        raise _Rejected("result_mismatch", "the game is recorded as finished, the replay is not", moves - 1)
    if (winner := int(end.winner) or None) != row.get("winner"):
        raise _Rejected("result_mismatch", f"recorded winner {_name(row.get('winner'))}, replayed {winner}", moves - 1)
    if row.get("total_moves") not in (None, moves):
        raise _Rejected("result_mismatch", f"total_moves is {_name(row['total_moves'])}, there are {moves}", moves - 1)


def _claims(record: GameRecord) -> str:
    """Digest of what the record claims about the game beyond its moves: the rest of what a verdict depends on."""
    row = record.row
    digest = hashlib.sha256(repr((row.get("winner"), row.get("total_moves"))).encode())
    for claim in record.hashes:
        digest.update(repr((claim.played, claim.value, None if claim.state is None else len(claim.state))).encode())
        digest.update(claim.state or b"")
    return digest.hexdigest()


def judged_games(database: GameDatabase, gate: Gate, config: Config | None = None) -> Iterator[JudgedGame]:
    """Every game of a database with its verdict, in the database's own order."""
    for record in database.games(config):
        yield gate.judge(record)


def verify(
    paths: Sequence[Path],
    *,
    config: str | None = None,
    store: VerdictStore | None = None,
    progress: Progress | None = None,
    observer: Callable[[Path], Observer] | None = None,
) -> list[DatabaseVerdict]:
    """Judge databases that are given together; duplicates count from the second time on, across all of them.

    A database that cannot be read gets the verdict `unreadable`, and the others are judged all the same. `observer` returns,
    for a path, the observer of its games.
    """
    gate = Gate(store)
    required = parse_config(config) if config else None
    return [_verify_one(Path(path), gate, required, progress, observer and observer(Path(path))) for path in paths]


def _verify_one(
    path: Path, gate: Gate, required: Config | None, progress: Progress | None, observe: Observer | None
) -> DatabaseVerdict:
    from ringrift_dagster.canonical.evidence import gather

    started = time.perf_counter()
    report = DatabaseVerdict(str(path))
    outcomes: Counter[str] = Counter()
    configs: Counter[str] = Counter()
    variants: Counter[str] = Counter()
    accepted: list[str] = []
    try:
        with GameDatabase(path) as database:
            report.sha256 = file_sha256(path)
            report.schema_version = database.schema_version
            total = database.count()
            for done, judged in enumerate(judged_games(database, gate), start=1):
                verdict = judged.verdict
                if verdict.reason is None and verdict.digest is not None:
                    accepted.append(verdict.digest)
                configs[judged.record.config_key] += 1
                if required is not None and verdict.reason is None and judged.config != required:
                    verdict = GameVerdict(verdict.game_id, verdict.digest, "wrong_config", detail=f"not a {required.key} game")
                outcomes[verdict.reason or "canonical"] += 1
                if verdict.variant is not None:
                    variants[verdict.variant] += 1
                report.moves += verdict.moves
                report.hashes_checked += verdict.hashes_checked
                if verdict.reason is not None:
                    report.rejected.append(verdict.rejection())
                if observe is not None:
                    observe(judged)
                if progress is not None:
                    progress(str(path), done, total)
        report.evidence = gather(path)
    except (DatabaseUnreadable, OSError) as error:
        gate.retract(accepted)
        detail = error.detail if isinstance(error, DatabaseUnreadable) else str(error)
        return DatabaseVerdict(
            str(path),
            reasons={"unreadable": 1},
            rejected=[{"game_id": None, "reason": "unreadable", "move_number": None, "detail": detail}],
            seconds=round(time.perf_counter() - started, 4),
        )
    report.config = next(iter(configs)) if len(configs) == 1 else None
    report.reasons = {reason: outcomes[reason] for reason in REASONS if outcomes[reason]}
    report.variants = {variant: variants[variant] for variant in VARIANTS if variants[variant]}
    report.games = {
        "total": sum(outcomes.values()),
        "canonical": outcomes["canonical"],
        "rejected": sum(outcomes.values()) - outcomes["canonical"] - outcomes["unfinished"],
        "unfinished": outcomes["unfinished"],
    }
    report.verdict = _database_verdict(report.games)
    report.seconds = round(time.perf_counter() - started, 4)
    return report


def _database_verdict(games: Mapping[str, int]) -> str:
    if games["total"] == 0:
        return "empty"
    if games["canonical"] == games["total"]:
        return "canonical"
    return "mixed" if games["canonical"] else "rejected"
