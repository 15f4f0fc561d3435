"""Items from agents: ranges of one, and many small ones in one answer. Whether the bytes are right is decided above."""

from __future__ import annotations

import io
import json
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.transports.http_client import READ_BYTES, Answer, Cancelled, Client, Stream, never
from ringrift_dagster.transfer.transports.protocol import Probe, TransportFailure

MAX_BUNDLE_ITEMS = 500
NOT_HERE = 2**64 - 1
"""The size in a bundle of what the agent does not have."""
_HEAD = struct.Struct(">32sQ")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")
_ETAG = re.compile(r'"([0-9a-f]{64})"')


class HttpTransport:
    """Ranges of `http://host:port/v1/objects/<sha256>`. The token is shown to whoever such an offer names: to agents only."""

    name: ClassVar[TransportName] = TransportName.HTTP

    def __init__(self, token: str | None = None) -> None:
        self._client = Client()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Ask for the first byte; `timeout` in seconds."""
        return probe_range(self._client, offer, self._headers, timeout)

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        """Bring a range, see RangeTransport. What `write` raises passes through."""
        fetch_range(self._client, offer, self._headers, start, length, write, cancelled)

    def fetch_bundle(
        self, base_url: str, sha256s: Sequence[str], *, largest: int = CHUNK_SIZE, cancelled: Cancelled = never
    ) -> Iterator[tuple[str, int | None, BundleReader]]:
        """Many small items from the agent at `base_url`, each with its size and its bytes; the size is None for what is not there.

        In the order in which they come, each once. What is not read of one is skipped when the next is asked for. Raises
        TransportFailure, also for an item of more than `largest` bytes.
        """
        if not 0 < len(sha256s) <= MAX_BUNDLE_ITEMS:
            raise ValueError(f"a bundle has 1 to {MAX_BUNDLE_ITEMS} items")
        headers = {**self._headers, "Content-Type": "application/json"}
        body = json.dumps({"sha256": list(sha256s)}).encode()
        with self._client.asking(f"{base_url.rstrip('/')}/v1/bundles", headers, body=body, cancelled=cancelled) as answer:
            if answer.status != 200:
                raise answer.refusal()
            yield from _bundled(answer, set(sha256s), largest, cancelled)

    def close(self) -> None:
        """Close the connections that rest."""
        self._client.close()


class BundleReader:
    """The bytes of one item of a bundle."""

    def __init__(self, stream: io.BufferedIOBase, left: int) -> None:
        self._stream = stream
        self._left = left

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, as far as the item goes; returns the bytes read, 0 at the end. Raises TransportFailure."""
        wanted = min(len(buffer), self._left)
        _fill(self._stream, buffer[:wanted])
        self._left -= wanted
        return wanted

    def read(self) -> memoryview:
        """All that is left of the item. Raises TransportFailure."""
        buffer = memoryview(bytearray(self._left))
        self.readinto(buffer)
        return buffer


def probe_range(client: Client, offer: Offer, headers: dict[str, str], timeout: float) -> Probe:
    """Whether the first byte of a URL can be had within `timeout` seconds. An empty item has none, which is an answer too."""
    began = time.monotonic()
    try:
        with client.asking(offer.address, {**headers, "Range": "bytes=0-0"}, timeout=timeout) as answer:
            if answer.status not in (200, 206, 416):
                raise answer.refusal()
    except TransportFailure as failure:
        return Probe(failure=failure.code, detail=failure.detail)
    return Probe(latency=time.monotonic() - began)


def fetch_range(
    client: Client,
    offer: Offer,
    headers: dict[str, str],
    start: int,
    length: int,
    write: Callable[[memoryview], None],
    cancelled: Cancelled,
) -> None:
    """Bring a range of a URL. Raises TransportFailure, and what `write` raises."""
    if length == 0:
        return
    asked = {**headers, "Range": f"bytes={start}-{start + length - 1}"}
    with client.asking(offer.address, asked, cancelled=cancelled) as answer:
        _check(offer, answer, start, length)
        answer.read_into(length, write, cancelled)


def _check(offer: Offer, answer: Answer, start: int, length: int) -> None:
    """Whether the answer is the range that was asked for."""
    if answer.status not in (200, 206):
        raise answer.refusal()
    etag, name = _ETAG.fullmatch(answer.header("etag") or ""), offer.address.rpartition("/")[2]
    if etag and len(name) == len(etag[1]) and etag[1] != name:
        raise TransportFailure("changed", "another item comes")
    if answer.length is None or answer.header("content-encoding") not in (None, "identity"):
        raise TransportFailure("failed", "an answer without a length, or encoded")
    told = answer.header("content-range")  # some servers send it with 200
    if answer.status == 200 and told is None:
        if start > 0:
            raise TransportFailure("failed", "it does not serve ranges")
        if answer.length < length:
            raise TransportFailure("changed", f"{answer.length} bytes instead of {length}")
        return
    range = _CONTENT_RANGE.fullmatch(told or "")
    if range is None or (int(range[1]), int(range[2])) != (start, start + length - 1) or answer.length != length:
        raise TransportFailure("changed", "another range comes than was asked for")


def _bundled(
    answer: Answer, wanted: set[str], largest: int, cancelled: Cancelled
) -> Iterator[tuple[str, int | None, BundleReader]]:
    raw = Stream(answer)
    stream = io.BufferedReader(raw, READ_BYTES)
    head = memoryview(bytearray(_HEAD.size))
    while wanted:
        if cancelled():
            raise TransportFailure("cancelled")
        raw.restart()
        _fill(stream, head)
        digest, size = _HEAD.unpack(head)
        sha256 = digest.hex()
        if sha256 not in wanted:
            raise TransportFailure("failed", "an item comes that was not asked for")
        wanted.remove(sha256)
        if size != NOT_HERE and size > largest:
            raise TransportFailure("changed", f"an item of {size} bytes comes in a bundle")
        reader = BundleReader(stream, 0 if size == NOT_HERE else size)
        yield sha256, None if size == NOT_HERE else size, reader
        reader.read()
    if not stream.read(1):
        answer.kept = answer.response.isclosed() and not answer.response.will_close


def _fill(stream: io.BufferedIOBase, buffer: memoryview) -> None:
    if stream.readinto(buffer) != len(buffer):
        raise TransportFailure("short", "the bundle ends early")
