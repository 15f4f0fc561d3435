"""RingRift's own evidence about a database: its registry row, its gate summary, its parity marks.

Evidence is shown beside the gate's verdict and never stands in for it: it is bound to a file name, not to
content, so everything that weakens it is said. It fails closed: whatever is missing, damaged or of another
shape is no approval. Judging games does not belong here.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

REGISTRY_NAME: Final = "TRAINING_DATA_REGISTRY.md"
CANONICAL_STATUS: Final = "canonical"
MAX_EVIDENCE_BYTES: Final = 32 << 20

_CELL_BORDER: Final = re.compile(r"(?<!\\)\|")
_NO_SUMMARY: Final = frozenset({"", "-", "–", "—", "n/a", "none"})
_PARITY_FAILURES: Final = (
    "games_with_structural_issues",
    "games_with_semantic_divergence",
    "games_with_non_canonical_history",
)
_REQUIRED_FLAGS: Final = ("meets_min_recorded_games", "fe_territory_fixtures_ok", "anm_ok")


class DatabaseContent(Protocol):
    """What a database holds; a summary of it is held against this."""

    @property
    def games(self) -> int: ...

    @property
    def moves(self) -> int: ...

    @property
    def configs(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class RegistryRow:
    """One database in the registry; `status` without markup, lower case; `gate_summary` a bare file name."""

    database: str
    board: str
    players: int | None
    status: str
    gate_summary: str | None
    notes: str


def gather(database: Path, *, registry_dirs: Sequence[Path] = (), content: DatabaseContent | None = None) -> dict[str, Any]:
    """All evidence about one database, as JSON-able values; never raises.

    `registry`: the row named after the file, or None. `gate_summary`: what the summary states and whether
    it may be believed (`accepted`, else `reasons`), or None without one. `parity_status`: games by
    RingRift's own mark, or None if the database has none. `notes`: what a reader must know to weigh them,
    one line each.
    """
    notes: list[str] = []
    registry = _registry(database, registry_dirs, notes)
    summary = _gate_summary(database, registry, registry_dirs, content, notes)
    return {
        "registry": registry,
        "gate_summary": summary,
        "parity_status": _parity_status(database, notes),
        "notes": notes,
    }


def parse_registry(text: str) -> list[RegistryRow]:
    """The database rows of every table of a registry; columns are found by their headings."""
    rows: list[RegistryRow] = []
    columns: dict[str, int] = {}
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            columns = {}
            continue
        cells = [_plain(cell) for cell in _CELL_BORDER.split(line.strip())[1:]]
        if not columns:
            columns = {cell.lower(): at for at, cell in enumerate(cells)}
        elif (at := columns.get("database")) is not None and at < len(cells) and cells[at].endswith(".db"):
            rows.append(_row(cells, columns))
    return rows


def _row(cells: list[str], columns: dict[str, int]) -> RegistryRow:
    def cell(heading: str) -> str:
        at = columns.get(heading, len(cells))
        return cells[at] if at < len(cells) else ""

    summary = cell("gate summary")
    players = cell("players")
    return RegistryRow(
        database=Path(cell("database")).name,
        board=cell("board type"),
        players=int(players) if players.isdecimal() else None,
        status=cell("status").lower(),
        gate_summary=None if summary.lower() in _NO_SUMMARY else Path(summary).name,
        notes=cell("notes"),
    )


def _plain(cell: str) -> str:
    return re.sub(r"[`*]", "", cell).replace("\\|", "|").strip()


def _registry(database: Path, registry_dirs: Sequence[Path], notes: list[str]) -> dict[str, Any] | None:
    for directory in registry_dirs:
        path = directory / REGISTRY_NAME
        text = _read(path, notes)
        if text is None:
            continue
        rows = [row for row in parse_registry(text) if row.database == database.name]
        if not rows:
            continue
        if len({row.status for row in rows}) > 1:
            notes.append(f"{path.name} lists {database.name} {len(rows)} times with different statuses")
        row = min(rows, key=lambda row: row.status == CANONICAL_STATUS)
        notes.append(f"{path.name} matches by file name only; nothing binds the row to this file's content")
        if row.status == CANONICAL_STATUS and row.gate_summary is None:
            notes.append(f"{path.name} calls {database.name} canonical without a gate summary")
        return {
            "file": str(path),
            "database": row.database,
            "board": row.board,
            "players": row.players,
            "status": row.status,
            "accepted": row.status == CANONICAL_STATUS,
            "gate_summary": row.gate_summary,
            "notes": row.notes,
        }
    return None


def _gate_summary(
    database: Path,
    registry: dict[str, Any] | None,
    registry_dirs: Sequence[Path],
    content: DatabaseContent | None,
    notes: list[str],
) -> dict[str, Any] | None:
    names = [f"db_health.{database.stem}.json", f"{database.stem}.db_health.json"]
    if registry is not None and registry["gate_summary"]:
        names.insert(0, registry["gate_summary"])
    directories = [*registry_dirs, *(each / "data" / "games" for each in registry_dirs), database.parent]
    path = next((each / name for name in names for each in directories if (each / name).is_file()), None)
    if path is None:
        return None
    try:
        stated = json.loads(_read(path, notes) or "")
    except (ValueError, RecursionError):
        stated = None
    summary = judge_summary(stated, database=database.name, content=content)
    for reason in summary["reasons"]:
        notes.append(f"{path.name}: {reason}")
    return {"file": str(path), **summary}


def judge_summary(stated: object, *, database: str, content: DatabaseContent | None) -> dict[str, Any]:
    """Whether a parsed gate summary approves this database: every condition must be stated and hold.

    `accepted` is true only without `reasons`; a summary of other content (more or fewer games or moves than
    `content`) or with parity checked on a sample does not approve.
    """
    if not isinstance(stated, dict) or "canonical_ok" not in stated:
        return {"accepted": False, "canonical_ok": False, "reasons": ["not a gate summary (no canonical_ok)"]}
    reasons: list[str] = []
    if stated["canonical_ok"] is not True:
        reasons.append(f"canonical_ok is {stated['canonical_ok']!r}"[:80])
    stats = _section(stated, "db_stats")
    games, moves = _count(stats, "games_total"), _count(stats, "moves_total")
    parity = _judge_parity(stated, games, reasons)
    for name in ("canonical_config", "canonical_history"):
        section = _section(stated, name)
        checked, bad = _count(section, "games_checked"), _count(section, "non_canonical_games")
        if not checked or bad != 0 or (games is not None and checked < games):
            reasons.append(f"{name}: {_said(bad)} non-canonical of {_said(checked)} games checked")
    for name in _REQUIRED_FLAGS:
        if stated.get(name) is not True:
            reasons.append(f"{name} is not true")
    merge = stated.get("merge_result")
    if merge is not None and _section(stated, "merge_result").get("returncode") != 0:
        reasons.append("the merge into the database did not succeed")
    named = stated.get("db_path")
    if not isinstance(named, str) or Path(named).name != database:
        reasons.append(f"it describes {str(named)[:80]}, not {database}")
    config = f"{stated.get('board_type')}_{stated.get('num_players')}p"
    matches = None
    if content is not None:
        matches = games == content.games and moves == content.moves
        if not matches:
            reasons.append(
                f"it describes {_said(games)} games and {_said(moves)} moves, the database has {content.games} and {content.moves}"
            )
        if set(content.configs) - {config}:
            reasons.append(f"it is about {config[:40]}, the database holds {', '.join(sorted(content.configs))}")
    return {
        "accepted": not reasons,
        "canonical_ok": stated["canonical_ok"] is True,
        "reasons": reasons,
        "config": config,
        "games": games,
        "moves": moves,
        "matches_database": matches,
        "parity": parity,
    }


def _judge_parity(stated: dict[str, Any], games: int | None, reasons: list[str]) -> dict[str, Any]:
    """The parity part in either shape: the wrapper of a self-play run, or the bare parity summary."""
    gate = _section(stated, "parity_gate")
    wrapped = "parity_summary" in gate
    summary = _section(gate, "parity_summary") if wrapped else gate
    checked = _count(summary, "total_games_checked")
    if not summary or not checked:
        reasons.append("parity was not checked")
    elif games is None or checked < games:
        reasons.append(f"parity was checked on a sample: {checked} of {_said(games)} games")
    if summary.get("mode") != "canonical":
        reasons.append(f"parity mode is {summary.get('mode')!r}"[:80])
    passed = all(part.get("passed_canonical_parity_gate") is True for part in (gate, summary))
    failures = {name: _count(summary, name) for name in _PARITY_FAILURES}
    if not passed or summary.get("returncode", 0) != 0 or any(count != 0 for count in failures.values()):
        reasons.append("parity did not pass")
    if wrapped and (gate.get("soak_returncode") != 0 or gate.get("returncode", 0) != 0):
        reasons.append("the self-play run behind it failed")
    return {
        "passed": passed,
        "mode": summary.get("mode") if isinstance(summary.get("mode"), str) else None,
        "games_checked": checked,
        "games_total": games,
        "sampled": bool(checked) and games is not None and (checked or 0) < games,
        "warnings": _count(summary, "games_with_anm_warning_only"),
    }


def _parity_status(database: Path, notes: list[str]) -> dict[str, int] | None:
    """Games by `parity_status`. Databases before schema 13 have no such column."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            if not any(row[1] == "parity_status" for row in connection.execute("PRAGMA table_info(games)")):
                return None
            rows = connection.execute("SELECT parity_status, COUNT(*) FROM games GROUP BY 1 ORDER BY 1").fetchall()
    except (sqlite3.Error, ValueError) as error:
        notes.append(f"parity marks cannot be read: {error}")
        return None
    return {str(status) if status is not None else "unmarked": count for status, count in rows}


def _read(path: Path, notes: list[str]) -> str | None:
    """The text of a small file; None if there is none. What cannot be read is noted."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_EVIDENCE_BYTES + 1)
        if len(raw) > MAX_EVIDENCE_BYTES:
            raise ValueError(f"larger than {MAX_EVIDENCE_BYTES} bytes")
        return raw.decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None


def _section(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _count(section: Mapping[str, Any], name: str) -> int | None:
    value = section.get(name)
    return value if type(value) is int and value >= 0 else None


def _said(count: int | None) -> str:
    return "an unstated number of" if count is None else str(count)
