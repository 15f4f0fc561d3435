"""The agent's roots: one that hangs or fails stops no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_dagster.manifest.sources.tree import TreeInventory, mark_location
from ringrift_dagster.node import roots
from ringrift_dagster.node.agent import Agent, AgentConfig


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The location `nfs` hangs until the event is set."""
    released = threading.Event()
    really = TreeInventory.check

    def check(self: TreeInventory) -> None:
        if self.location == "nfs":
            released.wait(30)
        really(self)

    monkeypatch.setattr(TreeInventory, "check", check)
    monkeypatch.setattr(roots, "CHECK_SECONDS", 0.2)
    yield released
    released.set()


def test_a_mount_that_hangs_is_found_out_once(tmp_path: Path, stuck: threading.Event) -> None:
    (tmp_path / "tree/models").mkdir(parents=True)
    (tmp_path / "tree/models/hex8_2p.onnx").write_bytes(b"model")
    (tmp_path / "nfs").mkdir()
    mark_location(tmp_path / "nfs", "nfs")
    with Agent(AgentConfig("gpu-1", tmp_path / "tree", interval=0.1, drives={"nfs": tmp_path / "nfs"})) as agent:
        nfs, tree = agent.roots["nfs"], agent.roots["tree"]
        began = time.monotonic()
        refusals = [nfs.check() for _ in range(3)]
        assert [refused.code for refused in refusals if refused] == ["timeout"] * 3
        assert time.monotonic() - began < 15
        before = threading.active_count()
        for _ in range(10):
            nfs.check()
        assert threading.active_count() <= before
        tree.refresh(0, 10)
        assert tree.check() is None
        assert len(tree.tree.inventory(None).found) == 1
        assert nfs.age() is None
        stuck.set()
        nfs.refresh(0, 10)
        assert nfs.check() is None
        assert nfs.failure is None


def test_a_refresh_waits_for_a_pass_that_began_after_it(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with Agent(AgentConfig("gpu-1", tmp_path, interval=1000.0)) as agent:
        tree = agent.roots["tree"]
        for number in range(5):
            (tmp_path / f"models/m{number}_hex8_2p.onnx").write_bytes(b"%d" % number)
            tree.refresh(0, 10)
            assert len(tree.tree.inventory(None).found) == number + 1
        scans = agent.metrics.text().decode()
        assert 'ringrift_node_scans_total{root="tree"} ' in scans
        count = scans.split('ringrift_node_scans_total{root="tree"} ')[1].split()[0]
        tree.refresh(1000, 10)
        assert f'ringrift_node_scans_total{{root="tree"}} {count}' in agent.metrics.text().decode()


def test_a_scan_that_fails_unexpectedly_is_a_failure_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really: Callable[..., object] = TreeInventory.scan
    broken = True

    def scan(self: TreeInventory, timeout: float | None = None) -> object:
        if broken:
            raise RuntimeError("unexpected")
        return really(self, timeout)

    monkeypatch.setattr(TreeInventory, "scan", scan)
    with Agent(AgentConfig("gpu-1", tmp_path, interval=1000.0)) as agent:
        tree = agent.roots["tree"]
        tree.refresh(0, 10)
        assert tree.failure is not None
        assert (tree.failure.code, tree.failure.detail) == ("disk_error", "RuntimeError: unexpected")
        broken = False
        tree.refresh(0, 10)
        assert tree.failure is None
