"""A process that leases and completes until nothing is left, or until it is killed: `python -m tests.transfer.lessees URL OWNER`.

It prints the id and the lease of everything that it completed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.operations import Brought

LEASE_SECONDS = 0.4


def main(url: str, owner: str) -> None:
    with Store.open(url) as store:
        print("ready", flush=True)
        while queue.pending(store, at=time.time()) or queue.listed(store, limit=1):
            for held in queue.lease(store, owner, "gpu-1", at=time.time(), limit=5, seconds=LEASE_SECONDS):
                with store.writing() as writer:
                    done = queue.complete(writer, held, Brought("http", "vast-1", 10, 0.1), at=time.time())
                if done:
                    print(held.id, held.leases, flush=True)


def start(url: str, owner: str) -> subprocess.Popen[str]:
    """Such a process; its stdout is a pipe."""
    command = [sys.executable, "-m", "tests.transfer.lessees", url, owner]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


if __name__ == "__main__":
    main(*sys.argv[1:])
