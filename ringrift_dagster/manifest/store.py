"""The manifest's database: opening it, its schema's version, transactions, prepared questions.

What the tables mean is in `schema`; what is written into them in `merge`, `liveness` and `orphans`; what is asked in `queries`.
SQLite (one writer at a time, WAL) by default, PostgreSQL by URL.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ringrift_dagster.home import Home
from ringrift_dagster.manifest import schema

T = TypeVar("T")
URL_VARIABLE = "RINGRIFT_MANIFEST_URL"
BUSY_SECONDS = 30
_MIGRATIONS = Path(__file__).with_name("migrations")
_SQLITE_SETTINGS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "foreign_keys=ON",
    "cache_size=-65536",
    "mmap_size=1073741824",
    "temp_store=MEMORY",
)
_NAMED = re.compile(r"%\((\w+)\)s")
_ADVISORY_LOCK = 0x52494E47


class StoreError(Exception):
    """The manifest cannot be opened; the message says what to do."""


class Store:
    """The manifest. Threads may share it; each has connections of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._prepared: dict[str, Prepared] = {}
        self._remembered: dict[str, tuple[int, Any]] = {}
        self._local = threading.local()
        self._readers: list[Any] = []
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str | None = None) -> Self:
        """Open the manifest at a SQLAlchemy URL, or the one the environment names, and bring its schema up to date.

        Raises StoreError.
        """
        try:
            engine = _engine(make_url(url or default_url()))
            _upgrade(engine)
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            said = [*str(getattr(error, "orig", None) or error).strip().splitlines(), type(error).__name__]
            raise StoreError(f"cannot open the manifest: {said[0]}; see ${URL_VARIABLE}") from error
        return cls(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; the store is not used afterwards."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view: one read transaction."""
        with self.engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """One transaction, alone among writers: everything in it happens, or nothing."""
        with self.engine.connect().execution_options(ringrift_writes=True) as connection, connection.begin():
            row = connection.execute(sa.select(schema.state.c.revision).where(schema.state.c.id == 1).with_for_update()).one()
            writer = Writer(connection, row.revision + 1)
            yield writer
            if writer.touched:
                connection.execute(sa.update(schema.state).values(revision=writer.revision))

    def revision(self) -> int:
        """The number of the last change."""
        return self.prepared("revision", _revision).rows({})[0][0]

    def prepared(self, name: str, make: Callable[[], sa.Select[*tuple[Any, ...]]]) -> Prepared:
        """A question that is asked often, compiled once. `name` is its identity."""
        if name not in self._prepared:
            self._prepared[name] = Prepared(self, make())
        return self._prepared[name]

    def remembered(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made anew only when the manifest changed: for what is small, asked often and changes seldom."""
        revision = self.revision()
        known = self._remembered.get(name)
        if known is None or known[0] != revision:
            known = self._remembered[name] = (revision, make())
        return known[1]

    def reader(self) -> Any:
        """This thread's own plain connection; each statement on it is its own transaction."""
        held = getattr(self._local, "held", None)
        if held is None:
            held = self.engine.raw_connection()
            held.detach()
            if self.engine.dialect.name == "postgresql":
                held.dbapi_connection.autocommit = True  # type: ignore[union-attr]
            self._local.held = held
            with self._lock:
                self._readers.append(held)
        return held.dbapi_connection

    def forget_reader(self) -> None:
        """This thread's own connection was lost: the next question makes another."""
        held, self._local.held = self._local.held, None
        with self._lock:
            self._readers.remove(held)
        held.close()


class Writer:
    """A transaction that writes. `revision` is what rows written in it carry."""

    def __init__(self, connection: Connection, revision: int) -> None:
        self.connection = connection
        self.revision = revision
        self.touched = False

    def many(self, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute a statement for each of the rows, if there are any. They go to the driver as they are."""
        if not rows:
            return
        compiled = statement.compile(dialect=self.connection.dialect, column_keys=list(rows[0]))  # type: ignore[attr-defined]
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        given = [{**constants, **row} for row in rows] if constants else rows
        sql, order = str(compiled), compiled.positiontup
        with _as_sqlalchemy(self.connection.engine, sql):
            if order is not None:
                self._cursor().executemany(sql, [tuple([row[name] for name in order]) for row in given])
            elif isinstance(statement, sa.Insert):
                self._insert_columns(statement.table, sql, given)
            else:
                self._cursor().executemany(sql, given)

    def _insert_columns(self, table: Any, sql: str, given: Sequence[Mapping[str, Any]]) -> None:
        """Insert all rows with one statement, an array a column: PostgreSQL spends more on a statement than on a row."""
        head, _, rest = sql.partition(" VALUES (")
        names = _NAMED.findall(rest)
        arrays = ", ".join(f"%s::{table.c[name].type.compile(dialect=self.connection.dialect)}[]" for name in names)
        conflict = rest.find(" ON CONFLICT ")
        tail = rest[conflict:] if conflict >= 0 else ""
        columns = [[values[name] for values in given] for name in names]
        self._cursor().execute(f"{head} SELECT * FROM unnest({arrays}){tail}", columns)

    def rows(self, statement: sa.Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """All rows of a query, as the driver gives them."""
        compiled = statement.compile(dialect=self.connection.dialect, compile_kwargs={"render_postcompile": True})
        order = compiled.positiontup
        given = compiled.params if order is None else [compiled.params[name] for name in order]
        sql = str(compiled)
        with _as_sqlalchemy(self.connection.engine, sql):
            cursor = self._cursor()
            cursor.execute(sql, given)
            return cursor.fetchall()

    def _cursor(self) -> Any:
        """A cursor of the driver, within this transaction."""
        return self.connection.connection.cursor()

    def note(self, at: float, kind: str, location: str | None = None, **detail: Any) -> None:
        """Record a change of state for those who follow the manifest."""
        self.note_all(at, kind, [(location, detail)])

    def note_all(self, at: float, kind: str, changes: Sequence[tuple[str | None, Mapping[str, Any]]]) -> None:
        """As `note`, for many of a kind: where, and in detail."""
        if changes:
            self.touched = True
            rows = [{"at": at, "kind": kind, "location": where, "detail": orjson.dumps(told).decode()} for where, told in changes]
            self.connection.execute(sa.insert(schema.changes), rows)


class Prepared:
    """A SELECT compiled to the driver's own SQL: no work is left between the caller and the database."""

    def __init__(self, store: Store, statement: sa.Select[*tuple[Any, ...]]) -> None:
        compiled = statement.compile(dialect=store.engine.dialect, compile_kwargs={"render_postcompile": True})
        self._store = store
        self._sql = str(compiled)
        self._order = compiled.positiontup
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}

    def rows(self, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """All rows, as the driver gives them. A connection that was lost meanwhile is made anew. Raises SQLAlchemyError."""
        bound = {**self._constants, **values} if self._constants else values
        given = bound if self._order is None else [bound[name] for name in self._order]
        engine, store = self._store.engine, self._store
        with _as_sqlalchemy(engine, self._sql):
            reader = store.reader()
            try:
                return reader.execute(self._sql, given).fetchall()
            except _driver_error(engine) as error:
                if not engine.dialect.is_disconnect(error, reader, None):  # pyright: ignore[reportArgumentType]
                    raise
            store.forget_reader()
            return store.reader().execute(self._sql, given).fetchall()


def default_url(home: Home | None = None) -> str:
    """What the environment names, or SQLite in the home."""
    if named := os.environ.get(URL_VARIABLE):
        return named
    root = (home or Home.from_env()).root
    root.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{root / 'manifest.db'}"


def upsert(connection: Connection, table: sa.Table) -> Any:
    """An INSERT that can say what happens ON CONFLICT, in the database's dialect."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def largest(first: sa.ColumnElement[Any], second: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The larger of two, or the one that is known."""
    return sa.case((first.is_(None), second), (second.is_(None), first), (first < second, second), else_=first)


def in_batches(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Parts short enough for one IN clause."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


@contextmanager
def _as_sqlalchemy(engine: Engine, sql: str) -> Iterator[None]:
    """What the driver raises becomes what SQLAlchemy would have made of it: callers know one kind of error."""
    kind = _driver_error(engine)
    try:
        yield
    except kind as error:
        raise DBAPIError.instance(sql, None, error, kind, dialect=engine.dialect) from error


def _driver_error(engine: Engine) -> type[Exception]:
    return engine.dialect.loaded_dbapi.Error


def _revision() -> sa.Select[Any]:
    return sa.select(schema.state.c.revision).where(schema.state.c.id == 1)


def _engine(url: URL) -> Engine:
    backend = url.get_backend_name()
    if backend == "postgresql":
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if backend != "sqlite":
        raise StoreError(f"the manifest is kept in SQLite or PostgreSQL, not in {backend}; see ${URL_VARIABLE}")
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`, not by the driver's guess
    for setting in _SQLITE_SETTINGS:
        connection.execute(f"PRAGMA {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("ringrift_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(engine: Engine) -> None:
    """Bring the schema to the newest version; one process at a time, the others wait."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    newest = ScriptDirectory.from_config(config).get_current_head()
    with _alone(engine), engine.connect() as connection:
        with connection.begin():
            current = MigrationContext.configure(connection).get_current_revision()
        if current != newest:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        database = engine.url.database or ":memory:"
        if database == ":memory:":
            yield
            return
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{database}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    else:
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(_ADVISORY_LOCK)))
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_ADVISORY_LOCK)))
