"""The AI registry: complete, consistent, and one answer for every name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.ai.engine_modes import ENGINE_MODES, engine_mode
from ringrift_dagster.ai.registry import (
    AI_TYPES,
    ALIASES,
    BUDGETS,
    FLAGS,
    AIType,
    Alias,
    InvalidSpec,
    PolicySpec,
    Status,
    UnknownAI,
    parse_spec,
    resolve,
    type_of,
)
from ringrift_dagster.games.config import CONFIGS, parse_config

NAMES = (
    "random", "heuristic", "minimax", "gpu_minimax", "maxn", "brs", "mcts", "descent", "neural_demo", "policy_only",
    "gumbel_mcts", "ebmo", "gmo", "gmo_v2", "gmo_mcts", "gmo_gumbel", "ig_gmo", "cage", "improved_mcts", "hybrid_nn",
    "gnn", "hybrid", "nnue_gumbel", "nnue_mcts", "nnue_brs", "nnue_maxn",
)  # fmt: skip
"""RingRift's enum AIType in its order."""

KNOWN_NAMES = [*AI_TYPES, *ALIASES]


def test_the_registry_has_every_type_of_ringrift() -> None:
    assert tuple(AI_TYPES) == NAMES
    assert {ai.status for ai in AI_TYPES.values()} == set(Status)


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        AI_TYPES["minimax"] = AI_TYPES["random"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        AI_TYPES["minimax"].status = Status.ARCHIVED  # type: ignore[misc]


def test_flags_are_all_flags() -> None:
    assert set(FLAGS) == {field.name for field in fields(AIType) if field.type == "bool"}


def test_own_policies_are_random_heuristic_and_mcts() -> None:
    assert {ai.name for ai in AI_TYPES.values() if ai.playable} == {"random", "heuristic", "mcts"}


def test_own_policies_play_every_config() -> None:
    assert all(ai.can_play(config) for ai in AI_TYPES.values() if ai.playable for config in CONFIGS)


def test_minimax_plays_squares_with_two_players() -> None:
    assert [config.key for config in CONFIGS if AI_TYPES["minimax"].can_play(config)] == ["square8_2p", "square19_2p"]


@pytest.mark.parametrize(
    ("text", "stands_for", "network"),
    [
        ("descent_nn", "descent", None),
        ("descent_best_vs_pool", "descent", None),
        ("descent_heuristic", "descent", False),
        ("policy_only_nnue", "policy_only", True),
        ("mcts_100", "mcts", None),
        ("gumbel_200", "gumbel_mcts", None),
        ("policy_0.5", "policy_only", None),
        ("gmo_gumbel_150", "gmo_gumbel", None),
        ("Difficulty-7", None, None),
    ],
)
def test_names_that_are_no_types_resolve_to_what_they_stand_for(text: str, stands_for: str | None, network: bool | None) -> None:
    found = resolve(text)
    assert isinstance(found, Alias)
    assert (found.ai, found.network) == (stands_for, network)
    assert type_of(text) is (AI_TYPES[stands_for] if stands_for else None)


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_not_recorded_is_not_unknown(text: str | None) -> None:
    assert resolve(text) is None


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownAI, match=r"unknown AI 'gumble_mcts' \(nearest: gumbel_mcts"):
        resolve("gumble_mcts")


@given(
    st.sampled_from(KNOWN_NAMES),
    st.sampled_from([str.upper, str.title, str.lower]),
    st.booleans(),
    st.sampled_from(["", " ", "\n"]),
)
def test_case_hyphens_and_blanks_around_a_name_do_not_count(name: str, case: object, hyphens: bool, blank: str) -> None:
    spelled = case(name.replace("_", "-") if hyphens else name)  # type: ignore[operator]
    assert resolve(f"{blank}{spelled}{blank}") == resolve(name)


@given(st.text(max_size=60))
def test_any_text_is_known_or_not_recorded_or_unknown_in_one_line(text: str) -> None:
    try:
        found = resolve(text)
    except UnknownAI as error:
        assert text.strip()
        assert len(str(error).splitlines()) == 1
    else:
        assert (found is None) == (not text.strip())


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("random", PolicySpec("random")),
        ("heuristic", PolicySpec("heuristic")),
        (" MCTS ", PolicySpec("mcts", 64)),
        ("mcts:1", PolicySpec("mcts", 1)),
        ("mcts:100000", PolicySpec("mcts", 100_000)),
    ],
)
def test_a_spec_is_a_name_and_a_budget(text: str, spec: PolicySpec) -> None:
    assert parse_spec(text) == spec
    assert spec.ai.name == spec.name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no AI is named"),
        (":64", "no AI is named"),
        ("mctz:64", "unknown AI 'mctz' (nearest: mcts)"),
        ("descent_nn", "descent_nn is no AI type"),
        ("minimax", "minimax is played by RingRift only: its search stops by the wall clock"),
        ("ig_gmo:64", "ig_gmo is played by RingRift only"),
        ("random:5", "random takes no budget: write random"),
        ("heuristic:", "heuristic takes no budget"),
        ("mcts:", "a budget is missing for mcts: write mcts:N"),
        ("mcts:0", "'0' is no budget"),
        ("mcts:100001", "'100001' is no budget"),
        ("mcts:-1", "'-1' is no budget"),
        ("mcts:6.4", "'6.4' is no budget"),
        ("mcts:٦٤", "is no budget"),
        ("mcts:64:64", "is no budget"),
    ],
)
def test_a_bad_spec_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(text)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_ai_that_cannot_play_the_config_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {**AI_TYPES, "heuristic": replace(AI_TYPES["heuristic"], boards=("square8",), multi_player=False)}
    monkeypatch.setattr("ringrift_dagster.ai.registry.AI_TYPES", narrow)
    assert parse_spec("heuristic", parse_config("square8_2p")) == PolicySpec("heuristic")
    for key in ("hex8_2p", "square8_3p"):
        with pytest.raises(
            InvalidSpec, match=f"heuristic cannot play {key}, only square8 with 2 players; self-play takes random, mcts:N"
        ):
            parse_spec("heuristic", parse_config(key))


@given(st.sampled_from(sorted(BUDGETS)), st.integers(min_value=-10, max_value=200_000))
def test_budgets_are_accepted_within_their_bounds_only(name: str, budget: int) -> None:
    bounds = BUDGETS[name]
    try:
        spec = parse_spec(f"{name}:{budget}")
    except InvalidSpec:
        assert not bounds.least <= budget <= bounds.most
    else:
        assert spec == PolicySpec(name, budget)
        assert bounds.least <= budget <= bounds.most


@given(
    st.text(max_size=40) | st.builds("{}:{}".format, st.sampled_from(KNOWN_NAMES), st.text(max_size=8)), st.sampled_from(CONFIGS)
)
def test_what_is_parsed_is_written_in_a_form_that_parses_to_the_same(text: str, config: object) -> None:
    try:
        spec = parse_spec(text, config)  # type: ignore[arg-type]
    except InvalidSpec as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert parse_spec(str(spec)) == spec
        assert spec.ai.playable


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("random-only", ("random",)),
        ("gumbel_mcts", ("gumbel_mcts",)),
        ("Heuristic", ("heuristic",)),
        ("cnn-gnn", ("hybrid",)),
        ("nn-vs-mcts", ("descent", "mcts")),
        ("diverse", ()),
    ],
)
def test_engine_modes_name_the_types_they_play(text: str, types: tuple[str, ...]) -> None:
    found = engine_mode(text)
    assert found is not None
    assert found.types == types


def test_free_text_is_no_engine_mode() -> None:
    assert engine_mode("gpu-heuristic") is None
    assert engine_mode(None) is None
    assert len(ENGINE_MODES) == 34
