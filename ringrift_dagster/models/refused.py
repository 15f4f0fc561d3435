"""Checkpoints that were fetched from a host and refused by the reader, recorded by hash so that none is fetched again.

`home.models/candidates/refused.jsonl` has one line of JSON for each and is only added to: a checkpoint whose line is removed is
fetched again. Files that are registered at a prompt are not recorded here, nor is what the checks of a candidate find
(`candidates`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Seconds, Sha256, Text

LOCAL_REASONS: Final = frozenset({"unreadable", "changed"})
"""Reasons of the reader that say something about our copy of a file, and nothing about the model."""


class RefusedCheckpoint(BaseModel):
    """A checkpoint that was refused; `at` is in seconds since 1970.

    `config` is the one in its name, `reason` a key of `checkpoints.refusals.REASONS`, `origin` the location and path it came from.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: Sha256
    config: Text
    reason: Text
    detail: Text
    origin: Text
    at: Seconds


def record_refusal(home: Home, refusal: RefusedCheckpoint) -> None:
    """Append a refusal to the file, durably. Raises OSError."""
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # One write, which another process's cannot divide. A line that an interruption has cut off before it ends here.
        os.write(descriptor, b"\n" + refusal.model_dump_json().encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused_checkpoints(home: Home) -> dict[str, RefusedCheckpoint]:
    """Every refusal by hash, in the order of the file; lines that cannot be read are left out. Raises OSError."""
    try:
        lines = _path(home).read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    refused: dict[str, RefusedCheckpoint] = {}
    for line in filter(None, lines):
        try:
            entry = RefusedCheckpoint.model_validate_json(line)
        except ValidationError:
            continue
        refused.setdefault(entry.sha256, entry)
    return refused


def _path(home: Home) -> Path:
    return home.models / "candidates" / "refused.jsonl"
