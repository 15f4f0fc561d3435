"""Delivering what the coordinator tells: to hosts through their agents, to webhooks in Slack's form. One pass at a time.

What fails is tried again later by `outgoing`'s rules; a host that does not answer holds back nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import orjson

from ringrift_dagster.events import outgoing
from ringrift_dagster.events.outgoing import Line
from ringrift_dagster.events.posting import Poster, PostFailed
from ringrift_dagster.events.webhooks import MAX_LINES, Webhook, message
from ringrift_dagster.manifest.store import Store

AT_ONCE = 16
"""Targets that are told at the same time."""
PATH = "/v1/deliveries"


@dataclass(frozen=True)
class Addresses:
    """Where targets are reached: hosts by their agents' URLs, with the token that agents ask for, and webhooks."""

    agents: Mapping[str, str]
    token: str | None = None
    webhooks: Mapping[str, Webhook] | None = None


def deliver(store: Store, addresses: Addresses, poster: Poster, *, clock: Callable[[], float] = time.time) -> int:
    """Tell every target what is due, once; returns how many events were delivered."""
    webhooks = addresses.webhooks or {}
    outgoing.consider(store, {name: webhook.events for name, webhook in webhooks.items()}, at=clock())
    lines = [_shortened(line) for line in outgoing.due(store, at=clock())]
    if not lines:
        return 0
    with ThreadPoolExecutor(min(AT_ONCE, len(lines)), thread_name_prefix="deliver") as pool:
        causes = pool.map(lambda line: _told(line, addresses, poster), lines)
        count = 0
        for line, cause in zip(lines, causes, strict=True):
            if cause is None:
                outgoing.delivered(store, line, at=clock())
                count += len(line.events)
            else:
                outgoing.failed(store, line, cause, at=clock())
    return count


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
            poster.post(webhook.url, message(line.events))
        else:
            url = addresses.agents.get(name)
            if url is None:
                return "the hosts file has no address for it"
            body = orjson.dumps({"host": name, "events": [pending.body for pending in line.events]})
            poster.post(f"{url.rstrip('/')}{PATH}", body, token=addresses.token)
    except PostFailed as failure:
        return failure.code if kind == "webhook" else str(failure)
    return None
