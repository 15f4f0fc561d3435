"""`ringrift-data health`: every line good, bad or unknown, with what to do; on real manifests, queues and games."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.cluster.backpressure import Reading, assess
from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import Disk
from ringrift_dagster.manifest.overrides import grant
from ringrift_dagster.manifest.store import Store, default_url
from ringrift_dagster.transfer import breakers, deferral, queue
from ringrift_dagster.transfer.health import Line, Verdict, health
from ringrift_dagster.transfer.model import OfferOutcome, Priority, TransportName
from tests.manifest.telling import declared, dies, item, tell
from tests.transfer.asking import completes, fails, many, wanted

NOW, HOUR, DAY = 1_000_000.0, 3600.0, 86_400.0
WHAT = [
    "manifest", "locations", "brakes", "orphans", "untracked", "queue", "failures", "breakers", "backpressure",
    "canonical games", "training sets", "overrides",
]  # fmt: skip


@pytest.fixture
def cluster(store: Store) -> Store:
    """All places answer; every host has the same young training set."""
    declared(store)
    for name in ("vast-1", "vast-2", "nebius-1", "nfs", "drive"):
        tell(store, name, [item("data/training/hex8_2p.npz", "x", newest_game=NOW - HOUR)], at=NOW, disk=Disk(total=100, free=50))
    tell(store, "bucket", at=NOW)
    return store


@pytest.fixture
def lines(cluster: Store, home: Home, tmp_path: Path) -> Callable[..., dict[str, Line]]:
    """The lines by what they are about."""
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text("hosts: {}\n")

    def look(at: float = NOW) -> dict[str, Line]:
        found = health(cluster, load_hosts(hosts), home, at=at)
        assert [line.what for line in found] == WHAT
        assert all(line.action for line in found if line.verdict != Verdict.GOOD), "whoever reads it knows what to do"
        assert all("\n" not in line.told for line in found)
        return {line.what: line for line in found}

    return look


Lines = Callable[..., dict[str, Line]]


def test_a_cluster_at_rest_lacks_only_what_nobody_did_yet(lines: Lines) -> None:
    assert {what for what, line in lines().items() if line.verdict != Verdict.GOOD} == {"manifest", "canonical games"}


def test_places_that_are_away_and_what_only_they_have_is_bad(cluster: Store, lines: Lines) -> None:
    tell(cluster, "vast-1", [item("data/training/only.npz", "only here", newest_game=NOW)], at=NOW)
    dies(cluster, "vast-1", at=NOW + 30)
    found = lines()
    assert (found["locations"].verdict, found["locations"].told) == (Verdict.BAD, "vast-1 is OFFLINE")
    assert (found["orphans"].verdict, found["orphans"].told) == (Verdict.BAD, "1 stranded")
    assert found["training sets"].verdict == Verdict.BAD


def test_what_a_brake_holds_is_bad(cluster: Store, lines: Lines) -> None:
    tell(cluster, "vast-1", [item(f"{number}.npz", f"content {number}") for number in range(200)], at=NOW)
    tell(cluster, "vast-1", at=NOW + 1)
    line = lines()["brakes"]
    assert (line.verdict, line.detail) == (Verdict.BAD, {"held": {"vast-1": 200}})


@pytest.mark.parametrize(
    ("priority", "age", "verdict"),
    [
        (Priority.CRITICAL, 100, Verdict.GOOD),
        (Priority.CRITICAL, 130, Verdict.BAD),
        (Priority.HIGH, 130, Verdict.GOOD),
        (Priority.HIGH, 310, Verdict.BAD),
        (Priority.NORMAL, HOUR + 1, Verdict.BAD),
        (Priority.LOW, DAY, Verdict.GOOD),
        (Priority.COLD_STORAGE, 2 * DAY + 1, Verdict.BAD),
    ],
)
def test_each_class_may_wait_for_its_time(cluster: Store, lines: Lines, priority: Priority, age: float, verdict: Verdict) -> None:
    queue.submit_all(cluster, many(2, "vast-1", priority), at=NOW - age)
    line = lines()["queue"]
    assert (line.verdict, line.detail) == (verdict, {priority.name: {"waiting": 2, "oldest_seconds": age}})


def test_failures_of_the_last_day_are_told_by_cause_until_they_are_made_up_for(cluster: Store, lines: Lines) -> None:
    for content in ("a", "b"):
        queue.submit(cluster, wanted(content), at=NOW - HOUR)
        (held,) = queue.lease(cluster, "me", "gpu-1", at=NOW - HOUR)
        fails(cluster, held, "not_sound", at=NOW - HOUR)
    line = lines()["failures"]
    assert (line.verdict, line.told, line.detail) == (Verdict.BAD, "in the last day 2 not_sound", {"not_sound": 2})
    assert line.action == "make the item again: its own content is broken; `ringrift-data queue list`"
    assert lines(NOW + DAY)["failures"].verdict == Verdict.GOOD
    for content in ("a", "b"):
        queue.submit(cluster, wanted(content), at=NOW)
        (held,) = queue.lease(cluster, "me", "gpu-1", at=NOW)
        assert completes(cluster, held, at=NOW)
    assert lines()["failures"].verdict == Verdict.GOOD


def test_an_open_breaker_is_bad(cluster: Store, lines: Lines) -> None:
    failed = OfferOutcome(location="vast-1", transport=TransportName.HTTP, failures=1, failure="timeout")
    with cluster.writing() as writer:
        breakers.observe(writer, [failed] * breakers.FAILURES, at=NOW)
    line = lines()["breakers"]
    assert (line.verdict, line.told) == (Verdict.BAD, "open: vast-1 by http (timeout)")
    assert line.action == "look there; one is tried again in 1.0 min"


def test_backpressure_is_bad_and_what_is_not_known_is_not_good(cluster: Store, lines: Lines) -> None:
    deferral.take_in(cluster, assess([Reading("disk", 97.0, 85.0, 100.0, "% full", "vast-1 is the fullest")]), at=NOW)
    line = lines()["backpressure"]
    assert (line.verdict, line.told) == (
        Verdict.BAD,
        "LOW and COLD_STORAGE wait: measured says disk: 97 % full, vast-1 is the fullest",
    )
    assert lines(NOW + DAY)["backpressure"].verdict == Verdict.GOOD, "the claim has expired"
    queue.submit(cluster, wanted("x", "vast-1"), at=NOW)
    line = lines(NOW + DAY)["backpressure"]
    assert (line.verdict, line.told) == (Verdict.BAD, "high: queue, 86400 s (100% of what is bearable)")
    queue.cancel(cluster, 1, at=NOW)
    queue.submit(cluster, wanted("y", "vast-1"), at=NOW + DAY)
    line = lines(NOW + DAY)["backpressure"]
    assert line.verdict == Verdict.UNKNOWN
    assert line.told == "nobody knows rates into vast-1: nothing large was brought there yet"


def test_old_games_are_bad_unless_somebody_says_otherwise_and_then_everybody_reads_who(
    cluster: Store, lines: Lines, home: Home, recorded: Callable[[str], Path]
) -> None:
    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    later = time.time() + 60 * DAY
    assert (lines(later)["canonical games"].verdict, lines(later)["canonical games"].told) == (Verdict.BAD, "square8_4p is stale")
    assert lines(later)["training sets"].verdict == Verdict.BAD
    for config in ("square8_4p", "hex8_2p"):
        grant(cluster, config, who="Ada", why="the cluster moves house", hours=3, at=later)
    found = lines(later)
    assert (found["canonical games"].verdict, found["training sets"].verdict) == (Verdict.GOOD, Verdict.GOOD)
    assert "square8_4p by Ada until" in found["overrides"].told and "the cluster moves house" in found["overrides"].told
    assert lines(later + 3 * HOUR)["canonical games"].verdict == Verdict.BAD


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, Any]]]:
    def execute(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    yield execute


def test_the_command_exits_by_what_it_found(
    home: Home, recorded: Callable[[str], Path], command: Callable[..., tuple[int, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = command("health")
    verdicts = {line["what"]: line["verdict"] for line in told["lines"]}
    assert (code, told["healthy"], verdicts["manifest"], list(verdicts)) == (1, False, "unknown", WHAT)
    run(["health"])
    out = capsys.readouterr().out
    assert "not well" in out and "manifest refresh" in out and len(out.splitlines()) < 24, "one screen"

    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    for _ in range(20):
        if all(row["answered"] and not row["pending"] for row in command("manifest", "refresh")[1]["locations"]):
            break
    assert command("freshness", "override", "--config", "square8_4p", "--who", "me", "--why", "a test", "--hours", "1")[0] == 0
    code, told = command("health")
    not_good = {line["what"]: line["told"] for line in told["lines"] if line["verdict"] != "good"}
    assert (code, told["healthy"], not_good) in ((0, True, {}), (1, False, {"backpressure": not_good.get("backpressure")}))
    assert run(["health"]) == code

    with Store.open(default_url(home)) as store:
        queue.submit_all(store, many(1, "gpu-1", Priority.CRITICAL), at=time.time() - 500)
    code, told = command("health")
    assert (code, {line["what"] for line in told["lines"] if line["verdict"] == "bad"} >= {"queue"}) == (1, True)


def test_a_hosts_file_that_cannot_be_read_is_an_error_and_no_verdict(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.root.mkdir(parents=True, exist_ok=True)
    (home.root / "distributed_hosts.yaml").write_text("freshness: {fail_hours: 2000}\nhosts: {}\n")
    assert run(["health"]) == 2
    out, err = capsys.readouterr()
    assert (out, "freshness.fail_hours: must be less than 168" in err) == ("", True)
