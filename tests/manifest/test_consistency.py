"""The manifest agrees with itself whatever was told, and every way it could disagree is found."""

from __future__ import annotations

import base64

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringrift_dagster.manifest.consistency import RULES, disagreements
from ringrift_dagster.manifest.inventory import CHUNK_DIGEST_BYTES, Gone, Soundness
from ringrift_dagster.manifest.orphans import accept_loss
from ringrift_dagster.manifest.schema import chunk_tables, holdings, items, locations, replicas
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import HOSTS, declared, dies, item, tell


@pytest.fixture(autouse=True)
def _declared(store: Store) -> None:
    declared(store)


def rules(store: Store) -> set[str]:
    return {finding.rule for finding in disagreements(store)}


def test_an_empty_manifest_agrees(store: Store) -> None:
    assert disagreements(store) == []


def test_it_agrees_after_everything_that_happens_to_replicas(store: Store) -> None:
    many = [item(f"{number}.npz", f"content {number}", newest_game=float(number), mtime=2.0 * number) for number in range(20)]
    tell(store, "vast-1", many, at=1)
    tell(store, "nebius-1", [item("x.npz", "content 3", verified_at=5.0, chunks=table(1))], at=2)
    tell(store, "nebius-1", [item("x.npz", "another", soundness=Soundness.UNSOUND, newest_game=99.0)], at=3)
    tell(store, "vast-2", [item("unknown.db", "u", config=None, type="GAME_DB", soundness=Soundness.UNKNOWN)], at=4)
    tell(store, "vast-2", [item("unknown.db", "u", type="GAME_DB")], at=5)
    tell(store, "vast-1", many[:5], at=6)
    assert next(place for place in stored(store) if place.name == "vast-1").held == 15
    assert disagreements(store) == []
    accept_loss(store, "vast-1", at=7)
    tell(store, "vast-1", gone=["0.npz", ("1.npz", Gone.SUPERSEDED)], full=False, at=8)
    dies(store, "vast-1", at=100)
    assert disagreements(store) == []


TOLD = st.lists(
    st.tuples(st.sampled_from(HOSTS), st.dictionaries(st.sampled_from("abcd"), st.sampled_from("uvwxyz"), max_size=4)), max_size=8
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TOLD)
def test_it_agrees_whatever_is_told(store: Store, told: list[tuple[str, dict[str, str]]]) -> None:
    for at, (host, files) in enumerate(told):
        tell(
            store,
            host,
            [item(f"{path}.npz", text, mtime=float(ord(text)), newest_game=float(at)) for path, text in files.items()],
            at=at,
        )
    assert disagreements(store) == []


def test_each_rule_is_looked_after(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a", chunks=table(1)), item("b.npz", "b")], at=1)
    broken = [
        ("holdings", sa.update(holdings).values(replicas=7)),
        ("locations", sa.update(locations).where(locations.c.name == "vast-1").values(bytes=1)),
        ("config", sa.update(items).where(items.c.size == 1).values(config="hex9_2p")),
        ("chunks", sa.update(chunk_tables).values(digests=bytes(CHUNK_DIGEST_BYTES + 1))),
        ("location", sa.delete(locations).where(locations.c.name == "vast-1")),
    ]
    for rule, statement in broken:
        with store.engine.connect() as connection:
            without_foreign_keys(connection)
            with connection.begin():
                connection.execute(statement)
        assert rule in rules(store)
    assert {rule for rule, _ in broken} | {"size"} == set(RULES)


def test_a_copy_with_another_size_under_the_same_hash_is_a_contradiction(store: Store) -> None:
    true = item("a.npz", "aaaa")
    tell(store, "vast-1", [true], at=1)
    tell(store, "nebius-1", [true.model_copy(update={"size": 3})], at=2)
    (finding,) = disagreements(store)
    assert (finding.rule, finding.where, finding.stored) == ("size", true.sha256, "4 bytes")
    assert finding.actual == "another size at nebius-1: a.npz"


def test_a_wrong_maximum_is_found_and_shown(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a", newest_game=5.0, mtime=6.0)], at=1)
    with store.engine.connect() as connection, connection.begin():
        connection.execute(sa.update(holdings).values(newest_game=50.0))
    (finding,) = disagreements(store)
    assert finding.where == "vast-1 NPZ hex8_2p"
    assert "newest_game 50.0" in finding.stored
    assert "newest_game 5.0" in finding.actual


def table(chunks: int) -> str:
    return base64.b64encode(bytes(CHUNK_DIGEST_BYTES * chunks)).decode()


def stored(store: Store) -> list[sa.Row]:
    with store.reading() as connection:
        return list(connection.execute(sa.select(locations.c.name, locations.c.held)))


def without_foreign_keys(connection: sa.Connection) -> None:
    """What a repair by hand, or a restored half of a backup, can leave behind."""
    if connection.dialect.name == "sqlite":
        connection.connection.execute("PRAGMA foreign_keys=OFF")
        return
    with connection.begin():
        for table in (replicas, holdings):
            connection.exec_driver_sql(f"ALTER TABLE {table.name} DROP CONSTRAINT IF EXISTS fk_{table.name}_location_id")
