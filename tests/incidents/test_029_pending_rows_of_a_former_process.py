"""A queue refused all work, because rows that a former process had left pending counted as being under way.

A lease ends by itself: what a dead process held is taken over, with the order it may have given, and hinders nobody meanwhile.
"""

from __future__ import annotations

import time
from pathlib import Path

from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.limits import AT_ONCE
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from tests.transfer.field import MB, noise, running_field


def test_what_a_dead_process_held_is_taken_over(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as field:
        store = field.plane.store
        hashes = [field.put("n1", noise(MB, number), f"models/x{number}_hex8_2p.onnx") for number in range(AT_ONCE + 1)]
        field.refresh()
        now = time.time()
        left = [Wanted(Kind.SYNC, each, "n2", Priority.NORMAL, 5 * MB) for each in hashes[:AT_ONCE]]
        queue.submit_all(store, left, at=now)
        dead = queue.lease(store, "dead", "n2", at=now, limit=AT_ONCE, seconds=3.0)
        queue.post(store, "dead", {each.id: f"order-{each.id % 2}" for each in dead}, dead)
        queue.draw(store, "dead", {each.id: "n1" for each in dead}, dead, at=now)
        assert len(dead) == AT_ONCE, "it held all that the link bears, and had posted nothing"

        new = queue.submit(store, Wanted(Kind.SYNC, hashes[-1], "n2", Priority.CRITICAL, 5 * MB), at=now)
        assert [row.operation for row in field.run("n2").done] == [new.id], "nobody waits for the dead"
        report = field.run("n2", idle=5.0)
        assert {row.operation for row in report.done} == {each.id for each in dead}
        assert {field.get(each).attempts for each in dead} == {0}
        assert queue.listed(store, states=[State.LEASED, State.QUEUED, State.WAITING]) == []
        assert sorted(field.held("n2").values()) == sorted(hashes)
