"""How fast the policies play, and how strong they are against each other.

Every match has a fixed seed and rotates the seats, so its result is the same on every machine; only the speed differs. Games are
played in one process, one move at a time from Python, as self-play does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import LegalMoves, Policy
from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.position import ACTIVE, empty_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import play

SEED = "bench"
SPEED = {"random": 400, "heuristic": 40, "mcts:64": 4}
"""Games that a policy plays against itself, on each of SPEED_CONFIGS."""
SPEED_CONFIGS = ("square8_2p", "hex8_2p")
MATCHES = (
    ("heuristic", "random", "square8_2p", 1000),
    ("heuristic", "random", "hex8_2p", 1000),
    ("heuristic", "random", "square8_3p", 300),
    ("heuristic", "random", "square8_4p", 300),
    ("heuristic", "random", "hex8_3p", 300),
    ("heuristic", "random", "hex8_4p", 300),
    ("mcts:64", "heuristic", "square8_2p", 200),
    ("mcts:64", "heuristic", "hex8_2p", 200),
    ("mcts:64", "heuristic", "square8_3p", 90),
    ("mcts:64", "random", "square8_2p", 100),
)


class Played(NamedTuple):
    """One finished game."""

    winner: int
    moves: int


def make(ai: str, config: Config) -> Policy:
    """The policy that `ai` names, e.g. `mcts:64`."""
    spec = parse_spec(ai, config)
    return POLICIES[spec.name](config, spec.budget)


def play_game(config: Config, seats: Mapping[int, Policy], number: int) -> Played:
    """One game, every move of which has a generator of its own."""
    tables, position = topology(config.board), empty_position(config)
    rows, cells = buffers(config.board)
    moves = 0
    while position.status == ACTIVE:
        count = list_moves(tables, position, rows, cells)
        player = int(position.player)
        state = generator(SEED, config.key, number, player, moves, "policy")
        choice = seats[player](position, LegalMoves(rows[:count], cells), state)
        play(tables, position, rows[choice.index], cells)
        moves += 1
    return Played(int(position.winner), moves)


def win_rate(ai: str, opponent: str, config: Config, games: int) -> tuple[int, float]:
    """Games won by `ai`, which takes each seat in turn with opponents in all others, and games a second."""
    one, other = make(ai, config), make(opponent, config)
    started, won = time.perf_counter(), 0
    for number in range(games):
        own = number % config.players + 1
        seats = {seat: one if seat == own else other for seat in range(1, config.players + 1)}
        won += play_game(config, seats, number).winner == own
    return won, games / (time.perf_counter() - started)


def speed(ai: str, config: Config, games: int) -> tuple[float, float]:
    """Games and moves a second of a policy that plays itself; one game before warms up."""
    seats = dict.fromkeys(range(1, config.players + 1), make(ai, config))
    play_game(config, seats, -1)
    started = time.perf_counter()
    moves = sum(play_game(config, seats, number).moves for number in range(games))
    spent = time.perf_counter() - started
    return games / spent, moves / spent


def run(row: Callable[[str, str, str], None]) -> None:
    """Measure, and pass each figure to `row` as (figure, here, beside)."""
    for key in SPEED_CONFIGS:
        for ai, games in SPEED.items():
            rate, moves = speed(ai, parse_config(key), games)
            row(f"{ai} against itself, {key}, games/s", f"{rate:,.1f}", f"{moves:,.0f} moves/s, {games} games")
    for ai, opponent, key, games in MATCHES:
        config = parse_config(key)
        won, rate = win_rate(ai, opponent, config, games)
        share = won / games
        error = math.sqrt(share * (1 - share) / games)
        beside = f"{won} of {games} won, ±{error:.1%}; {1 / config.players:.0%} would be even; {rate:.1f} games/s"
        row(f"{ai} against {opponent}, {key}, won", f"{share:.1%}", beside)
