"""Lines of a command's output, put together from the pieces in which it comes, and what they say of the training's progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

MAX_LINE_BYTES: Final = 16 << 10
"""Of a longer line the beginning is kept."""
MAX_MESSAGE_BYTES: Final = 1 << 20
"""The same for lines that are Pipes messages."""
MAX_METRICS: Final = 40
MAX_NAME: Final = 100
MAX_TEXT: Final = 500


class Lines:
    """Puts lines together, of at most `max_bytes`. A carriage return ends a line too, as progress bars have it."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._part = b""
        self._beheaded = False

    def feed(self, data: bytes, *, skipped: int = 0) -> Iterator[str]:
        """The lines that are whole now. After `skipped` bytes that were left out the line that they cut is dropped."""
        if skipped:
            self._part, self._beheaded = b"", True
            yield f"[{skipped} bytes of output are left out]"
        *whole, part = data.replace(b"\r", b"\n").split(b"\n")
        for piece in whole:
            if not self._beheaded:
                yield from self._line(self._part + piece)
            self._part, self._beheaded = b"", False
        self._part = (self._part + part)[: self._max_bytes]

    def rest(self) -> Iterator[str]:
        """The line that was not ended."""
        if not self._beheaded:
            yield from self._line(self._part)
        self._part = b""

    def _line(self, line: bytes) -> Iterator[str]:
        text = line[: self._max_bytes].decode(errors="replace")
        if text.strip():
            yield text


def progress(line: str) -> dict[str, Any] | None:
    """The metrics of a line that is a JSON object with an `epoch`; None for any other line.

    Plain values are kept: finite numbers, booleans and short texts.
    """
    if not line.lstrip().startswith("{"):
        return None
    try:
        said = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("epoch"), int | float):
        return None
    plain = {
        name: value
        for name, value in said.items()
        if len(name) <= MAX_NAME and ((isinstance(value, str) and len(value) <= MAX_TEXT) or _is_plain_number(value))
    }
    return dict(list(plain.items())[:MAX_METRICS])


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 1 << 53)
