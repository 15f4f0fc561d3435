"""A Dagster home that is safe to use: configured, initialised by one process alone, and held by one set of daemons.

Two processes that open a fresh home at once leave its database with two schema heads, for good; two daemons
on one home start runs twice. Both are prevented by one lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import click
import dagster as dg

SETTINGS = Path(__file__).resolve().parents[2] / "dagster.yaml"


@contextmanager
def held(directory: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of a home, initialised, and locked while the block runs.

    Sets $DAGSTER_HOME for this process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(f"Dagster already runs on {directory}; stop it, or choose another --home") from None
        if not (directory / "dagster.yaml").exists():
            shutil.copyfile(SETTINGS, directory / "dagster.yaml")
        os.environ["DAGSTER_HOME"] = str(directory)
        with dg.DagsterInstance.get() as instance:
            instance.get_runs(limit=1)
            instance.all_instigator_state()
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it reports each table
                instance.upgrade()
            yield instance
