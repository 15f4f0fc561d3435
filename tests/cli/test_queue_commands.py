"""The commands on the queue and on replication: tables, JSON, exit codes and one-line errors, on real agents."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ringrift_dagster.cli.main import run
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.schema import locations
from ringrift_dagster.manifest.store import Store, default_url
from tests.transfer.field import MODEL, Field, noise, running_field

Command = Callable[..., tuple[int, Any]]
HOSTS = {
    "gpu-1": "role: gpu_selfplay",
    "gpu-2": "role: gpu_selfplay, is_ephemeral: true",
    "gpu-3": "role: gpu_training_primary",
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command with --json; returns its exit code and what it printed."""

    def execute(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return execute


@pytest.fixture
def field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    """Three hosts, the environment set for the commands."""
    with running_field(tmp_path, HOSTS) as running:
        monkeypatch.setenv("RINGRIFT_DATA_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("RINGRIFT_HOSTS_FILE", str(tmp_path / "hosts.yaml"))
        yield running


def test_from_asking_to_having(field: Field, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = field.put("gpu-1", noise(100_000, 1))
    field.refresh()
    assert command("queue", "list") == (0, {"operations": [], "open": []})

    code, asked = command("queue", "submit", sha256[:12], "--to", "gpu-2", "--priority", "high", "--why", "a test")
    operation = asked["operation"]
    assert (code, asked["sha256"], operation["priority"], operation["state"]) == (0, sha256, "HIGH", "QUEUED")
    assert command("queue", "submit", sha256, "--to", "gpu-2")[1]["operation"]["id"] == operation["id"], "asked for already"
    assert command("queue", "submit", MODEL, "--to", "gpu-1") == (0, {"sha256": sha256, "held": MODEL, "operation": None})

    code, listed = command("queue", "list", "--target", "gpu-2")
    assert (code, [each["why"] for each in listed["operations"]]) == (0, ["a test"])
    assert listed["open"] == [{"priority": "HIGH", "state": "QUEUED", "count": 1}]
    assert command("queue", "cancel", str(operation["id"]))[1][0]["state"] == "CANCELLED"
    assert command("queue", "cancel", "999")[0] == 1
    code, again = command("queue", "retry", str(operation["id"]), "--priority", "critical")
    assert (code, again[0]["state"], again[0]["priority"]) == (0, "QUEUED", "CRITICAL")

    assert command("queue", "work", "--target", "gpu-3") == (0, [])
    code, (report,) = command("queue", "work")
    assert (code, report["target"], report["silent"]) == (0, "gpu-2", None)
    assert [(row["item"], row["state"], row["bytes"], row["source"]) for row in report["rows"]] == [
        (sha256, "DONE", 100_000, "gpu-1")
    ]
    assert sha256 in field.held("gpu-2").values()
    code, done = command("queue", "list", "--state", "done")
    assert (code, [each["transport"] for each in done["operations"]]) == (0, ["http"])
    assert command("queue", "cancel", str(again[0]["id"]))[0] == 1, "it has ended"
    for arguments in (
        ["queue", "list", "--state", "done"], ["queue", "submit", sha256, "--to", "gpu-3"], ["queue", "list"], ["queue", "work"],
        ["queue", "submit", sha256, "--to", "gpu-3"], ["queue", "retry", "1"],
    ):  # fmt: skip
        capsys.readouterr()
        assert run(arguments) == 0
        out = capsys.readouterr().out
        assert sha256[:12] in out or "has it already" in out, arguments


def test_what_failed_is_bad_news_and_can_be_retried(field: Field, command: Command) -> None:
    sha256 = field.put("gpu-1", noise(1000, 2))
    field.refresh()
    command("queue", "submit", sha256, "--to", "gpu-2")
    hosts = field.root / "hosts.yaml"
    whole = hosts.read_text()
    hosts.write_text("\n".join(line for line in whole.splitlines() if "gpu-2:" not in line))
    code, (report,) = command("queue", "work")
    assert (code, [(row["state"], row["cause"]) for row in report["rows"]]) == (1, [("FAILED", "no_such_target")])
    code, listed = command("queue", "list", "--state", "failed")
    assert (code, "hosts file" in listed["operations"][0]["next_action"]) == (1, True)
    hosts.write_text(whole)
    assert command("queue", "retry", "--failed")[0] == 0
    code, (report,) = command("queue", "work")
    assert (code, [(row["state"], row["cause"], row["detail"]) for row in report["rows"]]) == (0, [("DONE", None, None)])
    assert sha256 in field.held("gpu-2").values()


def test_a_host_that_does_not_answer_is_bad_news(field: Field, command: Command) -> None:
    sha256 = field.put("gpu-1", noise(1000, 3))
    field.refresh()
    command("queue", "submit", sha256, "--to", "gpu-2")
    field.agents["gpu-2"].kill()
    code, (report,) = command("queue", "work", "--seconds", "3")
    assert (code, report["silent"] is not None, {row["cause"] for row in report["rows"]} <= {"agent_silent"}) == (1, True, True)
    (waiting,) = command("queue", "list")[1]["operations"]
    assert waiting["state"] in ("QUEUED", "WAITING")


def test_rules_become_operations(field: Field, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = field.put("gpu-1", noise(1000, 4))
    field.refresh()
    code, planned = command("replication", "plan")
    assert (code, planned["operations"], sorted(each["target"] for each in planned["wanted"])) == (0, [], ["gpu-2", "gpu-3"])
    code, rule = command(
        "replication", "want", "job-7", "--item", sha256, "--host", "gpu-3", "--priority", "critical", "--kind", "preload",
        "--hours", "2",
    )  # fmt: skip
    assert (code, rule["sha256"], rule["hosts"], rule["expires_at"] - rule["created_at"]) == (0, sha256, ["gpu-3"], 7200.0)
    code, rules = command("replication", "rules")
    assert (code, [each["name"] for each in rules]) == (0, ["job-7", "standing-copies"])
    code, planned = command("replication", "plan", "--submit")
    assert [(each["target"], each["priority"]) for each in planned["wanted"]] == [("gpu-3", "CRITICAL"), ("gpu-2", "LOW")]
    assert (code, len(planned["operations"])) == (0, 2)
    assert command("replication", "plan")[1]["wanted"] == []
    assert command("queue", "work")[0] == 0
    assert all(sha256 in field.held(host).values() for host in HOSTS)
    code, planned = command("replication", "plan")
    assert (code, planned["wanted"], planned["lacking"]) == (0, [], {})
    for arguments in (["replication", "rules"], ["replication", "plan"], ["replication", "pins"]):
        capsys.readouterr()
        assert run(arguments) == 0
        assert capsys.readouterr().out.strip()
    assert command("replication", "unwant", "job-7") == (0, {"rule": "job-7"})
    assert command("replication", "unwant", "job-7")[0] == 1


def test_what_no_place_takes_is_bad_news(field: Field, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = field.put("gpu-2", noise(1000, 5))
    field.refresh()
    full = sa.update(locations).where(locations.c.kind == "host").values(disk_total=100, disk_free=5)
    with Store.open(default_url(Home.from_env())) as store, store.writing() as writer:
        writer.connection.execute(full)
    code, planned = command("replication", "plan")
    assert (code, planned["wanted"], [each["sha256"] for each in planned["unmet"]]) == (1, [], [sha256])
    assert run(["replication", "plan"]) == 1
    assert "has no room" in capsys.readouterr().out


def test_a_copy_is_removed_only_if_it_is_safe(
    field: Field, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = noise(1000, 6)
    for host in HOSTS:
        sha256 = field.put(host, data)
    field.refresh()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert command("replication", "drop", sha256, "--at", "gpu-2")[0] == 1
    code, pin = command("replication", "pin", sha256, "--owner", "ada", "--reason", "for the paper")
    assert (code, pin["sha256"], pin["owner"], pin["expires_at"]) == (0, sha256, "ada", None)
    assert [each["reason"] for each in command("replication", "pins")[1]] == ["for the paper"]
    code, answer = command("replication", "drop", sha256, "--at", "gpu-2", "--yes")
    assert (code, answer["code"], answer["detail"]) == (1, "pinned", "ada: for the paper")
    assert command("replication", "unpin", sha256, "--owner", "bob")[0] == 1
    assert command("replication", "unpin", sha256, "--owner", "ada") == (0, {"sha256": sha256, "owner": "ada"})
    code, answer = command("replication", "drop", sha256, "--at", "gpu-2", "--yes", "--why", "no room")
    assert (code, answer["removed"]["paths"]) == (0, [MODEL])
    assert [proof["location"] for proof in answer["removed"]["proofs"]] == ["gpu-1", "gpu-3"]
    assert not (field.root / "gpu-2" / MODEL).exists()
    capsys.readouterr()
    assert run(["replication", "drop", sha256, "--at", "gpu-1", "--yes"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "too_few_copies" in line
    assert (field.root / "gpu-1" / MODEL).exists()


def test_room_is_made_where_it_is_too_full(
    field: Field, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = field.root / "hosts.yaml"
    hosts.write_text("sync_routing: {replication_target: 2}\n" + hosts.read_text())
    for host in HOSTS:
        sha256 = field.put(host, noise(1000, 7))
    field.refresh()
    assert command("replication", "clean") == (0, [])
    full = sa.update(locations).where(locations.c.name == "gpu-2").values(disk_total=10_000, disk_free=100)
    with Store.open(default_url(Home.from_env())) as store, store.writing() as writer:
        writer.connection.execute(full)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert command("replication", "clean") == (1, [])
    assert command("replication", "clean", "--location", "gpu-1") == (0, [])
    code, (cleaned,) = command("replication", "clean", "--yes")
    assert (code, cleaned["location"], cleaned["freed"], [each["sha256"] for each in cleaned["removed"]]) == (
        1, "gpu-2", 1000, [sha256],
    )  # fmt: skip
    capsys.readouterr()
    assert run(["replication", "clean", "--yes"]) == 1
    assert "nothing was removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["queue", "list", "--state", "lost"], 2, "--state"),
        (["queue", "list", "--target", "mars"], 2, "no location 'mars'"),
        (["queue", "submit", "nothing", "--to", "home"], 2, "no host serves home"),
        (["queue", "submit", "nothing"], 2, "--to"),
        (["queue", "cancel"], 2, "ID"),
        (["queue", "cancel", "one"], 2, "one"),
        (["queue", "cancel", "7"], 1, "no operation 7"),
        (["queue", "cancel", "99999999999999999999"], 2, "99999999999999999999"),
        (["replication", "want", "ever", "--type", "NPZ", "--hours", "99999999"], 2, "--hours"),
        (["replication", "pin", "nothing", "--reason", "x", "--hours", "nan"], 2, "--hours"),
        (["queue", "retry", "7"], 1, "no operation 7"),
        (["queue", "retry"], 2, "--failed"),
        (["queue", "work", "--target", "mars"], 2, "no location 'mars'"),
        (["queue", "work", "--seconds", "0"], 2, "--seconds"),
        (["replication", "pin", "nothing", "--reason", "x"], 1, "manifest refresh"),
        (["replication", "unpin", "nothing"], 1, "manifest refresh"),
        (["replication", "want", "a b", "--type", "NPZ"], 2, "name"),
        (["replication", "want", "job"], 2, "a rule names an item"),
        (["replication", "want", "job", "--type", "NPZ", "--host", "mars"], 2, "no location 'mars'"),
        (["replication", "want", "standing-copies", "--type", "NPZ"], 2, "always stand"),
        (["replication", "unwant", "standing-copies"], 1, "no rule"),
        (["replication", "drop", "nothing", "--at", "mars"], 2, "no location 'mars'"),
        (["replication", "drop", "nothing", "--at", "home"], 1, "manifest refresh"),
        (["replication", "clean", "--location", "mars"], 2, "no location 'mars'"),
        (["replication", "plan", "--limit", "0"], 2, "--limit"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    home: Home, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ringrift-data: ") and said in line
