"""`NUMBA_DISABLE_JIT=1` changes how fast games are judged and encoded, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.games.rules.compiled import engine

DATA = Path(__file__).parents[1] / "data"
PROGRAM = Path(__file__).with_name("judge_both_ways.py")
GAMES = 2
"""Of each database: uncompiled, a move takes about a hundred times as long."""


def _answers(directory: Path, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(PROGRAM), str(directory), str(GAMES)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.timeout(900)  # tens of seconds of one core, whoever shares it
@pytest.mark.xdist_group("uncompiled")
def test_games_are_judged_and_encoded_alike_compiled_or_not(unpacked: Callable[[Path], Path], tmp_path: Path) -> None:
    for source in sorted(DATA.glob("db/*.xz")) + sorted(DATA.glob("damaged/*.db.xz")):
        for way in ("compiled", "uncompiled"):
            (tmp_path / way).mkdir(exist_ok=True)
            (tmp_path / way / f"{source.parent.name}-{source.stem}").symlink_to(unpacked(source))
    compiled = _answers(tmp_path / "compiled")
    uncompiled = _answers(tmp_path / "uncompiled", NUMBA_DISABLE_JIT="1")
    assert compiled["engine"] == engine()
    assert uncompiled["engine"].startswith("python ")
    assert uncompiled["databases"] == compiled["databases"]
