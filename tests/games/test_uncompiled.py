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
SAMPLES = sorted(DATA.glob("db/*.xz")) + sorted(DATA.glob("damaged/*.db.xz"))
GROUPS: dict[str, Callable[[Path], bool]] = {
    "hexagonal": lambda path: "hexagonal" in path.name,
    "square19": lambda path: "square19" in path.name,
    "damaged": lambda path: path.parent.name == "damaged",
    "others": lambda path: True,
}
"""Databases by what is tested together; each belongs to the first group that it fits. Uncompiled, a move takes tens of times as
long, so that every group is a test of its own."""


def _answers(directory: Path, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(PROGRAM), str(directory)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.timeout(900)  # up to a minute or two of one core, whoever shares it
@pytest.mark.parametrize("group", GROUPS)
def test_every_game_is_judged_and_encoded_alike_compiled_or_not(
    group: str, unpacked: Callable[[Path], Path], tmp_path: Path
) -> None:
    sources = [path for path in SAMPLES if next(name for name, fits in GROUPS.items() if fits(path)) == group]
    for source in sources:
        for way in ("compiled", "uncompiled"):
            (tmp_path / way).mkdir(exist_ok=True)
            (tmp_path / way / f"{source.parent.name}-{source.stem}").symlink_to(unpacked(source))
    compiled = _answers(tmp_path / "compiled")
    uncompiled = _answers(tmp_path / "uncompiled", NUMBA_DISABLE_JIT="1")
    assert compiled["engine"] == engine()
    assert uncompiled["engine"].startswith("python ")
    assert len(compiled["databases"]) == len(sources) > 0
    assert uncompiled["databases"] == compiled["databases"]
