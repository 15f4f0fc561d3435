"""Training sets that the tests read with NumPy, and sets that they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[2] / "data"
RINGRIFT = DATA / "damaged" / "base_ok.npz"
"""One game of square8_3p, 200 samples, written by RingRift's exporter."""


def arrays(path: Path) -> dict[str, Any]:
    """All arrays of a set that the tests made or keep, which may be unpickled."""
    with np.load(path, allow_pickle=True) as opened:
        return dict(opened)


def write(path: Path, content: dict[str, Any]) -> Path:
    """A set of these arrays, without checksums."""
    np.savez_compressed(path, **{name: array for name, array in content.items() if name != "data_checksums"})
    return path
