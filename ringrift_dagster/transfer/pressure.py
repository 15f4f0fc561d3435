"""What presses on moving data, measured: the queue, disks, this machine's memory, links and their rates. Reading only.

Only work that is never deferred counts: that less urgent work waits in masses is no pressure, and deferring it would make it more.
What cannot be measured is said to be unknown. What follows from the readings `cluster.backpressure` knows, who remembers it
`deferral`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.cluster.backpressure import Assessment, Reading, assess
from ringrift_dagster.cluster.topology import Thresholds
from ringrift_dagster.manifest.schema import link_limits, locations, operations
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.limits import AT_ONCE, SMALL_BYTES, Lanes, coming_from, going_to
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State, in_state

MEMINFO = Path("/proc/meminfo")
WINDOW_SECONDS = 600.0
"""What ended within this tells how fast the queue drains."""
SHORTEST_SECONDS = 30.0
"""Watching a full queue for less tells nothing about its rate."""
QUEUE_SECONDS = (120.0, 1800.0)
RATE_SECONDS = (300.0, 3600.0)
MEMORY_PERCENT = (70.0, 95.0)
IN_FLIGHT_PERCENT = (50.0, 100.0)
"""No pressure up to the first, all of it from the second on. For disks both are those of the hosts file: full, and 100 %."""
_URGENT = operations.c.priority <= int(Priority.NORMAL)
_MEMORY = re.compile(r"^(MemTotal|MemAvailable):\s+(\d+) kB$", re.MULTILINE)


def measure(store: Store, thresholds: Thresholds, *, at: float, meminfo: Path = MEMINFO) -> Assessment:
    """Every reading of one moment, and what they amount to."""
    with store.reading() as connection:
        links = _links(connection)
        open_work = _open_work(connection, at)
        readings = (
            _queue(connection, open_work, links, at),
            _disks(connection, thresholds),
            _memory(meminfo),
            _in_flight(connection, links, at),
            _rates(open_work, links),
        )
    return assess(readings)


@dataclass(frozen=True)
class _Link:
    at_once: int = AT_ONCE
    throughput: float | None = None
    mean_size: float | None = None


@dataclass
class _Work:
    """What one target waits for, and what is under way to it. `oldest` is when the first that waits was submitted."""

    waiting: int = 0
    oldest: float | None = None
    operations: int = 0
    bytes: int = 0
    unsized: int = 0


def _links(connection: Connection) -> dict[str, _Link]:
    columns = (link_limits.c.name, link_limits.c.at_once, link_limits.c.throughput, link_limits.c.mean_size)
    return {row[0]: _Link(*row[1:]) for row in connection.execute(sa.select(*columns))}


def _open_work(connection: Connection, at: float) -> dict[str, _Work]:
    """What is due or under way and never deferred, by target. What waits for its next attempt presses on nobody, nor what is for a
    place that cannot be reached: nothing drains it, and deferring the rest would help nobody."""
    leased = sa.and_(in_state(State.LEASED), operations.c.leased_until > at)
    due = sa.or_(
        in_state(State.QUEUED),
        sa.and_(in_state(State.WAITING), operations.c.due_at <= at),
        sa.and_(in_state(State.LEASED), operations.c.leased_until <= at),
    )
    query = (
        sa.select(
            operations.c.target,
            sa.func.sum(sa.case((due, 1), else_=0)),
            sa.func.min(sa.case((due, operations.c.submitted_at))),
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(operations.c.size), 0),
            sa.func.sum(sa.case((operations.c.size.is_(None), 1), else_=0)),
        )
        .where(operations.c.finished_at.is_(None), _URGENT, sa.or_(due, leased), operations.c.target.in_(_reachable()))
        .group_by(operations.c.target)
    )
    return {row[0]: _Work(int(row[1]), row[2], int(row[3]), int(row[4]), int(row[5])) for row in connection.execute(query)}


def _queue(connection: Connection, work: dict[str, _Work], links: dict[str, _Link], at: float) -> Reading:
    """Seconds until what waits now will have been done: how long the oldest waits, or what the rate of the last minutes says."""
    low, high = QUEUE_SECONDS
    waiting = {target: each for target, each in work.items() if each.waiting}
    count = sum(each.waiting for each in waiting.values())
    told = _by_class(connection)
    oldest = max((at - each.oldest for each in waiting.values() if each.oldest is not None), default=0.0)
    borne = sum(links.get(going_to(target), _Link()).at_once for target in waiting)
    if count <= borne:  # all of it can go at once: nothing has to be waited for
        return Reading("queue", max(oldest, 0.0), low, high, "s", told)
    watched = min(max(oldest, 0.0), WINDOW_SECONDS)
    ended = sa.select(sa.func.count()).where(operations.c.finished_at > at - watched, _URGENT, in_state(State.DONE))
    done = connection.execute(ended).scalar_one()
    if watched < SHORTEST_SECONDS or (not done and watched < WINDOW_SECONDS):
        unknown = f"how fast it drains: {count} wait, and {done} ended within {watched:.0f} s"
        return Reading("queue", oldest, low, high, "s", told, unknown)
    drained = count * watched / done if done else float("inf")
    return Reading("queue", max(oldest, drained), low, high, "s", f"{told}; {done} done in {watched / 60:.0f} min")


def _by_class(connection: Connection) -> str:
    query = sa.select(operations.c.priority, sa.func.count()).where(operations.c.finished_at.is_(None))
    counts = connection.execute(query.group_by(operations.c.priority).order_by(operations.c.priority)).all()
    return ", ".join(f"{count} {Priority(priority).name}" for priority, count in counts) or "nothing is open"


def _disks(connection: Connection, thresholds: Thresholds) -> Reading:
    """How full the fullest disk is, of all places that can be reached: a mean would hide the one on which everything fails."""
    query = sa.select(locations.c.name, locations.c.disk_total, locations.c.disk_free).where(
        locations.c.active, locations.c.liveness == Liveness.ONLINE, locations.c.kind != "s3"
    )
    rows = connection.execute(query.order_by(locations.c.name)).all()
    used = {row.name: 100 * (1 - row.disk_free / row.disk_total) for row in rows if row.disk_total and row.disk_free is not None}
    silent = [row.name for row in rows if row.name not in used]
    unknown = f"the disk of {', '.join(silent[:3])}" if silent else None if rows else "every disk: no place can be reached"
    fullest = max(used, key=lambda name: used[name], default=None)
    low, high = thresholds.full_at_percent, 100.0
    if fullest is None:
        return Reading("disk", None, low, high, "% full", "", unknown)
    return Reading("disk", used[fullest], low, high, "% full", f"{fullest} is the fullest", unknown)


def _memory(meminfo: Path) -> Reading:
    """How much of this machine's memory is not available, as its kernel says."""
    low, high = MEMORY_PERCENT
    try:
        with meminfo.open(encoding="ascii", errors="replace") as file:
            told = {name: int(kib) for name, kib in _MEMORY.findall(file.read(1 << 16))}
    except OSError as error:
        return Reading("memory", None, low, high, "% used", "", f"this machine's memory: {error.strerror or error}")
    total, available = told.get("MemTotal", 0), told.get("MemAvailable")
    if not total or available is None:
        return Reading("memory", None, low, high, "% used", "", f"this machine's memory: {meminfo} does not say")
    detail = f"{available / (1 << 20):.1f} of {total / (1 << 20):.1f} GiB are available"
    return Reading("memory", 100 * (1 - available / total), low, high, "% used", detail)


def _in_flight(connection: Connection, links: dict[str, _Link], at: float) -> Reading:
    """Which share of what all links bear is taken: of those into places that can be reached, or out of them, the larger."""
    low, high = IN_FLIGHT_PERCENT
    names = connection.execute(_reachable().order_by(locations.c.name)).scalars().all()
    shares = [0.0]
    used: dict[str, float] = {}
    for column, link_of in ((operations.c.target, going_to), (operations.c.source, coming_from)):
        under_way = (in_state(State.LEASED), operations.c.leased_until > at, _URGENT, column.is_not(None))
        rows = connection.execute(sa.select(column, *Lanes.COUNTED).where(*under_way).group_by(column))
        taken = {name: Lanes(*counted).taken for name, *counted in rows}
        bears = {name: links.get(link_of(name), _Link()).at_once for name in {*names, *taken}}
        shares.append(100 * sum(taken.values()) / max(sum(bears.values()), 1))
        used |= {link_of(name): count / bears[name] for name, count in taken.items()}
    fullest = max(used, key=lambda link: used[link], default=None)
    detail = f"the link {fullest} is the fullest, {used[fullest]:.0%}" if fullest else "nothing is under way"
    return Reading("in flight", max(shares), low, high, "% of what links bear", detail)


def _reachable() -> sa.Select[tuple[str]]:
    return sa.select(locations.c.name).where(locations.c.active, locations.c.liveness == Liveness.ONLINE)


def _rates(work: dict[str, _Work], links: dict[str, _Link]) -> Reading:
    """Seconds that the slowest target needs for the bytes it waits for, at the rate that was measured into it."""
    low, high = RATE_SECONDS
    needed: dict[str, float] = {}
    unmeasured: list[str] = []
    for target, each in sorted(work.items()):
        link = links.get(going_to(target), _Link())
        if each.bytes <= SMALL_BYTES and not each.unsized:
            continue
        if not link.throughput or (each.unsized and link.mean_size is None):
            unmeasured.append(target)
            continue
        size = each.bytes + each.unsized * (link.mean_size or 0.0)
        needed[target] = size / (link.throughput * max(1, min(link.at_once, each.operations)))
    unknown = f"rates into {', '.join(unmeasured[:3])}: nothing large was brought there yet" if unmeasured else None
    slowest = max(needed, key=lambda target: needed[target], default=None)
    if slowest is None:
        value, detail = (None, "") if unmeasured else (0.0, "nothing large is to be brought")
        return Reading("rates", value, low, high, "s of bytes", detail, unknown)
    return Reading("rates", needed[slowest], low, high, "s of bytes", f"{slowest} is the slowest", unknown)
