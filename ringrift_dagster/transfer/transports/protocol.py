"""What a transport has to be able to do. Verification, resume and bandwidth live above; a transport only brings bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName

FAILURE_CODES = (
    "refused",  # nobody listens
    "timeout",  # nothing came for too long
    "unreachable",  # no route, no such name
    "unauthorized",
    "not_found",  # it does not have the item any more
    "changed",  # it has another content now
    "short",  # the stream ended early
    "server_error",
    "not_installed",  # the program or library is not there
    "cancelled",
    "failed",  # anything else, said in the detail
)


class TransportFailure(Exception):
    """A transport could not bring what it was asked for. `code` is one of FAILURE_CODES."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = " ".join(detail.split())[:300]


@dataclass(frozen=True)
class Probe:
    """Whether an offer can be used now; `latency` in seconds, `failure` a code of FAILURE_CODES."""

    latency: float | None = None
    failure: str | None = None
    detail: str = ""


class RangeTransport(Protocol):
    """Brings any range of an item: http, s3."""

    name: ClassVar[TransportName]

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Whether the offer answers."""
        ...

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        """Give the bytes [start, start + length) to `write`, in order, in pieces of any size.

        Calls `cancelled` at least once a second or every MiB, and stops with the code `cancelled` when it says so. Nothing is given
        that was not asked for. Raises TransportFailure; what was given before counts.
        """
        ...


class WholeTransport(Protocol):
    """Brings a whole item into a file of its own choosing of order: rsync, aria2, bittorrent."""

    name: ClassVar[TransportName]

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Whether the offer answers, and the program is there."""
        ...

    def fetch_whole(
        self,
        item: OrderedItem,
        offers: Sequence[Offer],
        into: Path,
        *,
        bytes_a_second: float | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        """Bring the item into the file `into`, which may hold what an earlier, broken call brought, and then goes on from there.

        `progress` is told bytes so far of what is moved, and returns when they had their turn, which is no time in which nothing
        came. When this raises TransportFailure, or its process is killed, whatever part of `into` is
        right is still used: the caller verifies it chunk by chunk. Kills what it started before it returns.
        """
        ...
