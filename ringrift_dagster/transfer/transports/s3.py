"""Ranges from a bucket by presigned URL: whoever fetches holds no keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.transports.protocol import Probe


class S3Transport:
    name: ClassVar[TransportName] = TransportName.S3

    def probe(self, offer: Offer, timeout: float) -> Probe:
        raise NotImplementedError

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        raise NotImplementedError
