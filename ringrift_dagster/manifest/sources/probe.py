"""What a file's content tells: config, counts, newest game, quality, Elo, and whether it is sound.

Looks at one finished file that nobody writes to. Nothing is unpickled, what is read beyond the checks of a type is bounded, and no
content makes it raise. Hashing and deciding what is an item belong to `tree`.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ringrift_dagster.games.config import CONFIG_KEYS, UnknownConfig, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, configs_in
from ringrift_dagster.manifest.inventory import MAX_PROVENANCE, ItemType, Soundness
from ringrift_dagster.manifest.sources.layouts import SIDECAR_SUFFIX

FUTURE_SECONDS = 3600.0
"""A newest game further ahead of this host's clock is not believed."""
MAX_SIDECAR_BYTES = 1 << 20
MAX_ZIP_DIRECTORY_BYTES = 32 << 20
MAX_TEXT = 500
_CARRIED = ("config", "games", "samples", "quality", "newest_game", "elo", "soundness", "reason", "provenance")


@dataclass(frozen=True)
class Facts:
    """What a file's content tells. Times are seconds since 1970 (UTC); `quality` is 0 to 1.

    `problem` is set when the file is no item at all: the reason is one of UNTRACKED_REASONS.
    """

    config: str | None = None
    games: int | None = None
    samples: int | None = None
    quality: float | None = None
    newest_game: float | None = None
    elo: float | None = None
    soundness: Soundness = Soundness.UNKNOWN
    reason: str | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Finished games by config, of a database."""
    problem: tuple[str, str] | None = None

    def to_json(self) -> str:
        """What an item carries of it."""
        told = {name: getattr(self, name) for name in _CARRIED}
        return json.dumps({name: value for name, value in told.items() if value not in (None, {})})


def probe(path: Path, type: ItemType, relative: str, *, sha256: str | None = None) -> Facts:
    """What the file at `path`, which is or will be `relative` to its location's root, tells. `sha256` is its hash, if known."""
    try:
        if path.stat().st_size == 0:
            return Facts(problem=("empty", "zero bytes"))
        facts = _PROBES[type](path, relative, sha256)
    except OSError as error:
        return Facts(problem=("unreadable", error.strerror or str(error)))
    except (MemoryError, RecursionError, EOFError, ArithmeticError, ValueError) as error:
        facts = Facts(soundness=Soundness.UNSOUND, reason=f"cannot be read: {type_name(error)}")
    facts = _with_config(_in_time(facts), relative)
    provenance = {key[:50]: _line(text) for key, text in list(facts.provenance.items())[:MAX_PROVENANCE]}
    return replace(facts, reason=_line(facts.reason, 300), provenance=provenance)


def epoch_seconds(text: str | None) -> float | None:
    """A recorded time: ISO, in UTC unless it says otherwise; None if it is no time."""
    if not text:
        return None
    try:
        time_ = datetime.fromisoformat(text.strip())
        seconds = (time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds >= 0 else None


def type_name(error: BaseException) -> str:
    """An error in one line."""
    return _line(f"{error.__class__.__name__}: {error}", 200) or error.__class__.__name__


def database_facts(path: Path, *, check: bool) -> Facts:
    """What a finished game database tells. Raises DatabaseUnreadable. `check`: with SQLite's quick_check."""
    with closing(_StillDatabase(path, check=check)) as database:
        summary = database.summary()
        quality = database.mean_quality()
    counts = {key: summary.configs[key] for key in configs_in(summary)}
    provenance = {}
    if len(counts) > 1:
        provenance["configs"] = ", ".join(f"{key}: {count}" for key, count in counts.items())
    if summary.schema_version is not None:
        provenance["schema_version"] = str(summary.schema_version)
    return Facts(
        config=next(iter(counts)) if len(counts) == 1 else None,
        games=sum(counts.values()),
        quality=quality,
        newest_game=epoch_seconds(summary.newest_game),
        soundness=Soundness.SOUND,
        provenance=provenance,
        counts=counts,
    )


class _StillDatabase(GameDatabase):
    """A database that nobody writes to. Opened as immutable, since SQLite would else leave a log beside a file in WAL mode."""

    def __init__(self, path: Path, *, check: bool) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
        except sqlite3.Error as error:
            raise DatabaseUnreadable(path, str(error)) from error
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a bad byte is one game's business
        try:
            problem = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0] if check else "ok"
            if problem != "ok":
                raise DatabaseUnreadable(path, f"damaged: {str(problem).splitlines()[-1][:160]}")
            names = [name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            query = "SELECT name FROM pragma_table_info(?)"
            self._tables = {name: {row[0] for row in self._connection.execute(query, (name,))} for name in names}
            missing = {"game_id", "board_type", "num_players", "game_status"} - self._tables.get("games", set())
            if missing:
                raise DatabaseUnreadable(path, "no game database")
            self.schema_version = self._schema_version()
        except sqlite3.Error as error:
            self.close()
            raise DatabaseUnreadable(path, str(error)) from error
        except DatabaseUnreadable:
            self.close()
            raise

    def mean_quality(self) -> float | None:
        """The mean score of the games that have one."""
        if "quality_score" not in self._tables["games"]:
            return None
        scored = "FROM games WHERE typeof(quality_score) IN ('real', 'integer')"
        try:
            (mean,) = self._connection.execute(f"SELECT AVG(MIN(MAX(quality_score, 0.0), 1.0)) {scored}").fetchone()
        except sqlite3.Error as error:
            raise DatabaseUnreadable(self.path, str(error)) from error
        return _share(mean)


def _game_database(path: Path, relative: str, sha256: str | None) -> Facts:
    try:
        return database_facts(path, check=True)
    except DatabaseUnreadable as error:
        if _named(relative) is None:
            return Facts(problem=("unreadable", error.detail))
        return Facts(soundness=Soundness.UNSOUND, reason=error.detail)


def _npz(path: Path, relative: str, sha256: str | None) -> Facts:
    from ringrift_dagster.datasets.npz_validator import inspect_npz

    report = inspect_npz(path, manifest=False)
    if report.valid and sha256 is not None and report.sha256 != sha256:
        return Facts(problem=("in_flux", "changed while it was read"))
    first = report.errors[0] if report.errors else None
    return Facts(
        config=report.config if report.config in CONFIG_KEYS else None,
        samples=report.samples if report.samples is not None and 0 <= report.samples <= 1 << 40 else None,
        quality=_npz_quality(path) if report.valid and "quality_score" in report.arrays else None,
        newest_game=epoch_seconds(report.newest_game_time),
        soundness=Soundness.UNSOUND if first else Soundness.SOUND,
        reason=first.code if first else None,
        provenance={
            name: str(value)
            for name, value in (
                ("error", first.detail if first else None),
                ("encoder", report.encoder),
                ("value_targets", report.value_targets),
                ("export_version", report.export_version),
            )
            if value is not None
        },
    )


def _npz_quality(path: Path) -> float | None:
    """The mean of the samples' scores, of an NPZ that was found valid."""
    import numpy as np

    from ringrift_dagster.datasets.npz_reader import NpzArchive, NpzError, open_regular

    total, count = 0.0, 0
    try:
        with open_regular(path) as file, NpzArchive(file) as archive:
            for block in archive.blocks(archive.header("quality_score")):
                finite = block[np.isfinite(block)]
                total += float(finite.sum(dtype=np.float64))
                count += len(finite)
    except NpzError:
        return None
    return _share(total / count) if count else None


def _canonical_games(path: Path, relative: str, sha256: str | None) -> Facts:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            told = {
                key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in (schema.metadata or {}).items()
            }
            games = "winner" in schema.names
            times: list[str] = []
            columns = [name for name in ("completed_at", "created_at") if name in schema.names]
            if games and columns:
                for batch in file.iter_batches(batch_size=4096, columns=columns):
                    for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        times.append(next((str(time_) for time_ in row if time_), ""))
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        return Facts(soundness=Soundness.UNSOUND, reason=_line(str(error), 200))
    claimed = PurePosixPath(relative).stem.rpartition("-")[2]
    honest = sha256 is None or len(claimed) != 16 or sha256.startswith(claimed)
    names = {"ringrift.rules_version": "rules_version", "ringrift.moves_file": "moves_file", "ringrift.databases": "databases"}
    config = told.get("ringrift.config")
    return Facts(
        config=config if config in CONFIG_KEYS else None,
        games=rows if games else None,
        newest_game=epoch_seconds(max(times, default=None)),
        soundness=Soundness.SOUND if honest else Soundness.UNSOUND,
        reason=None if honest else "content is not what its name says",
        provenance={"part": "games" if games else "moves", **{names[key]: text for key, text in told.items() if key in names}},
    )


def _model(path: Path, relative: str, sha256: str | None) -> Facts:
    if relative.endswith(".onnx"):
        facts = Facts()
    else:
        problem = _torch_problem(path)
        facts = Facts(soundness=Soundness.UNSOUND if problem else Soundness.SOUND, reason=problem)
    elo, model_id = _sidecar(path)
    return replace(facts, elo=elo, provenance={"model_id": model_id} if model_id else {})


def _torch_problem(path: Path) -> str | None:
    """Why a file is not what torch saves, or None. Looks at the archive's directory only."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + 22 > len(tail):
            return "not_a_zip"
        directory_bytes = struct.unpack_from("<L", tail, at + 12)[0]
        if directory_bytes != 0xFFFFFFFF and directory_bytes > MAX_ZIP_DIRECTORY_BYTES:
            return "hostile_archive"
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, OverflowError, UnicodeDecodeError, ValueError):
            return "not_a_zip"
        if any(not 0 <= member.header_offset <= size - member.compress_size for member in members):
            return "not_a_zip"
        if not any(member.filename.rpartition("/")[2] == "data.pkl" and member.file_size for member in members):
            return "no_data_pkl"
    return None


def _sidecar(path: Path) -> tuple[float | None, str | None]:
    """Elo and model id from the JSON beside a model, as far as it makes sense."""
    for beside in (path.with_name(path.name + SIDECAR_SUFFIX), path.with_name(path.stem + SIDECAR_SUFFIX)):
        try:
            if beside.is_symlink() or not beside.is_file() or beside.stat().st_size > MAX_SIDECAR_BYTES:
                continue
            told = json.loads(beside.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(told, dict):
            ratings = (_rating(told.get(name)) for name in ("elo", "elo_rating"))
            elo = next((rating for rating in ratings if rating is not None), None)
            model_id = told.get("model_id")
            return elo, model_id if isinstance(model_id, str) and model_id else None
    return None, None


def _rating(value: Any) -> float | None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if numeric and math.isfinite(value) and abs(value) <= 10_000 else None


def _in_time(facts: Facts) -> Facts:
    if facts.newest_game is None or facts.newest_game <= time.time() + FUTURE_SECONDS:
        return facts
    told = f"in the future: {datetime.fromtimestamp(facts.newest_game, tz=UTC).isoformat()}"
    return replace(facts, newest_game=None, provenance={"newest_game": told, **facts.provenance})


def _with_config(facts: Facts, relative: str) -> Facts:
    """Fill in the config from the name where the content tells none; a file without any is no item."""
    if facts.problem or facts.config or len(facts.counts) > 1:
        return facts
    named = _named(relative)
    if named is None:
        return replace(facts, problem=("unknown_config", "neither content nor name tell a config"))
    return replace(facts, config=named)


def _named(relative: str) -> str | None:
    """The config that a file's name tells, or else the folders it is in."""
    for text in (relative.rpartition("/")[2], relative):
        try:
            return parse_config(text).key
        except UnknownConfig:
            continue
    return None


def _share(value: float | None) -> float | None:
    return min(1.0, max(0.0, value)) if value is not None and math.isfinite(value) else None


def _line(text: str | None, limit: int = MAX_TEXT) -> Any:
    if text is None:
        return None
    return " ".join(text.encode("utf-8", "replace").decode().split())[:limit]


_PROBES: dict[ItemType, Callable[[Path, str, str | None], Facts]] = {
    ItemType.GAME_DB: _game_database,
    ItemType.NPZ: _npz,
    ItemType.CANONICAL_GAMES: _canonical_games,
    ItemType.MODEL: _model,
    ItemType.CHECKPOINT: _model,
}


def holds_all_games(newer: Path, older: Path) -> bool:
    """Whether every game of one snapshot is in another; False if either cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(newer.absolute()))}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("ATTACH ? AS older", (f"file:{quote(str(older.absolute()))}?mode=ro&immutable=1",))
            lacking = "SELECT 1 FROM older.games WHERE game_id NOT IN (SELECT game_id FROM main.games) LIMIT 1"
            return connection.execute(lacking).fetchone() is None
    except sqlite3.Error:
        return False
