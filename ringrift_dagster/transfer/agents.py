"""Talking to hosts' agents about pulls: orders, progress, proofs, removals, uploads. One client an agent; threads may share it.

Whatever the other side sends, this bounds it: time, bytes, shape. What is done about silence is the callers' business.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
import urllib3
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from urllib3.util import Timeout, parse_url

from ringrift_dagster.manifest.inventory import Name, RelativePath, Seconds
from ringrift_dagster.transfer.model import Order, Progress, Text, TransportName

T = TypeVar("T", bound=BaseModel)
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""For an answer that has nothing to wait for."""
HASHING_SECONDS = 600.0
"""For an answer that needs an item to be read whole."""
MAX_ANSWER_BYTES = 16 << 20
CONNECTIONS = 16
_READ_BYTES = 1 << 18


class AgentSilent(Exception):
    """No usable answer: nobody there, no time left, a failure, or something that is no agent. What was asked may have happened."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = " ".join(detail.split())[:300]


class AgentRefused(Exception):
    """The agent does not do it; `status` is HTTP's, `code` the agent's own word."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = " ".join(detail.split())[:300]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BitTorrent(_Answer):
    """Where an agent takes part in swarms."""

    port: int = Field(ge=1, le=65535)


class Health(_Answer):
    """What an agent says of itself. `transports` are those it can pull by; empty if it says nothing."""

    node: Name
    transports: tuple[TransportName, ...] = ()
    bittorrent: BitTorrent | None = None


class Proof(_Answer):
    """Whether an agent holds an item now, its bytes hashed again; `verified_at` in seconds since 1970."""

    held: bool
    verified_at: Seconds | None = None


class Dropped(_Answer):
    """What an agent removed."""

    dropped: bool
    paths: tuple[RelativePath, ...] = ()


class PartSent(_Answer):
    """A range of an item that an agent put to an address."""

    etag: Text = ""


class AgentClient:
    """The agent at `url`, which has to call itself `name`."""

    def __init__(self, url: str, token: str | None, name: str) -> None: ...

    def health(self, *, timeout: float = ANSWER_SECONDS) -> Health:
        """How it is. Raises AgentSilent, also when another host answers there."""
        raise NotImplementedError

    def post(self, order: Order) -> Progress:
        """Give it an order; the same again changes nothing. Raises AgentSilent and AgentRefused."""
        raise NotImplementedError

    def get(self, id: str, *, wait: float = 0.0, version: int | None = None) -> Progress | None:
        """How far an order is, None if it knows none; waits up to `wait` seconds for another version than the given one."""
        raise NotImplementedError

    def cancel(self, id: str) -> Progress | None:
        """End an order; None if it knows none."""
        raise NotImplementedError

    def prove(self, sha256: str, *, timeout: float = HASHING_SECONDS) -> Proof:
        """Have it hash an item again, now."""
        raise NotImplementedError

    def drop(self, id: str, sha256: str, root: str) -> Dropped:
        """Have it remove an item from a root; the same id again changes nothing."""
        raise NotImplementedError

    def upload(self, sha256: str, url: str, start: int, length: int, headers: dict[str, str], *, timeout: float) -> PartSent:
        """Have it put a range of an item to a presigned address."""
        raise NotImplementedError

    def close(self) -> None:
        """Close its connections."""
