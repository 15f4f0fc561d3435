"""From what RingRift's components really send to typed events: names, fields, units and times, all from tables.

RingRift has three emitters that disagree on nearly every payload. What names one thing by several names has to say the same each
time; what contradicts itself, or cannot be understood, is refused with a reason and becomes a dead letter. Nothing is guessed: a
config is read by the one strict parser, a host that is not named is the one that the event was told at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from pydantic import ValidationError

from ringrift_dagster.events.ids import is_id, new_id
from ringrift_dagster.events.model import MAX_OTHER, MAX_RAW, PAYLOADS, Event, EventType, tidy
from ringrift_dagster.games.config import BOARD_ALIASES, BOARDS, UnknownConfig, parse_config
from ringrift_dagster.manifest.inventory import ItemType

REASONS = {
    "not_json": "the text is not JSON",
    "not_an_object": "an event is a JSON object",
    "no_type": "no field says what happened",
    "unknown_type": "no event has this name",
    "bad_id": "the id is not a UUID in lower case",
    "bad_time": "a time is neither seconds since 1970 nor ISO 8601",
    "missing_config": "the event is about a config, and no field names it",
    "bad_config": "what should be a config is none of the twelve, or several",
    "missing_host": "the event is about a host, and no field names it",
    "bad_host": "what should be a host's name is none",
    "missing_field": "a field that the event needs is not there",
    "bad_field": "a field's value is not of its kind, or out of bounds",
    "contradiction": "two fields say different things about the same",
    "not_typed": "what an agent sent is no event of this version",
    "lost": "a host's events that will not come any more",
    "not_done": "what follows from it failed again and again",
}
"""Why something is a dead letter."""

TYPES = {
    **{name.value: name for name in EventType},
    "TRAINING_THRESHOLD": EventType.TRAINING_THRESHOLD_REACHED,
    "SYNC_REQUEST": EventType.DATA_NEEDED,
    "SYNC_REQUESTED": EventType.DATA_NEEDED,
    "DATA_SYNC_REQUESTED": EventType.DATA_NEEDED,
    "NEW_GAMES": EventType.SELFPLAY_COMPLETE,
    "NEW_GAMES_AVAILABLE": EventType.SELFPLAY_COMPLETE,
    "NPZ_EXPORT_COMPLETED": EventType.NPZ_EXPORT_COMPLETE,
    "PROMOTION_COMPLETE": EventType.MODEL_PROMOTED,
    "TIER_GATING_COMPLETE": EventType.MODEL_PROMOTED,
    "NODE_TERMINATED": EventType.HOST_OFFLINE,
    "NODE_TERMINATING": EventType.HOST_OFFLINE,
    "DATA_SYNC_COMPLETED": EventType.SYNC_COMPLETED,
    "SYNC_COMPLETE": EventType.SYNC_COMPLETED,
    "CLUSTER_SYNC_COMPLETE": EventType.SYNC_COMPLETED,
    "TRAINING_BLOCKED_BY_QUALITY": EventType.TRAINING_BLOCKED_BY_DATA,
    "ORPHAN_GAMES_DETECTED": EventType.ORPHAN_DETECTED,
}
"""Every name, in capitals, to the event that it means. RingRift's own values are these in small letters."""

_MISSING = {"config": "missing_config", "host": "missing_host", "hosts": "missing_host"}
_BAD = {"config": "bad_config", "host": "bad_host", "hosts": "bad_host"}
_NAMES_OF_TYPE = ("event_type", "event", "event_name", "type", "stage")
_NAMES_OF_PAYLOAD = ("payload", "data")
_NAMES_OF_TIME = ("timestamp", "at", "time", "triggered_at", "created_at")
_NESTED = "metadata"
_MILLISECONDS = 1e11
_EARLIEST, _LATEST = 946_684_800.0, 4_102_444_800.0
_MAX_WHOLE = 1 << 40
_MAX_NAME = 200
"""Characters of what may be a name: longer ones are no names, and not worth remembering."""
_ABOUT_ITSELF = frozenset({EventType.HOST_ONLINE, EventType.HOST_OFFLINE})
"""Never about the host that tells it, unless they say so."""


class NotUnderstood(Exception):
    """What was told is no event; `code` is one of REASONS."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = " ".join(detail.split())[:300]


def whole(value: Any) -> int:
    """A count, however it is written. Raises ValueError."""
    number = int(value) if isinstance(value, str) and len(value) < 16 and value.isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number) or not 0 <= number <= _MAX_WHOLE:
        raise ValueError("not a count")
    return int(number)


def real(value: Any) -> float:
    """A finite number. Raises ValueError."""
    number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number


def hours(value: Any) -> float:
    """Hours in seconds. Raises ValueError."""
    return real(value) * 3600


def percent(value: Any) -> float:
    """Percent as a share. Raises ValueError."""
    return real(value) / 100


def text(value: Any) -> str:
    """Words, also of an enum or a number. Raises ValueError."""
    if not isinstance(value, str | int | float):
        raise ValueError("not a text")
    return value if isinstance(value, str) else str(value)


def names(value: Any) -> tuple[Any, ...]:
    """A list, one alone, or the keys of a mapping that are true. Raises ValueError."""
    if isinstance(value, dict):
        return tuple(str(key) for key, told in value.items() if told)
    if isinstance(value, list | tuple):
        return tuple(value)
    return (text(value),)


def first_names(value: Any) -> tuple[Any, ...]:
    """As `names`; a hundred of them tell enough. Raises ValueError."""
    return names(value)[:100]


def flag(value: Any) -> bool:
    """True or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def when(value: Any) -> float:
    """Seconds since 1970, of seconds, milliseconds or ISO 8601 (UTC unless it says otherwise). Raises ValueError."""
    if isinstance(value, str):
        if value.strip()[4:5] == "-":
            told = datetime.fromisoformat(value.strip())
            value = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
        else:
            value = float(value)
    number = real(value)
    number = number / 1000 if number > _MILLISECONDS else number
    if not _EARLIEST <= number <= _LATEST:
        raise ValueError("not a time of this century")
    return number


@lru_cache(maxsize=4096)
def _config(told: str) -> str:
    return parse_config(told).key


def config(value: Any) -> str:
    """The config that a text names. Raises ValueError."""
    told = text(value)
    if len(told) > _MAX_NAME:
        raise ValueError("too long for a config")
    return _config(told)


def item_type(value: Any) -> str:
    """What kind of item RingRift's word means. Raises ValueError."""
    word = text(value).strip().rpartition(".")[2].upper()
    known = _ITEM_TYPES.get(word, word)
    if known not in ItemType.__members__:
        raise ValueError("no type of items")
    return known


def urgency(value: Any) -> str:
    """How urgent RingRift's word is. Raises ValueError."""
    word = text(value).strip().rpartition(".")[2].upper()
    return _URGENCIES.get(word, word)


_ITEM_TYPES = {"GAMES": "GAME_DB", "DATABASES": "GAME_DB", "MODELS": "MODEL", "TRAINING_DATA": "NPZ", "CHECKPOINTS": "CHECKPOINT"}
_URGENCIES = {"EMERGENCY": "CRITICAL", "URGENT": "HIGH"}

Read = Callable[[Any], Any]
Ways = tuple[dict[str, Read], ...]
"""How a field may be told: names and how to read each. Those of one step have to agree; the first step that says anything holds."""


def _by(read: Read, *steps: str) -> Ways:
    return tuple(dict.fromkeys(step.split(), read) for step in steps)


_HOST = _by(text, "node_id host host_id node_name", "source_node", "source")
_PATH = _by(text, "path output_path", "npz_path", "model_path", "db_path", "database_path")
FIELDS: dict[str, Ways] = {
    "config": _by(config, "config_key config"),
    "host": _HOST,
    "hosts": _by(names, "hosts targets target_nodes", "node_id host host_id node_name"),
    "source": _by(text, "source_node source"),
    "targets": _by(names, "targets target_nodes"),
    "games": _by(
        whole,
        "games games_played games_generated games_completed game_count count new_games games_exported games_synced games_available",
    ),
    "samples": _by(whole, "samples samples_exported sample_count"),
    "total_games": _by(whole, "total_games"),
    "min_samples": _by(whole, "min_samples"),
    "iteration": _by(whole, "iteration"),
    "queue_depth": _by(whole, "queue_depth"),
    "files": _by(whole, "files files_synced entry_count"),
    "bytes": _by(whole, "bytes bytes_transferred bytes_synced total_bytes size"),
    "operation": _by(whole, "operation"),
    "attempts": _by(whole, "attempts"),
    "path": _PATH,
    "model_path": _by(text, "model_path path"),
    "model": _by(text, "model_id model model_version"),
    "sha256": _by(text, "sha256"),
    "job": _by(text, "job_id job"),
    "task": _by(text, "task_id task"),
    "engine": _by(text, "engine selfplay_type"),
    "kind": _by(text, "kind sync_type host_type"),
    "promotion": _by(text, "promotion_type promotion"),
    "reason": _by(text, "reason"),
    "cause": _by(text, "cause"),
    "detail": _by(text, "detail"),
    "next_action": _by(text, "next_action"),
    "transport": _by(text, "transport"),
    "level": _by(text, "level previous_level"),
    "resource": _by(text, "resource resource_type"),
    "urgency": _by(urgency, "urgency priority"),
    "type": ({"type": item_type, "item_type": item_type, "data_type": item_type},),
    "elo": _by(real, "elo"),
    "elo_gain": _by(real, "elo_gain elo_delta"),
    "quality": _by(real, "quality quality_score"),
    "seconds": _by(real, "seconds duration_seconds duration"),
    "age": ({"age": real, "data_age_hours": hours},),
    "max_age": ({"max_age": real, "max_age_seconds": real, "max_age_hours": hours},),
    "threshold": ({"threshold": real, "threshold_hours": hours},),
    "last_sync": ({"last_sync": when, "last_sync_time": when},),
    "last_seen": _by(when, "last_seen"),
    "fresh": _by(flag, "is_fresh fresh"),
    "success": _by(flag, "success"),
    "capabilities": _by(first_names, "capabilities"),
    "utilization": ({"utilization": real, "utilization_percent": percent},),
    **{field: _by(real, f"{field}_pressure {field}") for field in ("overall", "queue", "training", "disk", "sync", "memory")},
    "spawn_rate": _by(real, "spawn_rate_multiplier spawn_rate"),
    "count": _by(whole, "orphan_count count"),
    "paths": _by(first_names, "orphan_paths paths"),
    "boards": _by(first_names, "board_types boards"),
    "items": _by(first_names, "items"),
}
"""The ways in which any payload may tell a field."""
UNTOLD = frozenset({"other", "manifest", "signature"})
"""Fields of payloads that no host tells: nobody tells the coordinator what was signed."""
WAYS: dict[EventType, dict[str, Ways]] = {
    EventType.TRAINING_THRESHOLD_REACHED: {"threshold": _by(whole, "threshold"), "urgency": _by(text, "priority urgency")},
    # A stage's result counts `games_generated`, and says 0 where the stage generates none.
    EventType.NPZ_EXPORT_COMPLETE: {
        "games": _by(whole, "games games_exported", "games_generated games_played games_completed game_count count new_games")
    },
    EventType.SELFPLAY_COMPLETE: {"path": _by(text, "db_path database_path path", "output_path")},
    EventType.MODEL_PROMOTED: {"path": _by(text, "model_path path", "output_path")},
    EventType.SYNC_COMPLETED: {"host": FIELDS["host"][:1]},
    EventType.DATA_AVAILABLE: {"host": FIELDS["host"][:1]},
    EventType.DATA_TRANSFER_COMPLETE: {"host": FIELDS["host"][:1]},
    EventType.DATA_TRANSFER_FAILED: {"host": FIELDS["host"][:1]},
    EventType.ORPHAN_DETECTED: {"games": _by(whole, "games total_games")},
}
"""Where an event differs."""
_NAMED_AFTER = ("model", "path", "model_path")
"""What a config may be read from if no field names it."""
_OF_ANOTHER = {EventType.TRAINING_STARTED: ("model_path",)}
"""What may name another config than the event is about: a job may go on from a model of another."""
_UNSAID = {EventType.TRAINING_BLOCKED_BY_DATA: {"reason": "no reason was given"}}
"""Of fields that some emitters leave out: what they are then."""


@dataclass(frozen=True)
class _Reader:
    """How one event's payload is read: raw name to (field, step, how). `subject` is the field for the host that it is about, where
    that may be the one that it was told at."""

    ways: dict[str, tuple[str, int, Read]]
    fields: frozenset[str]
    required: frozenset[str]
    subject: str | None
    of_another: tuple[str, ...]


def _reader(kind: EventType) -> _Reader:
    model = PAYLOADS[kind]
    fields = model.model_fields.keys() - UNTOLD
    ways: dict[str, tuple[str, int, Read]] = {}
    for field in (name for name in model.model_fields if name in fields):
        for step, spelt in enumerate(WAYS.get(kind, {}).get(field, FIELDS[field])):
            for name, read in spelt.items():
                ways.setdefault(name, (field, step, read))
    required = frozenset(name for name in fields if model.model_fields[name].is_required())
    subject = next((name for name in ("host", "hosts") if name in required and kind not in _ABOUT_ITSELF), None)
    return _Reader(ways, frozenset(fields), required, subject, _OF_ANOTHER.get(kind, ()))


_READERS = {kind: _reader(kind) for kind in EventType}


def adapt(raw: Any, *, host: str, at: float) -> Event:
    """The typed event that a raw one is. `host` is where it was told, `at` when; both hold where it does not say otherwise.

    The raw one is an object with a name of the event and a payload, or with its fields beside the name. Raises NotUnderstood, and
    nothing else.
    """
    if not isinstance(raw, dict):
        raise NotUnderstood("not_an_object", f"{type(raw).__name__} instead of an object")
    kind, envelope, payload = _opened(raw)
    reader = _READERS[kind]
    said: dict[str, tuple[int, Any]] = {}
    other: dict[str, Any] = {}
    board = _take(kind, reader, payload, said, other)
    values: dict[str, Any] = {field: value for field, (_, value) in said.items()}
    _settle_config(reader, values, board)
    if reader.subject is not None and reader.subject not in values:
        values[reader.subject] = (host,) if reader.subject == "hosts" else host
    values = _UNSAID.get(kind, {}) | values
    if missing := sorted(reader.required - values.keys()):
        raise NotUnderstood(_MISSING.get(missing[0], "missing_field"), f"{kind} without {missing[0]}")
    if other or envelope:
        values["other"] = dict(_kept({**envelope, **other}))
    try:
        typed = PAYLOADS[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        raise NotUnderstood(_BAD.get(field, "bad_field"), f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return Event.model_construct(id=_id(raw), type=kind, host=host, at=_time(payload, raw, at), payload=typed, sequence=None)


def parse(body: bytes) -> Any:
    """JSON, also as Python writes it (NaN, Infinity, lone surrogates: such a value then says nothing). Raises NotUnderstood."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return _plain(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise NotUnderstood("not_json", str(error)) from None


def raw_text(raw: Any) -> str:
    """A raw event as text, for people and for another try; what is longer than 16 KiB loses its end, and is not tried again."""
    try:
        written = orjson.dumps(raw, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, RecursionError):
        written = _repr(raw)[: MAX_RAW * 2].encode("utf-8", "replace")
    return bounded(written)


def _repr(raw: Any) -> str:
    try:
        return repr(raw)
    except RecursionError:
        return "nested too deeply to be written"


def bounded(body: bytes) -> str:
    """The beginning of a text, in characters that any database takes."""
    return body[:MAX_RAW].decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _opened(raw: Mapping[str, Any]) -> tuple[EventType, dict[str, Any], Mapping[str, Any]]:
    """The event's type, what the envelope says beside it, and the payload."""
    called = ""
    for called in _NAMES_OF_TYPE:
        if isinstance(raw.get(called), str) and raw[called].strip():
            break
    else:
        raise NotUnderstood("no_type", f"none of {', '.join(_NAMES_OF_TYPE)} is there")
    kind = TYPES.get(_spelt(raw[called][-_MAX_NAME:]))
    if kind is None:
        raise NotUnderstood("unknown_type", f"no event is called {tidy(raw[called])[:80]!r}")
    for body in _NAMES_OF_PAYLOAD:
        if isinstance(raw.get(body), dict):
            known = (called, body, "id", *_NAMES_OF_TIME)
            return kind, {name: value for name, value in raw.items() if name not in known}, raw[body]
    return kind, {}, {name: value for name, value in raw.items() if name not in (called, "id")}


@lru_cache(maxsize=1024)
def _spelt(name: str) -> str:
    """A name of an event as TYPES has it."""
    return name.strip().rpartition(".")[2].upper().replace("-", "_")


def _take(
    kind: EventType, reader: _Reader, payload: Mapping[str, Any], said: dict[str, tuple[int, Any]], other: dict[str, Any]
) -> dict[str, Any]:
    """Read every field that is known, in the payload and in its metadata; returns what names a board and players."""
    board: dict[str, Any] = {}
    nested = payload.get(_NESTED)
    for layer in (payload, nested if isinstance(nested, dict) else {}):
        for name, value in layer.items():
            if value is None or value == "" or value == [] or (layer is payload and name in (_NESTED, *_NAMES_OF_TIME)):
                continue
            way = reader.ways.get(name)
            if way is not None:
                _say(kind, name, value, way, said, other)
            elif name in ("board_type", "num_players") and "config" in reader.fields:
                if board.setdefault(name, value) != value:
                    raise NotUnderstood("contradiction", f"{name} is both {tidy(board[name])!r} and {tidy(value)!r}")
            else:
                other.setdefault(str(name), value)
    return board


def _say(
    kind: EventType, name: str, value: Any, way: tuple[str, int, Read], said: dict[str, tuple[int, Any]], other: dict[str, Any]
) -> None:
    field, step, read = way
    try:
        told = read(value)
    except (ValueError, OverflowError) as error:
        code = "bad_time" if read is when else _BAD.get(field, "bad_field")
        raise NotUnderstood(code, f"{name} of {kind}: {str(error)[:200]}") from None
    before = said.get(field)
    if before is None or step < before[0]:
        said[field] = step, told
    elif step == before[0] and told != before[1]:
        raise NotUnderstood("contradiction", f"{field}: {str(before[1])[:100]!r} and {name} = {str(told)[:100]!r}")
    elif step > before[0]:
        other.setdefault(name, value)


def _settle_config(reader: _Reader, values: dict[str, Any], board: Mapping[str, Any]) -> None:
    """Bring together what names the config: a key, a board with players, and if neither is there the name of a model or file."""
    if "config" not in reader.fields:
        return
    named = values.get("config")
    if board.keys() >= {"board_type", "num_players"}:
        told = _board_config(board)
        if named not in (None, told):
            raise NotUnderstood("contradiction", f"config: {named!r} and board_type with num_players = {told!r}")
        values["config"] = told
    elif named is None and board:
        raise NotUnderstood("missing_config", f"only {next(iter(board))} is there")
    elif board:
        _agree(named or "", board)
    for field in _NAMED_AFTER:
        told = _config_in(values[field][-_MAX_NAME:]) if field in values else None
        if told and values.setdefault("config", told) != told and field not in reader.of_another:
            raise NotUnderstood("contradiction", f"config: {values['config']!r}, and {field} is of {told!r}")


def _board_config(board: Mapping[str, Any]) -> str:
    players = str(board["num_players"])[:_MAX_NAME].removesuffix(".0")
    try:
        return _config(f"{_board(board['board_type'])}_{players}p")
    except UnknownConfig as error:
        raise NotUnderstood("bad_config", f"board_type with num_players: {error}") from None


def _agree(config: str, board: Mapping[str, Any]) -> None:
    """A config beside half of one."""
    known = parse_config(config)
    half = next(iter(board))
    same = _board(board[half]) == known.board if half == "board_type" else str(board[half]).removesuffix(".0") == str(known.players)
    if not same:
        raise NotUnderstood("contradiction", f"config: {config!r} and {half} = {tidy(board[half])!r}")


def _board(value: Any) -> str:
    word = str(value).strip().rpartition(".")[2].lower()
    board = BOARD_ALIASES.get(word, word)
    if board not in BOARDS:
        raise NotUnderstood("bad_config", f"board_type: {word[:80]!r} is none of {', '.join(BOARDS)}")
    return board


@lru_cache(maxsize=4096)
def _config_in(name: str) -> str | None:
    """The config in a file's or model's name, if it is just one."""
    try:
        return parse_config(name.rpartition("/")[2]).key
    except UnknownConfig:
        return None


def _id(raw: Mapping[str, Any]) -> str:
    """Its own id, or a new one. RingRift's `event_id` counts if it is as unique as ours."""
    own = raw.get("id")
    if own is None:
        return raw["event_id"] if is_id(raw.get("event_id")) else new_id()
    if not is_id(own):
        raise NotUnderstood("bad_id", f"{str(own)[:80]!r}")
    return own


def _time(payload: Mapping[str, Any], raw: Mapping[str, Any], at: float) -> float:
    for layer in (payload, raw):
        for name in _NAMES_OF_TIME:
            if value := layer.get(name):
                try:
                    return when(value)
                except (ValueError, OverflowError) as error:
                    raise NotUnderstood("bad_time", f"{name}: {str(error)[:200]}") from None
    return at


def _kept(other: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was told beside the known fields, as far as it is plain; mappings are told a step deep."""
    count = 0
    for name, value in _flat(other.items()):
        if count < MAX_OTHER and isinstance(value, str | int | float) and tidy(value) != "":
            big = isinstance(value, int | float) and abs(value) > 1e12
            yield tidy(name)[:100] or "_", str(value)[:100] if big else value
            count += 1


def _flat(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for name, value in items:
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield str(name), value


def _plain(value: Any) -> Any:
    """Without what JSON does not know."""
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(value) if isinstance(value, int) and abs(value) >= 1 << 63 else value
