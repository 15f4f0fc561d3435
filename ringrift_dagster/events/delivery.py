"""Delivering what the coordinator tells: to hosts through their agents, to webhooks in Slack's form.

What fails is tried again later by `outgoing`'s rules; a host that does not answer holds back nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import orjson

from ringrift_dagster.events import outgoing
from ringrift_dagster.events.outgoing import Line
from ringrift_dagster.events.posting import Poster, PostFailed
from ringrift_dagster.events.webhooks import MAX_LINES, Webhook, message
from ringrift_dagster.manifest.store import Store

AT_ONCE = 16
"""Targets that are told at the same time."""
ANSWER_SECONDS = 5.0
PATH = "/v1/deliveries"


@dataclass(frozen=True)
class Addresses:
    """Where targets are reached: hosts by their agents' URLs, with the token that agents ask for, and webhooks."""

    agents: Mapping[str, str]
    token: str | None = None
    webhooks: Mapping[str, Webhook] | None = None


class Deliverer:
    """Tells targets what is due, each in its own time: one that is slow keeps nobody waiting. Use as a context manager."""

    def __init__(self, store: Store, poster: Poster, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._poster = poster
        self._clock = clock
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="deliver")
        self._under_way: dict[str, Future[bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def step(self, addresses: Addresses) -> list[Future[bool]]:
        """Begin to tell every target that is not being told already; each gives whether it was.

        Raises what kept an earlier step from recording what it did.
        """
        webhooks = addresses.webhooks or {}
        outgoing.consider(self._store, {name: webhook.events for name, webhook in webhooks.items()}, at=self._clock())
        ended = [target for target, future in self._under_way.items() if future.done()]
        for future in [self._under_way.pop(target) for target in ended]:
            future.result()
        lines = [line for line in outgoing.due(self._store, at=self._clock()) if line.target not in self._under_way]
        begun = {line.target: self._pool.submit(self._tell, _shortened(line), addresses) for line in lines}
        self._under_way |= begun
        return list(begun.values())

    def _tell(self, line: Line, addresses: Addresses) -> bool:
        cause = _told(line, addresses, self._poster)
        if cause is None:
            outgoing.delivered(self._store, line, at=self._clock())
        else:
            outgoing.failed(self._store, line, cause, at=self._clock())
        return cause is None


def _shortened(line: Line) -> Line:
    """A message to people has few lines."""
    return replace(line, events=line.events[:MAX_LINES]) if line.target.startswith("webhook ") else line


def _told(line: Line, addresses: Addresses, poster: Poster) -> str | None:
    """Tell a target; why it could not be told, if so."""
    kind, _, name = line.target.partition(" ")
    try:
        if kind == "webhook":
            webhook = (addresses.webhooks or {}).get(name)
            if webhook is None:
                return "not configured"
            poster.post(webhook.url, message(line.events), timeout=ANSWER_SECONDS)
        else:
            url = addresses.agents.get(name)
            if url is None:
                return "the hosts file has no address for it"
            body = orjson.dumps({"host": name, "events": [pending.body for pending in line.events]})
            poster.post(f"{url.rstrip('/')}{PATH}", body, token=addresses.token, timeout=ANSWER_SECONDS)
    except PostFailed as failure:
        return failure.code if kind == "webhook" else str(failure)
    return None
