"""Where the data plane keeps its state on this host.

Only the layout of `$RINGRIFT_DATA_HOME` belongs here: names of directories, no reading or writing of what is in them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_DEFAULT = Path(__file__).resolve().parent.parent / ".ringrift"


@dataclass(frozen=True)
class Home:
    """The directories below `$RINGRIFT_DATA_HOME` (default: `.ringrift/` of the project)."""

    root: Path

    @classmethod
    def from_env(cls) -> Home:
        """The home that the environment names, or the project's own."""
        return cls(Path(cls.named() or _DEFAULT).expanduser().absolute())

    @staticmethod
    def named() -> str | None:
        """What $RINGRIFT_DATA_HOME says; None when it is not set or empty."""
        return os.environ.get("RINGRIFT_DATA_HOME") or None

    @property
    def selfplay(self) -> Path:
        """Source databases (live, growing) are discovered below this directory."""
        return self.root / "selfplay"

    @property
    def snapshots(self) -> Path:
        """Consistent copies of source databases, `<config>/<sha256>.db`."""
        return self.root / "snapshots"

    @property
    def canonical(self) -> Path:
        """Canonical games in Parquet, one directory a config."""
        return self.root / "canonical"

    @property
    def datasets(self) -> Path:
        """Published NPZ training sets with their manifests."""
        return self.root / "datasets"

    @property
    def quarantine(self) -> Path:
        """Rejected games with their reasons, `<config>.jsonl`."""
        return self.root / "quarantine"

    @property
    def verdicts(self) -> Path:
        """The gate's verdicts (SQLite)."""
        return self.root / "verdicts.db"

    @property
    def models(self) -> Path:
        """Candidates, evaluation games, evidence and decisions, and the published models."""
        return self.root / "models"

    @property
    def registry(self) -> Path:
        """RingRift's own registry table and gate summaries, where the operator has them."""
        return self.root / "registry"
