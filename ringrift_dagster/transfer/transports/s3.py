"""Items from a bucket by presigned URL: whoever fetches needs no keys, and shows none. Uploads are the coordinator's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.transports.http import fetch_range, probe_range
from ringrift_dagster.transfer.transports.http_client import Client
from ringrift_dagster.transfer.transports.protocol import Probe


class S3Transport:
    """Ranges of presigned URLs. No agent's token ever goes there."""

    name: ClassVar[TransportName] = TransportName.S3

    def __init__(self) -> None:
        self._client = Client()

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Ask for the first byte, as the URL is signed for GET only; `timeout` in seconds."""
        return probe_range(self._client, offer, {}, timeout)

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        """Bring a range, see RangeTransport. What `write` raises passes through."""
        fetch_range(self._client, offer, {}, start, length, write, cancelled)

    def close(self) -> None:
        """Close the connections that rest."""
        self._client.close()
