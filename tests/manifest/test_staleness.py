"""The gate on ages: of a config, an item, a host; what is not known is stale; what an override excuses. Both databases."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.manifest.freshness import host_freshness, of_host
from ringrift_dagster.manifest.inventory import Soundness
from ringrift_dagster.manifest.overrides import Override, grant
from ringrift_dagster.manifest.staleness import FUTURE_SECONDS, Reason, judge, of_config, of_item
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import declared, dies, digest_of, item, tell

NOW = 1_000_000.0
HOUR = 3600.0
LIMITS = AgeLimits()
DATA = "data/training/hex8_2p.npz"
EXCUSE = Override(1, "hex8_2p", "Ada", "the cluster moves house", NOW - HOUR, NOW + HOUR)


@pytest.fixture
def cluster(store: Store) -> Store:
    declared(store)
    for host in ("vast-1", "vast-2", "nebius-1"):
        tell(store, host, at=NOW)
    return store


def excuse(store: Store, at: float = NOW - HOUR, hours: float = 2) -> None:
    grant(store, "hex8_2p", who="Ada", why="the cluster moves house", hours=hours, at=at)


@pytest.mark.parametrize(
    ("age", "state", "reason"),
    [
        (0.0, "fresh", None),
        (24.0, "fresh", None),
        (24.01, "aging", None),
        (48.0, "aging", None),
        (48.01, "stale", Reason.TOO_OLD),
        (-1.0, "fresh", None),
        (-1.01, "stale", Reason.FUTURE),
        (math.inf, "stale", Reason.TOO_OLD),
        (-math.inf, "stale", Reason.FUTURE),
        (math.nan, "stale", Reason.NO_GAME_TIME),
    ],
)
def test_age_against_the_limits(age: float, state: str, reason: Reason | None) -> None:
    told = judge(NOW - age * HOUR, LIMITS, NOW)
    assert (told.state, told.reason, told.fresh, told.may_train) == (state, reason, reason is None, reason is None)


def test_no_time_is_stale_and_no_limit_is_kept_by_nothing() -> None:
    assert judge(None, LIMITS, NOW).reason == Reason.NO_GAME_TIME
    told = judge(NOW, None, NOW, EXCUSE)
    assert (told.reason, told.may_train) == (Reason.NO_LIMIT, False)


def test_an_override_excuses_an_age_and_hides_it_from_nobody() -> None:
    told = judge(NOW - 100 * HOUR, LIMITS, NOW, EXCUSE)
    assert (told.fresh, told.may_train, told.state, told.reason, told.override) == (False, True, "stale", Reason.TOO_OLD, EXCUSE)
    assert told.detail == "its newest game is 100.0 h old, more than 48 h"
    for at in (EXCUSE.until, EXCUSE.granted_at - 1):
        assert not judge(at - 100 * HOUR, LIMITS, at, EXCUSE).may_train
    assert judge(NOW, LIMITS, NOW, EXCUSE).override is None, "what is fresh needs no excuse"


@pytest.mark.parametrize("newest", [None, NOW + 2 * HOUR, math.nan])
def test_evidence_that_is_missing_or_impossible_is_excused_by_nothing(newest: float | None) -> None:
    assert not judge(newest, LIMITS, NOW, EXCUSE).may_train


@given(newest=st.floats(0, 2e9), warn=st.floats(0.01, 100), more=st.floats(0, 60), excused=st.booleans())
def test_nothing_older_than_the_limit_or_from_the_future_is_ever_fresh(
    newest: float, warn: float, more: float, excused: bool
) -> None:
    limits = AgeLimits(warn_hours=warn, fail_hours=warn + more)
    told = judge(newest, limits, NOW, EXCUSE if excused else None)
    assert told.fresh == (-FUTURE_SECONDS <= NOW - newest <= limits.fail.total_seconds())
    assert told.may_train == (told.fresh or (excused and told.reason == Reason.TOO_OLD))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"newest_game": NOW - HOUR}, None),
        ({"newest_game": NOW - 50 * HOUR}, Reason.TOO_OLD),
        ({"newest_game": NOW + 50 * HOUR}, Reason.FUTURE),
        ({}, Reason.NO_GAME_TIME),
        ({"newest_game": NOW - HOUR, "soundness": Soundness.UNSOUND, "reason": "not_a_zip"}, Reason.UNSOUND),
        ({"newest_game": NOW - HOUR, "soundness": Soundness.UNKNOWN}, Reason.UNSOUND),
    ],
)
def test_an_item_by_its_own_evidence(cluster: Store, facts: dict[str, Any], reason: Reason | None) -> None:
    tell(cluster, "vast-1", [item(DATA, "x", **facts)], at=NOW)
    assert of_item(cluster, digest_of("x"), LIMITS, NOW).reason == reason
    excuse(cluster)
    assert of_item(cluster, digest_of("x"), LIMITS, NOW).may_train == (reason in (None, Reason.TOO_OLD))


def test_an_item_that_is_unknown_or_out_of_reach_is_stale(cluster: Store) -> None:
    assert of_item(cluster, digest_of("x"), LIMITS, NOW).reason == Reason.NO_DATA
    tell(cluster, "vast-1", [item(DATA, "x", newest_game=NOW)], at=NOW)
    dies(cluster, "vast-1", at=NOW + 30)
    excuse(cluster)
    told = of_item(cluster, digest_of("x"), LIMITS, NOW)
    assert (told.reason, told.may_train) == (Reason.UNREACHABLE, False)


def test_a_config_is_as_fresh_as_the_set_that_jobs_should_use(cluster: Store) -> None:
    assert of_config(cluster, "hex8_2p", LIMITS, NOW).reason == Reason.NO_DATA
    tell(cluster, "vast-1", [item(DATA, "old", newest_game=NOW - 60 * HOUR)], at=NOW)
    tell(cluster, "vast-2", [item(DATA, "broken", newest_game=NOW, soundness=Soundness.UNSOUND)], at=NOW)
    told = of_config(cluster, "hex8_2p", LIMITS, NOW)
    assert (told.reason, told.age) == (Reason.TOO_OLD, 60 * HOUR)
    tell(cluster, "nebius-1", [item(DATA, "new", newest_game=NOW - HOUR)], at=NOW)
    assert of_config(cluster, "hex8_2p", LIMITS, NOW).fresh
    assert of_config(cluster, "hex8_3p", LIMITS, NOW).reason == Reason.NO_DATA


def test_a_host_is_excused_for_old_games_and_not_for_lacking_the_reference(cluster: Store) -> None:
    tell(cluster, "vast-1", [item(DATA, "old", newest_game=NOW - 60 * HOUR)], at=NOW)
    tell(cluster, "vast-2", [item(DATA, "older", newest_game=NOW - 70 * HOUR)], at=NOW)
    excuse(cluster)
    rows = {row.location: row for row in host_freshness(cluster, NOW, limits=LIMITS) if row.config == "hex8_2p"}
    assert {host: (row.reason, row.may_train) for host, row in rows.items()} == {
        "vast-1": (Reason.TOO_OLD, True),
        "vast-2": (Reason.NOT_THE_REFERENCE, False),
        "nebius-1": (Reason.NO_DATA, False),
    }
    assert rows["vast-1"].override is not None and rows["vast-1"].override.who == "Ada"
    one = of_host(cluster, "vast-1", "hex8_2p", LIMITS, NOW)
    assert one == rows["vast-1"]
    assert of_host(cluster, "nobody", "hex8_2p", LIMITS, NOW) is None
    assert not any(row.may_train for row in host_freshness(cluster, NOW + 3 * HOUR, limits=LIMITS)), "it is over"


def test_a_host_whose_sets_nobody_found_sound_is_stale(cluster: Store) -> None:
    tell(cluster, "vast-1", [item(DATA, "x", newest_game=NOW, soundness=Soundness.UNKNOWN)], at=NOW)
    told = of_host(cluster, "vast-1", "hex8_2p", LIMITS, NOW)
    assert told is not None and (told.reason, told.may_train) == (Reason.UNSOUND, False)
