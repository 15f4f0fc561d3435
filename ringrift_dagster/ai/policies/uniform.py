"""The policy `random`: every legal move is equally likely.

A placement of two rings is another move than one of a single ring, so a cell that takes three is three times as likely as one
that takes one.
"""

from __future__ import annotations

from ringrift_dagster.ai.policies.interface import Choice, LegalMoves, Policy, no_budget
from ringrift_dagster.ai.seeds import Generator, below
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.position import Position


def random_policy(_config: Config, budget: int | None = None) -> Policy:
    """The policy `random`; it has no budget (ValueError)."""
    no_budget("random", budget)
    return _choose


def _choose(_position: Position, moves: LegalMoves, generator: Generator) -> Choice:
    count = len(moves.rows)
    return Choice(int(below(generator, count)) if count > 1 else 0)
