"""RingRift's own records of promotions, read into one type. They are knowledge about the past, and never promote anything.

Formats, each recognised by its content: `promoted_models.json` and `model_promotion_history.json` (`model_promotion_manager.py`),
`.promotion_history.json` (`auto_promote.py`), and the `.meta.json` beside a model (`model_promotion_manager.py`,
`run_improvement_loop.py`, `bootstrap_ladder_artifacts.py`, and this project). Paths in them are never opened.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.games.config import BOARD_ALIASES, BOARDS, PLAYER_COUNTS, Config, UnknownConfig, parse_config
from ringrift_dagster.models.evaluation.imported import ImportRefused

MAX_BYTES: Final = 16 << 20
MAX_RECORDS: Final = 100_000

LACKS: Final = {
    "no_hash": "The model is named, not identified: the name may have had other weights.",
    "no_config": "The config is neither recorded nor in the name.",
    "config_disputed": "The name of the model has another config than the record.",
    "no_evidence": "Opponents and games that the promotion rests on are not recorded.",
    "no_elo": "The strength is not recorded, or is a placeholder.",
    "no_time": "It is not recorded when the model was promoted.",
    "no_time_zone": "The time is local to an unknown place; it is taken for UTC.",
}
"""What an imported promotion may lack, by code, in one line."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_OF_PROMOTIONS: Final = {"alias_id", "promoted_at"}
"""What records of promotions have, and exports of ratings do not."""
_PLACEHOLDER_METHOD: Final = "improvement_loop"
"""Writes an Elo rating of 0 for every model."""


@dataclass(frozen=True)
class ImportedPromotion:
    """One promotion as a source recorded it.

    `source` is the format, `model` what the source calls the model, `alias` the name that it was given. `at` is in seconds since
    1970; `lacks` are keys of LACKS.
    """

    source: str
    model: str
    config: str | None
    alias: str | None
    elo: float | None
    games: int | None
    at: float | None
    sha256: str | None
    lacks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_promotions(path: Path) -> list[ImportedPromotion]:
    """Read a file in any of the formats, records in its order. Raises ImportRefused for a file that is in none, or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ImportRefused(f"{path}: more than {MAX_BYTES} bytes")
        document = json.loads(content)
    except OSError as error:
        raise ImportRefused(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ImportRefused):
            raise
        raise ImportRefused(f"{path}: no JSON") from error
    source, records = _records(document, path)
    if len(records) > MAX_RECORDS:
        raise ImportRefused(f"{path}: more than {MAX_RECORDS} records")
    return [_promotion(source, record, path) for record in records]


def _records(document: object, path: Path) -> tuple[str, list[object]]:
    """The format of a document and its records; the key of a record in an object becomes its field `config`."""
    if isinstance(document, list) and any(isinstance(record, dict) and _OF_PROMOTIONS & record.keys() for record in document):
        return "model_promotion_history", document
    if isinstance(document, dict):
        if isinstance(models := document.get("models"), dict):
            return "promoted_models", [
                {"config": key, **value} if isinstance(value, dict) else value for key, value in models.items()
            ]
        if isinstance(promoted := document.get("promoted"), list):
            return "promotion_history", [{"model_id": entry} if isinstance(entry, str) else entry for entry in promoted]
        if isinstance(document.get("alias_id"), str):
            return "meta", [document]
    raise ImportRefused(f"{path}: no record of promotions of RingRift's")


def _promotion(source: str, record: object, path: Path) -> ImportedPromotion:
    if not isinstance(record, dict):
        raise ImportRefused(f"{path}: a record is no object: {str(record)[:60]!r}")
    model = record.get("model_id") or record.get("source_model_id")
    if not isinstance(model, str):
        raise ImportRefused(f"{path}: a record names no model: {str(record)[:60]!r}")
    recorded, named = _recorded_config(record), _config_in(model)
    placeholder = record.get("promotion_method") == _PLACEHOLDER_METHOD
    elo = None if placeholder else _number(record.get("elo_rating", record.get("elo")))
    games = record.get("games_played")
    at, has_zone = _time(record.get("promoted_at") or record.get("published_at") or record.get("timestamp"))
    sha256 = record.get("sha256")
    sha256 = sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None
    config = recorded or named
    lacks = {
        "no_hash": sha256 is None,
        "no_config": config is None,
        "config_disputed": recorded is not None and named is not None and recorded != named,
        "no_evidence": not isinstance(record.get("gauntlet_results"), dict),
        "no_elo": elo is None,
        "no_time": at is None,
        "no_time_zone": at is not None and not has_zone,
    }
    alias = record.get("alias_id")
    return ImportedPromotion(
        source=source,
        model=model[:200],
        config=config,
        alias=alias[:200] if isinstance(alias, str) else None,
        elo=elo,
        games=games if type(games) is int and 0 <= games < 1 << 40 else None,
        at=at,
        sha256=sha256,
        lacks=tuple(code for code, missing in lacks.items() if missing),
    )


def _recorded_config(record: dict[str, Any]) -> str | None:
    board, players = record.get("board_type"), record.get("num_players")
    if isinstance(board, str) and type(players) is int and players in PLAYER_COUNTS:
        board = BOARD_ALIASES.get(board, board)
        return Config(board, players).key if board in BOARDS else None
    return _config_in(record.get("config"))


def _config_in(text: object) -> str | None:
    """The one config that a name contains."""
    try:
        return parse_config(text[:1000]).key if isinstance(text, str) else None
    except UnknownConfig:
        return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 10_000 else None


def _time(value: object) -> tuple[float | None, bool]:
    """Seconds since 1970, and whether the source says in which time zone."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or not 1970 < moment.year < 9000:
        return None, False
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp(), moment.tzinfo is not None
