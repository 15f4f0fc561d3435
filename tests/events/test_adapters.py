"""What RingRift sends becomes typed events: every known payload, every synonym, and whatever else anybody may send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ringrift_dagster.events.adapters import FIELDS, REASONS, TYPES, UNTOLD, WAYS, NotUnderstood, adapt, bounded, parse, raw_text
from ringrift_dagster.events.ids import is_id
from ringrift_dagster.events.model import MAX_RAW, PAYLOADS, Event, EventType, ModelPromoted
from tests.events.variants import HERE, HEX, ISO, ISO_SECONDS, NOW, REFUSED, UNDERSTOOD, Variant


@pytest.mark.parametrize("variant", UNDERSTOOD, ids=[variant.name for variant in UNDERSTOOD])
@pytest.mark.parametrize("shape", ["typed envelope", "bus event", "flat"])
def test_every_payload_that_is_sent_is_understood(variant: Variant, shape: str) -> None:
    raw: dict[str, Any] = {
        "typed envelope": {"type": variant.sent, "payload": variant.payload},
        "bus event": {"event_type": variant.sent, "payload": variant.payload, "source": "trainer", "timestamp": NOW},
        "flat": {"event": variant.sent, **variant.payload},
    }[shape]
    event = adapt(json.loads(json.dumps(raw)), host=HERE, at=NOW)
    assert (event.type, event.host, event.at, is_id(event.id)) == (variant.type, HERE, NOW, True)
    told = event.payload.model_dump()
    for field, expected in variant.means.items():
        if field == "other":
            assert expected.items() <= told["other"].items()
        else:
            assert told[field] == expected, field
    assert Event.model_validate_json(event.dump()) == event


@pytest.mark.parametrize(("name", "raw", "reason"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_what_cannot_be_understood_says_why(name: str, raw: Any, reason: str) -> None:
    with pytest.raises(NotUnderstood) as refused:
        adapt(raw, host=HERE, at=NOW)
    assert refused.value.code == reason, (name, refused.value)
    assert reason in REASONS and refused.value.detail


@pytest.mark.parametrize("synonym", ["node_id", "host", "host_id", "node_name", "source_node", "source"])
@pytest.mark.parametrize("nested", [False, True])
def test_every_name_of_a_host(synonym: str, nested: bool) -> None:
    fields = {"metadata": {synonym: "vast-9"}} if nested else {synonym: "vast-9"}
    event = adapt({"type": "DATA_STALE", "payload": {**HEX, **fields}}, host=HERE, at=NOW)
    assert event.payload.model_dump()["host"] == "vast-9"


def test_the_strongest_name_of_a_host_holds() -> None:
    payload = {**HEX, "node_id": "vast-9", "source": "freshness_daemon"}
    told = adapt({"type": "DATA_STALE", "payload": payload}, host=HERE, at=NOW).payload
    assert told.model_dump()["host"] == "vast-9"
    assert told.other == {"source": "freshness_daemon"}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (NOW, NOW),
        (NOW * 1000, NOW),
        (str(NOW), NOW),
        (ISO, ISO_SECONDS),
        (f"{ISO}Z", ISO_SECONDS),
        (f"{ISO}+00:00", ISO_SECONDS),
        (f"{ISO}.500000+01:00", ISO_SECONDS - 3599.5),
        (None, NOW - 1),
        ("", NOW - 1),
        (0, NOW - 1),
    ],
)
def test_times_in_every_form(value: object, seconds: float) -> None:
    assert adapt({"type": "HOST_ONLINE", "payload": {"host": "a", "timestamp": value}}, host=HERE, at=NOW - 1).at == seconds
    assert adapt({"type": "HOST_ONLINE", "payload": {"host": "a"}, "timestamp": value}, host=HERE, at=NOW - 1).at == seconds


@pytest.mark.parametrize("board", ["hex8", "HEX8", "BoardType.HEX8", " hex8 "])
@pytest.mark.parametrize("players", [2, "2", 2.0])
def test_boards_and_players_as_they_are_written(board: str, players: object) -> None:
    event = adapt({"type": "DATA_STALE", "payload": {"board_type": board, "num_players": players}}, host=HERE, at=NOW)
    assert event.payload.model_dump()["config"] == "hex8_2p"


def test_every_name_is_an_event_also_in_small_letters() -> None:
    for name, kind in TYPES.items():
        payload = {
            **HEX, "host": "a", "reason": "r", "orphan_count": 1, "operation": 1, "sha256": "a" * 64, "cause": "c",
            "item_type": "NPZ",
        }  # fmt: skip
        for spelt in (name, name.lower(), f"DataEventType.{name}"):
            assert adapt({"type": spelt, "payload": payload}, host=HERE, at=NOW).type == kind


def test_every_field_of_every_payload_can_be_told() -> None:
    for kind, model in PAYLOADS.items():
        for field in model.model_fields.keys() - UNTOLD:
            assert WAYS.get(kind, {}).get(field, FIELDS.get(field)), (kind, field)


def test_an_id_of_the_senders_is_kept() -> None:
    own = "01932c07-209c-7b1e-9c5a-6f5d1c0e2a4b"
    raw = {"type": "HOST_ONLINE", "payload": {"host": "a"}}
    assert adapt({**raw, "id": own}, host=HERE, at=NOW).id == own
    assert adapt({**raw, "event_id": own}, host=HERE, at=NOW).id == own
    assert is_id(adapt({**raw, "event_id": "17"}, host=HERE, at=NOW).id)
    assert adapt(raw, host=HERE, at=NOW).id != adapt(raw, host=HERE, at=NOW).id


def test_json_as_python_writes_it() -> None:
    body = json.dumps(
        {"type": "SYNC_COMPLETE", "payload": {"host": "a", "avg_quality_score": float("nan"), "duration": float("inf")}}
    )
    event = adapt(parse(body.encode()), host=HERE, at=NOW)
    assert (event.payload.other, event.payload.model_dump()["seconds"]) == ({}, None)
    assert parse(b'"\\ud800"') == "?"
    for text in (b"", b"{", b"[" * 200_000, b"\xff\xfe", b"{'a': 1}"):
        with pytest.raises(NotUnderstood) as refused:
            parse(text)
        assert refused.value.code == "not_json"


def test_what_is_told_besides_is_kept_within_bounds() -> None:
    payload = {
        **HEX,
        **{f"field {number} " + "x" * 200: "y" * 9000 for number in range(100)},
        "big": 10**30,
        "list": [1],
        "deep": {"a": {"b": 1}},
    }
    event = adapt({"type": "DATA_STALE", "payload": payload}, host=HERE, at=NOW)
    assert len(event.payload.other) == 40
    assert len(event.dump()) < 64 << 10
    assert adapt({"type": "DATA_STALE", "payload": {**HEX, "big": 10**30}}, host=HERE, at=NOW).payload.other["big"] == str(10**30)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KNOWN_NAMES = sorted(
    {name for ways in FIELDS.values() for step in ways for name in step}
    | {"board_type", "num_players", "metadata", "timestamp", "id"}
)
LIKELY = st.sampled_from(
    ["hex8_2p", "sq8_3p", "hex8", 2, "2", -1, 1e400, "gpu-1", "../x", "\x00", "\ud800", 10**40, True, [], {}, None, "x" * 5000]
)
PAYLOAD = st.dictionaries(st.sampled_from(KNOWN_NAMES) | st.text(max_size=8), LIKELY | JSON, max_size=8)
RAW = JSON | st.fixed_dictionaries(
    {"type": st.sampled_from([*TYPES, "training_started", "nothing"]) | JSON, "payload": PAYLOAD | JSON},
    optional={"timestamp": LIKELY | JSON, "id": LIKELY, "metadata": JSON},
) | st.builds(lambda kind, payload: {**payload, "event_type": kind}, st.sampled_from(sorted(TYPES)), PAYLOAD)  # fmt: skip


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=RAW)
@example(raw={"type": "DATA_STALE", "payload": {"config": "hex8_2p", "config_key": "hex8_2p\x00"}})
def test_nothing_that_anybody_sends_does_more_than_not_be_understood(raw: Any) -> None:
    try:
        event = adapt(raw, host=HERE, at=NOW)
    except NotUnderstood as refused:
        assert refused.code in REASONS
        assert len(refused.detail) <= 300
        assert len(raw_text(raw)) <= MAX_RAW
        assert "\x00" not in raw_text(raw)
    else:
        assert event.type in EventType
        assert Event.model_validate_json(event.dump()) == event


def test_what_is_nested_too_deeply_is_not_understood_either() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(NotUnderstood):
        adapt({"type": "nothing", "payload": {"a": deep}}, host=HERE, at=NOW)
    assert "too deeply" in raw_text({"type": "nothing", "a": deep})


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_body_does_more_than_not_be_understood(body: bytes) -> None:
    bounded(body).encode()
    try:
        raw = parse(body)
    except NotUnderstood as refused:
        assert refused.code == "not_json"
    else:
        try:
            adapt(raw, host=HERE, at=NOW)
        except NotUnderstood as refused:
            assert refused.code in REASONS


def test_nobody_tells_what_was_signed() -> None:
    payload = {"config": "hex8_2p", "host": "gpu-1", "manifest": "{}", "signature": "00"}
    event = adapt({"type": "MODEL_PROMOTED", "payload": payload}, host=HERE, at=NOW)
    assert isinstance(event.payload, ModelPromoted)
    assert (event.payload.manifest, event.payload.signature) == (None, None)
