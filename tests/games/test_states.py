"""States are written as RingRift writes them, and read back as the positions they were written from."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIGS, Config
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.games.fingerprint import fingerprint
from ringrift_dagster.games.geometry import NO_CELL, topology
from ringrift_dagster.games.position import COMPLETED, Position, empty_position, read_position
from ringrift_dagster.games.replay import positions
from ringrift_dagster.games.states import Capture, state_json
from tests.games.played import RECORDED, played

TIME = "2026-01-01T00:00:00"
OF_THE_HISTORY = {"createdAt", "lastMoveAt", "moveHistory", "zobristHash", "lpsRoundIndex", "lpsExclusivePlayerForCompletedRound"}
"""Fields of a state that a position does not tell."""


AT_THE_END = {
    "currentPlayer",  # of a game that was resigned
    "lpsCurrentRoundActorMask",  # RingRift counts one round more or less once the game is over
    "lpsConsecutiveExclusivePlayer",
    "lpsConsecutiveExclusiveRounds",
}
"""Fields of a finished game's state that decide nothing any more and differ."""


def _state(config: Config, position: Position, captures: Sequence[Capture] = ()) -> dict[str, Any]:
    state = state_json(config, position, created=TIME, last_move=TIME, difficulties=[10] * config.players, captures=captures)
    return orjson.loads(orjson.dumps(state))


def _comparable(state: dict[str, Any]) -> dict[str, Any]:
    def without_nulls(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_nulls(part) for name, part in value.items() if part is not None}
        return [without_nulls(part) for part in value] if isinstance(value, list) else value

    return without_nulls({name: value for name, value in state.items() if name not in OF_THE_HISTORY})


@pytest.mark.parametrize("name", RECORDED)
def test_initial_states_equal_those_of_ringrift(name: str, recorded: Callable[[str], Path]) -> None:
    with GameDatabase(recorded(name)) as database:
        for record in database.games():
            theirs = orjson.loads(record.initial_state or b"")
            config, start = read_position(theirs)
            start.lps_mask[:] = 0  # RingRift records a leftover here
            theirs["lpsCurrentRoundActorMask"] = {}
            ours = _state(config, start)
            assert _comparable(ours) == _comparable(theirs)
            assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_states_within_games_equal_those_of_ringrift(name: str, recorded: Callable[[str], Path]) -> None:
    path = recorded(name)
    compared = 0
    with GameDatabase(path) as database, closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        for record in database.games():
            game = played(record)
            snapshots = dict(
                connection.execute(
                    "SELECT move_number + 1, state_json FROM game_state_snapshots WHERE game_id = ?", (record.game_id,)
                )
            )
            start = empty_position(game.config, swap_rule=game.swap_rule, variant=game.variant)
            captures: list[Capture] = []
            for index, position in enumerate(positions(game.config, start, game.moves)):
                if index and position.chain != NO_CELL:
                    origin, to, target = game.moves.rows[index - 1, [m.ORIGIN, m.TO, m.TARGET]].tolist()
                    captures.append((origin, target, to))
                else:
                    captures.clear()
                if index in snapshots:
                    ours = _comparable(_state(game.config, position, captures))
                    theirs = _comparable(orjson.loads(snapshots[index]))
                    ignored = AT_THE_END if position.status == COMPLETED else set()
                    differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
                    assert differing <= ignored, (record.game_id, index)
                    compared += 1
    assert compared


@pytest.mark.parametrize("name", RECORDED)
def test_every_position_of_a_game_is_read_back_from_its_state(name: str, recorded: Callable[[str], Path]) -> None:
    with GameDatabase(recorded(name)) as database:
        game = played(min(database.games(), key=lambda record: len(record.moves)))
    tables = topology(game.config.board)
    start = empty_position(game.config, swap_rule=game.swap_rule, variant=game.variant)
    for position in positions(game.config, start, game.moves):
        config, again = read_position(_state(game.config, position))
        assert config == game.config
        assert fingerprint(tables, again) == fingerprint(tables, position)
        for field in ("must_move", "chain", "lps_first", "lps_rounds", "lps_player", "swap_rule", "winner"):
            assert again[field] == position[field], field


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.key)
@pytest.mark.parametrize("swap_rule", [0, 1])
def test_the_starting_position_of_every_config_is_read_back_exactly(config: Config, swap_rule: int) -> None:
    start = empty_position(config)
    start.swap_rule = swap_rule if config.players == 2 else 0
    found, again = read_position(_state(config, start))
    assert found == config
    assert again.tobytes() == start.tobytes()
