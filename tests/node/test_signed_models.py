"""An agent with a verifying key gives names only by a manifest that was signed, and says what it refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import urllib3

from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.model import Event, EventType, ModelPromoted
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import Plane, open_plane
from ringrift_dagster.manifest.refresh import refresh
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.models.manifest import PATH, Current, ModelManifest, SignedManifest, note, note_signed
from ringrift_dagster.models.publishing.names import model_names
from ringrift_dagster.models.publishing.published_set import Signer
from ringrift_dagster.models.publishing.signature import VERIFYING_KEY, signer, verifier
from ringrift_dagster.node.model_names import ModelNames
from ringrift_dagster.transfer import rules
from ringrift_dagster.transfer.promoted import Lag, lags
from tests.agents import RunningAgent, start
from tests.models.making import model_file
from tests.models.publishing.test_signature import keys

CONFIG = "square8_2p"
NAMES = model_names(CONFIG)
SECONDS = 60.0


@pytest.fixture
def sign(tmp_path: Path) -> Signer:
    return signer(keys(tmp_path, "ours")[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty RingRift tree."""
    (tmp_path / "tree" / "models").mkdir(parents=True)
    return tmp_path / "tree"


def arrived(root: Path, seed: int) -> str:
    """A model that has come to a tree; its hash."""
    return file_sha256(model_file(root / "models" / f"square8_2p_{seed}.pth", CONFIG, seed))


def manifest(sign: Signer, sha256: str, at: float) -> SignedManifest:
    content = ModelManifest(models={CONFIG: Current(sha256=sha256, promoted_at=at)}).dump()
    return SignedManifest(content, sign(content))


def named(root: Path) -> dict[str, str]:
    return {name: file_sha256(path) for name in NAMES if (path := root / "models" / name).exists()}


def test_names_stay_as_they_are_while_the_manifest_is_not_signed(root: Path, sign: Signer, tmp_path: Path) -> None:
    first, second = arrived(root, 1), arrived(root, 2)
    verify = verifier(tmp_path / "ours.pub")
    tree = TreeInventory("gpu-1", root, NODE, tmp_path / "state")
    tree.scan()
    names = ModelNames(tree, verify)
    note(root, CONFIG, Current(sha256=first, promoted_at=1.0))
    assert names.look()
    assert named(root) == {}
    assert names.health()["findings"][0].startswith("no_signature: ")
    note_signed(root, manifest(sign, first, 1.0), verify)
    assert names.look(), "the signature is new"
    assert named(root) == dict.fromkeys(NAMES, first)
    assert names.health() == {"signatures": True, "findings": []}
    note(root, CONFIG, Current(sha256=second, promoted_at=2.0))
    assert names.look()
    assert named(root) == dict.fromkeys(NAMES, first)
    assert names.health()["findings"][0].startswith("bad_signature: ")
    assert b'ringrift_node_model_names_wrong{reason="bad_signature"} 1.0' in names._metrics.text()


@pytest.fixture
def agent(root: Path, sign: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningAgent]:
    """An agent with the key, which looks at its models all the time."""
    monkeypatch.setenv(VERIFYING_KEY, str(tmp_path / "ours.pub"))
    process = start(root, "gpu-1", interval=0.2)
    with process:
        assert process.stdout is not None
        yield RunningAgent("gpu-1", root, process.stdout.readline().split()[1], process, None)
        process.terminate()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """The coordinator's, of a cluster with one host."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text("hosts:\n  gpu-1: {ssh_host: 10.0.0.1, ringrift_path: /opt/ringrift}\n")
    with open_plane(home) as opened:
        yield opened


def tell(agent: RunningAgent, sha256: str, signed: SignedManifest | None) -> None:
    """Deliver a promotion as the coordinator does."""
    payload = ModelPromoted(
        config=CONFIG,
        host="home",
        sha256=sha256,
        manifest=signed and signed.content.decode(),
        signature=signed and signed.signature.hex(),
    )
    event = Event(id=new_id(), type=EventType.MODEL_PROMOTED, host="home", at=time.time(), payload=payload)
    body = orjson.dumps({"host": "gpu-1", "events": [orjson.loads(event.dump())]})
    assert urllib3.request("POST", f"{agent.url}/v1/deliveries", body=body).status == 200


def health(agent: RunningAgent) -> dict[str, Any]:
    return urllib3.request("GET", f"{agent.url}/v1/health").json()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


def test_an_agent_refuses_promotions_without_a_valid_signature_and_says_so(
    agent: RunningAgent, root: Path, sign: Signer, tmp_path: Path, plane: Plane
) -> None:
    first, second = arrived(root, 1), arrived(root, 2)
    rules.put(plane.store, rules.promoted_model(CONFIG, second, at=2.0))
    good = manifest(sign, first, 1.0)
    tell(agent, first, good)
    assert eventually(lambda: named(root) == dict.fromkeys(NAMES, first))
    other = signer(keys(tmp_path, "other")[0])
    for signed, reason in (
        (None, "no_signature"),
        (manifest(other, second, 2.0), "bad_signature"),
        (SignedManifest(manifest(sign, second, 2.0).content, good.signature), "bad_signature"),
    ):
        tell(agent, second, signed)
        assert any(reason in failure for failure in health(agent)["events"]["failures"])
        assert (root / PATH).read_bytes() == good.content
    metrics = urllib3.request("GET", f"{agent.url}/metrics").data
    assert b'ringrift_node_promotions_refused_total{reason="bad_signature"} 2.0' in metrics
    assert b'ringrift_node_promotions_refused_total{reason="no_signature"} 1.0' in metrics
    assert named(root) == dict.fromkeys(NAMES, first)
    refresh(plane.store, [agent.source()])
    assert lags(plane) == [Lag("gpu-1", CONFIG, second, 2.0, held=True)]
    tell(agent, second, manifest(sign, second, 2.0))
    assert health(agent)["events"]["failures"] == []
    assert eventually(lambda: named(root) == dict.fromkeys(NAMES, second))
    refresh(plane.store, [agent.source()])
    assert lags(plane) == []
    assert health(agent)["models"] == {"signatures": True, "findings": []}


def test_an_agent_whose_key_is_of_no_use_does_not_start(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERIFYING_KEY, str(tmp_path / "nowhere.pub"))
    command = [
        sys.executable,
        "-m",
        "ringrift_dagster.cli.main",
        "node",
        "serve",
        "--root",
        str(root),
        "--name",
        "gpu-1",
        "--port",
        "0",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"ringrift-data: {VERIFYING_KEY}: no_key: ")
