"""A circuit breaker stayed open for more than five days after what it guarded had recovered, restarts included.

When its time has come one order tries the way, whoever is at work by then; what succeeds closes it.
"""

from __future__ import annotations

import time
from pathlib import Path

from ringrift_dagster.home import Home
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.transfer import breakers, queue
from ringrift_dagster.transfer.breakers import COOL_DOWN, FAILURES, BreakerState
from ringrift_dagster.transfer.coordinator import Coordinator
from ringrift_dagster.transfer.model import OfferOutcome, Priority, TransportName
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from tests.transfer.field import MB, noise, running_field


def test_after_a_restart_one_tries_and_closes_it(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as field:
        sha256 = field.put("n1", noise(MB, 1))
        field.refresh()
        seen = [OfferOutcome(location="n1", transport=TransportName.HTTP, failures=1, failure="refused")] * FAILURES
        with field.plane.store.writing() as writer:
            breakers.observe(writer, seen, at=time.time())
        early = field.submit(sha256, "n2")
        assert field.run("n2").rows == [] and field.get(early).cause == "no_source"

        later = COOL_DOWN[0] + 5
        with open_plane(Home(tmp_path / "home"), hosts_file=tmp_path / "hosts.yaml") as restarted:
            assert [each.state for each in breakers.all_breakers(restarted.store)] == [BreakerState.OPEN]
            queue.submit(restarted.store, Wanted(Kind.SYNC, sha256, "n2", Priority.NORMAL), at=time.time() + later)
            (row,) = Coordinator(restarted, "restarted", clock=lambda: time.time() + later).run("n2", seconds=60).rows
            assert (row.state, row.source) == (State.DONE, "n1")
            assert [each.state for each in breakers.all_breakers(restarted.store)] == [BreakerState.CLOSED]
            assert "BREAKER_CLOSED" in {change.kind for change in changes_since(restarted.store, 0)}
