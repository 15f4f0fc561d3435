"""Incident 24: results of one config were booked on another (2,160 matches; an Elo fell from 1900 to 1508): names had been cut at
a convenient place, and whatever came out was taken for a config.

Here a config is one of twelve or it is not known, on every record, whoever sends it. Evidence about a model is bound to its hash
and to a config: games of another one never count.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config
from ringrift_dagster.manifest.inventory import ItemType, SourceDatabase
from ringrift_dagster.manifest.queries import items_by_quality
from ringrift_dagster.manifest.schema import holdings, items
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.models.evaluation.imported import read_evidence
from ringrift_dagster.models.evaluation.records import Series, blocks_of
from ringrift_dagster.models.evaluation.store import EvidenceStore
from tests.manifest.telling import declared, digest_of, item, tell
from tests.models.evaluation.making import CANDIDATE, HEURISTIC, block

BOGUS = ("hex8_2p_20250101", "square8", "selfplay_repository_node_hex8_2p", "hex8_5p", "hex8", "HEX8_2P", "", "hex8_2p ", "sq8_2p")


@pytest.mark.parametrize("config", BOGUS)
def test_no_record_carries_a_config_that_is_not_one(config: str) -> None:
    with pytest.raises(ValidationError):
        item("a.npz", "x", config=config)
    with pytest.raises(ValidationError):
        SourceDatabase(path="a.db", size=1, mtime=1.0, games={config: 1})


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("canonical_hex8_2p_20250101.pth", "hex8_2p"),
        ("selfplay_repository_node_canonical_hex8_2p.db", "hex8_2p"),
        ("canonical_square8.db", None),
        ("hex8_2p_vs_hex8_4p.npz", None),
    ],
)
def test_a_name_tells_one_config_or_none(name: str, config: str | None) -> None:
    if config:
        assert parse_config(name).key == config
    else:
        with pytest.raises(UnknownConfig):
            parse_config(name)


def test_each_config_is_counted_and_found_for_itself(store: Store) -> None:
    declared(store)
    tell(store, "vast-1", [item(f"{key}.npz", key, config=key, quality=0.5) for key in CONFIG_KEYS], at=1)
    for key in CONFIG_KEYS:
        assert [found.sha256 for found in items_by_quality(store, key, ItemType.NPZ)] == [digest_of(key)]
    with store.reading() as connection:
        assert set(connection.execute(sa.select(items.c.config)).scalars()) == set(CONFIG_KEYS)
        assert set(connection.execute(sa.select(holdings.c.replicas)).scalars()) == {1}


@pytest.mark.parametrize("config", BOGUS)
def test_no_evidence_is_about_a_config_that_is_not_one(config: str) -> None:
    with pytest.raises(UnknownConfig):
        Series(config, CANDIDATE, HEURISTIC)


def test_games_of_another_config_never_count_as_evidence(tmp_path: Path) -> None:
    """The same model against the same opponent: 22 blocks of every config but one."""
    with EvidenceStore(tmp_path / "evidence.db") as store:
        for key in CONFIG_KEYS[1:]:
            series = Series(key, CANDIDATE, HEURISTIC)
            results = ("won",) * parse_config(key).players
            store.add(
                [
                    replace(entry, game_id=f"{key} {entry.game_id}")
                    for number in range(22)
                    for entry in block(number, results, series=series)
                ]
            )
        first = parse_config(CONFIG_KEYS[0])
        assert store.games(Series(first.key, CANDIDATE, HEURISTIC)) == []
        assert store.series(config=first.key) == []
        for key in CONFIG_KEYS[1:]:
            games = store.games(Series(key, CANDIDATE, HEURISTIC))
            assert {entry.series.config for entry in games} == {key}
            assert blocks_of(games, parse_config(key)).complete == 22


def test_mixed_up_matches_of_an_elo_database_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "unified_elo.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE match_history (participant_ids, winner, timestamp, board_type, num_players)")
        pair = json.dumps(["canonical_hex8_2p", "none:random:d1"])
        rows = [(pair, "canonical_hex8_2p", 5.0, "hex8", 2)] + 2160 * [(pair, "none:random:d1", 5.0, "square8", 2)]
        connection.executemany("INSERT INTO match_history VALUES (?, ?, ?, ?, ?)", rows)
    model, _ = read_evidence(path)
    assert (model.config, model.games, model.wins) == ("hex8_2p", 1, 1)
