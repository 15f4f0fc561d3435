"""Policies: always a legal move, always the same one for a seed, and stronger than the one before."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves
from ringrift_dagster.ai.registry import AI_TYPES, BUDGETS
from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.games.config import CONFIG_KEYS, CONFIGS, parse_config
from ringrift_dagster.games.position import Position
from tests.ai.policies.playing import all_seats, make, play_game, snapshot, wins

AIS = ("random", "heuristic", "mcts:8")
SMALL = tuple(config.key for config in CONFIGS if config.spec.cells < 100)
LARGE = tuple(key for key in CONFIG_KEYS if key not in SMALL)

DIGESTS = {
    ("random", "square8_2p"): "c086bcfc91c0ab04",
    ("random", "hexagonal_3p"): "4ea2e6e0cefd241d",
    ("heuristic", "square8_4p"): "4a4691088dad5c1f",
    ("heuristic", "hex8_2p"): "ccf74739f6699ece",
    ("heuristic", "square19_2p"): "2255068d1085ccef",
    ("mcts:8", "square8_2p"): "7ee98ea14f9857ea",
    ("mcts:8", "hex8_3p"): "8a5dc53e820d1aa1",
}
"""Of game 0 to its end. They change with the rules, the order of the list, the weights and the search: then by intention."""


@pytest.mark.parametrize("ai", AIS)
@pytest.mark.parametrize("key", CONFIG_KEYS)
def test_a_policy_chooses_from_the_list_and_leaves_the_position_alone(ai: str, key: str) -> None:
    policy, number = make(ai, parse_config(key)), 0

    def watched(position: Position, moves: LegalMoves, state: np.ndarray, /) -> Choice:
        before, rows = snapshot(position), moves.rows.copy()
        choice = policy(position, moves, state)
        assert snapshot(position) == before
        assert np.array_equal(moves.rows, rows)
        assert 0 <= choice.index < len(moves.rows)
        assert (choice.visits is not None) == (ai == "mcts:8" and len(moves.rows) > 1)
        if choice.visits is not None:
            assert choice.visits.shape == (len(moves.rows),)
            assert choice.visits.min() >= 0
            assert choice.visits.sum() == 8
            assert choice.visits[choice.index] == choice.visits.max()
        return choice

    most = 100_000 if key in SMALL else 60
    played = play_game(key, dict.fromkeys(range(1, 5), watched), number, most=most)
    assert played.moves == most or key in SMALL


@pytest.mark.parametrize("ai", AIS)
def test_the_only_legal_move_costs_nothing(ai: str) -> None:
    policy, singles = make(ai, parse_config("square8_2p")), 0

    def watched(position: Position, moves: LegalMoves, state: np.ndarray, /) -> Choice:
        nonlocal singles
        before = int(state[0])
        choice = policy(position, moves, state)
        if len(moves.rows) == 1:
            singles += 1
            assert (choice.index, choice.visits, int(state[0])) == (0, None, before)
        return choice

    play_game("square8_2p", {1: watched, 2: watched}, 1)
    assert singles > 10


@pytest.mark.parametrize(("ai", "key"), list(DIGESTS), ids=str)
def test_a_seed_gives_the_same_game_for_ever(ai: str, key: str) -> None:
    assert play_game(key, all_seats(ai, key), 0).digest == DIGESTS[ai, key]


@pytest.mark.parametrize("ai", AIS)
def test_other_seeds_give_other_games(ai: str) -> None:
    seats = all_seats(ai, "square8_2p")
    assert len({play_game("square8_2p", seats, number, most=30).digest for number in range(20)}) == 20


@pytest.mark.parametrize("ai", AIS)
def test_a_choice_does_not_depend_on_what_was_asked_before(ai: str) -> None:
    used, fresh = all_seats(ai, "hex8_3p"), all_seats(ai, "hex8_3p")
    play_game("hex8_3p", used, 5, most=50)
    assert play_game("hex8_3p", used, 6, most=50) == play_game("hex8_3p", fresh, 6, most=50)


UNCOMPILED = """
from tests.ai.policies.playing import all_seats, play_game
for ai, key, most in (("random", "square8_4p", 1000), ("heuristic", "hex8_2p", 24), ("mcts:2", "square8_3p", 12)):
    print(play_game(key, all_seats(ai, key), 0, most=most).digest)
"""


def test_games_are_the_same_without_compilation() -> None:
    outputs = []
    for uncompiled in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": uncompiled, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "error::RuntimeWarning", "-c", UNCOMPILED]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        outputs.append(ended.stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].split()) == 3


@pytest.mark.parametrize(("key", "games", "least"), [("square8_2p", 60, 54), ("hex8_2p", 60, 54), ("hex8_3p", 30, 18)])
def test_heuristic_beats_random(key: str, games: int, least: int) -> None:
    assert wins("heuristic", "random", key, games) >= least


@pytest.mark.parametrize("key", ["square8_2p", "hex8_2p"])
def test_mcts_beats_heuristic(key: str) -> None:
    assert wins("mcts:64", "heuristic", key, 20) >= 13


@pytest.mark.parametrize(("name", "budget"), [("random", 1), ("heuristic", 64), ("mcts", 0), ("mcts", -1), ("mcts", 10**6)])
def test_a_budget_that_means_nothing_is_refused(name: str, budget: int) -> None:
    with pytest.raises(ValueError, match=name):
        POLICIES[name](parse_config("square8_2p"), budget)


def test_every_ai_that_the_registry_calls_playable_has_a_policy() -> None:
    assert set(POLICIES) == {ai.name for ai in AI_TYPES.values() if ai.playable}


def test_mcts_has_a_default_budget() -> None:
    visits: list[int] = []
    policy = POLICIES["mcts"](parse_config("hex8_2p"), None)

    def look(position: Position, moves: LegalMoves, choice: Choice) -> None:
        visits.extend([int(choice.visits.sum())] if choice.visits is not None else [])

    play_game("hex8_2p", {1: policy, 2: policy}, 0, most=1, look=look)
    assert visits == [BUDGETS["mcts"].default]


def test_random_is_uniform() -> None:
    policy, moves = make("random", parse_config("square8_2p")), LegalMoves(np.zeros((3, 15), dtype=np.int64), np.zeros(1, np.int64))
    counts = np.bincount([policy(None, moves, generator("uniform", i)).index for i in range(3000)], minlength=3)
    assert counts.sum() == 3000
    assert (abs(counts - 1000) < 5 * (3000 * 2 / 9) ** 0.5).all()
