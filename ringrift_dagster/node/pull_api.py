"""The endpoints of moving data: pulls, bundles of small objects, uploads."""

from __future__ import annotations

from starlette.routing import Route

from ringrift_dagster.node.agent import Agent


def routes(agent: Agent) -> list[Route]:
    """The endpoints."""
    return []
