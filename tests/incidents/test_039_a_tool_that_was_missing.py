"""Incident 39: the parity gate called `npx`, which was missing on the hosts; every database stayed `pending_gate` in the registry,
and everybody trained on those.

Here the gate replays games itself, on any host, with no Node.js; and what the registry says, `pending_gate` or `canonical`, makes
no game canonical and keeps none from being so.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringrift_dagster
from ringrift_dagster.canonical.evidence import REGISTRY_NAME, gather
from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.cli.main import run
from ringrift_dagster.datasets.canonical_games import append_canonical, summarise
from ringrift_dagster.home import Home

NODE = ("npx", "npm", "node", "tsx", "ts-node", "yarn", "deno", "bun")
PACKAGE = Path(ringrift_dagster.__file__).parent
ROW = """
| Database | Board Type | Players | Status | Gate Summary | Notes |
|---|---|---|---|---|---|
| `{name}` | square8 | 4 | **{status}** | {summary} | npx not found |
"""
Sample = Callable[[str], Path]


def registered(directory: Path, name: str, status: str, summary: str = "-") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / REGISTRY_NAME).write_text(ROW.format(name=name, status=status, summary=summary))
    return directory


def test_the_gate_judges_where_there_is_no_tool_at_all(sample: Sample, tmp_path: Path) -> None:
    nothing = tmp_path / "empty"
    nothing.mkdir()
    environment = {"PATH": str(nothing), "HOME": str(tmp_path), "RINGRIFT_DATA_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "ringrift_dagster.cli.main", "verify", sample("db/canonical_square8_4p"), "--json"]
    judged = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)[0]["verdict"] == "canonical"


def test_nothing_in_the_package_calls_node() -> None:
    assert sorted(_tools(ast.parse("run(['npx', 'tsx']); which('node'); found['node']"))) == ["node", "npx"]
    assert [(path.name, tool) for path in PACKAGE.rglob("*.py") for tool in _tools(ast.parse(path.read_text()))] == []
    judging = [path for folder in ("canonical", "games/rules", "datasets") for path in (PACKAGE / folder).rglob("*.py")]
    starts = re.compile(r"^\s*(import|from) subprocess|os\.(exec|spawn|system|popen)", re.MULTILINE)
    assert judging and [path.name for path in judging if starts.search(path.read_text())] == []


def _tools(tree: ast.Module) -> Iterator[str]:
    """Node's tools that begin a list of arguments, or that are looked for."""
    for node in ast.walk(tree):
        first = node.elts[:1] if isinstance(node, ast.List) else []
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "which":
            first = node.args[:1]
        yield from (each.value for each in first if isinstance(each, ast.Constant) and each.value in NODE)


def test_pending_gate_is_no_approval(sample: Sample, tmp_path: Path) -> None:
    database = sample("damaged/winner_flipped")
    told = gather(database, registry_dirs=[registered(tmp_path, database.name, "pending_gate")])
    assert (told["registry"]["status"], told["registry"]["accepted"]) == ("pending_gate", False)


@pytest.mark.parametrize("status", ["pending_gate", "canonical", "gate_skipped", ""])
def test_no_word_of_the_registry_makes_a_game_canonical(home: Home, sample: Sample, status: str) -> None:
    database = sample("damaged/winner_flipped")
    registered(home.registry, database.name, status)
    judged = verify([database])[0]
    config = str(judged.config)
    assert (judged.verdict, judged.games["rejected"]) == ("mixed", 1)
    append_canonical(config, [database], home)
    assert summarise(config, home).games == judged.games["canonical"], "what was rejected is nowhere"


def test_a_database_that_only_waits_for_its_gate_is_judged_by_its_games(
    home: Home, sample: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    database = sample("db/canonical_square8_4p")
    registered(home.registry, database.name, "pending_gate")
    assert run(["registry", str(database), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["databases"][0]
    assert (told["verdict"], told["evidence"]["registry"]["accepted"]) == ("canonical", False)


def test_a_database_that_the_registry_approves_and_the_gate_does_not_is_bad_news(home: Home, sample: Sample) -> None:
    database = sample("damaged/winner_flipped")
    registered(home.registry, database.name, "canonical")
    assert run(["registry", str(database), "--json"]) == 1
