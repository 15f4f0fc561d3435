"""Short ways to say what a location holds, for tests of what the manifest makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.manifest import liveness
from ringrift_dagster.manifest.inventory import FoundItem, Gone, GonePath, Inventory, ItemType, NoAnswer, Soundness
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.merge import Merged, merge
from ringrift_dagster.manifest.store import Store

HOSTS = ("vast-1", "vast-2", "nebius-1")


def places() -> list[Place]:
    """Two hosts in one rack, one elsewhere, a shared file system that two of them see, a drive and a bucket."""
    return [
        Place("vast-1", "host", "", "vast", "r1", "gpu_selfplay", ephemeral=True),
        Place("vast-2", "host", "", "vast", "r1", "gpu_selfplay", ephemeral=True),
        Place("nebius-1", "host", "", "nebius", "eu", "gpu_training_primary"),
        Place("nfs", "shared", "", hosts=("vast-2", "nebius-1")),
        Place("drive", "drive", "", via="nebius-1"),
        Place("bucket", "s3", "", provider="aws"),
    ]


def digest_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def item(path: str, content: str, **facts: Any) -> FoundItem:
    """A sound hex8_2p training set of some content."""
    return FoundItem.model_validate(
        {
            "path": path,
            "sha256": digest_of(content),
            "size": len(content),
            "type": ItemType.NPZ,
            "config": "hex8_2p",
            "soundness": Soundness.SOUND,
            **facts,
        }
    )


def tell(
    store: Store,
    location: str,
    found: Iterable[FoundItem] = (),
    *,
    at: float,
    gone: Sequence[str | tuple[str, Gone]] = (),
    full: bool = True,
    before: int | None = None,
    **told: Any,
) -> Merged:
    """A location answers; `before` is the manifest's revision when it was asked, now if not given."""
    paths = [GonePath(path=entry) if isinstance(entry, str) else GonePath(path=entry[0], reason=entry[1]) for entry in gone]
    inventory = Inventory(location, "epoch", 1, full, found=list(found), gone=paths, **{"now": at, "latency": 0.01, **told})
    merged = merge(store, inventory, before=store.revision() if before is None else before, at=at)
    liveness.answered(store, inventory, at=at)
    return merged


def silent(store: Store, location: str, *, at: float, code: str = "refused") -> bool:
    """A location does not answer; returns whether its liveness changed."""
    return liveness.unanswered(store, NoAnswer(location, code, "nobody there"), at=at)


def dies(store: Store, location: str, *, at: float) -> None:
    """A location is silent for so long that it is OFFLINE."""
    silent(store, location, at=at)
    assert silent(store, location, at=at + liveness.OFFLINE_SECONDS)


def declared(store: Store) -> Store:
    """The store with `places` registered at time 0."""
    register(store, places(), at=0.0)
    return store
