"""The twelve configs and the one parser of their keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.games.config import BOARD_ALIASES, CONFIG_KEYS, CONFIGS, Config, UnknownConfig, parse_config


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
        ("canonical_hex_4p.db", "hexagonal_4p"),
        ("hex_2p", "hexagonal_2p"),
        ("ringrift_best_sq8_2p", "square8_2p"),
        ("ringrift_best_sq19_3p_v5.pth", "square19_3p"),
        ("selfplay/sq8_4p/jsonl_converted_sq8_4p.db", "square8_4p"),
        ("selfplay/square8_2p/games_sq8_2p.db", "square8_2p"),
        ("hex8_3p/hex8_3p.npz", "hex8_3p"),
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
        "canonical_hex8.db",
        "canonical_sq8.db",
        "hexagonal",
        "2p",
        "sq8_5p",
        "sq8_1p",
        "sq88_2p",
        "hexa_2p",
        "hex_10p",
        "SQ8_2p",
        "square8-2p",
        "sq8_2p_vs_sq19_2p",
        "sq8_2p_sq8_3p",
        "hex_2p.hex8_2p",
    ],
)
def test_no_guessing(text: str) -> None:
    with pytest.raises(UnknownConfig):
        parse_config(text)


SHORT = {long: short for short, long in BOARD_ALIASES.items()}
separators = st.text("_-./ ", min_size=1, max_size=4)
words = st.text("abcopqrstxyz", max_size=8)


@given(st.sampled_from(CONFIGS), st.booleans(), words, separators, separators, words)
def test_a_key_is_found_between_separators(config: Config, short: bool, head: str, before: str, after: str, tail: str) -> None:
    board = SHORT.get(config.board, config.board) if short else config.board
    assert parse_config(f"{head}{before}{board}_{config.players}p{after}{tail}") == config


@given(
    st.lists(st.sampled_from(["hex", "hex8", "hexagonal", "sq8", "square", "19", "_", "2", "3p", "_4p", "_2p", ".", "x"])).map(
        "".join
    )
)
def test_nothing_but_the_twelve_is_ever_found(text: str) -> None:
    try:
        assert parse_config(text) in CONFIGS
    except UnknownConfig as error:
        assert repr(text) in str(error)


@given(st.sampled_from(CONFIG_KEYS), st.sampled_from(CONFIG_KEYS))
def test_two_different_keys_are_unknown(first: str, second: str) -> None:
    text = f"{first}.{second}"
    if first == second:
        assert parse_config(text).key == first
    else:
        with pytest.raises(UnknownConfig):
            parse_config(text)
