"""Our rules agree with RingRift's TypeScript engine on every position of the corpus, which shows all that can occur."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from ringrift_dagster.games.config import BOARDS, CONFIGS, Config
from tests.games.rules_corpus import FOLDER, Comparison, CorpusGame, Key, compare, game_from_json, game_to_json, read_corpus

PLAYED = (
    "place_ring 1", "place_ring 2", "place_ring 3", "skip_placement", "no_placement_action", "swap_sides", "move_stack",
    "overtaking_capture", "continue_capture_segment", "skip_capture", "no_movement_action", "recovery_slide line option 1",
    "recovery_slide line option 2", "recovery_slide fallback", "recovery_slide stack_strike", "skip_recovery", "process_line",
    "choose_line_option", "no_line_action", "eliminate_rings_from_stack line", "eliminate_rings_from_stack territory",
    "eliminate_rings_from_stack recovery", "choose_territory_option", "skip_territory_processing", "no_territory_action",
    "forced_elimination",
)  # fmt: skip
OFFERED = (
    "phase ring_placement", "phase movement", "phase capture", "phase chain_capture", "phase line_processing",
    "phase territory_processing", "phase forced_elimination", "phase game_over", "swap offered", "recovery line option 1",
    "recovery line option 2", "recovery fallback", "recovery stack_strike", "line of the required length", "line that is longer",
    "line beside another", "line to be paid for", "region", "region beside another", "region to be paid for, context territory",
    "region to be paid for, context recovery", "ending elimination", "ending territory", "ending last_player_standing by rings",
    "ending last_player_standing by rounds", "ending stalemate with rings in hand",
)  # fmt: skip
"""A stalemate without rings in hand is in no game: whatever takes the last stacks leaves a ring to someone, who then wins."""


@cache
def corpus(config: Config) -> list[CorpusGame]:
    return read_corpus(FOLDER / f"{config.key}.jsonl.xz")


@cache
def compared(config: Config) -> Comparison:
    result = Comparison()
    for game in corpus(config):
        compare(game, result)
    return result


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.key)
def test_every_position_has_the_hash_player_phase_status_and_legal_moves_of_ringrift(config: Config) -> None:
    result = compared(config)
    assert result.disagreements == []
    assert result.positions == sum(len(game.hashes) for game in corpus(config)) >= 2_000


@pytest.mark.parametrize("board", BOARDS)
def test_everything_that_can_occur_does_on_every_board(board: str) -> None:
    occurred = {name for config in CONFIGS if config.board == board for name in compared(config).occurred}
    assert occurred == {*OFFERED, *(f"played {name}" for name in PLAYED)}


def _first(config: Config, wanted: str) -> CorpusGame:
    game_id, _ = compared(config).occurred[wanted][0]
    game = next(game for game in corpus(config) if game.game_id == game_id)
    return replace(game, moves=list(game.moves), hashes=list(game.hashes), changes=[set(change) for change in game.changes])


def _disagreements(game: CorpusGame) -> list[str]:
    result = Comparison()
    compare(game, result)
    return result.disagreements


def test_what_differs_is_reported() -> None:
    config = CONFIGS[0]
    game = _first(config, "ending territory")
    assert _disagreements(game) == []

    index, key = next((index, min(change)) for index, change in enumerate(game.changes) if len(change) > 1 and _whole(change))
    game.changes[index] ^= {key}
    assert _disagreements(game)[0].startswith(f"{game.game_id}, position {index}: only we list 1: place_ring")
    game.changes[index] ^= {key}

    assert "the winner is" in _disagreements(replace(game, winner=3 - (game.winner or 0)))[0]
    assert "the status is" in _disagreements(replace(game, status="active"))[0]
    game.hashes[7] = game.hashes[6]
    assert _disagreements(game)[0].startswith(f"{game.game_id}, position 7: the hash is")


def _whole(change: set[Key]) -> bool:
    return all(isinstance(key, int) for key in change)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.key)
def test_a_game_is_read_as_it_was_written(config: Config) -> None:
    game = corpus(config)[0]
    assert game_from_json(game_to_json(game)) == game
