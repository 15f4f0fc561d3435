"""`ringrift-data selfplay`, and `verify --replay-ai` on what it wrote: one line that says what to do, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.cli.main import run
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.recording import GameRecorder
from ringrift_dagster.home import Home

Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.timeout(900)  # where machine code has to be compiled first, on a machine that others share

PROJECT = Path(__file__).parents[2]
OPTIONS = {"--config": "square8_2p", "--games": "2", "--seed": "7", "--ai": "random", "--workers": "1"}


@pytest.fixture
def ringrift_data(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process; gives (exit status, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = run([str(argument) for argument in arguments])
        return int(status), *capfd.readouterr()

    return call


def words(*flags: str, **changed: object) -> list[str]:
    """The command line of `selfplay`: OPTIONS, some of them changed."""
    options = {**OPTIONS, **{f"--{name}": str(value) for name, value in changed.items()}}
    return ["selfplay", *(word for option in options.items() for word in option), *flags]


def one_line(text: str) -> str:
    """What a command complained about; it is one line."""
    assert text.startswith("ringrift-data: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text.removeprefix("ringrift-data: ").rstrip("\n")


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [game_id for (game_id,) in connection.execute("SELECT game_id FROM games ORDER BY rowid")]


@pytest.fixture
def database(ringrift_data: Call, tmp_path: Path) -> Path:
    """A database of two games."""
    path = tmp_path / "games.db"
    assert ringrift_data(*words(out=path))[0] == 0
    return path


def test_games_are_played_and_shown_as_a_table(ringrift_data: Call, tmp_path: Path) -> None:
    status, out, err = ringrift_data(*words(out=tmp_path / "games.db"))
    assert (status, err) == (0, ""), "no progress bar where nobody watches"
    assert "square8_2p" in out
    assert "games/s" in out
    assert len(ids(tmp_path / "games.db")) == 2


def test_json_is_nothing_but_json(ringrift_data: Call, tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    status, out, err = ringrift_data(*words("--json", out=path, ai="heuristic,mcts:4"))
    output = json.loads(out)
    assert (status, err) == (0, "")
    assert set(output) == {"path", "games", "resumed", "moves", "seconds", "digests", "config", "seed", "ais"}
    assert (output["path"], output["games"], output["resumed"], output["config"]) == (str(path), 2, 0, "square8_2p")
    assert (output["seed"], output["ais"], len(output["digests"])) == (7, ["heuristic", "mcts:4"], 2)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT SUM(total_moves) FROM games").fetchone() == (output["moves"],)
    again = json.loads(ringrift_data(*words("--json", "--resume", out=path, ai="heuristic,mcts:4", games=3))[1])
    assert (again["games"], again["resumed"], again["digests"][:2]) == (3, 2, output["digests"])


def test_without_out_games_go_where_the_pipeline_looks_for_them(ringrift_data: Call, home: Home) -> None:
    status, out, _ = ringrift_data(*words("--json"))
    assert status == 0
    assert json.loads(out)["path"] == str(home.selfplay / "ringrift_dagster_square8_2p_7.db")
    assert len(ids(home.selfplay / "ringrift_dagster_square8_2p_7.db")) == 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"config": "hex9_2p"}, "hex9_2p"),
        (
            {"ai": "heuristics"},
            "unknown AI 'heuristics' (nearest: heuristic, heuristic_strong); self-play takes random, heuristic, mcts:N",
        ),
        ({"ai": "heuristic,"}, "no AI is named in ''; self-play takes"),
        ({"ai": "descent"}, "descent is played by RingRift only"),
        ({"ai": "descent_nn"}, "is no AI type but a name that RingRift uses"),
        ({"ai": "mcts:0"}, "'0' is no budget for mcts: write mcts:N with 1 to 100000 simulations, or mcts for 64"),
        ({"ai": "mcts:100001"}, "write mcts:N with"),
        ({"ai": "mcts:many"}, "'many' is no budget"),
        ({"ai": "mcts:"}, "a budget is missing"),
        ({"ai": "random:5"}, "random takes no budget: write random"),
        ({"games": 0}, "0 is not in the range x>=1"),
        ({"games": 1_000_001}, "the number of games is 1 to 1,000,000, not 1000001"),
        ({"games": "ten"}, "'ten' is not a valid integer"),
        ({"workers": 0}, "0 is not in the range x>=1"),
        ({"workers": 65}, "the number of workers is 1 to 64, not 65"),
        ({"seed": -1}, "-1 is not in the range x>=0"),
        ({"seed": 2**63}, "the seed is a number from 0 to 9223372036854775807, not 9223372036854775808"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_usage_is_one_line_and_status_2(changed: dict[str, object], says: str, ringrift_data: Call, tmp_path: Path) -> None:
    status, out, err = ringrift_data(*words(**{"out": tmp_path / "new" / "games.db", **changed}))
    assert (status, out) == (2, "")
    assert says in one_line(err)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_sides_are_swapped_with_two_players_only(ringrift_data: Call, tmp_path: Path) -> None:
    status, out, err = ringrift_data(*words("--swap-rule", config="hex8_3p", out=tmp_path / "games.db"))
    assert (status, out) == (2, "")
    assert "sides are swapped with two players only, not in hex8_3p" in one_line(err)
    assert ringrift_data(*words("--swap-rule", out=tmp_path / "games.db"))[0] == 0


def test_what_has_to_be_said_is_asked_for(ringrift_data: Call) -> None:
    for missing in ("--config", "--games", "--seed"):
        options = [word for name, value in OPTIONS.items() if name != missing for word in (name, value)]
        status, out, err = ringrift_data("selfplay", *options)
        assert (status, out) == (2, "")
        assert missing in one_line(err)


def test_more_cores_than_workers_are_allowed_is_no_error(
    ringrift_data: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(200)))
    options = [word for name, value in OPTIONS.items() if name != "--workers" for word in (name, value)]
    assert ringrift_data("selfplay", *options, "--games", "1", "--out", tmp_path / "games.db")[0] == 0


# Where it cannot be written -------------------------------------------------------------------------------------------------


def test_a_database_that_exists_is_continued_only_when_asked(ringrift_data: Call, database: Path) -> None:
    before = fingerprint(database)
    status, out, err = ringrift_data(*words(out=database, games=3))
    assert (status, out) == (2, "")
    assert one_line(err) == f"{database}: exists already: add --resume to continue it, or write to another file"
    assert fingerprint(database) == before
    assert ringrift_data(*words("--resume", out=database, games=3))[0] == 0
    assert len(ids(database)) == 3


def test_a_path_that_is_no_file_is_refused(ringrift_data: Call, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path, options in (("", ()), (pipe, ("--resume",))):
        status, out, err = ringrift_data(*words(*options, out=path))
        assert (status, out) == (2, "")
        assert one_line(err) == f"{path or '.'}: is no regular file: write to another path"


def test_resume_begins_where_there_is_nothing(ringrift_data: Call, tmp_path: Path) -> None:
    assert ringrift_data(*words("--resume", out=tmp_path / "a" / "b" / "games.db"))[0] == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 8}, "was made with seed 7, not 8"),
        ({"ai": "heuristic"}, "was made with ais random, not heuristic"),
        ({"config": "hex8_2p"}, "was made with config square8_2p, not hex8_2p"),
    ],
    ids=["seed", "ai", "config"],
)
def test_a_database_of_other_games_is_left_alone(
    changed: dict[str, object], says: str, ringrift_data: Call, database: Path
) -> None:
    before = fingerprint(database)
    status, out, err = ringrift_data(*words("--resume", **{"out": database, "games": 5, **changed}))
    assert (status, out) == (2, "")
    assert one_line(err) == f"{database}: {says}: write to another file"
    assert fingerprint(database) == before


def test_a_database_of_the_other_swap_rule_or_engine_is_left_alone(ringrift_data: Call, database: Path) -> None:
    status, _, err = ringrift_data(*words("--resume", "--swap-rule", out=database))
    assert (status, one_line(err)) == (2, f"{database}: was made with swap rule false, not true: write to another file")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE schema_metadata SET value = '0' WHERE key = 'ringrift_dagster_engine_version'")
    status, _, err = ringrift_data(*words("--resume", out=database))
    assert (status, one_line(err)) == (2, f"{database}: was made with engine version 0, not 1: write to another file")


def test_ringrifts_database_is_left_alone(ringrift_data: Call, give: Callable[..., Path]) -> None:
    path = give("db/canonical_square8_2p")
    before = fingerprint(path)
    status, _, err = ringrift_data(*words("--resume", out=path))
    assert (status, "write to another file" in one_line(err)) == (2, True)
    assert fingerprint(path) == before


def test_another_kind_of_database_is_left_alone(ringrift_data: Call, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE accounts (id INTEGER)")
    before = fingerprint(path)
    status, _, err = ringrift_data(*words("--resume", out=path))
    assert (status, one_line(err)) == (2, f"{path}: is another kind of database: write to another file")
    assert fingerprint(path) == before


def test_a_file_that_is_no_database_is_left_alone(ringrift_data: Call, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("what I must not lose\n" * 100)
    for flags in ((), ("--resume",)):
        status, _, err = ringrift_data(*words(*flags, out=path))
        assert (status, "write to another file" in one_line(err)) == (2, True)
        assert path.read_text() == "what I must not lose\n" * 100


def test_a_directory_is_no_output(ringrift_data: Call, tmp_path: Path) -> None:
    status, out, err = ringrift_data(*words(out=tmp_path))
    assert (status, out) == (2, "")
    assert "is a directory" in one_line(err)


def test_a_directory_that_cannot_be_made_or_written_to_is_one_line(ringrift_data: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "games.db", Path("/proc/games.db"), tmp_path / ("x" * 300) / "games.db"):
        status, out, err = ringrift_data(*words(out=path))
        assert (status, out) == (2, "")
        assert str(path.parent) in one_line(err)


@pytest.mark.parametrize("name", [":memory:", "file:games.db?mode=memory"])
def test_a_name_that_sqlite_reads_otherwise_is_a_file(
    name: str, ringrift_data: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ringrift_data(*words(out=name))[0] == 0
    assert (tmp_path / name).is_file()


def test_of_two_writers_the_second_is_refused(ringrift_data: Call, database: Path) -> None:
    config, about = parse_config("square8_2p"), {"seed": "7", "ais": "random", "swap_rule": "false", "engine_version": "1"}
    with GameRecorder(database, config, about):
        status, out, err = ringrift_data(*words("--resume", out=database, games=4))
        assert (status, out) == (2, "")
        assert one_line(err) == f"{database}: another process is writing games to it: wait for it, or write elsewhere"
    assert ringrift_data(*words("--resume", out=database, games=4))[0] == 0
    assert len(ids(database)) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_loses_no_game(workers: int, ringrift_data: Call, tmp_path: Path) -> None:
    """The size of files is limited once a game is written, and machine code loaded."""
    program = f"""
        import resource, sys
        from ringrift_dagster.cli.main import run

        assert run(sys.argv[1:] + ["--games", "1"]) == 0
        limit = 1 << 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sys.exit(run(sys.argv[1:] + ["--games", "1000", "--workers", "{workers}", "--resume"]))
    """
    path = tmp_path / "games.db"
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *words(out=path)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert one_line(ended.stderr).startswith(f"{path}: the disk ")
    assert "make room" in ended.stderr
    assert "resume" in ended.stderr
    there = ids(path)
    assert 1 <= len(there) < 1000
    status, out, _ = ringrift_data(*words("--json", "--resume", out=path, games=len(there) + 1))
    output = json.loads(out)
    assert (status, output["resumed"], output["games"]) == (0, len(there), len(there) + 1)
    assert ids(path)[:-1] == there
    assert ringrift_data("verify", path, "--replay-ai")[0] == 0


# Replaying AIs --------------------------------------------------------------------------------------------------------------


def test_verify_replays_the_ais_of_our_games(ringrift_data: Call, tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    ringrift_data(*words(out=path, ai="heuristic,mcts:4"))
    status, out, err = ringrift_data("verify", path, "--replay-ai", "--json")
    (output,) = json.loads(out)
    assert (status, err) == (0, "")
    assert (output["verdict"], output["ai_findings"]["counts"]) == ("canonical", {})
    assert [game["outcome"] for game in output["ai_replay"]] == ["same", "same"]
    assert {game["game_id"] for game in output["ai_replay"]} == set(ids(path))
    assert all(game["decisions"] > 20 and game["move_number"] is None for game in output["ai_replay"])
    assert "AI replay" in ringrift_data("verify", path, "--replay-ai")[1]
    assert "ai_replay" not in json.loads(ringrift_data("verify", path, "--json")[1])[0]


def test_a_game_that_is_legal_but_not_what_its_ai_chooses_is_bad_news(ringrift_data: Call, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        (first, text) = connection.execute("SELECT game_id, metadata_json FROM games ORDER BY rowid").fetchone()
        changed = text.replace('"seed_path":"7/square8_2p/0"', '"seed_path":"7/square8_2p/5"')
        assert changed != text
        connection.execute("UPDATE games SET metadata_json = ? WHERE game_id = ?", (changed, first))
    assert ringrift_data("verify", database)[0] == 0
    status, out, _ = ringrift_data("verify", database, "--replay-ai", "--json")
    (output,) = json.loads(out)
    assert (status, output["verdict"]) == (1, "canonical")
    outcomes = {game["game_id"]: game for game in output["ai_replay"]}
    assert outcomes[first]["outcome"] == "different"
    assert isinstance(outcomes[first]["move_number"], int)
    assert [game["outcome"] for game_id, game in outcomes.items() if game_id != first] == ["same"]
    shown = ringrift_data("verify", database, "--replay-ai")[1]
    assert "Games in which an AI chooses another move" in shown
    assert first in shown


def test_ringrifts_games_cannot_be_replayed_and_that_is_no_bad_news(ringrift_data: Call, recorded: Callable[[str], Path]) -> None:
    status, out, _ = ringrift_data("verify", recorded("canonical_square8_4p"), "--replay-ai", "--json")
    (output,) = json.loads(out)
    assert status == 0
    assert {game["outcome"] for game in output["ai_replay"]} == {"cannot"}
    assert all(game["detail"] for game in output["ai_replay"])
