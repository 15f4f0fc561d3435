"""What is really moved: a database of games, a training set, a model, and a file of several chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.transfer.fetching import Content, content

NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"
LARGE_BYTES = (20 << 20) + 12_345
KINDS = ("database", "npz", "model", "large")


def real_item(kind: str, recorded: Callable[[str], Path]) -> Content:
    """The content of one of KINDS."""
    if kind == "database":
        return Content(recorded("canonical_square8_2p").read_bytes())
    if kind == "npz":
        return Content(NPZ.read_bytes())
    return content(300_000, seed=7) if kind == "model" else content(LARGE_BYTES, seed=8)
