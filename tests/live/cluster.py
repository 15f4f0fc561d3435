"""A whole cluster for live tests and benchmarks: a real Dagster, and real agents of which one has the coordinator's inbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringrift_dagster.cli.dagster_home import held
from ringrift_dagster.cli.services import Services, free_port, stopped_by_signals
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.manifest.store import Store, default_url
from tests.agents import RunningAgent, running_agent

MAIN = "main"
"""The host with the coordinator's home."""
_NAMES = (
    "RINGRIFT_DATA_HOME", "DAGSTER_HOME", "RINGRIFT_HOSTS_FILE", "RINGRIFT_MANIFEST_URL", "RINGRIFT_NODE_TOKEN", "AWS_ENDPOINT_URL",
)  # fmt: skip
_HOST = '  {name}: {{status: ready, ssh_host: 127.0.0.1, ringrift_path: {root}/{name}, data_server_url: "{url}"{more}}}\n'


@dataclass
class LiveCluster:
    """Everything that runs, and the home's manifest."""

    root: Path
    home: Home
    services: Services
    store: Store
    agents: dict[str, RunningAgent]
    _start: Callable[[str, int], RunningAgent]

    def restart_agent(self, host: str) -> None:
        """An agent in the place of one that was killed, on its port."""
        self.agents[host] = self._start(host, int(self.agents[host].url.rpartition(":")[2]))

    def known(self, sha256: str) -> list[str]:
        """Asks the locations; where an item can be had, as far as the manifest knows by now."""
        with open_plane(self.home) as plane:
            plane.refresh()
        return self.places(sha256)

    def places(self, sha256: str) -> list[str]:
        """Where an item can be had, as far as the manifest knows."""
        try:
            return sorted({copy.location for copy in where(self.store, sha256).reachable})
        except LookupError:
            return []


@contextmanager
def live_cluster(
    root: Path,
    hosts: Mapping[str, str],
    *,
    sections: str = "",
    manifest_url: str | None = None,
    options: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[LiveCluster]:
    """Agents by name with further fields of the hosts file, below `root`; `sections` of the hosts file beside, `options` of agents.

    If `MAIN` is among them, it has the home, and the others tell it their events. Dagster's daemon runs, its web interface answers.
    """
    home = Home(root / "home")
    home.root.mkdir()
    before = {name: os.environ.pop(name, None) for name in _NAMES}
    os.environ["RINGRIFT_DATA_HOME"] = str(home.root)
    if manifest_url is not None:
        os.environ["RINGRIFT_MANIFEST_URL"] = manifest_url
    try:
        with ExitStack() as stack:
            ports = {host: free_port() for host in hosts}

            def start(host: str, port: int) -> RunningAgent:
                (root / host).mkdir(exist_ok=True)
                here = ["--home", str(home.root)] if host == MAIN else []
                there = ["--coordinator", f"http://127.0.0.1:{ports[MAIN]}"] if MAIN in ports and not here else []
                given = (options or {}).get(host, ())
                return stack.enter_context(running_agent(root / host, host, *here, *there, *given, interval=1.0, port=port))

            agents = {host: start(host, port) for host, port in ports.items()}
            lines = [_HOST.format(name=host, root=root, url=agents[host].url, more=more) for host, more in hosts.items()]
            (home.root / "distributed_hosts.yaml").write_text(f"{sections}\nhosts:\n{''.join(lines)}")
            store = stack.enter_context(Store.open(manifest_url or default_url(home)))
            stack.enter_context(stopped_by_signals())
            stack.enter_context(held(home.root / "dagster"))
            services = stack.enter_context(Services(home.root / "dagster", free_port()))
            services.start_daemon()
            services.wait_until_ready()
            yield LiveCluster(root, home, services, store, agents, start)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
