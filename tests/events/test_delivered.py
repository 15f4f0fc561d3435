"""What a host was told: once each, readable from any place, the latest only."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ringrift_dagster.events.delivered import Delivered, Delivery
from ringrift_dagster.events.ids import new_id
from tests.events.telling import NOW


def delivery(*reasons: str) -> Delivery:
    return Delivery.model_validate({"host": "gpu-1", "events": [{"id": new_id(), "reason": reason} for reason in reasons]})


def told(kept: Delivered, after: int = 0, *, limit: int = 100) -> list[str]:
    return [each["event"]["reason"] for each in kept.after(after, limit=limit)[0]]


def test_a_repeated_delivery_is_one(tmp_path: Path) -> None:
    kept = Delivered(tmp_path / "delivered.db")
    first = delivery("one", "two")
    assert (kept.take(first, at=NOW), kept.take(first, at=NOW), kept.take(delivery("three"), at=NOW)) == (2, 0, 1)
    assert told(kept) == ["one", "two", "three"]
    events, last = kept.after(1, limit=1)
    assert ([each["event"]["reason"] for each in events], last) == (["two"], 2)
    assert kept.after(3, limit=9) == ([], 3)
    kept.close()
    again = Delivered(tmp_path / "delivered.db")
    assert (again.take(first, at=NOW), told(again, 2)) == (0, ["three"])


def test_only_the_latest_are_kept_and_numbers_go_on(tmp_path: Path) -> None:
    kept = Delivered(tmp_path / "delivered.db", keep=3)
    for number in range(10):
        kept.take(delivery(str(number)), at=NOW)
    assert told(kept) == ["7", "8", "9"]
    assert kept.after(0, limit=100)[1] == 10


def test_who_waits_is_told_at_once(tmp_path: Path) -> None:
    kept = Delivered(tmp_path / "delivered.db")
    timer = threading.Timer(0.2, lambda: kept.take(delivery("one"), at=NOW))
    timer.start()
    assert [each["event"]["reason"] for each in kept.after(0, limit=9, wait=30)[0]] == ["one"]
    started = time.monotonic()
    timer = threading.Timer(0.2, kept.close)
    timer.start()
    assert kept.after(1, limit=9, wait=30) == ([], 1)
    assert time.monotonic() - started < 25
    timer.join()


def test_what_is_no_event_is_refused_whole(tmp_path: Path) -> None:
    kept = Delivered(tmp_path / "delivered.db")
    good = {"id": new_id(), "reason": "x"}
    for bad in ({}, {"id": "1"}, {"id": new_id(), "x": "y" * 300_000}):
        with pytest.raises(ValueError):
            kept.take(Delivery.model_validate({"host": "gpu-1", "events": [good, bad]}), at=NOW)
    assert told(kept) == []
