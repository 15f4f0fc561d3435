"""`node mark` and the options of `node serve`: what is wrong is said in one line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ringrift_dagster.cli.node import node


def test_marking_a_drive(tmp_path: Path) -> None:
    done = CliRunner().invoke(node, ["mark", str(tmp_path), "owc"])
    assert (done.exit_code, (tmp_path / ".ringrift-location").read_text()) == (0, "owc\n")
    again = CliRunner().invoke(node, ["mark", str(tmp_path), "other"])
    assert again.exit_code == 2
    assert "marked as 'owc'" in again.output


@pytest.mark.parametrize(
    "options",
    [
        ["--drive", "owc"],
        ["--drive", "../x=/mnt"],
        ["--drive", "tree=/mnt"],
        ["--drive", "a=/x", "--drive", "a=/y"],
        ["--drive", "a=/x", "--shared", "a=/y"],
        ["--name", "no good"],
        ["--port", "70000"],
        ["--interval", "0"],
        ["--uplink", "0"],
        ["--uplink", "fast"],
        ["--keep-free", "-1"],
        ["--home", "/x", "--drive", "home=/y"],
    ],
)
def test_options_that_make_no_sense(options: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(node, ["serve", "--root", str(tmp_path), *options]).exit_code == 2
