"""The digest that identifies a game by its content: what decides it, not who recorded it or when."""

from __future__ import annotations

import hashlib

from ringrift_dagster.games.config import Config
from ringrift_dagster.games.fingerprint import fingerprint
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import PackedMoves
from ringrift_dagster.games.position import Position


def game_digest(config: Config, start: Position, moves: PackedMoves) -> str:
    """SHA-256 of what makes a game this game: config, options, starting position and every decision of every move."""
    digest = hashlib.sha256(f"{config.key}|swap={int(start.swap_rule)}|".encode())
    digest.update(fingerprint(topology(config.board), start).encode())
    moves.digest_into(digest)
    return digest.hexdigest()
