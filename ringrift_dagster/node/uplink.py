"""How fast this host sends: one limit for all objects together, however many ask."""

from __future__ import annotations

import asyncio
import time

from ringrift_dagster.transfer.bandwidth import TokenBucket

WHOLE_PIECE = 1 << 20
"""Bytes sent at once where there is no limit: a web server's own 64 KiB make serving three times as slow."""
SMALLEST_PIECE = 8 << 10
PIECES_A_SECOND = 32
"""So many receivers at least hear something every second, however low the limit."""
LOOK_SECONDS = 0.2


class Uplink:
    """`rate` bytes a second; None: no limit. `piece`: as many bytes are sent at once."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self.piece = WHOLE_PIECE if rate is None else max(SMALLEST_PIECE, min(WHOLE_PIECE, int(rate / PIECES_A_SECOND)))
        self._bucket = TokenBucket(rate)

    async def take(self, n: int) -> None:
        """Returns when `n` bytes may be sent."""
        if (seconds := self._bucket.reserve(n)) > 0:
            await asyncio.sleep(seconds)

    def take_in_thread(self, n: int) -> None:
        """The same, blocking."""
        until = time.monotonic() + self._bucket.reserve(n)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
