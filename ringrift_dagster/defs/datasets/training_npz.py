"""`training_npz`: the training set of a config, in the format RingRift's trainer loads."""

import json
from collections.abc import Iterator

import dagster as dg

from ringrift_dagster.canonical.gate import RULES_VERSION
from ringrift_dagster.datasets.canonical_games import CanonicalSummary, CorruptStore, check_store, summarise
from ringrift_dagster.datasets.npz_export import ExportError, ExportResult, export_canonical
from ringrift_dagster.datasets.npz_validator import Finding, inspect_npz
from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import FOLLOW_UPSTREAM, OWNERS, RETRY, config_check
from ringrift_dagster.defs.presentation import location, mix, timestamp
from ringrift_dagster.defs.resources import HomeResource

NAME = "training_npz"
PASSING_ERRORS = frozenset({"busy", "disk_full"})
"""Export errors that another attempt may not meet again."""

CHECKS: dict[str, tuple[str, frozenset[str]]] = {
    "structure": (
        "An intact archive with every array a trainer reads.",
        frozenset(
            {
                "unreadable",
                "not_a_zip",
                "hostile_archive",
                "oversize",
                "crc_mismatch",
                "corrupt_array",
                "hostile_pickle",
                "missing_array",
            }
        ),
    ),
    "dtypes": ("Arrays have the types RingRift's exporter writes.", frozenset({"wrong_dtype"})),
    "shapes": (
        "Planes, globals and targets have the encoder's shapes.",
        frozenset({"wrong_shape", "channel_mismatch"}),
    ),
    "finite": ("No NaN and no infinity in what training reads.", frozenset({"non_finite"})),
    "policy_bounds": (
        "Policy indices lie inside the board's action space.",
        frozenset({"policy_out_of_range", "policy_encoding"}),
    ),
    "policy_sums": ("Each position's policy sums to one.", frozenset({"policy_not_normalised"})),
    "value_range": ("Value targets lie in [-1, 1].", frozenset({"value_out_of_range"})),
    "counts": (
        "All arrays have one row a sample, and there are samples.",
        frozenset({"length_mismatch", "empty_dataset"}),
    ),
    "config": (
        "Board, players and metadata are those of this config.",
        frozenset({"config_mismatch", "unknown_config", "bad_metadata"}),
    ),
    "provenance": (
        "The manifest names these bytes, these canonical games and these rules.",
        frozenset({"checksum_mismatch", "manifest_mismatch"}),
    ),
}
"""What each check promises, and the validator's error codes that break the promise.

A code named nowhere breaks `structure`.
"""


@dg.asset(
    name=NAME,
    deps=["canonical_games"],
    partitions_def=CONFIGS,
    group_name="training",
    kinds={"numpy"},
    owners=OWNERS,
    tags={"ringrift/layer": "training"},
    retry_policy=RETRY,
    pool="export",
    code_version="1",
    automation_condition=FOLLOW_UPSTREAM,
    check_specs=[config_check(name, NAME, promise, blocking=True) for name, (promise, _) in CHECKS.items()],
)
def training_npz(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult:
    """One NPZ with its JSON manifest, encoded from the canonical games and published under its name in one step.

    Before: the store must be the one whose digest `canonical_games` recorded. After: the published bytes are
    read back and validated.
    """
    config = context.partition_key
    if problems := check_store(config, home.home):
        raise dg.Failure(f"the canonical store is not sound: {'; '.join(problems[:3])}", allow_retries=False)
    store = summarise(config, home.home)
    if not store.games:
        raise dg.Failure(f"no game of {config} passed the gate; see the check no_rejections", allow_retries=False)
    _refuse_unrecorded(context, store)
    try:
        exported = export_canonical(config, home.home)
    except ExportError as error:
        passing = error.code in PASSING_ERRORS
        raise dg.Failure(str(error), metadata={"code": error.code}, allow_retries=passing) from error
    except CorruptStore as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    report = inspect_npz(exported.path)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(exported.content_digest),
        metadata=_metadata(exported),
        check_results=list(_verdicts([*report.errors, *_provenance(exported, store, config)])),
    )


def _refuse_unrecorded(context: dg.AssetExecutionContext, store: CanonicalSummary) -> None:
    """Nothing is exported from a store other than the one whose digest passed the gate's check."""
    recorded = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("canonical_games"), asset_partitions=[context.partition_key]), limit=1
    ).records
    materialization = recorded[0].asset_materialization if recorded else None
    digest = (materialization.tags or {}).get("dagster/data_version") if materialization else None
    if digest != store.digest_root:
        raise dg.Failure(
            f"the canonical store has digest {store.digest_root[:12]}, canonical_games recorded "
            f"{digest[:12] if digest else 'none'}; materialise canonical_games again",
            allow_retries=False,
        )


def _provenance(exported: ExportResult, store: CanonicalSummary, config: str) -> Iterator[Finding]:
    """What the manifest must say beyond what the validator compares by itself."""
    manifest = json.loads(exported.manifest_path.read_bytes())
    expected = {"config": config, "rules_version": RULES_VERSION, "source_databases": store.databases}
    if exported.games == store.games:  # else games that nobody won were left out: they have no value target
        expected["game_digests_root"] = store.digest_root
    for key, value in expected.items():
        if manifest.get(key) != value:
            yield Finding("manifest_mismatch", f"{key} is {manifest.get(key)!r}, expected {value!r}")


def _verdicts(findings: list[Finding]) -> Iterator[dg.AssetCheckResult]:
    named = frozenset().union(*(codes for _, codes in CHECKS.values()))
    broken = {
        name: [finding for finding in findings if finding.code in codes or (name == "structure" and finding.code not in named)]
        for name, (_, codes) in CHECKS.items()
    }
    for name, found in broken.items():
        unknown = not found and broken["structure"]
        yield dg.AssetCheckResult(
            check_name=name,
            passed=not found and not unknown,
            description="not established: the structure is broken"
            if unknown
            else "; ".join(f"{finding.code}: {finding.detail}" for finding in found) or None,
        )


def _metadata(exported: ExportResult) -> dict[str, dg.MetadataValue | int | float]:
    return {
        "dagster/row_count": exported.samples,
        "samples": exported.samples,
        "games": exported.games,
        "bytes": exported.bytes,
        "seconds": exported.seconds,
        "newest game": timestamp(exported.newest_game),
        "phases": mix("phase", exported.phases),
        "winners": mix("seat", exported.outcomes),
        "value targets": dg.MetadataValue.text(exported.value_targets),
        "sha256": dg.MetadataValue.text(exported.sha256),
        "content digest": dg.MetadataValue.text(exported.content_digest),
        "canonical digest root": dg.MetadataValue.text(exported.digest_root),
        "manifest": dg.MetadataValue.path(exported.manifest_path),
        **location(exported.path),
    }
