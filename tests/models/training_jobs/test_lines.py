"""Output is put together from pieces of any size, within bounds, and progress is told from the rest."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.models.training_jobs.lines import MAX_LINE_BYTES, MAX_METRICS, Lines, progress


def lines_of(pieces: list[bytes], limit: int) -> list[str]:
    lines = Lines(limit)
    return [*(line for piece in pieces for line in lines.feed(piece)), *lines.rest()]


@given(st.lists(st.text(alphabet="ab\n\r é", max_size=12).map(str.encode)), st.integers(1, 8))
def test_lines_do_not_depend_on_how_the_output_was_cut(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    assert lines_of(pieces, limit) == lines_of([whole], limit)
    assert lines_of([bytes([byte]) for byte in whole], limit) == lines_of([whole], limit)


def test_a_long_line_is_cut_and_never_kept_whole() -> None:
    lines = Lines()
    assert [line for _ in range(100) for line in lines.feed(b"x" * 1000)] == []
    assert [len(line) for line in lines.feed(b"\nnext\n")] == [MAX_LINE_BYTES, 4]


def test_the_line_that_an_omission_cuts_is_dropped() -> None:
    lines = Lines()
    assert list(lines.feed(b"one\ntw")) == ["one"]
    assert list(lines.feed(b"o\nthree\n", skipped=7)) == ["[7 bytes of output are left out]", "three"]


def test_progress_is_an_object_with_an_epoch_and_keeps_plain_values() -> None:
    assert progress('{"epoch": 3, "loss": 0.5, "phase": "train", "best": true, "curve": [1], "bad": NaN, "huge": 1e999}') == {
        "epoch": 3, "loss": 0.5, "phase": "train", "best": True,
    }  # fmt: skip
    for other in ('{"loss": 1}', '{"epoch": "3"}', "[1]", "{epoch", "epoch 3", "", "{" * 50_000):
        assert progress(other) is None
    many = progress(json.dumps({"epoch": 1} | {f"m{number}": number for number in range(100)}))
    assert many is not None
    assert len(many) == MAX_METRICS


@given(st.text())
def test_any_line_is_read_without_an_error(line: str) -> None:
    progress(line)
    progress("{" + line)
