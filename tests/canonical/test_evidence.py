"""RingRift's own evidence: read in both shapes, believed only when every condition is stated and holds."""

from __future__ import annotations

import copy
import json
import lzma
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.canonical.evidence import gather, judge_summary, parse_registry
from ringrift_dagster.games.database import describe

DATA = Path(__file__).parents[1] / "data"
EVIDENCE = DATA / "evidence"
FULL = json.loads((EVIDENCE / "square8_2p_full.db_health.json").read_text())


@dataclass(frozen=True)
class Content:
    """What a database holds, as far as a summary speaks of it."""

    games: int = 2
    moves: int = 217
    configs: Mapping[str, int] = field(default_factory=lambda: {"square8_2p": 2})


CONTENT = Content()

REGISTRY = """# Training data registry

| Database | Board Type | Players | Status | Gate Summary | Notes |
| --- | --- | --- | --- | --- | --- |
| `canonical_square8_2p.db` | square8 | 2 | **canonical** | `db_health.canonical_square8_2p.json` | a \\| b |
| `canonical_hex8_2p.db` | hex8 | 2 | **pending_gate** | - | npx missing |
| `canonical_hex8_3p.db` | hex8 | 3 | **canonical** | N/A | |

| Model | Status |
| --- | --- |
| `canonical_hex8_2p.pth` | **DEPRECATED_R10** |

| Status | Database |
| --- | --- |
| legacy_noncanonical | `old.db` |
"""


def unpack(name: str, into: Path) -> Path:
    path = into / f"{name}.db"
    path.write_bytes(lzma.decompress((DATA / "db" / f"{name}.db.xz").read_bytes()))
    return path


def test_the_registry_is_read_by_its_headings() -> None:
    rows = {row.database: row for row in parse_registry(REGISTRY)}
    assert set(rows) == {"canonical_square8_2p.db", "canonical_hex8_2p.db", "canonical_hex8_3p.db", "old.db"}
    row = rows["canonical_square8_2p.db"]
    assert (row.board, row.players, row.status) == ("square8", 2, "canonical")
    assert (row.gate_summary, row.notes) == ("db_health.canonical_square8_2p.json", "a | b")
    assert rows["canonical_hex8_2p.db"].gate_summary is None
    assert (rows["old.db"].status, rows["old.db"].players) == ("legacy_noncanonical", None)


@given(st.text())
def test_any_text_is_a_registry(text: str) -> None:
    parse_registry(text)
    parse_registry(REGISTRY.splitlines()[2] + "\n" + text)


def test_a_full_summary_of_this_content_is_accepted() -> None:
    judged = judge_summary(FULL, database="square8_2p_full.db", content=CONTENT)
    assert judged["accepted"], judged["reasons"]
    assert judged["matches_database"] is True
    assert judged["parity"] == {
        "passed": True,
        "mode": "canonical",
        "games_checked": 2,
        "games_total": 2,
        "sampled": False,
        "warnings": 2,
    }


@pytest.mark.parametrize(
    ("name", "checked", "games"),
    [("hex8_2p", 6, 40), ("square19_2p", 1, 3), ("square8_2p", 8, 60), ("square8_4p", 4, 10)],
)
def test_sampled_parity_is_said_and_not_accepted(name: str, checked: int, games: int) -> None:
    stated = json.loads((EVIDENCE / f"canonical_{name}.db_health.json").read_text())
    judged = judge_summary(stated, database=f"canonical_{name}.db", content=None)
    assert judged["canonical_ok"]
    assert judged["parity"]["sampled"]
    assert judged["reasons"] == [f"parity was checked on a sample: {checked} of {games} games"]


def test_a_bare_parity_summary_over_all_games_is_accepted() -> None:
    stated = json.loads((EVIDENCE / "canonical_square8_3p.db_health.json").read_text())
    assert judge_summary(stated, database="canonical_square8_3p.db", content=None)["accepted"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("canonical_ok",), False),
        (("canonical_ok",), "true"),
        (("canonical_ok",), 1),
        (("parity_gate",), None),
        (("parity_gate", "passed_canonical_parity_gate"), False),
        (("parity_gate", "soak_returncode"), 1),
        (("parity_gate", "parity_summary"), {}),
        (("parity_gate", "parity_summary", "mode"), "legacy"),
        (("parity_gate", "parity_summary", "passed_canonical_parity_gate"), None),
        (("parity_gate", "parity_summary", "games_with_semantic_divergence"), 1),
        (("parity_gate", "parity_summary", "games_with_structural_issues"), None),
        (("parity_gate", "parity_summary", "total_games_checked"), 1),
        (("parity_gate", "parity_summary", "total_games_checked"), 0),
        (("canonical_config", "non_canonical_games"), 1),
        (("canonical_history", "games_checked"), 0),
        (("canonical_history",), None),
        (("db_stats",), None),
        (("db_stats", "games_total"), 3),
        (("db_stats", "moves_total"), 218),
        (("meets_min_recorded_games",), False),
        (("fe_territory_fixtures_ok",), None),
        (("anm_ok",), False),
        (("merge_result",), {"returncode": 1}),
        (("db_path",), "data/games/another.db"),
        (("board_type",), "hex8"),
        (("num_players",), 3),
    ],
)
def test_one_failing_or_missing_condition_is_enough(path: tuple[str, ...], value: Any) -> None:
    stated = copy.deepcopy(FULL)
    section = stated
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    judged = judge_summary(stated, database="square8_2p_full.db", content=CONTENT)
    assert not judged["accepted"]
    assert judged["reasons"]


@pytest.mark.parametrize("stated", [None, [], "yes", {}, {"databases": [{"canonical_status": "ok"}]}])
def test_other_shapes_are_no_approval(stated: Any) -> None:
    assert judge_summary(stated, database="square8_2p_full.db", content=None)["accepted"] is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*FULL, *FULL["parity_gate"]]), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON, st.sampled_from(sorted(FULL)))
def test_no_json_is_accepted_by_accident(value: Any, key: str) -> None:
    judge_summary({**FULL, key: value}, database="square8_2p_full.db", content=None)
    if isinstance(value, dict) and len(value) < len(FULL) // 2:
        assert not judge_summary(value, database="square8_2p_full.db", content=None)["accepted"]


def test_everything_about_a_database_is_gathered(tmp_path: Path) -> None:
    database = unpack("canonical_square8_2p", tmp_path)
    (tmp_path / "TRAINING_DATA_REGISTRY.md").write_text(REGISTRY)
    summary = EVIDENCE / "canonical_square8_2p.db_health.json"
    (tmp_path / "data" / "games").mkdir(parents=True)
    (tmp_path / "data" / "games" / "db_health.canonical_square8_2p.json").write_bytes(summary.read_bytes())
    found = gather(database, registry_dirs=[tmp_path / "elsewhere", tmp_path], content=describe(database))
    assert found["registry"]["accepted"]
    assert found["gate_summary"]["canonical_ok"]
    assert not found["gate_summary"]["accepted"]
    assert found["gate_summary"]["matches_database"] is False
    assert found["parity_status"] == {"pending": 30}
    notes = "\n".join(found["notes"])
    assert "by file name only" in notes
    assert "describes 60 games and 7311 moves, the database has 30 and 3683" in notes
    assert json.loads(json.dumps(found)) == found


def test_nothing_is_known_of_an_unlisted_database(tmp_path: Path) -> None:
    database = unpack("square8_2p_full", tmp_path)
    assert gather(database) == {
        "registry": None,
        "gate_summary": None,
        "parity_status": {"pending": 1},
        "notes": [],
    }


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(b"\xff{"), lambda path: path.write_text("{")])
def test_a_damaged_summary_is_no_approval(write: Callable[[Path], Any], tmp_path: Path) -> None:
    database = unpack("square8_2p_full", tmp_path)
    write(tmp_path / "db_health.square8_2p_full.json")
    found = gather(database)
    assert found["gate_summary"]["accepted"] is False
    assert found["notes"]


def test_a_registry_cell_cannot_point_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(FULL))
    inside = tmp_path / "registry"
    inside.mkdir()
    row = "| Database | Status | Gate Summary |\n| x.db | canonical | ../secret.json |\n"
    (inside / "TRAINING_DATA_REGISTRY.md").write_text(row)
    assert gather(inside / "x.db", registry_dirs=[inside])["gate_summary"] is None


def test_marks_of_old_and_unreadable_databases(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    with sqlite3.connect(old) as connection:
        connection.execute("CREATE TABLE games (game_id TEXT)")
    assert gather(old)["parity_status"] is None
    (tmp_path / "junk.db").write_bytes(b"junk" * 100)
    for name in ("junk.db", "missing.db"):
        found = gather(tmp_path / name)
        assert found["parity_status"] is None
        assert "cannot be read" in found["notes"][0]
