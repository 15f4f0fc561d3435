"""The deep check of a torch file: torch itself loads it, in a confined process, and has to find what our reader found.

The file was accepted by `description` before. Torch is never imported in this process: what it makes of the file is plain JSON, and
judged here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.models.checkpoints.confinement import Limits, Outcome, run_confined
from ringrift_dagster.models.checkpoints.content import Tensor
from ringrift_dagster.models.checkpoints.description import Checkpoint

REASONS: Final = {
    "not_torch": "The file is of another format: the deep check is for torch files only.",
    "torch_missing": "Torch is not installed.",
    "torch_too_old": "This torch is too old to load files that nobody vouches for.",
    "changed": "The file is not what it was when it was accepted.",
    "deep_check_timeout": "The process took longer than it may, and was ended.",
    "deep_check_limit": "The process needed more memory, time or room for its answer than it may use.",
    "deep_check_failed": "Torch cannot load the file, or the process broke.",
    "tensors_differ": "Torch finds other names, element types or shapes of weights than our reader.",
    "not_finite": "A weight is infinite or not a number.",
    "network_differs": "The weights do not fit the network that the metadata name.",
    "bad_answer": "The network's answer for a position of zeros is infinite or not a number.",
}
"""What each reason code means, in one line."""
UNUSABLE: Final = ("not_torch", "torch_missing", "torch_too_old")
"""Reasons that say nothing about the model: the check cannot be made here."""

_SCRIPT: Final = Path(__file__).with_name("torch_loading.py")
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": "1"}
"""Rules of the game are imported by the network's module, but nothing is played."""
_DATA_BYTES: Final = 2 << 30
_ADDRESS_BYTES: Final = 24 << 30
"""Builds of torch with CUDA map libraries of several gigabytes."""
_COPIES: Final = 4
"""Of the file, which are in memory at once: its bytes, the loaded tensors, the network's, and one for what is between."""
_BY_LIMIT: Final = ("output", "SIGXCPU", "SIGKILL")


@dataclass(frozen=True)
class DeepCheck:
    """What the deep check found. `reason` is None if the file passed, else a key of REASONS; `detail` is one line.

    `tensors` is how many weights torch loaded; `answers` says whether the network was made and has a finite answer, and is None
    where the network is not one of ours. `network` is `isolated`, or `not isolated: ` and why; None if no process was started.
    """

    reason: str | None = None
    detail: str = ""
    torch: str | None = None
    tensors: int | None = None
    answers: bool | None = None
    network: str | None = None

    def __post_init__(self) -> None:
        assert self.reason is None or self.reason in REASONS

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with the file."""
        return self.reason is None

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


def limits_of(checkpoint: Checkpoint) -> Limits:
    """What the process that loads a file may use: memory by the size of the file."""
    copies = _COPIES * checkpoint.bytes
    return Limits(data=_DATA_BYTES + copies, address_space=_ADDRESS_BYTES + copies)


def deep_check(
    path: Path,
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    *,
    limits: Limits | None = None,
    script: Path = _SCRIPT,
) -> DeepCheck:
    """Have torch load a file that `description.read_with_tensors` has accepted, and compare.

    `script` is what loads it: tests have another. Raises OSError if the file cannot be opened any more or no process can be made.
    """
    if not checkpoint.format.startswith("torch-"):
        return DeepCheck("not_torch", f"the deep check is for torch files only, and this is {checkpoint.format}")
    request = {
        "sha256": checkpoint.sha256,
        "architecture": [checkpoint.architecture, checkpoint.architecture_version],
        "config": checkpoint.config,
        "filters": checkpoint.filters,
        "blocks": checkpoint.blocks,
    }
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        outcome = run_confined(
            script,
            [str(descriptor), json.dumps(request)],
            limits=limits or limits_of(checkpoint),
            descriptors=[descriptor],
            environment=_ENVIRONMENT,
        )
    finally:
        os.close(descriptor)
    network = "isolated" if outcome.network is None else f"not isolated: {outcome.network}"
    return replace(_judge(outcome, tensors), network=network)


def _judge(outcome: Outcome, expected: Mapping[str, Tensor]) -> DeepCheck:
    """What an outcome says, judged as if the file had taken the process over: every field of the answer is checked."""
    if outcome.ending == "timeout":
        return DeepCheck("deep_check_timeout", "torch did not finish in time")
    if outcome.ending is not None:
        reason = "deep_check_limit" if outcome.ending in _BY_LIMIT else "deep_check_failed"
        return DeepCheck(reason, f"the process ended with {outcome.ending}")
    try:
        answer = json.loads(outcome.output)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return DeepCheck("deep_check_failed", "the process printed no answer")
    version = _line(answer.get("torch")) or None
    loaded = answer.get("tensors")
    if isinstance(loaded, dict) and (found := _compared(loaded, expected)) is not None:
        return replace(found, torch=version)
    if (reason := answer.get("reason")) is not None:
        return DeepCheck(reason if reason in tuple(REASONS) else "deep_check_failed", _line(answer.get("detail")), version)
    if not isinstance(loaded, dict):
        return DeepCheck("deep_check_failed", "the process printed no answer", version)
    if answer.get("answers") is False:
        return DeepCheck("bad_answer", REASONS["bad_answer"], version, len(loaded), answers=False)
    return DeepCheck(torch=version, tensors=len(loaded), answers=True if answer.get("answers") is True else None)


def _compared(loaded: dict[str, Any], expected: Mapping[str, Tensor]) -> DeepCheck | None:
    """How loaded weights differ from those expected, or are of no use; None if all is well."""
    if names := loaded.keys() ^ expected.keys():
        return DeepCheck("tensors_differ", f"only one of torch and our reader finds {_line(min(names))!r}")
    for name, tensor in expected.items():
        facts = [tensor.dtype, list(tensor.shape)]
        if not isinstance(loaded[name], list) or loaded[name][:2] != facts:
            return DeepCheck("tensors_differ", f"{_line(name)}: torch loads {_line(str(loaded[name]))}, our reader finds {facts}")
    for name in expected:
        if loaded[name][2:] != [True]:
            return DeepCheck("not_finite", f"{_line(name)} has values that are infinite or not numbers")
    return None


def _line(value: object) -> str:
    """Text from the process, safe to print to a terminal."""
    text = value if isinstance(value, str) else ""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:400])
