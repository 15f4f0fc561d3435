"""Pulling: real agents, real items, and what may go wrong between them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.manifest.sources.tree import mark_location
from ringrift_dagster.transfer.model import Priority, Progress, PullState, TransportName
from tests.agents import RunningAgent
from tests.node.conftest import NPZ
from tests.node.orders import (
    ask,
    follow,
    give_model,
    item,
    looked,
    metric,
    order,
    pull,
    served,
    sha256_of,
    standing,
    submit,
)

Start = Callable[..., RunningAgent]
MB = 1e6


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The tree of a host that has nothing."""
    root = tmp_path / "empty"
    root.mkdir()
    return root


def parts_of(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.part*"))


def test_a_database_a_training_set_and_a_model(tree: Path, empty: Path, agent: Start) -> None:
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    found = {each.type: each for each in source.source().read(None, 60).found}
    snapshot = tree / found[ItemType.GAME_DB].path
    database = item(snapshot, ItemType.GAME_DB, source, config="square8_2p")
    npz = item(NPZ, ItemType.NPZ, source, name="square8_3p.npz", mode=0o640)
    model = item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)
    done = pull(target, database, npz, model)
    assert [(each.state, each.path, each.transport, each.source) for each in done.items] == [
        (PullState.DONE, f"data/sync_incoming/{database.sha256}.db", TransportName.HTTP, "gpu-1"),
        (PullState.DONE, "data/training/square8_3p.npz", TransportName.HTTP, "gpu-1"),
        (PullState.DONE, "models/nnue_hex8_2p.onnx", TransportName.HTTP, "gpu-1"),
    ]
    assert done.state == PullState.DONE
    assert done.finished_at is not None
    for told, ordered in zip(done.items, (database, npz, model), strict=True):
        assert told.path is not None
        assert sha256_of(empty / told.path) == ordered.sha256
        assert told.mtime == pytest.approx((empty / told.path).stat().st_mtime)
        assert (told.bytes_done, told.size, told.resent, told.cause) == (ordered.size, ordered.size, 0, None)
        assert ask(target, f"/v1/objects/{ordered.sha256}").status == 200
    assert (empty / "data/training/square8_3p.npz").stat().st_mode & 0o777 == 0o640
    assert {each.sha256: each.config for each in target.source(max_age=None).read(None, 60).found} == {
        database.sha256: "square8_2p",
        npz.sha256: "square8_3p",
        model.sha256: "hex8_2p",
    }
    assert parts_of(empty) == []
    assert metric(target, 'ringrift_node_pulled_items_total{source="gpu-1",transport="http"}') == 3


def test_what_is_here_already_is_not_fetched(tree: Path, empty: Path, agent: Start) -> None:
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    looked([source])
    npz = item(NPZ, ItemType.NPZ, source)
    assert pull(target, npz).state == PullState.DONE
    before = served(source)
    again = pull(target, npz).items[0]
    assert (again.state, again.path, again.bytes_done, again.transport) == (PullState.DONE, "data/training/base_ok.npz", 0, None)
    assert again.verified_at is not None
    assert pull(target, npz.model_copy(update={"name": "other.npz"})).items[0].path == "data/training/base_ok.npz"
    assert served(source) == before


def test_what_stands_there_and_nobody_has_looked_at_yet(tree: Path, empty: Path, agent: Start) -> None:
    """As after a crash between publishing and writing it down."""
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2", interval=1000.0)
    looked([source, target])
    (empty / "data/training").mkdir(parents=True)
    shutil.copy(NPZ, empty / "data/training/base_ok.npz")
    before = served(source)
    done = pull(target, item(NPZ, ItemType.NPZ, source)).items[0]
    assert (done.state, done.bytes_done, served(source)) == (PullState.DONE, 0, before)


def test_another_content_stands_there(tree: Path, empty: Path, agent: Start) -> None:
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    looked([source])
    (empty / "models").mkdir()
    (empty / "models/nnue_hex8_2p.onnx").write_bytes(b"another model")
    failed = pull(target, item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)).items[0]
    assert (failed.state, failed.cause) == (PullState.FAILED, "occupied")
    assert failed.next_action is not None
    assert (empty / "models/nnue_hex8_2p.onnx").read_bytes() == b"another model"
    assert parts_of(empty) == []


def test_a_damaged_copy_makes_way(tree: Path, empty: Path, agent: Start) -> None:
    path = tree / "models/nnue_hex8_2p.onnx"
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    looked([source])
    model = item(path, ItemType.MODEL, source, name=f"hex8_2p_{sha256_of(path)[:12]}.onnx")
    copy = empty / "models" / model.name
    assert pull(target, model).state == PullState.DONE
    before = copy.stat()
    copy.write_bytes(b"rotten" + path.read_bytes()[6:])
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = pull(target, model).items[0]
    assert (done.state, done.path, done.source) == (PullState.DONE, f"models/{model.name}", "gpu-1")
    assert sha256_of(copy) == model.sha256
    assert ask(target, f"/v1/objects/{model.sha256}").data == path.read_bytes()


def test_one_item_that_fails_stops_no_other(tree: Path, empty: Path, agent: Start, tmp_path: Path) -> None:
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    broken = tree / "data/training/broken_hex8_2p.npz"
    broken.write_bytes(NPZ.read_bytes()[:-500])
    looked([source])
    (tmp_path / "nowhere.onnx").write_bytes(b"nobody has it")
    done = pull(
        target,
        item(tmp_path / "nowhere.onnx", ItemType.MODEL, source),
        item(broken, ItemType.NPZ, source),
        item(NPZ, ItemType.NPZ, source),
        item(tree / "models/nnue_hex8_2p.onnx", ItemType.NPZ, source),
    )
    assert [(each.state, each.cause) for each in done.items] == [
        (PullState.FAILED, "no_source"),
        (PullState.FAILED, "not_sound"),
        (PullState.DONE, None),
        (PullState.FAILED, "unplaceable"),
    ]
    assert done.state == PullState.FAILED
    assert not (empty / "data/training/broken_hex8_2p.npz").exists()
    assert all(each.next_action for each in done.items if each.state == PullState.FAILED)
    assert metric(target, 'ringrift_node_pull_failures_total{cause="not_sound"}') == 1


def test_no_room(tree: Path, empty: Path, agent: Start) -> None:
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    looked([source])
    npz = item(NPZ, ItemType.NPZ, source)
    failed = pull(target, npz, keep_free=1 << 49).items[0]
    assert (failed.state, failed.cause) == (PullState.FAILED, "no_room")
    assert "make room" in (failed.next_action or "")
    assert (parts_of(empty), served(source)) == ([], 0)
    assert pull(target, npz).state == PullState.DONE
    greedy = agent(empty, "gpu-2", "--keep-free", "1000000", "--state", str(empty.parent / "state"))
    assert pull(greedy, item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)).items[0].cause == "no_room"


def test_a_directory_that_cannot_be_written(tree: Path, empty: Path, agent: Start) -> None:
    within = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2", within=within)
    looked([source])
    (empty / "models").mkdir(mode=0o555)
    failed = pull(target, item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)).items[0]
    assert (failed.state, failed.cause) == (PullState.FAILED, "read_only")
    (empty / "models").chmod(0o755)
    assert pull(target, item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)).state == PullState.DONE


def test_merging_into_a_live_database(tree: Path, empty: Path, agent: Start, recorded: Callable[[str], Path]) -> None:
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    (found,) = [each for each in source.source().read(None, 60).found if each.type == ItemType.GAME_DB]
    live = empty / "data/games/selfplay_square8_2p.db"
    live.parent.mkdir(parents=True)
    shutil.copy(recorded("canonical_square8_2p"), live)
    with closing(sqlite3.connect(live)) as connection:
        (before,) = connection.execute("SELECT COUNT(*) FROM games").fetchone()
    games = item(tree / found.path, ItemType.GAME_DB, source, name=live.name, merge=True)
    done = pull(target, games).items[0]
    assert (done.state, done.path) == (PullState.DONE, "data/games/selfplay_square8_2p.db")
    assert done.merged
    with closing(sqlite3.connect(live)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM games").fetchone() == (before + done.merged,)
    again = pull(target, games).items[0]
    assert (again.state, again.merged) == (PullState.DONE, 0)


def test_killed_in_the_middle_it_goes_on_with_what_is_there(tree: Path, empty: Path, agent: Start) -> None:
    path = give_model(tree, "large_hex8_2p.onnx", 20 * CHUNK_SIZE + 5)
    source = agent(tree, "gpu-1", "--uplink", "40")
    looked([source])
    target = agent(empty, "gpu-2")
    given = order(item(path, ItemType.MODEL, source))
    submit(target, given)
    half = follow(target, given.id, lambda told: told.items[0].bytes_done >= 8 * CHUNK_SIZE)
    target.kill()
    assert half.items[0].state == PullState.RUNNING
    assert not (empty / "models/large_hex8_2p.onnx").exists()
    sent = served(source)
    again = agent(empty, "gpu-2")
    standing_again = standing(again, given.id)
    assert standing_again.version > half.version
    done = follow(again, given.id).items[0]
    assert (done.state, done.transport) == (PullState.DONE, TransportName.HTTP)
    assert sha256_of(empty / "models/large_hex8_2p.onnx") == given.items[0].sha256
    assert served(source) - sent <= path.stat().st_size - half.items[0].bytes_done + CHUNK_SIZE
    assert sum(offer.bytes for offer in done.offers) <= path.stat().st_size - half.items[0].bytes_done
    assert parts_of(empty) == []


def test_stopped_and_started_it_goes_on(tree: Path, empty: Path, agent: Start) -> None:
    path = give_model(tree, "large_hex8_2p.onnx", 10 * CHUNK_SIZE)
    source = agent(tree, "gpu-1", "--uplink", "30")
    looked([source])
    target = agent(empty, "gpu-2")
    given = order(item(path, ItemType.MODEL, source))
    submit(target, given)
    half = follow(target, given.id, lambda told: told.items[0].bytes_done >= 3 * CHUNK_SIZE)
    target.process.terminate()
    assert target.process.wait(20) in (0, -15)
    done = follow(agent(empty, "gpu-2"), given.id).items[0]
    assert done.state == PullState.DONE
    assert sum(offer.bytes for offer in done.offers) <= path.stat().st_size - half.items[0].bytes_done


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.LOW])
def test_the_urgent_goes_first_within_one_chunk(tree: Path, empty: Path, agent: Start, priority: Priority) -> None:
    """While it is fetched, of what is under way nothing comes but the chunks that were asked for already."""
    slow, fast = (
        give_model(tree, "slow_hex8_2p.onnx", 24 * CHUNK_SIZE, 1),
        give_model(tree, "fast_hex8_2p.onnx", 12 * CHUNK_SIZE, 2),
    )
    source, target = agent(tree, "gpu-1", "--uplink", "30"), agent(empty, "gpu-2")
    looked([source])
    low = order(item(slow, ItemType.MODEL, source), priority=priority)
    critical = order(item(fast, ItemType.MODEL, source), priority=Priority.CRITICAL)
    submit(target, low)
    follow(target, low.id, lambda told: told.items[0].bytes_done >= CHUNK_SIZE)
    submit(target, critical)
    meanwhile = []
    while True:
        told = standing(target, low.id).items[0]
        if standing(target, critical.id).items[0].state != PullState.RUNNING:
            break
        meanwhile.append(told)
    assert {each.state for each in meanwhile} == {PullState.RUNNING}
    assert meanwhile[-1].bytes_done - meanwhile[0].bytes_done <= 5 * CHUNK_SIZE
    assert follow(target, critical.id).state == PullState.DONE
    assert follow(target, low.id).state == PullState.DONE
    assert served(source) <= critical.items[0].size + low.items[0].size + 4 * CHUNK_SIZE


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.LOW])
def test_an_urgent_order_lends_its_urgency(tree: Path, empty: Path, agent: Start, priority: Priority) -> None:
    """What a CRITICAL order wants is under way for another already: it is fetched once, and other urgent ones do not stop it."""
    wanted, other = (
        give_model(tree, "wanted_hex8_2p.onnx", 10 * CHUNK_SIZE, 1),
        give_model(tree, "o_hex8_2p.onnx", 40 * CHUNK_SIZE, 2),
    )
    source, target = agent(tree, "gpu-1", "--uplink", "40"), agent(empty, "gpu-2")
    looked([source])
    low = order(item(wanted, ItemType.MODEL, source), priority=priority)
    submit(target, low)
    follow(target, low.id, lambda told: told.items[0].bytes_done > 0)
    urgent = order(item(other, ItemType.MODEL, source), priority=Priority.CRITICAL)
    submit(target, urgent)
    same = order(item(wanted, ItemType.MODEL, source), priority=Priority.CRITICAL)
    submit(target, same)
    assert follow(target, same.id).state == PullState.DONE
    assert standing(target, urgent.id).items[0].state == PullState.RUNNING
    assert standing(target, low.id).state == PullState.DONE
    assert standing(target, same.id).items[0].offers == ()
    ask(target, f"/v1/pulls/{urgent.id}", "DELETE")
    assert follow(target, urgent.id).state == PullState.CANCELLED


def test_cancelling(tree: Path, empty: Path, agent: Start) -> None:
    large, small = give_model(tree, "large_hex8_2p.onnx", 12 * CHUNK_SIZE), give_model(tree, "small_hex8_2p.onnx", 1000)
    source, target = agent(tree, "gpu-1", "--uplink", "20"), agent(empty, "gpu-2")
    looked([source])
    given = order(item(small, ItemType.MODEL, source), item(large, ItemType.MODEL, source))
    submit(target, given)
    follow(target, given.id, lambda told: told.items[1].bytes_done >= CHUNK_SIZE and told.items[0].state == PullState.DONE)
    assert ask(target, f"/v1/pulls/{given.id}", "DELETE").status == 200
    done = follow(target, given.id)
    assert [(each.state, each.cause) for each in done.items] == [(PullState.DONE, None), (PullState.CANCELLED, "cancelled")]
    assert (done.state, parts_of(empty)) == (PullState.CANCELLED, [])
    assert standing(target, given.id) == done
    assert ask(target, f"/v1/pulls/{given.id}", "DELETE").json()["version"] == done.version
    assert pull(target, *given.items).state == PullState.DONE


def test_what_has_not_begun_is_cancelled_at_once(tree: Path, empty: Path, agent: Start) -> None:
    paths = [give_model(tree, f"m{number}_hex8_2p.onnx", 3 * CHUNK_SIZE, number) for number in range(6)]
    source, target = agent(tree, "gpu-1", "--uplink", "2"), agent(empty, "gpu-2")
    looked([source])
    given = order(*(item(path, ItemType.MODEL, source) for path in paths))
    submit(target, given)
    told = Progress.model_validate_json(ask(target, f"/v1/pulls/{given.id}", "DELETE").data)
    assert [each.state for each in told.items[4:]] == [PullState.CANCELLED] * 2
    assert {each.state for each in follow(target, given.id).items} == {PullState.CANCELLED}
    assert parts_of(empty) == []


def test_two_orders_for_the_same_content(tree: Path, empty: Path, agent: Start) -> None:
    path = give_model(tree, "large_hex8_2p.onnx", 10 * CHUNK_SIZE)
    source, target = agent(tree, "gpu-1", "--uplink", "60"), agent(empty, "gpu-2")
    looked([source])
    first, second = order(item(path, ItemType.MODEL, source)), order(item(path, ItemType.MODEL, source, name="other_hex8_2p.onnx"))
    submit(target, first)
    submit(target, second)
    assert {follow(target, each.id).state for each in (first, second)} == {PullState.DONE}
    assert served(source) == path.stat().st_size
    assert standing(target, second.id).items[0].path == "models/large_hex8_2p.onnx"


def test_many_small_items_come_in_bundles(tree: Path, empty: Path, agent: Start) -> None:
    paths = [give_model(tree, f"m{number:03d}_hex8_2p.onnx", 2000 + number, number) for number in range(150)]
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    looked([source])
    given = [item(path, ItemType.MODEL, source) for path in paths]
    paths[7].unlink()
    done = pull(target, *given)
    assert [number for number, each in enumerate(done.items) if each.state != PullState.DONE] == [7]
    assert done.items[7].cause == "no_source"
    assert all(sha256_of(empty / "models" / each.name) == each.sha256 for number, each in enumerate(given) if number != 7)
    assert metric(source, 'ringrift_node_requests_total{endpoint="bundles",status="200"}') == 3
    assert metric(source, 'ringrift_node_requests_total{endpoint="objects",status="206"}') <= 2


def test_a_link_bears_what_the_order_says(tree: Path, empty: Path, agent: Start) -> None:
    path = give_model(tree, "large_hex8_2p.onnx", 4 * CHUNK_SIZE)
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2")
    looked([source])
    done = pull(target, item(path, ItemType.MODEL, source), inbound=20 * MB, outbound={"gpu-1": 10 * MB})
    assert done.items[0].seconds >= 0.9 * path.stat().st_size / (10 * MB)
    assert metric(target, 'ringrift_node_link_limit_bytes_per_second{link="in"}') == 20 * MB
    assert metric(target, 'ringrift_node_link_limit_bytes_per_second{link="from gpu-1"}') == 10 * MB


def test_into_a_drive(tree: Path, empty: Path, agent: Start, tmp_path: Path) -> None:
    (tmp_path / "owc").mkdir()
    source, target = agent(tree, "gpu-1"), agent(empty, "gpu-2", "--drive", f"owc={tmp_path / 'owc'}")
    looked([source])
    npz = item(NPZ, ItemType.NPZ, source)
    unmounted = pull(target, npz, root="owc").items[0]
    assert (unmounted.cause, parts_of(tmp_path / "owc")) == ("disk_error", [])
    mark_location(tmp_path / "owc", "owc")
    done = pull(target, npz, root="owc").items[0]
    assert (done.state, done.path) == (PullState.DONE, "canonical_data/base_ok.npz")
    assert [each.sha256 for each in target.source("owc").read(None, 60).found] == [npz.sha256]


def test_the_home_is_served_and_never_filled(tree: Path, empty: Path, agent: Start, tmp_path: Path) -> None:
    datasets = tmp_path / "home/datasets/square8_3p"
    datasets.mkdir(parents=True)
    shutil.copy(NPZ, datasets / "square8_3p.npz")
    source, target = agent(tree, "gpu-1", "--home", str(tmp_path / "home")), agent(empty, "gpu-2")
    (found,) = source.source("home").read(None, 60).found
    assert (found.path, found.type) == ("datasets/square8_3p/square8_3p.npz", ItemType.NPZ)
    npz = item(NPZ, ItemType.NPZ, source)
    (tree / "data/training/square8_3p.npz").unlink()
    looked([source])
    assert pull(target, npz).state == PullState.DONE
    assert pull(source, npz, root="home").items[0].state == PullState.DONE
    model = item(tree / "models/nnue_hex8_2p.onnx", ItemType.MODEL, source)
    assert pull(source, model, root="home").items[0].cause == "unplaceable"
