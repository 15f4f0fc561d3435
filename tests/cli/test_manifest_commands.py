"""The commands on the manifest: tables, JSON, exit codes and one-line errors, on a real home, agent and manifest."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.cli.services import free_port
from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store, default_url
from ringrift_dagster.transfer import rules
from tests.agents import running_agent
from tests.conftest import DATA
from tests.manifest.telling import tell
from tests.s3_servers import KEY, SECRET, new_bucket, rclone_server

NPZ = DATA / "damaged" / "base_ok.npz"
STRICT = "freshness: {warn_hours: 0.001, fail_hours: 0.001}\n"
"""A limit that no recorded game keeps, whenever the tests run."""
HOSTS = """
freshness: {{warn_hours: 0.001, fail_hours: 0.001}}
hosts:
  gpu-1: {{data_server_url: "{url}", provider: lambda, role: gpu_training_primary, ringrift_path: {root}}}
"""

Command = Callable[..., tuple[int, Any]]


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
def cluster(home: Home, tmp_path: Path) -> Iterator[Path]:
    """One host with an agent, holding a training set; returns its root."""
    root = tmp_path / "gpu-1"
    (root / "data/training").mkdir(parents=True)
    shutil.copy(NPZ, root / "data/training/square8_3p.npz")
    home.root.mkdir()
    with running_agent(root, "gpu-1") as agent:
        (home.root / "distributed_hosts.yaml").write_text(HOSTS.format(url=agent.url, root=root))
        yield root


def settled(command: Command) -> None:
    """Refresh until the agent has told everything."""
    told = None
    for _ in range(50):
        _, told = command("manifest", "refresh")
        if all(row["answered"] and not row["pending"] for row in told["locations"]):
            _, found = command("manifest", "locations")
            if not any(str(place["epoch"]).endswith("-first") for place in found["locations"]):
                return
    raise AssertionError(told)


def excused(command: Command, config: str) -> None:
    """A person lets the config train on old games."""
    signed = ("--who", "a tester", "--why", "recorded games are old", "--hours", "1")
    assert command("freshness", "override", "--config", config, *signed)[0] == 0


def test_from_a_refresh_to_every_answer(cluster: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    settled(command)
    sha256 = file_sha256(NPZ)
    code, found = command("where", "square8_3p.npz", "--for", "gpu-1")
    assert code == 0
    assert (found["item"]["sha256"], found["item"]["config"], found["item"]["soundness"]) == (sha256, "square8_3p", "SOUND")
    assert [(copy["location"], copy["state"]) for copy in found["copies"]] == [("gpu-1", "AVAILABLE")]
    assert [source["why"] for source in found["sources"]] == ["already there"]

    code, found = command("manifest", "query", "--config", "square8_3p", "--min-samples", "100")
    assert (code, [item["sha256"] for item in found]) == (0, [sha256])
    assert command("manifest", "query", "--config", "square8_3p", "--min-samples", "10000") == (1, [])

    code, found = command("freshness")
    assert (code, [(row["location"], row["config"], row["reason"]) for row in found["hosts"]]) == (
        1,
        [("gpu-1", "square8_3p", "too_old")],
    )
    assert "more than 0.001 h" in found["hosts"][0]["why"]
    excused(command, "square8_3p")
    code, found = command("freshness")
    assert (code, [(row["fresh"], row["may_train"]) for row in found["hosts"]]) == (0, [(False, True)])

    code, found = command("manifest", "danger")
    assert (code, [item["copies"] for item in found]) == (1, [1])
    assert command("manifest", "danger", "--target", "1") == (0, [])
    code, found = command("orphans")
    assert (code, found["orphans"], [rescue["source"] for rescue in found["replicate"]]) == (0, [], ["gpu-1"])
    code, found = command("manifest", "missing", "--at", "home")
    assert (code, [item["sha256"] for item in found]) == (1, [sha256])
    code, found = command("manifest", "changes")
    assert (code, {"HOST_ONLINE", "REPLICAS_CHANGED"} <= {change["kind"] for change in found}) == (0, True)
    assert command("manifest", "changes", "--since", str(found[-1]["id"])) == (0, [])
    code, found = command("manifest", "scrub")
    assert (code, {report["location"] for report in found}) == (0, {"gpu-1", "home"})
    assert command("manifest", "accept", "gpu-1", "--yes") == (0, {"location": "gpu-1", "lost": 0})

    for arguments in (
        ["where", sha256[:10]], ["manifest", "locations"], ["freshness", "--all"], ["orphans"], ["manifest", "refresh"],
        ["manifest", "changes"], ["manifest", "untracked"], ["manifest", "query", "--config", "square8_3p"],
        ["manifest", "danger"], ["manifest", "missing", "--at", "home"], ["manifest", "scrub"], ["manifest", "accept", "gpu-1"],
    ):  # fmt: skip
        run(arguments)
        out = capsys.readouterr().out
        assert out.strip() and "Traceback" not in out, arguments
        assert any(word in out for word in ("gpu-1", sha256[:12], "every file that was found is an item")), arguments


def test_a_dead_host_is_bad_news_and_an_orphan(
    home: Home, cluster: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(command)
    hosts = home.root / "distributed_hosts.yaml"
    hosts.write_text(HOSTS.format(url=f"http://127.0.0.1:{free_port()}", root=cluster))
    monkeypatch.setattr("ringrift_dagster.manifest.liveness.OFFLINE_SECONDS", 0.0)
    code, told = command("manifest", "refresh")
    assert code == 1
    assert {row["location"]: row["code"] for row in told["locations"]} == {"gpu-1": "refused", "home": None}
    code, found = command("orphans")
    assert (code, [(orphan["kind"], orphan["location"]) for orphan in found["orphans"]]) == (1, [("stranded", "gpu-1")])
    assert command("where", file_sha256(NPZ))[0] == 1
    assert command("manifest", "locations")[0] == 1


def test_what_a_brake_holds_is_bad_news_until_a_person_accepts_it(
    home: Home, cluster: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = cluster / "data/training/second.npz"
    second.write_bytes(NPZ.read_bytes() + b" ")
    settled(command)
    second.unlink()
    (cluster / "data/training/square8_3p.npz").unlink()

    code, told = command("manifest", "refresh")
    assert (code, {row["location"]: row["held"] for row in told["locations"]}) == (1, {"gpu-1": 2, "home": 0})
    code, found = command("orphans")
    assert (code, [each["kind"] for each in found["orphans"]], found["held"]) == (1, ["stranded"] * 2, {"gpu-1": 2})
    assert run(["orphans"]) == 1
    out = capsys.readouterr().out
    assert "manifest accept gpu-1" in out and "every item can be reached" not in out
    code, found = command("freshness")
    assert (code, found["hosts"]) == (1, []), "that no host has a training set any more is not fresh"

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert command("manifest", "accept", "gpu-1") == (1, {"location": "gpu-1", "lost": 0})
    assert command("orphans")[1]["held"] == {"gpu-1": 2}
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert command("manifest", "accept", "gpu-1") == (0, {"location": "gpu-1", "lost": 2})
    code, found = command("orphans")
    assert (code, found["held"]) == (1, {})
    assert (file_sha256(NPZ), "lost") in [(orphan["sha256"], orphan["kind"]) for orphan in found["orphans"]]


def test_old_canonical_games_are_stale_whatever_hosts_hold(
    home: Home, recorded: Callable[[str], Path], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    (home.root / "distributed_hosts.yaml").write_text(STRICT + "hosts: {}\n")
    code, found = command("freshness")
    assert (code, [(row["config"], row["state"]) for row in found["canonical_games"]]) == (1, [("square8_4p", "stale")])
    code, found = command("freshness", "--config", "hex8_2p")
    assert (code, found["hosts"], found["canonical_games"]) == (0, [], [])
    capsys.readouterr()
    assert run(["freshness"]) == 1
    assert "stale" in capsys.readouterr().out
    excused(command, "square8_4p")
    code, found = command("freshness")
    row = found["canonical_games"][0]
    assert (code, row["state"], row["may_train"], row["override"]["who"]) == (0, "stale", True, "a tester")
    assert run(["freshness"]) == 0
    assert "by a tester" in capsys.readouterr().out


def test_a_host_without_the_current_model_is_behind(cluster: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    settled(command)
    excused(command, "square8_3p")
    assert (command("freshness")[0], command("freshness")[1]["older_models"]) == (0, [])
    with Store.open(default_url(Home.from_env())) as store:
        rules.put(store, rules.promoted_model("hex8_2p", "a" * 64, at=5.0))
    code, found = command("freshness")
    assert (code, [(lag["host"], lag["config"], lag["sha256"], lag["held"]) for lag in found["older_models"]]) == (
        1,
        [("gpu-1", "hex8_2p", "a" * 64, False)],
    )
    capsys.readouterr()
    assert run(["freshness"]) == 1
    assert "a" * 12 in capsys.readouterr().out
    assert command("freshness", "--config", "square8_3p")[1]["older_models"] == []


def test_a_config_that_is_asked_for_by_name_should_be_there(cluster: Path, command: Command) -> None:
    settled(command)
    code, found = command("freshness", "--config", "hex8_2p")
    assert (code, [(row["location"], row["config"], row["why"]) for row in found["hosts"]]) == (
        1,
        [("gpu-1", "hex8_2p", "it has no training set")],
    )


def test_hosts_that_nobody_declared_are_listed_below(
    home: Home, cluster: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("manifest", "locations")
    with Store.open(default_url(home)) as store:
        tell(store, "gpu-1", at=time.time(), strangers=["gpu-9"])
    _, found = command("manifest", "locations")
    assert [(host["name"], host["seen_at_location"]) for host in found["unknown_hosts"]] == [("gpu-9", "gpu-1")]
    run(["manifest", "locations"])
    assert "gpu-9" in capsys.readouterr().out


def test_a_bucket_is_told_what_it_holds(
    home: Home, cluster: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with rclone_server(tmp_path / "rclone") as endpoint:
        bucket = new_bucket(endpoint)
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        hosts = home.root / "distributed_hosts.yaml"
        hosts.write_text(
            f"{hosts.read_text()}sync_routing: {{s3: {{enabled: true, bucket: {bucket.bucket}, region: us-east-1}}}}\n"
        )
        settled(command)
        code, found = command("manifest", "missing", "--at", bucket.bucket)
        assert (code, [item["sha256"] for item in found]) == (1, [file_sha256(NPZ)])

        key = "consolidated/training/square8_3p.npz"
        bucket.put(key, NPZ.read_bytes(), {"sha256": file_sha256(NPZ)})
        command("manifest", "refresh")
        assert command("manifest", "missing", "--at", bucket.bucket) == (0, [])
        assert command("manifest", "publish") == (0, {"written": 1, "dangling": [], "changed": True})
        assert command("manifest", "publish") == (0, {"written": 1, "dangling": [], "changed": False})
        bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
        assert command("manifest", "publish") == (1, {"written": 0, "dangling": [key], "changed": True})
        capsys.readouterr()
        assert run(["manifest", "publish"]) == 1
        assert key in capsys.readouterr().out


def test_untracked_files_say_why(cluster: Path, command: Command) -> None:
    (cluster / "data/training/empty.npz").touch()
    settled(command)
    code, found = command("manifest", "untracked", "--location", "gpu-1")
    assert (code, [(file["path"], file["reason"]) for file in found]) == (0, [("data/training/empty.npz", "empty")])


def test_one_name_of_two_contents_asks_for_a_hash(cluster: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    other = cluster / "data/training/old"
    other.mkdir()
    (other / "square8_3p.npz").write_bytes(NPZ.read_bytes() + b" ")
    settled(command)
    capsys.readouterr()
    assert run(["where", "square8_3p.npz"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(file_sha256(path)[:12] in line for path in (NPZ, other / "square8_3p.npz")) and "hash" in line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["where", "nothing"], 1, "manifest refresh"),
        (["where", "nothing", "--for", "mars"], 2, "no location 'mars'"),
        (["orphans", "--limit", "-1"], 2, "--limit"),
        (["manifest", "untracked", "--location", "mars"], 2, "no location 'mars'"),
        (["manifest", "danger", "--target", "0"], 2, "--target"),
        (["manifest", "changes", "--since", "-1"], 2, "--since"),
        (["manifest", "changes", "--since", "99999999999999999999"], 2, "--since"),
        (["freshness", "--json", "overrides"], 2, "behind `overrides`"),
        (["manifest", "scrub", "--daily-gib", "0"], 2, "--daily-gib"),
        (["manifest", "query", "--config", "hex9_2p"], 2, "--config"),
        (["manifest", "missing", "--at", "mars"], 2, "no location 'mars'"),
        (["manifest", "publish"], 2, "sync_routing.s3"),
        (["manifest", "accept", "mars"], 2, "no location"),
        (["manifest", "refresh", "--hosts-file", "/nowhere.yaml"], 2, "/nowhere.yaml"),
        (["freshness", "--max-age", "1000"], 2, "--max-age"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    home: Home, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ringrift-data: ") and said in line


def test_an_unknown_item_is_an_answer_in_json_too(home: Home, command: Command) -> None:
    assert command("where", "nothing") == (1, {"item": None, "copies": []})


def test_a_broken_hosts_file_names_every_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "hosts.yaml"
    broken.write_text("hosts:\n  a: {ssh_port: many}\n  b: {data_server_port: 0}\n")
    assert run(["manifest", "refresh", "--hosts-file", str(broken)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [f"hosts.yaml:{number}:" in line for number, line in zip((2, 3), lines, strict=True)] == [True, True]


def test_a_manifest_that_cannot_be_opened_is_unreadable(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("postgresql://nobody@127.0.0.1:1/none", "postgresql://nobody:secret@here:noport/none"):
        monkeypatch.setenv("RINGRIFT_MANIFEST_URL", url)
        assert run(["manifest", "locations"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "RINGRIFT_MANIFEST_URL" in line and "secret" not in line


def test_a_manifest_that_fails_in_the_middle_is_one_line(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    with Store.open(url) as store, store.writing() as writer:
        writer.connection.exec_driver_sql("DROP TABLE rules")
    monkeypatch.setenv("RINGRIFT_MANIFEST_URL", url)
    capsys.readouterr()
    assert run(["replication", "rules"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer" in line and "rules" in line


def test_a_bucket_that_cannot_be_set_up_keeps_nobody_from_an_answer(
    home: Home, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text("sync_routing: {s3: {bucket: some-bucket}}\nhosts: {}\n")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    code, told = command("manifest", "refresh")
    assert code == 1
    assert {row["location"]: row["code"] for row in told["locations"]} == {"some-bucket": "unreachable", "home": None}
    assert command("manifest", "danger") == (0, [])
