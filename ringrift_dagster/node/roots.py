"""One directory tree that an agent tells of, and the thread that keeps its inventory fresh."""

from __future__ import annotations

import logging
import threading
import time
from typing import Literal

from ringrift_dagster.manifest.inventory import NoAnswer
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.node.metrics import Metrics

TREE = "tree"
"""The name of the root that is the host's own."""
HOME = "home"
"""The name, and the location, of the root that is this project's own home, on the host that has it."""
CHECK_SECONDS = 5.0
MIN_SCAN_SECONDS = 5.0
"""A pass may take as long as the interval, but no shorter; what is left then follows at once in the next."""

RootKind = Literal["tree", "drive", "shared", "home"]


class Root:
    """One directory tree that the agent tells of, and the thread that scans it. `location` is its name in the manifest.

    A shared one is scanned only once somebody asked for it: several agents see the same files, and one of them is enough.
    """

    def __init__(self, name: str, kind: RootKind, tree: TreeInventory, interval: float, metrics: Metrics) -> None:
        self.name = name
        self.kind = kind
        self.tree = tree
        self.scanning = False
        self.pending = 0
        self.failure: NoAnswer | None = None
        self._asked = kind != "shared"
        self._interval = interval
        self._metrics = metrics
        self._scanned: float | None = None
        self._wanted = False
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"scan {name}", daemon=True)
        self._look: _Look | None = None
        self._looking = threading.Lock()

    @property
    def location(self) -> str:
        return self.tree.location

    @property
    def asked(self) -> bool:
        """Whether it is scanned at all."""
        return self._asked

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further pass begins; one that runs is left to end with the process, which harms nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def age(self) -> float | None:
        """Seconds since the last pass began; None before the first has ended."""
        return None if self._scanned is None else time.monotonic() - self._scanned

    def check(self) -> NoAnswer | None:
        """Why it cannot be asked now, or None. A mount that hangs is found out once and then not touched again."""
        with self._looking:
            if self._look is None or not self._look.thread.is_alive():
                self._look = _Look(self.tree)
            look = self._look
        return look.outcome()

    def refresh(self, max_age: float | None, timeout: float) -> None:
        """Ask for it, and wait up to `timeout` seconds for a pass that began at most `max_age` seconds ago (None: any)."""
        oldest = self.ask(max_age)
        with self._changed:
            self._changed.wait_for(lambda: self.scanned_since(oldest), timeout)

    def ask(self, max_age: float | None) -> float:
        """Ask for a pass that began at most `max_age` seconds ago (None: any); returns what `scanned_since` is to be asked."""
        oldest = float("-inf") if max_age is None else time.monotonic() - max_age
        with self._changed:
            self._wanted = self._wanted or not (self._asked and self.scanned_since(oldest))
            self._asked = True
            self._changed.notify_all()
        return oldest

    def scanned_since(self, oldest: float) -> bool:
        """Whether a pass has ended that began then or later. Without a lock."""
        return self._scanned is not None and self._scanned >= oldest

    def _run(self) -> None:
        while self._wait():
            self._scan()

    def _wait(self) -> bool:
        """Returns when the next pass is due; False when there is none."""
        with self._changed:
            due = 0.0 if self._scanned is None or (self.pending and self.failure is None) else self._interval - (self.age() or 0.0)
            self._changed.wait_for(lambda: self._stopped or self._wanted, max(0.0, due) if self._asked else None)
            self._wanted = False
            return not self._stopped

    def _scan(self) -> None:
        began = time.monotonic()
        self.scanning = True
        failure: NoAnswer | None = None
        try:
            report = self.tree.scan(max(self._interval, MIN_SCAN_SECONDS))
            self.pending = report.pending
            self._metrics.scanned(self.name, report)
        except NoAnswer as refusal:
            failure = refusal
        except Exception as error:
            logging.getLogger(__name__).exception("scan of %s", self.name)
            failure = NoAnswer(self.location, "disk_error", f"{type(error).__name__}: {error}")
        with self._changed:
            self.failure, self._scanned, self.scanning = failure, began, False
            self._changed.notify_all()


class _Look:
    """One look whether a tree is there, in a thread that hangs if the mount does."""

    def __init__(self, tree: TreeInventory) -> None:
        self._tree = tree
        self._until = time.monotonic() + CHECK_SECONDS
        self._refusal: NoAnswer | None = None
        self.thread = threading.Thread(target=self._run, name=f"check {tree.location}", daemon=True)
        self.thread.start()

    def outcome(self) -> NoAnswer | None:
        """What came of it, as soon as that is known, or that it takes too long."""
        self.thread.join(max(0.0, self._until - time.monotonic()))
        if self.thread.is_alive():
            return NoAnswer(self._tree.location, "timeout", f"{self._tree.root} does not answer")
        return self._refusal

    def _run(self) -> None:
        try:
            self._tree.check()
        except NoAnswer as refusal:
            self._refusal = refusal
