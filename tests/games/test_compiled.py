"""The machine code's cache: a change to any source of compiled code starts a new one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import ringrift_dagster

WHERE = "from ringrift_dagster.games.rules.compiled import _cache_directory; print(_cache_directory())"


def _directory(root: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", WHERE], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    ).stdout


def test_changed_rules_never_meet_old_machine_code(tmp_path: Path) -> None:
    package = tmp_path / "ringrift_dagster"
    shutil.copytree(Path(ringrift_dagster.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = _directory(tmp_path)
    assert before.startswith(str(tmp_path))
    assert _directory(tmp_path) == before
    callee = package / "games" / "rules" / "stacks.py"
    callee.write_text(callee.read_text() + "\n")
    assert _directory(tmp_path) != before
