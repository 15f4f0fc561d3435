"""Orders for agents under test: made of files, given over HTTP, followed to their end."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.sources.hashing import hash_file
from ringrift_dagster.transfer.model import Offer, Order, OrderedItem, Priority, Progress, PullState, TransportName
from tests.agents import RunningAgent

FINAL = frozenset({PullState.DONE, PullState.FAILED, PullState.CANCELLED})
PATIENCE = 60.0
"""Seconds; a slow machine is no failure."""
_NUMBERS = count(1)


def model_bytes(size: int, seed: int = 0) -> bytes:
    """Something that passes for an ONNX model, every chunk of it different."""
    return np.random.default_rng(seed).bytes(size)


def give_model(tree: Path, name: str, size: int, seed: int = 0) -> Path:
    """A model of that size in a tree."""
    path = tree / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_bytes(size, seed))
    return path


def offer(url: str, sha256: str, location: str) -> Offer:
    return Offer(transport=TransportName.HTTP, location=location, address=f"{url}/v1/objects/{sha256}")


def item(path: Path, type: ItemType, *sources: RunningAgent, name: str | None = None, **facts: Any) -> OrderedItem:
    """What a file is, offered by agents."""
    hashed = hash_file(str(path))
    return OrderedItem(
        sha256=hashed.sha256,
        size=hashed.size,
        type=type,
        name=name or path.name,
        chunks=base64.b64encode(hashed.chunks).decode(),
        offers=tuple(offer(source.url, hashed.sha256, source.name) for source in sources),
        **facts,
    )


def order(*items: OrderedItem, id: str | None = None, priority: Priority = Priority.NORMAL, **rest: Any) -> Order:
    return Order(id=id or f"order-{next(_NUMBERS)}", priority=priority, items=items, **rest)


def ask(agent: RunningAgent, path: str, method: str = "GET", body: bytes | None = None, **options: Any) -> urllib3.BaseHTTPResponse:
    headers = {"authorization": f"Bearer {agent.token}"} if agent.token else {}
    return urllib3.request(method, agent.url + path, body=body, headers=headers, retries=False, timeout=PATIENCE, **options)


def submit(agent: RunningAgent, given: Order) -> Progress:
    answer = ask(agent, "/v1/pulls", "POST", given.model_dump_json().encode())
    assert answer.status == 202, answer.data
    return Progress.model_validate_json(answer.data)


def standing(agent: RunningAgent, id: str, query: str = "") -> Progress:
    answer = ask(agent, f"/v1/pulls/{id}{query}")
    assert answer.status == 200, answer.data
    return Progress.model_validate_json(answer.data)


def follow(agent: RunningAgent, id: str, until: Callable[[Progress], bool] | None = None) -> Progress:
    """Wait for an order's end, or until something holds of it."""
    deadline = time.monotonic() + PATIENCE
    progress = standing(agent, id)
    while not (until or (lambda told: told.state in FINAL))(progress):
        assert time.monotonic() < deadline, progress
        progress = standing(agent, id, f"?wait=5&version={progress.version}")
    return progress


def pull(agent: RunningAgent, *items: OrderedItem, **facts: Any) -> Progress:
    """Order something, and wait for its end."""
    given = order(*items, **facts)
    submit(agent, given)
    return follow(agent, given.id)


def looked(agents: Iterable[RunningAgent]) -> None:
    """All of them know their own files now."""
    for each in agents:
        each.source().read(None, PATIENCE)


def served(agent: RunningAgent) -> int:
    """Bytes of objects that an agent has sent so far."""
    return int(metric(agent, "ringrift_node_served_bytes_total"))


def metric(agent: RunningAgent, name: str) -> float:
    """A metric's value; 0 if it was never set. `name` with its labels, as it is told."""
    for line in ask(agent, "/metrics").data.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
