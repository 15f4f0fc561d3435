"""A confined process is ended when it takes too much, and has neither files to write, nor network, nor environment."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from ringrift_dagster.models.checkpoints.confinement import Limits, Outcome, run_confined

LIMITS = Limits(data=256 << 20, address_space=1 << 30, cpu_seconds=30, seconds=60.0, output=1 << 20)
FOREVER = "while True: pass"


def confined(tmp_path: Path, script: str, *arguments: str, limits: Limits = LIMITS, descriptors: tuple[int, ...] = ()) -> Outcome:
    path = tmp_path / "script.py"
    path.write_text(script)
    return run_confined(path, arguments, limits=limits, descriptors=descriptors)


def changed(**values: float) -> Limits:
    return Limits(**{**LIMITS.__dict__, **values})


def test_what_a_script_prints_comes_out(tmp_path: Path) -> None:
    outcome = confined(tmp_path, "import sys; print(sys.argv[1:])", "one", "two")
    assert (outcome.output, outcome.ending) == (b"['one', 'two']\n", None)


def test_a_script_that_waits_is_ended_by_the_clock_and_all_that_it_started(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    script = "import os, signal, sys; os.fork(); signal.pause()"
    outcome = confined(tmp_path, script, limits=changed(seconds=2.0), descriptors=(writer,))
    os.close(writer)
    assert outcome.ending == "timeout"
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"", "nobody has the pipe open any more"


def test_a_child_that_is_left_behind_is_ended(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    script = "import os, signal\nif not os.fork():\n    os.close(1)\n    signal.pause()"
    outcome = confined(tmp_path, script, descriptors=(writer,))
    os.close(writer)
    assert outcome.ending is None
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b""


def test_a_script_that_computes_without_end_is_ended(tmp_path: Path) -> None:
    assert confined(tmp_path, FOREVER, limits=changed(cpu_seconds=1)).ending == "SIGXCPU"


@pytest.mark.parametrize("limits", [LIMITS, changed(data=1 << 40), changed(address_space=1 << 40)])
def test_memory_is_limited(tmp_path: Path, limits: Limits) -> None:
    script = "try:\n    bytearray(2 << 30)\nexcept MemoryError:\n    print('refused')"
    assert confined(tmp_path, script, limits=limits).output == b"refused\n"


def test_a_script_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    outcome = confined(tmp_path, "while True: print('x' * 10_000)")
    assert outcome.ending == "output"
    assert len(outcome.output) <= LIMITS.output


def test_an_exit_and_a_signal_are_told_apart(tmp_path: Path) -> None:
    assert confined(tmp_path, "raise SystemExit(3)").ending == "exit status 3"
    assert confined(tmp_path, "import os; os.abort()").ending == "SIGABRT"


def test_nothing_can_be_written_and_no_environment_or_input_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_NODE_TOKEN", "secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    script = """
import json, os, resource, sys
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        file.write(b"x")
    written = True
except OSError:
    written = False
print(json.dumps([written, sorted(os.environ), sys.stdin.read(), resource.getrlimit(resource.RLIMIT_CORE)]))
"""
    target = tmp_path / "written"
    written, environment, given, core = json.loads(confined(tmp_path, script, str(target)).output)
    assert (written, given, core) == (False, "", [0, 0])
    assert set(environment) <= {"LC_CTYPE"}, "which Python itself sets"
    assert not target.exists() or target.stat().st_size == 0


def test_descriptors_that_are_not_given_are_closed(tmp_path: Path) -> None:
    script = """
import os, sys
print(os.read(int(sys.argv[1]), 9))
try:
    os.fstat(int(sys.argv[2]))
except OSError:
    print("closed")
"""
    (tmp_path / "file").write_bytes(b"content")
    descriptor, other = (os.open(tmp_path / "file", os.O_RDONLY) for _ in range(2))
    outcome = confined(tmp_path, script, str(descriptor), str(other), descriptors=(descriptor,))
    os.close(descriptor)
    os.close(other)
    assert outcome.output == b"b'content'\nclosed\n"


def test_the_outcome_says_truly_whether_there_was_a_network(tmp_path: Path) -> None:
    script = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30).close()
    print("connected")
except OSError:
    print("no network")
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outcome = confined(tmp_path, script, str(listener.getsockname()[1]))
    assert outcome.output == (b"no network\n" if outcome.network is None else b"connected\n")
    assert outcome.network != ""
