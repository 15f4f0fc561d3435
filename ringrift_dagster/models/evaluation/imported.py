"""Results that RingRift recorded: gauntlets, `unified_elo.db`, exported ratings. Shown beside our own, never sufficient alone.

Every entry says what it lacks. Wins, defeats and draws are those of the source: where it counts draws and crashed games as defeats,
so do the numbers here. Sources: RingRift's `app/training/game_gauntlet.py`, `app/tournament/unified_elo_db.py`,
`app/training/elo_service.py`, and of exports `scripts/elo_leaderboard.py`, `scripts/estimate_elo.py`,
`scripts/run_model_elo_tournament.py` and `scripts/track_elo_improvement.py`.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any, Final, cast

from ringrift_dagster.games.config import BOARD_ALIASES, BOARDS, PLAYER_COUNTS, Config, UnknownConfig, parse_config

MAX_TEXT_BYTES: Final = 16 << 20
"""The longest JSON or CSV file that is read."""
MAX_ENTRIES: Final = 100_000
MAX_NAME: Final = 200

LACKS: Final = {
    "no_hash": "The model is named, not identified: the name may have had other weights.",
    "no_config": "The config is not recorded.",
    "no_opponent": "It is not recorded against whom.",
    "no_results": "There is a rating only: wins, defeats and draws are not recorded.",
    "no_seats": "Seats and openings are not recorded, so that games are no blocks.",
    "no_games": "There are totals only, no games that could be judged.",
    "no_time": "It is not recorded when the games were played.",
    "draws_as_defeats": "Draws and games that crashed are counted as defeats.",
}
"""What imported evidence may lack, by code, in one line."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LISTS: Final = ("players", "leaderboard", "models", "participants", "ratings", "entries")
"""Where an export that is no list itself has its list of ratings."""
_MODEL: Final = ("participant_id", "model_id", "name", "model")
_RATING: Final = ("rating", "elo")
_GAMES: Final = ("games_played", "games")
_CONFIG: Final = ("config_key", "config")
_AT: Final = ("last_update", "timestamp")
"""The names under which exports have a rating's parts, the most specific first."""


class ImportRefused(ValueError):
    """A file that is no result of RingRift's; the message is one line."""


@dataclass(frozen=True)
class ImportedEvidence:
    """Games of one model against one opponent, as a source counts them; None is what it does not say. `lacks` are keys of LACKS.

    `model` is what the source calls the model, `sha256` None unless the source recorded it. `elo` is the source's estimate, `at` in
    seconds since 1970.
    """

    source: str
    model: str
    opponent: str | None
    config: str | None
    games: int | None
    wins: int | None
    defeats: int | None
    draws: int | None
    lacks: tuple[str, ...]
    sha256: str | None = None
    elo: float | None = None
    at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_evidence(path: Path) -> list[ImportedEvidence]:
    """Read a gauntlet's JSON, an Elo database, or exported ratings (JSON or CSV), by the content. Raises ImportRefused."""
    try:
        if not path.is_file():
            raise ImportRefused(f"{path}: {'no regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            content = file.read(16)
            if content == b"SQLite format 3\x00":
                return read_elo_database(path)
            content += file.read(MAX_TEXT_BYTES + 1 - len(content))
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}") from error
    if len(content) > MAX_TEXT_BYTES:
        raise ImportRefused(f"{path}: more than {MAX_TEXT_BYTES} bytes")
    try:
        text = content.decode()
        value = json.loads(text) if text.lstrip()[:1] in ("{", "[") else _table(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ImportRefused(f"{path}: neither an Elo database nor the JSON or CSV of results or ratings") from error
    if isinstance(value, dict) and "opponent_results" in value:
        return _gauntlet(path, value)
    return _ratings(path, value)


def _table(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file by its first line. Raises ValueError and csv.Error."""
    rows = list(csv.reader(StringIO(text), strict=True))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("rows of different lengths, or none")
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def _gauntlet(path: Path, result: Mapping[str, Any]) -> list[ImportedEvidence]:
    """Totals against every baseline."""
    opponents = result["opponent_results"]
    if not isinstance(opponents, dict) or len(opponents) > MAX_ENTRIES:
        raise ImportRefused(f"{path}: no gauntlet result: opponent_results is no table of at most {MAX_ENTRIES} opponents")
    model = _name(result.get("model_id") or path.name.partition(".")[0])
    config = _config_in(str(result.get("config_key") or path.name))
    evidence = []
    for opponent, numbers in opponents.items():
        games, wins = (_count(numbers, (name,)) for name in ("games", "wins"))
        if games is None or wins is None or wins > games:
            raise ImportRefused(f"{path}: the result against {_name(opponent)[:40]!r} is no number of games and wins")
        evidence.append(
            ImportedEvidence(
                source="gauntlet",
                model=model,
                opponent=_name(opponent),
                config=config,
                games=games,
                wins=wins,
                defeats=games - wins,
                draws=0,
                lacks=_lacks(config=config, draws_as_defeats=True),
                elo=_elo(result.get("estimated_elo")),
            )
        )
    return evidence


def _ratings(path: Path, value: Any) -> list[ImportedEvidence]:
    """An export of ratings: one entry a model and config, the last of several."""
    common = value if isinstance(value, dict) else {}
    entries = next((common[name] for name in _LISTS if isinstance(common.get(name), list)), value)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_ENTRIES:
        raise ImportRefused(f"{path}: no results and no list of the ratings of 1 to {MAX_ENTRIES} models")
    latest: dict[tuple[str, str | None], ImportedEvidence] = {}
    for entry in entries:
        model, elo = _first(entry, _MODEL), _elo(_first(entry, _RATING))
        if not isinstance(model, str) or elo is None:
            raise ImportRefused(f"{path}: an entry without the name and the rating of a model: {_name(entry)[:60]}")
        read = _rating(_name(model), elo, entry, _time(_first(entry, _AT) or common.get("timestamp")))
        latest[read.model, read.config] = read
    return list(latest.values())


def _rating(model: str, elo: float, entry: Mapping[str, Any], at: float | None) -> ImportedEvidence:
    config = _config_of(entry.get("board_type"), entry.get("num_players"))
    config = config or _config_in(str(_first(entry, _CONFIG) or model))
    wins, defeats, draws = (_count(entry, (name,)) for name in ("wins", "losses", "draws"))
    known = wins is not None and defeats is not None and draws is not None
    games = _count(entry, _GAMES)
    return ImportedEvidence(
        source="elo_export",
        model=model,
        opponent=None,
        config=config,
        games=wins + defeats + draws if known and games is None else games,  # type: ignore[operator]
        wins=wins if known else None,
        defeats=defeats if known else None,
        draws=draws if known else None,
        lacks=_lacks(config=config, at=at, opponent=False, results=known),
        elo=elo,
        at=at,
    )


def read_elo_database(path: Path) -> list[ImportedEvidence]:
    """Read `match_history` of an Elo database, in either of its two forms, summed by model, opponent and config.

    Raises ImportRefused for a file that cannot be read or has no such table. Rows whose config contradicts a participant's name are
    left out: RingRift's matches were once mixed up across configs.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            columns = _columns(connection, "match_history")
            winners, pairs = columns & {"winner", "winner_id"}, columns & {"participant_a", "participant_b"}
            if not winners or "timestamp" not in columns or not ("participant_ids" in columns or len(pairs) == 2):
                raise ImportRefused(f"{path}: no Elo database of RingRift: match_history is missing or of another form")
            names = ("participant_ids", "participant_a", "participant_b", "timestamp", "board_type", "num_players")
            selected = ", ".join(name if name in columns else "NULL" for name in names)
            rows = connection.execute(
                f"SELECT COALESCE({', '.join(sorted(winners))}, NULL), {selected} FROM match_history LIMIT ?", (MAX_ENTRIES + 1,)
            ).fetchall()
            if len(rows) > MAX_ENTRIES:
                raise ImportRefused(f"{path}: more than {MAX_ENTRIES} matches")
            return _summed(rows, _hashes(connection), _latest_ratings(connection))
    except (sqlite3.Error, UnicodeError) as error:
        raise ImportRefused(f"{path}: {' '.join(str(error).split())}") from error


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """The columns of a table; none of a view, which could take any time to read."""
    kind = connection.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} if kind == ("table",) else set()


def _summed(
    rows: Iterable[tuple[Any, ...]], hashes: Mapping[str, str], ratings: Mapping[tuple[str, str | None], float]
) -> list[ImportedEvidence]:
    totals: dict[tuple[str, str, str | None], Counter[str]] = defaultdict(Counter)
    newest: dict[tuple[str, str, str | None], float] = {}
    for winner, ids, first, second, timestamp, board, players in rows:
        pair = _pair(_listed(ids) if ids is not None else [first, second])
        if pair is None:
            continue  # more than two participants are no pair, and their ranking is not recorded by every form
        config = _config_of(board, players)
        named = {_config_in(participant) for participant in pair} - {None}
        if len(named | ({config} - {None})) > 1:
            continue
        config = config or next(iter(named), None)
        for model, opponent in (pair, pair[::-1]):
            key = (model, opponent, config)
            totals[key]["won" if winner == model else "lost" if winner == opponent else "drawn"] += 1
            if (at := _time(timestamp)) is not None:
                newest[key] = max(at, newest.get(key, at))
    return [
        ImportedEvidence(
            source="unified_elo",
            model=_name(model),
            opponent=_name(opponent),
            config=config,
            games=sum(counts.values()),
            wins=counts["won"],
            defeats=counts["lost"],
            draws=counts["drawn"],
            lacks=_lacks(hashed=model in hashes, config=config, at=newest.get((model, opponent, config))),
            sha256=hashes.get(model),
            elo=ratings.get((model, config)),
            at=newest.get((model, opponent, config)),
        )
        for (model, opponent, config), counts in sorted(totals.items(), key=lambda entry: str(entry[0]))
    ]


def _hashes(connection: sqlite3.Connection) -> dict[str, str]:
    """SHA-256 by the name of the file, where the database has them and they are not those of two files."""
    if not {"model_path", "content_sha256"} <= _columns(connection, "model_identities"):
        return {}
    rows = connection.execute("SELECT model_path, content_sha256 FROM model_identities LIMIT ?", (MAX_ENTRIES,))
    hashes: dict[str, set[str]] = defaultdict(set)
    for name, value in rows:
        hashes[Path(str(name)).stem].add(str(value))
    return {name: value for name, values in hashes.items() for value in values if len(values) == 1 and _SHA256.fullmatch(value)}


def _latest_ratings(connection: sqlite3.Connection) -> dict[tuple[str, str | None], float]:
    """Ratings by participant and config, where the database has them."""
    if not {"participant_id", "board_type", "num_players", "rating"} <= _columns(connection, "elo_ratings"):
        return {}
    rows = connection.execute("SELECT participant_id, board_type, num_players, rating FROM elo_ratings LIMIT ?", (MAX_ENTRIES,))
    return {
        (str(name), _config_of(board, players)): elo for name, board, players, rating in rows if (elo := _elo(rating)) is not None
    }


def _listed(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _pair(participants: object) -> tuple[str, str] | None:
    """The two participants of a match between two."""
    match participants:
        case [str(first), str(second)]:
            return first, second
        case _:
            return None


def _name(value: object) -> str:
    """A name as it can be shown: short, printable and on one line."""
    return "".join(character if character.isprintable() else "?" for character in str(value)[:MAX_NAME])


def _first(entry: object, names: Sequence[str]) -> Any:
    """The first of these parts that an entry has; None for what is no entry."""
    if not isinstance(entry, dict):
        return None
    return next((entry[name] for name in names if entry.get(name) not in (None, "")), None)


def _config_of(board: object, players: object) -> str | None:
    name = BOARD_ALIASES.get(str(board), str(board))
    number = _number(players)
    return Config(name, cast(Any, int(number))).key if name in BOARDS and number in PLAYER_COUNTS else None


def _config_in(text: str) -> str | None:
    """The one config that a name contains."""
    try:
        return parse_config(text.partition(".")[0].partition(":")[0]).key
    except UnknownConfig:
        return None


def _time(value: object) -> float | None:
    number = _number(value)
    if number is not None:
        return number if 0 < number < 1e11 else None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    return seconds if seconds > 0 else None


def _number(value: object) -> float | None:
    """A finite number, also one that is written as text, as all are in CSV."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and isfinite(number) else None


def _elo(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and abs(number) < 10_000 else None


def _count(values: object, names: Sequence[str]) -> int | None:
    number = _number(_first(values, names))
    return int(number) if number is not None and 0 <= number < 1 << 40 and number == int(number) else None


def _lacks(
    *,
    config: str | None,
    hashed: bool = False,
    at: float | None = None,
    opponent: bool = True,
    results: bool = True,
    draws_as_defeats: bool = False,
) -> tuple[str, ...]:
    """The codes of what is not there, in the order of LACKS."""
    absent = {
        "no_hash": not hashed,
        "no_config": config is None,
        "no_opponent": not opponent,
        "no_results": not results,
        "no_seats": True,
        "no_games": True,
        "no_time": at is None,
        "draws_as_defeats": draws_as_defeats,
    }
    return tuple(code for code in LACKS if absent[code])
