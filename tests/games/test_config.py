"""The twelve configs and the one parser of their keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.games.config import CONFIG_KEYS, CONFIGS, Config, UnknownConfig, parse_config


def test_exactly_twelve_configs() -> None:
    assert len(CONFIGS) == len(set(CONFIG_KEYS)) == 12


@pytest.mark.parametrize(
    ("config", "line", "rings", "territory"),
    [
        (Config("square8", 2), 4, 18, 33),
        (Config("square8", 3), 3, 24, 33),
        (Config("square8", 4), 3, 30, 33),
        (Config("square19", 3), 4, 96, 181),
        (Config("hex8", 2), 4, 18, 31),
        (Config("hex8", 4), 3, 30, 31),
        (Config("hexagonal", 2), 4, 96, 235),
        (Config("hexagonal", 4), 4, 160, 235),
    ],
)
def test_thresholds_are_those_of_the_rules(config: Config, line: int, rings: int, territory: int) -> None:
    assert (config.line_length, config.victory_threshold, config.territory_threshold) == (
        line,
        rings,
        territory,
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("hex8_2p", "hex8_2p"),
        ("canonical_hex8_2p_20250101.pth", "hex8_2p"),
        ("selfplay_repository_node_canonical_hex8_2p.db", "hex8_2p"),
        ("ringrift_best_square19_4p_mps.pth", "square19_4p"),
        ("canonical_hexagonal_3p.db", "hexagonal_3p"),
    ],
)
def test_names_that_hold_one_key(text: str, key: str) -> None:
    assert parse_config(text).key == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "canonical_square8.db",
        "square8_5p",
        "xhex8_2p",
        "square8_2player",
        "hex8_2p_vs_square8_2p",
        "square88_2p",
    ],
)
def test_no_guessing(text: str) -> None:
    with pytest.raises(UnknownConfig):
        parse_config(text)


@given(st.sampled_from(CONFIG_KEYS), st.text("_-.", max_size=4), st.text("_-.", max_size=4))
def test_a_key_is_found_between_separators(key: str, before: str, after: str) -> None:
    assert parse_config(before + key + after).key == key


@given(st.sampled_from(CONFIG_KEYS), st.sampled_from(CONFIG_KEYS))
def test_two_different_keys_are_unknown(first: str, second: str) -> None:
    text = f"{first}.{second}"
    if first == second:
        assert parse_config(text).key == first
    else:
        with pytest.raises(UnknownConfig):
            parse_config(text)
