"""`events emit|tail|dead`: tables, JSON, exit codes and one-line errors, on a real agent and its inbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.cli.services import free_port
from ringrift_dagster.events import inbox
from ringrift_dagster.events.adapters import TYPES
from ringrift_dagster.events.model import EventType
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store, default_url
from tests.agents import RunningAgent, running_agent

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `events …` with --json; returns its exit code and what it printed."""

    def execute(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run(["events", *arguments, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return execute


@pytest.fixture
def agent(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningAgent]:
    """The coordinator's own agent, that the environment names."""
    home.root.mkdir()
    with running_agent(home.root / "tree", "coordinator", "--home", str(home.root)) as started:
        monkeypatch.setenv("RINGRIFT_AGENT_URL", started.url)
        yield started


def arrived(command: Command, count: int, *options: str) -> list[Any]:
    until = time.monotonic() + 60
    found: list[Any] = []
    while len(found) < count and time.monotonic() < until:
        _, found = command("tail", *options)
        time.sleep(0.05)
    return found


def test_an_event_from_the_command_line_to_the_inbox(
    agent: RunningAgent, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ("--field", "job_id=j-7", "--field", "total_epochs=50", "--field", 'metadata={"model_version": "v3"}')
    code, told = command("emit", "training_started", "--config", "sq8_2p", "--host", "gpu-1", *fields)
    assert (code, told["accepted"]) == (0, True)
    (event,) = arrived(command, 1)
    assert (event["id"], event["type"], event["host"], event["sequence"]) == (told["id"], "TRAINING_STARTED", "coordinator", 1)
    assert event["payload"] == {
        "config": "square8_2p", "host": "gpu-1", "job": "j-7", "model": "v3", "other": {"total_epochs": 50},
    }  # fmt: skip
    assert command("tail", "--type", "HOST_ONLINE") == (0, [])
    assert [each["number"] for each in command("tail", "--type", "training_started", "--since", "0")[1]] == [event["number"]]
    assert command("tail", "--since", str(event["number"])) == (0, [])
    assert run(["events", "emit", "HOST_ONLINE", "--host", "gpu-2"]) == 0
    arrived(command, 2)
    capsys.readouterr()
    assert run(["events", "tail"]) == 0
    out = capsys.readouterr().out
    assert "TRAINING_STARTED" in out and "square8_2p" in out and "job j-7" in out
    assert run(["events", "dead"]) == 0
    assert "everything that was told was understood" in capsys.readouterr().out


def test_what_is_not_understood_is_bad_news_and_can_be_read_again(
    agent: RunningAgent, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told = command("emit", "MOON_LANDED", "--host", "gpu-1")
    assert (code, told["accepted"], told["reason"]) == (1, False, "unknown_type")
    until = time.monotonic() + 60
    while (found := command("dead"))[0] == 0 and time.monotonic() < until:
        time.sleep(0.05)
    code, (letter,) = found
    assert (code, letter["reason"], letter["host"]) == (1, "unknown_type", "coordinator")
    assert run(["events", "dead"]) == 1
    assert "MOON_LANDED" in capsys.readouterr().out
    number = str(letter["id"])
    assert command("dead", "--replay", number)[0] == 1
    monkeypatch.setitem(TYPES, "MOON_LANDED", EventType.HOST_ONLINE)
    code, (again,) = command("dead", "--replay", number)
    assert (code, again["understood"]) == (0, True)
    assert command("dead") == (0, [])
    assert [each["id"] for each in command("dead", "--all")[1]] == [letter["id"]]
    assert [each["type"] for each in command("tail")[1]] == ["HOST_ONLINE"]
    assert command("dead", "--replay", "99")[0] == 2


def test_following_shows_what_comes_as_it_comes(agent: RunningAgent, home: Home) -> None:
    program = [sys.executable, "-m", "ringrift_dagster.cli.main", "events", "tail", "--follow", "--json"]
    environment = {**os.environ, "RINGRIFT_DATA_HOME": str(home.root)}
    with Store.open(default_url(home)) as store:
        assert run(["events", "emit", "HOST_ONLINE", "--host", "gpu-1"]) == 0
        assert inbox.read(store, 0, wait=60)
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as follower:
        try:
            assert follower.stdout is not None
            assert json.loads(follower.stdout.readline())["payload"] == {"host": "gpu-1"}
            assert run(["events", "emit", "HOST_ONLINE", "--host", "gpu-2"]) == 0
            assert json.loads(follower.stdout.readline())["payload"] == {"host": "gpu-2"}
        finally:
            follower.terminate()


@pytest.mark.parametrize(
    "arguments",
    [
        ["emit"],
        ["emit", "HOST_ONLINE", "--field", "x"],
        ["emit", "HOST_ONLINE", "--field", "a=1", "--field", "a=2"],
        ["emit", "HOST_ONLINE", "--host", "a", "--field", "host=b"],
        ["emit", "HOST_ONLINE", "--host", "a", "--url", f"http://127.0.0.1:{free_port()}"],
        ["tail", "--type", "NOTHING"],
        ["dead", "--replay", "x"],
    ],
)
def test_what_makes_no_sense_is_one_line(home: Home, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("ringrift-data: ")) == ("", 1, True)
