"""The same running agents for many tests, each with empty trees and a manifest of its own: starting agents takes long."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.manifest.sources.tree import STATE
from tests.transfer.field import Field


@contextmanager
def fresh(running: Field, home: Path) -> Iterator[Field]:
    """The field under another manifest, below `home`; afterwards its hosts hold nothing."""
    with open_plane(Home(home), hosts_file=running.root / "hosts.yaml") as plane:
        yield replace(running, plane=plane)
    for host in running.agents:
        for path in (running.root / host).iterdir():
            if path.name != STATE:
                shutil.rmtree(path)
