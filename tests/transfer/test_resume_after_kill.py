"""Killed at any byte: what was in the part is in it, and nothing of it is fetched again, from wherever the rest comes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.fetch import fetch
from ringrift_dagster.transfer.model import TransportName
from ringrift_dagster.transfer.transports.http import HttpTransport
from tests.transfer.faulty_servers import Faults, faulty
from tests.transfer.fetching import Consent, content, offer

ITEM = content(5 * CHUNK_SIZE + 4321, 13)
CONNECTIONS = 2
_PROGRAM = """
import sys
from pathlib import Path
from ringrift_dagster.transfer.fetch import fetch
from ringrift_dagster.transfer.model import TransportName
from ringrift_dagster.transfer.transports.http import HttpTransport
from tests.transfer.fetching import Consent, content, offer
url, folder, table, size, seed, connections = sys.argv[1:]
item = content(int(size), int(seed))
with item.part(Path(folder), table=table == "True") as part:
    transports = {TransportName.HTTP: HttpTransport()}
    fetch(part, item.item([offer(url, "host")]), transports, Consent(), connections=int(connections))
"""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("table", [True, False])
def test_killed_at_any_byte_it_goes_on(tmp_path: Path, seed: int, table: bool) -> None:
    chance = random.Random(f"{seed} {table}")
    with faulty({ITEM.sha256: ITEM.data}, 2) as [first, second]:
        first.faults = Faults(rate=60e6)
        until = chance.randrange(ITEM.size)
        command = [sys.executable, "-c", _PROGRAM, first.url(ITEM.sha256), str(tmp_path), str(table)]
        command += [str(ITEM.size), "13", str(CONNECTIONS)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as killed:
            while first.sent < until and killed.poll() is None:
                time.sleep(0.001)
            killed.kill()
        marked = sum(len(ITEM.chunk(index)) for index in marks(tmp_path))
        with ITEM.part(tmp_path, table=table) as part:
            there = part.bytes_done
            transports = {TransportName.HTTP: HttpTransport()}
            fetched = fetch(part, ITEM.item([offer(second.url(ITEM.sha256), "other")]), transports, Consent())
            assert part.path.read_bytes() == ITEM.data
        assert fetched.bytes == ITEM.size - there == second.sent
        assert there >= marked if table else there == marked


def marks(folder: Path) -> list[int]:
    """The chunks that the killed process had finished."""
    return [index for path in folder.glob(".*.map") for index, mark in enumerate(path.read_bytes()) if mark]
