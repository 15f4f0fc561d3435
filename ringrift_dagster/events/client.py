"""Telling an event to the agent on this host, for training and self-play scripts: the standard library alone, quick to import.

    from ringrift_dagster.events.client import emit
    emit("TRAINING_STARTED", {"config": "hex8_2p", "job_id": "42"})

What returns is durable on this host and will reach the coordinator; what does not return raises. Nothing is kept in memory, nothing
is tried again behind the caller's back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ringrift_dagster.events.ids import new_id

URL_VARIABLE = "RINGRIFT_AGENT_URL"
TOKEN_VARIABLE = "RINGRIFT_NODE_TOKEN"
DEFAULT_URL = "http://127.0.0.1:8766"
TIMEOUT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 4 << 20


class NotEmitted(Exception):
    """The agent did not take it. `code` is the agent's own word, a reason of a dead letter, `no_agent` or `no_answer`.

    After `no_answer` it may have been taken: with the same `ids`, trying again does no harm.
    """

    def __init__(self, code: str, detail: str, ids: Sequence[str]) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.ids = tuple(ids)


def emit(
    type: str,
    payload: Mapping[str, Any],
    *,
    url: str | None = None,
    token: str | None = None,
    id: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> str:
    """Tell one event; returns its id. `type` and `payload` may be RingRift's own. `timeout` in seconds.

    Without `url` and `token` those of the environment hold ($RINGRIFT_AGENT_URL, $RINGRIFT_NODE_TOKEN). Raises NotEmitted.
    """
    event = {"type": str(getattr(type, "value", type)), "payload": dict(payload), "id": id or new_id()}
    return emit_all([event], url=url, token=token, timeout=timeout)[0]


def emit_all(
    events: Sequence[Mapping[str, Any]], *, url: str | None = None, token: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> list[str]:
    """Tell events, each with `type`, `payload` and perhaps `id`; returns their ids. All are taken, or this raises NotEmitted.

    If some of them are no events, the others are taken nevertheless, and the error says what is wrong with the first.
    """
    told = [{**event, "id": event.get("id") or new_id()} for event in events]
    ids = [event["id"] for event in told]
    answer = _post(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL, token or os.environ.get(TOKEN_VARIABLE), told, ids, timeout)
    for wrong in answer.get("dead", ()):
        raise NotEmitted(str(wrong.get("reason")), str(wrong.get("detail")), ids)
    return ids


def _post(url: str, token: str | None, events: list[dict[str, Any]], ids: list[str], timeout: float) -> dict[str, Any]:
    import json
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        body = json.dumps(events, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise NotEmitted("not_json", str(error), ids) from None
    try:
        place = urlsplit(url)
        kind = {"http": HTTPConnection, "https": HTTPSConnection}[place.scheme]
        connection = kind(place.hostname or "", place.port, timeout=timeout)
    except (KeyError, ValueError, HTTPException):
        raise NotEmitted("no_agent", f"not an address: {url!r}", ids) from None
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    try:
        try:
            connection.connect()
        except OSError as error:
            raise NotEmitted("no_agent", f"no agent answers at {url}: {error}", ids) from None
        connection.request("POST", place.path.rstrip("/") + "/v1/events", body, headers)
        answer = connection.getresponse()
        text = answer.read(_MAX_ANSWER_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        raise NotEmitted("no_answer", f"the agent at {url} did not answer: {error or type(error).__name__}", ids) from None
    finally:
        connection.close()
    return _told(answer.status, text, url, ids)


def _told(status: int, text: bytes, url: str, ids: list[str]) -> dict[str, Any]:
    import json

    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise NotEmitted("no_agent", f"what answers at {url} is no agent (HTTP {status})", ids)
    if status != 202:
        raise NotEmitted(str(told.get("error", "error")), str(told.get("detail", f"HTTP {status}")), ids)
    return told
