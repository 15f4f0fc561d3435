"""Replaying the decisions of recorded games: does the AI that a record names choose the recorded moves again?

Only games of our own policies can be asked: their decisions follow from the position and the seed. Whether moves are legal is the
gate's question, not asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import LegalMoves, Policy
from ringrift_dagster.ai.registry import InvalidSpec, PolicySpec, parse_spec
from ringrift_dagster.ai.seeds import SEPARATOR
from ringrift_dagster.ai.selfplay import ABOUT_PREFIX, ENGINE_VERSION, move_generator
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import GameRecord
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.move_records import as_recorded, move_key
from ringrift_dagster.games.moves import MoveLog, MoveType, PackedMoves, UnreadableMove, pack
from ringrift_dagster.games.position import Position, UnreadableState, empty_position, read_position
from ringrift_dagster.games.recording import SOURCE
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import play

SAME, DIFFERENT, CANNOT = "same", "different", "cannot"


@dataclass(frozen=True)
class AiReplay:
    """What came of asking the AIs of one game again.

    `outcome` is `same` (every move is chosen again), `different` (`move_number` is the first that is not) or `cannot`, with the
    reason in `detail`. `decisions` counts the choices that were compared.
    """

    game_id: str
    outcome: str
    decisions: int = 0
    move_number: int | None = None
    detail: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Cannot(Exception):
    """The game cannot be asked; the message says why."""


def replay_ais(records: Iterable[GameRecord]) -> list[AiReplay]:
    """Ask the AIs of every game again; policies are made once for a config. Never raises for what a record contains."""
    policies: dict[tuple[Config, PolicySpec], Policy] = {}
    return [_replay_one(record, policies) for record in records]


def _replay_one(record: GameRecord, policies: dict[tuple[Config, PolicySpec], Policy]) -> AiReplay:
    if record.damage is not None:
        return AiReplay(record.game_id, CANNOT, detail=f"the record cannot be read: {record.damage}"[:200])
    try:
        config, position = _start(record)
        moves = pack([move.record for move in record.moves], coordinates(config.board))
        metadata = _metadata(record)
        specs = _specs(metadata, config)
        path = _seed_path(metadata, config)
    except _Cannot as error:
        return AiReplay(record.game_id, CANNOT, detail=str(error))
    except (UnreadableMove, UnreadableState, ValueError, RecursionError) as error:
        return AiReplay(record.game_id, CANNOT, detail=f"the record cannot be read: {error}"[:200])
    for spec in set(specs):
        policies.setdefault((config, spec), POLICIES[spec.name](config, spec.budget))
    tables, listed = topology(config.board), buffers(config.board)
    seating = list(range(config.players))
    decisions = 0
    for number, row in enumerate(moves.rows):
        count = int(list_moves(tables, position, listed.rows, listed.cells))
        if count == 0:
            return AiReplay(record.game_id, DIFFERENT, decisions, number, "the game is over by then")
        chosen = 0
        if count > 1:
            player = int(position.player)
            policy = policies[config, specs[seating[player - 1]]]
            chosen = policy(position, LegalMoves(listed.rows[:count], listed.cells), move_generator(path, player, number)).index
            decisions += 1
        again = _alone(config, listed.rows[chosen], listed.cells)
        if not _same(again, _alone(config, row, moves.cells)):
            detail = f"recorded is {_name(config, row)}, chosen is {_name(config, again.rows[0])}"
            return AiReplay(record.game_id, DIFFERENT, decisions, number, detail)
        play(tables, position, listed.rows[chosen].copy(), listed.cells)
        if row[m.TYPE] == MoveType.SWAP_SIDES:
            seating.reverse()
    return AiReplay(record.game_id, SAME, decisions)


def _start(record: GameRecord) -> tuple[Config, Position]:
    """Config and first position, which is the canonical one: the list of moves has no room for positions that no game reaches."""
    config, recorded = read_position(orjson.loads(record.initial_state or b""))
    start = empty_position(config, swap_rule=bool(recorded.swap_rule))
    recorded.lps_mask[:] = 0  # decides nothing before the first move
    if recorded.tobytes() != start.tobytes():
        raise _Cannot("the game does not begin at the canonical starting position")
    return config, start


def _alone(config: Config, row: NDArray[np.int64], cells: NDArray[np.int64]) -> PackedMoves:
    """One move by itself, as it is read back from a database."""
    log = MoveLog()
    log.append(row, cells)
    try:
        return as_recorded(config, log.packed())
    except (ValueError, IndexError):
        return log.packed()  # no legal move looks like this


def _name(config: Config, row: NDArray[np.int64]) -> str:
    """A move in words: type, origin and destination, and of a placement how many rings."""
    try:
        name = move_key(config, row.tolist())
    except ValueError:
        return "no move that the rules know"
    return name if row[m.COUNT] == m.NOT_GIVEN else f"{name} ({row[m.COUNT]} rings)"


def _same(first: PackedMoves, second: PackedMoves) -> bool:
    return np.array_equal(first.rows, second.rows) and np.array_equal(first.cells, second.cells)


def _metadata(record: GameRecord) -> Mapping[str, Any]:
    try:
        metadata = orjson.loads(record.row.get("metadata_json") or "{}")
    except (ValueError, TypeError):
        metadata = None
    if not isinstance(metadata, dict):
        raise _Cannot("the game's metadata are no JSON object")
    return metadata


def _specs(metadata: Mapping[str, Any], config: Config) -> list[PolicySpec]:
    """Who played each seat. First whether all are AIs of ours, then whether it was our engine that played them."""
    seats = range(1, config.players + 1)
    names = [metadata.get(f"player_{player}_ai_type") for player in seats]
    for player, name in zip(seats, names, strict=True):
        if name is None:
            raise _Cannot(f"the AI of player {player} is not recorded")
        _spec(player, name, config)
    if metadata.get("source") != SOURCE:
        raise _Cannot("played by another engine, whose AIs of the same name choose otherwise")
    profiles = [metadata.get(f"player_{player}_profile_id", name) for player, name in zip(seats, names, strict=True)]
    specs = [_spec(player, profile, config) for player, profile in zip(seats, profiles, strict=True)]
    for player, name, spec in zip(seats, names, specs, strict=True):
        if _spec(player, name, config).name != spec.name:
            raise _Cannot(f"the AI of player {player} is recorded as {name}, its profile as {spec}")
    return specs


def _spec(player: int, text: object, config: Config) -> PolicySpec:
    try:
        return parse_spec(str(text), config)
    except InvalidSpec as error:
        raise _Cannot(f"player {player}: {str(error).partition(';')[0]}") from error


def _seed_path(metadata: Mapping[str, Any], config: Config) -> tuple[str, ...]:
    path = metadata.get("seed_path")
    if not isinstance(path, str):
        raise _Cannot("no seed path is recorded")
    words = tuple(path.split(SEPARATOR))
    if len(words) != 3 or words[1] != config.key or not all(words):
        raise _Cannot(f"{path[:60]!r} is no seed path of a {config.key} game")
    version = metadata.get(f"{ABOUT_PREFIX}engine_version")
    if version != ENGINE_VERSION:
        raise _Cannot(f"played by version {str(version)[:20]} of the engine, this is version {ENGINE_VERSION}")
    return words
