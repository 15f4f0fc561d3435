"""`ringrift-data demo`: sample games through the whole pipeline, in a real Dagster on this machine.

Databases are put where self-play would put them. The first runs are made here, one after the other in this
process, because that is quickest; from then on Dagster's own sensor finds what is new.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import dagster as dg

from ringrift_dagster.cli.dagster_home import held
from ringrift_dagster.cli.output import Exit, complain, print_table
from ringrift_dagster.cli.registry import print_configs
from ringrift_dagster.cli.services import Services, choose_port, stopped_by_signals
from ringrift_dagster.datasets.overview import overview
from ringrift_dagster.definitions import defs
from ringrift_dagster.defs.datasets.jobs import STATE_TAG, freshness_job, processed, training_data_job
from ringrift_dagster.demo_data import DAMAGED_CONFIG, unpack
from ringrift_dagster.games.sources import states, watch
from ringrift_dagster.home import Home

POLL_SECONDS = 0.3
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@click.command()
@click.option("--once", is_flag=True, help="Print the summary and exit: 0 if everything expected happened.")
@click.option("--home", "root", type=click.Path(path_type=Path, file_okay=False), help="Instead of $RINGRIFT_DATA_HOME.")
@click.option("--port", default=3000, show_default=True, help="Of the web interface; another is chosen if it is taken.")
def demo(once: bool, root: Path | None, port: int) -> int:
    """Run the whole pipeline on sample games and show it in the Dagster UI.

    Real RingRift games on four boards go from their databases through the canonical gate into training sets.
    One database is damaged: one of its games is rejected, and the UI says why.
    """
    home = Home(root.absolute()) if root else Home.from_env()
    os.environ["RINGRIFT_DATA_HOME"] = str(home.root)
    outside = None if root else os.environ.get("DAGSTER_HOME")
    unpack(home.selfplay / "demo")
    with stopped_by_signals(), held(Path(outside or home.root / "dagster")) as instance:
        chosen = choose_port(port)
        if chosen != port:
            complain(f"port {port} is taken, using {chosen}")
        with Services(Path(instance.root_directory), chosen) as services:
            click.echo(f"Dagster is starting at {services.url} (a fresh installation compiles the rules first: about a minute)")
            problems = [*_run(instance, states(watch(home.selfplay, {}))), *_missing(home)]
            services.wait_until_ready()
            click.echo()
            print_configs(list(overview(home)))
            print_table("Not as expected", ["config", "problem"], problems)
            _say_where(services, home)
            if not once:
                _stay(services)
    return Exit.BAD_NEWS if problems else Exit.GOOD


def _run(instance: dg.DagsterInstance, wanted: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Run the pipeline for each config whose databases were not processed as they are; yields what failed."""
    location = defs()
    todo = {config: state for config, state in wanted.items() if config not in processed(instance, wanted)}
    todo = dict(sorted(todo.items(), key=lambda item: item[0] == DAMAGED_CONFIG))  # last: the UI shows the latest first
    for number, (config, state) in enumerate(todo.items(), start=1):
        started = time.monotonic()
        result = location.resolve_job_def(training_data_job.name).execute_in_process(
            instance=instance,
            partition_key=config,
            tags={STATE_TAG: state},
            run_config=QUIET,
            raise_on_error=False,
        )
        outcome = "done" if result.success else "FAILED"
        click.echo(f"[{number}/{len(todo)}] {config:<12} {outcome} in {time.monotonic() - started:.1f} s")
        if not result.success:
            yield config, f"run {result.run_id} failed; see the web interface"
    location.resolve_job_def(freshness_job.name).execute_in_process(instance=instance, run_config=QUIET)


def _missing(home: Home) -> Iterator[tuple[str, str]]:
    """Whatever the sample games should have led to and did not."""
    for state in overview(home):
        if state.databases and state.training_set is None:
            yield state.config, "it has no training set"
        if state.config == DAMAGED_CONFIG and "result_mismatch" not in state.rejected:
            yield state.config, "its damaged game was not rejected"


def _say_where(services: Services, home: Home) -> None:
    click.echo(f"Training sets  {home.datasets}")
    click.echo(f"Lineage        {services.url}/asset-groups/")
    click.echo(f"Rejected game  {services.url}/assets/canonical_games?view=partitions&partition={DAMAGED_CONFIG}")


def _stay(services: Services) -> None:
    services.start_daemon()
    click.echo("Up until Ctrl-C. Databases that appear below the home's selfplay/ are processed by themselves.")
    try:
        while True:
            services.check()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        click.echo("Stopping")
