"""The asset `candidate_models`: the checkpoints of a config, registered or found on hosts, and what disqualifies each."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ringrift_dagster.datasets.npz_export import digest_root
from ringrift_dagster.defs.models.rules import rules_for
from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import OWNERS, config_check
from ringrift_dagster.defs.presentation import location, moment, table
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.models.candidates import PROBLEMS, Qualification, candidates, directory, qualify
from ringrift_dagster.models.refused import RefusedCheckpoint, refused_checkpoints

if TYPE_CHECKING:
    from ringrift_dagster.transfer.candidates import CheckpointSearch

NAME = "candidate_models"

CHECKS: dict[str, tuple[str, frozenset[str]]] = {
    "readable": ("The file is a model that can be read, and has the bytes that were registered.", frozenset({"file_damaged"})),
    "config_matches": (
        "Config, planes and policy of the network are those of this config.",
        frozenset({"config_mismatch", "channels_mismatch", "policy_mismatch", "format_unsupported"}),
    ),
    "encoder_matches": ("The network and its training set have the same encoder.", frozenset({"encoder_mismatch"})),
    "provenance_known": (
        "The training set is known and was exported from canonical games here.",
        frozenset({"provenance_unknown", "training_time_unknown"}),
    ),
    "data_fresh": ("The newest game was young enough when training began.", frozenset({"stale_data"})),
}
"""What each check promises about the newest candidate, and the problems that break the promise."""
assert frozenset().union(*(codes for _, codes in CHECKS.values())) == PROBLEMS.keys()


@dg.asset(
    name=NAME,
    deps=["training_npz"],
    partitions_def=CONFIGS,
    group_name="models",
    kinds={"pytorch"},
    owners=OWNERS,
    tags={"ringrift/layer": "models"},
    code_version="1",
    check_specs=[config_check(name, NAME, promise) for name, (promise, _) in CHECKS.items()],
)
def candidate_models(context: dg.AssetExecutionContext, home: HomeResource, plane: PlaneResource) -> dg.MaterializeResult:
    """Trained checkpoints of a config, each bound to the hash of its training set.

    New ones that the manifest knows on hosts are fetched and registered first. A candidate is its SHA-256: the same name with other
    weights is another one. The checks are about the candidate that was registered last; the table has all. One that does not
    qualify is never promoted, whatever it wins.
    """
    config = context.partition_key
    limit = rules_for(plane, config).max_data_age
    search = _search(context, plane)
    refused = [entry for entry in refused_checkpoints(home.home).values() if entry.config == config]
    registered = [qualify(home.home, entry, max_data_age=limit) for entry in candidates(home.home, config)]
    if not registered:
        raise dg.Failure(
            f"no candidate of {config} is registered; `ringrift-data models register FILE --config {config}` takes one in",
            metadata=_on_hosts(search, refused),
            allow_retries=False,
        )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest_root(entry.candidate.sha256 for entry in registered)),
        metadata={**_metadata(registered), **_on_hosts(search, refused), **location(directory(home.home, config))},
        check_results=list(_checks(registered[0])),
    )


def _search(context: dg.AssetExecutionContext, plane: PlaneResource) -> "CheckpointSearch":
    """Fetch and register new checkpoints from hosts, and log what became of each."""
    from ringrift_dagster.transfer.candidates import find_candidates

    with plane.open() as opened:
        search = find_candidates(opened, context.partition_key, who=f"run {context.run.run_id}")
    for candidate in search.registered:
        context.log.info(f"{candidate.sha256[:12]} of {candidate.origin} is a candidate")
    for refusal in search.refused:
        context.log.warning(f"{refusal.sha256[:12]} of {refusal.origin} is refused: {refusal.reason}: {refusal.detail}")
    for missed in search.missed:
        context.log.warning(f"{missed.sha256[:12]} of {missed.origin} was not fetched: {missed.cause}: {missed.detail}")
    return search


def _on_hosts(search: "CheckpointSearch", refused: Sequence[RefusedCheckpoint]) -> dict[str, dg.MetadataValue]:
    """Metadata about checkpoints on hosts: registered or not fetched in this run, or refused at any time."""
    rows = [
        *([entry.sha256, entry.origin, "registered", ""] for entry in search.registered),
        *([entry.sha256, entry.origin, "not fetched", f"{entry.cause}: {entry.detail}"] for entry in search.missed),
        *([entry.sha256, entry.origin, "refused", f"{entry.reason}: {entry.detail}"] for entry in refused),
    ]
    return {
        "found on hosts": dg.MetadataValue.int(len(search.registered)),
        "refused checkpoints": dg.MetadataValue.int(len(refused)),
        "not fetched from hosts": dg.MetadataValue.int(len(search.missed) + search.left),
        "checkpoints on hosts": table(
            ["checkpoint", "origin", "outcome", "reason"], ([f"`{sha256[:12]}`", *rest] for sha256, *rest in rows)
        ),
    }


def _metadata(registered: Sequence[Qualification]) -> dict[str, dg.MetadataValue | int]:
    newest = registered[0]
    data = newest.training_set
    return {
        "dagster/row_count": len(registered),
        "candidates": table(
            ["candidate", "registered", "architecture", "parameters", "training set", "games in it", "disqualified by"],
            (
                [
                    f"`{entry.candidate.sha256[:12]}`",
                    moment(entry.candidate.registered_at),
                    entry.candidate.facts.architecture,
                    f"{entry.candidate.facts.parameters:,}",
                    (entry.candidate.training_data_sha256 or "unknown")[:12],
                    entry.training_set and entry.training_set.games,
                    ", ".join(dict.fromkeys(problem.code for problem in entry.problems)),
                ]
                for entry in registered
            ),
        ),
        "newest candidate": dg.MetadataValue.text(newest.candidate.sha256),
        "origin": dg.MetadataValue.text(newest.candidate.origin),
        "bytes": newest.candidate.bytes,
        "training set": dg.MetadataValue.text(newest.candidate.training_data_sha256 or "unknown"),
        "games' digest root": dg.MetadataValue.text(data.game_digests_root if data else "unknown"),
        "training began": _time(newest.candidate.training_began),
    }


def _checks(newest: Qualification) -> Iterator[dg.AssetCheckResult]:
    for name, (_, codes) in CHECKS.items():
        problems = [problem for problem in newest.problems if problem.code in codes]
        yield dg.AssetCheckResult(
            check_name=name,
            passed=not problems,
            description="; ".join(f"{problem.code}: {problem.text}" for problem in problems) or None,
            metadata={"candidate": dg.MetadataValue.text(newest.candidate.sha256)},
        )


def _time(at: float | None) -> dg.MetadataValue:
    return dg.MetadataValue.text("unknown") if at is None else dg.MetadataValue.timestamp(datetime.fromtimestamp(at, UTC))
