"""A PostgreSQL of the tests' own: made in a temporary directory, on a free port of this machine, ended with the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ringrift_dagster.cli.services import free_port

ACCOUNT = "postgres"
"""PostgreSQL refuses to run as root: then it runs as the account that its package made."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a running server, without a database name at its end."""
    with TemporaryDirectory(prefix="ringrift-postgres-", ignore_cleanup_errors=True) as name, _running(Path(name)) as url:
        yield url


@contextmanager
def _running(directory: Path) -> Iterator[str]:
    data, port = directory / "data", free_port()
    account = ACCOUNT if os.geteuid() == 0 else None
    if account:
        os.chown(directory, pwd.getpwnam(account).pw_uid, -1)

    def run(program: str, *arguments: str) -> None:
        command = [_program(program), *arguments]
        subprocess.run(command, user=account, cwd=directory, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    run("initdb", "-D", str(data), "-U", "tests", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
    options = f"-p {port} -h 127.0.0.1 -k {directory} -c fsync=off -c shared_buffers=128MB -c max_connections=60"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(directory / "log"), "-o", options, "start")
    try:
        yield f"postgresql://tests@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")


def _program(name: str) -> str:
    """Debian keeps the server's programs off the PATH."""
    found = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    program = found[-1] if found else shutil.which(name)
    assert program, f"{name} is missing: scripts/system-packages postgresql"
    return program
