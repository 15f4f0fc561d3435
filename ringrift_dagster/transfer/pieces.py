"""The piece hashes that other programs verify with: SHA-256 for metalinks, SHA-1 for torrents. Ours are BLAKE3 chunk tables.

A piece is as large as a chunk. Everyone who has an item comes to the same bytes of a torrent, and so into the same swarm.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, Bytes, Sha256, chunk_count

PIECE_SIZE = CHUNK_SIZE
SHA1_BYTES, SHA256_BYTES = 20, 32
MAX_ANSWER_BYTES = 64 << 20
"""Of an answer with the hashes of an item's pieces: those of five terabytes."""

_READ_BYTES = 1 << 20
_TAIL = b"7:privatei1eee"


class NotTheItem(Exception):
    """The bytes are not those of the item."""


@dataclass(frozen=True)
class Pieces:
    """An item's piece hashes, concatenated in order."""

    sha256: str
    size: int
    sha256s: bytes
    sha1s: bytes

    def torrent(self) -> bytes:
        """A torrent of one private file without any tracker, whose name is its hash."""
        name, sha1s = self.sha256.encode(), self.sha1s
        head = b"d4:infod6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:"
        return head % (self.size, len(name), name, PIECE_SIZE, len(sha1s)) + sha1s + _TAIL

    def answer(self) -> PiecesAnswer:
        return PiecesAnswer(sha256=self.sha256, size=self.size, pieces=base64.b64encode(self.sha256s).decode())


class PiecesAnswer(BaseModel):
    """What an agent says of an item's pieces: SHA-256 digests of pieces of `length` bytes, concatenated, in base64."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: Sha256
    size: Bytes
    length: Annotated[int, Field(ge=PIECE_SIZE, le=PIECE_SIZE)] = PIECE_SIZE
    algorithm: Literal["sha-256"] = "sha-256"
    pieces: Annotated[str, StringConstraints(max_length=MAX_ANSWER_BYTES)]

    def digests(self) -> list[str]:
        """The digests in hexadecimal. Raises ValueError when they are not those of so many bytes."""
        raw = base64.b64decode(self.pieces, validate=True)
        if len(raw) != SHA256_BYTES * chunk_count(self.size):
            raise ValueError("not one hash for each piece")
        return [raw[start : start + SHA256_BYTES].hex() for start in range(0, len(raw), SHA256_BYTES)]


def parse_torrent(torrent: bytes, sha256: str, size: int) -> Pieces:
    """What another holder says of an item, as far as a torrent tells. Raises ValueError unless it is ours but for the hashes."""
    blank = Pieces(sha256, size, b"", b"\0" * SHA1_BYTES * chunk_count(size))
    start = len(blank.torrent()) - len(_TAIL) - len(blank.sha1s)
    pieces = Pieces(sha256, size, b"", torrent[start : start + len(blank.sha1s)])
    if torrent != pieces.torrent():
        raise ValueError("not the torrent of this item")
    return pieces


def compute(descriptor: int, sha256: str, size: int, stopped: Callable[[], bool] = lambda: False) -> Pieces:
    """Read an open file and hash its pieces, and the whole to be sure of it.

    Raises NotTheItem when it is another content, or `stopped` said so, and OSError.
    """
    whole, sha256s, sha1s, done = hashlib.sha256(), bytearray(), bytearray(), 0
    buffer = memoryview(bytearray(_READ_BYTES))
    while done < size:
        piece256, piece1, end = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), min(size, done + PIECE_SIZE)
        while done < end:
            got = os.preadv(descriptor, [buffer[: end - done]], done)
            if got == 0 or stopped():
                raise NotTheItem(sha256)
            for hasher in (whole, piece256, piece1):
                hasher.update(buffer[:got])
            done += got
        sha256s += piece256.digest()
        sha1s += piece1.digest()
    if whole.hexdigest() != sha256:
        raise NotTheItem(sha256)
    return Pieces(sha256, size, bytes(sha256s), bytes(sha1s))
