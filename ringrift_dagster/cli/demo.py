"""`ringrift-data demo`: the whole data plane at work on this machine, from self-play to a training set where a job needs it.

One host of a small cluster plays games. They come home, pass the gate and become training sets; a job that starts
on a host without data is given what it needs; everything is replicated and put into the bucket. Dagster's sensors do what follows
from events; the first runs of the pipeline are made here, in this process, because that is quickest.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import click
import dagster as dg

from ringrift_dagster.cli.dagster_home import held
from ringrift_dagster.cli.demo_cluster import BUCKET, DRIVE, WITH_DATA, WITHOUT_DATA, DemoCluster, demo_cluster, games_of
from ringrift_dagster.cli.demo_games import MODEL_CONFIG, PLAYED, play_games, play_training_games
from ringrift_dagster.cli.demo_models import check_installed, train_and_promote
from ringrift_dagster.cli.demo_timeline import POLL_SECONDS, STEP_SECONDS, Timeline
from ringrift_dagster.cli.output import Exit, complain, print_table
from ringrift_dagster.cli.registry import print_configs
from ringrift_dagster.cli.services import Services, choose_port, stopped_by_signals
from ringrift_dagster.datasets.overview import overview
from ringrift_dagster.definitions import defs
from ringrift_dagster.defs.datasets.jobs import STATE_TAG, freshness_job, processed, training_data_job
from ringrift_dagster.demo_data import DAMAGED_CONFIG
from ringrift_dagster.events.client import emit
from ringrift_dagster.games.sources import states, watch
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane, open_plane
from ringrift_dagster.manifest.queries import Whereabouts, where
from ringrift_dagster.transfer import collect, planner, queue
from ringrift_dagster.transfer.coordinator import Coordinator
from ringrift_dagster.transfer.operations import Kind, State

CONFIG = "hex8_2p"
"""What the demo's job trains."""
COPIES = 3
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@click.command()
@click.option("--once", is_flag=True, help="Print the timeline and exit: 0 only if every step happened.")
@click.option("--full", is_flag=True, help="Train, judge and promote models too (needs torch and sshd, takes tens of minutes).")
@click.option("--home", "root", type=click.Path(path_type=Path, file_okay=False), help="Instead of $RINGRIFT_DATA_HOME.")
@click.option("--port", default=3000, show_default=True, help="Of the web interface; another is chosen if it is taken.")
def demo(once: bool, full: bool, root: Path | None, port: int) -> int:
    """Run the whole data plane: a small cluster of real processes, games that one of its hosts plays, and the Dagster UI.

    Games come from the host's databases through the canonical gate into training sets; a training start on a host that has no data
    brings it there; copies go to other hosts, a drive and an S3 server. One game is damaged: the UI says why it was rejected.

    With --full a host trains three candidates. They play evaluation games, one is promoted and brought to every host, and the
    others are refused.
    """
    if full:
        check_installed()
    warnings.simplefilter("ignore", dg.BetaWarning)
    home = Home(root.absolute()) if root else Home.from_env()
    os.environ["RINGRIFT_DATA_HOME"] = str(home.root)
    outside = None if root else os.environ.get("DAGSTER_HOME")
    line = Timeline()
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        instance = stack.enter_context(held(Path(outside or home.root / "dagster")))
        click.echo(f"{WITH_DATA} plays games (a fresh installation compiles the rules first: a minute or so)")
        for play in (play_games, play_training_games) if full else (play_games,):
            play(games_of(home, WITH_DATA), lambda config, what: line.happened(f"{WITH_DATA} played {config}", what))
        cluster = stack.enter_context(demo_cluster(home, trains=full))
        chosen = choose_port(port)
        if chosen != port:
            complain(f"port {port} is taken, using {chosen}")
        services = stack.enter_context(Services(Path(instance.root_directory), chosen))
        click.echo(f"Dagster is starting at {services.url}")
        line.happened("cluster is up", f"{', '.join(cluster.urls)}, the drive {DRIVE}, the bucket {BUCKET}")
        with open_plane(home) as plane:
            _bring_games_home(plane, line)
            line.problems += [*_run(instance, states(watch(home.selfplay, {})), line), *_missing(home)]
            services.wait_until_ready()
            services.start_daemon()
            _train(plane, instance, cluster, line)
            if full:
                train_and_promote(plane, instance, services, cluster, line)
        click.echo()
        print_configs(list(overview(home)))
        print_table("Not as expected", ["step", "problem"], line.problems)
        _say_where(services, home, full)
        if not once:
            _stay(services)
    return Exit.BAD_NEWS if line.problems else Exit.GOOD


def _bring_games_home(plane: Plane, line: Timeline) -> None:
    """Ask the hosts what they hold until everything was hashed, and merge what they play into the home's sources."""

    def settled() -> str | None:
        refreshed = plane.refresh()
        places = all_locations(plane.store)
        busy = refreshed.silent or any(place.pending or (place.epoch or "").endswith("-first") for place in places if place.active)
        return None if busy else f"{sum(place.replicas for place in places):,} copies at {len(places)} locations"

    line.wait("manifest knows", settled)
    collect.cycle(plane.store, plane.cluster, at=time.time())
    report = Coordinator(plane, f"demo {os.getpid()}").run(HOME_LOCATION, seconds=STEP_SECONDS)
    if report.failed:
        line.failed("games come home", f"{len(report.failed)} databases: {report.failed[0].cause}")
    line.happened("games came home", f"{len(report.done)} databases of {WITH_DATA}, {report.bytes:,} bytes, each verified")


def _run(instance: dg.DagsterInstance, wanted: Mapping[str, str], line: Timeline) -> Iterator[tuple[str, str]]:
    """Run the pipeline for each config whose databases were not processed as they are; yields what failed."""
    location = defs()
    todo = {config: state for config, state in wanted.items() if config not in processed(instance, wanted)}
    todo = dict(sorted(todo.items(), key=lambda item: item[0] == DAMAGED_CONFIG))  # last: the UI shows the latest first
    for config, state in todo.items():
        started = time.monotonic()
        result = location.resolve_job_def(training_data_job.name).execute_in_process(
            instance=instance,
            partition_key=config,
            tags={STATE_TAG: state},
            run_config=QUIET,
            raise_on_error=False,
        )
        outcome = "judged and exported" if result.success else "FAILED"
        line.happened(config, f"{outcome} in {time.monotonic() - started:.1f} s")
        if not result.success:
            yield config, f"run {result.run_id} failed; see the web interface"
    location.resolve_job_def(freshness_job.name).execute_in_process(instance=instance, run_config=QUIET)


def _train(plane: Plane, instance: dg.DagsterInstance, cluster: DemoCluster, line: Timeline) -> None:
    """A job starts where there is no data; then copies and the cold copy of what it trains on."""
    sha256 = next((each.training_set.sha256 for each in overview(plane.home) if each.config == CONFIG and each.training_set), None)
    if sha256 is None:
        line.failed("training start", f"{CONFIG} has no training set")
        return
    line.wait("manifest knows it", lambda: _known(plane, sha256))
    held = _held(plane, sha256)
    event = emit("TRAINING_STARTED", {"config": CONFIG, "node_id": WITHOUT_DATA, "job_id": f"demo-{os.getpid()}"},
                 url=cluster.urls[WITHOUT_DATA])  # fmt: skip
    started = time.time()
    line.happened("TRAINING_STARTED", f"{CONFIG} on {WITHOUT_DATA}, event {event[:8]}")
    if held:
        line.happened("data is at the job", f"{sha256[:12]}, since an earlier demo")
    else:
        line.wait("data is at the job", lambda: _arrived(plane, sha256, started))
        line.wait("Dagster tells of it", lambda: _materialised(instance, "host_replicas", WITHOUT_DATA, started))
    line.wait("the job is told", lambda: _told(cluster, sha256))
    planner.cycle(plane.store, plane.cluster, None, at=time.time())
    line.wait(f"{COPIES} copies", lambda: _replicated(plane, sha256))
    line.wait("cold copy", lambda: _cold(plane, sha256))
    if not held:
        line.wait("Dagster tells of it", lambda: _materialised(instance, "cold_storage", None, started))


def _known(plane: Plane, sha256: str) -> str | None:
    plane.refresh()
    found = _where(plane, sha256)
    return f"{sha256[:12]}, {found.item.samples or 0:,} samples, at {_places(found)}" if found and found.reachable else None


def _arrived(plane: Plane, sha256: str, started: float) -> str | None:
    """How the job's data came, once its operation has ended."""
    done = queue.listed(plane.store, states=[State.DONE], target=WITHOUT_DATA)
    mine = next((each for each in done if each.sha256 == sha256 and each.kind == Kind.PRELOAD), None)
    if mine is None or (mine.finished_at or 0.0) < started:
        return None
    path = next((copy.path for copy in where(plane.store, sha256).reachable if copy.location == WITHOUT_DATA), "")
    took = (mine.finished_at or 0.0) - started
    return f"{sha256[:12]} verified at {path} by {mine.transport} from {mine.source}, recorded {took:.1f} s after the start"


def _held(plane: Plane, sha256: str) -> bool:
    """Whether an earlier demo left the data where the job is."""
    found = _where(plane, sha256)
    return found is not None and WITHOUT_DATA in {copy.location for copy in found.reachable}


def _materialised(instance: dg.DagsterInstance, asset: str, partition: str | None, since: float) -> str | None:
    wanted = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None, after_timestamp=since
    )
    records = instance.fetch_materializations(wanted, limit=1).records
    if not records:
        return None
    who = f"run {records[0].run_id[:8]}" if records[0].run_id else "a sensor"
    return f"{asset}{f' of {partition}' if partition else ''}, by {who}"


def _told(cluster: DemoCluster, sha256: str) -> str | None:
    """Whether the host's agent has been told that its data is there."""
    request = urllib.request.Request(
        f"{cluster.urls[WITHOUT_DATA]}/v1/events", headers={"authorization": f"Bearer {os.environ['RINGRIFT_NODE_TOKEN']}"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        events = [each["event"] for each in json.load(answer)["events"]]
    mine = [event for event in events if event.get("type") == "DATA_AVAILABLE" and event["payload"].get("sha256") == sha256]
    return f"DATA_AVAILABLE at {mine[-1]['payload'].get('path')}" if mine else None


def _replicated(plane: Plane, sha256: str) -> str | None:
    found = _where(plane, sha256)
    places = {copy.location for copy in found.reachable} - {BUCKET} if found else set()
    return f"{sha256[:12]} at {', '.join(sorted(places))}" if len(places) >= COPIES else None


def _cold(plane: Plane, sha256: str) -> str | None:
    found = _where(plane, sha256)
    copy = next((copy for copy in found.reachable if copy.location == BUCKET), None) if found else None
    return f"{sha256[:12]} read back from {copy.path}" if copy else None


def _where(plane: Plane, sha256: str) -> Whereabouts | None:
    try:
        return where(plane.store, sha256)
    except LookupError:
        return None


def _places(found: Whereabouts) -> str:
    return ", ".join(sorted({copy.location for copy in found.reachable}))


def _missing(home: Home) -> Iterator[tuple[str, str]]:
    """Whatever the games should have led to and did not."""
    for state in overview(home):
        if state.config in PLAYED and state.training_set is None:
            yield state.config, "it has no training set"
        if state.config == DAMAGED_CONFIG and "result_mismatch" not in state.rejected:
            yield state.config, "its damaged game was not rejected"


def _say_where(services: Services, home: Home, full: bool) -> None:
    click.echo(f"Training sets  {home.datasets}")
    click.echo(f"Lineage        {services.url}/asset-groups/")
    click.echo(f"Rejected game  {services.url}/assets/canonical_games?view=partitions&partition={DAMAGED_CONFIG}")
    click.echo(f"Preload        {services.url}/assets/host_replicas?view=partitions&partition={WITHOUT_DATA}")
    click.echo(f"Events         {services.url}/assets/host_events?view=events")
    if full:
        click.echo(f"Models         {services.url}/assets/promoted_models?view=partitions&partition={MODEL_CONFIG}")


def _stay(services: Services) -> None:
    click.echo(f"Up until Ctrl-C. Games that {WITH_DATA} plays come home and are processed by themselves.")
    try:
        while True:
            services.check()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        click.echo("Stopping")
