"""Replay of the AIs of recorded games: our own choose the recorded moves, and the first changed move is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves, Policy
from ringrift_dagster.ai.policies.uniform import random_policy
from ringrift_dagster.ai.registry import PolicySpec, parse_specs
from ringrift_dagster.ai.replay import CANNOT, DIFFERENT, SAME, AiReplay, replay_ais
from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.ai.selfplay import Player, SelfPlay, record
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.games.geometry import coordinates
from ringrift_dagster.games.moves import MoveType
from ringrift_dagster.games.position import Position

pytestmark = pytest.mark.timeout(900)  # where machine code has to be compiled first, on a machine that others share

RUNS = (
    ("square8_2p", "random", False),
    ("square8_2p", "heuristic,mcts:8", True),
    ("square8_3p", "mcts:4,random", False),
    ("hex8_4p", "heuristic", False),
    ("square19_2p", "random", False),
)
GAMES = 3


def games_of(key: str, ais: str, swap_rule: bool, folder: Path, games: int = GAMES) -> list[GameRecord]:
    config = parse_config(key)
    path = folder / f"{key}.db"
    record(SelfPlay(config, 5, parse_specs(ais, config), swap_rule), games, path)
    return read(path)


def read(path: Path) -> list[GameRecord]:
    with GameDatabase(path) as database:
        return list(database.games())


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> GameRecord:
    """A game of a search against a random player."""
    return games_of("square8_2p", "mcts:8,random", False, tmp_path_factory.mktemp("replay"), 1)[0]


def replayed(changed: GameRecord) -> AiReplay:
    (answer,) = replay_ais([changed])
    assert answer.game_id == changed.game_id
    return answer


def with_metadata(game: GameRecord, **values: Any) -> GameRecord:
    """The game with these metadata; None takes one away."""
    metadata = {**orjson.loads(game.row["metadata_json"]), **values}
    kept = {name: value for name, value in metadata.items() if value is not None}
    return replace(game, row={**game.row, "metadata_json": orjson.dumps(kept).decode()})


@pytest.mark.parametrize(("key", "ais", "swap_rule"), RUNS, ids=str)
def test_our_games_are_chosen_again(key: str, ais: str, swap_rule: bool, tmp_path: Path) -> None:
    games = games_of(key, ais, swap_rule, tmp_path)
    answers = replay_ais(games)
    assert [(answer.outcome, answer.move_number, answer.detail) for answer in answers] == [(SAME, None, None)] * GAMES
    assert all(0 < answer.decisions <= len(game.moves) for answer, game in zip(answers, games, strict=True))


@pytest.fixture
def swapped_game(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GameRecord:
    """A game in which player 2, at random otherwise, swaps sides: our AIs hardly ever do."""

    def eager(config: Config, budget: int | None) -> Policy:
        otherwise = random_policy(config, budget)

        def choose(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
            swap = np.flatnonzero(moves.rows[:, m.TYPE] == MoveType.SWAP_SIDES)
            return Choice(int(swap[0])) if len(swap) else otherwise(position, moves, generator)

        return choose

    monkeypatch.setitem(POLICIES, "random", eager)
    return games_of("hex8_2p", "heuristic,random", True, tmp_path, 1)[0]


def test_a_game_in_which_sides_were_swapped_is_chosen_again(swapped_game: GameRecord) -> None:
    assert any(move.kind == "swap_sides" for move in swapped_game.moves)
    assert replayed(swapped_game).outcome == SAME


def test_a_swap_that_is_taken_out_is_named(swapped_game: GameRecord) -> None:
    moves = swapped_game.moves
    number = next(i for i, move in enumerate(moves) if move.kind == "swap_sides")
    answer = replayed(replace(swapped_game, moves=moves[:number] + moves[number + 1 :]))
    assert (answer.outcome, answer.move_number) == (DIFFERENT, number)
    assert answer.detail is not None
    assert "chosen is swap_sides" in answer.detail


def test_a_changed_move_is_named(game: GameRecord) -> None:
    """The first move of all that another could take the place of, and what was chosen there."""
    number = next(i for i, move in enumerate(game.moves) if i > 20 and move.kind == "place_ring")
    moves = list(game.moves)
    moves[number] = replace(moves[number], record={**moves[number].record, "placementCount": 7})
    answer = replayed(replace(game, moves=moves))
    assert (answer.outcome, answer.move_number) == (DIFFERENT, number)
    was = game.moves[number].record
    where = f"place_ring_{was['to']['x']},{was['to']['y']}"
    assert answer.detail == f"recorded is {where} (7 rings), chosen is {where} ({was['placementCount']} rings)"
    moves[number] = replace(moves[number], record={**was, "player": 3 - was["player"]})
    same = f"{where} ({was['placementCount']} rings)"
    assert replayed(replace(game, moves=moves)).detail == f"recorded is {same}, chosen is {same} with another player"
    moves[number] = replace(moves[number], record={**was, "type": "castle"})
    assert replayed(replace(game, moves=moves)).detail == (
        f"recorded is no move that the rules know, chosen is {where} ({was['placementCount']} rings)"
    )


def test_moves_after_the_end_are_named(game: GameRecord) -> None:
    answer = replayed(replace(game, moves=[*game.moves, game.moves[-1]]))
    assert (answer.outcome, answer.move_number, answer.detail) == (DIFFERENT, len(game.moves), "the game has already ended")


def test_a_changed_seed_is_named_where_it_first_makes_a_difference(game: GameRecord) -> None:
    path = orjson.loads(game.row["metadata_json"])["seed_path"]
    assert path == "5/square8_2p/0"
    other = Player(SelfPlay(parse_config("square8_2p"), 6, (PolicySpec("mcts", 8), PolicySpec("random")))).game(0)
    answer = replayed(with_metadata(game, seed_path="6/square8_2p/0"))
    assert answer.outcome == DIFFERENT
    assert answer.move_number is not None
    same = answer.move_number
    recorded = m.pack([move.record for move in game.moves], coordinates("square8")).rows
    assert (recorded[:same] == other.moves.rows[:same]).all(), "until then the other seed gives the same moves"
    assert (recorded[same] != other.moves.rows[same]).any()


@pytest.mark.parametrize(
    "values",
    [
        {"player_1_profile_id": "mcts:9"},
        {"player_1_ai_type": "heuristic", "player_1_profile_id": "heuristic"},
        {"player_2_ai_type": "heuristic", "player_2_profile_id": None},
        {
            "player_1_ai_type": "random",
            "player_1_profile_id": "random",
            "player_2_ai_type": "mcts",
            "player_2_profile_id": "mcts:8",
        },
    ],
    ids=["budget", "ai", "ai without a profile", "seats exchanged"],
)
def test_a_changed_ai_is_named_where_it_first_chooses_otherwise(game: GameRecord, values: dict[str, str]) -> None:
    answer = replayed(with_metadata(game, **values))
    assert answer.outcome == DIFFERENT
    assert answer.move_number is not None
    assert answer.detail is not None
    assert "recorded is" in answer.detail


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"seed_path": None}, "no seed path is recorded"),
        ({"seed_path": "5/hex8_2p/0"}, "'5/hex8_2p/0' is no seed path of a square8_2p game"),
        ({"seed_path": "5//0"}, "'5//0' is no seed path of a square8_2p game"),
        ({"seed_path": 5}, "no seed path is recorded"),
        ({"selfplay_engine_version": "0"}, "played by version 0 of the engine, this is version 1"),
        ({"selfplay_engine_version": None}, "played by version None of the engine, this is version 1"),
        ({"source": "soak_test"}, "played by another engine, whose AIs of the same name choose otherwise"),
        ({"player_2_ai_type": None}, "the AI of player 2 is not recorded"),
        ({"player_1_ai_type": "random"}, "the AI of player 1 is recorded as random, its profile as mcts:8"),
        ({"player_1_profile_id": "mcts:0"}, "player 1: '0' is no budget for mcts: write mcts:N with 1 to"),
        ({"player_1_ai_type": "descent"}, "player 1: descent is played by RingRift only: "),
        ({"player_1_ai_type": "descent_nn"}, "player 1: descent_nn is no AI type but a name that RingRift uses"),
        ({"player_1_ai_type": "deep_blue"}, "player 1: "),
        ({"player_1_ai_type": ["mcts"]}, "player 1: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_game_that_cannot_be_replayed_says_why(game: GameRecord, values: dict[str, Any], reason: str) -> None:
    answer = replayed(with_metadata(game, **values))
    assert (answer.outcome, answer.decisions, answer.move_number) == (CANNOT, 0, None)
    assert answer.detail is not None
    assert answer.detail.startswith(reason)
    assert "\n" not in answer.detail


@pytest.mark.parametrize(
    "broken",
    [
        {"initial_state": None},
        {"initial_state": b"{}"},
        {"initial_state": b"[1]"},
        {"initial_state": b"\xff"},
        {"damage": "move_json of move 3 is no JSON"},
    ],
    ids=str,
)
def test_a_damaged_game_cannot_be_replayed(game: GameRecord, broken: dict[str, Any]) -> None:
    answer = replayed(replace(game, **broken))
    assert answer.outcome == CANNOT
    assert answer.detail is not None
    assert answer.detail.startswith("the record cannot be read: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"lpsConsecutiveExclusiveRounds": 10**12},
        {"victoryThreshold": 1},
        {"currentPhase": "movement"},
        {"chainCaptureState": {"currentPosition": {"x": 0, "y": 0}}},
    ],
    ids=str,
)
def test_a_game_that_begins_elsewhere_cannot_be_replayed(game: GameRecord, changes: dict[str, Any]) -> None:
    state = orjson.loads(game.initial_state or b"")
    answer = replayed(replace(game, initial_state=orjson.dumps({**state, **changes})))
    assert answer == AiReplay(game.game_id, CANNOT, detail="the game does not begin at the canonical starting position")


@pytest.mark.parametrize("metadata", [None, "", "[]", "{", "null", "7"])
def test_metadata_that_are_no_object_are_no_reason_to_fail(game: GameRecord, metadata: str | None) -> None:
    answer = replayed(replace(game, row={**game.row, "metadata_json": metadata}))
    assert answer.outcome == CANNOT
    assert answer.detail in ("the AI of player 1 is not recorded", "the game's metadata are no JSON object")


def test_unreadable_moves_are_no_reason_to_fail(game: GameRecord) -> None:
    answer = replayed(replace(game, moves=[replace(game.moves[0], record={"type": "place_ring"}), *game.moves[1:]]))
    assert answer.outcome == CANNOT


@pytest.mark.parametrize("name", ["canonical_square8_2p_mixed22", "square8_2p_probs", "canonical_hex8_2p", "square8_4p_1"])
def test_ringrifts_games_cannot_be_replayed(name: str, recorded: Callable[[str], Path]) -> None:
    """The registry's reason where it has one; an AI with the name of one of ours is another engine's."""
    for game in read(recorded(name)):
        answer = replayed(game)
        assert answer.outcome == CANNOT
        assert answer.detail is not None
        assert "not recorded" in answer.detail or "RingRift" in answer.detail or "another engine" in answer.detail, answer.detail
