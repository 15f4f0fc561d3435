"""What an agent remembers of its orders: through restarts, and against a model of it."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.node.pull_store import KEEP_SECONDS, VERSIONS_A_START, Conflict, PullStore
from ringrift_dagster.transfer.model import ItemProgress, Offer, Order, OrderedItem, Priority, Progress, PullState, TransportName

FINAL = (PullState.DONE, PullState.FAILED, PullState.CANCELLED)


def order(id: str, *contents: int, priority: Priority = Priority.NORMAL) -> Order:
    offer = Offer(transport=TransportName.HTTP, location="gpu-1", address="http://127.0.0.1:1/v1/objects/x")
    items = [
        OrderedItem(sha256=f"{number:064x}", size=number, type=ItemType.NPZ, name=f"{number}.npz", chunks="YWJj", offers=(offer,))
        for number in contents
    ]
    return Order(id=id, priority=priority, outbound={"gpu-1": 5.0}, items=tuple(items))


def ended(item: OrderedItem, state: PullState) -> ItemProgress:
    return ItemProgress(sha256=item.sha256, size=item.size, state=state)


def end(store: PullStore, number: int, given: Order, states: list[PullState], at: float) -> None:
    """Write down how all items of an order ended."""
    items = tuple(map(ended, given.items, states))
    final = Progress(id=given.id, version=9, priority=given.priority, state=states[0], items=items, received_at=0.0, finished_at=at)
    store.record([(number, position, item) for position, item in enumerate(items)], [(number, final)])


def test_an_order_is_the_same_after_a_restart(tmp_path: Path) -> None:
    given = order("a", 1, 2, 3, priority=Priority.CRITICAL)
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        number = store.add(given, at=100.0)
        assert number is not None
        store.record([(number, 1, ended(given.items[1], PullState.DONE))])
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        (again,) = store.open_orders()
        assert (again.head.id, again.head.priority, again.head.root, again.head.outbound) == ("a", 0, "tree", {"gpu-1": 5.0})
        assert [progress.state for progress in again.progress] == [PullState.WAITING, PullState.DONE, PullState.WAITING]
        assert (again.version, again.received_at) == (1 + VERSIONS_A_START, 100.0)
        assert store.items(again.number, range(3)) == list(given.items)
        assert store.add(given, at=200.0) is None
        with pytest.raises(Conflict):
            store.add(order("a", 1, 2), at=200.0)
        with pytest.raises(Conflict):
            store.knows(order("a", 1, 2, 3))
        assert store.knows(given)


def test_the_chunk_tables_of_what_ended_are_not_kept(tmp_path: Path) -> None:
    given = order("a", 1, 2)
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        number = store.add(given, at=0.0)
        assert number is not None
        end(store, number, given, [PullState.FAILED, PullState.DONE], 5.0)
        assert [item.chunks for item in store.items(number, range(2))] == [None, None]
        assert list(store.open_orders()) == []
        told = store.progress("a")
        assert told is not None
        assert (told.state, told.finished_at, [item.state for item in told.items]) == ("FAILED", 5.0, ["FAILED", "DONE"])
        assert store.ended(10) == [
            {
                "id": "a",
                "priority": 2,
                "state": "FAILED",
                "version": 9,
                "received_at": 0.0,
                "finished_at": 5.0,
                "items": 2,
                "done": 1,
            }
        ]


def test_old_orders_are_forgotten_open_ones_never(tmp_path: Path) -> None:
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        for index in range(6):
            given = order(str(index), 1, 2)
            number = store.add(given, at=float(index))
            assert number is not None
            if index < 5:
                end(store, number, given, [PullState.DONE, PullState.FAILED], float(index))
        left = store.prune(at=KEEP_SECONDS + 1.5, keep=2)
        assert [(root, item.name) for root, item in left] == [("tree", "2.npz")] * 3
        assert [each["id"] for each in store.ended(10)] == ["4", "3"]
        assert [each.head.id for each in store.open_orders()] == ["5"]
        assert store.progress("0") is None


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "pulls.db"
    path.write_bytes(b"no database at all" * 1000)
    with closing(PullStore(path)) as store:
        assert list(store.open_orders()) == []
        assert store.add(order("a", 1), at=0.0) is not None
    assert (tmp_path / "pulls.db.damaged").read_bytes().startswith(b"no database")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with closing(PullStore(tmp_path / "pulls.db")), pytest.raises(BlockingIOError):
        PullStore(tmp_path / "pulls.db")
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        assert store.progress("a") is None


def test_it_is_not_for_everybody_to_read(tmp_path: Path) -> None:
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        store.add(order("a", 1), at=0.0)
        assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("pulls.db*")} == {0}


def test_half_an_order_is_none(tmp_path: Path) -> None:
    """What breaks off in the middle of a transaction leaves nothing behind."""
    with closing(PullStore(tmp_path / "pulls.db")) as store:
        broken = order("a", 1, 2).model_copy(update={"items": (order("x", 1).items[0], None)})
        with pytest.raises(AttributeError):
            store.add(broken, at=0.0)
        assert store.add(order("b", 1), at=0.0) is not None
    with closing(sqlite3.connect(tmp_path / "pulls.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM orders").fetchone() == (1,)
        assert connection.execute("SELECT COUNT(*) FROM items").fetchone() == (1,)


@dataclass
class Known:
    """What the model knows of an order."""

    given: Order
    number: int
    version: int = 1
    states: list[PullState] = field(default_factory=list)
    finished_at: float | None = None


class Remembering(RuleBasedStateMachine):
    """Orders come, come again, end, are forgotten; the process dies in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "pulls.db"
        self.store = PullStore(self.path)
        self.known: dict[str, Known] = {}
        self.at = 0.0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    ids = st.sampled_from(["a", "b", "c", "d"])
    contents = st.lists(st.integers(1, 3), min_size=1, max_size=3)

    @rule(id=ids, contents=contents)
    def comes(self, id: str, contents: list[int]) -> None:
        self.at += 1
        given = order(id, *contents)
        known = self.known.get(id)
        if known is None:
            number = self.store.add(given, at=self.at)
            assert number is not None
            self.known[id] = Known(given, number, states=[PullState.WAITING] * len(contents))
        elif known.given == given:
            assert self.store.add(given, at=self.at) is None
        else:
            with pytest.raises(Conflict):
                self.store.add(given, at=self.at)

    @rule(id=ids, position=st.integers(0, 2), state=st.sampled_from(FINAL))
    def item_ends(self, id: str, position: int, state: PullState) -> None:
        self.at += 1
        known = self.known.get(id)
        if known is None or position >= len(known.states) or known.states[position] in FINAL:
            return
        known.states[position] = state
        changes = [(known.number, position, ended(known.given.items[position], state))]
        if all(each in FINAL for each in known.states):
            known.finished_at = self.at
            items = tuple(map(ended, known.given.items, known.states))
            known.version += 1
            final = Progress(
                id=id, version=known.version, priority=known.given.priority, state=state, items=items, received_at=0.0,
                finished_at=self.at,
            )  # fmt: skip
            self.store.record(changes, [(known.number, final)])
        else:
            self.store.record(changes)

    @rule()
    def dies(self) -> None:
        self.store.close()
        self.store = PullStore(self.path)
        for known in self.known.values():
            if known.finished_at is None:
                known.version += VERSIONS_A_START

    @rule(keep=st.integers(0, 2))
    def forgets(self, keep: int) -> None:
        over = sorted((each.finished_at, id) for id, each in self.known.items() if each.finished_at is not None)
        gone = [id for _, id in over[: len(over) - keep]] if len(over) > keep else []
        left = self.store.prune(at=self.at, keep=keep)
        expected = [
            item.name
            for id in gone
            for item, state in zip(self.known[id].given.items, self.known[id].states, strict=True)
            if state != PullState.DONE
        ]
        assert sorted(item.name for _, item in left) == sorted(expected)
        for id in gone:
            del self.known[id]

    @invariant()
    def is_as_it_should_be(self) -> None:
        open_orders = sorted((each for each in self.known.values() if each.finished_at is None), key=lambda each: each.number)
        told = list(self.store.open_orders())
        assert [(each.head.id, each.version) for each in told] == [(each.given.id, each.version) for each in open_orders]
        for id in ("a", "b", "c", "d"):
            progress, known = self.store.progress(id), self.known.get(id)
            assert (progress is None) == (known is None)
            if progress is not None and known is not None:
                assert [item.state for item in progress.items] == known.states
                assert (progress.finished_at, progress.version) == (known.finished_at, known.version)


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
