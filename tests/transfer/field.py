"""A small cluster of real agents under a coordinator, for tests that move real files."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringrift_dagster.home import Home
from ringrift_dagster.manifest import queries
from ringrift_dagster.manifest.consistency import disagreements
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.plane import Plane, open_plane
from ringrift_dagster.manifest.sources.tree import mark_location
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.coordinator import Coordinator, Report
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, Operation, Wanted
from tests.agents import RunningAgent, running_agent

MODEL = "models/nnue_hex8_2p.onnx"
MB = 1_000_000


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


@dataclass
class Field:
    """Running agents and the plane that watches them."""

    root: Path
    plane: Plane
    agents: dict[str, RunningAgent]
    stack: ExitStack
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def put(self, host: str, data: bytes, name: str = MODEL) -> str:
        """A file in a host's tree; returns its hash."""
        path = self.root / host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.replace(path)
        return hashlib.sha256(data).hexdigest()

    def refresh(self, *, later: float = 0.0) -> None:
        """Ask until everything was hashed, by a clock that is `later` seconds ahead."""
        deadline = time.monotonic() + 60
        while True:
            result = self.plane.refresh(clock=lambda: time.time() + later, answer_seconds=10.0, again_seconds=0.1)
            places = [location(self.plane.store, outcome.location) for outcome in result.outcomes if outcome.code is None]
            if all(place and place.pending == 0 and not (place.epoch or "").endswith("-first") for place in places):
                return
            assert time.monotonic() < deadline, result.outcomes

    def submit(
        self, sha256: str, target: str, priority: Priority = Priority.NORMAL, *, size: int | None = None, kind: Kind = Kind.SYNC
    ) -> Operation:
        return queue.submit(self.plane.store, Wanted(kind, sha256, target, priority, size), at=time.time())

    def run(self, target: str, *, owner: str = "run", seconds: float = 60.0, lease_seconds: float = 60.0, **options: Any) -> Report:
        """A run of a coordinator."""
        return Coordinator(self.plane, owner, lease_seconds=lease_seconds).run(target, seconds=seconds, **options)

    def get(self, operation: Operation) -> Operation:
        return queue.get(self.plane.store, operation.id)

    def copies(self, sha256: str) -> dict[str, str]:
        """State of every copy by location and path."""
        return {f"{copy.location}/{copy.path}": copy.state for copy in queries.where(self.plane.store, sha256).copies}

    def held(self, place: str) -> dict[str, str]:
        """Hash of every finished file below a place that is named by its hash, by path."""
        root = self.root / place
        files = (path for path in root.rglob("*") if path.is_file() and not any(part.startswith(".") for part in path.parts))
        return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def restart(self, host: str) -> RunningAgent:
        """An agent in the place of one that was killed, on its port."""
        port = int(self.agents[host].url.rpartition(":")[2])
        agent = running_agent(self.root / host, host, *self.options.get(host, ()), port=port)
        self.agents[host] = self.stack.enter_context(agent)
        return self.agents[host]

    def agrees(self) -> bool:
        """Whether the manifest agrees with itself."""
        return disagreements(self.plane.store) == []


@contextmanager
def running_field(
    root: Path,
    hosts: Mapping[str, str],
    *,
    options: Mapping[str, Sequence[str]] | None = None,
    sections: str = "",
    marked: Sequence[str] = (),
    s3_client: Callable[[], Any] | None = None,
    url: str | None = None,
    others: Mapping[str, str] | None = None,
) -> Iterator[Field]:
    """Agents by name, with further fields of the hosts file and options of `node serve` for each; `sections` of the hosts file
    beside; `marked` places that are no hosts. `others`: hosts that are something else, with its address."""
    options = options or {}
    for name in marked:
        (root / name).mkdir(parents=True, exist_ok=True)
        mark_location(root / name, name)
    with ExitStack() as stack:
        agents = {}
        for name in hosts:
            (root / name).mkdir(parents=True, exist_ok=True)
            agents[name] = stack.enter_context(running_agent(root / name, name, *options.get(name, ())))
        urls = {name: agent.url for name, agent in agents.items()} | dict(others or {})
        lines = [
            f'  {name}: {{data_server_url: "{url}", provider: local, ringrift_path: {root}/{name}, {hosts.get(name, "")}}}'
            for name, url in urls.items()
        ]
        path = root / "hosts.yaml"
        path.write_text(f"{sections}\nhosts:\n" + "\n".join(lines) + "\n")
        plane = stack.enter_context(open_plane(Home(root / "home"), hosts_file=path, s3_client=s3_client, url=url))
        yield Field(root, plane, agents, stack, options)
