"""What an agent is made of: its roots, its pulls, the limit of its uplink. No HTTP here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ringrift_dagster.manifest.sources.layouts import HOME as HOME_LAYOUT
from ringrift_dagster.manifest.sources.layouts import NODE, SHARED, Layout, drive
from ringrift_dagster.manifest.sources.tree import MIN_FREE_BYTES, STATE, TreeInventory
from ringrift_dagster.models.publishing.published_set import Verifier
from ringrift_dagster.node.host_events import HostEvents
from ringrift_dagster.node.metrics import Metrics
from ringrift_dagster.node.model_names import ModelNames
from ringrift_dagster.node.pulls import Pulls
from ringrift_dagster.node.roots import HOME, TREE, Root, RootKind
from ringrift_dagster.node.transports import close_transports, make_transports
from ringrift_dagster.node.uplink import Uplink
from ringrift_dagster.transfer.swarm import Swarm


@dataclass(frozen=True)
class AgentConfig:
    """How an agent is set up. `drives` and `shared` map location names to paths; intervals in seconds.

    `state` is where the agent remembers; by default below the root. Whoever asks needs `token`, if there is one, and so do the
    agents that this one asks. `home`: this project's own home, where this is its host. `min_free_bytes` stay free on every disk.
    `uplink` bytes a second are sent at most, all objects together, and as much again to peers of `bittorrent`: the address and port
    for that, if there is to be any. Events are pushed to the agent at the URL `coordinator`. With `verify`, promoted models get
    their names only by a manifest with a signature that it accepts.
    """

    name: str
    root: Path
    interval: float = 30.0
    snapshot_interval: float = 300.0
    drives: dict[str, Path] = field(default_factory=dict)
    shared: dict[str, Path] = field(default_factory=dict)
    state: Path | None = None
    token: str | None = None
    min_free_bytes: int = MIN_FREE_BYTES
    scrub_rest: float = 0.0
    home: Path | None = None
    uplink: float | None = None
    bittorrent: tuple[str, int] | None = None
    coordinator: str | None = None
    verify: Verifier | None = None


class Agent:
    """The roots of a host, what is pulled into them, and its events. Use as a context manager to have all of that go on.

    Raises TransportFailure when it is to share by BitTorrent and cannot.
    """

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.state = state = config.state or config.root / STATE
        self.roots = {TREE: self._root(TREE, "tree", config.name, config.root, NODE, state)}
        for name, path in config.drives.items():
            self.roots[name] = self._root(name, "drive", name, path, drive(), state / "roots" / name)
        for name, path in config.shared.items():
            self.roots[name] = self._root(name, "shared", name, path, SHARED, state / "roots" / name)
        if config.home is not None:
            self.roots[HOME] = self._root(HOME, "home", HOME, config.home, HOME_LAYOUT, state / "roots" / HOME)
        self.uplink = Uplink(config.uplink)
        self.swarm = Swarm(*config.bittorrent, upload=config.uplink) if config.bittorrent else None
        self.pulls = Pulls(
            self.roots,
            state,
            make_transports(self.roots, state, config.token, self.swarm),
            min_free_bytes=config.min_free_bytes,
            metrics=self.metrics,
        )
        self.events = HostEvents(
            config.name,
            state,
            coordinator=config.coordinator,
            home=config.home,
            token=config.token,
            tree=config.root,
            verify=config.verify,
            registry=self.metrics.registry,
        )

        self.model_names = ModelNames(self.roots[TREE].tree, config.verify, self.metrics)

    def _root(self, name: str, kind: RootKind, location: str, path: Path, layout: Layout, state: Path) -> Root:
        tree = TreeInventory(
            location,
            path,
            layout,
            state,
            sentinel=kind in ("drive", "shared"),
            snapshot_interval=self.config.snapshot_interval,
            min_free_bytes=self.config.min_free_bytes,
            scrub_rest=self.config.scrub_rest,
        )
        return Root(name, kind, tree, self.config.interval, self.metrics)

    def __enter__(self) -> Agent:
        self.events.__enter__()
        for root in self.roots.values():
            root.start()
        self.pulls.__enter__()
        self.model_names.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.model_names.__exit__()
        self.events.__exit__(None, None, None)
        self.pulls.__exit__(None, None, None)
        close_transports(self.pulls.transports)
        if self.swarm is not None:
            self.swarm.close()
        for root in self.roots.values():
            root.stop()
