"""Orders within one process: whose turn it is, what is remembered when the disk is not there, what is forgotten."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType, NoAnswer
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.node import pulls as pulls_module
from ringrift_dagster.node import roots as roots_module
from ringrift_dagster.node.bringing import NEXT_ACTIONS, Bringer
from ringrift_dagster.node.metrics import Metrics
from ringrift_dagster.node.pull_store import KEEP_SECONDS, PullStore
from ringrift_dagster.node.pulls import Busy, Pulls, UnknownRoot
from ringrift_dagster.node.roots import Root
from ringrift_dagster.node.transports import close_transports, make_transports
from ringrift_dagster.transfer.model import CAUSES, ItemProgress, Offer, Order, Priority, Progress, PullState, TransportName
from ringrift_dagster.transfer.part import PartFile
from ringrift_dagster.transfer.transports.http import HttpTransport
from tests.agents import RunningAgent
from tests.node.orders import FINAL, PATIENCE, give_model, item, looked, metric, order, pull, sha256_of

Start = Callable[..., RunningAgent]


@contextmanager
def pulling(tree: Path, *, min_free_bytes: int = 0) -> Iterator[Pulls]:
    """The pulls of a host, in this process."""
    metrics, state = Metrics(), tree / ".ringrift-node"
    roots = {"tree": Root("tree", "tree", TreeInventory("gpu-2", tree, NODE, state), 1000.0, metrics)}
    transports = make_transports(roots, state, None, None)
    try:
        with Pulls(roots, state, transports, min_free_bytes=min_free_bytes, metrics=metrics) as pulls:
            yield pulls
    finally:
        close_transports(transports)


def wait_for(pulls: Pulls, id: str, condition: Callable[[Progress], bool]) -> Progress:
    deadline = time.monotonic() + PATIENCE
    while True:
        told = pulls.get(id)
        assert told is not None
        if condition(told):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.01)


def end_of(pulls: Pulls, id: str) -> Progress:
    return wait_for(pulls, id, lambda told: told.state in FINAL)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    root = tmp_path / "empty"
    root.mkdir()
    return root


def test_a_program_makes_way_for_the_urgent_and_goes_on_after_it(tree: Path, empty: Path, agent: Start) -> None:
    large, urgent = give_model(tree, "large_hex8_2p.onnx", 8 * CHUNK_SIZE, 1), give_model(tree, "u_hex8_2p.onnx", 4 * CHUNK_SIZE, 2)
    source = agent(tree, "gpu-1", "--uplink", "15")
    looked([source])
    by_http = item(large, ItemType.MODEL, source)
    by_aria2 = by_http.offers[0].model_copy(update={"transport": TransportName.ARIA2})
    with pulling(empty) as pulls:
        low = order(by_http.model_copy(update={"offers": (by_aria2,)}), priority=Priority.LOW)
        critical = order(item(urgent, ItemType.MODEL, source), priority=Priority.CRITICAL)
        pulls.submit(low)
        wait_for(pulls, low.id, lambda told: told.items[0].bytes_done > 0 or told.state in FINAL)
        pulls.submit(critical)
        assert end_of(pulls, critical.id).state == PullState.DONE
        meanwhile = pulls.get(low.id)
        assert meanwhile is not None
        assert meanwhile.items[0].bytes_done < large.stat().st_size
        done = end_of(pulls, low.id).items[0]
        assert (done.state, done.transport) == (PullState.DONE, TransportName.ARIA2)
    assert sha256_of(empty / "models/large_hex8_2p.onnx") == by_http.sha256


def test_the_urgent_overtakes_what_waits(tree: Path, empty: Path, agent: Start) -> None:
    paths = [give_model(tree, f"m{number}_hex8_2p.onnx", CHUNK_SIZE + number, number) for number in range(12)]
    source = agent(tree, "gpu-1", "--uplink", "30")
    looked([source])
    with pulling(empty) as pulls:
        cold = order(*(item(path, ItemType.MODEL, source) for path in paths[:8]), priority=Priority.COLD_STORAGE)
        normal = order(*(item(path, ItemType.MODEL, source) for path in paths[8:11]), priority=Priority.NORMAL)
        high = order(item(paths[11], ItemType.MODEL, source), priority=Priority.HIGH)
        for each in (cold, normal, high):
            pulls.submit(each)
        done = {each.id: end_of(pulls, each.id) for each in (cold, normal, high)}
        finished = [done[each.id].finished_at for each in (high, normal, cold)]
    assert {each.state for each in done.values()} == {PullState.DONE}
    assert None not in finished
    assert finished == sorted(finished, key=lambda at: at or 0.0)


class Stuck(HttpTransport):
    """Nothing comes from `gpu-9`, until it is cancelled."""

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        never = threading.Event()
        while offer.location == "gpu-9" and not cancelled():
            never.wait(0.01)
        super().fetch(offer, start, length, write, cancelled)


@pytest.mark.parametrize(("size", "slots"), [(CHUNK_SIZE, 5), (1000, 3)])
def test_the_critical_waits_for_no_number_of_high_ones(tree: Path, empty: Path, agent: Start, size: int, slots: int) -> None:
    paths = [give_model(tree, f"m{number}_hex8_2p.onnx", size + number, number) for number in range(slots + 2)]
    source = agent(tree, "gpu-1")
    looked([source])
    silent = RunningAgent("gpu-9", tree, source.url, source.process)
    with pulling(empty) as pulls:
        pulls.transports[TransportName.HTTP] = Stuck()
        high = [order(item(path, ItemType.MODEL, silent), priority=Priority.HIGH) for path in paths[:-1]]
        for each in high:
            pulls.submit(each)
        assert [standing_of(pulls, each) for each in high] == [PullState.RUNNING] * slots + [PullState.WAITING]
        critical = order(item(paths[-1], ItemType.MODEL, source), priority=Priority.CRITICAL)
        pulls.submit(critical)
        assert end_of(pulls, critical.id).state == PullState.DONE
        assert [standing_of(pulls, each) for each in high] == [PullState.RUNNING] * slots + [PullState.WAITING]
        for each in high:
            pulls.cancel(each.id)
            end_of(pulls, each.id)


def standing_of(pulls: Pulls, given: Order) -> PullState:
    told = pulls.get(given.id)
    assert told is not None
    return told.state


def test_where_nothing_is_mounted_nothing_is_taken_or_written(tree: Path, empty: Path, agent: Start) -> None:
    source = agent(tree, "gpu-1")
    looked([source])
    given = order(item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source))
    empty.rmdir()
    with pulling(empty) as pulls:
        for question in (lambda: pulls.submit(given), lambda: pulls.get("x"), lambda: pulls.cancel("x"), pulls.list):
            with pytest.raises(NoAnswer) as refused:
                question()
            assert refused.value.code == "not_mounted"
        assert not empty.exists()
        empty.mkdir()
        pulls.submit(given)
        assert end_of(pulls, given.id).state == PullState.DONE


def test_more_than_it_takes(empty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pulls_module, "MAX_OPEN_ITEMS", 3)
    monkeypatch.setitem(pulls_module.SLOTS, False, 0)
    paths = [give_model(tmp_path, f"m{number}_hex8_2p.onnx", 100, number) for number in range(4)]
    nowhere = RunningAgent("gpu-9", tmp_path, "http://127.0.0.1:1", None)  # type: ignore[arg-type]
    first = order(*(item(path, ItemType.MODEL, nowhere) for path in paths[:3]))
    second = order(item(paths[3], ItemType.MODEL, nowhere))
    with pulling(empty) as pulls:
        pulls.submit(first)
        with pytest.raises(Busy):
            pulls.submit(second)
        assert pulls.submit(first).id == first.id
        pulls.cancel(first.id)
        assert pulls.submit(second).state == PullState.WAITING
        with pytest.raises(UnknownRoot):
            pulls.submit(order(*second.items, root="owc"))


def test_an_end_that_could_not_be_written_down_is_written_later(
    tree: Path, empty: Path, agent: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = agent(tree, "gpu-1")
    looked([source])
    given = order(item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source))
    really, refused = PullStore.record, []

    def record(self: PullStore, *arguments: object) -> None:
        if not refused:
            refused.append(arguments)
            raise OSError(28, "No space left on device")
        really(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PullStore, "record", record)
    monkeypatch.setattr(pulls_module, "HOUSEKEEPING_SECONDS", 0.05)
    with pulling(empty) as pulls:
        pulls.submit(given)
        assert end_of(pulls, given.id).state == PullState.DONE
        deadline = time.monotonic() + PATIENCE
        while pulls.version(given.id) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pulls.version(given.id) is None
        assert [each["id"] for each in pulls.list()] == [given.id]
    assert len(refused) == 1


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Iterator[threading.Event]:
    """A method hangs until the block ends, or for as long as anybody is patient; the event is set once it was called."""
    called, released = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        called.set()
        released.wait(PATIENCE)
        released.set()

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, hang)
        try:
            yield called
            assert not released.is_set()
        finally:
            released.set()


def nobody_has(tmp_path: Path, **facts: Any) -> Order:
    """An order that waits for a turn that never comes, if SLOTS says so."""
    nowhere = RunningAgent("gpu-9", tmp_path, "http://127.0.0.1:1", None)  # type: ignore[arg-type]
    return order(item(give_model(tmp_path, "m_hex8_2p.onnx", 100), ItemType.MODEL, nowhere), **facts)


def test_cancelling_where_the_disk_hangs_keeps_nobody_waiting(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pulls_module.SLOTS, False, 0)
    given, other = nobody_has(tmp_path), nobody_has(tmp_path)
    with pulling(empty) as pulls:
        pulls.submit(given)
        with hanging(monkeypatch, Bringer, "clean") as hangs:
            cancelling = threading.Thread(target=pulls.cancel, args=(given.id,))
            cancelling.start()
            assert hangs.wait(PATIENCE)
            told = pulls.get(given.id)
            assert told is not None
            assert told.state == PullState.CANCELLED
            pulls.submit(other)
            assert pulls.version(other.id) == 1
        cancelling.join(PATIENCE)


def test_what_is_ordered_again_while_its_rest_is_removed_comes_after_that(
    tree: Path, empty: Path, agent: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = agent(tree, "gpu-1")
    looked([source])
    monkeypatch.setitem(pulls_module.SLOTS, False, 0)
    given = [order(item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)) for _ in range(2)]
    with pulling(empty) as pulls:
        pulls.submit(given[0])
        with hanging(monkeypatch, Bringer, "clean") as hangs:
            cancelling = threading.Thread(target=pulls.cancel, args=(given[0].id,))
            cancelling.start()
            assert hangs.wait(PATIENCE)
            monkeypatch.setitem(pulls_module.SLOTS, False, 2)
            assert pulls.submit(given[1]).state == PullState.WAITING
        assert end_of(pulls, given[1].id).state == PullState.DONE
        cancelling.join(PATIENCE)


def test_a_root_that_does_not_answer_is_not_touched_for_an_order_that_is_cancelled(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pulls_module.SLOTS, False, 0)
    monkeypatch.setattr(roots_module, "CHECK_SECONDS", 0.2)
    given = nobody_has(tmp_path)
    with pulling(empty) as pulls:
        pulls.submit(given)
        with hanging(monkeypatch, TreeInventory, "check"), hanging(monkeypatch, Bringer, "clean") as touched:
            told = pulls.cancel(given.id)
            assert told is not None
            assert told.state == PullState.CANCELLED
            assert not touched.is_set()


def test_asking_for_a_version_waits_for_nothing_that_is_written_down(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pulls_module.SLOTS, False, 0)
    given, other = nobody_has(tmp_path), nobody_has(tmp_path)
    with pulling(empty) as pulls:
        pulls.submit(given)
        pulls.submit(other)
        with hanging(monkeypatch, PullStore, "record") as hangs:
            cancelling = threading.Thread(target=pulls.cancel, args=(given.id,))
            cancelling.start()
            assert hangs.wait(PATIENCE)
            assert pulls.version(other.id) == 1
        cancelling.join(PATIENCE)


def test_what_is_forgotten_leaves_no_parts(empty: Path, tmp_path: Path) -> None:
    path = give_model(tmp_path, "m_hex8_2p.onnx", 2 * CHUNK_SIZE)
    nowhere = RunningAgent("gpu-9", tmp_path, "http://127.0.0.1:1", None)  # type: ignore[arg-type]
    given = order(item(path, ItemType.MODEL, nowhere))
    (empty / "models").mkdir()
    with PartFile.open(empty / "models", path.name, given.items[0].sha256, given.items[0].size, None) as part:
        part.put(0, path.read_bytes()[:CHUNK_SIZE])
    assert len(list(empty.rglob("*.part*"))) == 2
    store = PullStore(empty / ".ringrift-node/pulls.db")
    number, long_ago = store.add(given, at=0.0), time.time() - KEEP_SECONDS - 1
    assert number is not None
    failed = ItemProgress(sha256=given.items[0].sha256, state=PullState.FAILED)
    ended = Progress(
        id=given.id, priority=given.priority, state=PullState.FAILED, items=(failed,), received_at=0.0, finished_at=long_ago
    )
    store.record([(number, 0, failed)], [(number, ended)])
    store.close()
    with pulling(empty) as pulls:
        deadline = time.monotonic() + PATIENCE
        while list(empty.rglob("*.part*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pulls.get(given.id) is None
    assert list(empty.rglob("*.part*")) == []


def test_a_root_that_is_no_longer_there_after_a_restart(empty: Path, tmp_path: Path) -> None:
    path = give_model(tmp_path, "m_hex8_2p.onnx", 100)
    nowhere = RunningAgent("gpu-9", tmp_path, "http://127.0.0.1:1", None)  # type: ignore[arg-type]
    given = order(item(path, ItemType.MODEL, nowhere), root="owc")
    store = PullStore(empty / ".ringrift-node/pulls.db")
    store.add(given, at=0.0)
    store.close()
    with pulling(empty) as pulls:
        (ended,) = end_of(pulls, given.id).items
    assert (ended.state, ended.cause) == (PullState.FAILED, "unplaceable")


def test_a_snapshot_of_our_own_is_copied_here_and_not_fetched(tree: Path, agent: Start) -> None:
    """It goes when the next is taken; what was ordered stays."""
    running = agent(tree, "gpu-1")
    (found,) = [each for each in running.source().read(None, PATIENCE).found if each.type == ItemType.GAME_DB]
    shutil.copy(tree / found.path, tree.parent / f"{found.sha256}.db")
    given = item(tree.parent / f"{found.sha256}.db", ItemType.GAME_DB, running)
    nobody = Offer(transport=TransportName.HTTP, location="gpu-9", address=f"http://127.0.0.1:1/v1/objects/{found.sha256}")
    done = pull(running, given.model_copy(update={"offers": (nobody,)})).items[0]
    assert (done.state, done.path, done.offers) == (PullState.DONE, f"data/sync_incoming/{found.sha256}.db", ())
    assert metric(running, 'ringrift_node_pulled_items_total{source="none",transport="none"}') == 1


def test_whoever_sees_a_failure_is_told_what_to_do() -> None:
    assert NEXT_ACTIONS.keys() == set(CAUSES) - {"cancelled"}
