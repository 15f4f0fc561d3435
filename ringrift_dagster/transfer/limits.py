"""How many transfers a link bears at once: adapted to how they end, with the reason for every change.

As a congestion window: one more while nearly all succeed and throughput holds, fewer when it does not. Only the numbers belong
here; who counts on which link is `queue`'s business. A link is what goes to a location, or what comes from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.manifest.schema import link_limits, operations
from ringrift_dagster.manifest.store import Writer, upsert

AT_ONCE = 10
"""What a link is taken to bear until it was seen."""
FEWEST, MOST = 2, 60
SMOOTHING = 0.1
GOOD, FAIR, POOR = 0.98, 0.97, 0.96
"""Shares of success: above the first a link may bear more, below the last it bears less."""
DROP = 0.7
"""Throughput of one transfer below this share of what it was: the link is shared by too many."""
MAGNITUDE = 10.0
"""Files so much smaller than they were explain a lower throughput."""
EVERY = 10
"""Transfers between two decisions, at least."""
SMALL_BYTES = 4 << 20
SMALL_IN_A_LANE = 32
"""Items below that size share a place: what they cost is not the link's bandwidth."""


def going_to(location: str) -> str:
    """The link into a location."""
    return f"to {location}"


def coming_from(location: str) -> str:
    """The link out of a location."""
    return f"from {location}"


@dataclass
class Lanes:
    """What is on a link: large transfers, each a lane of its own, and small ones that share lanes."""

    large: int = 0
    small: int = 0
    COUNTED: ClassVar[tuple[sa.ColumnElement[int], ...]] = (
        sa.func.count(sa.case((sa.func.coalesce(operations.c.size, SMALL_BYTES) >= SMALL_BYTES, 1))),
        sa.func.count(sa.case((operations.c.size < SMALL_BYTES, 1))),
    )

    @property
    def taken(self) -> int:
        """Lanes in use."""
        return self.large + -(-self.small // SMALL_IN_A_LANE)

    def take(self, size: int | None, at_once: int) -> bool:
        """Put one more on the link, if it bears it."""
        small = size is not None and size < SMALL_BYTES
        more = Lanes(self.large + (not small), self.small + small)
        if more.taken > at_once:
            return False
        self.large, self.small = more.large, more.small
        return True


@dataclass(frozen=True)
class Ended:
    """A transfer over a link: whether it succeeded, bytes and seconds."""

    good: bool
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Link:
    """What is known of a link. Throughput in bytes a second of one transfer, sizes in bytes."""

    at_once: int = AT_ONCE
    ended: int = 0
    succeeded: int = 0
    throughput: float | None = None
    judged_throughput: float | None = None
    mean_size: float | None = None
    judged_size: float | None = None
    reason: str | None = None


def seen(link: Link, transfers: Sequence[Ended]) -> Link:
    """With transfers that ended."""
    throughput, size = link.throughput, link.mean_size
    for each in transfers:
        if each.good and each.seconds > 0 and each.bytes > 0:
            throughput = _smoothed(throughput, each.bytes / each.seconds)
            size = _smoothed(size, each.bytes)
    good = sum(each.good for each in transfers)
    return replace(link, ended=link.ended + len(transfers), succeeded=link.succeeded + good, throughput=throughput, mean_size=size)


def decide(link: Link, waiting: int) -> Link:
    """The link with its next limit, and why; `waiting` operations want to use it. Too few transfers decide nothing."""
    if link.ended < max(EVERY, link.at_once):
        return link
    success = link.succeeded / link.ended
    at_once, why = _judged(link, success, waiting)
    at_once = min(max(at_once, FEWEST), MOST)
    return replace(
        link,
        at_once=at_once,
        ended=0,
        succeeded=0,
        judged_throughput=link.throughput,
        judged_size=link.mean_size,
        reason=f"{why}; {success:.0%} of {link.ended} succeeded",
    )


def _judged(link: Link, success: float, waiting: int) -> tuple[int, str]:
    if success < POOR:
        return link.at_once - max(1, link.at_once // 5), "too many failed"
    if success < FAIR:
        return link.at_once, "some failed"
    before, now = link.judged_throughput, link.throughput
    if before and now and now < DROP * before:
        # A lane more takes its share from the others: only a fall of the whole is one.
        if link.judged_size and link.mean_size and link.mean_size * MAGNITUDE < link.judged_size:
            return link.at_once, "slower, as files are smaller"
        return link.at_once - 1, f"slower, {now / 1e6:.1f} MB/s after {before / 1e6:.1f}"
    if waiting < link.at_once:
        return link.at_once, "the queue is emptying"
    if success >= GOOD:
        return link.at_once + 1, "all is well"
    return link.at_once, "nearly all is well"


def observe(writer: Writer, name: str, transfers: Sequence[Ended], *, waiting: int, at: float) -> Link:
    """Take in transfers that ended on a link; a changed limit is told of."""
    connection: Connection = writer.connection
    fields = tuple(Link.__dataclass_fields__)
    query = sa.select(*(link_limits.c[field] for field in fields)).where(link_limits.c.name == name).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        connection.execute(upsert(connection, link_limits).values(name=name, at_once=AT_ONCE).on_conflict_do_nothing())
        row = connection.execute(query).one()
    before = Link(*row)
    after = decide(seen(before, transfers), waiting)
    values = {field: getattr(after, field) for field in fields}
    if after.at_once != before.at_once:
        values["changed_at"] = at
        location = name.partition(" ")[2]
        writer.note(at, "LIMIT_CHANGED", location, link=name, before=before.at_once, after=after.at_once, reason=after.reason)
    connection.execute(sa.update(link_limits).where(link_limits.c.name == name).values(values))
    return after


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
