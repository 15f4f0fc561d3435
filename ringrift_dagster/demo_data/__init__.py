"""The demo's damaged database: games recorded by RingRift's own engine, one of them with the wrong winner."""

from __future__ import annotations

import lzma
import shutil
from importlib.resources import files
from pathlib import Path

DAMAGED_CONFIG = "square8_2p"
DAMAGED_DATABASE = f"damaged_{DAMAGED_CONFIG}.db"


def unpack(into: Path) -> Path:
    """Put the database into a directory, unless it is there already; returns its path."""
    into.mkdir(parents=True, exist_ok=True)
    target = into / DAMAGED_DATABASE
    if not target.exists():
        part = target.with_suffix(".part")
        packed = files(__name__) / f"{DAMAGED_DATABASE}.xz"
        with packed.open("rb") as raw, lzma.open(raw) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        part.replace(target)
    return target
