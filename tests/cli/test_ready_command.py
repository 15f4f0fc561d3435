"""`ready`: what a job would get, what is missing, what is being done about it; said by exit code as well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.plane import load_cluster
from ringrift_dagster.manifest.store import Store, default_url
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, Wanted
from ringrift_dagster.transfer.queue import submit
from tests.manifest.telling import digest_of, item, silent, tell

NPZ = "data/training/hex8_2p.npz"
HOSTS = """
hosts:
  gpu-1: {status: ready, ssh_host: 127.0.0.1, role: gpu_training_primary}
  gpu-2: {status: ready, ssh_host: 127.0.0.1, role: gpu_selfplay}
"""
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """The home's manifest, with two hosts that answer."""
    home.root.mkdir(parents=True)
    (home.root / "distributed_hosts.yaml").write_text(HOSTS)
    with Store.open(default_url(home)) as opened:
        register(opened, load_cluster(home).locations(), at=time.time())
        for host in ("gpu-1", "gpu-2"):
            tell(opened, host, at=time.time())
        yield opened


@pytest.fixture
def ask(store: Store, capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(*options: str) -> tuple[int, Any]:
        code = run(["ready", "--config", "hex8_2p", "--host", "gpu-1", "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return asked


def hold(store: Store, host: str, age: float = 3600.0) -> str:
    now = time.time()
    tell(store, host, [item(NPZ, "good", newest_game=now - age, samples=1000)], at=now, full=False)
    return digest_of("good")


def test_a_host_that_holds_the_best_fresh_set_is_ready(store: Store, ask: Ask) -> None:
    sha256 = hold(store, "gpu-1")
    code, told = ask()
    assert (code, told["ready"], told["item"]["sha256"], told["path"]) == (0, True, sha256, NPZ)


def test_what_is_missing_and_what_is_being_done_is_said(store: Store, ask: Ask) -> None:
    sha256 = hold(store, "gpu-2")
    number = submit(store, Wanted(Kind.PRELOAD, sha256, "gpu-1", Priority.CRITICAL, 4), at=time.time()).id
    code, told = ask()
    assert (code, told["ready"]) == (1, False)
    assert told["missing"] == [f"gpu-1 does not hold {sha256[:12]}, which lies at gpu-2"]
    assert [(each["operation"], each["what"], each["state"]) for each in told["doing"]] == [
        (number, "preload at CRITICAL", "QUEUED")
    ]


def test_old_data_is_not_good_enough_unless_somebody_said_so(store: Store, ask: Ask) -> None:
    hold(store, "gpu-1", age=100 * 3600.0)
    code, told = ask()
    assert code == 1
    assert "100.0 h old" in told["missing"][0]
    overrides.grant(store, "hex8_2p", who="Ada", why="a drill", hours=1, at=time.time() - 1)
    code, told = ask()
    assert (code, told["verdict"]["override"]["who"]) == (0, "Ada")


def test_a_host_that_does_not_answer_is_not_ready(store: Store, ask: Ask) -> None:
    hold(store, "gpu-1")
    hold(store, "gpu-2")
    now = time.time()
    silent(store, "gpu-1", at=now)
    silent(store, "gpu-1", at=now + 60)
    code, told = ask()
    assert code == 1
    assert any("gpu-1 does not answer" in line for line in told["missing"])


def test_it_is_said_to_a_person_in_a_few_lines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    hold(store, "gpu-2")
    assert run(["ready", "--config", "hex8_2p", "--host", "gpu-1"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("hex8_2p on gpu-1: NOT READY")
    assert "nothing is being done" in said


def test_an_unknown_host_is_wrong_usage(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ready", "--config", "hex8_2p", "--host", "nobody"]) == 2
    assert "names no host 'nobody'" in capsys.readouterr().err
