"""The deep check judges what a process says of a file; here scripts take the place of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.models.checkpoints import deep_check as checking
from ringrift_dagster.models.checkpoints.confinement import Limits, Outcome
from ringrift_dagster.models.checkpoints.content import Tensor
from ringrift_dagster.models.checkpoints.deep_check import REASONS, DeepCheck, deep_check
from ringrift_dagster.models.checkpoints.description import read_with_tensors
from tests.models.making import model_file

TENSORS = {"a.weight": Tensor("float32", (2, 3)), "b": Tensor("int64", ())}
GOOD: dict[str, Any] = {"torch": "2.13.0", "tensors": {"a.weight": ["float32", [2, 3], True], "b": ["int64", [], True]}}


def judged(answer: object, ending: str | None = None) -> DeepCheck:
    output = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return checking._judge(Outcome(output, ending, None), TENSORS)


def changed(name: str, value: object) -> dict[str, Any]:
    return {**GOOD, "tensors": {**GOOD["tensors"], name: value}}


def checked(path: Path, script: str, limits: Limits | None = None) -> DeepCheck:
    """The deep check of a file by a script."""
    program = path.with_name("script.py")
    program.write_text(script)
    return deep_check(path, *read_with_tensors(path), limits=limits, script=program)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_file(tmp_path / "m.pth")


def test_an_answer_that_agrees_passes() -> None:
    assert judged(GOOD) == DeepCheck(torch="2.13.0", tensors=2)
    assert judged({**GOOD, "answers": True}) == DeepCheck(torch="2.13.0", tensors=2, answers=True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({**GOOD, "tensors": {"b": ["int64", [], True]}}, "tensors_differ"),
        (changed("c\x1b[2J", ["int64", [], True]), "tensors_differ"),
        (changed("b", ["int32", [], True]), "tensors_differ"),
        (changed("b", ["int64", [1], True]), "tensors_differ"),
        (changed("b", 7), "tensors_differ"),
        (changed("b", []), "tensors_differ"),
        (changed("b", ["int64", [], False]), "not_finite"),
        (changed("b", ["int64", []]), "not_finite"),
        ({**GOOD, "answers": False}, "bad_answer"),
        ({**GOOD, "reason": "network_differs", "detail": "size mismatch"}, "network_differs"),
        ({"reason": "torch_missing", "detail": "run `make torch`"}, "torch_missing"),
        ({"reason": ["unknown"], "detail": 3}, "deep_check_failed"),
        ({"torch": "2.13.0"}, "deep_check_failed"),
        ({}, "deep_check_failed"),
        ([], "deep_check_failed"),
        (b"", "deep_check_failed"),
        (b"[" * 100_000, "deep_check_failed"),
    ],
)
def test_an_answer_that_does_not_agree_has_a_reason(answer: object, reason: str) -> None:
    found = judged(answer)
    assert (found.reason, found.passed) == (reason, False)
    assert found.detail.isprintable()
    assert reason in REASONS


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("timeout", "deep_check_timeout"),
        ("output", "deep_check_limit"),
        ("SIGXCPU", "deep_check_limit"),
        ("SIGSEGV", "deep_check_failed"),
        ("exit status 1", "deep_check_failed"),
    ],
)
def test_a_process_that_did_not_end_well_says_nothing_good(ending: str, reason: str) -> None:
    assert judged(GOOD, ending).reason == reason


def test_a_process_that_hangs_is_ended(model: Path) -> None:
    found = checked(model, "import signal; signal.pause()", Limits(256 << 20, 1 << 30, seconds=2.0))
    assert found.reason == "deep_check_timeout"
    assert found.network is not None


def test_memory_is_limited_by_the_size_of_the_file(model: Path) -> None:
    found = checked(model, "bytearray(3 << 30)")
    assert (found.reason, found.detail) == ("deep_check_failed", "the process ended with exit status 1")
    assert checked(model, "bytearray(1 << 30)").detail == "the process printed no answer"


def test_the_file_that_was_accepted_is_given_to_the_process(model: Path) -> None:
    script = """
import hashlib, json, os, sys
request = json.loads(sys.argv[2])
sha256 = hashlib.sha256(os.read(int(sys.argv[1]), 1 << 24)).hexdigest()
print(json.dumps({"reason": "changed" if sha256 == request["sha256"] else "deep_check_failed", "detail": request["config"]}))
"""
    found = checked(model, script)
    assert (found.reason, found.detail) == ("changed", "square8_2p")


def test_without_torch_it_says_what_to_do(model: Path) -> None:
    loading = Path(checking.__file__).with_name("torch_loading.py")
    found = checked(model, f"import runpy, sys\nsys.modules['torch'] = None\nrunpy.run_path({str(loading)!r}, run_name='__main__')")
    assert (found.reason, found.detail) == ("torch_missing", "torch is not installed here; run `make torch`")


def test_a_torch_that_is_too_old_loads_nothing(model: Path) -> None:
    loading = Path(checking.__file__).with_name("torch_loading.py")
    script = f"""
import runpy, sys, types
sys.modules["torch"] = types.SimpleNamespace(__version__="2.9.1+cpu")
runpy.run_path({str(loading)!r}, run_name="__main__")
"""
    found = checked(model, script)
    assert (found.reason, found.torch) == ("torch_too_old", "2.9.1+cpu")
    assert "make torch" in found.detail
