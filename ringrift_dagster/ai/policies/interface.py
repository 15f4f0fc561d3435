"""The interface of policies: the types that all policies share, with a model or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.position import Position


class LegalMoves(NamedTuple):
    """All legal moves of a position, at least one: `rows[:count]` and `cells` as `list_moves` wrote them."""

    rows: NDArray[np.int64]
    cells: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen move, as an index into the list, and the visit counts of all moves if the policy searches."""

    index: int
    visits: NDArray[np.int64] | None = None  # divided by their sum: the move probabilities that a game records


class Policy(Protocol):
    """Chooses one of the legal moves.

    The choice depends on the arguments alone, not on earlier calls, so that a recorded seed reproduces it. All random decisions are
    drawn from the generator. The position is not changed (but for its scratch space). A single legal move is chosen without a
    search, a draw or visits. A policy keeps scratch space and is used by one thread at a time.
    """

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, /) -> Choice: ...


@runtime_checkable
class HistoryPolicy(Policy, Protocol):
    """A policy that also sees the positions before the last `history` moves of the game, whoever made them.

    `earlier` has them newest first, fewer at the start of a game; they are not to be kept or changed.
    """

    history: int

    def __call__(
        self, position: Position, moves: LegalMoves, generator: Generator, earlier: Sequence[Position] = (), /
    ) -> Choice: ...


Factory: TypeAlias = Callable[[Config, int | None], Policy]
"""Makes a policy for the games of a config, with a budget of simulations; None is the default. Only `mcts` takes another."""


def no_budget(name: str, budget: int | None) -> None:
    """Raises ValueError if a policy that does not search is given a budget."""
    if budget is not None:
        raise ValueError(f"{name} does not search: write {name!r} without a budget, not '{name}:{budget}'")
