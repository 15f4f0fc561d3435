"""Exporting canonical games as one NPZ training set with its manifest.

Keys, dtypes, shapes and values are those of RingRift's exporter (version 2.1, single-threaded), so that its trainer loads them
unchanged. Games stream: a first pass takes in what the gate accepts, a second encodes; memory does not grow with the number of
positions. Nothing stands under the final name before it is complete, validated and durable.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import orjson
from numpy.typing import NDArray

from ringrift_dagster.canonical.gate import RULES_VERSION, Gate, judged_games
from ringrift_dagster.datasets.canonical_games import CanonicalGame, stored_games, summarise
from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, HISTORY_LENGTH, GameEncoder, encoding
from ringrift_dagster.datasets.labels import (
    NO_POLICY,
    ValueTargets,
    elo,
    engine_mode,
    opponent_type,
    policy_indices,
    quality_score,
    seat_values,
    victory_type,
)
from ringrift_dagster.datasets.npz_validator import inspect_npz
from ringrift_dagster.datasets.npz_writer import (
    NpzWriter,
    dictionary,
    floats,
    integers,
    publish,
    repeated,
    small_arrays,
)
from ringrift_dagster.datasets.soft_policy import soft_targets
from ringrift_dagster.datasets.training_sets import archive_manifest
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, file_sha256
from ringrift_dagster.games.moves import COLUMNS, TYPE, MoveType, PackedMoves, Phase
from ringrift_dagster.games.position import empty_position
from ringrift_dagster.home import Home

EXPORT_VERSION = "2.1"
FEATURE_VERSION = 2
_BLOCK_BYTES = 4 << 20
_BLOCK_SAMPLES = 1 << 16
_PHASE_NAMES = tuple(phase.name.lower() for phase in Phase)
_MOVE_NAMES = tuple(kind.name.lower() for kind in MoveType)

_STAGES = ("judging", "writing", "validating")

Progress = Callable[[str, int, int], None]


class ExportError(Exception):
    """Nothing was published. `code` is one of no_games, unreadable, wrong_config, busy, disk_full, unwritable, invalid_output."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ExportResult:
    """What was published."""

    path: Path
    manifest_path: Path
    config: str
    sha256: str
    content_digest: str
    samples: int
    games: int
    bytes: int
    newest_game: str | None
    digest_root: str
    value_targets: str
    rejected: dict[str, int]
    seconds: float
    stages: dict[str, float]
    """Seconds spent judging, writing (encoding and compressing) and validating."""
    phases: dict[str, int]
    outcomes: dict[str, int]


@dataclass
class _Sources:
    """Where the games come from, as the manifest tells it; `archive` is the home that keeps the manifest of its canonical games."""

    databases: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    archive: Home | None = None


def export_databases(
    config: str,
    databases: Sequence[Path],
    out: Path,
    *,
    value_targets: str = "canonical",
    progress: Progress | None = None,
) -> ExportResult:
    """Judge the games of `databases` and export those that are canonical and of `config`, in the databases' own order.

    Raises ExportError; then whatever stood at `out` before still does.
    """
    wanted = parse_config(config)
    sources = _Sources()

    def games() -> Iterator[CanonicalGame]:
        gate = Gate()
        for path in databases:
            try:
                with GameDatabase(path) as database:
                    accepted = 0
                    for judged in judged_games(database, gate, wanted):
                        if judged.verdict.reason is not None:
                            sources.rejected[judged.verdict.reason] += 1
                            continue
                        accepted += 1
                        yield CanonicalGame.of(judged)
                    sources.databases.append({"name": path.name, "sha256": file_sha256(path), "games": accepted})
            except DatabaseUnreadable as error:
                raise ExportError("unreadable", str(error)) from error

    return _export(wanted, games(), sources, out, ValueTargets(value_targets), progress)


def export_canonical(
    config: str, home: Home, *, value_targets: str = "canonical", progress: Progress | None = None
) -> ExportResult:
    """Export a config's canonical store to `home.datasets/<config>.npz`, and keep its manifest. Raises ExportError."""
    wanted = parse_config(config)
    sources = _Sources(databases=summarise(config, home).databases, archive=home)
    home.datasets.mkdir(parents=True, exist_ok=True)
    out = home.datasets / f"{wanted.key}.npz"
    return _export(wanted, stored_games(wanted, home), sources, out, ValueTargets(value_targets), progress)


def manifest_path_of(npz: Path) -> Path:
    """The manifest that stands beside an NPZ."""
    return npz.with_name(npz.stem + ".manifest.json")


def _export(
    config: Config,
    games: Iterable[CanonicalGame],
    sources: _Sources,
    out: Path,
    targets: ValueTargets,
    progress: Progress | None,
) -> ExportResult:
    started = time.perf_counter()
    out = out.absolute()
    try:
        with ExitStack() as stack:
            stack.enter_context(_sole_export(out))
            staging = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_staging(out), dir=out.parent)))
            taken = _take_in(config, games, staging, stack)
            marks = [started, time.perf_counter()]
            if not taken.counts:
                raise ExportError("no_games", f"no canonical {config.key} game to export{_reasons(sources.rejected)}")
            staged = staging / out.name
            with staged.open("wb") as file:
                content = _write(config, taken, file, staging, stack, targets, progress)
            marks.append(time.perf_counter())
            return _publish(config, taken, sources, staged, out, targets, content, marks)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ExportError("disk_full", f"no space left for {out}: free some and run it again") from error
        raise ExportError("unwritable", f"cannot write {out}: {error.strerror or error}") from error


def _reasons(rejected: Counter[str]) -> str:
    return f" (rejected: {', '.join(f'{n} {reason}' for reason, n in rejected.items())})" if rejected else ""


@contextmanager
def _sole_export(out: Path) -> Iterator[None]:
    """One export of a file at a time, across processes; the lock goes with the process that holds it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExportError("busy", f"another export of {out} is running: wait for it") from error
        for left_behind in out.parent.glob(_staging(out) + "*"):
            shutil.rmtree(left_behind)  # of an export that was killed: its lock is free
        yield


def _staging(out: Path) -> str:
    return f".{out.name}.export-"


class _Spool:
    """Rows of one dtype on disk: written in order, read back in blocks."""

    def __init__(self, staging: Path, dtype: type[np.generic], width: int, stack: ExitStack) -> None:
        self._file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(dir=staging))  # noqa: SIM115 - the stack is its context
        self._dtype = np.dtype(dtype)
        self._width = width

    def append(self, rows: NDArray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)

    def read(self, rows: int) -> NDArray:
        """The next `rows` rows."""
        data = self._file.read(rows * self._width * self._dtype.itemsize)
        return np.frombuffer(data, dtype=self._dtype).reshape(-1, self._width)

    def rewind(self) -> None:
        self._file.seek(0)

    def blocks(self) -> Iterator[NDArray]:
        """All rows from the start; one-dimensional when the width is 1."""
        self.rewind()
        while len(block := self.read(_BLOCK_SAMPLES)):
            yield block[:, 0] if self._width == 1 else block


@dataclass
class _Taken:
    """What the first pass took in: games in compact form, and the columns that need no replay."""

    rows: _Spool
    cells: _Spool
    policy: _Spool
    policy_weights: _Spool
    policy_lengths: _Spool
    move_numbers: _Spool
    move_types: _Spool
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (moves, listed cells) of each game
    rules: list[tuple[bool, str]] = field(default_factory=list)  # (swap rule, variant) of each game
    counts: list[int] = field(default_factory=list)  # samples of each game
    totals: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    victory: list[str] = field(default_factory=list)
    engine: list[str] = field(default_factory=list)
    opponent: list[str] = field(default_factory=list)
    opponent_elo: list[float] = field(default_factory=list)
    generator_elo: list[float] = field(default_factory=list)
    winners: Counter[str] = field(default_factory=Counter)
    digests: list[str] = field(default_factory=list)
    newest: str | None = None
    largest_policy: int = 0
    widths: set[int] = field(default_factory=set)  # numbers of policy entries that samples have


def _take_in(config: Config, games: Iterable[CanonicalGame], staging: Path, stack: ExitStack) -> _Taken:
    taken = _Taken(
        rows=_Spool(staging, np.int32, len(COLUMNS), stack),
        cells=_Spool(staging, np.int16, 1, stack),
        policy=_Spool(staging, np.int32, 1, stack),
        policy_weights=_Spool(staging, np.float32, 1, stack),
        policy_lengths=_Spool(staging, np.int32, 1, stack),
        move_numbers=_Spool(staging, np.int32, 1, stack),
        move_types=_Spool(staging, np.uint8, 1, stack),
    )
    for game in games:
        row, moves = game.row, game.moves
        policy = policy_indices(config, moves)
        numbers = np.flatnonzero(policy != NO_POLICY)
        if row.get("winner") is None or len(numbers) == 0:
            continue  # a game that nobody won has no value target
        taken.rows.append(moves.rows)
        taken.cells.append(moves.cells)
        _take_policy(config, game, policy, numbers, taken)
        taken.move_numbers.append(numbers)
        taken.move_types.append(moves.rows[numbers, TYPE])
        taken.sizes.append((len(moves), len(moves.cells)))
        taken.rules.append((game.swap_rule, game.variant))
        taken.counts.append(len(numbers))
        taken.totals.append(len(moves) if row.get("total_moves") is None else row["total_moves"])
        taken.quality.append(quality_score(row, len(moves)))
        taken.victory.append(victory_type(row))
        taken.engine.append(engine_mode(row))
        taken.opponent.append(opponent_type(row))
        taken.opponent_elo.append(elo(row, "opponent_elo", "model_elo"))
        taken.generator_elo.append(elo(game.metadata, "model_elo"))
        taken.winners[str(row["winner"])] += 1
        taken.digests.append(game.digest)
        if (ended := game.time) is not None:
            taken.newest = max(taken.newest or "", str(ended))
    return taken


def _take_policy(config: Config, game: CanonicalGame, policy: NDArray[np.int32], numbers: NDArray[np.int64], taken: _Taken) -> None:
    """Spool the policy targets of a game: the move played, or a search's probabilities where these were recorded."""
    soft = dict(soft_targets(config, game.start(config), game.moves, game.probabilities))
    certain = np.ones(1, dtype=np.float32)
    targets = [soft.get(number, (policy[number : number + 1], certain)) for number in numbers.tolist()] if soft else []
    indices = np.concatenate([target[0] for target in targets]) if soft else policy[numbers]
    lengths = np.array([len(target[0]) for target in targets]) if soft else np.ones(len(numbers))
    taken.policy.append(indices)
    taken.policy_weights.append(np.concatenate([target[1] for target in targets]) if soft else np.ones(len(numbers)))
    taken.policy_lengths.append(lengths)
    taken.largest_policy = max(taken.largest_policy, int(indices.max()))
    taken.widths.update(np.unique(lengths).astype(int).tolist())


def _write_policy(npz: NpzWriter, taken: _Taken, samples: int) -> None:
    """As NumPy lays lists of arrays out: a table of numbers when all have one length, else a list of arrays."""
    if len(taken.widths) == 1:
        shape = (samples, *taken.widths)
        npz.objects("policy_indices", shape, integers(taken.policy.blocks()))
        if taken.widths == {1}:
            npz.objects(
                "policy_values",
                shape,
                repeated((1.0,), _per_sample(np.zeros(len(taken.counts), np.uint8), taken.counts)),
            )
        else:
            npz.objects("policy_values", shape, floats(taken.policy_weights.blocks()))
        return
    for name, spool in (("policy_indices", taken.policy), ("policy_values", taken.policy_weights)):
        npz.objects(name, (samples,), small_arrays(_ragged(spool, taken.policy_lengths)))


def _ragged(flat: _Spool, lengths: _Spool) -> Iterator[list[NDArray]]:
    flat.rewind()
    for block in lengths.blocks():
        yield np.split(flat.read(int(block.sum()))[:, 0], np.cumsum(block)[:-1])


@dataclass(frozen=True)
class _Content:
    samples: int
    phases: dict[str, int]
    checksums: dict[str, str]


def _write(
    config: Config,
    taken: _Taken,
    file: BinaryIO,
    staging: Path,
    stack: ExitStack,
    targets: ValueTargets,
    progress: Progress | None,
) -> _Content:
    """The second pass: encode every game and write all arrays."""
    spec = encoding(config)
    samples = sum(taken.counts)
    phase_counts = np.zeros(len(Phase), dtype=np.int64)
    vectors = _Spool(staging, np.float32, GLOBAL_FEATURES, stack)
    values = _Spool(staging, np.float32, 1, stack)
    phases = _Spool(staging, np.uint8, 1, stack)
    by_seat: list[NDArray[np.float32]] = []

    def features() -> Iterator[NDArray[np.float32]]:
        shape = (-1, spec.in_channels, spec.spatial, spec.spatial)
        for block in _encoded(config, taken, targets, vectors, values, phases, by_seat, progress):
            yield block.reshape(shape)

    def of_games(column: Sequence[Any] | NDArray, dtype: type[np.generic]) -> Iterator[NDArray]:
        return _per_sample(np.asarray(column, dtype=dtype), taken.counts)

    def words(column: list[str]) -> Any:
        distinct = tuple(sorted(set(column)))
        return repeated(distinct, of_games([distinct.index(word) for word in column], np.uint8))

    def counted_phases() -> Iterator[NDArray[np.uint8]]:
        for block in phases.blocks():
            phase_counts[:] += np.bincount(block, minlength=len(Phase))
            yield block

    with NpzWriter(file) as npz:
        float32, int32 = np.dtype(np.float32), np.dtype(np.int32)
        npz.numeric("features", (samples, spec.in_channels, spec.spatial, spec.spatial), float32, features())
        npz.numeric("globals", (samples, GLOBAL_FEATURES), float32, vectors.blocks())
        npz.numeric("values", (samples,), float32, values.blocks())
        _write_policy(npz, taken, samples)
        npz.scalar("board_type", config.board)
        npz.scalar("board_size", spec.spatial)
        npz.scalar("history_length", HISTORY_LENGTH)
        npz.scalar("feature_version", FEATURE_VERSION)
        npz.scalar("policy_encoding", "board_aware")
        npz.numeric("move_numbers", (samples,), int32, taken.move_numbers.blocks())
        npz.numeric("total_game_moves", (samples,), int32, of_games(taken.totals, np.int32))
        npz.objects("phases", (samples,), repeated(_PHASE_NAMES, counted_phases()))
        npz.objects("victory_types", (samples,), words(taken.victory))
        npz.objects("engine_modes", (samples,), words(taken.engine))
        npz.objects("move_types", (samples,), repeated(_MOVE_NAMES, taken.move_types.blocks()))
        npz.numeric("opponent_elo", (samples,), float32, of_games(taken.opponent_elo, np.float32))
        npz.numeric("generator_elo", (samples,), float32, of_games(taken.generator_elo, np.float32))
        npz.numeric("quality_score", (samples,), float32, of_games(taken.quality, np.float32))
        npz.objects("opponent_types", (samples,), words(taken.opponent))
        npz.scalar("encoder_type", spec.encoder_type)
        npz.scalar("encoder_version", "v3")  # RingRift writes v3 on square boards too
        npz.scalar("in_channels", spec.in_channels)
        npz.scalar("policy_size", BOARD_FACTS[config.board].policy_size)
        npz.scalar("max_policy_index", taken.largest_policy)
        npz.scalar("policies_normalized", True)
        npz.scalar("export_version", EXPORT_VERSION)
        npz.numeric("values_mp", (samples, 4), float32, of_games(np.array(by_seat), np.float32))
        players = [config.players] * len(taken.counts)
        npz.numeric("num_players", (samples,), int32, of_games(players, np.int32))
        npz.scalar("spatial_size", spec.spatial)
        content = dict(npz.checksums)
        npz.objects(
            "metadata",
            (),
            dictionary(
                {
                    "export_time": datetime.now(tz=UTC).isoformat(),
                    "newest_game_time": taken.newest,
                    "game_count": len(taken.counts),
                    "sample_count": samples,
                }
            ),
        )
        npz.scalar("data_checksums", json.dumps(npz.checksums, sort_keys=True))
    named = {name: int(count) for name, count in zip(_PHASE_NAMES, phase_counts, strict=True) if count}
    return _Content(samples, named, content)


def _encoded(
    config: Config,
    taken: _Taken,
    targets: ValueTargets,
    vectors: _Spool,
    values: _Spool,
    phases: _Spool,
    by_seat: list[NDArray[np.float32]],
    progress: Progress | None,
) -> Iterator[NDArray[np.float32]]:
    """Encode the games in turn; yields blocks of feature rows and spools what else a replay yields."""
    spec = encoding(config)
    width = 4 * spec.frame
    block_rows = max(1, _BLOCK_BYTES // spec.sample_bytes)
    block = np.empty((block_rows, width), dtype=np.float32)
    filled = 0
    for spool in (taken.rows, taken.cells):
        spool.rewind()
    for index, (moves, cells) in enumerate(taken.sizes):
        packed = PackedMoves(taken.rows.read(moves).astype(np.int64), taken.cells.read(cells)[:, 0].astype(np.int64))
        keep = policy_indices(config, packed) != NO_POLICY
        swap_rule, variant = taken.rules[index]
        start = empty_position(config, swap_rule=swap_rule, variant=variant)
        encoder = GameEncoder(config, start, packed)
        movers = np.empty(moves, dtype=np.uint8)
        game_phases = np.empty(moves, dtype=np.uint8)
        game_vectors = np.empty((moves, GLOBAL_FEATURES), dtype=np.float32)
        while encoder.left:
            count = min(encoder.left, block_rows - filled)
            at = moves - encoder.left
            ahead = slice(at, at + count)
            rows = block[filled : filled + count]
            encoder.encode_into(rows, game_vectors[ahead], movers[ahead], game_phases[ahead])
            if not keep[ahead].all():
                kept = rows[keep[ahead]]
                rows[: len(kept)] = kept
                count = len(kept)
            filled += count
            if filled == block_rows:
                yield block
                block = np.empty((block_rows, width), dtype=np.float32)
                filled = 0
        mover_values, seats = seat_values(encoder.position, encoder.last_seen, targets)
        by_seat.append(seats)
        vectors.append(game_vectors[keep])
        values.append(mover_values[movers[keep] - 1])
        phases.append(game_phases[keep])
        if progress is not None:
            progress("encoding", index + 1, len(taken.sizes))
    if filled:
        yield block[:filled]


def _per_sample(column: NDArray, counts: list[int]) -> Iterator[NDArray]:
    """Repeat each game's value for its samples, a bounded number of games at a time."""
    first = 0
    while first < len(counts):
        last = first
        size = 0
        while last < len(counts) and size < _BLOCK_SAMPLES:
            size += counts[last]
            last += 1
        yield np.repeat(column[first:last], counts[first:last], axis=0)
        first = last


def digest_root(digests: Iterable[str]) -> str:
    """One digest for a set of games, whatever their order."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _publish(
    config: Config,
    taken: _Taken,
    sources: _Sources,
    staged: Path,
    out: Path,
    targets: ValueTargets,
    content: _Content,
    marks: list[float],
) -> ExportResult:
    """Validate what was staged, then put the NPZ and its manifest in place."""
    report = inspect_npz(staged, manifest=False).to_dict()
    if not report["valid"] or report["config"] != config.key or report["samples"] != content.samples:
        problems = "; ".join(f"{error['code']}: {error['detail']}" for error in report["errors"][:3])
        raise ExportError("invalid_output", f"the export of {out} did not validate and was discarded: {problems}")
    marks.append(time.perf_counter())
    spec = encoding(config)
    content_digest = hashlib.sha256(orjson.dumps(content.checksums, option=orjson.OPT_SORT_KEYS)).hexdigest()
    result = ExportResult(
        path=out,
        manifest_path=manifest_path_of(out),
        config=config.key,
        sha256=report["sha256"],
        content_digest=content_digest,
        samples=content.samples,
        games=len(taken.counts),
        bytes=staged.stat().st_size,
        newest_game=taken.newest,
        digest_root=digest_root(taken.digests),
        value_targets=targets.value,
        rejected=dict(sources.rejected),
        seconds=round(marks[-1] - marks[0], 3),
        stages={name: round(end - start, 3) for name, (start, end) in zip(_STAGES, pairwise(marks), strict=True)},
        phases=content.phases,
        outcomes=dict(sorted(taken.winners.items())),
    )
    manifest = {
        "name": out.name,
        "sha256": result.sha256,
        "content_digest": content_digest,
        "bytes": result.bytes,
        "config": config.key,
        "samples": result.samples,
        "games": result.games,
        "game_digests_root": result.digest_root,
        "newest_game_time": result.newest_game,
        "value_targets": targets.value,
        "rules_version": RULES_VERSION,
        "encoder": {"type": spec.encoder_type, "version": "v3", "feature_version": FEATURE_VERSION},
        "export_version": EXPORT_VERSION,
        "source_databases": sources.databases,
        "rejected": result.rejected,
        "phases": result.phases,
        "outcomes": result.outcomes,
        "exported_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
    }
    staged_manifest = staged.with_name(result.manifest_path.name)
    staged_manifest.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    if sources.archive is not None:
        archive_manifest(sources.archive, staged_manifest)  # before the set is there: who trains on it can name its games
    publish(staged, out)
    publish(staged_manifest, result.manifest_path)
    return result
