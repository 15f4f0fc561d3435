"""Short ways to ask the queue, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from ringrift_dagster.manifest.schema import link_limits
from ringrift_dagster.manifest.store import Store, upsert
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.limits import going_to
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Brought, Kind, Operation, State, Wanted
from tests.manifest.telling import digest_of

LARGE = 1 << 30


def wanted(content: str, target: str = "gpu-1", priority: Priority = Priority.NORMAL, **other: Any) -> Wanted:
    """A large item of some content, to be synchronised."""
    return Wanted(
        **{"kind": Kind.SYNC, "sha256": digest_of(content), "target": target, "priority": priority, "size": LARGE, **other}
    )


def many(count: int, target: str = "gpu-1", priority: Priority = Priority.LOW, **other: Any) -> list[Wanted]:
    """So many of them, each of another content."""
    return [wanted(f"{target} {priority} {number}", target, priority, **other) for number in range(count)]


def bears(store: Store, target: str, at_once: int) -> None:
    """Let the link into a target bear so many transfers."""
    with store.writing() as writer:
        insert = upsert(writer.connection, link_limits).values(name=going_to(target), at_once=at_once)
        writer.connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"at_once": at_once}))


def completes(store: Store, held: Operation, *, at: float, brought: Brought = Brought()) -> bool:  # noqa: B008
    with store.writing() as writer:
        return queue.complete(writer, held, brought, at=at)


def fails(store: Store, held: Operation, cause: str, *, at: float) -> State | None:
    """Without chance in the pause."""
    with store.writing() as writer:
        return queue.fail(writer, held, cause, "told by a test", at=at, jitter=lambda: 0.5)


def put_off(store: Store, held: Operation, cause: str, *, at: float) -> State | None:
    with store.writing() as writer:
        return queue.put_off(writer, held, cause, "told by a test", at=at)


@contextmanager
def noted(store: Store) -> Iterator[list[tuple[str, object]]]:
    """The statements that look at operations while it lasts, with what they were given."""
    asked: list[tuple[str, object]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.lstrip().startswith("SELECT") and "operations" in statement:
            asked.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(store.engine, "before_cursor_execute", note)


def plan_of(store: Store, query: str, given: object) -> str:
    """How the database finds what a statement asks for."""
    explain = "EXPLAIN" if store.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with store.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{explain} {query}", given).all()  # type: ignore[arg-type]
    return "\n".join(" ".join(map(str, row)) for row in rows)


def count(store: Store, query: sa.Select[Any]) -> int:
    with store.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
