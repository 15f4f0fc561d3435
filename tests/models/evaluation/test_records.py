"""Blocks count by index; a game without a result is never a defeat."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.evaluation.records import MAX_ATTEMPTS, blocks_of, next_blocks, score
from tests.models.evaluation.making import block, game

CONFIG = parse_config("square8_2p")


def test_scores_of_blocks_are_sums() -> None:
    results = list(product(("won", "drawn", "lost"), repeat=2))
    blocks = blocks_of([entry for number, pair in enumerate(results) for entry in block(number, pair)], CONFIG)
    assert blocks.scores == (4, 3, 2, 3, 2, 1, 2, 1, 0)
    assert blocks.counts() == (1, 2, 3, 2, 1)
    assert blocks.counts(3) == (0, 0, 1, 1, 1)
    assert (blocks.mean(), blocks.mean(1)) == (0.5, 1.0)


def test_a_game_that_nobody_wins_is_an_equal_share() -> None:
    assert [score("drawn", players) / players for players in (2, 3, 4)] == [1 / 2, 1 / 3, 1 / 4]
    with pytest.raises(ValueError, match="void"):
        score("void", 2)


def test_a_block_counts_once_all_before_it_do() -> None:
    games = [*block(0, ("won", "won")), *block(2, ("lost", "lost"))]
    blocks = blocks_of(games, CONFIG)
    assert (blocks.scores, blocks.waiting) == ((4,), 1)
    blocks = blocks_of([*games, *block(1, ("won", "lost"))], CONFIG)
    assert (blocks.scores, blocks.waiting) == ((4, 2, 0), 0)


def test_a_void_game_leaves_its_block_out_until_it_is_played_again() -> None:
    games = [*block(0, ("won", "void")), *block(1, ("won", "won"))]
    blocks = blocks_of(games, CONFIG)
    assert (blocks.scores, blocks.void, blocks.waiting) == ((), 1, 1)
    assert next_blocks(games, {0: 0, 1: 0}, CONFIG, 3) == [(0, 1), (2, 0)]
    games += block(0, ("won", "lost"), attempt=1)
    assert blocks_of(games, CONFIG).scores == (2, 4)


def test_a_block_is_tried_a_limited_number_of_times() -> None:
    games = [entry for attempt in range(MAX_ATTEMPTS) for entry in block(0, ("void", "won"), attempt=attempt)]
    assert next_blocks(games, {0: MAX_ATTEMPTS - 1}, CONFIG, 1) == []


def test_of_several_attempts_the_first_whole_one_counts() -> None:
    games = [*block(0, ("lost", "lost"), attempt=2), *block(0, ("won", "won"), attempt=1), *block(0, ("void", "lost"))]
    assert blocks_of(games, CONFIG).scores == (4,)


@given(order=st.permutations([entry for number in range(4) for entry in block(number, ("won", "lost"))]))
def test_the_order_of_arrival_changes_nothing(order: list) -> None:  # type: ignore[type-arg]
    assert blocks_of(order, CONFIG).scores == (2, 2, 2, 2)


def test_hosts_are_compared() -> None:
    games = [*block(0, ("won", "won"), host="a"), *block(1, ("lost", "lost"), host="b"), game(5, 1, "lost", host="c")]
    assert blocks_of(games, CONFIG).hosts == {"a": (2, 0.5), "b": (2, -0.5)}


def test_nothing_is_no_evidence() -> None:
    blocks = blocks_of([], CONFIG)
    assert (blocks.complete, blocks.mean(), blocks.newest, blocks.hosts) == (0, 0.0, None, {})
