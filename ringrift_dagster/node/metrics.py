"""An agent's Prometheus metrics, in a registry of its own. Names begin with `ringrift_node_`."""

from __future__ import annotations

import math
import time
from collections import Counter as Counts
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ringrift_dagster.manifest.inventory import Disk
from ringrift_dagster.manifest.sources.tree_scan import ScanReport
from ringrift_dagster.transfer.model import ItemProgress, Priority, PullState

_SECONDS = (0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)


class Metrics:
    """Counters and gauges of one agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ringrift_node_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=self.registry
        )
        self.served = Counter("ringrift_node_served_bytes", "Bytes of objects sent.", registry=self.registry)
        self._scans = Counter("ringrift_node_scans", "Passes over a root that ended.", ["root"], registry=self.registry)
        self._hashed = Counter("ringrift_node_hashed_bytes", "Bytes read for hashing.", ["root"], registry=self.registry)
        self._snapshots = Counter("ringrift_node_snapshots", "Snapshots taken of live databases.", ["root"], registry=self.registry)
        self._changed = Counter("ringrift_node_changes", "Inventory entries that changed.", ["root"], registry=self.registry)
        self._seconds = Gauge("ringrift_node_scan_seconds", "How long the last pass took.", ["root"], registry=self.registry)
        self._at = Gauge("ringrift_node_scanned_timestamp_seconds", "When the last pass ended.", ["root"], registry=self.registry)
        self._pending = Gauge("ringrift_node_pending_files", "Files seen and not hashed yet.", ["root"], registry=self.registry)
        self._failed = Gauge(
            "ringrift_node_unlistable", "Folders and files that could not be looked at.", ["root"], registry=self.registry
        )
        self._available = Gauge("ringrift_node_root_available", "Whether a root is there.", ["root"], registry=self.registry)
        self._entries = Gauge("ringrift_node_entries", "Remembered paths by kind.", ["root", "kind"], registry=self.registry)
        self._total = Gauge("ringrift_node_disk_bytes", "Size of the root's file system.", ["root"], registry=self.registry)
        self._free = Gauge(
            "ringrift_node_disk_free_bytes", "Free bytes of the root's file system.", ["root"], registry=self.registry
        )
        self.uploaded = Counter("ringrift_node_uploaded_bytes", "Bytes put to presigned addresses.", registry=self.registry)
        self._uplink = Gauge("ringrift_node_uplink_limit_bytes_per_second", "What is sent at most.", registry=self.registry)
        self._pulls = Gauge("ringrift_node_pulls", "Items of open orders.", ["state", "priority"], registry=self.registry)
        self._pulled = Counter("ringrift_node_pulled_items", "Items that came.", ["transport", "source"], registry=self.registry)
        self._pulled_bytes = Counter(
            "ringrift_node_pulled_bytes", "Bytes that came.", ["transport", "source"], registry=self.registry
        )
        self._pull_failures = Counter(
            "ringrift_node_pull_failures", "Items that did not come, by cause.", ["cause"], registry=self.registry
        )
        self._pull_retries = Counter("ringrift_node_pull_retries", "Sources that were tried again.", registry=self.registry)
        self._resent = Counter("ringrift_node_pull_resent_bytes", "Bytes fetched more than once.", registry=self.registry)
        self._wrong = Counter(
            "ringrift_node_pull_wrong_chunks", "Chunks that were not what they should be.", ["source"], registry=self.registry
        )
        self._benched = Counter(
            "ringrift_node_pull_benched", "Items for which a source was benched.", ["source"], registry=self.registry
        )
        self._pull_seconds = Histogram(
            "ringrift_node_pull_seconds", "How long items took to come.", ["transport"], registry=self.registry, buckets=_SECONDS
        )
        self._link_limit = Gauge(
            "ringrift_node_link_limit_bytes_per_second", "What a link bears.", ["link"], registry=self.registry
        )
        self._link_use = Gauge(
            "ringrift_node_link_bytes_per_second", "What flowed over a link in the last second.", ["link"], registry=self.registry
        )

        self._names = Gauge(
            "ringrift_node_model_names_wrong", "Names of promoted models, or configs, with a problem.", ["reason"],
            registry=self.registry,
        )  # fmt: skip

    def model_names(self, reasons: Iterable[str]) -> None:
        """Take in what is wrong with the names of models now."""
        self._names.clear()
        for reason, count in Counts(reasons).items():
            self._names.labels(reason).set(count)

    def scanned(self, root: str, report: ScanReport) -> None:
        """Take in what a pass did."""
        self._scans.labels(root).inc()
        self._hashed.labels(root).inc(report.bytes)
        self._snapshots.labels(root).inc(report.snapshots)
        self._changed.labels(root).inc(report.changed + report.gone)
        self._seconds.labels(root).set(report.seconds)
        self._at.labels(root).set(time.time())
        self._pending.labels(root).set(report.pending)
        self._failed.labels(root).set(report.failed)

    def root(self, root: str, *, available: bool, counts: dict[str, int], disk: Disk | None) -> None:
        """Take in how a root stands now."""
        self._available.labels(root).set(available)
        for kind, count in counts.items():
            self._entries.labels(root, kind).set(count)
        if disk is not None:
            self._total.labels(root).set(disk.total)
            self._free.labels(root).set(disk.free)

    def pulled(self, progress: ItemProgress) -> None:
        """Take in how an item ended."""
        transport = progress.transport.value if progress.transport else "none"
        if progress.state == PullState.DONE:
            self._pulled.labels(transport, progress.source or "none").inc()
            self._pull_seconds.labels(transport).observe(progress.seconds)
        else:
            self._pull_failures.labels(progress.cause or "none").inc()
        for offer in progress.offers:
            self._pulled_bytes.labels(offer.transport.value, offer.location).inc(offer.bytes)
            if offer.wrong_chunks:
                self._wrong.labels(offer.location).inc(offer.wrong_chunks)
        for source in progress.benched:
            self._benched.labels(source).inc()
        self._pull_retries.inc(progress.retries)
        self._resent.inc(progress.resent)

    def pulls(
        self, counts: Mapping[tuple[str, str], int], links: Mapping[str, tuple[float | None, float]], uplink: float | None
    ) -> None:
        """Take in how pulls and links stand now. A limit that there is none of is infinite."""
        for state in (PullState.WAITING, PullState.RUNNING, PullState.VERIFYING):
            for priority in Priority:
                self._pulls.labels(state.value, priority.name).set(counts.get((state.value, priority.name), 0))
        for link, (limit, use) in links.items():
            self._link_limit.labels(link).set(math.inf if limit is None else limit)
            self._link_use.labels(link).set(use)
        self._uplink.set(math.inf if uplink is None else uplink)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
