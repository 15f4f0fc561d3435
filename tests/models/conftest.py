"""A home with canonical games and a training set, as candidates need it.

Tests that need torch are left out where it is not installed; `make test` says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.datasets.npz_export import export_canonical
from ringrift_dagster.datasets.training_sets import TrainingSet, training_set
from ringrift_dagster.home import Home

NEED_TORCH = [
    "checkpoints/test_torch_loading.py",
    "test_playing.py",
    "training/test_command.py",
    "training/test_network.py",
    "training/test_trainer.py",
]
collect_ignore = [] if find_spec("torch") else NEED_TORCH

CONFIG = "square8_4p"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, recorded: Callable[[str], Path]) -> Home:
    """A home with the canonical games of CONFIG and their training set. Shared: copy it."""
    home = Home(tmp_path_factory.mktemp("exported"))
    append_canonical(CONFIG, [recorded(f"canonical_{CONFIG}")], home)
    export_canonical(CONFIG, home)
    return home


@pytest.fixture
def trained(exported: Home, home: Home) -> TrainingSet:
    """The training set of CONFIG in a home of the test's own."""
    shutil.copytree(exported.root, home.root)
    manifest = next((home.datasets / "manifests").glob("*.json"))
    known = training_set(home, manifest.stem)
    assert known is not None
    return known
