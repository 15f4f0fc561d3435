"""`scrub_report`: what is stored, read again byte by byte and compared with its hashes, so much a day."""

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.policies import OWNERS
from ringrift_dagster.defs.presentation import table
from ringrift_dagster.defs.resources import PlaneResource, ScrubBudget
from ringrift_dagster.manifest import report
from ringrift_dagster.manifest.report import Doubtful
from ringrift_dagster.manifest.scrub import ScrubReport, scrub
from ringrift_dagster.manifest.states import ReplicaState

NAME = "scrub_report"
CHECK = "bytes_verified"


@dg.asset(
    name=NAME,
    deps=["data_manifest"],
    group_name="manifest",
    kinds={"report"},
    owners=OWNERS,
    tags={"ringrift/layer": "manifest"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset=NAME,
            description="What was read again has the bytes it was stored with, and no copy known to be damaged is left.",
        )
    ],
)
def scrub_report(plane: PlaneResource, scrubbing: ScrubBudget) -> dg.MaterializeResult:
    """What was read again today, what is damaged, what remains, and where each place stopped.

    Each place reads what was verified longest ago first and goes on tomorrow where it stopped. A damaged copy is no source any
    more; if it was the last one, `data_manifest` says so.
    """
    try:
        with plane.open() as opened:
            done = scrub(opened.store, opened.sources, daily_bytes=scrubbing.daily_bytes, seconds=scrubbing.seconds)
            bad = [copy for copy in report.doubtful_copies(opened.store) if copy.state == ReplicaState.BAD]
    except HostsFileError as error:
        raise dg.Failure(f"the hosts file cannot be used: {error.problems[0]}", allow_retries=False) from error
    return dg.MaterializeResult(
        metadata={
            "bytes": sum(row.bytes for row in done),
            "files": sum(row.files for row in done),
            "damaged": sum(len(row.damaged) for row in done),
            "remaining files": sum(row.remaining for row in done),
            "daily budget in bytes": scrubbing.daily_bytes,
            "locations": table(
                ["location", "read today", "files", "damaged", "remaining", "stopped because"],
                (
                    [row.location, f"{row.bytes:,}", row.files, len(row.damaged), row.remaining, _why(row, scrubbing)]
                    for row in done
                ),
            ),
        },
        check_results=[_bytes_verified(done, bad)],
    )


def _why(row: ScrubReport, scrubbing: ScrubBudget) -> str:
    if row.problem:
        return row.problem
    if not row.remaining:
        return "all was read"
    return "today's budget is used" if row.bytes >= scrubbing.daily_bytes else "the time was over"


def _bytes_verified(done: list[ScrubReport], bad: list[Doubtful]) -> dg.AssetCheckResult:
    """Damage is an error; that a place could not be read again only a warning."""
    damaged = sorted({(row.location, path) for row in done for path in row.damaged} | {(copy.location, copy.path) for copy in bad})
    silent = [row for row in done if row.problem]
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not damaged and not silent,
        severity=dg.AssetCheckSeverity.ERROR if damaged else dg.AssetCheckSeverity.WARN,
        description=f"{len(damaged)} copies are damaged"
        if damaged
        else f"not read: {', '.join(row.location for row in silent[:10])}"
        if silent
        else f"{sum(row.files for row in done):,} files read today, none damaged",
        metadata={"damaged": table(["location", "path"], damaged)} if damaged else {},
    )
