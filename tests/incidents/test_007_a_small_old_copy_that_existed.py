"""Incident 7: a worker trained on 68 samples although the coordinator had 532,000: "the file exists and is larger than 1 KB" was
taken for "the data is there".

Here a host holds the data only if it holds the very content that is the reference, and the report says what it lacks.
"""

from __future__ import annotations

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.manifest.freshness import host_freshness
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.queries import items_by_quality
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import declared, digest_of, item, tell

NOW, HOUR = 1_000_000.0, 3600.0
NAME = "data/training/hex8_2p.npz"


def test_a_small_old_training_set_of_the_same_name_is_stale(store: Store) -> None:
    declared(store)
    large = item(NAME, "532,000 samples", samples=532_000, newest_game=NOW - HOUR, mtime=NOW - HOUR, quality=0.5)
    small = item(NAME, "68 samples", samples=68, newest_game=NOW - 2 * HOUR, mtime=NOW, quality=0.9)  # copied later, scored higher
    tell(store, "nebius-1", [large], at=NOW)
    tell(store, "vast-1", [small], at=NOW)

    rows = {row.location: row for row in host_freshness(store, NOW, limits=AgeLimits()) if row.config == "hex8_2p"}

    assert rows["nebius-1"].fresh
    assert rows["vast-1"].why == "it lacks the reference copy, which has newer games or more samples"
    enough = items_by_quality(store, "hex8_2p", ItemType.NPZ, min_samples=1000)
    assert [found.sha256 for found in enough] == [digest_of("532,000 samples")]
