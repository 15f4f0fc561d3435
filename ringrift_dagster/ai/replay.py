"""Replay of the AIs of recorded games: whether the recorded AI, with the recorded seed, chooses the recorded moves.

Only games of this project's own policies can be replayed: their decisions follow from the position and the seed. Legality is
judged by `canonical.gate`, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ringrift_dagster.ai.playing import move_generator
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import LegalMoves, Policy
from ringrift_dagster.ai.registry import InvalidSpec, PolicySpec, parse_spec
from ringrift_dagster.ai.seeds import SEPARATOR
from ringrift_dagster.ai.selfplay import ABOUT_PREFIX, ENGINE_VERSION
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import GameRecord, recorded_metadata
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.move_records import as_recorded, move_key
from ringrift_dagster.games.moves import MoveLog, MoveType, PackedMoves, UnreadableMove, pack
from ringrift_dagster.games.position import Position, UnreadableState, canonical_start, read_position
from ringrift_dagster.games.recording import SOURCE
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import play

SAME, DIFFERENT, CANNOT = "same", "different", "cannot"


@dataclass(frozen=True)
class AiReplay:
    """The result of replaying the AIs of one game.

    `outcome` is `same` (the AIs choose every recorded move), `different` (`move_number`, from 0, is the first that they do not
    choose) or `cannot` (the AIs cannot be replayed, for the reason in `detail`). `decisions` counts the choices that were compared.
    """

    game_id: str
    outcome: str
    decisions: int = 0
    move_number: int | None = None
    detail: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _NotReplayable(Exception):
    """The AIs of a game cannot be replayed; the message says why."""


def replay_ais(records: Iterable[GameRecord]) -> list[AiReplay]:
    """Replay the AIs of every game; a policy is made once for each config and spec. Never raises for what a record contains."""
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
    except _NotReplayable as error:
        return AiReplay(record.game_id, CANNOT, detail=str(error))
    except (UnreadableMove, UnreadableState, ValueError, RecursionError) as error:
        return AiReplay(record.game_id, CANNOT, detail=f"the record cannot be read: {error}"[:200])
    for spec in set(specs):
        if (config, spec) not in policies:
            policies[config, spec] = POLICIES[spec.name](config, spec.budget)
    tables, legal = topology(config.board), buffers(config.board)
    seating = list(range(config.players))
    decisions = 0
    for number, row in enumerate(moves.rows):
        count = int(list_moves(tables, position, legal.rows, legal.cells))
        if count == 0:
            return AiReplay(record.game_id, DIFFERENT, decisions, number, "the game has already ended")
        chosen = 0
        if count > 1:
            player = int(position.player)
            policy = policies[config, specs[seating[player - 1]]]
            chosen = policy(position, LegalMoves(legal.rows[:count], legal.cells), move_generator(path, player, number)).index
            decisions += 1
        choice = _as_single(config, legal.rows[chosen], legal.cells)
        recorded = _as_single(config, row, moves.cells)
        if not _same(choice, recorded):
            names = _name(config, row), _name(config, choice.rows[0])
            detail = f"recorded is {names[0]}, chosen is {names[1]}"
            if names[0] == names[1]:
                detail += f" with another {_differing(recorded, choice)}"
            return AiReplay(record.game_id, DIFFERENT, decisions, number, detail)
        play(tables, position, legal.rows[chosen].copy(), legal.cells)
        if row[m.TYPE] == MoveType.SWAP_SIDES:
            seating.reverse()
    return AiReplay(record.game_id, SAME, decisions)


def _start(record: GameRecord) -> tuple[Config, Position]:
    """Config and first position, which is the canonical one: the list of moves has no room for positions that no game reaches."""
    config, recorded = read_position(orjson.loads(record.initial_state or b""))
    start = canonical_start(config, recorded)
    if start is None:
        raise _NotReplayable("the game does not begin at the canonical starting position")
    return config, start


def _as_single(config: Config, row: NDArray[np.int64], cells: NDArray[np.int64]) -> PackedMoves:
    """One move as a list of its own, in the form in which it is read back from a database."""
    log = MoveLog()
    log.append(row, cells)
    try:
        return as_recorded(config, log.packed())
    except (ValueError, IndexError):
        return log.packed()  # no legal move looks like this


def _name(config: Config, row: NDArray[np.int64]) -> str:
    """A move as text: type, origin, destination, and the number of rings of a placement."""
    try:
        name = move_key(config, row.tolist())
    except ValueError:
        return "no move that the rules know"
    return name if row[m.COUNT] == m.NOT_GIVEN else f"{name} ({row[m.COUNT]} rings)"


def _differing(recorded: PackedMoves, chosen: PackedMoves) -> str:
    """Which columns of two moves differ, as text."""
    columns = [name for name, one, other in zip(m.COLUMNS, recorded.rows[0], chosen.rows[0], strict=True) if one != other]
    return ", ".join(columns) or "list of cells"


def _same(first: PackedMoves, second: PackedMoves) -> bool:
    return np.array_equal(first.rows, second.rows) and np.array_equal(first.cells, second.cells)


def _metadata(record: GameRecord) -> Mapping[str, Any]:
    metadata = recorded_metadata(record.row)
    if metadata is None:
        raise _NotReplayable("the game's metadata are no JSON object")
    return metadata


def _specs(metadata: Mapping[str, Any], config: Config) -> list[PolicySpec]:
    """The policies of the seats. Raises _NotReplayable unless all are this project's policies, played by its own engine."""
    seats = range(1, config.players + 1)
    names = [metadata.get(f"player_{player}_ai_type") for player in seats]
    for player, name in zip(seats, names, strict=True):
        if name is None:
            raise _NotReplayable(f"the AI of player {player} is not recorded")
        _spec(player, name, config)
    if metadata.get("source") != SOURCE:
        raise _NotReplayable("played by another engine, whose AIs of the same name choose otherwise")
    profiles = [metadata.get(f"player_{player}_profile_id", name) for player, name in zip(seats, names, strict=True)]
    specs = [_spec(player, profile, config) for player, profile in zip(seats, profiles, strict=True)]
    for player, name, spec in zip(seats, names, specs, strict=True):
        if _spec(player, name, config).name != spec.name:
            raise _NotReplayable(f"the AI of player {player} is recorded as {name}, its profile as {spec}")
    return specs


def _spec(player: int, text: object, config: Config) -> PolicySpec:
    try:
        return parse_spec(str(text), config)
    except InvalidSpec as error:
        raise _NotReplayable(f"player {player}: {str(error).partition(';')[0]}") from error


def _seed_path(metadata: Mapping[str, Any], config: Config) -> tuple[str, ...]:
    path = metadata.get("seed_path")
    if not isinstance(path, str):
        raise _NotReplayable("no seed path is recorded")
    words = tuple(path.split(SEPARATOR))
    if len(words) != 3 or words[1] != config.key or not all(words):
        raise _NotReplayable(f"{path[:60]!r} is no seed path of a {config.key} game")
    version = metadata.get(f"{ABOUT_PREFIX}engine_version")
    if str(version) != ENGINE_VERSION:
        raise _NotReplayable(f"played by version {str(version)[:20]} of the engine, this is version {ENGINE_VERSION}")
    return words
