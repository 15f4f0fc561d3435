"""Real ssh servers on loopback: each with a host key, an authorized key and a port of its own, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ringrift_dagster.transfer.model import Offer, TransportName

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
_PRIVILEGE_FOLDER = Path("/run/sshd")
_ATTEMPTS = 5


@dataclass
class SshServer:
    """A running server. `key` opens it; `log` is what it says, in detail; `folder` is where all of it lies."""

    port: int
    folder: Path
    key: Path
    log: Path
    process: subprocess.Popen[bytes]

    def offer(self, path: Path, location: str = "gpu-1", **options: str) -> Offer:
        """A file of this machine, offered by rsync through the server."""
        options = {"port": str(self.port), "key": str(self.key), **options}
        address = f"{getpass.getuser()}@127.0.0.1:{path}"
        return Offer(transport=TransportName.RSYNC, location=location, address=address, options=options)

    def said(self, words: str) -> int:
        """How often the server said something, by now."""
        return self.log.read_text(errors="replace").count(words)


def make_key(path: Path) -> Path:
    """A new private key, and beside it the public one; returns the private one's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


@contextmanager
def ssh_server(folder: Path, *settings: str, port: int = 0) -> Iterator[SshServer]:
    """A server that lives in `folder`, with further lines of `sshd_config`; ended with the block. Port 0 takes a free one."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        _PRIVILEGE_FOLDER.mkdir(mode=0o755, exist_ok=True)
    host_key = make_key(folder / "host_key")
    key = make_key(folder / "key")
    (folder / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
    log = folder / "sshd.log"
    for _ in range(_ATTEMPTS):
        chosen = port or _free_port()
        config = folder / "sshd_config"
        config.write_text("\n".join([*_settings(folder, host_key, chosen), *settings, ""]))
        with log.open("wb") as output:
            command = [SSHD, "-D", "-e", "-f", str(config)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            if not _listens(process, log):
                continue
            yield SshServer(chosen, folder, key, log, process)
            return
        finally:
            process.kill()
            process.wait()
    raise RuntimeError(f"sshd does not listen: {log.read_text(errors='replace')}")


def _settings(folder: Path, host_key: Path, port: int) -> list[str]:
    return [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f'HostKey "{host_key}"',
        f'AuthorizedKeysFile "{folder / "authorized_keys"}"',
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "LogLevel VERBOSE",
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _listens(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether it does; False when it ended instead, as it does when its port is taken."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            if "Server listening on" in log.read_text(errors="replace"):
                return True
        time.sleep(0.01)
    return False
