"""An agent's Prometheus metrics, in a registry of its own. Names begin with `ringrift_node_`."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from ringrift_dagster.manifest.inventory import Disk
from ringrift_dagster.manifest.sources.tree_scan import ScanReport


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

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
