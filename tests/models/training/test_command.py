"""`python -m ringrift_dagster.models.training`: what it prints, how it ends, and what it leaves when it is stopped or killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ringrift_dagster.models.checkpoints.description import read_checkpoint
from ringrift_dagster.models.training.__main__ import main

MODULE = [sys.executable, "-m", "ringrift_dagster.models.training"]
TINY = ["--num-filters", "2", "--num-res-blocks", "1", "--batch-size", "64"]

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from ringrift_dagster.models.training.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
KILLED_WHILE_WRITING = """
import os, signal, sys
import torch
write = torch.save
def save(content, path):
    write(content, path)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
from ringrift_dagster.models.training.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def options(data: Path, out: Path, **changes: str) -> list[str]:
    """Options for one epoch; `changes` are by name with underscores."""
    chosen = {"data_path": str(data), "save_path": str(out), "board_type": "square8", "num_players": "2", "epochs": "1", **changes}
    return [*TINY, *(word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value))]


def run(arguments: Sequence[str], program: Sequence[str] = MODULE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([*program, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_progress_is_one_json_object_a_line(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "model.pth"
    assert main(options(small, out, epochs="2", seed="4")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    *epochs, written = map(json.loads, captured.out.splitlines())
    assert [(line["event"], line["epoch"], line["epochs"]) for line in epochs] == [("epoch", 1, 2), ("epoch", 2, 2)]
    assert {"train_loss", "policy_loss", "value_loss", "val_loss", "samples_per_second"} <= epochs[0].keys()
    checkpoint = read_checkpoint(out)
    assert (written["event"], written["path"], written["sha256"]) == ("checkpoint", str(out), checkpoint.sha256)
    assert (written["config"], written["training_data_sha256"]) == ("square8_2p", checkpoint.training_data_sha256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "missing.npz"}, r"missing\.npz is no training set \(unreadable: .*\); see: ringrift-data inspect npz"),
        ({"num_players": "3"}, r"square8_2p\.npz is of square8_2p, not of square8_3p"),
        ({"num_players": "5"}, r"5 players: --num-players is one of 2, 3, 4"),
        ({"board_type": "round"}, r"'round' is no board: --board-type is one of square8, "),
        ({"save_path": "model.bin"}, r"model\.bin is no name of a checkpoint: it ends in \.pth"),
        ({"num_filters": "0"}, r"a network has 1 to 512 filters, not 0"),
        ({"epochs": "0"}, r"Invalid value for '--epochs'"),
        ({"auto_promote": "yes"}, r"No such option"),
        ({"work_dir": "/nowhere"}, r"cannot be read through /nowhere: No such file"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_line(
    changes: dict[str, str], message: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options(small, tmp_path / "model.pth", **changes))
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert captured.err.startswith("ringrift-train: ")
    assert re.search(message, captured.err), captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_exists_is_kept(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.pth"
    out.write_bytes(b"another")
    with pytest.raises(SystemExit, match="2"):
        main(options(small, out))
    assert "exists: checkpoints are not replaced" in capsys.readouterr().err
    assert out.read_bytes() == b"another"


def test_an_initial_checkpoint_is_looked_at_before_the_training_set(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pth"
    ended = run(options(tmp_path / "missing.npz", tmp_path / "model.pth", initial_checkpoint=str(missing)))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert str(missing) in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_without_torch_one_line_says_how_to_install_it(small: Path, tmp_path: Path) -> None:
    ended = run(options(small, tmp_path / "model.pth"), [sys.executable, "-c", WITHOUT_TORCH])
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'ringrift-dagster[train]'" in ended.stderr
    assert "https://download.pytorch.org/whl/cpu" in ended.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_training_that_is_stopped_leaves_nothing(number: signal.Signals, status: int, small: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    as_by_default = ("env", "--default-signal=INT")  # whoever runs the tests in the background has it ignored
    command = [*as_by_default, *MODULE, *options(small, tmp_path / "model.pth", epochs="10000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["epoch"] == 1
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == status
    assert errors == ("" if number is signal.SIGKILL else "ringrift-train: interrupted: nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_the_checkpoint_is_written_leaves_no_half_of_it(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pth"
    killed = run(options(small, out), [sys.executable, "-c", KILLED_WHILE_WRITING])
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert main(options(small, out)) == 0
    assert read_checkpoint(out).config == "square8_2p"
