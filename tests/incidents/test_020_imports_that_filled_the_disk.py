"""Imports filled a disk with 200 GB, and the clean-up passed them over because of a word in their names."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.games.config import UnknownConfig, parse_config
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.transfer.placement import Unplaceable, place
from ringrift_dagster.transfer.publish import NotPublished
from tests.transfer.arrivals import bring_games, ordered
from tests.transfer.databases import contents, make

LIVE = "data/games/canonical_square8_2p.db"
# Runs in a mount namespace of its own, on a disk of 12 MB: brings a database into another while there is hardly any room.
ON_A_SMALL_DISK = """
import json, os, sqlite3, subprocess, sys
from pathlib import Path

disk, live, incoming = (Path(each) for each in sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)

from ringrift_dagster.transfer.part import disk_cause
from ringrift_dagster.transfer.publish import NotPublished
from tests.transfer.arrivals import bring_games

needed = incoming.stat().st_size
folder = disk / "data/games"
folder.mkdir(parents=True)
target = folder / "selfplay.db"
target.write_bytes(live.read_bytes())

def fill(leave):
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, room - leave)))

def bring():
    try:
        return [bring_games(disk, incoming, "data/games/selfplay.db").merged, None]
    except NotPublished as failure:
        return [failure.cause, sorted(path.name for path in folder.iterdir())]
    except OSError as error:
        return [disk_cause(error), sorted(path.name for path in folder.iterdir())]

def games():
    connection = sqlite3.connect(target)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    count = connection.execute("SELECT COUNT(*) FROM games").fetchone()[0]
    connection.close()
    return count

told = []
fill(needed // 2)  # the part itself does not fit
told.append([*bring(), games()])
(disk / "filler").unlink()
fill(needed // 2 + (64 << 10))  # the part does, the merge does not
told.append([*bring(), games()])
(disk / "filler").unlink()
told.append([*bring(), games()])
told.append(sorted(path.name for path in folder.iterdir()))
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
told.append(bring())
print(json.dumps(told))
"""


def test_on_a_full_disk_nothing_is_lost_and_once_there_is_room_it_goes_on(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    like = recorded("square8_2p_full")
    live = make(tmp_path / "live.db", like, [(f"old{number}", "kept") for number in range(50)], log=False)
    incoming = make(tmp_path / "incoming.db", like, [(f"new{number}", "came") for number in range(1000)], log=False)
    (tmp_path / "disk").mkdir()
    ended = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / "disk"), str(live), str(incoming)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    part_does_not_fit, merge_does_not, with_room, left, read_only = json.loads(ended.stdout)
    assert (part_does_not_fit[0], part_does_not_fit[2]) == ("no_room", 50)
    assert (merge_does_not[0], merge_does_not[2]) == ("no_room", 50)
    assert any(name.endswith(".part") for name in merge_does_not[1]), "what came is kept"
    assert with_room == [1000, None, 1050]
    assert left == ["selfplay.db"], "what was merged leaves nothing behind"
    assert read_only[0] == "read_only"


def test_what_was_merged_leaves_no_import_behind(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    """The part goes once its games are in the database, whatever it is called, and not before."""
    like = recorded("square8_2p_full")
    (tmp_path / LIVE).parent.mkdir(parents=True)
    make(tmp_path / LIVE, like, [("a", "1")])
    for number in range(5):
        incoming = make(tmp_path / f"canonical_{number}.db", like, [(f"g{number}", "came")], log=False)
        assert bring_games(tmp_path, incoming, LIVE).merged == 1
    assert [path.name for path in (tmp_path / LIVE).parent.iterdir()] == [Path(LIVE).name]
    assert len(contents(tmp_path / LIVE)) == 6
    with closing(sqlite3.connect(tmp_path / LIVE, isolation_level=None)) as other:
        other.execute("DROP TABLE game_moves")
    incoming = make(tmp_path / "canonical_6.db", like, [("g6", "came")], log=False)
    with pytest.raises(NotPublished, match="occupied"):
        bring_games(tmp_path, incoming, LIVE)
    parts = [path for path in (tmp_path / LIVE).parent.iterdir() if path.name.endswith(".part")]
    assert [path.read_bytes() for path in parts] == [incoming.read_bytes()]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("canonical_hex8_2p.db", "hex8_2p"),
        ("canonical_hex8_2p_20250101.db", "hex8_2p"),
        ("selfplay_repository_node_canonical_hex8_2p.db", "hex8_2p"),
        ("noncanonical_square19_3p.db", "square19_3p"),
        ("canonical_sq8_4p.db", "square8_4p"),
        ("canonical_square8.db", None),
        ("canonical_hex8_2p_and_square8_2p.db", None),
        ("canonical.db", None),
        ("uncanonical_hex8_2px.db", None),
    ],
)
def test_a_name_tells_its_config_or_none_and_no_word_in_it_tells_more(name: str, config: str | None) -> None:
    if config is None:
        with pytest.raises(UnknownConfig):
            parse_config(name)
    else:
        assert parse_config(name).key == config
    item = ordered(b"x", ItemType.GAME_DB, name)
    with pytest.raises(Unplaceable):
        place("tree", NODE, item)
    assert place("tree", NODE, item.model_copy(update={"merge": True})) == f"data/games/{name}"


def test_an_import_of_another_config_goes_nowhere(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    live = tmp_path / LIVE
    live.parent.mkdir(parents=True)
    shutil.copy(recorded("canonical_square8_2p"), live)
    before = live.read_bytes()
    with pytest.raises(NotPublished, match="unplaceable"):
        bring_games(tmp_path, recorded("canonical_hex8_2p"), LIVE)
    assert live.read_bytes() == before
