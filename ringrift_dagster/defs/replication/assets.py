"""`host_replicas`: one replication run of a host; `cold_storage`: what the bucket lacked. What happened, item by item."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
from pydantic import Field

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.partitions import HOSTS
from ringrift_dagster.defs.policies import OWNERS, partitioned_check
from ringrift_dagster.defs.presentation import table
from ringrift_dagster.defs.replication.classes import priorities_of
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.manifest.inventory import NoAnswer
from ringrift_dagster.manifest.plane import Plane, publish_bucket_manifest
from ringrift_dagster.manifest.queries import missing_at
from ringrift_dagster.transfer.coordinator import Coordinator, Report, Row
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.targets import buckets, served_by

REPLICAS = "host_replicas"
COLD = "cold_storage"
VERIFIED = "every_byte_verified"
EQUAL = "remote_hash_equals_local"
EVERY_CONFIG_PROMOTED = dg.AssetDep("promoted_models", partition_mapping=dg.AllPartitionMapping())
"""Every host holds the current models of all configs."""
LIMIT = 1000
"""Items asked for; a table shows fewer and says how many more there are."""


class RunLimits(dg.Config):
    """How long a run goes on taking operations, and for how long it waits for more before it ends."""

    minutes: float = Field(default=10, gt=0, le=60)
    idle_seconds: float = Field(default=3, ge=0, le=300)


@dg.asset(
    name=REPLICAS,
    deps=["data_manifest", "host_events", EVERY_CONFIG_PROMOTED],
    partitions_def=HOSTS,
    group_name="replication",
    kinds={"report"},
    owners=OWNERS,
    tags={"ringrift/layer": "replication"},
    code_version="1",
    output_required=False,
    check_specs=[
        partitioned_check(
            VERIFIED,
            REPLICAS,
            "Everything that came was hashed and looked into before it got its name; nothing that was asked for failed.",
            HOSTS,
        )
    ],
)
def host_replicas(
    context: dg.AssetExecutionContext, plane: PlaneResource, config: RunLimits
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Brings a host, and the drives that hang on it, what the queue has for it, each item verified.

    A run takes the operations of its priority class and whatever more urgent comes up meanwhile. The host's agent pulls from
    the best sources; the run follows, records every copy, and tells of each item by which transport it came, from where, and how
    fast. A run that is killed loses nothing: the agent goes on, and the next run finds what it did. When nothing was to be done
    there is no materialisation. Observations tell of every change of what the host holds.
    """
    host = context.partition_key
    try:
        with plane.open() as opened:
            targets = served_by(opened.cluster, host)
            if not targets:
                raise dg.Failure(f"the hosts file names no active host {host}", allow_retries=False)
            reports = _carry_out(context, opened, targets, config)
    except HostsFileError as error:
        raise dg.Failure(f"the hosts file cannot be used: {error.problems[0]}", allow_retries=False) from error
    verdict = _verdict(VERIFIED, reports)
    if any(report.rows for report in reports):
        yield dg.MaterializeResult(metadata=metadata_of(reports), check_results=[verdict])
    else:
        yield verdict


@dg.asset(
    name=COLD,
    deps=["data_manifest", "promoted_models"],
    group_name="replication",
    kinds={"s3"},
    owners=OWNERS,
    tags={"ringrift/layer": "replication"},
    code_version="1",
    pool="bucket",
    output_required=False,
    check_specs=[
        dg.AssetCheckSpec(
            EQUAL, asset=COLD, description="What the bucket gives back has the hash of what was sent; no upload failed for good."
        )
    ],
)
def cold_storage(
    context: dg.AssetExecutionContext, plane: PlaneResource, config: RunLimits
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Brings the bucket every sound item that it lacks, reads it back, and names it in the bucket's manifest afterwards.

    Nothing is ever overwritten or removed there: keys carry hashes, and what is deleted elsewhere stays. When nothing was to be
    done there is no materialisation.
    """
    try:
        with plane.open() as opened:
            named = buckets(opened.cluster)
            if not named:
                raise dg.Failure("the hosts file names no bucket", allow_retries=False)
            reports = _carry_out(context, opened, named, config)
            if not any(report.rows for report in reports):
                yield _verdict(EQUAL, reports)
                return
            lacking = sum(len(missing_at(opened.store, name, limit=LIMIT)) for name in named)
            told = metadata_of(reports) | {"still lacking": lacking, "bucket manifest": _publish(opened, plane)}
    except HostsFileError as error:
        raise dg.Failure(f"the hosts file cannot be used: {error.problems[0]}", allow_retries=False) from error
    yield dg.MaterializeResult(metadata=told, check_results=[_verdict(EQUAL, reports)])


def _carry_out(context: dg.AssetExecutionContext, plane: Plane, targets: Sequence[str], config: RunLimits) -> list[Report]:
    """All targets at once: they share the agent, and one that waits must not keep the others."""
    priorities = priorities_of(context.run.tags)

    def one(target: str) -> Report:
        coordinator = Coordinator(plane, f"run {context.run.run_id} {target}"[:100])
        return coordinator.run(
            target, priorities, seconds=config.minutes * 60, idle=config.idle_seconds, told=_teller(context, target)
        )

    with ThreadPoolExecutor(len(targets)) as threads:
        return list(threads.map(one, targets))


def _teller(context: dg.AssetExecutionContext, target: str) -> Callable[[Row], None]:
    """Writes to the run's log what did not go well, as it comes about."""

    def tell(row: Row) -> None:
        if row.cause:
            context.log.warning(f"{target}: {row.item[:12]} {row.state}: {row.cause}: {row.detail or ''}; {row.next_action or ''}")

    return tell


def metadata_of(reports: Sequence[Report]) -> dict[str, dg.MetadataValue | int | float | str]:
    """What a run did, item by item, for its materialisation."""
    rows = [(report.target, row) for report in reports for row in report.rows]
    moved = sum(row.bytes for _, row in rows)
    seconds = sum(row.seconds for _, row in rows)
    transports = Counter(row.transport for _, row in rows if row.transport)
    urgent = Counter(Priority(row.priority).name for _, row in rows)
    told: dict[str, dg.MetadataValue | int | float | str] = {
        "dagster/row_count": sum(len(report.done) for report in reports),
        "bytes": moved,
        "failed": sum(len(report.failed) for report in reports),
        "tried again later": sum(len(report.waiting) for report in reports),
        "left in the queue": sum(report.left for report in reports),
        "retries": sum(row.retries for _, row in rows),
        "by transport": ", ".join(f"{name} {count}" for name, count in transports.most_common()) or "nothing had to be moved",
        "by priority": ", ".join(f"{name} {count}" for name, count in urgent.most_common()),
        "items": table(
            ["to", "item", "type", "config", "why", "bytes", "s", "MB/s", "by", "from", "retries", "outcome"],
            (_row(target, row) for target, row in rows),
        ),
    }
    if moved and seconds:
        told["MB/s of a transfer, mean"] = round(moved / seconds / 1e6, 2)
    silent = _silent(reports)
    return told | ({"no answer": "; ".join(silent)} if silent else {})


def _silent(reports: Sequence[Report]) -> list[str]:
    """The targets that did not answer, and how that was."""
    return [f"{report.target}: {report.silent}" for report in reports if report.silent]


def _row(target: str, row: Row) -> list[object]:
    speed = row.mb_per_second
    outcome = str(row.state) if row.cause is None else f"{row.state}: {row.cause}; {row.next_action or row.detail or ''}"
    return [
        target,
        f"`{row.item[:12]}`",
        row.type,
        row.config,
        f"{row.kind}, {Priority(row.priority).name}",
        f"{row.bytes:,}",
        f"{row.seconds:.2f}",
        None if speed is None else f"{speed:.1f}",
        row.transport,
        row.source,
        row.retries or None,
        outcome,
    ]


def _verdict(name: str, reports: Sequence[Report]) -> dg.AssetCheckResult:
    """An operation that failed for good is bad news; one that is tried again is not, yet. Who did not answer proves nothing."""
    failed = [(report.target, row) for report in reports for row in report.failed]
    causes = Counter(row.cause for _, row in failed)
    said = [f"{count} {cause}" for cause, count in causes.most_common()] + _silent(reports)
    return dg.AssetCheckResult(
        check_name=name,
        passed=not said,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(said) or f"{sum(len(report.done) for report in reports)} verified",
        metadata={
            "failed": table(
                ["to", "item", "cause", "detail", "what to do"],
                ([target, f"`{row.item[:12]}`", row.cause, row.detail, row.next_action] for target, row in failed),
            )
        }
        if failed
        else {},
    )


def _publish(opened: Plane, plane: PlaneResource) -> str:
    """Name in the bucket what is there now; the objects were there before."""
    try:
        done = publish_bucket_manifest(opened, plane.s3_client())
    except NoAnswer as silence:
        return f"not written: {silence.code}: {silence.detail}"
    return f"names {done.written:,} objects"
