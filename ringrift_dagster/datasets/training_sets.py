"""Training sets by their hash: what the manifest of an NPZ says, kept for every set that was exported from the canonical store.

An export replaces the NPZ of its config, but models that saw an earlier one stay; their provenance is looked up here. Writing and
validating the NPZ itself is for `npz_export` and `npz_validator`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.datasets.freshness import recorded_time
from ringrift_dagster.datasets.npz_writer import publish
from ringrift_dagster.home import Home

MAX_MANIFEST_BYTES: Final = 16 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrainingSet:
    """A training set as its manifest describes it. `canonical` says that it was exported from this home's canonical store."""

    sha256: str
    config: str
    samples: int
    games: int
    game_digests_root: str
    newest_game: datetime | None
    encoder: str
    feature_version: int | None
    rules_version: str
    exported_at: str
    canonical: bool = False


def archive_manifest(home: Home, manifest: Path) -> None:
    """Keep the manifest of a set that was exported from the canonical store. Raises OSError."""
    content = manifest.read_bytes()
    kept = _archive(home) / f"{json.loads(content)['sha256']}.json"
    if kept.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    staged = kept.with_name(f".{kept.name}.part")
    staged.write_bytes(content)
    publish(staged, kept)


def training_set(home: Home, sha256: str) -> TrainingSet | None:
    """The training set with this hash, if it was exported from this home's canonical store."""
    known = read_manifest(_archive(home) / f"{sha256}.json", canonical=True)
    return known if known is not None and known.sha256 == sha256 else None


def read_manifest(path: Path, *, canonical: bool = False) -> TrainingSet | None:
    """The training set that a manifest describes; None if the file cannot be read or lacks something."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
        stated = json.loads(content) if len(content) <= MAX_MANIFEST_BYTES else None
        return _described(stated, canonical) if isinstance(stated, dict) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _described(stated: dict[str, Any], canonical: bool) -> TrainingSet:
    encoder = stated["encoder"]
    if not _SHA256.fullmatch(stated["sha256"]) or not all(0 <= stated[name] < 1 << 53 for name in ("samples", "games")):
        raise ValueError("no training set has such a hash or size")
    json.dumps(stated, ensure_ascii=False).encode()  # a lone surrogate could not be recorded
    return TrainingSet(
        sha256=stated["sha256"],
        config=str(stated["config"]),
        samples=int(stated["samples"]),
        games=int(stated["games"]),
        game_digests_root=str(stated["game_digests_root"]),
        newest_game=recorded_time(stated.get("newest_game_time")),
        encoder=str(encoder["type"]),
        feature_version=encoder.get("feature_version"),
        rules_version=str(stated["rules_version"]),
        exported_at=str(stated["exported_at"]),
        canonical=canonical,
    )


def _archive(home: Home) -> Path:
    return home.datasets / "manifests"
