"""Ranges over HTTP from agents: connections kept alive, big reads, short patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.transports.protocol import Probe


class BundleReader:
    """The bytes of one item of a bundle."""

    def readinto(self, buffer: memoryview) -> int:
        raise NotImplementedError

    def read(self) -> bytes:
        """All that is left of the item."""
        raise NotImplementedError


class HttpTransport:
    name: ClassVar[TransportName] = TransportName.HTTP

    def __init__(self, token: str | None = None) -> None:
        raise NotImplementedError

    def probe(self, offer: Offer, timeout: float) -> Probe:
        raise NotImplementedError

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        raise NotImplementedError

    def fetch_bundle(self, base_url: str, sha256s: Sequence[str]) -> Iterator[tuple[str, int | None, BundleReader]]:
        """`base_url`: `http://host:port`. The size is None for what is not there."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
