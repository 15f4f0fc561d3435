"""Ids of events: UUIDs of version 7, whose text sorts by the time at which they were made. The standard library alone."""

from __future__ import annotations

import os
import re
import time

_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """A new id, e.g. `01932c07-209c-7b1e-9c5a-6f5d1c0e2a4b`."""
    text = f"{time.time_ns() // 1_000_000:012x}"
    dice = os.urandom(10).hex()
    return f"{text[:8]}-{text[8:]}-7{dice[:3]}-{_VARIANTS[dice[3]]}{dice[4:7]}-{dice[7:19]}"


def is_id(text: object) -> bool:
    """Whether it is a UUID in its plain form."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None
