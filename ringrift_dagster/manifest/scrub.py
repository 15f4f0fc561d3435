"""Re-reading what is stored and comparing it with its hashes: so much a day at each location, longest unread first.

Where a location stopped is remembered by its source; here is only the budget. What is found damaged reaches the manifest through
the source's next inventory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from ringrift_dagster.manifest.inventory import NoAnswer, Source
from ringrift_dagster.manifest.schema import locations, scrub_days
from ringrift_dagster.manifest.store import Store, upsert

DAILY_BYTES = 50 << 30
SLICE_BYTES = 256 << 20
"""Read at a time: between slices a scrub can stop and others get their turn."""
SLICE_SECONDS = 60.0


@dataclass(frozen=True)
class ScrubReport:
    """What was read at a location today, this run included; `remaining` files are still to be read. `problem`: why it stopped."""

    location: str
    bytes: int
    files: int
    damaged: tuple[str, ...]
    remaining: int
    problem: str | None = None


def scrub(
    store: Store,
    sources: Sequence[Source],
    *,
    daily_bytes: int = DAILY_BYTES,
    slice_bytes: int = SLICE_BYTES,
    seconds: float = 3600.0,
    clock: Callable[[], float] = time.time,
) -> list[ScrubReport]:
    """Scrub each location until its budget of today is used, everything was read once today, or `seconds` are over."""
    deadline = time.monotonic() + seconds
    return [_scrub_one(store, source, daily_bytes, slice_bytes, deadline, clock) for source in sources]


def _scrub_one(
    store: Store, source: Source, daily_bytes: int, slice_bytes: int, deadline: float, clock: Callable[[], float]
) -> ScrubReport:
    damaged: list[str] = []
    problem = None
    used, files, remaining = _spent(store, source.location, clock())
    whole_pass = files > 0 and remaining == 0
    while used < daily_bytes and not whole_pass and time.monotonic() < deadline:
        try:
            done = source.scrub(min(slice_bytes, daily_bytes - used), SLICE_SECONDS)
        except NoAnswer as silence:
            problem = f"{silence.code}: {silence.detail}"
            break
        damaged.extend(done.damaged)
        used, files, remaining = used + done.bytes, files + done.files, done.remaining
        whole_pass = done.remaining == 0 or done.bytes == 0
        _spend(store, source.location, clock(), done.bytes, done.files, len(done.damaged), done.remaining)
    if damaged:
        with store.writing() as writer:
            writer.note(clock(), "SCRUBBED", source.location, damaged=damaged[:20], count=len(damaged))
    return ScrubReport(source.location, used, files, tuple(damaged), remaining, problem)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _spent(store: Store, name: str, at: float) -> tuple[int, int, int]:
    query = (
        sa.select(scrub_days.c.bytes, scrub_days.c.files, scrub_days.c.remaining)
        .join_from(scrub_days, locations)
        .where(locations.c.name == name, scrub_days.c.day == _day(at))
    )
    with store.reading() as connection:
        row = connection.execute(query).one_or_none()
    return (row.bytes, row.files, row.remaining) if row else (0, 0, 0)


def _spend(store: Store, name: str, at: float, size: int, files: int, damaged: int, remaining: int) -> None:
    with store.writing() as writer:
        id_ = writer.connection.execute(sa.select(locations.c.id).where(locations.c.name == name)).scalar_one()
        insert = upsert(writer.connection, scrub_days)
        more = {name: scrub_days.c[name] + insert.excluded[name] for name in ("bytes", "files", "damaged")}
        values = {"location_id": id_, "day": _day(at), "bytes": size, "files": files, "damaged": damaged, "remaining": remaining}
        writer.connection.execute(
            insert.values(values).on_conflict_do_update(
                index_elements=["location_id", "day"], set_={**more, "remaining": insert.excluded.remaining}
            )
        )
