"""An agent's part in publishing models: what was promoted and has arrived gets the names that RingRift's processes look for.

Which names, and how they are replaced, is in `models.publishing.tree_names`. A thread looks whether the host's model manifest has
changed or a model that it names has arrived; where neither is so, and all names are right, nothing is read.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.manifest.inventory import NoAnswer
from ringrift_dagster.manifest.sources.tree import ContentChanged, TreeInventory
from ringrift_dagster.models.manifest import PATH, SIGNATURE_PATH, Current, read
from ringrift_dagster.models.publishing.published_set import Verifier
from ringrift_dagster.models.publishing.reasons import Finding, PublishingRefused
from ringrift_dagster.models.publishing.tree_names import link_names
from ringrift_dagster.node.metrics import Metrics

LOOK_SECONDS: Final = 5.0
"""Between two looks whether there is something to do."""
CHECK_SECONDS: Final = 3600.0
"""All names are checked so often although nothing has changed."""
RETRY_SECONDS: Final = 60.0
"""Names that are wrong for another reason than that their model has not arrived are tried again so often; models are read then."""

log = logging.getLogger(__name__)


class ModelNames:
    """Keeps the names of promoted models in a RingRift tree. Use as a context manager to have it go on."""

    def __init__(self, tree: TreeInventory, verify: Verifier | None = None, metrics: Metrics | None = None) -> None:
        self._tree = tree
        self._verify = verify
        self._metrics = metrics or Metrics()
        self._findings: tuple[Finding, ...] = ()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="names of models", daemon=True)
        self._tried: object = None
        self._next_try = 0.0

    def __enter__(self) -> ModelNames:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(5.0)

    def look(self) -> bool:
        """Link names if something has changed, or it is time to check or to retry; returns whether it was tried.

        Raises PublishingRefused, NoAnswer and OSError; then the next call tries again.
        """
        state = self._state()
        if state is None or (state == self._tried and time.monotonic() < self._next_try):
            return False
        self._tried = None
        result = link_names(self._tree.root, self._content, verify=self._verify)
        self._findings = result.findings
        self._metrics.model_names(finding.code for finding in result.findings)
        wrong = [finding for finding in result.findings if finding.code != "no_content"]
        for finding in result.findings:
            log.log(logging.WARNING if finding in wrong else logging.INFO, "%s", finding)
        for name in result.kept:
            log.warning("a file that was not published here is kept as %s", name)
        self._tried, self._next_try = state, time.monotonic() + (RETRY_SECONDS if wrong else CHECK_SECONDS)
        return True

    def health(self) -> dict[str, Any]:
        """Whether signatures are checked, and what was wrong when names were last tried."""
        return {"signatures": self._verify is not None, "findings": [str(finding) for finding in self._findings]}

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                self.look()
            except (PublishingRefused, NoAnswer, OSError) as error:
                log.warning("models do not get their names: %s", error)

    def _state(self) -> object:
        """What decides whether there is something to do: the manifest, and which of its models are here; None without one."""
        try:
            stat = (self._tree.root / PATH).stat()
        except OSError:
            return None
        signed = None
        with suppress(OSError):
            signature = (self._tree.root / SIGNATURE_PATH).stat()
            signed = signature.st_ino, signature.st_mtime_ns
        wanted = {current.sha256 for current in read(self._tree.root).models.values()}
        return stat.st_ino, stat.st_mtime_ns, signed, frozenset(self._tree.known(wanted))

    def _content(self, config: str, current: Current) -> Path | None:
        """The file with a model's bytes, None if it has not arrived. Raises OSError if that cannot be told now."""
        try:
            opened = self._tree.open(current.sha256)
        except ContentChanged as error:
            raise OSError(errno.EAGAIN, f"the file of {config}'s model has changed since it was hashed") from error
        except NoAnswer as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        if opened is None:
            return None
        os.close(opened.descriptor)
        return self._tree.root / opened.path
