"""The piece hashes that other programs verify with: SHA-256 for metalinks, SHA-1 for torrents. Ours are BLAKE3 chunk tables.

A metalink's piece is as large as a chunk; a torrent's is smaller, since only whole ones are given on. Whoever has an item comes
to the same bytes of a torrent, and so into the same swarm.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import Annotated, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ringrift_dagster.manifest.inventory import CHUNK_DIGEST_BYTES, CHUNK_SIZE, Bytes, Sha256, chunk_count

PIECE_SIZE = CHUNK_SIZE
SHARE_SIZE = 2 << 20
"""Of a torrent's pieces: with larger ones receivers have less to give each other, with smaller ones fewer whole chunks stay when
it ends early."""
SHA1_BYTES, SHA256_BYTES = 20, 32
MAX_ANSWER_BYTES = 64 << 20
"""Of an answer with the hashes of an item's pieces: those of five terabytes."""

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
        return head % (self.size, len(name), name, SHARE_SIZE, len(sha1s)) + sha1s + _TAIL

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
    blank = Pieces(sha256, size, b"", b"\0" * SHA1_BYTES * -(-size // SHARE_SIZE))
    start = len(blank.torrent()) - len(_TAIL) - len(blank.sha1s)
    pieces = Pieces(sha256, size, b"", torrent[start : start + len(blank.sha1s)])
    if torrent != pieces.torrent():
        raise ValueError("not the torrent of this item")
    return pieces


def compute(descriptor: int, sha256: str, size: int, chunks: bytes | None = None) -> Pieces:
    """Read an open file and hash its pieces. `chunks`, its chunk table, tells at once whether they are right; without it
    the whole is hashed as well, which takes longer.

    Raises NotTheItem when it is another content, and OSError.
    """
    whole, sha256s, sha1s = hashlib.sha256(), bytearray(), bytearray()
    buffer = memoryview(bytearray(min(PIECE_SIZE, max(size, 1))))
    for index, start in enumerate(range(0, size, PIECE_SIZE)):
        piece = _read(descriptor, start, buffer[: size - start])
        if len(piece) != min(PIECE_SIZE, size - start) or not _is_right(piece, index, chunks):
            raise NotTheItem(sha256)
        if chunks is None:
            whole.update(piece)
        sha256s += hashlib.sha256(piece).digest()
        for share in range(0, len(piece), SHARE_SIZE):
            sha1s += hashlib.sha1(piece[share : share + SHARE_SIZE], usedforsecurity=False).digest()
    if chunks is None and whole.hexdigest() != sha256:
        raise NotTheItem(sha256)
    return Pieces(sha256, size, bytes(sha256s), bytes(sha1s))


def _read(descriptor: int, offset: int, buffer: memoryview) -> memoryview:
    """As much as there is, up to the size of the buffer."""
    done = 0
    while done < len(buffer) and (got := os.preadv(descriptor, [buffer[done:]], offset + done)):
        done += got
    return buffer[:done]


def _is_right(piece: memoryview, index: int, chunks: bytes | None) -> bool:
    expected = chunks and chunks[index * CHUNK_DIGEST_BYTES : (index + 1) * CHUNK_DIGEST_BYTES]
    return expected is None or blake3(piece).digest() == expected
