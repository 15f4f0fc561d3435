"""RingRift's ladders as recorded, and the contradictions in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_dagster.ai.ladders import (
    KNOWN,
    REGISTERED,
    RUNGS,
    Code,
    Contradiction,
    contradictions,
    difficulties_of,
    problems,
    spans,
    unacknowledged,
)
from ringrift_dagster.ai.registry import AI_TYPES, ALIASES, Alias, Status
from ringrift_dagster.games.config import CONFIGS, parse_config


def played(ladder: str, difficulty: int, config: str) -> tuple[str, float, int, bool]:
    (rung,) = (
        rung
        for rung in RUNGS
        if (rung.ladder, rung.difficulty, rung.switch) == (ladder, difficulty, None) and rung.covers(parse_config(config))
    )
    return rung.ai, rung.randomness, rung.think_ms, rung.network


@pytest.mark.parametrize(
    ("ladder", "difficulty", "config", "expected"),
    [
        ("factory", 3, "square8_2p", ("policy_only", 0.15, 500, True)),
        ("factory", 4, "hex8_2p", ("minimax", 0.08, 2000, False)),
        ("factory", 4, "square19_2p", ("descent", 0.08, 2500, True)),
        ("factory", 4, "square19_4p", ("brs", 0.08, 2000, False)),
        ("factory", 10, "hexagonal_2p", ("gumbel_mcts", 0.0, 18000, True)),
        ("factory", 10, "hex8_3p", ("maxn", 0.0, 18000, True)),
        ("factory", 14, "square8_4p", ("ig_gmo", 0.1, 2000, True)),
        ("ladder_config", 3, "square8_2p", ("heuristic", 0.05, 3500, False)),
        ("ladder_config", 5, "square8_3p", ("mcts", 0.05, 4500, False)),
        ("ladder_config", 11, "square8_4p", ("descent", 0.0, 90000, True)),
        ("ladder_config", 6, "hexagonal_4p", ("descent", 0.02, 10000, True)),
        ("main", 3, "hexagonal_4p", ("minimax", 0.15, 1800, False)),
        ("main", 7, "square8_2p", ("mcts", 0.0, 7500, False)),
    ],
)
def test_rungs_are_what_ringrift_has(ladder: str, difficulty: int, config: str, expected: tuple[str, float, int, bool]) -> None:
    assert played(ladder, difficulty, config) == expected


@pytest.mark.parametrize(("ladder", "rungs"), [("factory", 24 * 12), ("main", 10 * 12), ("ladder_config", 11 + 8 * 10)])
def test_every_difficulty_of_a_ladder_is_there_once_for_each_of_its_configs(ladder: str, rungs: int) -> None:
    covered = [
        (rung.difficulty, config)
        for rung in RUNGS
        if rung.ladder == ladder and rung.switch is None
        for config in CONFIGS
        if rung.covers(config)
    ]
    assert len(covered) == len(set(covered)) == rungs


def test_models_and_profiles_bear_the_names_of_their_config() -> None:
    named = {
        (rung.boards[0], rung.players[0], rung.difficulty): (rung.model, rung.profile)
        for rung in RUNGS
        if rung.ladder == "ladder_config"
    }
    assert named["square8", 2, 2] == ("heuristic_v1_medium", "heuristic_v1_medium")
    assert named["square8", 3, 4] == ("nnue_square8_3p", "heuristic_v1_sq8_3p")
    assert named["hexagonal", 4, 10] == ("ringrift_best_hexagonal_4p", "heuristic_v1_hex_4p")
    assert named["square19", 2, 7] == (None, "heuristic_v1_sq19_2p")


def test_the_tables_are_consistent() -> None:
    assert problems() == []


def test_the_contradictions_are_the_known_ones() -> None:
    found = contradictions()
    assert unacknowledged(found) == []
    assert len(found) == len({(entry.code, entry.subject) for entry in found}) == sum(map(len, KNOWN.values())) == 79
    assert {entry.code for entry in found} == set(Code)


@pytest.mark.parametrize(
    ("code", "subject", "part"),
    [
        (Code.TYPES, "D3", "square8_2p: factory policy_only, ladder_config heuristic, main minimax"),
        (Code.NETWORK, "D7", "mcts: factory with, ladder_config without, main without"),
        (Code.BUDGETS, "D2", "heuristic in ladder_config: randomness 0.1 to 0.3, 250 to 500 ms"),
        (Code.UNBUILDABLE, "factory", "D11-D24: AIConfig refuses a difficulty above 10"),
        (Code.NO_RUNG, "hex8", "ladder_config has no rung for this board"),
        (Code.CAPABILITIES, "minimax", "main D3-D4 for square8_3p/4p, square19_3p/4p, hex8, hexagonal"),
        (Code.RANGE, "descent", "registered for D6; factory D4-D5"),
        (Code.STATUS, "ig_gmo", "registered as experimental; the code: archived"),
        (Code.DETERMINISM, "mcts", "registered as deterministic; the code: its search stops by the wall clock"),
        (Code.AGENT, "minimax", "which is policy_only"),
    ],
)
def test_a_contradiction_names_who_says_what(code: Code, subject: str, part: str) -> None:
    (found,) = (entry for entry in contradictions() if (entry.code, entry.subject) == (code, subject))
    assert part in found.detail


def test_a_new_contradiction_and_one_that_is_gone_are_not_acknowledged() -> None:
    found = [entry for entry in contradictions() if entry.code != Code.AGENT]
    assert unacknowledged([*found, Contradiction(Code.TYPES, "D1", "new")]) == [
        "contradiction not known: ladders_name_different_types D1",
        "known contradiction is gone: agent_plays_another_type minimax",
    ]


def test_equal_ladders_contradict_nothing() -> None:
    main = [rung for rung in RUNGS if rung.ladder == "main"]
    found = contradictions([*main, *(replace(rung, ladder="factory") for rung in main)], registered={})
    assert {entry.code for entry in found} & {Code.TYPES, Code.NETWORK, Code.BUDGETS, Code.NO_RUNG} == set()


def test_problems_name_what_is_wrong() -> None:
    mcts = AI_TYPES["mcts"]
    rung = RUNGS[0]
    missing = {name: ai for name, ai in AI_TYPES.items() if name != "gnn"}
    assert "25 AI types, RingRift has 26" in problems(types=missing)
    assert "engine mode gnn: no AI type is named gnn" in problems(types=missing)
    assert "mcts: no such board: hex9" in problems(types={**AI_TYPES, "mcts": replace(mcts, boards=("hex9",))})
    assert "mcts: archived, but deprecation is None" in problems(types={**AI_TYPES, "mcts": replace(mcts, status=Status.ARCHIVED)})
    assert "mcts: has a budget and no policy" in problems(types={**AI_TYPES, "mcts": replace(mcts, own_policy=None)})
    assert "alias x: no AI type is named y" in problems(aliases={**ALIASES, "x": Alias("x", "y", "", "")})
    assert "factory D1: two rungs for square8_2p" in problems(rungs=[*RUNGS, rung])
    assert any("out of range" in line for line in problems(rungs=[*RUNGS, replace(rung, difficulty=25)]))


def test_difficulties_are_given_by_ladder() -> None:
    assert difficulties_of("brs") == {"factory": [4], "registry": [5, 6, 7]}
    assert difficulties_of("ig_gmo") == {"factory": [14], "factory with RINGRIFT_USE_IG_GMO": [3], "registry": [14]}
    assert difficulties_of("neural_demo") == {}
    assert len(REGISTERED) == 13


def test_the_documentation_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "ai.md").read_text()
    rows = [f"| `{ai.name}` | {ai.version or 'none'} | {ai.status} |" for ai in AI_TYPES.values()]
    rows += [f"| `{alias.name}` | `{alias.ai}` | {alias.meaning} |" for alias in ALIASES.values()]
    rows += [f"| `{code.value}` | {', '.join(subjects)} |" for code, subjects in KNOWN.items()]
    assert [row for row in rows if row not in text] == []


def test_spans_are_short() -> None:
    assert spans([3, 5, 6, 7, 10]) == "D3, D5-D7, D10"
    assert spans([]) == ""
