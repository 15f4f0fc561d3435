"""Rules that hold for more than one asset: who owns it, how it is retried, when it runs by itself, how its checks are made.

Numbers an operator may want to change are in `resources` (per home) or in `dagster.yaml` (per instance).
"""

from __future__ import annotations

import warnings
from datetime import timedelta

import dagster as dg

from ringrift_dagster.defs.partitions import CONFIGS

OWNERS = ["team:data-platform"]

RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For what passes: a busy file, a full disk that is being cleared.

Bad data raises `dg.Failure(allow_retries=False)`.
"""

FOLLOW_UPSTREAM = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
"""Rebuild a config when what it is made of changed, unless that failed a blocking check."""

FOLLOW_ANY_CONFIG = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
"""Rebuild a roll-up when any config changed; configs without data are no reason to wait."""

ROLL_UP_FRESHNESS = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=2), fail_window=timedelta(hours=6))
"""A roll-up older than this says nothing about now. It is about the report; its checks are about the games."""


def config_check(name: str, asset: str, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    """A check with one result a config."""
    return partitioned_check(name, asset, description, CONFIGS, blocking=blocking)


def partitioned_check(
    name: str, asset: str, description: str, partitions: dg.PartitionsDefinition, *, blocking: bool = False
) -> dg.AssetCheckSpec:
    """A check with one result a partition.

    Partitioned checks are in preview in this Dagster; this is the one place that relies on them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking, partitions_def=partitions)
