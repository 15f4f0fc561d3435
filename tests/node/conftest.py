"""Trees and agents for the agent's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agents import RunningAgent, running_agent

NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"


@pytest.fixture
def tree(tmp_path: Path, recorded: Callable[[str], Path]) -> Path:
    """A small RingRift tree: a database, a training set and a model."""
    root = tmp_path / "ringrift"
    for folder in ("data/games", "data/training", "models"):
        (root / folder).mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), root / "data/games/selfplay_square8_2p.db")
    shutil.copy(NPZ, root / "data/training/square8_3p.npz")
    (root / "models/nnue_hex8_2p.onnx").write_bytes(b"onnx" * 1000)
    return root


@pytest.fixture
def agent() -> Iterator[Callable[..., RunningAgent]]:
    """Starts agents (arguments as for `running_agent`); they end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(running_agent(*arguments, **options))
