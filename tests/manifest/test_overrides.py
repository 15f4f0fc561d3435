"""Exceptions from the age limit: signed, reasoned, bounded, recorded, never changed. Both databases."""

from __future__ import annotations

import math

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.overrides import OverrideRefused, grant, listed, standing
from ringrift_dagster.manifest.schema import overrides as table
from ringrift_dagster.manifest.store import Store

NOW, HOUR = 1_000_000.0, 3600.0


def made(store: Store, *, config: str = "hex8_2p", who: str = "Ada", why: str = "moving house", hours: float = 3, at: float = NOW):
    return grant(store, config, who=who, why=why, hours=hours, at=at)


def test_an_override_has_who_why_and_an_end_and_is_told_to_those_who_follow(store: Store) -> None:
    override = made(store, who="  Ada\nLovelace ")
    assert (override.config, override.who, override.why) == ("hex8_2p", "Ada Lovelace", "moving house")
    assert (override.granted_at, override.until) == (NOW, NOW + 3 * HOUR)
    assert listed(store) == [override]
    (change,) = changes_since(store, 0)
    assert (change.kind, change.at) == ("STALENESS_OVERRIDDEN", NOW)
    assert change.detail == {
        "override": override.id, "config": "hex8_2p", "who": "Ada Lovelace", "why": "moving house", "until": NOW + 3 * HOUR,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"who": ""},
        {"who": " \t\n"},
        {"who": "x" * 101},
        {"why": ""},
        {"why": "\x00 "},
        {"why": "x" * 501},
        {"hours": 0},
        {"hours": -1},
        {"hours": 24.001},
        {"hours": math.inf},
        {"hours": math.nan},
        {"config": "hex8_5p"},
        {"config": "*"},
        {"config": ""},
    ],
)
def test_what_is_unsigned_unreasoned_unbounded_or_for_everything_is_refused(store: Store, wrong: dict[str, object]) -> None:
    with pytest.raises(OverrideRefused) as refused:
        made(store, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert (listed(store), changes_since(store, 0)) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [{"until": NOW + 25 * HOUR}, {"until": NOW}, {"until": NOW - 1}, {"who": ""}, {"who": "  "}, {"why": ""}],
)
def test_the_database_itself_takes_no_other_rows(store: Store, wrong: dict[str, object]) -> None:
    row = {"config": "hex8_2p", "who": "Ada", "why": "moving house", "granted_at": NOW, "until": NOW + HOUR}
    with pytest.raises(IntegrityError), store.writing() as writer:
        writer.connection.execute(sa.insert(table).values(row | wrong))
    made(store)
    with pytest.raises(IntegrityError), store.writing() as writer:
        writer.connection.execute(sa.update(table).values(until=table.c.until + 22 * HOUR))


def test_it_is_in_force_for_its_config_until_it_ends(store: Store) -> None:
    override = made(store, hours=24)
    assert standing(store, NOW) == standing(store, NOW + 24 * HOUR - 1) == {"hex8_2p": override}
    assert standing(store, NOW - 1) == standing(store, NOW + 24 * HOUR) == {}


def test_going_on_takes_another_row_with_its_own_reasons(store: Store) -> None:
    first = made(store, hours=2)
    second = made(store, hours=24, at=NOW + HOUR, who="Grace", why="the move takes longer")
    assert listed(store) == [second, first]
    assert standing(store, NOW + HOUR) == {"hex8_2p": second}, "of two, the one that lasts longer"
    assert standing(store, NOW + 20 * HOUR)["hex8_2p"].who == "Grace"
    changing = [name for name in vars(overrides) if name.startswith(("renew", "extend", "update", "change"))]
    assert changing == []


def test_many_made_in_advance_reach_no_further_than_one(store: Store) -> None:
    for _ in range(5):
        made(store, hours=24)
    assert standing(store, NOW + 24 * HOUR) == {}
