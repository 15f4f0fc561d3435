"""The fingerprint of a position and its hash, as both of RingRift's engines compute them.

The fingerprint is text: `player:phase:status:pending#players#stacks#markers#collapsed`, entries sorted as strings; finished
games are normalised to player 0 and phase game_over. The hash is 64 bits of a non-cryptographic mix: it finds divergence,
not forgery.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.geometry import Topology
from ringrift_dagster.games.moves import Phase
from ringrift_dagster.games.position import ACTIVE, STATUSES, Position
from ringrift_dagster.games.rules.compiled import compiled


def _texts(words: tuple[str, ...]) -> NDArray[np.uint8]:
    table = np.zeros((len(words), 24), dtype=np.uint8)
    for row, word in enumerate(words):
        table[row, 0] = len(word)
        table[row, 1 : len(word) + 1] = np.frombuffer(word.encode(), dtype=np.uint8)
    return table


_PHASE_TEXT = _texts(tuple(phase.name.lower() for phase in Phase))
_STATUS_TEXT = _texts(STATUSES)
_COLON, _HASH, _BAR, _MINUS, _ZERO = (ord(c) for c in ":#|-0")
_GAME_OVER = int(Phase.GAME_OVER)


def buffer_for(topology: Topology) -> NDArray[np.uint8]:
    """Room for the fingerprint of any position on this board."""
    return np.zeros(256 + 64 * topology.cells, dtype=np.uint8)


@compiled
def _put_text(out, at, text):
    length = np.int64(text[0])
    for i in range(length):
        out[at + i] = text[1 + i]
    return at + length


@compiled
def _put_number(out, at, number):
    if number < 0:
        out[at] = _MINUS
        at += 1
        number = -number
    digits = 1
    scale = 10
    while number >= scale:
        digits += 1
        scale *= 10
    for i in range(digits - 1, -1, -1):
        out[at + i] = _ZERO + number % 10
        number //= 10
    return at + digits


@compiled
def _put_key(topology, out, at, start, cell):
    if at > start:
        out[at] = _BAR
        at += 1
    for i in range(topology.key_length[cell]):
        out[at + i] = topology.key[cell, i]
    at += topology.key_length[cell]
    out[at] = _COLON
    return at + 1


@compiled
def write_fingerprint(topology, position, out):
    """Write the fingerprint as ASCII into `out`; returns its length."""
    over = position.status != ACTIVE
    at = _put_number(out, 0, 0 if over else position.player)
    out[at] = _COLON
    at = _put_text(out, at + 1, _PHASE_TEXT[_GAME_OVER if over else position.phase])
    out[at] = _COLON
    at = _put_text(out, at + 1, _STATUS_TEXT[position.status])
    out[at] = _COLON
    at = _put_number(out, at + 1, position.pending_line)
    out[at] = _HASH
    at += 1
    for player in range(1, position.players + 1):
        if player > 1:
            out[at] = _BAR
            at += 1
        at = _put_number(out, at, player)
        for count in (position.hand[player], position.eliminated[player], position.territory[player]):
            out[at] = _COLON
            at = _put_number(out, at + 1, count)
    out[at] = _HASH
    start = at = at + 1
    for i in range(topology.cells):
        cell = topology.key_order[i]
        if position.height[cell] > 0:
            at = _put_key(topology, out, at, start, cell)
            at = _put_number(out, at, position.owner[cell])
            out[at] = _COLON
            at = _put_number(out, at + 1, position.height[cell])
            out[at] = _COLON
            at = _put_number(out, at + 1, position.cap[cell])
    out[at] = _HASH
    start = at = at + 1
    for i in range(topology.cells):
        cell = topology.key_order[i]
        if position.marker[cell] != 0:
            at = _put_key(topology, out, at, start, cell)
            at = _put_number(out, at, position.marker[cell])
    out[at] = _HASH
    start = at = at + 1
    for i in range(topology.cells):
        cell = topology.key_order[i]
        if position.collapsed[cell] != 0:
            at = _put_key(topology, out, at, start, cell)
            at = _put_number(out, at, position.collapsed[cell])
    return at


@compiled
def hash_text(text, length):
    """RingRift's 64-bit mix of the first `length` ASCII codes."""
    mask = np.uint64(0xFFFFFFFF)
    first = np.uint64(0xDEADBEEF)
    second = np.uint64(0x41C6CE57)
    for i in range(length):
        code = np.uint64(text[i])
        first = ((first ^ code) * np.uint64(2654435761)) & mask
        second = ((second ^ code) * np.uint64(1597334677)) & mask
    left, right = np.uint64(2246822507), np.uint64(3266489909)
    first = (((first ^ (first >> np.uint64(16))) * left) ^ ((second ^ (second >> np.uint64(13))) * right)) & mask
    second = (((second ^ (second >> np.uint64(16))) * left) ^ ((first ^ (first >> np.uint64(13))) * right)) & mask
    return (second << np.uint64(32)) | first


@compiled
def hash_position(topology, position, buffer):
    """The hash of a position; `buffer` comes from `buffer_for`."""
    return hash_text(buffer, write_fingerprint(topology, position, buffer))


def fingerprint(topology: Topology, position: Position) -> str:
    """The fingerprint as text, for people and for comparing with a recorded state."""
    buffer = buffer_for(topology)
    return bytes(buffer[: write_fingerprint(topology, position, buffer)]).decode("ascii")


def hash_text_of(value: int) -> str:
    """A hash as RingRift writes it: 16 lowercase hex digits."""
    return format(int(value), "016x")
