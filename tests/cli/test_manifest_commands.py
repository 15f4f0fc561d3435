"""The commands on the manifest: tables, JSON, exit codes and one-line errors, on a real home, agent and manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.cli.services import free_port
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from tests.agents import running_agent
from tests.conftest import DATA

NPZ = DATA / "damaged" / "base_ok.npz"
HOSTS = """
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
    for _ in range(50):
        _, told = command("manifest", "refresh")
        if all(row["answered"] and not row["pending"] for row in told["locations"]):
            _, found = command("manifest", "locations")
            if not any(str(place["epoch"]).endswith("-first") for place in found["locations"]):
                return
    raise AssertionError(told)


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

    code, found = command("freshness", "--max-age", "1000000")
    assert (code, [(row["location"], row["config"], row["fresh"]) for row in found["hosts"]]) == (
        0,
        [("gpu-1", "square8_3p", True)],
    )
    code, found = command("freshness", "--max-age", "0.001")
    assert (code, "more than" in found["hosts"][0]["why"]) == (1, True)

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
    ):  # fmt: skip
        run(arguments)
        out = capsys.readouterr().out
        assert out.strip() and "Traceback" not in out, arguments


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
    code, _ = command("where", "square8_3p.npz")
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["where", "nothing"], 1, "manifest refresh"),
        (["manifest", "query", "--config", "hex9_2p"], 2, "--config"),
        (["manifest", "missing", "--at", "mars"], 2, "no location 'mars'"),
        (["manifest", "publish"], 2, "sync_routing.s3"),
        (["manifest", "accept", "mars"], 2, "no location"),
        (["manifest", "refresh", "--hosts-file", "/nowhere.yaml"], 2, "/nowhere.yaml"),
        (["freshness", "--max-age", "0"], 2, "--max-age"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    home: Home, arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ringrift-data: ") and said in line


def test_a_broken_hosts_file_names_every_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "hosts.yaml"
    broken.write_text("hosts:\n  a: {ssh_port: many}\n  b: {data_server_port: 0}\n")
    assert run(["manifest", "refresh", "--hosts-file", str(broken)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [f"hosts.yaml:{number}:" in line for number, line in zip((2, 3), lines, strict=True)] == [True, True]


def test_a_manifest_that_cannot_be_opened_is_unreadable(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RINGRIFT_MANIFEST_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert run(["manifest", "locations"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "RINGRIFT_MANIFEST_URL" in line
