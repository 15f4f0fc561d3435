"""Findings on recorded games: missing, unknown or contradictory records of the AIs that played them.

A finding never changes a verdict of the gate: a game is canonical by its moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ringrift_dagster.ai.engine_modes import engine_mode
from ringrift_dagster.ai.registry import SOAK_PLAYS, AIType, Alias, Status, UnknownAI, resolve, type_of
from ringrift_dagster.games.config import BOARDS, PLAYER_COUNTS, Config
from ringrift_dagster.games.database import GameRecord, recorded_metadata

DEFAULT_AI_TYPE = "heuristic"
"""What RingRift writes into `game_players.ai_type` when it knows no AI (`app/db/game_replay.py`)."""
SOAK_SOURCE = "soak_test"
MAX_LISTED = 100
"""Findings of one code in one database that are listed; all are counted."""


class FindingCode(StrEnum):
    """Reason codes of findings."""

    NOT_RECORDED = "ai_not_recorded"
    UNKNOWN = "unknown_ai"
    COLUMNS_DISAGREE = "ai_columns_disagree"
    OUTSIDE_CAPABILITIES = "ai_outside_capabilities"
    DEPRECATED = "deprecated_ai"
    REPLACED = "ai_replaced"


MEANINGS: Mapping[FindingCode, str] = {
    FindingCode.NOT_RECORDED: "nothing says which AI played",
    FindingCode.UNKNOWN: "the recorded name is no AI type and no known alias",
    FindingCode.COLUMNS_DISAGREE: "the column game_players.ai_type and the metadata name different AIs",
    FindingCode.OUTSIDE_CAPABILITIES: "the AI cannot play this board or this number of players",
    FindingCode.DEPRECATED: "the AI is deprecated or archived",
    FindingCode.REPLACED: "RingRift's soak plays heuristic in place of this AI",
}


@dataclass(frozen=True)
class Finding:
    """One finding on one game: its code, the number of the player it is about, and the detail."""

    code: FindingCode
    player: int
    detail: str


def findings(record: GameRecord) -> list[Finding]:
    """The findings on a game, in order of players; empty for a damaged game. Never raises for what a record contains."""
    if record.damage is not None:
        return []
    metadata = recorded_metadata(record.row) or {}
    columns = {row.number: row for row in record.players}
    result: list[Finding] = []
    for player in _players(record, columns):
        row = columns.get(player)
        if row is None or row.kind in (None, "ai"):
            in_metadata = _text(metadata.get(f"player_{player}_ai_type"))
            result += [Finding(code, player, detail) for code, detail in _of_player(record, in_metadata, row and row.ai_type)]
    return result


@dataclass
class FindingsReport:
    """The findings of one database: counts by code, and the first `MAX_LISTED` of each code with their games."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[dict[str, Any]] = field(default_factory=list)
    games: int = 0
    """Games that have a finding."""

    def add(self, record: GameRecord) -> None:
        """Add the findings on one game."""
        of_game = findings(record)
        self.games += bool(of_game)
        for finding in of_game:
            self.counts[finding.code.value] += 1
            if self.counts[finding.code.value] <= MAX_LISTED:
                self.listed.append({"game_id": record.game_id, **asdict(finding)})

    def to_dict(self) -> dict[str, Any]:
        """The form of `ringrift-data verify --json`."""
        counts = {code.value: self.counts[code.value] for code in FindingCode if self.counts[code.value]}
        return {
            "games": self.games,
            "counts": counts,
            "findings": self.listed,
            "not_listed": sum(counts.values()) - len(self.listed),
        }


def _of_player(record: GameRecord, in_metadata: str | None, in_column: str | None) -> Iterator[tuple[FindingCode, str]]:
    recorded = in_metadata
    if recorded is None and in_column is not None and in_column != DEFAULT_AI_TYPE:
        recorded = in_column
    if recorded is None:
        yield FindingCode.NOT_RECORDED, _missing(record, in_column)
        return
    try:
        named, ai = resolve(recorded), type_of(recorded)
    except UnknownAI as error:
        yield FindingCode.UNKNOWN, str(error)
        return
    if in_column is not None and not _same(in_column, recorded):
        yield FindingCode.COLUMNS_DISAGREE, f"metadata {recorded[:40]}, game_players {in_column[:40]}"
    if ai is None:
        return
    config = _config(record)
    if config is not None and not ai.can_play(config):
        yield FindingCode.OUTSIDE_CAPABILITIES, f"{ai.name} plays {ai.domain}, not {config.key}"
    if ai.status in (Status.DEPRECATED, Status.ARCHIVED):
        yield FindingCode.DEPRECATED, f"{ai.name}: {ai.deprecation}"
    if isinstance(named, AIType) and record.row.get("source") == SOAK_SOURCE and ai.name not in SOAK_PLAYS:
        yield FindingCode.REPLACED, f"{ai.name} is recorded; the soak makes a heuristic of it"


def _missing(record: GameRecord, in_column: str | None) -> str:
    """Why no AI counts as recorded, and what the engine mode says about it."""
    reason = (
        f"game_players says {in_column}, which RingRift writes when it knows none" if in_column else "neither place names an AI"
    )
    mode = engine_mode(_text(record.row.get("engine_mode")))
    return f"{reason}; engine mode {mode.name} plays {', '.join(mode.types)}" if mode and mode.types else reason


def _same(one: str, other: str) -> bool:
    """Whether two recorded names mean the same entry of the registry."""
    try:
        return _name(resolve(one)) == _name(resolve(other))
    except UnknownAI:
        return one == other


def _name(entry: AIType | Alias | None) -> str | None:
    return entry and entry.name


def _players(record: GameRecord, columns: Mapping[int, object]) -> list[int]:
    """The numbers of the players: 1 to `num_players` of the game, or else those with a row in `game_players`."""
    count = record.row.get("num_players")
    return list(range(1, count + 1)) if type(count) is int and count in PLAYER_COUNTS else sorted(columns)


def _config(record: GameRecord) -> Config | None:
    board, players = record.row.get("board_type"), record.row.get("num_players")
    return Config(board, players) if board in BOARDS and type(players) is int and players in PLAYER_COUNTS else None


def _text(value: object) -> str | None:
    """A recorded name; None where none is recorded or it is blank."""
    return None if value is None or not str(value).strip() else str(value)
