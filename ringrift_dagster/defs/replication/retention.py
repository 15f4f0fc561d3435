"""`retention`: what was removed from places that were too full, after live proof of the copies elsewhere."""

import time
from collections import Counter

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.policies import OWNERS
from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.events import inbox
from ringrift_dagster.manifest.plane import HOME_LOCATION
from ringrift_dagster.transfer import pins, queue
from ringrift_dagster.transfer.removal import Cleaned, overfull, retention

NAME = "retention"
CHECK = "every_place_has_room"


@dg.asset(
    name=NAME,
    deps=["data_manifest"],
    group_name="replication",
    kinds={"report"},
    owners=OWNERS,
    tags={"ringrift/layer": "replication"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            CHECK, asset=NAME, description="No place is fuller than the hosts file allows, after what may go has gone."
        )
    ],
)
def retention_report(plane: PlaneResource) -> dg.MaterializeResult:
    """Removes from places that are fuller than allowed what is safe elsewhere, oldest first, down to the hosts file's target.

    Every removal is preceded by live proof: other places hash their copies again, now, and at least two of them hold it, one where
    data does not come and go. What is pinned (candidates, current models, the data of running jobs) stays, and the bucket keeps
    everything. Also forgets what ended long ago in queue and inbox.
    """
    now = time.time()
    try:
        with plane.open() as opened:
            done = retention(opened)
            full = overfull(opened.store, opened.cluster)
            pinned = pins.all_pins(opened.store, at=now)
            forgotten = queue.prune(opened.store, at=now, kept_targets=[HOME_LOCATION]) + inbox.prune(opened.store, at=now)
    except HostsFileError as error:
        raise dg.Failure(f"the hosts file cannot be used: {error.problems[0]}", allow_retries=False) from error
    removed = [(each.location, one) for each in done for one in each.removed]
    return dg.MaterializeResult(
        metadata={
            "removed": len(removed),
            "bytes": sum(one.bytes for _, one in removed),
            "pinned": len(pinned),
            "old rows forgotten": forgotten,
            "removed copies": table(
                ["from", "path", "bytes", "proved at"],
                (
                    [place, ", ".join(one.paths), f"{one.bytes:,}", ", ".join(p.location for p in one.proofs)]
                    for place, one in removed
                ),
            ),
            "kept": table(
                ["at", "why", "items"], ([each.location, why, count] for each in done for why, count in each.kept.items())
            ),
            "pins": table(
                ["item", "by", "why", "until"],
                ([f"`{pin.sha256[:12]}`", pin.owner, pin.reason, moment(pin.expires_at) or "for good"] for pin in pinned),
            ),
        },
        check_results=[_verdict([place.name for place, _ in full], done)],
    )


def _verdict(full: list[str], done: list[Cleaned]) -> dg.AssetCheckResult:
    kept = Counter(why for each in done for why in each.kept.elements())
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not full,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"still too full: {', '.join(full[:10])}; {', '.join(why for why, _ in kept.most_common(3))}" if full else None,
    )
