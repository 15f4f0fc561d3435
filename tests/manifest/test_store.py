"""The manifest's database itself: its schema's versions, opening it from many processes, transactions that end at any point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import DBAPIError, IntegrityError

from ringrift_dagster.manifest import schema
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.queries import items_by_quality
from ringrift_dagster.manifest.store import Store
from tests.conftest import new_database
from tests.manifest.telling import declared, item, tell

OPENS = "import sys; from ringrift_dagster.manifest.store import Store; print(Store.open(sys.argv[1]).revision())"
DIES = """
import os, signal, sys
from ringrift_dagster.manifest import merge
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import item, tell
point = sys.argv[2]
real = getattr(merge._Merge, point)
def killed(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(merge._Merge, point, killed)
tell(Store.open(sys.argv[1]), "vast-1", [item(f"{number}.npz", f"new {number}") for number in range(50)], at=2)
"""


def test_migrations_make_the_tables_that_the_code_knows(store: Store) -> None:
    with store.engine.connect() as connection, connection.begin(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an index over an expression cannot be reflected, and so not compared
        differences = compare_metadata(MigrationContext.configure(connection), schema.metadata)
        assert [difference for difference in differences if "ix_items_best" not in str(difference)] == []
        indexes = {index["name"] for index in sa.inspect(connection).get_indexes("items")}
    assert "ix_items_newest" in indexes


def test_the_best_items_are_found_by_index(store: Store) -> None:
    declared(store)
    tell(store, "vast-1", [item(f"{number}.npz", f"content {number}", quality=0.5) for number in range(3000)], at=1)
    seen: list[str] = []
    sa.event.listen(store.engine, "before_cursor_execute", lambda *event: seen.append(event[2]))
    items_by_quality(store, "hex8_2p", ItemType.NPZ, limit=3)
    statement = next(text for text in seen if "FROM items" in text)
    if store.engine.dialect.name == "sqlite":
        with store.reading() as connection:
            plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, ("hex8_2p", "NPZ", "SOUND", 3, 0)).all()
        assert "ix_items_best" in str(plan) and "TEMP B-TREE" not in str(plan)
    else:
        with store.reading() as connection:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            values = dict(zip(("config_1", "type_1", "soundness_1", "param_1"), ("hex8_2p", "NPZ", "SOUND", 3), strict=True))
            plan = connection.exec_driver_sql("EXPLAIN " + statement, values).all()
        assert "ix_items_best" in str(plan) and "Sort" not in str(plan)


def test_many_processes_may_open_a_fresh_manifest_at_once(manifest_url: str) -> None:
    openers = [
        subprocess.Popen([sys.executable, "-c", OPENS, manifest_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [opener.communicate(timeout=60) for opener in openers]
    assert [(opener.returncode, out) for opener, (out, _) in zip(openers, said, strict=True)] == [(0, "0\n")] * 4, said


@pytest.mark.parametrize("point", ["_take_in_items", "_write_replicas", "_write_place"])
def test_a_process_killed_in_a_merge_leaves_the_manifest_as_it_was(manifest_url: str, point: str) -> None:
    with Store.open(manifest_url) as store:
        declared(store)
        tell(store, "vast-1", [item("a.npz", "a")], at=1)
        before = store.revision(), [change.kind for change in changes_since(store, 0)]
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", DIES, manifest_url, point], cwd=root, env=os.environ, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with Store.open(manifest_url) as store:
        assert (store.revision(), [change.kind for change in changes_since(store, 0)]) == before
        with store.reading() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(schema.items)).scalar_one() == 1
        assert tell(store, "vast-1", [item("a.npz", "a"), item("b.npz", "b")], at=3).added


def test_readers_see_one_state_while_a_writer_works(store: Store) -> None:
    declared(store)
    with store.reading() as connection:
        count = sa.select(sa.func.count()).select_from(schema.items)
        assert connection.execute(count).scalar_one() == 0
        tell(store, "vast-1", [item("a.npz", "a")], at=1)
        assert connection.execute(count).scalar_one() == 0
    with store.reading() as connection:
        assert connection.execute(count).scalar_one() == 1


def test_a_thread_whose_connection_was_lost_goes_on_asking(postgres_server: str) -> None:
    with Store.open(f"{postgres_server}/{new_database(postgres_server)}") as store:
        before = store.revision()
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        with store.engine.connect() as connection:
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        assert store.revision() == before


def test_what_the_driver_raises_is_an_error_as_sqlalchemy_has_them(store: Store) -> None:
    with pytest.raises(IntegrityError), store.writing() as writer:
        writer.many(sa.insert(schema.handled_events), [{"event": 1, "consumer": "nobody", "at": 1.0}])
    with pytest.raises(DBAPIError):
        store.prepared("wrong", lambda: sa.select(sa.literal_column("no_such_column"))).rows({})
