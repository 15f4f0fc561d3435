"""Training sets that the tests share: read them, copy them, never change them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.datasets.npz_export import export_databases


@pytest.fixture(scope="session")
def small(damaged: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six games of square8_2p, 456 samples, with a manifest."""
    out = tmp_path_factory.mktemp("small") / "square8_2p.npz"
    return export_databases("square8_2p", [damaged("base_ok")], out).path
