"""`ringrift-data models` at a prompt: every decision on record, every failure one line that says what to do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.datasets.training_sets import TrainingSet
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.models.evaluation.records import Participant
from ringrift_dagster.models.manifest import Current
from ringrift_dagster.models.promotion.decision import default_rules
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path, model_participant, opponents_of, published_path
from ringrift_dagster.models.publishing.published_set import ModelFile
from ringrift_dagster.models.publishing.published_set import publish as publish_set
from tests.models.conftest import CONFIG, exported, trained
from tests.models.making import model_file
from tests.models.promotion.test_promoting import STRONG, WEAK, played
from tests.transfer.field import running_field
from tests.transfer.test_candidates import HOSTILE, ROOM

__all__ = ["exported", "trained"]

Call = Callable[..., tuple[int, str, str]]
Register = Callable[[int], dict[str, Any]]
PARSED = parse_config(CONFIG)
RULES = default_rules(PARSED.players)
OPPONENTS = opponents_of(PARSED, None, RULES)


@pytest.fixture
def models(capfd: pytest.CaptureFixture[str], home: Home) -> Call:
    """Runs `ringrift-data models …` in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = run(["models", *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(status), out, err

    return call


@pytest.fixture
def registered(models: Call, trained: TrainingSet, home: Home, tmp_path: Path) -> Register:
    """Registers a model that qualifies; another seed is another model."""

    def register(seed: int) -> dict[str, Any]:
        assert trained.newest_game is not None
        file = model_file(tmp_path / "model.pth", CONFIG, seed)
        began = (trained.newest_game + timedelta(hours=1)).isoformat()
        npz = home.datasets / f"{CONFIG}.npz"
        status, out, _ = models(
            "register", file, "--config", CONFIG, "--training-data", npz, "--training-began", began, "--who", "anna", "--json"
        )
        answer = json.loads(out)
        assert (status, answer["problems"], answer["training_data_sha256"]) == (0, [], trained.sha256)
        return answer

    return register


def strong(home: Home, sha256: str, *others: Participant) -> None:
    """Evidence now with which the default rules promote."""
    for opponent in (*OPPONENTS.values(), *others):
        played(home, sha256, opponent, STRONG, ended=time.time())


def test_from_a_checkpoint_to_the_current_model_and_back(models: Call, registered: Register, home: Home) -> None:
    first, second, third = (registered(seed)["sha256"] for seed in (1, 2, 3))
    status, out, _ = models("decide", "--candidate", first[:12])
    assert (status, "More games are needed." in out) == (1, True)
    strong(home, first)
    status, out, _ = models("decide", "--candidate", first[:12], "--who", "anna")
    assert (status, "Promoted." in out) == (0, True)

    strong(home, second, model_participant(first, RULES))
    assert models("decide", "--candidate", second[:12], "--dry-run")[0] == 0
    assert json.loads(models("history", "--config", CONFIG, "--json")[1])["current"]["sha256"] == first
    assert models("decide", "--candidate", second[:12], "--who", "ben")[0] == 0

    strong(home, third)
    played(home, third, model_participant(second, RULES), WEAK, ended=time.time())
    status, out, _ = models("decide", "--candidate", third[:12])
    assert (status, "Refused." in out, "not stronger than the incumbent" in out) == (1, True, True)

    states = {row["sha256"]: row["state"] for row in json.loads(models("list", "--config", CONFIG, "--json")[1])["models"]}
    assert states == {first: "former", second: "current", third: "refused"}

    status, out, _ = models("rollback", "--config", CONFIG, "--why", "it hung", "--who", "carla")
    assert (status, out) == (0, f"{first[:12]} is the current model of {CONFIG} again\n")
    assert models("pin", "--config", CONFIG, "--why", "release")[:2] == (0, f"{CONFIG} is pinned to {first[:12]}\n")
    status, _, err = models("rollback", "--config", CONFIG, "--to", second[:12], "--why", "no")
    assert (status, "release it with" in err, err.count("\n")) == (1, True, 1)
    assert models("pin", "--config", CONFIG, "--why", "over", "--release")[0] == 0

    published = home.models / "published"
    assert hashlib.sha256((published / f"canonical_{CONFIG}.pth").read_bytes()).hexdigest() == first
    assert (published / "ringrift_best_sq8_4p.pth.sha256").read_text().startswith(first)
    assert models("publish")[:2][0] == 0

    answer = json.loads(models("history", "--config", CONFIG, "--json")[1])
    assert answer["current"]["sha256"] == first
    assert [(entry["kind"], entry["sha256"], entry["why"]) for entry in answer["decisions"]][1:3] == [
        ("pin", first, "release"), ("rollback", first, "it hung"),
    ]  # fmt: skip
    status, out, _ = models("history", "--config", CONFIG)
    assert status == 0
    assert f"{first} was current for {CONFIG} now" in out
    assert re.search(r"trained on \d+ games, NPZ [0-9a-f]{64}, game digests [0-9a-f]{64}", out)
    assert "by anna" in out


def test_show_says_what_is_known_and_what_a_decision_would_be(models: Call, registered: Register) -> None:
    sha256 = registered(1)["sha256"]
    status, out, _ = models("show", sha256[:12])
    assert status == 0
    for expected in (sha256, "TestNet", "square_v2", "registered", "by anna", "More games are needed."):
        assert expected in out
    answer = json.loads(models("show", sha256[:12], "--json")[1])
    assert answer["decision"]["verdict"] == "continue"
    assert answer["training_set"]["canonical"] is True


def test_what_was_decided_but_not_published_is_published_later(models: Call, registered: Register, home: Home) -> None:
    sha256 = registered(1)["sha256"]
    strong(home, sha256)
    foreign = home.models / "published" / "mine.pth"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    status, _, err = models("decide", "--candidate", sha256[:12])
    assert (status, err.count("\n")) == (1, 1)
    for expected in ("the decision stands, but is not published", "then run `ringrift-data models publish`"):
        assert expected in err
    assert foreign.read_bytes() == b"mine"
    status, _, err = models("publish")
    assert (status, "move them away" in err, "decision" in err, "models publish" in err) == (1, True, False, False)
    foreign.rename(home.models / "mine.pth")
    status, out, _ = models("publish", "--json")
    answer = json.loads(out)
    assert (status, answer["switched"], answer["models"][CONFIG]["sha256"]) == (0, True, sha256)
    assert json.loads(models("publish", "--json")[1])["switched"] is False


def test_a_later_promotion_that_is_published_and_not_in_the_log_is_bad_news(
    models: Call, registered: Register, home: Home, tmp_path: Path
) -> None:
    sha256 = registered(1)["sha256"]
    strong(home, sha256)
    other = model_file(tmp_path / "other.pth", CONFIG, 2)
    later = Current(sha256=file_sha256(other), promoted_at=1e11)
    publish_set(published_path(home), {CONFIG: ModelFile(later, other)})
    status, _, err = models("decide", "--candidate", sha256[:12])
    assert (status, err.count("\n"), later.sha256[:12] in err) == (1, 1, True)
    assert f"{CONFIG} is published with a later promotion" in err
    assert models("publish")[0] == 1


def test_a_checkpoint_whose_name_is_not_unicode_is_registered(models: Call, tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.pth", CONFIG).rename(tmp_path / os.fsdecode(b"m\xff\n.pth"))
    status, out, _ = models("register", file, "--config", CONFIG, "--json")
    assert (status, json.loads(out)["origin"]) == (1, r"file:m\udcff\n.pth")


def test_a_training_set_that_is_a_pipe_is_not_waited_for(models: Call, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    status, _, err = models("register", "m.pth", "--config", CONFIG, "--training-data", tmp_path / "pipe")
    assert (status, "is not a regular file" in err, err.count("\n")) == (2, True, 1)


def test_a_home_of_a_user_who_is_unknown_is_named(models: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_DATA_HOME", "~nosuchuser/x")
    status, _, err = models("list")
    assert (status, err.count("\n")) == (2, 1)
    assert "$RINGRIFT_DATA_HOME is '~nosuchuser/x'" in err


@pytest.mark.parametrize("closed", ["<&- >&-", ">&- 2>&-"])
def test_output_that_is_closed_costs_nothing_but_the_output(home: Home, closed: str) -> None:
    code = "from ringrift_dagster.cli.main import main; main()"
    for option in ("", "--json"):
        command = ["sh", "-c", f'exec "$0" -c "$1" models list {option} {closed}', sys.executable, code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_disqualifies_a_checkpoint_is_listed_when_it_is_registered(models: Call, tmp_path: Path) -> None:
    status, out, _ = models("register", model_file(tmp_path / "m.pth", "hex8_2p"), "--config", CONFIG)
    assert status == 1
    for code in ("config_mismatch", "channels_mismatch", "policy_mismatch", "provenance_unknown", "training_time_unknown"):
        assert code in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("show", "0" * 12), 2, "no candidate begins with 000000000000: `ringrift-data models list` shows all"),
        (("show", "abc"), 2, "too short"),
        (("decide", "--candidate", "0" * 12, "--config", "hex8_2p"), 2, "no candidate of hex8_2p begins with"),
        (("history", "--config", "hex9_2p"), 2, "no config key in 'hex9_2p'"),
        (("history", "--config", "hex8_2p", "--at", "tomorrow"), 2, "is no date: write it as"),
        (("rollback", "--config", "hex8_2p", "--why", "x"), 1, "no model of hex8_2p was ever promoted"),
        (("rollback", "--config", "hex8_2p"), 2, "Missing option '--why'"),
        (("pin", "--config", "hex8_2p", "--why", "x"), 1, "none to pin"),
        (("register", "/nowhere/m.pth", "--config", "hex8_2p"), 2, "/nowhere/m.pth: No such file or directory"),
        (("register", "m.pth", "--config", "hex8_2p", "--training-data", "/dev/zero"), 2, "/dev/zero is not a regular file"),
        (("register", "m.pth", "--config", "hex8_2p", "--training-data", "/nowhere.npz"), 2, "/nowhere.npz: No such file"),
        (("register", "m.pth", "--config", "hex8_2p", "--origin", "x" * 501), 2, "'--origin': give 1 to 500 printable"),
        (("register", "m.pth", "--config", "hex8_2p", "--origin", "\udcff"), 2, "'--origin': give 1 to 500 printable"),
        (("register", "m.pth", "--config", "hex8_2p", "--who", "x" * 501), 2, "'--who': give 1 to 500 printable"),
        (("rollback", "--config", "hex8_2p", "--why", "\udcff"), 2, "'--why': give 1 to 500 printable"),
        (("rollback", "--config", "hex8_2p", "--why", ""), 2, "'--why': give 1 to 500 printable"),
        (("pin", "--config", "hex8_2p", "--why", "x", "--who", " "), 2, "'--who': give 1 to 500 printable"),
        (("pin", "--config", "hex8_2p", "--why", "two\nlines"), 2, "'--why': give 1 to 500 printable"),
        (("history", "--config", "hex8_2p", "--at", "0001-01-01T00:00:00+14:00"), 2, "is not between 1970 and 9999"),
        (("history", "--config", "hex8_2p", "--at", "9999-12-31T23:59:59-14:00"), 2, "is not between 1970 and 9999"),
        (("history", "--config", "hex8_2p", "--at", "1969-12-31"), 2, "is not between 1970 and 9999"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_are_one_line_that_says_what_to_do(arguments: tuple[str, ...], status: int, message: str, models: Call) -> None:
    exited, out, err = models(*arguments)
    assert (exited, out, err.count("\n")) == (status, "", 1)
    assert message in err


def test_a_file_that_is_no_model_is_refused_with_its_reason(models: Call, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x80\x02cos\nsystem\n(S'touch /tmp/x'\ntR.")
    status, _, err = models("register", path, "--config", CONFIG)
    assert (status, err.count("\n")) == (1, 1)
    assert "forbidden_global" in err or "corrupt_pickle" in err or "truncated" in err


def test_evaluation_says_what_cannot_play(models: Call, registered: Register) -> None:
    sha256 = registered(1)["sha256"]
    for against, message in (
        ("incumbent", "has no current model yet"),
        ("chess", "opponents are incumbent and the AIs that we play"),
        (" ,", "--against names no opponent"),
    ):
        status, _, err = models("evaluate", "--candidate", sha256[:12], "--config", CONFIG, "--against", against)
        assert (status, message in err, err.count("\n")) == (2, True, 1)


def test_before_the_first_promotion_no_model_was_current(models: Call, registered: Register, home: Home) -> None:
    sha256 = registered(1)["sha256"]
    strong(home, sha256)
    assert models("decide", "--candidate", sha256[:12])[0] == 0
    status, out, _ = models("history", "--config", CONFIG, "--at", "2020-01-01")
    assert (status, "no model of square8_4p was current at" in out) == (1, True)
    status, out, _ = models("history", "--config", CONFIG, "--at", "1970-01-01T00:00:00+00:00")
    assert (status, f"no model of {CONFIG} was current at 1970-01-01 00:00:00" in out) == (1, True)
    for late in ("2999-01-01", "9999-12-31"):
        assert models("history", "--config", CONFIG, "--at", late)[0] == 0


def test_without_candidates_the_list_says_how_to_get_one(models: Call) -> None:
    status, out, _ = models("list")
    assert (status, "models register FILE" in out) == (0, True)


def test_checkpoints_on_hosts_are_found_at_a_prompt(models: Call, home: Home, tmp_path: Path) -> None:
    data = model_file(tmp_path / "model.pth", CONFIG, 1).read_bytes()
    with running_field(tmp_path, {"gpu-1": ""}, sections=ROOM) as field:
        hosts = ("--hosts-file", tmp_path / "hosts.yaml")
        assert models("find", *hosts)[:2] == (0, "no new candidates\n")
        sha256 = field.put("gpu-1", data, f"models/candidate_{CONFIG}.pth")
        hostile = field.put("gpu-1", HOSTILE, f"models/candidate_{CONFIG}_h.pth")
        field.refresh()
        field.agents["gpu-1"].kill()
        status, out, err = models("find", "--config", CONFIG, *hosts, "--json")
        assert (status, err.count("\n"), "2 checkpoints were not fetched" in err) == (1, 1, True)
        assert {entry["cause"] for entry in json.loads(out)[CONFIG]["missed"]} == {"no_source"}
        field.restart("gpu-1")
        field.refresh()
        status, out, err = models("find", *hosts)
        assert (status, err, sha256[:12] in out, hostile[:12] in out) == (1, "", True, True)
        assert models("find", *hosts)[:2] == (0, "no new candidates\n")
    listed = json.loads(models("list", "--json")[1])
    assert [row["origin"] for row in listed["models"]] == [f"gpu-1: models/candidate_{CONFIG}.pth"]
    assert [(row["sha256"], row["reason"]) for row in listed["refused_checkpoints"]] == [(hostile, "forbidden_global")]
    assert "forbidden_global" in models("list")[1]


def test_without_a_hosts_file_nothing_can_be_found(models: Call) -> None:
    status, out, err = models("find")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "$RINGRIFT_HOSTS_FILE" in err


def test_a_record_that_cannot_be_read_is_named(models: Call, home: Home) -> None:
    record = home.models / "candidates" / CONFIG / f"{'0' * 64}.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    status, out, err = models("list", "--json")
    assert (status, json.loads(out)["unreadable"]) == (0, [str(record)])
    assert err == f"ringrift-data: {record}: a record that cannot be read; register its file again\n"


def test_a_database_that_cannot_be_used_is_named(models: Call, home: Home) -> None:
    database = log_path(home)
    database.parent.mkdir(parents=True)
    database.write_bytes(b"no database" * 1000)
    assert models("list") == (2, "", f"ringrift-data: {database} cannot be used: file is not a database\n")
    database.unlink()
    with DecisionLog(database) as log:
        log.append(CONFIG, "refuse", "0" * 64, who="anna", why="it is worse", record={}, expected=None)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TRIGGER decisions_update")
        connection.execute("UPDATE decisions SET record = '{'")
    status, out, err = models("history", "--config", CONFIG)
    assert (status, out) == (2, "")
    assert err.startswith(f"ringrift-data: {database} cannot be used: decision 1 cannot be read")
    assert err.count("\n") == 1


def test_promotions_that_ringrift_recorded_are_shown_with_what_they_lack(models: Call, tmp_path: Path) -> None:
    file = tmp_path / "promoted_models.json"
    entry = {"alias_id": "ringrift_best_sq8_2p", "model_id": "ringrift_v4_sq8_2p", "elo_rating": 1625.8, "games_played": 45}
    file.write_text(json.dumps({"models": {"square8_2p": {**entry, "promoted_at": "2025-12-14T01:43:21Z"}}}))
    status, out, err = models("evidence", file, "--json")
    (shown,) = json.loads(out)
    assert (status, err) == (0, "")
    assert (shown["source"], shown["config"], shown["lacks"]) == ("promoted_models", "square8_2p", ["no_hash", "no_evidence"])
    status, out, _ = models("evidence", file)
    assert "ringrift_best_sq8_2p" in out
    assert "The model is named, not identified" in out
    file.write_text(json.dumps([{"model_id": "ringrift_v4_sq8_2p", "rating": 1625.8}]))
    assert json.loads(models("evidence", file, "--json")[1])[0]["source"] == "elo_export"
