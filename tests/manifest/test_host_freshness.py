"""What each host would train on: age of the newest game, equality with the reference, and why it is stale."""

from __future__ import annotations

import pytest

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.freshness import HostFreshness, host_freshness
from ringrift_dagster.manifest.inventory import Soundness
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import HOSTS, declared, dies, item, silent, tell

NOW = 1_000_000.0
HOUR = 3600.0
DATA = "data/training/hex8_2p.npz"


@pytest.fixture(autouse=True)
def _declared(store: Store) -> None:
    declared(store)
    for host in HOSTS:
        tell(store, host, at=NOW)


def rows(store: Store, config: str = "hex8_2p") -> dict[str, HostFreshness]:
    return {row.location: row for row in host_freshness(store, NOW, limits=AgeLimits()) if row.config == config}


def test_every_host_has_a_row_for_every_config(store: Store) -> None:
    found = host_freshness(store, NOW, limits=AgeLimits())
    assert [(row.location, row.config) for row in found] == [(host, config) for host in sorted(HOSTS) for config in CONFIG_KEYS]
    assert {row.why for row in found} == {"it has no training set"}


def test_age_is_that_of_the_newest_game_not_of_the_export(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x", newest_game=NOW - 100 * HOUR, mtime=NOW)], at=NOW)
    row = rows(store)["vast-1"]
    assert (row.age, row.newest_export) == (100 * HOUR, NOW)
    assert row.why == "its newest game is 100.0 h old, more than 48 h"


def test_a_host_with_an_older_set_than_the_reference_is_stale(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "old", newest_game=NOW - 2 * HOUR, samples=68)], at=NOW)
    tell(store, "nebius-1", [item(DATA, "new", newest_game=NOW - HOUR, samples=532_000, verified_at=NOW - 5)], at=NOW)
    found = rows(store)
    assert found["nebius-1"].fresh and found["nebius-1"].is_reference and found["nebius-1"].verified_at == NOW - 5
    assert found["vast-1"].why == "it lacks the reference copy, which has newer games or more samples"


def test_of_equally_new_sets_the_larger_is_the_reference(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "small", newest_game=NOW - HOUR, samples=68)], at=NOW)
    tell(store, "nebius-1", [item(DATA, "large", newest_game=NOW - HOUR, samples=532_000)], at=NOW)
    assert {host: row.is_reference for host, row in rows(store).items()} == {"nebius-1": True, "vast-1": False, "vast-2": False}


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({}, "no sound training set tells when its newest game was"),
        ({"newest_game": NOW, "soundness": Soundness.UNSOUND}, "no sound training set tells when its newest game was"),
        ({"newest_game": NOW + 30 * HOUR}, "its newest game is in the future: a clock is wrong"),
    ],
)
def test_missing_or_impossible_evidence_is_stale(store: Store, facts: dict[str, float], why: str) -> None:
    tell(store, "vast-1", [item(DATA, "x", **facts)], at=NOW)
    row = rows(store)["vast-1"]
    assert (row.why, row.age) == (why, None)


def test_a_shared_file_system_makes_every_host_that_sees_it_fresh(store: Store) -> None:
    tell(store, "nfs", [item(DATA, "x", newest_game=NOW - HOUR)], at=NOW)
    assert {host: row.fresh for host, row in rows(store).items()} == {"nebius-1": True, "vast-1": False, "vast-2": True}
    silent(store, "nfs", at=NOW + 1, code="not_mounted")
    assert not any(row.fresh for row in rows(store).values())


def test_a_host_that_does_not_answer_is_stale_whatever_it_holds(store: Store) -> None:
    for host in HOSTS:
        tell(store, host, [item(DATA, "x", newest_game=NOW - HOUR)], at=NOW)
    dies(store, "vast-2", at=NOW + 30)
    assert rows(store)["vast-2"].why == "the host is OFFLINE"
    assert rows(store)["vast-1"].fresh


def test_the_reference_is_one_that_can_be_reached(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "old", newest_game=NOW - 2 * HOUR)], at=NOW)
    tell(store, "nebius-1", [item(DATA, "new", newest_game=NOW - HOUR)], at=NOW)
    dies(store, "nebius-1", at=NOW + 30)
    assert rows(store)["vast-1"].fresh
