"""What a policy is: the types that every way of choosing a move shares, with a model or without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

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
    """The move chosen, as an index into the list, and, of a policy that searches, how often each move was tried."""

    index: int
    visits: NDArray[np.int64] | None = None  # divided by their sum: the move probabilities that a game records


class Policy(Protocol):
    """Chooses one of the legal moves.

    The choice follows from the arguments alone, and from nothing that was asked before: whoever has the seed can ask again. Every
    random decision is drawn from the generator. The position is left as it is (but for its scratch space). Where there is one
    legal move it is chosen without a search, a draw or visits. A policy keeps scratch space: one thread at a time.
    """

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, /) -> Choice: ...


Factory: TypeAlias = Callable[[Config, int | None], Policy]
"""Makes a policy for the games of a config, with a budget of simulations; None is the default. Only `mcts` takes another."""


def no_budget(name: str, budget: int | None) -> None:
    """Raises ValueError if a policy that does not search is given a budget."""
    if budget is not None:
        raise ValueError(f"{name} does not search: write {name!r} without a budget, not '{name}:{budget}'")
