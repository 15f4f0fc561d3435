"""A promotion brings the model to every host, once; and who lacks it is known until it has it."""

from __future__ import annotations

import time

import pytest

from ringrift_dagster.events.model import EventType
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.models.manifest import SignedManifest
from ringrift_dagster.models.publishing.names import model_names
from ringrift_dagster.transfer import rules
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.promoted import Lag, NotAtHome, lags, ship
from tests.models.making import model_file
from tests.transfer.test_reactions import hold, plane, said, wanted

__all__ = ["plane"]

CONFIG = "square8_2p"
PATH = "models/published/canonical_square8_2p.pth"


def at_home(plane: Plane, seed: int) -> str:
    """Put a model where the published set is; its hash."""
    path = plane.home.root / PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    return file_sha256(model_file(path, CONFIG, seed))


def test_every_host_is_asked_to_have_it_and_told(plane: Plane) -> None:
    sha256 = at_home(plane, 1)
    assert ship(plane, CONFIG, sha256, 7, promoted_at=time.time()) == 3
    assert wanted(plane) == {(sha256, host, Priority.HIGH) for host in ("gpu-1", "gpu-2", "main")}
    (event,) = said(plane, EventType.MODEL_PROMOTED)
    assert (event["sha256"], event["path"], event["reason"]) == (sha256, f"square8_2p_{sha256[:12]}.pth", "decision 7")
    assert event["to"] == ["host gpu-1", "host gpu-2", "host main"]


def test_the_same_decision_is_carried_out_once(plane: Plane) -> None:
    sha256, at = at_home(plane, 1), time.time()
    ship(plane, CONFIG, sha256, 7, promoted_at=at)
    assert ship(plane, CONFIG, sha256, 7, promoted_at=at) == 0
    assert len(said(plane, EventType.MODEL_PROMOTED)) == 1
    assert len(rules.stored(plane.store)) == 1


def test_a_rollback_to_a_former_model_is_told_again(plane: Plane) -> None:
    first, at = at_home(plane, 1), time.time()
    ship(plane, CONFIG, first, 1, promoted_at=at)
    second = at_home(plane, 2)
    ship(plane, CONFIG, second, 2, promoted_at=at + 1)
    assert at_home(plane, 1) == first
    ship(plane, CONFIG, first, 3, promoted_at=at + 2)
    assert [event["sha256"] for event in said(plane, EventType.MODEL_PROMOTED)] == [first, second, first]
    assert [rule.sha256 for rule in rules.stored(plane.store)] == [first]


def test_who_lacks_the_current_model_is_known_until_it_has_it(plane: Plane) -> None:
    sha256, at = at_home(plane, 1), time.time()
    assert lags(plane) == []
    ship(plane, CONFIG, sha256, 7, promoted_at=at)
    assert lags(plane) == [Lag(host, CONFIG, sha256, at) for host in ("main", "gpu-1", "gpu-2")]
    size = (plane.home.root / PATH).stat().st_size
    hold(plane, "gpu-1", path="models/a.pth", type=ItemType.MODEL, config=CONFIG, sha256=sha256, size=size)
    assert [(lag.host, lag.held) for lag in lags(plane)] == [("main", False), ("gpu-1", True), ("gpu-2", False)]
    path = f"models/{model_names(CONFIG)[0]}"
    hold(plane, "gpu-1", path=path, type=ItemType.MODEL, config=CONFIG, sha256=sha256, size=size)
    assert [lag.host for lag in lags(plane)] == ["main", "gpu-2"]


def test_a_signed_manifest_goes_with_the_promotion_once(plane: Plane) -> None:
    sha256, at = at_home(plane, 1), time.time()
    signed = SignedManifest(b'{"version": 1}', b"\x01\xfe" * 32)
    ship(plane, CONFIG, sha256, 7, promoted_at=at)
    for _ in range(2):
        ship(plane, CONFIG, sha256, 7, promoted_at=at, manifest=signed)
    unsigned, told = said(plane, EventType.MODEL_PROMOTED)
    assert {"manifest", "signature"} & unsigned.keys() == set()
    assert (told["manifest"], told["signature"]) == ('{"version": 1}', "01fe" * 32)


def test_what_the_home_does_not_have_is_not_shipped(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringrift_dagster.transfer.promoted.HOME_SECONDS", 0.0)
    with pytest.raises(NotAtHome, match="does not show model 000000000000"):
        ship(plane, CONFIG, "0" * 64, 7, promoted_at=time.time())
    assert (wanted(plane), said(plane, EventType.MODEL_PROMOTED)) == (set(), [])
