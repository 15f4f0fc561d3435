"""Decisions on a few candidates of known strength; ten thousand of each are in `benchmarks/promotion.py`, which is tested too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.promotion import Truth, block_distribution, normalised_elo, ringrift_promotes, simulate
from ringrift_dagster.models.evaluation.sequential import Hypotheses
from ringrift_dagster.models.promotion.decision import default_rules

DECISIONS = 100
MOST_ERRORS = 11
"""5 % of DECISIONS, and three standard deviations of chance."""


@pytest.mark.parametrize("elo", [-30.0, 0.0, 100.0])
@pytest.mark.parametrize("players", [2, 3, 4])
def test_candidates_are_as_strong_as_they_are_said_to_be(players: int, elo: float) -> None:
    distribution = block_distribution(Truth(players, elo))
    assert (distribution.min() >= 0, distribution.sum()) == (True, pytest.approx(1))
    assert normalised_elo(distribution, players) == pytest.approx(elo, abs=1e-6)


@pytest.mark.parametrize("players", [2, 3, 4])
def test_decisions_err_as_seldom_as_they_are_said_to(players: int) -> None:
    rules = replace(default_rules(players), hypotheses=Hypotheses(0, 100), min_blocks=20)
    assert simulate(Truth(players, 0), rules, (0, DECISIONS)).promoted <= MOST_ERRORS
    assert simulate(Truth(players, 100), rules, (0, DECISIONS)).promoted >= DECISIONS - MOST_ERRORS


def test_ringrifts_rule_promotes_three_of_four_that_are_no_better_than_the_heuristic() -> None:
    """At 50 games a baseline, with true rates of 60 % and 50 %, whatever the incumbent is: as RingRift's own function does."""
    promoted = ringrift_promotes(np.random.default_rng(0), 2, np.full(100_000, 50))
    assert promoted.mean() == pytest.approx(0.757, abs=0.005)
