"""The model manifest: a host's JSON file that says which model is current for each config, by hash. Reading and writing it only.

RingRift's own `promoted_models.json` has absolute paths of one machine and no hashes; it is left alone. A model that is named here
may still be on its way: whoever loads one compares its hash.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ringrift_dagster.manifest.inventory import ConfigKey, Seconds, Sha256

PATH = "data/model_manifest.json"
"""Relative to a host's RingRift tree."""
MAX_BYTES = 1 << 20


class Current(BaseModel):
    """One config's model. `file` is what it is called below `models/` where it was sent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: Sha256
    promoted_at: Seconds
    file: str | None = Field(default=None, max_length=200)
    elo: float | None = Field(default=None, ge=-10_000, le=10_000)
    model: str | None = Field(default=None, max_length=500)


class ModelManifest(BaseModel):
    """Every config's current model."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    models: dict[ConfigKey, Current] = Field(default_factory=dict)


def read(root: Path) -> ModelManifest:
    """The manifest of a tree; an empty one if there is none, or none that can be read."""
    try:
        with (root / PATH).open("rb") as file:
            return ModelManifest.model_validate_json(file.read(MAX_BYTES))
    except (OSError, ValidationError):
        return ModelManifest()


def note(root: Path, config: str, current: Current) -> bool:
    """Say that a model is its config's current one, unless a later one was promoted; returns whether that changed anything.

    The file is replaced as a whole and is on disk when this returns. Raises OSError.
    """
    known = read(root)
    before = known.models.get(config)
    if before is not None and (before == current or before.promoted_at > current.promoted_at):
        return False
    changed = known.model_copy(update={"models": {**known.models, config: current}})
    target = root / PATH
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as file:
        file.write(changed.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    return True
