"""Refusals are remembered by hash, whatever an interruption left in their file."""

from __future__ import annotations

from ringrift_dagster.home import Home
from ringrift_dagster.models.refused import RefusedCheckpoint, record_refusal, refused_checkpoints


def refusal(digit: str, reason: str = "truncated") -> RefusedCheckpoint:
    return RefusedCheckpoint(sha256=digit * 64, config="hex8_2p", reason=reason, detail="why", origin="gpu-1: a.pth", at=1.0)


def test_refusals_are_read_back_by_hash_and_the_first_of_a_hash_counts(home: Home) -> None:
    assert refused_checkpoints(home) == {}
    for entry in (first := refusal("1"), second := refusal("2"), refusal("1", "too_deep")):
        record_refusal(home, entry)
    assert refused_checkpoints(home) == {"1" * 64: first, "2" * 64: second}


def test_a_line_that_an_interruption_cut_off_spoils_no_others(home: Home) -> None:
    path = home.models / "candidates" / "refused.jsonl"
    record_refusal(home, refusal("1"))
    path.write_bytes(path.read_bytes() + refusal("2").model_dump_json().encode()[:-20])
    record_refusal(home, refusal("3"))
    assert set(refused_checkpoints(home)) == {"1" * 64, "3" * 64}
