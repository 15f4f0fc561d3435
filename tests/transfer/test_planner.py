"""From rules to operations: what is planned, what is not, and where to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.cluster.topology import Cluster, Place
from ringrift_dagster.manifest import replicas
from ringrift_dagster.manifest.inventory import Disk, FoundItem, Gone, ItemType, Soundness, SourceDatabase
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.schema import locations
from ringrift_dagster.manifest.sources.layouts import SNAPSHOT_FOLDER
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import planner, queue, spots
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.planner import Mark, plan
from ringrift_dagster.transfer.rules import Rule, promoted_model, put, training_job
from tests.manifest.telling import dies, digest_of, item, tell
from tests.transfer.asking import completes, fails

HOSTS = """
sync_routing:
  replication_target: {target}
  excluded_hosts: [{excluded}]
  priority_hosts: [{priority}]
  shared_storage: [{{name: nfs, path: /nfs, hosts: [nebius-1, nebius-2]}}]
  allowed_external_storage:
    - {{name: owc, host: mac-1, path: /Volumes/owc, receive_npz: {npz}, receive_models: true, receive_games: false}}
  {s3}
hosts:
  vast-1: {{role: gpu_selfplay, is_ephemeral: true, region: r1, tailscale_ip: 100.0.0.1}}
  vast-2: {{role: gpu_selfplay, is_ephemeral: true, region: r1, tailscale_ip: 100.0.0.2}}
  nebius-1: {{role: gpu_training_primary, region: eu, tailscale_ip: 100.0.0.3}}
  nebius-2: {{role: gpu_training_primary, region: us, tailscale_ip: 100.0.0.4}}
  lambda-1: {{role: gpu_selfplay, region: x, tailscale_ip: 100.0.0.5}}
  mac-1: {{role: coordinator, skip_sync_receive: true, tailscale_ip: 100.0.0.6}}
"""
TERABYTE = 10**12
ROOMY = Disk(total=TERABYTE, free=TERABYTE // 2)
FULL = Disk(total=TERABYTE, free=TERABYTE // 10)
EVERYBODY = ("vast-1", "vast-2", "nebius-1", "nebius-2", "lambda-1", "mac-1", "owc", "nfs")
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def cluster_of(tmp_path: Path, store: Store) -> MakeCluster:
    """Makes the cluster that such a hosts file describes, known to the manifest, everybody ONLINE with room."""

    def make(
        *, target: int = 3, excluded: str = "", priority: str = "", npz: str = "true", s3: str = "", more: tuple[Place, ...] = ()
    ) -> Cluster:
        path = tmp_path / "hosts.yaml"
        path.write_text(HOSTS.format(target=target, excluded=excluded, priority=priority, npz=npz, s3=s3))
        cluster = load_hosts(path)
        register(store, [*cluster.locations(), *more], at=0.0)
        for name in EVERYBODY:
            tell(store, name, at=1.0, disk=ROOMY)
        return cluster

    return make


def put_at(store: Store, content: str, *names: str, kind: ItemType = ItemType.NPZ, **facts: object) -> str:
    """The same item at several places; returns its hash."""
    for name in names:
        suffix = {ItemType.MODEL: "pth", ItemType.GAME_DB: "db", ItemType.CHECKPOINT: "pth"}.get(kind, "npz")
        path = str(facts.pop("path", "")) or f"{content}.{suffix}"
        tell(store, name, [item(path, content, type=kind, **facts)], at=2.0, full=False, disk=None)
    return digest_of(content)


def planned(store: Store, cluster: Cluster, at: float = 10.0) -> dict[str, list[str]]:
    """Targets by hash."""
    found: dict[str, list[str]] = {}
    for wanted in plan(store, cluster, at=at).wanted:
        found.setdefault(wanted.sha256, []).append(wanted.target)
    return {sha256: sorted(targets) for sha256, targets in found.items()}


def rooms(store: Store, disk: Disk, *names: str) -> None:
    for name in names:
        tell(store, name, at=3.0, full=False, disk=disk)


def test_enough_copies_far_from_each_other_one_of_them_lasting(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(npz="false")
    sha256 = put_at(store, "a", "vast-1")
    found = plan(store, cluster, at=10.0)
    assert len(found.wanted) == 2
    assert {wanted.target for wanted in found.wanted} < {"nebius-1", "nebius-2", "lambda-1", "nfs"}, "not vast-2 in the same rack"
    assert {(w.sha256, w.kind, w.priority, w.size) for w in found.wanted} == {(sha256, Kind.REPLICATE, Priority.LOW, 1)}
    providers = {cluster.hosts[name].provider if name in cluster.hosts else name for name in planned(store, cluster)[sha256]}
    assert len(providers) == 2


def test_what_already_holds_is_never_planned(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of()
    put_at(store, "a", "vast-1", "nebius-1", "lambda-1")
    put_at(store, "unsound", "vast-1", soundness=Soundness.UNSOUND)
    assert planned(store, cluster) == {}
    dies(store, "lambda-1", at=20.0)
    (targets,) = planned(store, cluster, at=50.0).values()
    assert len(targets) == 1 and not set(targets) & {"vast-1", "nebius-1", "lambda-1"}


def test_what_is_on_its_way_is_not_planned_again(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of()
    put_at(store, "a", "vast-1")
    found = plan(store, cluster, at=10.0)
    planner.submit(store, found, at=10.0)
    assert planned(store, cluster, at=11.0) == {}
    other = put_at(store, "b", "vast-1", "nebius-1")
    queue.submit(store, Wanted(Kind.SYNC, other, "lambda-1", Priority.HIGH, 1), at=11.0)
    assert planned(store, cluster, at=12.0) == {}, "whatever it was asked for"
    (held,) = queue.lease(store, "run", found.wanted[0].target, at=12.0)
    completes(store, held, at=13.0)
    with store.writing() as writer:
        replicas.record_copy(writer, held.target, held.sha256, "a.npz", mtime=13.0, verified_at=13.0, at=13.0)
    assert planned(store, cluster, at=14.0) == {}


def test_an_ephemeral_majority_still_gets_a_lasting_copy(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2)
    sha256 = put_at(store, "a", "vast-1", "vast-2")
    (target,) = planned(store, cluster)[sha256]
    assert target not in ("vast-1", "vast-2")


def test_without_a_lasting_place_others_are_taken_and_that_is_said(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(excluded="nebius-1, nebius-2, lambda-1, mac-1")
    sha256 = put_at(store, "a", "vast-1")
    found = plan(store, cluster, at=10.0)
    assert [wanted.target for wanted in found.wanted] == ["vast-2"]
    assert [(unmet.sha256, unmet.why) for unmet in found.unmet] == [(sha256, found.unmet[0].why)]
    assert "excluded" in found.unmet[0].why


def test_who_may_not_receive_is_sent_nothing(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=6, excluded="lambda-1", npz="false")
    sha256 = put_at(store, "a", "vast-1")
    model = put_at(store, "m", "vast-1", kind=ItemType.MODEL, soundness=Soundness.UNKNOWN)
    targets = planned(store, cluster)
    assert set(targets[sha256]) == {"vast-2", "nebius-1", "nebius-2", "nfs"}, "mac-1 skips, lambda-1 is excluded, owc takes no NPZ"
    assert set(targets[model]) == {"vast-2", "nebius-1", "nebius-2", "nfs", "owc"}


def test_a_full_disk_is_sent_nothing_and_what_is_queued_counts(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, npz="false")
    rooms(store, FULL, "nebius-1", "nebius-2", "nfs")
    big = 200 * 10**9
    first, second = (put_at(store, name, "vast-1", size=big) for name in ("a", "b"))
    targets = planned(store, cluster)
    assert (targets[first], targets[second]) == (["lambda-1"], ["vast-2"]), "there is room for one of them at lambda-1"
    queue.submit(store, Wanted(Kind.SYNC, digest_of("else"), "lambda-1", Priority.LOW, 300 * 10**9), at=5.0)
    assert "lambda-1" not in {target for targets in planned(store, cluster).values() for target in targets}


def test_priority_hosts_come_first(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(priority="nebius-1, nebius-2")
    sha256 = put_at(store, "a", "vast-1")
    assert planned(store, cluster)[sha256] == ["nebius-1", "nebius-2"]


def test_a_place_that_holds_it_in_doubt_is_left_alone(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(npz="false")
    sha256 = put_at(store, "a", "vast-1", "nebius-1")
    with store.writing() as writer:
        replicas.suspect(writer, "nebius-1", sha256, "it lied", at=3.0)
    assert "nebius-1" not in planned(store, cluster)[sha256]


def test_a_drive_and_its_host_are_lost_together(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2)
    sha256 = put_at(store, "a", "mac-1", "owc")
    (target,) = planned(store, cluster)[sha256]
    assert target not in ("mac-1", "owc")


def test_every_sound_item_goes_into_the_bucket(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=1, s3="s3: {bucket: cold-store}")
    tell(store, "cold-store", at=1.0)
    sound = put_at(store, "a", "nebius-1")
    put_at(store, "unknown", "nebius-1", soundness=Soundness.UNKNOWN)
    put_at(store, "there", "nebius-1", "cold-store")
    put_at(store, "archived", "nebius-1")
    put_at(store, "archived", "cold-store", provenance={"storage_class": "GLACIER"})
    (wanted,) = plan(store, cluster, at=10.0).wanted
    assert wanted == Wanted(Kind.BACKUP, sound, "cold-store", Priority.COLD_STORAGE, 1, "rule standing-cold")
    planner.submit(store, plan(store, cluster, at=10.0), at=10.0)
    assert plan(store, cluster, at=11.0).wanted == []
    dies(store, "cold-store", at=20.0)
    assert "cold-store is OFFLINE" in plan(store, cluster, at=100.0).lacking


def test_a_job_gets_the_newest_training_set_where_it_runs(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=1, npz="false")
    put_at(store, "old", "nebius-1", newest_game=100.0, samples=1_000_000)
    new = put_at(store, "new", "nebius-1", newest_game=200.0, samples=10)
    put_at(store, "broken", "nebius-1", newest_game=300.0, soundness=Soundness.UNSOUND)
    put_at(store, "other", "nebius-1", newest_game=400.0, config="hex8_4p")
    put(store, training_job("job-7", "hex8_2p", ["lambda-1", "vast-1"], at=5.0, until=100.0, priority=Priority.CRITICAL))
    found = plan(store, cluster, at=10.0)
    assert [(w.sha256, w.target, w.kind, w.priority, w.why) for w in found.wanted] == [
        (new, name, Kind.PRELOAD, Priority.CRITICAL, "rule job-7") for name in ("lambda-1", "vast-1")
    ]
    assert plan(store, cluster, at=100.0).wanted == [], "the job is over"


def test_a_promoted_model_goes_everywhere(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=1, excluded="lambda-1")
    model = put_at(store, "m", "vast-1", kind=ItemType.MODEL, soundness=Soundness.UNKNOWN)
    put(store, promoted_model("hex8_2p", model, at=5.0))
    found = plan(store, cluster, at=10.0)
    assert [wanted.target for wanted in found.wanted if wanted.kind == Kind.SYNC] == ["nebius-1", "nebius-2", "vast-2"]
    assert {(unmet.target, unmet.why) for unmet in found.unmet} == {
        ("lambda-1", "lambda-1 is among the excluded hosts"),
        ("mac-1", "mac-1 has skip_sync_receive"),
    }
    put(store, promoted_model("hex8_2p", model, at=6.0, roles=["gpu_training_primary"]))
    assert planned(store, cluster)[model] == ["nebius-1", "nebius-2"]


def test_a_shared_file_system_that_the_host_mounts_counts(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=1)
    model = put_at(store, "m", "nfs", kind=ItemType.MODEL, soundness=Soundness.UNKNOWN)
    put(store, promoted_model("hex8_2p", model, at=5.0))
    assert not {"nebius-1", "nebius-2"} & set(planned(store, cluster)[model])


def test_what_a_job_waits_for_goes_on_where_others_stop(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=1)
    sha256 = put_at(store, "a", "nebius-1")
    rooms(store, Disk(total=TERABYTE, free=TERABYTE * 15 // 100 + 10), "lambda-1")
    put(store, training_job("job-7", "hex8_2p", ["lambda-1"], at=5.0, until=100.0))
    assert planned(store, cluster) == {sha256: ["lambda-1"]}
    rooms(store, Disk(total=TERABYTE, free=TERABYTE * 15 // 100), "lambda-1")
    assert planned(store, cluster) == {}, "the floor holds for all"


def test_a_rule_without_a_source_or_a_place_says_so(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=1)
    sha256 = put_at(store, "a", "lambda-1")
    dies(store, "lambda-1", at=5.0)
    put(store, Rule("mine", Kind.SYNC, Priority.NORMAL, sha256=sha256, hosts=("nebius-1", "mars"), created_at=6.0))
    found = plan(store, cluster, at=50.0)
    assert [unmet.why for unmet in found.unmet] == ["no copy can be read now"]
    assert found.lacking["the hosts file names no mars with data"] == 1


def test_what_failed_or_was_cancelled_rests_and_another_place_is_taken(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, npz="false")
    sha256 = put_at(store, "a", "vast-1")
    first = plan(store, cluster, at=10.0)
    planner.submit(store, first, at=10.0)
    (held,) = queue.lease(store, "run", first.wanted[0].target, at=11.0)
    assert fails(store, held, "occupied", at=12.0) == State.FAILED
    second = plan(store, cluster, at=13.0)
    assert second.wanted[0].target != held.target
    (number,) = planner.submit(store, second, at=13.0)
    queue.cancel(store, number, at=14.0)
    third = plan(store, cluster, at=15.0)
    assert third.wanted[0].target not in (held.target, second.wanted[0].target)
    assert third.mark.due_at == 12.0 + planner.REST_SECONDS[State.FAILED]
    later = 15.0 + 2 * 86_400
    assert planned(store, cluster, at=later)[sha256] == [held.target]


def test_plans_are_bounded_and_the_rest_follows(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2)
    found = [item(f"{number}.npz", f"content {number}") for number in range(25)]
    tell(store, "vast-1", found, at=2.0, full=False)
    mark: Mark | None = None
    sizes = []
    for turn in range(4):
        made = planner.cycle(store, cluster, mark, at=10.0 + turn, limit=10)
        if made is None:
            break
        sizes.append(len(made.wanted))
        mark = made.mark
    assert sizes == [10, 10, 5]
    assert queue.counts(store) == {(Priority.LOW, State.QUEUED): 25}


def failed_in_vain(store: Store, count: int, target: str, *, at: float) -> None:
    """The last attempt of so many operations for a target has just failed."""
    for held in queue.lease(store, "run", target, at=at, limit=count):
        assert fails(store, held, "occupied", at=at) == State.FAILED


def contents(count: int, name: str = "content") -> list[FoundItem]:
    return [item(f"{name} {number}.npz", f"{name} {number}") for number in range(count)]


@pytest.mark.parametrize("batch", [1, 4, 500])
def test_what_rests_does_not_keep_the_others_from_their_turn(
    store: Store, cluster_of: MakeCluster, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(planner, "_BATCH", batch)
    cluster = cluster_of(target=1, s3="s3: {bucket: cold-store}")
    tell(store, "cold-store", at=1.0)
    tell(store, "nebius-1", contents(30), at=2.0, full=False)
    for _ in range(3):
        planner.cycle(store, cluster, None, at=10.0, limit=10)
    failed_in_vain(store, 30, "cold-store", at=11.0)
    tell(store, "nebius-1", contents(3, "new"), at=12.0, full=False)
    found = plan(store, cluster, at=13.0, limit=5)
    assert {wanted.sha256 for wanted in found.wanted} == {digest_of(f"new {number}") for number in range(3)}
    assert (found.more, found.mark.due_at) == (False, 11.0 + planner.REST_SECONDS[State.FAILED])


def test_what_fits_nowhere_does_not_keep_the_others_from_their_turn(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, npz="false")
    rooms(store, Disk(total=1000, free=800), *EVERYBODY)
    tell(store, "nebius-1", [item(f"{n}.big", f"big {n}", size=900) for n in range(30)], at=4.0, full=False)
    tell(store, "nebius-1", contents(3), at=5.0, full=False)
    found = plan(store, cluster, at=10.0, limit=4)
    assert {wanted.sha256 for wanted in found.wanted} == {digest_of(f"content {number}") for number in range(3)}
    assert (found.more, sum(found.lacking.values())) == (False, 30)


def test_a_plan_that_has_no_time_for_all_says_so_and_the_next_goes_on(
    store: Store, cluster_of: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "FURTHER_SECONDS", 0.0)
    monkeypatch.setattr(planner, "_BATCH", 10)
    cluster = cluster_of(target=2, npz="false")
    rooms(store, Disk(total=1000, free=800), *EVERYBODY)
    tell(store, "nebius-1", [item(f"{n}.big", f"big {n}", size=900) for n in range(30)], at=4.0, full=False)
    tell(store, "nebius-1", contents(1), at=5.0, full=False)
    story = []
    mark = None
    for turn in range(4):
        made = planner.cycle(store, cluster, mark, at=10.0 + turn, limit=1)
        assert made is not None
        mark = Mark.from_text(made.mark.to_text())
        assert mark == made.mark
        story.append((len(made.wanted), made.more, sum(made.lacking.values()), bool(made.mark.after)))
    assert story == [(0, True, 15, True), (0, True, 15, True), (1, True, 10, False), (0, True, 15, True)], "and begins again"


def test_what_is_in_most_danger_is_looked_at_in_every_plan(
    store: Store, cluster_of: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "FURTHER", 10)
    cluster = cluster_of(target=3, excluded="vast-1, vast-2, nebius-2, lambda-1, mac-1", npz="false")
    for name in ("nebius-1", "nfs"):
        tell(store, name, contents(40), at=2.0, full=False, disk=ROOMY)
    first = plan(store, cluster, at=10.0, limit=2)
    assert (first.wanted, first.more, len(first.mark.after)) == ([], True, 1)
    sha256 = put_at(store, "new", "nebius-1")
    second = plan(store, cluster, at=11.0, limit=2, mark=first.mark)
    assert [(wanted.sha256, wanted.target) for wanted in second.wanted] == [(sha256, "nfs")]


def test_where_nothing_can_be_sent_no_further_items_are_looked_at(
    store: Store, cluster_of: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spots, "OPEN_AT_ONCE", 0)
    cluster = cluster_of(target=2)
    tell(store, "vast-1", contents(40), at=2.0, full=False)
    found = plan(store, cluster, at=10.0, limit=2)
    assert (found.wanted, found.more, sum(found.lacking.values())) == ([], False, 10)


def test_a_plan_is_made_when_something_changed_or_is_due(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of()
    put_at(store, "a", "vast-1")
    made = planner.cycle(store, cluster, None, at=10.0)
    assert made is not None and len(made.wanted) == 2
    assert planner.cycle(store, cluster, made.mark, at=11.0) is None
    put_at(store, "b", "vast-1")
    assert planner.cycle(store, cluster, made.mark, at=12.0) is not None
    waiting = Mark(store.revision(), 20.0)
    assert planner.is_due(store, waiting, at=20.0) and not planner.is_due(store, waiting, at=19.0)


@pytest.mark.parametrize("mark", [Mark(7), Mark(7, 12.5), Mark(7, 12.5, {"mine at gpu:1": (1, 0, 12), "standing-cold": (9,)})])
def test_a_mark_fits_into_a_cursor(mark: Mark) -> None:
    assert Mark.from_text(mark.to_text()) == mark
    assert Mark.from_text(None) is None and Mark.from_text("nonsense") is None and Mark.from_text("a:b") is None
    assert all(Mark.from_text(f"7:12.5:{rest}") is None for rest in ("x", "[1]", '{"a": 1}', '{"a": ["b"]}'))


def taken(content: str) -> FoundItem:
    """A snapshot."""
    return item(f"{SNAPSHOT_FOLDER}/{digest_of(content)}.db", content, type=ItemType.GAME_DB)


def live(name: str, content: str) -> SourceDatabase:
    """The database that a snapshot is of."""
    return SourceDatabase(path=f"data/games/{name}.db", size=1, mtime=1.0, snapshot=digest_of(content))


def test_every_live_database_of_a_host_and_config_is_brought_now_and_then(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, npz="false")
    deep = "deep/" * 50
    names = ["one", "two", f"{deep}one", f"{deep}two"]
    found = [taken(name) for name in names]
    databases = [live(name, name) for name in names]
    tell(store, "vast-1", found, at=2.0, full=False, databases=databases)
    first = plan(store, cluster, at=10.0)
    assert {wanted.sha256 for wanted in first.wanted} == {digest_of(name) for name in names}
    assert len({wanted.why for wanted in first.wanted}) == 4 and all(len(wanted.why or "") <= 200 for wanted in first.wanted)
    planner.submit(store, first, at=10.0)
    later = [live("one", "one later"), *databases[1:]]
    tell(store, "vast-1", [taken("one later")], at=300.0, full=False, databases=later, gone=[(found[0].path, Gone.SUPERSEDED)])
    assert plan(store, cluster, at=301.0).wanted == []


def test_snapshots_of_no_live_database_are_brought_like_anything_else(store: Store, cluster_of: MakeCluster) -> None:
    """They hold games that no later one has: those do not wait for each other."""
    cluster = cluster_of(target=2, npz="false")
    tell(store, "vast-1", [taken("first"), taken("second")], at=2.0, full=False)
    assert planned(store, cluster).keys() == {digest_of("first"), digest_of("second")}


def test_the_games_of_a_live_database_are_brought_now_and_then(store: Store, cluster_of: MakeCluster) -> None:
    """It grows all the time, and every few minutes a new snapshot is another item."""
    cluster = cluster_of(target=2, npz="false")

    def snapshot(content: str, at: float) -> None:
        tell(store, "vast-1", [taken(content)], at=at, full=False, databases=[live("selfplay", content)])

    snapshot("first", 2.0)
    first = plan(store, cluster, at=10.0)
    assert [wanted.sha256 for wanted in first.wanted] == [digest_of("first")]
    planner.submit(store, first, at=10.0)
    snapshot("second", 300.0)
    assert plan(store, cluster, at=301.0).wanted == []
    (held,) = queue.lease(store, "run", first.wanted[0].target, at=310.0)
    completes(store, held, at=320.0)
    with store.writing() as writer:
        replicas.record_copy(writer, held.target, held.sha256, "x.db", mtime=1.0, verified_at=320.0, at=320.0)
    waiting = plan(store, cluster, at=330.0)
    assert (waiting.wanted, waiting.mark.due_at) == ([], 320.0 + planner.REST_SECONDS[State.DONE])
    assert planned(store, cluster, at=320.0 + 3601.0).keys() == {digest_of("second")}


def test_a_snapshot_that_was_retired_meanwhile_is_not_waited_for(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, npz="false")
    path = f"{SNAPSHOT_FOLDER}/{digest_of('first')}.db"
    tell(store, "vast-1", [item(path, "first", type=ItemType.GAME_DB)], at=2.0, full=False)
    made = planner.cycle(store, cluster, None, at=10.0)
    assert made is not None
    (held,) = queue.lease(store, "run", made.wanted[0].target, at=11.0)
    tell(store, "vast-1", gone=[(path, Gone.SUPERSEDED)], at=12.0, full=False)
    assert fails(store, held, "no_source", at=13.0) == State.WAITING
    planner.cycle(store, cluster, None, at=14.0)
    assert queue.get(store, held.id).state == State.CANCELLED


def test_what_is_wanted_at_a_place_that_is_gone_ends_with_a_cause(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of()
    sha256 = put_at(store, "a", "nebius-1", "nebius-2", "lambda-1")
    there = queue.submit(store, Wanted(Kind.SYNC, sha256, "vast-1", Priority.LOW, 1), at=5.0)
    astray = queue.submit(store, Wanted(Kind.SYNC, sha256, "vast-9", Priority.LOW, 1), at=5.0)
    planner.cycle(store, cluster, None, at=10.0)
    ended = queue.get(store, astray.id)
    assert (ended.state, ended.cause, ended.next_action) == (
        State.FAILED, "no_such_target", queue.NEXT_ACTIONS["no_such_target"],
    )  # fmt: skip
    assert queue.get(store, there.id).state == State.QUEUED


def test_few_wait_for_a_target_at_a_time(store: Store, cluster_of: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spots, "OPEN_AT_ONCE", 3)
    cluster = cluster_of(target=2, excluded="vast-2, nebius-1, nebius-2, mac-1")
    tell(store, "vast-1", [item(f"{number}.npz", f"content {number}") for number in range(10)], at=2.0, full=False)
    found = plan(store, cluster, at=10.0)
    assert [wanted.target for wanted in found.wanted] == ["lambda-1"] * 3
    assert found.lacking["3 operations wait for lambda-1"] == 7


def test_copies_at_the_coordinator_count(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(more=(Place("home", "disk", "", provider="local", via="mac-1"),))
    put_at(store, "a", "home", "nebius-1")
    (targets,) = planned(store, cluster).values()
    assert len(targets) == 1 and not {"home", "owc"} & set(targets)


def test_the_coordinators_home_and_tree_and_drive_are_one_copy(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, more=(Place("home", "disk", "", provider="local", via="mac-1"),))
    sha256 = put_at(store, "a", "home", "mac-1", "owc")
    assert len(planned(store, cluster)[sha256]) == 1


def test_a_home_that_may_be_on_any_host_counts_for_nothing(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, more=(Place("home", "disk", "", provider="local"),))
    enough, short, alone = (
        put_at(store, str(names), *names) for names in (("home", "nebius-1", "vast-1"), ("home", "nebius-1"), ("home",))
    )
    found = planned(store, cluster)
    assert {sha256: len(targets) for sha256, targets in found.items()} == {short: 1, alone: 2} and enough not in found


def test_hosts_on_one_nfs_are_one_copy(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of(target=2, npz="false")
    flagged = {name: host.model_copy(update={"has_nfs": name.startswith("nebius")}) for name, host in cluster.hosts.items()}
    cluster = cluster.model_copy(update={"hosts": flagged})
    sha256 = put_at(store, "a", "nebius-1", "nebius-2", "nfs")
    (target,) = planned(store, cluster)[sha256]
    assert target in ("vast-1", "vast-2", "lambda-1")
    other = put_at(store, "b", "lambda-1")
    thresholds = cluster.thresholds.model_copy(update={"replication_target": 6})
    targets = planned(store, cluster.model_copy(update={"thresholds": thresholds}))[other]
    assert len(set(targets) & {"nebius-1", "nebius-2", "nfs"}) == 1, "and are sent one"


def test_a_location_that_left_the_hosts_file_gets_nothing(store: Store, cluster_of: MakeCluster) -> None:
    cluster = cluster_of()
    put_at(store, "a", "vast-1")
    with store.writing() as writer:
        writer.connection.execute(sa.update(locations).where(locations.c.name == "lambda-1").values(active=False))
    smaller = cluster.model_copy(update={"hosts": {name: host for name, host in cluster.hosts.items() if name != "lambda-1"}})
    assert "lambda-1" not in {target for targets in planned(store, smaller).values() for target in targets}
