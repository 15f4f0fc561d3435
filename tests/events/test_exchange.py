"""Outbox and inbox over a network that loses, repeats and reorders, with hosts that crash: against a simple model of it."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from ringrift_dagster.events import inbox
from ringrift_dagster.events.inbox import Receipt
from ringrift_dagster.events.outbox import Batch, Outbox
from ringrift_dagster.manifest.schema import dead_letters, event_hosts, events, handled_events
from ringrift_dagster.manifest.store import Store
from tests.events.telling import NOW, event, games

HOSTS = ("gpu-1", "gpu-2")


class Exchange(RuleBasedStateMachine):
    """`told` is what each host accepted; `sent` and `answers` are copies that are somewhere in the network, and stay there."""

    store: Store

    @initialize()
    def empty(self) -> None:
        with self.store.writing() as writer:
            for table in (handled_events, events, event_hosts, dead_letters):
                writer.connection.execute(sa.delete(table))
        self.folder = Path(mkdtemp())
        self.outboxes = {host: Outbox(self.folder / host / "events.db") for host in HOSTS}
        self.told: dict[str, list[int]] = {host: [] for host in HOSTS}
        self.again = {host: event(0, host) for host in HOSTS}
        self.sent: list[bytes] = []
        self.answers: list[tuple[str, Receipt]] = []

    def teardown(self) -> None:
        for outbox in self.outboxes.values():
            outbox.close()

    @rule(host=st.sampled_from(HOSTS), count=st.integers(1, 4))
    def tell(self, host: str, count: int) -> None:
        new = [event(len(self.told[host]) + 1 + index, host) for index in range(count)]
        assert None not in self.outboxes[host].append(new)
        self.told[host] += [len(self.told[host]) + 1 + index for index in range(count)]
        self.again[host] = new[0]

    @precondition(lambda self: any(self.told.values()))
    @rule(host=st.sampled_from(HOSTS))
    def a_client_tells_again(self, host: str) -> None:
        """Because it had no answer; the event may have been acknowledged long ago."""
        if self.told[host]:
            self.outboxes[host].append([self.again[host]])

    @rule(host=st.sampled_from(HOSTS))
    def send(self, host: str) -> None:
        body = self.outboxes[host].batch(host)
        if body is not None:
            self.sent.append(body)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_copy_arrives(self, data: st.DataObject) -> None:
        sent = Batch.model_validate_json(data.draw(st.sampled_from(self.sent)))
        self.answers.append((sent.host, inbox.receive(self.store, sent, at=NOW)))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        host, receipt = data.draw(st.sampled_from(self.answers))
        self.outboxes[host].acknowledge(receipt.epoch, receipt.acknowledged, at=NOW)

    @rule(host=st.sampled_from(HOSTS))
    def the_agent_is_killed(self, host: str) -> None:
        self.outboxes[host].close()
        self.outboxes[host] = Outbox(self.folder / host / "events.db")

    @invariant()
    def each_is_there_once_in_order_or_waits(self) -> None:
        for host in HOSTS if hasattr(self, "told") else ():
            here = games(self.store, host)
            assert here == self.told[host][: len(here)], "once each, in order, and no gap"
            waits = self.outboxes[host].batch(host)
            rest = [] if waits is None else Batch.model_validate_json(waits).entries
            outstanding = {(entry.event or {})["payload"]["games"] for entry in rest}
            assert set(self.told[host]) <= set(here) | outstanding, "what was accepted is somewhere"
        assert not hasattr(self, "told") or inbox.dead_count(self.store) == 0


def test_every_accepted_event_arrives_once_and_in_order(store: Store) -> None:
    class Here(Exchange):
        pass

    Here.store = store
    examples = 25 if store.engine.dialect.name == "sqlite" else 10
    run_state_machine_as_test(
        Here,
        settings=settings(max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
    )
