"""The piece hashes that other programs verify with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ringrift_dagster.transfer.pieces import PIECE_SIZE, SHARE_SIZE, NotTheItem, PiecesAnswer, compute, parse_torrent
from tests.transfer.fetching import Content, content

SIZES = (1, SHARE_SIZE - 1, SHARE_SIZE, PIECE_SIZE, PIECE_SIZE + 1)


def computed(path: Path, what: Content, *, table: bool) -> PiecesAnswer:
    with path.open("rb") as file:
        return compute(file.fileno(), what.sha256, what.size, what.table if table else None).answer()


@pytest.mark.parametrize("size", SIZES)
def test_every_piece_has_its_hash_with_and_without_a_table(size: int, tmp_path: Path) -> None:
    what, path = content(size), tmp_path / "item"
    path.write_bytes(what.data)
    told = computed(path, what, table=True)
    assert told == computed(path, what, table=False)
    starts = range(0, size, PIECE_SIZE)
    assert told.digests() == [hashlib.sha256(what.data[start : start + PIECE_SIZE]).hexdigest() for start in starts]


@pytest.mark.parametrize("table", [True, False])
def test_another_content_has_no_pieces(table: bool, tmp_path: Path) -> None:
    what, path = content(PIECE_SIZE + 100), tmp_path / "item"
    for wrong in (what.data[:-1] + b"?", what.data[:-1], what.data[:PIECE_SIZE], b""):
        path.write_bytes(wrong)
        with pytest.raises(NotTheItem):
            computed(path, what, table=table)


def test_an_answer_that_does_not_fit_is_none() -> None:
    with pytest.raises(ValueError):
        PiecesAnswer(sha256="0" * 64, size=PIECE_SIZE + 1, pieces="AAAA").digests()
    for wrong in ({"length": PIECE_SIZE * 2}, {"algorithm": "md5"}, {"size": -1}, {"sha256": "no"}):
        with pytest.raises(ValidationError):
            PiecesAnswer.model_validate({"sha256": "0" * 64, "size": 0, "pieces": "", **wrong})


@pytest.mark.parametrize("size", SIZES)
def test_a_torrent_is_read_back_as_it_was_written(size: int, tmp_path: Path) -> None:
    what, path = content(size), tmp_path / "item"
    path.write_bytes(what.data)
    with path.open("rb") as file:
        pieces = compute(file.fileno(), what.sha256, what.size)
    assert parse_torrent(pieces.torrent(), what.sha256, size).torrent() == pieces.torrent()
    with pytest.raises(ValueError):
        parse_torrent(pieces.torrent(), what.sha256, size + 1)


@given(st.binary(max_size=400), st.integers(1, 5 * SHARE_SIZE))
def test_nothing_else_is_taken_for_a_torrent(told: bytes, size: int) -> None:
    with pytest.raises(ValueError):
        parse_torrent(told, "0" * 64, size)
