"""The command line of an ssh client that asks nobody anything: one key, one file of host keys, nothing of the user's settings.

How a host is logged in to is in `host.Ssh`. Nothing is contacted here.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

ALIVE_SECONDS = 5
"""A connection on which nothing came for twice as long is given up."""


def ssh_words(
    program: str, *, port: int, key: Path, known_hosts: Path | None, remembered_hosts: Path, connect_seconds: float
) -> list[str]:
    """The words of an ssh command, up to and without the host.

    `known_hosts` has the host's key. Without it the first key that a host shows is remembered in `remembered_hosts`, whose
    directory is made. Either way a host with another key than before is refused.
    """
    known, checking = remembered_hosts, "accept-new"
    if known_hosts is not None:
        known, checking = known_hosts, "yes"
    else:
        known.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": _quoted(os.fspath(key)),
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": checking,
        "UserKnownHostsFile": _quoted(os.fspath(known)),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(math.ceil(connect_seconds)),
        "ServerAliveInterval": str(ALIVE_SECONDS),
        "ServerAliveCountMax": "2",
        "ControlPath": "none",
        "LogLevel": "ERROR",
    }
    words = [program, "-F", "none", "-a", "-x", "-T", "-p", str(port)]
    return words + [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _quoted(path: str) -> str:
    """A path in a setting of ssh, which may be many."""
    escaped = path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
