"""An agent proves what it holds and removes what it is told to, once, and only what may go."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.sources.tree import mark_location
from ringrift_dagster.transfer.agents import AgentClient, AgentRefused
from tests.agents import RunningAgent
from tests.node.conftest import NPZ

SHA256 = file_sha256(NPZ)
Agents = Callable[..., RunningAgent]


def told(agent: RunningAgent) -> list[str]:
    """What it says that it holds."""
    return [entry.path for entry in agent.source().read(None, 20.0).found]


def ask(agent: RunningAgent, what: str, body: Any) -> tuple[int, Any]:
    answer = urllib3.request("POST", f"{agent.url}/v1/{what}", json=body)
    return answer.status, answer.json()


@pytest.fixture
def client(tree: Path, agent: Agents) -> tuple[RunningAgent, AgentClient]:
    """An agent that has seen its tree, and a client of it."""
    running = agent(tree, "gpu-1")
    assert "data/training/square8_3p.npz" in told(running)
    return running, AgentClient(running.url, None, "gpu-1")


def test_a_proof_and_a_removal(client: tuple[RunningAgent, AgentClient]) -> None:
    running, agent = client
    before = time.time()
    proof = agent.prove(SHA256)
    assert proof.held and proof.verified_at is not None and proof.verified_at >= before - 1
    dropped = agent.drop("drop-1", SHA256, "tree")
    assert (dropped.dropped, dropped.paths) == (True, ("data/training/square8_3p.npz",))
    assert not (running.root / "data/training/square8_3p.npz").exists()
    assert not agent.prove(SHA256).held
    assert "data/training/square8_3p.npz" not in told(running)


def test_the_same_removal_again_removes_nothing_that_came_since(client: tuple[RunningAgent, AgentClient]) -> None:
    running, agent = client
    first = agent.drop("drop-1", SHA256, "tree")
    shutil.copy(NPZ, running.root / "data/training/square8_3p.npz")
    assert "data/training/square8_3p.npz" in told(running)
    assert agent.drop("drop-1", SHA256, "tree") == first
    assert (running.root / "data/training/square8_3p.npz").exists()
    with pytest.raises(AgentRefused) as refused:
        agent.drop("drop-1", "0" * 64, "tree")
    assert (refused.value.status, refused.value.code) == (409, "conflict")


def test_a_live_database_stays(client: tuple[RunningAgent, AgentClient]) -> None:
    running, agent = client
    (snapshot,) = [entry for entry in running.source().read(None, 20.0).found if entry.type == "GAME_DB"]
    assert agent.prove(snapshot.sha256).held
    with pytest.raises(AgentRefused) as refused:
        agent.drop("drop-1", snapshot.sha256, "tree")
    assert (refused.value.status, refused.value.code) == (409, "snapshot")
    assert (running.root / "data/games/selfplay_square8_2p.db").exists()


def test_a_proof_may_be_asked_of_one_root(tree: Path, tmp_path: Path, agent: Agents) -> None:
    drive = tmp_path / "drive"
    (drive / "canonical_data").mkdir(parents=True)
    shutil.copy(NPZ, drive / "canonical_data")
    mark_location(drive, "owc")
    (tree / "data/training/square8_3p.npz").unlink()
    running = agent(tree, "gpu-1", "--drive", f"owc={drive}")
    assert len(running.source("owc").read(None, 20.0).found) == 1
    assert ask(running, "proofs", {"sha256": SHA256})[1]["held"]
    assert ask(running, "proofs", {"sha256": SHA256, "root": "owc"})[1]["held"]
    assert not ask(running, "proofs", {"sha256": SHA256, "root": "tree"})[1]["held"]
    assert ask(running, "drops", {"id": "drop-1", "sha256": SHA256})[1] == {"dropped": False, "paths": []}
    assert ask(running, "drops", {"id": "drop-2", "sha256": SHA256, "root": "owc"})[1]["dropped"]
    shutil.rmtree(drive)
    status, answer = ask(running, "proofs", {"sha256": SHA256})
    assert (status, answer["error"]) == (503, "not_mounted"), "that a drive is not mounted proves nothing"


@pytest.mark.parametrize(
    ("what", "body", "status", "code"),
    [
        ("proofs", {"sha256": "../etc/passwd"}, 400, "bad_request"),
        ("proofs", {"sha256": SHA256, "path": "/"}, 400, "bad_request"),
        ("proofs", {"sha256": SHA256, "root": "nfs"}, 404, "unknown_root"),
        ("drops", {"sha256": SHA256}, 400, "bad_request"),
        ("drops", {"id": "drop 1", "sha256": SHA256}, 400, "bad_request"),
        ("drops", {"id": "drop-1", "sha256": SHA256, "root": "nfs"}, 404, "unknown_root"),
        ("drops", {"id": "drop-1" * 20_000, "sha256": SHA256}, 413, "too_large"),
    ],
)
def test_bad_requests_remove_nothing(tree: Path, agent: Agents, what: str, body: Any, status: int, code: str) -> None:
    running = agent(tree, "gpu-1")
    told(running)
    answered, answer = ask(running, what, body)
    assert (answered, answer["error"]) == (status, code)
    assert (tree / "data/training/square8_3p.npz").exists()


def test_nothing_is_removed_for_who_has_no_token(tree: Path, agent: Agents) -> None:
    running = agent(tree, "gpu-1", token="secret")
    assert ask(running, "drops", {"id": "drop-1", "sha256": SHA256})[0] == 401
    assert (tree / "data/training/square8_3p.npz").exists()
