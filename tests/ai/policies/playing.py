"""Playing games with policies, as self-play does: one generator a move, derived from the whole path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves, Policy
from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.position import ACTIVE, Position, empty_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import play


class Played(NamedTuple):
    """A game as far as it was played."""

    winner: int
    moves: int
    digest: str  # of every move and every count of visits


def make(ai: str, config: Config) -> Policy:
    """The policy that `ai` names, e.g. `mcts:64`."""
    spec = parse_spec(ai, config)
    return POLICIES[spec.name](config, spec.budget)


def play_game(
    key: str,
    seats: Mapping[int, Policy],
    number: int,
    *,
    most: int = 100_000,
    root: str = "tests",
    start: Position | None = None,
    look: Callable[[Position, LegalMoves, Choice], None] = lambda position, moves, choice: None,
) -> Played:
    """One game of a config, or its first `most` moves; `look` sees every choice before it is played."""
    config = parse_config(key)
    tables, position = topology(config.board), empty_position(config) if start is None else start
    rows, cells = buffers(config.board)
    digest, played = hashlib.sha256(), 0
    while position.status == ACTIVE and played < most:
        count = list_moves(tables, position, rows, cells)
        player, moves = int(position.player), LegalMoves(rows[:count], cells)
        choice = seats[player](position, moves, generator(root, key, number, player, played, "policy"))
        look(position, moves, choice)
        digest.update(rows[choice.index].astype("<i8").tobytes())
        if choice.visits is not None:
            digest.update(choice.visits.astype("<i8").tobytes())
        play(tables, position, rows[choice.index], cells)
        played += 1
    return Played(int(position.winner), played, digest.hexdigest()[:16])


def all_seats(ai: str, key: str) -> dict[int, Policy]:
    """One policy in every seat."""
    config = parse_config(key)
    return dict.fromkeys(range(1, config.players + 1), make(ai, config))


def wins(ai: str, opponent: str, key: str, games: int) -> int:
    """Games won by `ai`, which takes each seat in turn with opponents in all others."""
    config = parse_config(key)
    one, other, won = make(ai, config), make(opponent, config), 0
    for number in range(games):
        own = number % config.players + 1
        won += play_game(key, {seat: one if seat == own else other for seat in range(1, 5)}, number).winner == own
    return won


def snapshot(position: Position) -> bytes:
    """Everything of a position but its scratch space."""
    return b"".join(np.asarray(position[name]).tobytes() for name in position.dtype.names or () if name not in ("out", "seen"))
