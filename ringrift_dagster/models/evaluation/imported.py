"""Results that RingRift recorded: gauntlet files and `unified_elo.db`. Shown beside our own evidence, never sufficient alone.

Every entry says what it lacks. Wins, defeats and draws are those of the source: where it counts draws and crashed games as defeats,
so do the numbers here. Source: RingRift's `app/training/game_gauntlet.py`, `app/tournament/unified_elo_db.py` and
`app/training/elo_service.py`.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.games.config import BOARD_ALIASES, BOARDS, PLAYER_COUNTS, Config, UnknownConfig, parse_config

MAX_JSON_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 100_000

LACKS: Final = {
    "no_hash": "The model is named, not identified: the name may have had other weights.",
    "no_config": "The config is not recorded.",
    "no_seats": "Seats and openings are not recorded, so that games are no blocks.",
    "no_games": "There are totals only, no games that could be judged.",
    "no_time": "It is not recorded when the games were played.",
    "draws_as_defeats": "Draws and games that crashed are counted as defeats.",
}
"""What imported evidence may lack, by code, in one line."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class ImportRefused(ValueError):
    """A file that is no result of RingRift's; the message is one line."""


@dataclass(frozen=True)
class ImportedEvidence:
    """Games of one model against one opponent, as a source counts them. `lacks` are keys of LACKS.

    `model` is what the source calls the model, `sha256` None unless the source recorded it. `elo` is the source's estimate, `at` in
    seconds since 1970.
    """

    source: str
    model: str
    opponent: str | None
    config: str | None
    games: int
    wins: int
    defeats: int
    draws: int
    lacks: tuple[str, ...]
    sha256: str | None = None
    elo: float | None = None
    at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_evidence(path: Path) -> list[ImportedEvidence]:
    """Read a gauntlet's JSON or an Elo database, by its content. Raises ImportRefused."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}") from error
    return read_elo_database(path) if head == b"SQLite format 3\x00" else read_gauntlet(path)


def read_gauntlet(path: Path) -> list[ImportedEvidence]:
    """Read the JSON of a gauntlet: totals against every baseline. Raises ImportRefused."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise ImportRefused(f"{path}: more than {MAX_JSON_BYTES} bytes")
        result = json.loads(text)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{path}: neither an Elo database nor the JSON of a gauntlet") from error
    opponents = result.get("opponent_results") if isinstance(result, dict) else None
    if not isinstance(opponents, dict):
        raise ImportRefused(f"{path}: no gauntlet result: opponent_results is missing")
    model = str(result.get("model_id") or path.name.partition(".")[0])[:200]
    config = _config_in(str(result.get("config_key") or path.name))
    elo = result.get("estimated_elo")
    evidence = []
    for opponent, numbers in list(opponents.items())[:MAX_ENTRIES]:
        games, wins = (_count(numbers, name) for name in ("games", "wins"))
        if games is None or wins is None or wins > games:
            raise ImportRefused(f"{path}: the result against {str(opponent)[:40]!r} is no number of games and wins")
        evidence.append(
            ImportedEvidence(
                source="gauntlet",
                model=model,
                opponent=str(opponent)[:200],
                config=config,
                games=games,
                wins=wins,
                defeats=games - wins,
                draws=0,
                lacks=_lacks(hash=False, config=config, games=False, at=None),
                elo=float(elo) if isinstance(elo, (int, float)) and abs(elo) < 10_000 else None,
            )
        )
    return evidence


def read_elo_database(path: Path) -> list[ImportedEvidence]:
    """Read `match_history` of an Elo database, in either of its two forms, summed by model, opponent and config.

    Raises ImportRefused for a file that cannot be read or has no such table. Rows whose config contradicts a participant's name are
    left out: RingRift's matches were once mixed up across configs.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            columns = {row[1] for row in connection.execute("PRAGMA table_info(match_history)")}
            if not {"participant_ids", "timestamp"} <= columns or not columns & {"winner", "winner_id"}:
                raise ImportRefused(f"{path}: no Elo database of RingRift: match_history is missing or of another form")
            winner = "winner" if "winner" in columns else "winner_id"
            optional = ", ".join(name if name in columns else "NULL" for name in ("board_type", "num_players"))
            rows = connection.execute(
                f"SELECT participant_ids, {winner}, timestamp, {optional} FROM match_history LIMIT ?", (MAX_ENTRIES,)
            )
            hashes = _hashes(connection)
            return _summed(rows, hashes)
    except sqlite3.Error as error:
        raise ImportRefused(f"{path}: {error}") from error


def _summed(rows: Iterator[tuple[Any, ...]], hashes: Mapping[str, str]) -> list[ImportedEvidence]:
    totals: dict[tuple[str, str, str | None], Counter[str]] = defaultdict(Counter)
    newest: dict[tuple[str, str, str | None], float] = {}
    for ids, winner, timestamp, board, players in rows:
        participants = _participants(ids)
        if len(participants) != 2:
            continue  # more than two participants are no pair, and their ranking is not recorded by every form
        config = _config_of(board, players)
        named = {_config_in(participant) for participant in participants} - {None}
        if len(named | ({config} - {None})) > 1:
            continue
        config = config or next(iter(named), None)
        for model, opponent in (participants, participants[::-1]):
            key = (model, opponent, config)
            totals[key]["won" if winner == model else "lost" if winner == opponent else "drawn"] += 1
            if (at := _time(timestamp)) is not None:
                newest[key] = max(at, newest.get(key, at))
    return [
        ImportedEvidence(
            source="unified_elo",
            model=model,
            opponent=opponent,
            config=config,
            games=sum(counts.values()),
            wins=counts["won"],
            defeats=counts["lost"],
            draws=counts["drawn"],
            lacks=_lacks(hash=model in hashes, config=config, games=False, at=newest.get((model, opponent, config)), draws=True),
            sha256=hashes.get(model),
            at=newest.get((model, opponent, config)),
        )
        for (model, opponent, config), counts in sorted(totals.items(), key=lambda entry: str(entry[0]))
    ]


def _hashes(connection: sqlite3.Connection) -> dict[str, str]:
    """SHA-256 by model path, where the database has them."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(model_identities)")}
    if not {"model_path", "content_sha256"} <= columns:
        return {}
    rows = connection.execute("SELECT model_path, content_sha256 FROM model_identities LIMIT ?", (MAX_ENTRIES,))
    return {Path(str(name)).stem: str(value) for name, value in rows if _SHA256.fullmatch(str(value))}


def _participants(text: object) -> tuple[str, ...]:
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return ()
    return tuple(value[:200] for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _config_of(board: object, players: object) -> str | None:
    name = BOARD_ALIASES.get(str(board), str(board))
    return Config(name, players).key if name in BOARDS and players in PLAYER_COUNTS else None  # type: ignore[arg-type]


def _config_in(text: str) -> str | None:
    """The one config that a name contains."""
    try:
        return parse_config(text.partition(".")[0].partition(":")[0]).key
    except UnknownConfig:
        return None


def _time(value: object) -> float | None:
    if isinstance(value, (int, float)):
        return float(value) if 0 < value < 1e11 else None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _count(values: object, name: str) -> int | None:
    value = values.get(name) if isinstance(values, dict) else None
    return value if type(value) is int and 0 <= value < 1 << 40 else None


def _lacks(*, hash: bool, config: str | None, games: bool, at: float | None, draws: bool = False) -> tuple[str, ...]:
    present = {
        "no_hash": hash,
        "no_config": config is not None,
        "no_seats": False,
        "no_games": games,
        "no_time": at is not None,
        "draws_as_defeats": draws,
    }
    return tuple(code for code, there in present.items() if not there)
