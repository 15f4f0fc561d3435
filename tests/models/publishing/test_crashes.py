"""Publishing that is killed: readers see one whole set, a tree's names are completed, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def crash(what: str, how: str, kills: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.models.publishing.crashing", what, how, str(kills), "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_set_whose_publishers_are_killed_is_the_one_before_or_after() -> None:
    result = crash("set", "line", 25)
    assert result["killed"] == 25
    assert result["reader"]["problems"] == []
    assert result["reader"]["states"] > 1


def test_a_publication_takes_effect_at_one_of_its_steps() -> None:
    states = crash("switch", "line", 30)["states"]
    assert states.strip("b").strip("a") == ""
    assert {"a", "b"} == set(states)


def test_names_in_a_tree_are_completed_and_files_of_others_kept() -> None:
    result = crash("names", "line", 25)
    assert result["killed"] == 25
    assert result["put by others"] > 1
    assert result["reader"]["problems"] == []
    assert result["reader"]["states"] > 1
