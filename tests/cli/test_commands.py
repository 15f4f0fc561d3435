"""`ringrift-data` at a prompt: exit status, JSON that is nothing but JSON, errors of one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import pytest
import safetensors.numpy

from ringrift_dagster.cli.main import COMMANDS, run
from ringrift_dagster.home import Home
from tests.models.checkpoints.files import archive, good

Sample = Callable[[str], Path]


@pytest.fixture
def ringrift_data(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = run([str(argument) for argument in arguments])
        return int(status), *capfd.readouterr()

    return call


Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("name", "status", "verdict"),
    [
        ("db/canonical_square8_4p", 0, "canonical"),
        ("damaged/old_schema_v12", 0, "canonical"),
        ("damaged/winner_flipped", 1, "mixed"),
        ("damaged/empty", 1, "empty"),
        ("damaged/truncated_midfile", 2, "unreadable"),
        ("damaged/zero_bytes", 2, "unreadable"),
    ],
)
def test_verify_exits_by_its_verdict(ringrift_data: Call, sample: Sample, name: str, status: int, verdict: str) -> None:
    exited, out, err = ringrift_data("verify", sample(name), "--json")
    assert (exited, json.loads(out)[0]["verdict"], err) == (status, verdict, "")


def test_verify_prints_an_object_a_database_with_these_keys(ringrift_data: Call, sample: Sample) -> None:
    missing = Path("/nowhere/at_all.db")
    status, out, _ = ringrift_data("verify", sample("damaged/winner_flipped"), missing, "--json")
    judged, unreadable = json.loads(out)
    assert status == 2
    assert set(judged) == {
        "path", "sha256", "config", "schema_version", "rules_version", "verdict", "games", "reasons", "rejected", "moves",
        "hashes_checked", "variants", "evidence", "seconds", "ai_findings",
    }  # fmt: skip
    assert set(judged["games"]) == {"total", "canonical", "rejected", "unfinished"}
    assert set(judged["rejected"][0]) == {"game_id", "reason", "move_number", "detail"}
    assert unreadable["path"] == str(missing)


def test_verify_reads_as_a_table(ringrift_data: Call, sample: Sample) -> None:
    _, out, err = ringrift_data("verify", sample("damaged/winner_flipped"))
    assert "winner_flipped.db" in out
    assert "result_mismatch" in out
    assert err == "", "no progress bar where nobody watches"


def test_verify_judges_again_only_what_its_store_lacks(ringrift_data: Call, sample: Sample, tmp_path: Path) -> None:
    database = sample("db/canonical_square8_4p")
    results = [ringrift_data("verify", database, "--store", tmp_path / "verdicts.db", "--json") for _ in range(2)]
    first, second = (json.loads(out)[0] for _, out, _ in results)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_verify_of_another_config_rejects(ringrift_data: Call, sample: Sample) -> None:
    status, out, _ = ringrift_data("verify", sample("db/canonical_square8_4p"), "--config", "hex8_2p", "--json")
    assert status == 1
    assert json.loads(out)[0]["reasons"] == {"wrong_config": 5}


def test_export_then_inspect(ringrift_data: Call, sample: Sample, tmp_path: Path) -> None:
    target = tmp_path / "set.npz"
    status, out, _ = ringrift_data(
        "export",
        "npz",
        "--config",
        "square8_4p",
        "--db",
        sample("db/canonical_square8_4p"),
        "--out",
        target,
        "--json",
    )
    assert status == 0
    exported = json.loads(out)
    assert (exported["samples"], exported["games"]) == (982, 5)

    status, out, _ = ringrift_data("inspect", "npz", target, "--json")
    report = json.loads(out)
    assert status == 0
    assert (report["valid"], report["errors"], report["samples"]) == (True, [], 982)
    assert (report["config"], report["sha256"]) == ("square8_4p", exported["sha256"])


@pytest.mark.parametrize(
    ("database", "config", "status", "code"),
    [
        ("damaged/truncated_midfile", "square8_2p", 2, "unreadable"),
        ("damaged/empty", "square8_2p", 1, "no_games"),
        ("db/canonical_square8_4p", "square8_2p", 1, "no_games"),
    ],
)
def test_a_failed_export_says_why_and_leaves_nothing(
    ringrift_data: Call,
    sample: Sample,
    tmp_path: Path,
    database: str,
    config: str,
    status: int,
    code: str,
) -> None:
    out_dir = tmp_path / "out"
    exited, out, err = ringrift_data(
        "export",
        "npz",
        "--config",
        config,
        "--db",
        sample(database),
        "--out",
        out_dir / "set.npz",
        "--json",
    )
    assert (exited, json.loads(out)["error"]) == (status, code)
    assert_one_line(err)
    assert not list(out_dir.glob("[!.]*")), "nothing but the hidden lock"


@pytest.mark.parametrize(("file", "status"), [("base_ok", 0), ("nan_features", 1), ("truncated", 1), ("nowhere", 2)])
def test_inspect_npz_exits_by_what_it_finds(ringrift_data: Call, file: str, status: int) -> None:
    path = Path(__file__).parents[1] / "data" / "damaged" / f"{file}.npz"
    exited, out, _ = ringrift_data("inspect", "npz", path, "--json")
    assert (exited, json.loads(out)["valid"]) == (status, status == 0)


@pytest.mark.parametrize(("name", "status"), [("db/canonical_square8_4p", 0), ("damaged/empty", 1), ("damaged/not_a_db", 2)])
def test_inspect_db_exits_by_what_it_finds(ringrift_data: Call, sample: Sample, name: str, status: int) -> None:
    exited, out, err = ringrift_data("inspect", "db", sample(name), "--json")
    assert (exited, json.loads(out)["readable"]) == (status, status != 2)
    if status == 2:
        assert_one_line(err)


def test_a_deep_check_is_for_torch_files_only(ringrift_data: Call, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a.weight": np.zeros(3, np.float32)}, path)
    exited, out, err = ringrift_data("inspect", "model", path, "--deep", "--json")
    report = json.loads(out)
    assert (exited, report["accepted"], report["deep"]["reason"]) == (2, True, "not_torch")
    assert_one_line(err)
    assert "the deep check is for torch files only" in err


def test_a_deep_check_passes_or_says_that_torch_is_missing(ringrift_data: Call, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(good("hex_v3_hex8_3p"))
    exited, out, err = ringrift_data("inspect", "model", path, "--deep")
    if find_spec("torch"):
        assert (exited, err) == (0, "")
        assert "Deep check: passed" in out
    else:
        assert exited == 2
        assert err.endswith("torch_missing: torch is not installed here; run `make torch`\n")


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [(good("hex_v3_hex8_3p"), 0, None), (archive(method=ZIP_DEFLATED), 1, "hostile_archive"), (None, 2, "unreadable")],
    ids=["good", "hostile", "nowhere"],
)
def test_inspect_model_exits_by_what_it_finds(
    ringrift_data: Call, tmp_path: Path, content: bytes | None, status: int, reason: str | None
) -> None:
    path = tmp_path / "model.pth"
    if content is not None:
        path.write_bytes(content)
    exited, out, err = ringrift_data("inspect", "model", path, "--json")
    report = json.loads(out)
    assert (exited, report["accepted"], report.get("reason")) == (status, status == 0, reason)
    if status == 0:
        assert (report["config"], report["architecture"], report["parameters"]) == ("hex8_3p", "HexNeuralNet_v3", 24570)
        assert "HexNeuralNet_v3" in ringrift_data("inspect", "model", path)[1]
    else:
        assert_one_line(err)


def test_registry_shows_claims_beside_verdicts(ringrift_data: Call, sample: Sample, home: Home, tmp_path: Path) -> None:
    (tmp_path / "TRAINING_DATA_REGISTRY.md").write_text(
        "| Database | Board Type | Players | Status | Gate Summary | Notes |\n|---|---|---|---|---|---|\n"
        "| `winner_flipped.db` | square8 | 2 | **canonical** | - | |\n"
    )
    status, out, _ = ringrift_data("registry", sample("damaged/winner_flipped"), "--registry", tmp_path, "--json")
    (database,) = json.loads(out)["databases"]
    assert database["verdict"] == "mixed"
    assert database["evidence"]["registry"]["status"] == "canonical"
    assert status == 1, "RingRift approves of what is not canonical"
    assert ringrift_data("registry", sample("damaged/winner_flipped"))[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", "x.db", "--config", "hex9_2p"],
        ["export", "npz", "--config", "hex8_2p"],
        ["inspect", "npz"],
        ["nonsense"],
        ["registry", "--registry", "/nowhere/at/all"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(ringrift_data: Call, arguments: list[str]) -> None:
    status, out, err = ringrift_data(*arguments)
    assert (status, out) == (2, "")
    assert_one_line(err)


def test_a_damaged_database_of_ours_is_one_line_and_status_2(ringrift_data: Call, sample: Sample, tmp_path: Path) -> None:
    damaged = tmp_path / "verdicts.db"
    damaged.write_bytes(b"no database" * 1000)
    status, out, err = ringrift_data("verify", sample("db/canonical_square8_4p"), "--store", damaged, "--json")
    assert (status, out) == (2, "")
    assert_one_line(err)


@pytest.mark.parametrize("command", [["verify"], ["verify", "--replay-ai"], ["inspect", "db"]])
def test_databases_whose_names_are_no_unicode_are_read(
    ringrift_data: Call, sample: Sample, tmp_path: Path, command: list[str]
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.db"))
    path.write_bytes(sample("db/canonical_square8_4p").read_bytes())
    status, out, _ = ringrift_data(*command, path, "--json")
    assert (status, "canonical" in out or "finished" in out) == (0, True)


def test_names_that_are_no_unicode_are_json_too(ringrift_data: Call, tmp_path: Path) -> None:
    status, out, _ = ringrift_data("inspect", "npz", Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.npz")), "--json")
    assert (status, "odd" in json.dumps(json.loads(out))) == (2, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(ringrift_data: Call, command: str) -> None:
    status, out, _ = ringrift_data(command, "--help")
    assert status == 0
    assert "Usage:" in out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ringrift_dagster.cli.main import run; run(['--help']); "
        "sys.exit(str(sorted({'dagster', 'numba', 'numpy', 'pyarrow'} & set(sys.modules))) if "
        "{'dagster', 'numba', 'numpy', 'pyarrow'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def assert_one_line(text: Any) -> None:
    assert text.startswith("ringrift-data: ")
    assert text.count("\n") == 1
