"""One page of an inventory, as agents send it and as trees give it: the wire form of the contract.

Only the shape belongs here. Who makes pages is `tree`, who collects them `node`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ringrift_dagster.manifest.inventory import (
    Count,
    Disk,
    FoundItem,
    GonePath,
    Inventory,
    Name,
    Seconds,
    SourceDatabase,
    UntrackedFile,
)

MAX_PAGE_BYTES = 64 << 20
MAX_ENTRIES = 5_000_000
Epoch = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Page(BaseModel):
    """A part of an answer. `full`: this page begins a telling of everything, whatever came before it.

    `cursor` is where the next page or the next question goes on; `more`, whether there is a next page now.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: Epoch
    cursor: Count
    full: bool
    more: bool = False
    now: Seconds
    node: Name | None = None
    disk: Disk | None = None
    pending: Count = 0
    found: list[FoundItem] = Field(default_factory=list)
    gone: list[GonePath] = Field(default_factory=list)
    untracked: list[UntrackedFile] = Field(default_factory=list)
    databases: list[SourceDatabase] = Field(default_factory=list)

    def __len__(self) -> int:
        return len(self.found) + len(self.gone) + len(self.untracked) + len(self.databases)


class Collected:
    """Pages put together: what a later page says of a path replaces what an earlier one said."""

    def __init__(self) -> None:
        self.full = False
        self.entries = 0
        self._found: dict[str, FoundItem] = {}
        self._gone: dict[str, GonePath] = {}
        self._untracked: dict[str, UntrackedFile] = {}
        self._databases: dict[str, SourceDatabase] = {}

    def add(self, page: Page) -> None:
        if page.full:
            self.__init__()
            self.full = True
        self.entries += len(page)
        for entry in (*page.gone, *page.found, *page.untracked, *page.databases):
            for table in (self._found, self._untracked, self._databases):
                table.pop(entry.path, None)
        self._gone.update((entry.path, entry) for entry in page.gone)
        self._found.update((entry.path, entry) for entry in page.found)
        self._untracked.update((entry.path, entry) for entry in page.untracked)
        self._databases.update((entry.path, entry) for entry in page.databases)
        for entry in page.found:
            self._gone.pop(entry.path, None)

    def inventory(self, location: str, last: Page, latency: float | None) -> Inventory:
        """The whole answer; `last` is the last page."""
        return Inventory(
            location=location,
            epoch=last.epoch,
            cursor=last.cursor,
            full=self.full,
            found=list(self._found.values()),
            gone=list(self._gone.values()),
            untracked=list(self._untracked.values()),
            databases=list(self._databases.values()),
            disk=last.disk,
            now=last.now,
            latency=latency,
            pending=last.pending,
        )
