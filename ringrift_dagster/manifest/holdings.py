"""The counters of every location, by type and config, kept with every change of what is AVAILABLE there.

They make a report over the whole cluster cost as much as there are locations, not as there are replicas.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.manifest.inventory import Soundness
from ringrift_dagster.manifest.schema import holdings, items, replicas
from ringrift_dagster.manifest.states import ReplicaState
from ringrift_dagster.manifest.store import Writer, largest, upsert

_MAXIMA = ("newest_game", "newest_mtime", "verified_at")


class Counted(NamedTuple):
    """A replica with what its item is, as the merge knows it."""

    item_id: int
    path: str
    state: str
    reason: str | None
    mtime: float | None
    verified_at: float | None
    revision: int
    sha256: bytes
    type: str
    config: str | None
    size: int
    soundness: str
    newest_game: float | None


_Maxima = tuple[float | None, ...]
"""One of each of _MAXIMA."""
_NOTHING: _Maxima = (None, None, None)


@dataclass
class _Cell:
    replicas: int = 0
    bytes: int = 0
    reached: _Maxima = _NOTHING
    left: _Maxima = _NOTHING
    came: set[int] = field(default_factory=set)
    unsure: bool = False
    """What was reached may have left again, or be another's too: only counting tells."""


class Holdings:
    """Changes of the counters, collected and then written at once."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str, str], _Cell] = defaultdict(_Cell)

    def add(self, location: int, row: Counted) -> None:
        """A replica became AVAILABLE at a location."""
        cell = self._cells[location, row.type, row.config or ""]
        cell.replicas += 1
        cell.bytes += row.size
        cell.reached = _maxima(cell.reached, row)
        cell.came.add(row.item_id)

    def remove(self, location: int, row: Counted) -> None:
        """A replica is not AVAILABLE there any more."""
        cell = self._cells[location, row.type, row.config or ""]
        cell.replicas -= 1
        cell.bytes -= row.size
        cell.left = _maxima(cell.left, row)
        if row.item_id in cell.came:  # then what was reached may have left again
            reached = tuple(map(_unless_left, cell.reached, _maxima(_NOTHING, row)))
            cell.unsure = cell.unsure or reached != cell.reached
            cell.reached = reached

    def total(self, location: int) -> tuple[int, int]:
        """By how much a location's replicas and bytes changed."""
        cells = [cell for (place, _, _), cell in self._cells.items() if place == location]
        return sum(cell.replicas for cell in cells), sum(cell.bytes for cell in cells)

    def write(self, writer: Writer) -> None:
        """Bring the counters up to date. The replicas have to be written before: what was the greatest may have left."""
        insert = upsert(writer.connection, holdings)
        changed = {
            "replicas": holdings.c.replicas + insert.excluded.replicas,
            "bytes": holdings.c.bytes + insert.excluded.bytes,
            **{name: largest(holdings.c[name], insert.excluded[name]) for name in _MAXIMA},
        }
        rows = [
            {
                "location_id": location,
                "type": kind,
                "config": config,
                "replicas": cell.replicas,
                "bytes": cell.bytes,
                **dict(zip(_MAXIMA, cell.reached, strict=True)),
            }
            for (location, kind, config), cell in self._cells.items()
        ]
        writer.many(insert.on_conflict_do_update(index_elements=["location_id", "type", "config"], set_=changed), rows)
        for (location, kind, config), cell in self._cells.items():
            if cell.unsure or any(left is not None for left in cell.left):
                self._look_again(writer.connection, location, kind, config, cell)

    def _look_again(self, connection: Connection, location: int, kind: str, config: str, cell: _Cell) -> None:
        """Recompute a cell's maxima if one of them may have left."""
        here = (holdings.c.location_id == location, holdings.c.type == kind, holdings.c.config == config)
        now = connection.execute(sa.select(*(holdings.c[name] for name in _MAXIMA)).where(*here)).one()
        if cell.unsure or any(map(_may_have_left, cell.left, now, cell.reached)):
            connection.execute(sa.update(holdings).where(*here).values(maxima_of(location, kind, config)))


def maxima_of(location: int, kind: str, config: str) -> dict[str, sa.ScalarSelect[float]]:
    """The maxima of a cell, counted from the replicas."""
    sound = sa.case((items.c.soundness != Soundness.UNSOUND, items.c.newest_game))
    found = (
        sa.select()
        .join_from(replicas, items)
        .where(
            replicas.c.location_id == location,
            replicas.c.state == ReplicaState.AVAILABLE,
            items.c.type == kind,
            items.c.config == config if config else items.c.config.is_(None),
        )
    )
    greatest = {"newest_game": sound, "newest_mtime": replicas.c.mtime, "verified_at": replicas.c.verified_at}
    return {name: found.add_columns(sa.func.max(column)).scalar_subquery() for name, column in greatest.items()}


def _may_have_left(left: float | None, now: float | None, reached: float | None) -> bool:
    """Whether the maximum that stands there now was that of a replica that left, and of none that came."""
    return left is not None and now is not None and left >= now and (reached is None or reached < now)


def _unless_left(reached: float | None, left: float | None) -> float | None:
    """A maximum that came, unless what left was as great."""
    return None if reached is not None and left is not None and left >= reached else reached


def _maxima(so_far: _Maxima, row: Counted) -> _Maxima:
    """With what a replica contributes; unsound items have no newest game."""
    newest = None if row.soundness == Soundness.UNSOUND else row.newest_game
    return _max(so_far[0], newest), _max(so_far[1], row.mtime), _max(so_far[2], row.verified_at)


def _max(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return second if first is None else first
    return first if first >= second else second
