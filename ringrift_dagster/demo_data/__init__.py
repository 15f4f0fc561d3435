"""Sample self-play databases, recorded by RingRift's own engine; `damaged_*` has one game whose recorded winner is wrong."""

from __future__ import annotations

import lzma
import shutil
from importlib.resources import files
from pathlib import Path

DAMAGED_CONFIG = "square8_2p"


def unpack(into: Path) -> list[Path]:
    """Put every sample database that is not there yet into a directory; returns their paths."""
    into.mkdir(parents=True, exist_ok=True)
    targets = []
    for packed in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if not packed.name.endswith(".db.xz"):
            continue
        target = into / packed.name.removesuffix(".xz")
        targets.append(target)
        if not target.exists():
            part = target.with_suffix(".part")
            with packed.open("rb") as raw, lzma.open(raw) as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            part.replace(target)
    return targets
