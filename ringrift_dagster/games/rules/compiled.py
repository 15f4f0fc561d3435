"""How compiled functions are compiled, and where their machine code is kept; nothing else.

Numba notices when the file of a cached function changes, but not when a function that it calls does: after an upgrade, old rules
would live on inside callers whose own file stayed the same. So the cache lies below a digest of all sources that compiled code is
made of, and any change to them starts a new one.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import numba
from numba.core import config as numba_config

_PACKAGE = Path(__file__).resolve().parents[2]
_SOURCES = ("games/*.py", "games/rules/*.py", "ai/seeds.py", "ai/policies/*.py", "datasets/features.py", "datasets/labels.py")


def _cache_directory() -> Path:
    """`__pycache__` beside this file where it can be written, else the user's cache."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern)):
        digest.update(path.read_bytes())
    beside = Path(__file__).parent / "__pycache__"
    kept = beside if os.access(Path(__file__).parent, os.W_OK) else Path.home() / ".cache" / "ringrift-dagster"
    return kept / f"compiled-{digest.hexdigest()[:16]}"


if not getattr(numba_config, "CACHE_DIR", ""):  # NUMBA_CACHE_DIR, where the operator set it
    numba_config.CACHE_DIR = str(_cache_directory())  # type: ignore[attr-defined]

compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
"""Compile on first use and keep the machine code on disk, so that only the first process after an upgrade pays for it."""


def engine() -> str:
    """What runs the rules here, as verdicts record it: compiled by Numba, or Python without compilation."""
    return f"python {platform.python_version()}" if numba_config.DISABLE_JIT else f"numba {numba.__version__}"
