"""Publishing models: publishers killed with SIGKILL while somebody reads, and how long publishing takes.

The kills are those of `tests/models/publishing/crashing.py`, more of them: drawn from all lines of the package that a publication
runs, and from all moments of its duration. A violation ends the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.models.publishing.published_set import check_set, publish
from tests.models.publishing.making import model_file

KILLS = 300
SEED = 20
SIZE = 20 << 20
"""Bytes of a model; RingRift's are 10 to 400 MB."""


def run(row: Callable[[str, str, str], None]) -> None:
    """Print the figures: name, here, beside."""
    for what, name in (("set", "the published set"), ("names", "names in a tree of many writers")):
        for how, point in (("line", "lines"), ("moment", "moments")):
            result = _crash(what, how)
            reader = result["reader"]
            if reader["problems"]:
                raise SystemExit(f"{name}: {reader['problems']}")
            row(
                f"{name}: kills at random {point}", f"{result['killed']}", f"{result['finished']} not killed, {result['seconds']} s"
            )
            row("  looks of a reader meanwhile: none of them wrong", f"{reader['looks']:,}", f"{reader['states']} states")
    _speed(row)


def _crash(what: str, how: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.models.publishing.crashing", what, how, str(KILLS), str(SEED)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _speed(row: Callable[[str, str, str], None]) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory, folder = Path(root) / "published", Path(root) / "models"
        models = {config: model_file(folder, config, 1.0, SIZE) for config in CONFIG_KEYS}
        new = model_file(folder, "new", 2.0, SIZE)
        size = f"12 configs of {SIZE >> 20} MB, 30 names"
        row("publish all configs, s", _seconds(lambda: publish(directory, models)), size)
        row("publish one of them again, s", _seconds(lambda: publish(directory, {"hex8_2p": new})), "every byte is verified")
        row("publish what is published, s", _seconds(lambda: publish(directory, models)), "every byte is verified")
        row("check a set, s", _seconds(lambda: check_set(directory)), "")


def _seconds(work: Callable[[], object]) -> str:
    started = time.perf_counter()
    work()
    return f"{time.perf_counter() - started:.2f}"
