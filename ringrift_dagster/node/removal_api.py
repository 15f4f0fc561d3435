"""The endpoints of safe removal: proving that an item is held now, removing one. Whether one may go, the coordinator decides."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringrift_dagster.manifest.inventory import Name, NoAnswer, Sha256
from ringrift_dagster.manifest.sources.tree_removal import NotRemoved
from ringrift_dagster.node.agent import TREE, Agent
from ringrift_dagster.node.http import Refused, json_answer, parse, read_body, root_of
from ringrift_dagster.transfer.model import OperationId

LOCK_SECONDS = 60.0
"""That a scan which runs is waited for."""
AT_ONCE = 8
"""Of each kind. Those beyond wait, and not in the threads that answer others."""
REMEMBERED = 1000
"""Removals whose answers are kept: the same one again is not done again."""


class ProofOrder(BaseModel):
    """The body of a request for a proof: of any root, or of the one that is named."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256
    root: Name | None = None


class DropOrder(BaseModel):
    """The body of a request to remove an item from a root."""

    model_config = ConfigDict(extra="forbid")

    id: OperationId
    sha256: Sha256
    root: Name = TREE


class Removals:
    """What an agent proves and removes. Removals happen one at a time."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._lock = Lock()
        self._answers: OrderedDict[str, tuple[DropOrder, dict[str, Any]]] = OrderedDict()

    def prove(self, order: ProofOrder) -> dict[str, Any]:
        """Hash the item's file again, now. Raises Refused, and NoAnswer where a root cannot be read and no other one holds it."""
        roots = [root_of(self._agent, order.root)] if order.root else list(self._agent.roots.values())
        silent: NoAnswer | None = None
        for root in roots:
            try:
                at = root.tree.prove(order.sha256, LOCK_SECONDS)
            except NoAnswer as error:
                silent = error
                continue
            if at is not None:
                return {"held": True, "verified_at": at}
        if silent is not None:
            raise silent
        return {"held": False, "verified_at": None}

    def drop(self, order: DropOrder) -> dict[str, Any]:
        """Remove the item from the root, once. Raises Refused where it may not go, and NoAnswer."""
        root = root_of(self._agent, order.root)
        with self._lock:
            if order.id in self._answers:
                before, answer = self._answers[order.id]
                if before != order:
                    raise Refused(409, "conflict", "this id is known with another body")
                return answer
            try:
                paths = root.tree.remove(order.sha256, LOCK_SECONDS)
            except NotRemoved as error:
                raise Refused(409, error.code, error.detail) from None
            answer = {"dropped": bool(paths), "paths": paths}
            self._answers[order.id] = order, answer
            if len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
            return answer


def routes(agent: Agent) -> list[Route]:
    """The endpoints."""
    removals, proving, dropping = Removals(agent), CapacityLimiter(AT_ONCE), CapacityLimiter(AT_ONCE)

    async def proofs(request: Request) -> Response:
        order = parse(ProofOrder, await read_body(request))
        return json_answer(await to_thread.run_sync(removals.prove, order, limiter=proving))

    async def drops(request: Request) -> Response:
        order = parse(DropOrder, await read_body(request))
        return json_answer(await to_thread.run_sync(removals.drop, order, limiter=dropping))

    return [Route("/v1/proofs", proofs, methods=["POST"]), Route("/v1/drops", drops, methods=["POST"])]
