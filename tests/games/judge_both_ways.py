"""Prints what the rules, fingerprints, encoders and policy layouts say of recorded games; run with and without compilation.

`python judge_both_ways.py DIRECTORY` reads every `*.db` in it and writes one JSON object: see `answers`. A program of its own,
because Numba reads `NUMBA_DISABLE_JIT` once, when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ringrift_dagster.canonical.gate import Gate, JudgedGame
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, GameEncoder, encoding
from ringrift_dagster.datasets.labels import policy_indices
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, GameRecord
from ringrift_dagster.games.fingerprint import buffer_for, hash_position, hash_text_of
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.moves import MoveType, PackedMoves
from ringrift_dagster.games.position import Position, read_position
from ringrift_dagster.games.replay import positions
from ringrift_dagster.games.rules.compiled import engine
from ringrift_dagster.games.rules.legality import fault

LARGE_BOARDS = ("square19", "hexagonal")
HASHES_EVERY = 20
"""Of the hashes that games on large boards record every twentieth is compared: uncompiled, a hash takes as long as a move."""
INSPECTED_MOVES = {"square8": 150, "hex8": 150, "square19": 40, "hexagonal": 40}
ENCODED_MOVES = {"square8": 60, "hex8": 40, "square19": 4, "hexagonal": 4}
ALTERED_EVERY = 6
ALTERATIONS = 8


def answers(directory: Path) -> dict[str, Any]:
    """By database: the verdict on every game; of its first game also what `inspect` says. And what computed them."""
    databases: dict[str, Any] = {}
    inspected: set[str | None] = set()
    with VerdictStore(directory / "verdicts") as store:
        for path in sorted(directory.glob("*.db")):
            judged: list[Any] = []
            try:
                with GameDatabase(path) as database:
                    for game in map(Gate(store).judge, map(_with_fewer_hashes, database.games())):
                        judged.append(verdict(game))
                        if len(judged) == 1 and game.verdict.reason is None and game.verdict.digest not in inspected:
                            judged.append(inspect(game.record))
                            inspected.add(game.verdict.digest)  # many databases begin with the same game
            except DatabaseUnreadable as error:
                judged.append(error.detail)
            databases[path.name] = judged
    return {"engine": engine(), "databases": databases}


def _with_fewer_hashes(record: GameRecord) -> GameRecord:
    if record.row.get("board_type") not in LARGE_BOARDS:
        return record
    return replace(record, hashes=record.hashes[::HASHES_EVERY])


def verdict(game: JudgedGame) -> list[Any]:
    """The gate's verdict, and the policy indices of the moves."""
    judged = game.verdict
    policy = None if game.config is None or game.moves is None else _digest(policy_indices(game.config, game.moves))
    return [judged.game_id, judged.digest, judged.reason, judged.move_number, judged.detail, judged.hashes_checked, policy]


def inspect(record: GameRecord) -> dict[str, Any]:
    """The hash before every move, why moves like the recorded ones would be illegal, and the training arrays."""
    config, moves = _read(record)
    hashes, faults = _played(config, _start(record), moves)
    return {
        "game": record.game_id,
        "hashes": hashes,
        "faults": faults,
        "arrays": _arrays(config, _start(record), moves),
        "policy": _digest(policy_indices(config, moves)),
    }


def _read(record: GameRecord) -> tuple[Config, PackedMoves]:
    config, _ = read_position(orjson.loads(record.initial_state or b""))
    packed = m.pack([move.record for move in record.moves], coordinates(config.board))
    return config, PackedMoves(packed.rows[: INSPECTED_MOVES[config.board]], packed.cells)


def _start(record: GameRecord) -> Position:
    return read_position(orjson.loads(record.initial_state or b""))[1]


def _played(config: Config, start: Position, moves: PackedMoves) -> tuple[list[str], list[int]]:
    chance = random.Random(config.key)
    tables = topology(config.board)
    buffer = buffer_for(tables)
    hashes: list[str] = []
    faults: list[int] = []
    for index, position in enumerate(positions(config, start, moves)):
        hashes.append(hash_text_of(hash_position(tables, position, buffer)))
        if index % ALTERED_EVERY or index == len(moves):
            continue
        for _ in range(ALTERATIONS):
            row = moves.rows[index].copy()
            column = chance.choice((m.TYPE, m.PLAYER, m.PHASE, m.ORIGIN, m.TO, m.TARGET, m.COUNT, m.CONTEXT, m.MODE))
            limits = {m.TYPE: (m.UNKNOWN, len(MoveType) - 1), m.MODE: (0, 2), m.CONTEXT: (0, 4), m.COUNT: (-3, 300)}
            row[column] = chance.randint(*limits.get(column, (-2, config.spec.cells - 1)))
            if chance.random() < 0.5:
                row[m.PHASE] = m.NOT_GIVEN
            faults.append(int(fault(tables, position, row, moves.cells)))
    return hashes, faults


def _arrays(config: Config, start: Position, moves: PackedMoves) -> list[str]:
    encoder = GameEncoder(config, start, moves)
    samples = min(encoder.left, ENCODED_MOVES[config.board])
    features = np.empty((samples, 4 * encoding(config).frame), dtype=np.float32)
    vectors = np.empty((samples, GLOBAL_FEATURES), dtype=np.float32)
    players, phases = np.empty(samples, dtype=np.uint8), np.empty(samples, dtype=np.uint8)
    encoder.encode_into(features, vectors, players, phases)
    return [_digest(array) for array in (features, vectors, players, phases, encoder.last_seen)]


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    json.dump(answers(Path(sys.argv[1])), sys.stdout)
