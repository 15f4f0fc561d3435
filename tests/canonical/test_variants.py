"""What a game is legal under: the rule, or loose placement; the verdict says which, and what is made of the game follows it.

RingRift recorded games under two territory rules: by the specification a region closed off by collapsed spaces and edges alone may
contain markers, by the faster implementation it may not. Games of both are canonical, on every board.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from ringrift_dagster.canonical.gate import Gate, JudgedGame, verify
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.datasets.canonical_games import append_canonical, check_store, stored_games
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIGS, Config, parse_config
from ringrift_dagster.games.database import GameDatabase, GameRecord, MoveRow
from ringrift_dagster.games.geometry import NO_CELL, Topology
from ringrift_dagster.games.move_records import move_records
from ringrift_dagster.games.moves import MoveLog, MoveType, PackedMoves
from ringrift_dagster.games.position import LOOSE_PLACEMENT, RULE, Position, empty_position
from ringrift_dagster.games.replay import replay
from ringrift_dagster.games.rules.listing import MoveBuffers
from ringrift_dagster.games.states import state_json
from ringrift_dagster.home import Home
from tests.games.rule_playouts import playout

# Seeds of random games in which a region with markers is claimed that only the specification's territory rule knows.
WITH_MARKERS_INSIDE = {
    "square8_2p": 22, "square8_3p": 68, "square8_4p": 4, "square19_2p": 12, "square19_3p": 2, "square19_4p": 41,
    "hex8_2p": 75, "hex8_3p": 112, "hex8_4p": 8, "hexagonal_2p": 0, "hexagonal_3p": 30,
}  # fmt: skip
# Seeds of random games that are legal under loose placement only.
LOOSE = {
    "square8_2p": 335, "square8_3p": 21, "square8_4p": 1, "square19_3p": 30, "square19_4p": 0,
    "hex8_2p": 76, "hex8_3p": 7, "hex8_4p": 4, "hexagonal_2p": 32, "hexagonal_3p": 31, "hexagonal_4p": 2,
}  # fmt: skip


def random_game(config: Config, seed: int, variant: str = RULE) -> tuple[PackedMoves, Position]:
    log, position = MoveLog(), empty_position(config)
    for _, position, listed, count, chosen in playout(config, seed, variant=variant):  # noqa: B007
        if count:
            log.append(listed.rows[chosen], listed.cells)
    return log.packed(), position


def recorded_game(config: Config, moves: PackedMoves, end: Position) -> GameRecord:
    """A record of the game as RingRift would have made it."""
    time = "2026-01-01T00:00:00"
    start = orjson.dumps(state_json(config, empty_position(config), created=time, last_move=time))
    return GameRecord(
        "a game",
        {
            "board_type": config.board,
            "num_players": config.players,
            "game_status": "completed",
            "winner": int(end.winner) or None,
            "total_moves": len(moves),
            "source": "soak_test",
        },
        start,
        [
            MoveRow(number, record["player"], record["phase"], record["type"], record)
            for number, record in enumerate(move_records(config, moves))
        ],
    )


def judge(config: Config, moves: PackedMoves, end: Position) -> JudgedGame:
    return Gate().judge(recorded_game(config, moves, end))


def regions_of_the_fast_rule(tables: Topology, position: Position, listed: MoveBuffers, count: int) -> list[int]:
    """Listed claims that the fast territory rule knows too: of regions with a border of markers, or without a marker inside."""
    known = []
    for index in np.flatnonzero(listed.rows[:count, m.TYPE] == MoveType.CHOOSE_TERRITORY_OPTION).tolist():
        first, length = listed.rows[index, m.FIRST], listed.rows[index, m.FIRST_LENGTH]
        region = listed.cells[first : first + length]
        inside = {int(position.marker[cell]) for cell in region if position.marker[cell]}
        beside = {int(cell) for cell in tables.touching[region].ravel() if cell != NO_CELL} - set(region.tolist())
        enclosed = all(position.collapsed[cell] for cell in beside)
        colours = {int(colour) for colour in np.unique(position.marker) if colour}
        if not (enclosed and inside) or colours - inside:
            known.append(index)
    return known


@pytest.mark.parametrize("key", WITH_MARKERS_INSIDE)
def test_a_region_closed_off_by_collapsed_spaces_may_contain_markers(key: str) -> None:
    config = parse_config(key)
    judged = judge(config, *random_game(config, WITH_MARKERS_INSIDE[key]))
    assert (judged.verdict.reason, judged.verdict.variant) == (None, RULE)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.key)
def test_what_the_fast_territory_rule_knows_is_legal_under_the_rule_and_it_knows_something_where_the_rule_does(
    config: Config,
) -> None:
    claims = 0
    for seed in range(30 if config.spec.cells < 100 else 3):
        for tables, position, listed, count, _ in playout(config, seed):
            if count and (listed.rows[:count, m.TYPE] == MoveType.CHOOSE_TERRITORY_OPTION).any():
                claims += 1
                assert regions_of_the_fast_rule(tables, position, listed, count)
    assert claims > 0


@pytest.mark.parametrize("key", LOOSE)
def test_a_game_of_loose_placement_is_canonical_and_its_verdict_says_so(key: str) -> None:
    config = parse_config(key)
    moves, end = random_game(config, LOOSE[key], LOOSE_PLACEMENT)
    nothing = np.zeros(len(moves) + 1, dtype=np.uint8)
    assert replay(config, empty_position(config), moves, nothing).played < len(moves)
    judged = judge(config, moves, end)
    assert (judged.verdict.reason, judged.verdict.variant) == (None, LOOSE_PLACEMENT)


def test_a_game_that_neither_allows_is_rejected_for_what_the_rule_says() -> None:
    config = parse_config("square8_3p")
    moves, end = random_game(config, LOOSE["square8_3p"], LOOSE_PLACEMENT)
    unlucky = int(replay(config, empty_position(config), moves, np.zeros(len(moves) + 1, dtype=np.uint8)).played)
    rows = moves.rows.copy()
    rows[unlucky + 1 :, m.PLAYER] = rows[unlucky + 1 :, m.PLAYER] % config.players + 1
    judged = judge(config, PackedMoves(rows, moves.cells), end)
    assert (judged.verdict.reason, judged.verdict.variant, judged.verdict.move_number) == ("illegal_move", None, unlucky)


def test_verdicts_and_stores_remember_the_variant_and_exports_replay_under_it(
    recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    path, home = recorded("canonical_hex8_2p"), Home(tmp_path)
    assert verify([path])[0].variants == {RULE: 19, LOOSE_PLACEMENT: 1}
    append_canonical("hex8_2p", [path], home)
    config = parse_config("hex8_2p")
    variants = [game.variant for game in stored_games(config, home)]
    assert (variants.count(RULE), variants.count(LOOSE_PLACEMENT)) == (19, 1)
    assert check_store("hex8_2p", home) == []
    for game in stored_games(config, home):
        wanted = np.zeros(len(game.moves) + 1, dtype=np.uint8)
        assert replay(config, game.start(config), game.moves, wanted).played == len(game.moves)
    with VerdictStore(home.verdicts) as store, GameDatabase(path) as database:
        again = [Gate(store).judge(record).verdict for record in database.games()]
    assert all(verdict.reused for verdict in again)
    assert sorted(str(verdict.variant) for verdict in again) == [LOOSE_PLACEMENT] + [RULE] * 19
