"""The evaluation: what is counted, and that nobody is preferred for the number of their seat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from ringrift_dagster.ai.policies.evaluation import WEIGHTS, WON, Feature, count_features, evaluate, settle
from ringrift_dagster.ai.policies.heuristic import best_of, exchange_sides, score_moves, scratch
from ringrift_dagster.ai.policies.interface import LegalMoves
from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.moves import MoveType, Phase, pack
from ringrift_dagster.games.position import ACTIVE, COMPLETED, SEATS, Position, empty_position, read_position
from ringrift_dagster.games.replay import positions
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import add_rings, copy_position
from ringrift_dagster.games.rules.turns import play
from tests.ai.policies.playing import make

RECORDED = ("canonical_square8_2p", "hex8_3p_0", "square8_4p_1", "canonical_hex8_2p", "square19_3p_0", "hexagonal_4p_0")


def recorded_positions(path: Path) -> Iterator[tuple[Config, Position]]:
    """Every position of every game; the same object within a game."""
    with GameDatabase(path) as database:
        for record in database.games():
            config, start = read_position(orjson.loads(record.initial_state or b""))
            start.loose_placement = 1  # one of the games needs it
            moves = pack([move.record for move in record.moves], coordinates(config.board))
            for position in positions(config, start, moves):
                yield config, position


def features_of(config: Config, position: Position) -> np.ndarray:
    features = np.zeros((SEATS, len(Feature)), dtype=np.int64)
    count_features(topology(config.board), position, features)
    return features


def scores_of(config: Config, position: Position) -> list[int]:
    scores = np.zeros(SEATS, dtype=np.int64)
    evaluate(topology(config.board), position, WEIGHTS, np.zeros((SEATS, len(Feature)), dtype=np.int64), scores)
    return scores[1 : config.players + 1].tolist()


@pytest.mark.parametrize("name", RECORDED)
def test_counts_agree_with_the_position(name: str, recorded: Callable[[str], Path]) -> None:
    for config, position in recorded_positions(recorded(name)):
        counted = features_of(config, position)[1 : config.players + 1]
        seats = slice(1, config.players + 1)
        owners, caps = position.owner[: config.spec.cells], position.cap[: config.spec.cells]
        in_caps = np.bincount(owners, caps, minlength=config.players + 1)[1:]
        assert (counted[:, Feature.BURIED] + in_caps).tolist() == position.on_board[seats].tolist()
        assert counted[:, Feature.STACKS].tolist() == np.bincount(owners, minlength=config.players + 1)[1:].tolist()
        assert counted[:, Feature.MARKERS].sum() == (position.marker[: config.spec.cells] > 0).sum()
        assert counted[:, Feature.HAND].tolist() == position.hand[seats].tolist()
        assert counted[:, Feature.THREATENED].sum() <= counted[:, Feature.CAPTURES].sum()
        assert counted[:, Feature.TO_MOVE].sum() == 1


@pytest.mark.parametrize("name", RECORDED)
def test_at_most_one_player_leads_and_nobody_leads_by_more_than_the_next_lags(name: str, recorded: Callable[[str], Path]) -> None:
    for config, position in recorded_positions(recorded(name)):
        scores = sorted(scores_of(config, position))
        if position.status == ACTIVE:
            assert scores[-1] == -scores[-2]
            assert abs(scores[-1]) < WON // 2
        else:
            assert scores == [-WON] * (config.players - 1) + [WON]


@pytest.mark.parametrize("name", ("canonical_square8_2p", "canonical_hex8_2p"))
def test_exchanged_colours_exchange_the_scores(name: str, recorded: Callable[[str], Path]) -> None:
    other = np.array([0, 2, 1])
    for config, position in recorded_positions(recorded(name)):
        before = scores_of(config, position)
        mirrored = position.copy()
        for field in ("rings", "owner", "marker", "collapsed"):
            mirrored[field] = other[position[field]]
        for field in ("hand", "eliminated", "territory", "on_board"):
            mirrored[field][1:3] = position[field][2:0:-1]
        mirrored["player"] = other[position["player"]]
        mirrored["winner"] = other[position["winner"]]
        assert scores_of(config, mirrored.view(np.recarray) if isinstance(mirrored, np.ndarray) else mirrored) == before[::-1]


def test_a_stack_is_threatened_by_one_with_as_high_a_cap_behind_which_there_is_room() -> None:
    config = parse_config("square8_2p")
    position, cell_of = empty_position(config), coordinates("square8").cell_of
    add_rings(position, cell_of[0, 0], 1, 2)
    add_rings(position, cell_of[3, 0], 2, 1)
    counted = features_of(config, position)
    assert counted[1:3, [Feature.CAPTURES, Feature.THREATENED]].tolist() == [[1, 0], [0, 1]]
    add_rings(position, cell_of[3, 0], 2, 2)
    counted = features_of(config, position)
    assert counted[1:3, [Feature.CAPTURES, Feature.THREATENED]].tolist() == [[0, 0], [0, 0]], "nobody jumps over the edge"
    assert counted[1, Feature.MOBILITY] == 3


def test_whoever_can_do_nothing_is_stuck() -> None:
    config = parse_config("hex8_3p")
    position = empty_position(config)
    position.hand[2] = 0
    assert features_of(config, position)[1:4, Feature.STUCK].tolist() == [0, 1, 0]


def test_a_finished_game_without_a_winner_is_even() -> None:
    config = parse_config("square8_4p")
    position = empty_position(config)
    position.status = COMPLETED
    assert scores_of(config, position) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", RECORDED)
def test_settling_ends_where_somebody_chooses(name: str, recorded: Callable[[str], Path]) -> None:
    room = scratch(parse_config(name).board)
    for config, position in recorded_positions(recorded(name)):
        copy_position(position, room.position)
        settle(topology(config.board), room.position, room.rows, room.cells)
        assert room.position.phase not in (Phase.LINE_PROCESSING, Phase.TERRITORY_PROCESSING) or room.position.status != ACTIVE
        if position.phase not in (Phase.LINE_PROCESSING, Phase.TERRITORY_PROCESSING):
            assert room.position.phase == position.phase


@pytest.mark.parametrize("name", RECORDED[:4])
@pytest.mark.parametrize("ai", ["heuristic", "mcts:16"])
def test_a_move_that_wins_is_played(ai: str, name: str, recorded: Callable[[str], Path]) -> None:
    config, chances = parse_config(name), 0
    tables, room, (rows, cells) = topology(config.board), scratch(config.board), buffers(config.board)
    policy = make(ai, config)
    for _, position in recorded_positions(recorded(name)):
        count = list_moves(tables, position, rows, cells)
        winning = set()
        for index in range(count):
            copy_position(position, room.position)
            play(tables, room.position, rows[index], cells)
            settle(tables, room.position, room.rows, room.cells)
            if room.position.status != ACTIVE and room.position.winner == position.player:
                winning.add(index)
        if winning and len(winning) < count:
            chances += 1
            assert policy(position, LegalMoves(rows[:count], cells), generator("wins", chances)).index in winning
    assert chances or name == "hex8_3p_0"


def test_of_equal_scores_any_is_chosen_and_of_others_the_best() -> None:
    scores = np.array([3, 7, -2, 7, 7], dtype=np.int64)
    state = generator("ties")
    counts = np.bincount([best_of(scores, 5, state) for _ in range(3000)], minlength=5)
    assert counts[[0, 2]].sum() == 0
    assert (abs(counts[[1, 3, 4]] - 1000) < 130).all()
    assert best_of(scores, 1, state) == 0


def test_a_swap_is_worth_what_the_opponent_has() -> None:
    """After one strong placement of player 1, taking it is better for player 2 than the position as it is."""
    config = parse_config("square8_2p")
    tables, position, room = topology("square8"), empty_position(config, swap_rule=True), scratch("square8")
    rows, cells = buffers("square8")
    while position.player == 1:
        count = list_moves(tables, position, rows, cells)
        play(tables, position, rows[count - 1], cells)
    count = list_moves(tables, position, rows, cells)
    swap = [index for index in range(count) if rows[index, m.TYPE] == MoveType.SWAP_SIDES]
    assert len(swap) == 1
    scores = np.zeros((count, SEATS), dtype=np.int64)
    score_moves(tables, position, rows, cells, count, WEIGHTS, room, scores)
    expected = np.array([0, *scores_of(config, position), 0, 0])
    exchange_sides(expected)
    assert scores[swap[0]].tolist()[1:3] == expected[1:3].tolist()
