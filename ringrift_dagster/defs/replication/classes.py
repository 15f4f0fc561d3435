"""What a replication run is told by its tags: which host's operations, of which priorities. Assets and sensors share it."""

from __future__ import annotations

from collections.abc import Mapping

from ringrift_dagster.transfer.model import Priority

CLASS_TAG = "ringrift/op_class"
"""Of every run that competes for slots: `dagster.yaml` bounds each class but CRITICAL."""
REPLICATION_TAG = "ringrift/replication"
"""`HOST CLASS`: at most one run with each value at a time."""
RUN_PRIORITIES = {
    Priority.CRITICAL: 100,
    Priority.HIGH: 50,
    Priority.NORMAL: 0,
    Priority.LOW: -50,
    Priority.COLD_STORAGE: -100,
}
"""Dagster's priority of a run: the higher, the sooner it leaves the queue of runs."""


def tags_of(target: str, priority: Priority) -> dict[str, str]:
    """The tags of a run for one class of a target's operations."""
    return {
        CLASS_TAG: priority.name,
        REPLICATION_TAG: f"{target} {priority.name}",
        "dagster/priority": str(RUN_PRIORITIES[priority]),
    }


def priorities_of(tags: Mapping[str, str]) -> tuple[Priority, ...]:
    """What a run leases: its own class, and whatever more urgent comes up meanwhile; everything if it was started by hand."""
    name = tags.get(CLASS_TAG, "")
    least = Priority[name] if name in Priority.__members__ else Priority.COLD_STORAGE
    return tuple(priority for priority in Priority if priority <= least)
