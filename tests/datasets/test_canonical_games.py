"""The canonical store: who may append to it and when, what a crash leaves, and what the quarantine list holds."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from ringrift_dagster.datasets import canonical_games
from ringrift_dagster.datasets.canonical_games import StoreBusy, append_canonical, check_store, quarantined, summarise
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home

CONFIG = "square8_2p"

# Says "waiting" when it waits for another append, "judging" at its first game, and then stops until it is told to go on.
APPEND = """
import sys, time
from pathlib import Path
from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.home import Home

def progress(path, done, total):
    if done == 1:
        print("judging", flush=True)
        sys.stdin.readline()

def sleep(seconds, sleep=time.sleep):
    print("waiting", flush=True)
    sleep(seconds)

time.sleep = sleep
result = append_canonical("square8_2p", [Path(sys.argv[1])], Home(Path(sys.argv[2])), progress)
print(result.accepted, result.already, flush=True)
"""


def _start(database: Path, home: Home) -> tuple[subprocess.Popen[str], str]:
    """A process that appends, and the first that it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", APPEND, str(database), str(home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _last_line(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate("\n", timeout=120)
    return said.splitlines()[-1]


@pytest.fixture
def database(recorded: Callable[[str], Path]) -> Path:
    """Thirty games."""
    return recorded("canonical_square8_2p")


@pytest.fixture
def part(database: Path, tmp_path: Path) -> Path:
    """Twenty-five of them, in an older snapshot."""
    path = Path(shutil.copy(database, tmp_path / "part.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM games WHERE rowid IN (SELECT rowid FROM games LIMIT 5)")
        connection.commit()
    return path


def test_a_second_process_waits_and_stores_only_what_the_first_did_not(database: Path, part: Path, home: Home) -> None:
    first, said = _start(part, home)
    assert said == "judging"
    second, said = _start(database, home)
    assert _last_line(first) == "25 0"
    assert (said, _last_line(second)) == ("waiting", "5 25")
    assert (summarise(CONFIG, home).games, check_store(CONFIG, home)) == (30, [])


def test_who_waited_long_enough_is_refused_and_other_configs_do_not_wait(
    database: Path, recorded: Callable[[str], Path], home: Home
) -> None:
    first, said = _start(database, home)
    assert said == "judging"
    with pytest.raises(StoreBusy, match=r"^another process is adding games to the store of square8_2p: "):
        append_canonical(CONFIG, [database], home, wait_seconds=0)
    other = append_canonical("square8_4p", [recorded("canonical_square8_4p")], home, wait_seconds=0)
    assert (other.accepted, _last_line(first)) == (5, "30 0")


def test_a_process_that_was_killed_holds_nobody_up_and_leaves_nothing(database: Path, home: Home) -> None:
    killed, said = _start(database, home)
    assert said == "judging"
    killed.kill()
    killed.communicate(timeout=60)
    (home.canonical / CONFIG).mkdir()
    half = home.canonical / CONFIG / ".moves-000000.1.part"
    half.write_bytes(b"half a file")
    assert append_canonical(CONFIG, [database], home, wait_seconds=0).accepted == 30
    assert not half.exists()


def test_verdicts_are_durable_before_their_games_are_stored(database: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts without games are harmless: a crash between the two costs one quick look, and nothing is stored twice."""

    def full(staged: Path, final: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(canonical_games, "_GAMES_PER_FILE", 20)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(canonical_games, "publish", full)
        broken.setattr(canonical_games.VerdictStore, "__exit__", lambda *_: None)  # a crash commits nothing on leaving
        append_canonical(CONFIG, [database], home)
    with closing(sqlite3.connect(home.verdicts)) as verdicts:
        assert verdicts.execute("SELECT COUNT(*) FROM verdicts").fetchone() == (20,)
    assert append_canonical(CONFIG, [database], home).accepted == 30
    assert append_canonical(CONFIG, [database], home).already == 30
    assert check_store(CONFIG, home) == []


def test_long_games_are_written_before_they_fill_the_memory(
    database: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = append_canonical(CONFIG, [database], Home(tmp_path / "whole"))
    assert len(whole.files) == 2
    monkeypatch.setattr(canonical_games, "_MOVES_PER_FILE", 1000)
    parts = append_canonical(CONFIG, [database], home)
    moves = [pq.read_metadata(path).num_rows for path in parts.files if path.name.startswith("moves-")]
    assert len(moves) == 4
    assert all(1000 <= rows < 1300 for rows in moves[:-1])
    assert (parts.digest_root, parts.moves_total) == (whole.digest_root, whole.moves_total)
    assert check_store(CONFIG, home) == []


def _snapshot_with_lies(database: Path, into: Path, number: int) -> Path:
    """A snapshot of a source that grows: ten games with a wrong winner, and a new file each time."""
    path = Path(shutil.copy(database, into / "snapshot.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE games SET winner = 3 - winner WHERE rowid IN (SELECT rowid FROM games LIMIT 10)")
        connection.execute("UPDATE games SET duration_ms = ?", (number,))
        connection.commit()
    return path.rename(into / f"{file_sha256(path)}.db")


def _lines(home: Home) -> list[bytes]:
    return (home.quarantine / f"{CONFIG}.jsonl").read_bytes().splitlines()


def test_a_rejected_game_is_one_line_however_many_snapshots_show_it(database: Path, home: Home, tmp_path: Path) -> None:
    snapshots = [_snapshot_with_lies(database, tmp_path, number) for number in range(3)]
    for snapshot in snapshots:
        assert append_canonical(CONFIG, [snapshot], home).rejected == 10
    assert {entry["database"] for entry in quarantined(CONFIG, home)} == {snapshots[0].name}
    assert len(_lines(home)) == 10


def test_a_list_that_was_torn_or_has_lines_twice_is_mended_with_the_next_rejection(
    database: Path, damaged: Callable[[str], Path], home: Home, tmp_path: Path
) -> None:
    append_canonical(CONFIG, [damaged("winner_flipped")], home)
    (line,) = _lines(home)
    again = line.replace(b"winner_flipped.db", b"later.db")
    path = home.quarantine / f"{CONFIG}.jsonl"
    path.write_bytes(b"\n".join([line, again, b"[1]", b'{"game_id": 3, "reason": "x"}', b'{"database": "x", "ga']))
    assert len(quarantined(CONFIG, home)) == 2
    more = append_canonical(CONFIG, [_snapshot_with_lies(database, tmp_path, 0)], home).rejected
    assert more
    assert _lines(home)[0] == line
    assert len([orjson.loads(entry) for entry in _lines(home)]) == 1 + more
    assert [path.name for path in home.quarantine.iterdir()] == [f"{CONFIG}.jsonl"]
