"""The code location and ways to run it in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from ringrift_dagster.cli.services import free_port
from ringrift_dagster.definitions import defs
from ringrift_dagster.home import Home

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


NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"
"""A sound training set of square8_3p."""


def store_training_set(home: Home, name: str = "square8_3p") -> Path:
    """Put a sound training set into the home."""
    home.datasets.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(NPZ, home.datasets / f"{name}.npz"))


def declare(home: Home, **hosts: str | None) -> Path:
    """Write the home's hosts file: host names to agents' addresses; without one, to a port on which nobody listens."""
    lines = ["hosts:"]
    for name, url in hosts.items():
        lines += [
            f"  {name.replace('_', '-')}:",
            "    status: ready",
            "    ssh_host: 127.0.0.1",
            "    ringrift_path: /srv/ringrift",
            f"    data_server_url: {url or f'http://127.0.0.1:{free_port()}'}",
        ]
    home.root.mkdir(parents=True, exist_ok=True)
    path = home.root / "distributed_hosts.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
