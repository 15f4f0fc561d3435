"""Two exporters wrote one NPZ at once, and three files a day were corrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.datasets.npz_export import ExportError, export_databases
from ringrift_dagster.datasets.npz_validator import inspect_npz

# Says "encoding" when the export is in the middle of writing, and then waits to be let go on or killed.
EXPORT = """
import sys
from pathlib import Path
from ringrift_dagster.datasets.npz_export import export_databases

def progress(stage, done, total):
    if done == 1:
        print("encoding", flush=True)
        sys.stdin.readline()

export_databases("square8_2p", [Path(sys.argv[1])], Path(sys.argv[2]), progress=progress)
print("published", flush=True)
"""


def _start(database: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(database), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "encoding\n"
    return process


def test_a_second_export_waits_its_turn(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "square8_2p.npz"
    first = _start(recorded("canonical_square8_2p"), out)
    try:
        export_databases("square8_2p", [recorded("canonical_square8_2p")], out)
        code = None
    except ExportError as error:
        code = error.code
    finished, _ = first.communicate("\n", timeout=120)
    assert (code, finished) == ("busy", "published\n")
    assert inspect_npz(out).to_dict()["valid"]


def test_an_export_killed_midway_publishes_nothing_and_leaves_nothing(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "square8_2p.npz"
    killed = _start(recorded("canonical_square8_2p"), out)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert not out.exists()
    result = export_databases("square8_2p", [recorded("canonical_square8_2p")], out)
    assert result.samples == 3683
    assert {path.name for path in tmp_path.iterdir()} == {
        "square8_2p.npz",
        "square8_2p.manifest.json",
        ".square8_2p.npz.lock",
    }
