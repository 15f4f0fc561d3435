"""Circuit breakers, one for every location and transport: what failed several times in a row is not asked for a while.

Their state is in the manifest's database, so that a restart neither forgets that a location is broken nor leaves it shut for ever:
when its time has come, one order may try it. Which sources there are is `offers`' business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from ringrift_dagster.manifest.schema import breakers
from ringrift_dagster.manifest.store import Store, Writer, upsert
from ringrift_dagster.transfer.model import OfferOutcome, TransportName

FAILURES = 3
"""In a row open a breaker."""
COOL_DOWN = (60.0, 3600.0)
"""Seconds until the first trial, doubled with every trial that fails, and at most."""
TRIAL_SECONDS = 60.0
"""A trial of which nothing was heard for so long is nobody's any more: another may follow."""
BENCHED_CHUNKS = 2
"""Wrong chunks that make a source a liar."""
WRONG_BYTES = "wrong_bytes"
NOT_ITS_FAULT = frozenset({"cancelled", "not_found", "changed", "not_installed"})
"""Failures that say nothing about whether a location can be reached by a transport."""


class BreakerState(StrEnum):
    """Of a breaker."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    TRIAL = "TRIAL"
    """Somebody is trying it; the others wait for what comes of it."""


class Way(NamedTuple):
    """What a breaker is for."""

    location: str
    transport: TransportName


@dataclass(frozen=True)
class Breaker:
    """A way's breaker. `failures` in a row; `cool_down` in seconds; tried again from `retry_at` on; `code` of the last failure."""

    location: str
    transport: TransportName
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    cool_down: float = COOL_DOWN[0]
    retry_at: float | None = None
    changed_at: float = 0.0
    code: str | None = None

    @property
    def way(self) -> Way:
        return Way(self.location, self.transport)

    def shut(self, at: float) -> bool:
        """Whether nobody may use the way now."""
        return self.state != BreakerState.CLOSED and (self.retry_at or 0.0) > at


_FIELDS = tuple(Breaker.__dataclass_fields__)


def all_breakers(store: Store) -> list[Breaker]:
    """Every breaker that ever saw a failure."""
    return [_breaker(row) for row in store.prepared("breakers", _everything).rows({})]


def admit(store: Store, ways: Collection[Way], *, at: float) -> dict[Way, Breaker]:
    """Those of the ways that must not be used now, with their breakers. A way whose time has come is the caller's to try."""
    doubtful = [each for each in all_breakers(store) if each.way in ways and each.state != BreakerState.CLOSED]
    if not doubtful:
        return {}
    shut = {each.way: each for each in doubtful if each.shut(at)}
    due = [each for each in doubtful if not each.shut(at)]
    if due:
        with store.writing() as writer:
            for each in due:
                if not _take_trial(writer, each, at):
                    shut[each.way] = replace(each, state=BreakerState.TRIAL, retry_at=at + TRIAL_SECONDS)
    return shut


def observe(writer: Writer, outcomes: Iterable[OfferOutcome], *, at: float) -> None:
    """Take in what came of offers, in their order, within a transaction that records what they were good for."""
    verdicts = [(Way(each.location, each.transport), verdict) for each in outcomes if (verdict := _verdict(each)) is not None]
    if not verdicts:
        return
    known = {breaker.way: breaker for breaker in map(_breaker, writer.rows(_everything()))}
    now = dict(known)
    for way, code in verdicts:
        before = now.get(way)
        if code:
            now[way] = _failed(writer, before or Breaker(*way), code, at)
        elif before is not None:
            now[way] = _succeeded(writer, before, at)
    insert = upsert(writer.connection, breakers)
    changed = {name: insert.excluded[name] for name in _FIELDS[2:]}
    rows = [{name: getattr(each, name) for name in _FIELDS} for way, each in now.items() if each != known.get(way)]
    for row in rows:
        values = {**row, "transport": row["transport"].value, "state": row["state"].value}
        statement = insert.values(values).on_conflict_do_update(index_elements=["location", "transport"], set_=changed)
        writer.connection.execute(statement)


def _verdict(outcome: OfferOutcome) -> str | None:
    """Why a way failed, empty if it did not; None if nothing can be said."""
    if outcome.wrong_chunks >= BENCHED_CHUNKS:
        return WRONG_BYTES
    code = outcome.failure
    if code in NOT_ITS_FAULT:
        return None
    if code is not None and (outcome.bytes == 0 or outcome.failures >= FAILURES):
        return code
    return "" if outcome.bytes > 0 else None


def _failed(writer: Writer, before: Breaker, code: str, at: float) -> Breaker:
    failures = before.failures + 1
    if before.state == BreakerState.CLOSED and failures < FAILURES:
        return replace(before, failures=failures, code=code, changed_at=before.changed_at or at)
    if before.state == BreakerState.OPEN:
        return replace(before, failures=failures, code=code)  # what was under way when it opened
    trial = before.state == BreakerState.TRIAL
    cool_down = min(2 * before.cool_down, COOL_DOWN[1]) if trial else COOL_DOWN[0]
    writer.note(
        at, "BREAKER_OPENED", before.location, transport=before.transport.value, code=code, failures=failures, seconds=cool_down
    )
    return replace(
        before, state=BreakerState.OPEN, failures=failures, cool_down=cool_down, retry_at=at + cool_down, changed_at=at, code=code
    )


def _succeeded(writer: Writer, before: Breaker, at: float) -> Breaker:
    closed = Breaker(before.location, before.transport, changed_at=before.changed_at, code=before.code)
    if before.state == BreakerState.CLOSED:
        return closed
    writer.note(at, "BREAKER_CLOSED", before.location, transport=before.transport.value, after=round(at - before.changed_at, 1))
    return replace(closed, changed_at=at)


def _take_trial(writer: Writer, due: Breaker, at: float) -> bool:
    """Only one of those who ask at the same time gets it."""
    mine = (
        breakers.c.location == due.location, breakers.c.transport == due.transport.value,
        breakers.c.state != BreakerState.CLOSED.value, breakers.c.retry_at <= at,
    )  # fmt: skip
    trial = {"state": BreakerState.TRIAL.value, "retry_at": at + TRIAL_SECONDS}
    return writer.connection.execute(sa.update(breakers).where(*mine).values(trial)).rowcount == 1


def _everything() -> sa.Select[*tuple[object, ...]]:
    return sa.select(*(breakers.c[name] for name in _FIELDS)).order_by(breakers.c.location, breakers.c.transport)


def _breaker(row: Iterable[object]) -> Breaker:
    values: dict[str, object] = dict(zip(_FIELDS, row, strict=True))
    values |= {"transport": TransportName(str(values["transport"])), "state": BreakerState(str(values["state"]))}
    return Breaker(**values)  # type: ignore[arg-type]
