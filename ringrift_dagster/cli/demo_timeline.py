"""The timeline that the demo prints: every step with its time, and which steps failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import click

POLL_SECONDS: Final = 0.3
STEP_SECONDS: Final = 180.0
"""Limit for a step that Dagster does by itself."""


class StepFailed(Exception):
    """A step that cannot happen any more; the message is one line that says why."""


@dataclass
class Timeline:
    """Steps that happened or failed, each printed at once with the seconds since the beginning."""

    began: float = field(default_factory=time.monotonic)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def happened(self, what: str, detail: str = "") -> None:
        click.echo(f"{time.monotonic() - self.began:7.1f} s  {what:<26} {detail}")

    def failed(self, what: str, why: str) -> None:
        self.problems.append((what, why))
        self.happened(f"{what}: FAILED", why)

    def wait(self, what: str, look: Callable[[], str | None], seconds: float = STEP_SECONDS) -> bool:
        """Wait until `look` returns what happened; whether it did. `look` raises StepFailed if that cannot happen any more."""
        deadline = time.monotonic() + seconds
        try:
            while (detail := look()) is None:
                if time.monotonic() > deadline:
                    raise StepFailed(f"not within {seconds:.0f} s")
                time.sleep(POLL_SECONDS)
        except StepFailed as error:
            self.failed(what, str(error))
            return False
        self.happened(what, detail)
        return True
