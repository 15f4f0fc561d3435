"""Envelopes and payloads: what is let through, and that it comes out as it went in."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ringrift_dagster.events.ids import is_id, new_id
from ringrift_dagster.events.model import (
    OUTGOING,
    PAYLOADS,
    DataNeeded,
    Event,
    EventType,
    HostOffline,
    TrainingStarted,
    dump_payload,
    load_payload,
    subjects,
)
from tests.events.telling import NOW, event


def test_every_event_has_a_payload() -> None:
    assert PAYLOADS.keys() == set(EventType)
    assert set(EventType) >= OUTGOING


def test_ids_are_sortable_and_never_equal() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert all(is_id(each) and each[14] == "7" and each[19] in "89ab" for each in ids)
    assert sorted(each[:13] for each in ids) == [each[:13] for each in ids]
    assert not any(map(is_id, ("", "1", None, 7, ids[0].upper(), ids[0] + "\n", ids[0].replace("-", ""))))


def test_an_envelope_comes_out_as_it_went_in() -> None:
    told = event(3, engine="gumbel", other_thing=1.5)
    assert Event.model_validate_json(told.dump()) == told
    assert load_payload(told.type, dump_payload(told.payload)) == told.payload


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1"},
        {"type": "NOTHING"},
        {"host": "a b"},
        {"at": -1},
        {"at": float("nan")},
        {"payload": {}},
        {"payload": {"config": "hex8_2p", "host": "gpu-1", "games": -1}},
        {"payload": {"config": "hex8_5p", "host": "gpu-1"}},
        {"payload": None},
        {"sequence": 0},
        {"type": "HOST_ONLINE", "payload": HostOffline(host="a")},
    ],
)
def test_what_is_no_event_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Event.model_validate({**event().model_dump(mode="json"), **change})


def test_whom_a_payload_is_about() -> None:
    assert subjects(TrainingStarted(config="hex8_2p", host="a")) == ("hex8_2p", "a")
    assert subjects(DataNeeded(hosts=("b", "c"))) == (None, "b")
    assert subjects(event(at=NOW).payload) == ("hex8_2p", "gpu-1")


def test_words_become_one_line() -> None:
    assert HostOffline(host="a", reason="  no\nanswer\x00 \ud800 ").reason == "no answer"
    assert len(HostOffline(host="a", reason="x" * 9000).reason or "") == 500
