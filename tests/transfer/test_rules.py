"""Rules are kept, replaced, expire, and say what they are about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringrift_dagster.cluster.topology import Cluster, S3Place, Thresholds
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind
from ringrift_dagster.transfer.rules import (
    KEPT_SECONDS,
    BadRule,
    Rule,
    by_urgency,
    promoted_model,
    put,
    remove,
    standing_rules,
    stored,
    training_job,
)
from tests.manifest.telling import digest_of

FULL = Rule(
    "everything", Kind.SYNC, Priority.CRITICAL, ItemType.NPZ, "hex8_2p", digest_of("a"), 3, 1,
    ("gpu-1", "gpu-2"), ("gpu_selfplay",), 10.0, 20.0,
)  # fmt: skip


def test_a_rule_comes_back_as_it_was_set(store: Store) -> None:
    bare = Rule("bare", Kind.REPLICATE, Priority.LOW, ItemType.MODEL, created_at=1.0)
    put(store, FULL)
    put(store, bare)
    assert stored(store) == [bare, FULL]


def test_one_of_the_same_name_takes_its_place(store: Store) -> None:
    put(store, promoted_model("hex8_2p", digest_of("old"), at=1.0))
    put(store, promoted_model("hex8_2p", digest_of("new"), at=2.0, roles=["gpu_selfplay"]))
    put(store, promoted_model("hex8_3p", digest_of("other"), at=3.0))
    assert [(rule.name, rule.sha256) for rule in stored(store)] == [
        ("model-hex8_2p", digest_of("new")),
        ("model-hex8_3p", digest_of("other")),
    ]


def test_a_job_is_over_when_its_rule_expires(store: Store) -> None:
    job = training_job("job-7", "hex8_2p", ["gpu-1"], at=100.0, until=200.0)
    put(store, job)
    assert stored(store, at=199.9) == [job]
    assert stored(store, at=200.0) == []
    assert stored(store) == [job], "it can still be looked at"
    put(store, training_job("job-8", "hex8_2p", ["gpu-1"], at=200.0 + KEPT_SECONDS + 1, until=1e7))
    assert [rule.name for rule in stored(store)] == ["job-8"]


def test_setting_and_removing_rules_is_a_change(store: Store) -> None:
    before = store.revision()
    put(store, FULL)
    assert store.revision() > before
    before = store.revision()
    assert remove(store, "everything") and not remove(store, "everything")
    assert (store.revision(), stored(store)) == (before + 1, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""}, {"name": "a b"}, {"name": "standing-copies"}, {"sha256": "abc"}, {"config": "hex9_2p"}, {"copies": 0},
        {"copies": 101}, {"lasting": 4}, {"lasting": -1}, {"hosts": ("gpu 1",)}, {"expires_at": 10.0},
        {"sha256": None, "type": None, "config": None},
    ],
)  # fmt: skip
def test_what_is_no_rule_is_not_set(store: Store, wrong: dict[str, object]) -> None:
    with pytest.raises(BadRule):
        put(store, replace(FULL, **wrong))  # type: ignore[arg-type]
    assert stored(store) == []


def test_what_a_rule_is_about() -> None:
    by_hash = Rule("a", Kind.SYNC, Priority.LOW, sha256=digest_of("a"))
    assert by_hash.is_about(digest_of("a"), "MODEL", None) and not by_hash.is_about(digest_of("b"), "MODEL", None)
    by_type = Rule("b", Kind.SYNC, Priority.LOW, ItemType.NPZ, "hex8_2p")
    assert by_type.is_about(digest_of("a"), "NPZ", "hex8_2p")
    assert not by_type.is_about(digest_of("a"), "NPZ", "hex8_3p") and not by_type.is_about(digest_of("a"), "MODEL", "hex8_2p")


def test_what_always_stands_follows_the_hosts_file() -> None:
    assert [(rule.kind, rule.copies, rule.lasting) for rule in standing_rules(Cluster())] == [(Kind.REPLICATE, 3, 1)]
    cluster = Cluster(thresholds=Thresholds(replication_target=5), s3=S3Place(bucket="cold-store"))
    copies, cold = standing_rules(cluster)
    assert (copies.copies, cold.kind, cold.hosts, cold.priority) == (5, Kind.BACKUP, ("cold-store",), Priority.COLD_STORAGE)
    off = Cluster(s3=S3Place(bucket="cold-store", enabled=False))
    assert len(standing_rules(off)) == 1
    assert by_urgency([copies, cold, FULL]) == [FULL, copies, cold]
