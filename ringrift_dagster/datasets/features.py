"""Positions as feature planes and global vectors, exactly as RingRift's exporter encodes them.

Two encoders: `square` (14 planes a frame, indexed [plane, x, y]) and `hex_v3` (16 planes, [plane, y, x]). A sample is the current
frame and the three before it, newest first; every frame is seen by whoever was to move in it. Labels are in `labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import NO_CELL, topology
from ringrift_dagster.games.moves import PackedMoves, Phase
from ringrift_dagster.games.position import SEATS, Position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.stacks import has_rings
from ringrift_dagster.games.rules.turns import play

HISTORY_LENGTH = 3
GLOBAL_FEATURES = 20


@dataclass(frozen=True)
class Encoding:
    """What a dataset says of its encoder; the names are RingRift's."""

    encoder_type: str
    planes: int
    spatial: int

    @property
    def in_channels(self) -> int:
        return self.planes * (HISTORY_LENGTH + 1)

    @property
    def frame(self) -> int:
        """Numbers in one frame."""
        return self.planes * self.spatial * self.spatial

    @property
    def sample_bytes(self) -> int:
        return 4 * self.frame * (HISTORY_LENGTH + 1)


def encoding(config: Config) -> Encoding:
    """The encoder of a config's board."""
    if config.spec.hexagonal:
        return Encoding("hex_v3", 16, config.spec.size)
    return Encoding("square_v2", 14, config.spec.size)


@compiled
def _standing(progress, threshold):
    return max(0.0, min(1.0, progress / threshold))


@compiled
def _threat(position, territory_threshold):
    """The opponent closest to winning, the first of equals: who stands for "the opponent" among three or four players."""
    best = 0
    best_progress = -1.0
    for player in range(1, position.players + 1):
        if player == position.player:
            continue
        progress = max(
            _standing(float(position.eliminated[player]), float(position.victory_threshold)),
            _standing(float(position.territory[player]), territory_threshold),
        )
        if position.lps_player == player and position.lps_rounds > 0:
            if position.lps_rounds >= position.lps_required or position.lps_required == 1:
                progress = 1.0
            else:
                share = position.lps_rounds / float(position.lps_required - 1)
                progress = max(progress, 0.9 + 0.09 * min(1.0, max(0.0, share)))
        if progress > best_progress:
            best = player
            best_progress = progress
    return best


@compiled
def _encode_players(position, territory_threshold, out):
    player = position.player
    opponent = 3 - player if position.players == 2 else _threat(position, territory_threshold)
    supply = float(position.rings_per_player)
    out[5] = position.hand[player] / supply
    out[6] = position.hand[opponent] / supply
    out[7] = position.eliminated[player] / supply
    out[8] = position.eliminated[opponent] / supply
    out[9] = 1.0


@compiled
def _encode_square_globals(position, territory_threshold, out):
    phase = position.phase
    if phase <= Phase.CAPTURE:
        out[phase] = 1.0
    elif phase == Phase.LINE_PROCESSING:
        out[3] = 1.0
    elif phase == Phase.TERRITORY_PROCESSING:
        out[4] = 1.0
    elif phase == Phase.CHAIN_CAPTURE:
        out[10] = 1.0
    elif phase == Phase.FORCED_ELIMINATION:
        out[11] = 1.0
    _encode_players(position, territory_threshold, out)


@compiled
def _encode_hex_globals(position, territory_threshold, out):
    phase = position.phase
    if phase <= Phase.CAPTURE:
        out[phase] = 1.0
    elif phase == Phase.CHAIN_CAPTURE:
        out[2] = 1.0
        out[15] = 1.0
    elif phase == Phase.LINE_PROCESSING:
        out[3] = 1.0
    elif phase == Phase.TERRITORY_PROCESSING:
        out[4] = 1.0
    elif phase == Phase.FORCED_ELIMINATION:
        out[4] = 1.0
        out[16] = 1.0
    _encode_players(position, territory_threshold, out)
    player = position.player
    markers = stacks = spaces = own_markers = own_stacks = own_spaces = 0
    for cell in range(position.cells):
        if position.marker[cell] != 0:
            markers += 1
            own_markers += 1 if position.marker[cell] == player else 0
        if position.height[cell] > 0:
            stacks += 1
            own_stacks += 1 if position.owner[cell] == player else 0
        if position.collapsed[cell] != 0:
            spaces += 1
            own_spaces += 1 if position.collapsed[cell] == player else 0
    out[10] = min(markers / 50.0, 1.0)
    out[11] = min(stacks / 30.0, 1.0)
    if spaces > 0:
        out[12] = own_spaces / spaces
    if markers > 0:
        out[13] = own_markers / markers
    if stacks > 0:
        out[14] = own_stacks / stacks


@compiled
def _encode_contents(tables, position, cell, most, at, area, out):
    """The ten planes both encoders share: stacks, markers, collapsed spaces, liberties, neighbouring markers."""
    player = position.player
    height = position.height[cell]
    if height > 0:
        side = 0 if position.owner[cell] == player else 1
        out[side * area + at] = min(height / 5.0, 1.0)
        liberties = 0
        for direction in range(8):
            beside = tables.ray[cell, direction]
            if beside != NO_CELL and position.height[beside] == 0 and position.collapsed[beside] == 0:
                liberties += 1
        out[(6 + side) * area + at] = min(liberties / most, 1.0)
    marker = position.marker[cell]
    if marker != 0:
        side = 0 if marker == player else 1
        out[(2 + side) * area + at] = 1.0
        alike = 0
        for direction in range(8):
            beside = tables.ray[cell, direction]
            if beside != NO_CELL and position.marker[beside] == marker:
                alike += 1
        out[(8 + side) * area + at] = min(alike / (most / 2.0), 1.0)
    if position.collapsed[cell] != 0:
        out[(4 if position.collapsed[cell] == player else 5) * area + at] = 1.0


@compiled
def _encode_surroundings(tables, position, cell, at, area, out):
    """The six planes that only the hexagonal encoder has: contestation, weight of neighbouring stacks, room."""
    player = position.player
    friends = 0
    foes = 0
    friendly_height = 0.0
    hostile_height = 0.0
    accessible = 0
    for direction in range(6):
        beside = tables.ray[cell, direction]
        if beside == NO_CELL:
            continue
        if position.collapsed[beside] == 0:
            accessible += 1
        if position.height[beside] > 0:
            weight = position.height[beside] / 5.0
            if position.owner[beside] == player:
                friends += 1
                friendly_height += weight
            else:
                foes += 1
                hostile_height += weight
        if position.marker[beside] != 0:
            if position.marker[beside] == player:
                friends += 1
            else:
                foes += 1
    if friends > 0 and foes > 0:
        out[10 * area + at] = min(friends / 3.0, 1.0)
        out[11 * area + at] = min(foes / 3.0, 1.0)
    out[12 * area + at] = min(friendly_height / 6.0, 1.0)
    out[13 * area + at] = min(hostile_height / 6.0, 1.0)
    # RingRift looks placement validity up under a key without z, so no hexagonal cell is ever occupied here.
    out[14 * area + at] = 1.0
    out[15 * area + at] = accessible / 6.0


@compiled
def _encode_frame(tables, position, out):
    size = tables.width
    area = size * size
    out[:] = 0.0
    for cell in range(position.cells):
        if tables.hexagonal != 0:
            at = tables.y[cell] * size + tables.x[cell]
            _encode_contents(tables, position, cell, 6.0, at, area, out)
            _encode_surroundings(tables, position, cell, at, area, out)
        else:
            at = tables.x[cell] * size + tables.y[cell]
            _encode_contents(tables, position, cell, 8.0, at, area, out)
    if tables.hexagonal == 0:
        out[12 * area : 13 * area] = 1.0


@compiled
def _encode_globals(tables, position, territory_threshold, out):
    out[:] = 0.0
    if tables.hexagonal != 0:
        _encode_hex_globals(position, territory_threshold, out)
    else:
        _encode_square_globals(position, territory_threshold, out)


@compiled
def _encode_moves(
    tables,
    position,
    rows,
    cells,
    territory_threshold,
    history,
    features,
    global_vectors,
    players,
    phases,
    last_seen,
):
    """Encode the position before each of `rows` and play it; `history` holds the three frames before, newest first."""
    frame = features.shape[1] // 4
    for index in range(len(rows)):
        sample = features[index]
        _encode_frame(tables, position, sample[:frame])
        if index == 0:
            sample[frame:] = history
        else:
            sample[frame:] = features[index - 1, : 3 * frame]
        _encode_globals(tables, position, territory_threshold, global_vectors[index])
        players[index] = position.player
        phases[index] = position.phase
        play(tables, position, rows[index], cells)
        last_seen[0] += 1
        for player in range(1, position.players + 1):
            if has_rings(position, player):
                last_seen[player] = last_seen[0]
    if len(rows) > 0:
        history[:] = features[len(rows) - 1, : 3 * frame]


class GameEncoder:
    """Encodes one game piece by piece, so that memory does not grow with its length.

    The game has to be legal: the gate replayed it before. `last_seen[player]` counts the moves up to the last one after which the
    player still had a ring anywhere.
    """

    def __init__(self, config: Config, position: Position, moves: PackedMoves) -> None:
        self._tables = topology(config.board)
        self._threshold = float(config.territory_threshold)
        self._history = np.zeros(3 * encoding(config).frame, dtype=np.float32)
        self._moves = moves
        self._next = 0
        self.position = position
        self.last_seen = np.zeros(SEATS, dtype=np.int64)

    @property
    def left(self) -> int:
        """Moves not yet encoded."""
        return len(self._moves) - self._next

    def encode_into(
        self,
        features: NDArray[np.float32],
        global_vectors: NDArray[np.float32],
        players: NDArray[np.uint8],
        phases: NDArray[np.uint8],
    ) -> slice:
        """Fill the arrays with the next n positions; returns which moves these precede.

        Shapes: (n, 4 * frame), (n, 20), (n,) who is to move, (n,) in which phase.
        """
        moves = slice(self._next, self._next + len(features))
        _encode_moves(
            self._tables,
            self.position,
            self._moves.rows[moves],
            self._moves.cells,
            self._threshold,
            self._history,
            features,
            global_vectors,
            players,
            phases,
            self.last_seen,
        )
        self._next = moves.stop
        return moves


class PositionEncoder:
    """Encodes single positions of games of a config, for whoever has a model choose or judge."""

    def __init__(self, config: Config) -> None:
        self._tables = topology(config.board)
        self._threshold = float(config.territory_threshold)
        self._frame = encoding(config).frame

    def encode_into(
        self,
        position: Position,
        earlier: Sequence[Position],
        features: NDArray[np.float32],
        global_vector: NDArray[np.float32],
    ) -> None:
        """Fill `features`, shape (4 * frame,), and `global_vector`, shape (20,), as `GameEncoder` does in a game.

        `earlier` are the positions before the last moves, newest first; frames of moves that were not made are zero.
        """
        _encode_globals(self._tables, position, self._threshold, global_vector)
        frames = features.reshape(HISTORY_LENGTH + 1, self._frame)
        for index, shown in enumerate((position, *earlier)):
            _encode_frame(self._tables, shown, frames[index])
        frames[len(earlier) + 1 :] = 0.0
