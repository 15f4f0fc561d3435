"""How fast bytes may flow: a token bucket for every link, shared by priority."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ringrift_dagster.transfer.model import Priority


class TokenBucket:
    def __init__(self, rate: float | None, burst: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        raise NotImplementedError

    def reserve(self, n: int) -> float:
        raise NotImplementedError


class Links:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        raise NotImplementedError

    def set(self, name: str, rate: float | None) -> None:
        raise NotImplementedError

    def take(self, names: Sequence[str], n: int, priority: Priority, cancelled: Callable[[], bool]) -> None:
        raise NotImplementedError

    def rate(self, names: Sequence[str]) -> float | None:
        """The lowest limit of these links in bytes a second; None if none has one."""
        raise NotImplementedError

    def rates(self) -> dict[str, tuple[float | None, float]]:
        """Of every link its limit and what flows now, in bytes a second."""
        raise NotImplementedError
