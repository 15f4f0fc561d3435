"""The endpoints of events: telling this host, reading what it was told, and the inbox on the coordinator's own host."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringrift_dagster.events.adapters import NotUnderstood, adapt, bounded, parse, raw_text
from ringrift_dagster.events.delivered import Delivery
from ringrift_dagster.events.inbox import OutOfOrder
from ringrift_dagster.events.model import Event
from ringrift_dagster.events.outbox import DeadLetter, OutboxFull
from ringrift_dagster.manifest.store import StoreError
from ringrift_dagster.node.agent import Agent
from ringrift_dagster.node.host_events import HostEvents
from ringrift_dagster.node.http import MAX_WAIT_SECONDS, MAX_WAITING, Refused, json_answer, news, number, read_body, room_to_wait
from ringrift_dagster.node.http import parse as parse_body

MAX_EVENTS = 10_000
"""Of one request."""
MAX_BYTES = 16 << 20
MAX_READ = 1000


def routes(agent: Agent) -> list[Route]:
    """The endpoints."""
    face = _Events(agent.events)
    return [
        Route("/v1/events", face.tell, methods=["POST"]),
        Route("/v1/events", face.read, methods=["GET"]),
        Route("/v1/inbox", face.receive, methods=["POST"]),
        Route("/v1/deliveries", face.take, methods=["POST"]),
    ]


class _Events:
    def __init__(self, events: HostEvents) -> None:
        self.events = events
        self._waiting = asyncio.Semaphore(MAX_WAITING)
        self._deliveries = 0

    async def tell(self, request: Request) -> Response:
        """One event or many, RingRift's own or ours; answered when they are on disk."""
        body = await read_body(request, MAX_BYTES)
        return json_answer(await run_in_threadpool(self._take_in, body), 202)

    async def read(self, request: Request) -> Response:
        """What the coordinator told this host. With `wait`, not before there is something, or that many seconds passed."""
        query = request.query_params
        after = int(number(query.get("after"), "after", 0, 1 << 53, 0))
        limit = int(number(query.get("limit"), "limit", 1, MAX_READ, MAX_READ))
        wait = number(query.get("wait"), "wait", 0, MAX_WAIT_SECONDS, 0)
        until = time.monotonic() + wait
        seen, answer = self._deliveries, await run_in_threadpool(self._after, after, limit)
        if not answer["events"] and wait > 0:
            async with room_to_wait(self._waiting):
                while not answer["events"] and await news(request, self._count, seen, until):
                    seen, answer = self._deliveries, await run_in_threadpool(self._after, after, limit)
        return json_answer(answer)

    async def receive(self, request: Request) -> Response:
        """A batch of another host's outbox; answered when it is on disk."""
        body = await read_body(request, MAX_BYTES)
        return json_answer(await run_in_threadpool(self._receive, body))

    async def take(self, request: Request) -> Response:
        """What the coordinator tells this host; answered when it is on disk."""
        delivery = parse_body(Delivery, await read_body(request, MAX_BYTES))
        if delivery.host != self.events.name:
            raise Refused(409, "wrong_node", f"this is {self.events.name}, not {delivery.host}")
        taken = await run_in_threadpool(self._keep, delivery)
        self._deliveries += 1
        return json_answer({"taken": taken})

    def _count(self) -> int:
        return self._deliveries

    def _after(self, number: int, limit: int) -> dict[str, Any]:
        told, last = self.events.delivered.after(number, limit=limit)
        return {"events": told, "last": last}

    def _take_in(self, body: bytes) -> dict[str, Any]:
        at = time.time()
        entries = _entries(body, self.events.name, at)
        try:
            places = self.events.outbox.append(entries)
        except OutboxFull as error:
            raise Refused(507, "outbox_full", str(error)) from None
        except OSError as error:
            raise Refused(503, "not_durable", str(error)) from None
        return self._answer(entries, places)

    def _answer(self, entries: list[Event | DeadLetter], places: list[int | None]) -> dict[str, Any]:
        dead, counted = [], self.events.counted
        for index, (entry, place) in enumerate(zip(entries, places, strict=True)):
            if isinstance(entry, DeadLetter):
                counted.dead.labels(entry.reason).inc()
                dead.append({"index": index, "id": entry.id, "reason": entry.reason, "detail": entry.detail})
            elif place is not None:
                counted.accepted.labels(entry.type.value).inc()
        known = sum(place is None for place in places)
        return {"accepted": len(entries) - len(dead) - known, "known": known, "dead": dead, "ids": [entry.id for entry in entries]}

    def _receive(self, body: bytes) -> dict[str, Any]:
        if self.events.inbox is None:
            raise Refused(404, "no_inbox", "this agent does not run with the coordinator's home")
        try:
            return asdict(self.events.inbox.receive(body))
        except OutOfOrder as error:
            raise Refused(409, "out_of_order", str(error)) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Refused(400, "bad_request", f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from None
        except ValueError as error:
            raise Refused(400, "bad_request", str(error)) from None
        except (StoreError, SQLAlchemyError) as error:
            raise Refused(503, "inbox_unavailable", type(error).__name__) from None

    def _keep(self, delivery: Delivery) -> int:
        try:
            self.events.note_models(delivery)
            return self.events.delivered.take(delivery, at=time.time())
        except ValueError as error:
            raise Refused(400, "bad_request", str(error)) from None
        except OSError as error:
            raise Refused(503, "not_durable", str(error)) from None


def _entries(body: bytes, host: str, at: float) -> list[Event | DeadLetter]:
    """Each thing that was told, as an event or as a dead letter. Raises Refused (413) when they are too many."""
    try:
        told = parse(body)
    except NotUnderstood as refusal:
        return [DeadLetter.of(refusal, bounded(body), at=at)]
    if isinstance(told, dict) and isinstance(told.get("events"), list):
        told = told["events"]
    raws = told if isinstance(told, list) else [told]
    if len(raws) > MAX_EVENTS:
        raise Refused(413, "too_large", f"a request has at most {MAX_EVENTS} events")
    return [_entry(raw, host, at) for raw in raws]


def _entry(raw: Any, host: str, at: float) -> Event | DeadLetter:
    try:
        return adapt(raw, host=host, at=at)
    except NotUnderstood as refusal:
        return DeadLetter.of(refusal, raw_text(raw), at=at)
