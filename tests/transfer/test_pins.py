"""What is never removed, and why."""

from __future__ import annotations

import pytest

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind
from ringrift_dagster.transfer.pins import Pin, Pinned, all_pins, pin, pinned, reserve, unpin
from ringrift_dagster.transfer.rules import Rule, promoted_model, put, training_job
from tests.manifest.telling import declared, digest_of, item, tell

A, B = digest_of("a"), digest_of("b")


@pytest.fixture
def known(store: Store) -> Store:
    """A manifest that knows two training sets, a model and checkpoints."""
    declared(store)
    found = [
        item("a.npz", "a"),
        item("b.npz", "b", config="hex8_3p"),
        item("models/m.pth", "m", type=ItemType.MODEL),
        item("models/candidate_hex8_2p.pth", "candidate", type=ItemType.CHECKPOINT),
        item("candidate_at_the_top.pth", "candidate at the top", type=ItemType.CHECKPOINT),
        item("checkpoints/candidates.pth", "no candidate", type=ItemType.CHECKPOINT),
        item("candidate_data.npz", "no checkpoint"),
    ]
    tell(store, "nebius-1", found, at=1.0)
    return store


def test_a_pin_holds_until_it_is_given_up_or_expires(known: Store) -> None:
    pin(known, A, "ada", "for the paper", at=10.0)
    pin(known, B, "job-7", "reads it", at=11.0, until=20.0)
    assert all_pins(known, at=12.0) == [Pin(A, "ada", "for the paper", 10.0), Pin(B, "job-7", "reads it", 11.0, 20.0)]
    assert pinned(known, [A, B], at=12.0) == {A: "ada: for the paper", B: "job-7: reads it"}
    assert pinned(known, [A, B], at=20.0) == {A: "ada: for the paper"}
    assert not unpin(known, A, "bob")
    assert unpin(known, A, "ada") and not unpin(known, A, "ada")
    assert pinned(known, [A, B], at=20.0) == {}


def test_several_may_pin_one_item(known: Store) -> None:
    pin(known, A, "ada", "first", at=10.0)
    pin(known, A, "bob", "second", at=11.0)
    pin(known, A, "ada", "changed her mind", at=12.0)
    assert [(each.owner, each.reason) for each in all_pins(known, at=13.0)] == [("bob", "second"), ("ada", "changed her mind")]
    assert pinned(known, [A], at=13.0, besides="bob") == {A: "ada: changed her mind"}
    unpin(known, A, "ada")
    assert pinned(known, [A], at=13.0) == {A: "bob: second"}
    assert pinned(known, [A], at=13.0, besides="bob") == {}


def test_candidates_are_pinned_by_their_name(known: Store) -> None:
    contents = ("candidate", "candidate at the top", "no candidate", "no checkpoint", "m", "a")
    found = pinned(known, [digest_of(content) for content in contents], at=2.0)
    assert found == dict.fromkeys(
        (digest_of("candidate"), digest_of("candidate at the top")), "a candidate that waits for its evaluation"
    )


def test_current_models_and_the_data_of_running_jobs_are_pinned(known: Store) -> None:
    put(known, promoted_model("hex8_2p", digest_of("m"), at=5.0))
    put(known, training_job("job-7", "hex8_2p", ["nebius-1"], at=5.0, until=50.0))
    put(known, Rule("five", Kind.REPLICATE, Priority.LOW, ItemType.NPZ, copies=5, created_at=5.0))
    found = pinned(known, [A, B, digest_of("m")], at=10.0)
    assert found == {A: "rule job-7", digest_of("m"): "rule model-hex8_2p"}, "a number of copies pins none of them"
    put(known, promoted_model("hex8_2p", digest_of("newer"), at=20.0))
    assert pinned(known, [A, B, digest_of("m")], at=50.0) == {}, "another model is current now, and the job is over"


def test_a_reservation_is_for_one_alone(known: Store) -> None:
    reserve(known, A, "removal 1", "its copy at vast-1 is being removed", at=10.0, until=100.0)
    with pytest.raises(Pinned, match="removal 1"):
        reserve(known, A, "removal 2", "its copy at vast-2 is being removed", at=50.0, until=150.0)
    reserve(known, A, "removal 3", "who held it died", at=100.0, until=200.0)
    assert [each.owner for each in all_pins(known, at=100.0)] == ["removal 3"]
    pin(known, B, "ada", "mine", at=100.0)
    with pytest.raises(Pinned, match="ada: mine"):
        reserve(known, B, "removal 4", "", at=101.0, until=200.0)


def test_what_the_manifest_does_not_know_can_be_pinned(known: Store) -> None:
    pin(known, digest_of("to come"), "ada", "will be made", at=1.0)
    assert pinned(known, [digest_of("to come")], at=2.0) == {digest_of("to come"): "ada: will be made"}
