"""Metadata of model files as plain JSON values that every encoder takes, whatever a file has.

Here: parsing JSON, and the bounds of depth, number and length. What the metadata mean is decided in `description`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 10_000
MAX_TEXT: Final = 4096
"""Characters of one text; longer ones are cut off."""
MAX_TOTAL_TEXT: Final = 4 << 20


def plain_metadata(metadata: dict[Any, Any]) -> dict[str, Any]:
    """The same values as JSON can write them: text without surrogates, integers of 64 bits, finite numbers.

    Other numbers become None; a value of another type becomes its type's name in parentheses. Raises CheckpointRefused (`too_deep`,
    `too_large`).
    """
    return _Plain().of(metadata, 1)


def parse_json(text: str, name: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> dict[str, Any]:
    """The JSON object that a part of a file has. Raises CheckpointRefused (`corrupt_header`, `too_deep`)."""
    try:
        value = json.loads(text, object_pairs_hook=hook)
    except RecursionError as error:
        raise CheckpointRefused("too_deep", f"{name}: values are nested too deep") from error
    except ValueError as error:
        raise CheckpointRefused("corrupt_header", f"{name}: no JSON: {str(error)[:100]}") from error
    if type(value) is not dict:
        raise CheckpointRefused("corrupt_header", f"{name}: no JSON object")
    return value


class _Plain:
    """One conversion. Values that the file shares are repeated, so their number and their text are bounded."""

    def __init__(self) -> None:
        self._values_left = MAX_VALUES
        self._text_left = MAX_TOTAL_TEXT

    def of(self, value: Any, depth: int) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            raise CheckpointRefused("too_large", f"metadata of more than {MAX_VALUES} values")
        if type(value) in (dict, list, tuple):
            if depth > MAX_DEPTH:
                raise CheckpointRefused("too_deep", f"metadata are nested more than {MAX_DEPTH} deep")
            if type(value) is dict:
                return {self._text(str(key)): self.of(entry, depth + 1) for key, entry in value.items()}
            return [self.of(entry, depth + 1) for entry in value]
        if type(value) is str:
            return self._text(value)
        if type(value) is int:
            return value if -(1 << 63) <= value < 1 << 63 else None
        if type(value) is float:
            return value if isfinite(value) else None
        return value if value is None or type(value) is bool else f"({type(value).__name__})"

    def _text(self, value: str) -> str:
        text = value[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
        self._text_left -= len(text)
        if self._text_left < 0:
            raise CheckpointRefused("too_large", f"metadata of more than {MAX_TOTAL_TEXT} characters")
        return text
