"""Playing one game: policies choose the moves, the rules list and carry them out.

Who plays, how often, and where the games go is decided by `selfplay` and by evaluation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from ringrift_dagster.ai.policies.interface import Choice, HistoryPolicy, LegalMoves, Policy
from ringrift_dagster.ai.seeds import Generator, below, generator
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.move_records import move_probabilities
from ringrift_dagster.games.moves import MoveLog, MoveType, PackedMoves
from ringrift_dagster.games.position import Position, blank_position, empty_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play


@dataclass(frozen=True)
class Played:
    """A finished game. `winner` is the player that has won, 0 if nobody; a swap of sides has exchanged players 1 and 2.

    `winner_seat` counts seats at the start, from 1. `probabilities` of the moves' alternatives are by index of the move, where a
    policy searched; `think_ms` has an entry for every move.
    """

    moves: PackedMoves
    winner: int
    winner_seat: int
    probabilities: Mapping[int, Mapping[str, float]]
    think_ms: Sequence[int]
    started: datetime
    finished: datetime


class Stopped(Exception):
    """The game in progress was abandoned."""


class IllegalChoice(ValueError):
    """A policy chose something that is none of the legal moves."""


class Arena:
    """Plays games of one config in one thread; tables and buffers are made once. `stop` is asked before every move."""

    def __init__(self, config: Config, stop: Callable[[], bool] = lambda: False) -> None:
        self.config = config
        self._stop = stop
        self._tables = topology(config.board)
        self._rows, self._cells = buffers(config.board)

    def play(
        self,
        policies: Sequence[Policy],
        path: Sequence[str | int],
        *,
        swap_rule: bool = False,
        opening: Sequence[str | int] = (),
        opening_moves: int = 0,
    ) -> Played:
        """Play one game; `policies` are in the order of the seats at the start, and `path` begins the seeds of all their decisions.

        The first `opening_moves` decisions are drawn evenly from the legal moves with seeds that begin with `opening`, whoever has
        the move. Raises Stopped, IllegalChoice, and whatever a policy raises.
        """
        started, clock = datetime.now(UTC), time.perf_counter()
        seating = list(range(len(policies)))
        position = empty_position(self.config, swap_rule=swap_rule)
        earlier = _Earlier(policies)
        log = MoveLog()
        probabilities: dict[int, Mapping[str, float]] = {}
        think_ms: list[int] = []
        while count := int(list_moves(self._tables, position, self._rows, self._cells)):
            if self._stop():
                raise Stopped
            legal = LegalMoves(self._rows[:count], self._cells)
            chosen, player, number = 0, int(position.player), len(log)
            if count > 1 and number < opening_moves:
                chosen = int(below(move_generator(opening, player, number), count))
            elif count > 1:
                choice = earlier.choose(policies[seating[player - 1]], position, legal, move_generator(path, player, number))
                chosen = choice.index
                if not 0 <= chosen < count:
                    raise IllegalChoice(f"the policy of player {player} chose alternative {chosen} of {count}")
                if choice.visits is not None:
                    probabilities[number] = move_probabilities(self.config, legal.rows.tolist(), choice.visits.tolist())
            row = self._rows[chosen].copy()
            log.append(row, self._cells)
            earlier.keep(position)
            play(self._tables, position, row, self._cells)
            if row[m.TYPE] == MoveType.SWAP_SIDES:
                seating.reverse()
            now = time.perf_counter()
            think_ms.append(round((now - clock) * 1000))
            clock = now
        winner = int(position.winner)
        return Played(
            log.packed(), winner, seating[winner - 1] + 1 if winner else 0, probabilities, think_ms, started, datetime.now(UTC)
        )


class _Earlier:
    """The positions before the last moves of one game, newest first, as many as one of the policies asks for."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._positions: deque[Position] = deque()
        self._depth = max((policy.history for policy in policies if isinstance(policy, HistoryPolicy)), default=0)

    def choose(self, policy: Policy, position: Position, legal: LegalMoves, generator: Generator) -> Choice:
        if isinstance(policy, HistoryPolicy):
            seeing: HistoryPolicy = policy
            return seeing(position, legal, generator, tuple(islice(self._positions, seeing.history)))
        return policy(position, legal, generator)

    def keep(self, position: Position) -> None:
        """Copy a position that is about to change."""
        if self._depth:
            oldest = self._positions.pop() if len(self._positions) == self._depth else blank_position()
            copy_position(position, oldest)
            self._positions.appendleft(oldest)


def move_generator(path: Sequence[str | int], player: int, number: int) -> Generator:
    """The generator of the decision that `player` takes as move `number` (from 0) of the game with this seed path."""
    return generator(*path, player, number, "move")
