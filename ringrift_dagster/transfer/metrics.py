"""The queue, the breakers and the links for Prometheus, read from the manifest whenever somebody asks.

What an agent itself transfers it counts itself: `node.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from ringrift_dagster.manifest.schema import breakers, link_limits, operations
from ringrift_dagster.manifest.store import Store, StoreError
from ringrift_dagster.transfer.model import Priority

_OPEN = operations.c.finished_at.is_(None)


class QueueCollector(Collector):
    """What is open, whom nobody asks, and what each link bears."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """One family after the other, all of one moment; when the manifest cannot be read, only that."""
        readable = GaugeMetricFamily("ringrift_queue_readable", "Whether the manifest can be read.")
        try:
            with self._store().reading() as connection:
                found = [
                    self._operations(connection), self._oldest(connection), self._breakers(connection), *self._links(connection),
                ]  # fmt: skip
        except (StoreError, SQLAlchemyError):
            found = []
        readable.add_metric([], float(bool(found)))
        yield readable
        yield from found

    def _operations(self, connection: sa.Connection) -> Metric:
        family = GaugeMetricFamily("ringrift_queue_operations", "Open operations.", labels=["priority", "state"])
        query = sa.select(operations.c.priority, operations.c.state, sa.func.count()).where(_OPEN)
        for priority, state, count in connection.execute(query.group_by(operations.c.priority, operations.c.state)):
            family.add_metric([Priority(priority).name, state], count)
        return family

    def _oldest(self, connection: sa.Connection) -> Metric:
        family = GaugeMetricFamily(
            "ringrift_queue_oldest_timestamp_seconds", "When the oldest open operation was submitted.", labels=["priority"]
        )
        query = sa.select(operations.c.priority, sa.func.min(operations.c.submitted_at)).where(_OPEN)
        for priority, at in connection.execute(query.group_by(operations.c.priority)):
            family.add_metric([Priority(priority).name], at)
        return family

    def _breakers(self, connection: sa.Connection) -> Metric:
        family = GaugeMetricFamily(
            "ringrift_breaker_open", "1 while a location is not asked by a transport.", labels=["location", "transport"]
        )
        for row in connection.execute(sa.select(breakers.c.location, breakers.c.transport, breakers.c.state)):
            family.add_metric([row.location, row.transport], float(row.state != "CLOSED"))
        return family

    def _links(self, connection: sa.Connection) -> Iterator[Metric]:
        limit = GaugeMetricFamily("ringrift_link_transfers_limit", "Transfers that a link bears at once.", labels=["link"])
        speed = GaugeMetricFamily("ringrift_link_throughput_bytes", "Bytes a second of one transfer, smoothed.", labels=["link"])
        for row in connection.execute(sa.select(link_limits.c.name, link_limits.c.at_once, link_limits.c.throughput)):
            limit.add_metric([row.name], row.at_once)
            if row.throughput is not None:
                speed.add_metric([row.name], row.throughput)
        yield limit
        yield speed
