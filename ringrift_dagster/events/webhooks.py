"""Who else is told: webhooks that take Slack's form, from the environment and the hosts file. How they are reached is `delivery`'s
business."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.events.outgoing import Pending

URL_VARIABLE = "RINGRIFT_WEBHOOK_URL"
EVENTS_VARIABLE = "RINGRIFT_WEBHOOK_EVENTS"
"""Names or patterns of events, with spaces or commas between them."""
BAD_NEWS = (
    "TRAINING_FAILED", "TRAINING_BLOCKED_BY_DATA", "DATA_STALE", "SELFPLAY_NEEDED", "HOST_OFFLINE", "BACKPRESSURE_ACTIVATED",
    "DATA_TRANSFER_FAILED", "ORPHAN_DETECTED",
)  # fmt: skip
"""What a webhook is told that does not say what it wants."""
MAX_LINES = 20
"""Events in one message."""
_TOLD = ("reason", "cause", "detail", "count", "sha256", "source", "next_action")


@dataclass(frozen=True)
class Webhook:
    """Where messages go. `events` are patterns of event types; the address is a secret."""

    name: str
    url: str = field(repr=False)
    events: tuple[str, ...]


def configured(cluster: Cluster, environment: Mapping[str, str] = os.environ) -> dict[str, Webhook]:
    """The webhooks of the hosts file and of the environment, by name. One whose address is not there is left out."""
    found = {}
    for declared in cluster.webhooks:
        url = declared.url or environment.get(declared.url_variable or "")
        if url:
            found[declared.name] = Webhook(declared.name, url, declared.events or BAD_NEWS)
    if url := environment.get(URL_VARIABLE):
        named = tuple(environment.get(EVENTS_VARIABLE, "").replace(",", " ").split())
        found["environment"] = Webhook("environment", url, named or BAD_NEWS)
    return found


def message(events: Sequence[Pending]) -> bytes:
    """Events as a message in Slack's form, a line each."""
    lines = [_line(pending.body) for pending in events[:MAX_LINES]]
    return orjson.dumps({"text": "\n".join(lines)})


def _line(event: Mapping[str, Any]) -> str:
    payload: Mapping[str, Any] = event["payload"]
    about = " ".join(str(payload[name]) for name in ("config", "host") if payload.get(name))
    said = ", ".join(f"{name} {_short(payload[name])}" for name in _TOLD if payload.get(name) is not None)
    at = datetime.fromtimestamp(event["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    return _plain(f"{event['type']} {about}{': ' if said else ''}{said} ({at} UTC)")


def _short(value: Any) -> str:
    return str(value)[:200]


def _plain(text: str) -> str:
    """What Slack would take for a link or a name is just text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
