"""Incident 24: results of one config were booked on another (2,160 matches; an Elo fell from 1900 to 1508): names had been cut at
a convenient place, and whatever came out was taken for a config.

Here a config is one of twelve or it is not known, on every record, whoever sends it.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config
from ringrift_dagster.manifest.inventory import ItemType, SourceDatabase
from ringrift_dagster.manifest.queries import items_by_quality
from ringrift_dagster.manifest.schema import holdings, items
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import declared, digest_of, item, tell

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
