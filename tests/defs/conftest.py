"""The code location and ways to run it in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from ringrift_dagster.definitions import defs

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture(scope="session")
def location() -> dg.Definitions:
    return defs()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def run(location: dg.Definitions, instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    """Runs a job of the code location, or some assets of it, without raising."""

    def execute(job: str, config: str | None = None, only: list[str] | None = None) -> dg.ExecuteInProcessResult:
        return location.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=config,
            asset_selection=[dg.AssetKey(name) for name in only] if only else None,
            run_config=QUIET,
            raise_on_error=False,
        )

    return execute


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The check results of a run by name."""
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """The materialisations of a run by asset."""
    made = (event.step_materialization_data.materialization for event in result.get_asset_materialization_events())
    return {materialization.asset_key.to_user_string(): materialization for materialization in made}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the first failed step says."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            return (data.user_failure_data.description if data.user_failure_data else None) or str(data.error)
    return ""
