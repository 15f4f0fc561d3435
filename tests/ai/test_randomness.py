"""Nothing in the package draws from a source that a seed does not fix, but for the places listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringrift_dagster

PACKAGE = Path(ringrift_dagster.__file__).parent

ALLOWED = {
    "cli/demo_cluster.py": "tokens of the demo's servers",
    "events/ids.py": "ids of events",
    "manifest/sources/s3_cache.py": "epochs: two must never be equal, whatever was restored or copied",
    "manifest/sources/tree_cache.py": "epochs",
    "node/host_events.py": "jitter, so that hosts do not all try again at the same time",
    "transfer/pulling.py": "ids of orders",
    "transfer/queue.py": "jitter of retries",
    "transfer/removal.py": "ids of owners and orders",
    "transfer/transports/aria2.py": "a secret and a file name",
    "transfer/uploads.py": "names of uploads that are not whole yet",
}
"""Modules in which chance may decide, and what for: never what a game, a sample or a file's content is."""

_MODULES = {"random", "secrets"}
_NAMES = {"urandom", "getrandom", "uuid1", "uuid4", "uuid6", "uuid7", "SystemRandom", "default_rng", "RandomState"}
_SALTED = {"hash"}  # of a text: another number in each process


def uses(tree: ast.AST) -> Iterator[int]:
    """Lines that name something random: Python's modules, NumPy's `random`, the system's bytes, random UUIDs, salted hashes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names = {*(node.module or "").split("."), *(alias.name for alias in node.names)} if not node.level else set()
        elif isinstance(node, ast.Attribute):
            names = {node.attr} - _SALTED if node.attr != "random" or getattr(node.value, "id", "") in ("np", "numpy") else set()
        elif isinstance(node, ast.Name):
            names = {node.id} & _SALTED
        else:
            continue
        if names & (_MODULES | _NAMES | _SALTED):
            yield node.lineno


def test_nothing_else_is_random() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := list(uses(ast.parse(path.read_bytes()))))
    }
    assert {place: lines for place, lines in found.items() if place not in ALLOWED} == {}
    assert sorted(found) == sorted(ALLOWED), "a place is allowed that does not need it"


@pytest.mark.parametrize(
    "text",
    [
        "import random",
        "import random as r",
        "from random import choice",
        "import numpy.random",
        "from numpy import random",
        "from numpy.random import default_rng",
        "import numpy as np\nnp.random.seed(1)",
        "import secrets",
        "import os\nos.urandom(8)",
        "from os import urandom",
        "from uuid import uuid4",
        "import uuid\nuuid.uuid4()",
        "hash('text')",
    ],
)
def test_a_source_of_randomness_is_noticed(text: str) -> None:
    assert list(uses(ast.parse(text)))


@pytest.mark.parametrize("text", ["POLICIES['random']", "from ringrift_dagster.ai.policies import heuristic", "policies.random(1)"])
def test_the_policy_called_random_is_none(text: str) -> None:
    assert not list(uses(ast.parse(text)))
