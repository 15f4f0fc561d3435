"""Agents, daemon, webserver, code server and the database's connections are killed at random while hosts tell events.

Whatever a host was told is accepted is handled, once in effect: nothing is missing, nothing is done or said twice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from ringrift_dagster.events import inbox
from ringrift_dagster.events.client import NotEmitted, emit
from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.outgoing import outstanding
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.schema import deliveries, events, handled_events, operations
from ringrift_dagster.transfer.operations import COLUMNS, State
from ringrift_dagster.transfer.reactions import CONSUMER, REACTED_TO, exports_wanted
from tests.conftest import new_database
from tests.live.cluster import MAIN, LiveCluster, live_cluster
from tests.live.test_live import NPZ, ask, eventually

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("live")]

EVENTS = 200
SEED = 8
CONFIG, UNKNOWN = "square8_3p", "square19_4p"
"""One for which there is a training set, and one for which there is nothing at all."""
HOSTS = ("gpu-1", "gpu-2", "gpu-3")
KINDS = {
    "placed": ("TRAINING_STARTED", {"config": CONFIG}),
    "ended": ("TRAINING_COMPLETED", {"config": CONFIG, "success": True}),
    "needed": ("DATA_NEEDED", {"config": CONFIG, "min_samples": 10}),
    "blocked": ("TRAINING_STARTED", {"config": UNKNOWN}),
    "joined": ("HOST_ONLINE", {}),
}
WEIGHTS = (40, 20, 30, 8, 2)
KILLED = ("database connections", "daemon", "code-server", "webserver", *HOSTS, MAIN)
EMIT_SECONDS = 30.0
PAUSE = threading.Event()
RUNS = """{ runsOrError(filter: {pipelineName: "training_data_job"}) { ... on Runs {
  results { runId tags { key value } } } } }"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[LiveCluster]:
    trains = ", role: gpu_training_primary, training_enabled: true"
    hosts = {MAIN: ", role: coordinator, is_coordinator: true", **dict.fromkeys(HOSTS, trains)}
    url = f"{postgres_server}/{new_database(postgres_server)}"
    sections = "sync_routing: {replication_target: 1}"
    with live_cluster(tmp_path_factory.mktemp("crashes"), hosts, sections=sections, manifest_url=url) as running:
        path = running.root / "gpu-1/data/training" / f"{CONFIG}.npz"
        path.parent.mkdir(parents=True)
        shutil.copyfile(NPZ, path)
        eventually(lambda: running.known(file_sha256(NPZ)))
        overrides.grant(running.store, CONFIG, who="tests", why="a recorded game is old", hours=1, at=time.time())
        yield running


def test_what_was_acknowledged_is_handled_once_whatever_is_killed(cluster: LiveCluster) -> None:
    dice = random.Random(SEED)
    said = [(host, dice.choices(list(KINDS), WEIGHTS)[0], new_id()) for host in HOSTS for _ in range(EVENTS // len(HOSTS) + 1)]
    tellers = [threading.Thread(target=tell_all, args=(cluster, host, said, random.Random(host))) for host in HOSTS]
    for teller in tellers:
        teller.start()
    for victim in dice.sample(KILLED, len(KILLED)) + dice.choices(KILLED, k=6):
        PAUSE.wait(dice.uniform(0.0, 1.0))
        kill(cluster, victim)
    for teller in tellers:
        teller.join(EMIT_SECONDS * 4)
    assert not any(teller.is_alive() for teller in tellers)

    ids = {id for _, _, id in said}
    eventually(lambda: [True] if arrived(cluster) >= ids and not left(cluster) else [])
    handled = query(cluster, sa.select(events.c.event_id, handled_events.c.outcome).join(handled_events).where(of_reactions()))
    assert Counter(id for id, _ in handled if id in ids) == dict.fromkeys(ids, 1)
    assert [outcome for _, outcome in handled if outcome.startswith("failed")] == []
    assert inbox.dead_count(cluster.store) == 0

    eventually(
        lambda: [True] if not (outstanding(cluster.store) or open_operations(cluster) or exports_wanted(cluster.store)) else []
    )
    told = Counter(query(cluster, sa.select(events.c.type)))
    kinds = Counter(kind for _, kind, _ in said)
    assert told[EventType.TRAINING_BLOCKED_BY_DATA.value,] == kinds["blocked"]
    done = query(cluster, sa.select(operations.c.kind, operations.c.target, operations.c.state))
    once = {(kind, target, State.DONE.value): 1 for kind, target, _ in done}
    assert Counter(done) == once, query(cluster, sa.select(*COLUMNS))  # each asked for once, and each done
    assert told[EventType.DATA_TRANSFER_COMPLETE.value,] == len(done)
    for host in HOSTS:
        (copy,) = (cluster.root / host / "data/training").glob("*.npz")
        assert file_sha256(copy) == file_sha256(NPZ)
        assert Counter(delivered(cluster, host)) == Counter(to_deliver(cluster, host))
    cluster.services.wait_until_ready()
    runs = ask(cluster.services, RUNS)["runsOrError"]["results"]
    wanted = query(cluster, sa.select(handled_events.c.outcome).where(handled_events.c.consumer == f"export {UNKNOWN}"))
    assert len(wanted) == kinds["blocked"]
    assert {f"run {run['runId']}" for run in runs} >= {outcome for (outcome,) in wanted}


def tell_all(cluster: LiveCluster, host: str, said: list[tuple[str, str, str]], dice: random.Random) -> None:
    """What one host says, in order; each until it is acknowledged."""
    for teller, kind, id in said:
        if teller == host:
            PAUSE.wait(dice.uniform(0.0, 0.4))
            type, fields = KINDS[kind]
            deadline = time.monotonic() + EMIT_SECONDS
            while not acknowledged(cluster, host, type, {**fields, "node_id": host, "host_id": host}, id):
                assert time.monotonic() < deadline
                PAUSE.wait(0.1)


def acknowledged(cluster: LiveCluster, host: str, type: str, fields: dict[str, Any], id: str) -> bool:
    try:
        emit(type, fields, url=cluster.agents[host].url, id=id, timeout=5)
    except NotEmitted as error:
        assert error.code in ("no_agent", "no_answer"), error
        return False
    return True


def kill(cluster: LiveCluster, victim: str) -> None:
    """As a crash does; it is back a moment later."""
    if victim == "database connections":
        url = str(cluster.store.engine.url.set(drivername="postgresql"))
        with psycopg.connect(url, autocommit=True) as connection:
            others = "pid <> pg_backend_pid() AND datname = current_database()"
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    elif victim in cluster.agents:
        cluster.agents[victim].kill()
        cluster.restart_agent(victim)
    else:
        os.kill(cluster.services.pid(victim), signal.SIGKILL)
        cluster.services.restart(victim)


def query(cluster: LiveCluster, question: sa.Select[*tuple[Any, ...]]) -> list[Any]:
    with cluster.store.reading() as connection:
        return [tuple(row) for row in connection.execute(question)]


def of_reactions() -> sa.ColumnElement[bool]:
    return handled_events.c.consumer == CONSUMER


def arrived(cluster: LiveCluster) -> set[str]:
    return {id for (id,) in query(cluster, sa.select(events.c.event_id))}


def left(cluster: LiveCluster) -> list[Any]:
    return inbox.unhandled(cluster.store, CONSUMER, REACTED_TO)


def open_operations(cluster: LiveCluster) -> list[Any]:
    return query(cluster, sa.select(operations.c.id).where(operations.c.finished_at.is_(None)))


def to_deliver(cluster: LiveCluster, host: str) -> list[str]:
    told = sa.select(events.c.event_id).join(deliveries).where(deliveries.c.target == f"host {host}", deliveries.c.delivered)
    return [id for (id,) in query(cluster, told)]


def delivered(cluster: LiveCluster, host: str) -> list[str]:
    """The ids of what the coordinator told a host."""
    with urllib.request.urlopen(f"{cluster.agents[host].url}/v1/events", timeout=10) as answer:
        return [each["event"]["id"] for each in json.load(answer)["events"]]
