"""Decisions: what is missing is never in a candidate's favour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ringrift_dagster.models.evaluation.records import Blocks
from ringrift_dagster.models.evaluation.sequential import Hypotheses
from ringrift_dagster.models.promotion.decision import (
    INCUMBENT,
    REASONS,
    PromotionRules,
    Reason,
    decide,
    default_rules,
    until_decided,
)

NOW = 1_000_000.0
RULES = PromotionRules(floors={"random": 0.75, "heuristic": 0.5}, hypotheses=Hypotheses(0, 60), min_blocks=20, floor_blocks=40)


def blocks(scores: list[int], players: int = 2, newest: float = NOW) -> Blocks:
    return Blocks(players, tuple(scores), 0, 0, newest, ended=(newest,) * len(scores))


STRONG = blocks([4, 4, 3, 4, 4] * 40)
EVEN = blocks([2, 1, 3, 4, 0] * 40)
WEAK = blocks([0, 1, 0, 2, 0] * 40)
GOOD = {INCUMBENT: STRONG, "random": STRONG, "heuristic": STRONG}


def codes(evidence: dict[str, Blocks], rules: PromotionRules = RULES, **values: object) -> tuple[str, list[str]]:
    decision = decide(evidence, rules, NOW, **{"has_incumbent": True, **values})  # type: ignore[arg-type]
    assert all(reason.code in REASONS for reason in decision.reasons)
    assert decision.rationale
    return decision.verdict, [reason.code for reason in decision.reasons]


def test_a_stronger_one_that_reaches_every_floor_is_promoted() -> None:
    decision = decide(GOOD, RULES, NOW, has_incumbent=True)
    assert (decision.verdict, decision.reasons) == ("promote", ())
    assert decision.incumbent is not None
    assert decision.incumbent.blocks == 20
    assert decision.rationale.startswith("Promoted.\nAgainst the incumbent it scores 0.950 in 20 blocks (+")


@pytest.mark.parametrize(
    ("changes", "verdict", "reasons"),
    [
        ({INCUMBENT: WEAK}, "refuse", ["not_stronger"]),
        ({INCUMBENT: blocks([4] * 19)}, "continue", ["too_few_blocks"]),
        ({INCUMBENT: blocks([4, 0, 4, 1] * 5)}, "continue", ["undecided"]),
        ({"random": EVEN}, "refuse", ["below_floor"]),
        ({"heuristic": blocks([4] * 39)}, "continue", ["too_few_blocks"]),
        ({"heuristic": blocks([4] * 50, newest=NOW - 31 * 86400)}, "refuse", ["stale_evidence"]),
        ({"heuristic": blocks([4] * 50, newest=NOW + 2 * 3600)}, "continue", ["future_evidence"]),
        ({"random": blocks([0] * 40 + [4] * 1000)}, "refuse", ["below_floor"]),
    ],
    ids=["worse", "few", "undecided", "no better than random", "few against a baseline", "old", "a clock is wrong", "late luck"],
)
def test_what_keeps_a_candidate_from_being_promoted(changes: dict[str, Blocks], verdict: str, reasons: list[str]) -> None:
    assert codes({**GOOD, **changes}) == (verdict, reasons)


def test_without_any_evidence_nothing_is_decided() -> None:
    assert codes({}) == ("continue", ["too_few_blocks"] * 3)


def test_a_first_model_has_no_incumbent_to_beat_but_floors_to_reach() -> None:
    assert codes({"random": STRONG, "heuristic": STRONG}, has_incumbent=False) == ("promote", [])
    assert codes({"random": STRONG, "heuristic": WEAK}, has_incumbent=False) == ("refuse", ["below_floor"])


def test_an_objection_refuses_whatever_the_games_say() -> None:
    assert codes(GOOD, objections=[Reason("contaminated", "3 games")]) == ("refuse", ["contaminated"])
    few = {**GOOD, "random": blocks([4] * 10)}
    assert codes(few, exhausted=["random"]) == ("refuse", ["too_few_blocks", "no_result"])
    assert codes(GOOD, exhausted=["random"]) == ("promote", []), "its sample is complete"


def test_the_test_ends_at_its_first_bound_whatever_is_played_afterwards() -> None:
    assert codes({**GOOD, INCUMBENT: blocks([4, 4, 3, 4, 4] * 4 + [0] * 500)})[0] == "promote"
    assert codes({**GOOD, INCUMBENT: blocks([0, 1, 0, 2, 0] * 4 + [4] * 500)})[0] == "refuse"


def test_a_test_without_an_end_is_ended() -> None:
    assert codes({**GOOD, INCUMBENT: blocks([4, 0, 4, 1] * 20)}, replace(RULES, max_blocks=80)) == ("refuse", ["too_many_blocks"])


@pytest.mark.parametrize("scores", [[4, 4, 3, 4, 4], [0, 1, 0, 2, 0], [4, 0, 4, 1], [2, 3, 1, 3]])
def test_playing_stops_where_the_decision_is_taken(scores: list[int]) -> None:
    """Asked after every block, it says at once what a test of all blocks says afterwards."""
    rules = replace(RULES, max_blocks=100)
    stop, everything = until_decided(rules), (scores * 50)[:120]
    asked = [stop(blocks(everything[:number])) for number in range(121)]
    decision = decide({INCUMBENT: blocks(everything)}, replace(rules, floors={}), NOW, has_incumbent=True)
    assert decision.incumbent is not None
    undecided = decision.incumbent.outcome == "continue"
    assert asked.index(True) == (rules.max_blocks if undecided else decision.incumbent.blocks)
    assert all(asked[asked.index(True) :])


@pytest.mark.parametrize("players", [2, 3, 4])
def test_the_error_of_a_floor_stays_within_its_bound(players: int) -> None:
    """Candidates that are exactly at the floor: hardly more than 5 % of them reach it."""
    rules = replace(default_rules(players), floor_alpha=0.05)
    floor = rules.floors["heuristic"]
    rng = np.random.default_rng(players)
    reached = 0
    for _ in range(1000):
        scores = (players * rng.binomial(players, floor, rules.floor_blocks)).tolist()
        reached += decide({"heuristic": blocks(scores, players)}, rules, NOW, has_incumbent=False).floors["heuristic"].reached
    assert reached <= 70
