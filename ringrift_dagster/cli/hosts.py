"""`ringrift-data hosts`: what the hosts file says, as the data plane understands it. Contacts nobody."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ringrift_dagster.cli.output import Exit, as_json, complain, print_json, print_table
from ringrift_dagster.cluster.hosts import Cluster, Drive, Host, HostsFileError, load_hosts
from ringrift_dagster.home import Home

HOSTS_FILE = "RINGRIFT_HOSTS_FILE"


def default_hosts_file() -> Path:
    """The file that the environment names, else the one in the home."""
    named = os.environ.get(HOSTS_FILE)
    return Path(named).expanduser() if named else Home.from_env().root / "distributed_hosts.yaml"


@click.command()
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="Hosts file.  [default: $RINGRIFT_HOSTS_FILE, else distributed_hosts.yaml in $RINGRIFT_DATA_HOME]",
)
@as_json
def hosts(path: Path | None, json_output: bool) -> int:
    """Hosts, drives, bucket and limits of a hosts file, and what is doubtful in it.

    Exits with 2 if the file cannot be used; every reason is a line FILE:LINE: FIELD: REASON.
    """
    path = path or default_hosts_file()
    try:
        cluster = load_hosts(path)
    except HostsFileError as error:
        if json_output:
            print_json({"path": path, "readable": False, "problems": error.problems})
        for problem in error.problems:
            complain(problem)
        return Exit.USAGE
    if json_output:
        print_json(_as_dict(path, cluster))
    else:
        _print(path, cluster)
    return Exit.GOOD


def _as_dict(path: Path, cluster: Cluster) -> dict[str, Any]:
    return {
        "path": path,
        "readable": True,
        "coordinator": cluster.coordinator,
        "hosts": [_host(host, cluster) for host in cluster.hosts.values()],
        "drives": [drive.model_dump() for drive in cluster.drives],
        "s3": cluster.s3.model_dump() if cluster.s3 else None,
        "shared": [shared.model_dump() for shared in cluster.shared],
        "thresholds": cluster.thresholds.model_dump(),
        "freshness": cluster.freshness.model_dump(),
        "promotion": cluster.promotion.model_dump(),
        "locations": [asdict(place) for place in cluster.locations()],
        "priority_hosts": cluster.priority_hosts,
        "underserved_configs": cluster.underserved_configs,
        "warnings": cluster.warnings,
    }


def _host(host: Host, cluster: Cluster) -> dict[str, Any]:
    return {
        "name": host.name,
        "provider": host.provider,
        "rack": host.rack,
        "role": host.role,
        "status": host.status,
        "active": host.active,
        "excluded": host.name in cluster.excluded_hosts,
        "ephemeral": host.ephemeral,
        "agent_url": host.agent_url,
        "bandwidth_mb_s": host.bandwidth_mb_s,
        "root": host.root,
    }


def _print(path: Path, cluster: Cluster) -> None:
    print_table(
        str(path),
        ["host", "provider", "rack", "role", "status", "agent", "MB/s", "notes"],
        (
            [
                host.name,
                host.provider,
                host.rack,
                host.role,
                host.status,
                host.agent_url,
                f"{host.bandwidth_mb_s:g}",
                _notes(host, cluster),
            ]
            for host in cluster.hosts.values()
        ),
    )
    print_table(
        "Drives",
        ["drive", "host", "path", "receives"],
        ([drive.name, drive.host, drive.path, _receives(drive)] for drive in cluster.drives),
    )
    print_table(
        "Shared file systems",
        ["name", "path", "hosts"],
        ([shared.name, shared.path, ", ".join(shared.hosts)] for shared in cluster.shared),
    )
    if s3 := cluster.s3:
        row = [s3.bucket, s3.region, s3.prefix, "yes" if s3.enabled else "no", ", ".join(s3.push_enabled_hosts)]
        print_table("S3", ["bucket", "region", "prefix", "enabled", "written by"], [row])
    print_table("Thresholds", ["limit", "value"], ([name, f"{value:g}"] for name, value in cluster.thresholds))
    print_table("Age of the newest game", ["limit", "hours"], ([name, f"{value:g}"] for name, value in cluster.freshness))
    print_table("Promotion of models", ["limit", "value"], ([name, str(value)] for name, value in cluster.promotion))
    print_table("Warnings", ["file, line, field"], ([warning] for warning in cluster.warnings))


def _notes(host: Host, cluster: Cluster) -> str:
    notes = {
        "coordinator": host.name == cluster.coordinator,
        "not active": not host.active,
        "no root": host.root is None,
        "excluded": host.name in cluster.excluded_hosts,
        "priority": host.name in cluster.priority_hosts,
        "ephemeral": host.ephemeral,
        "behind NAT": host.nat_blocked,
    }
    return ", ".join(note for note, holds in notes.items() if holds)


def _receives(drive: Drive) -> str:
    kinds = {"games": drive.receive_games, "npz": drive.receive_npz, "models": drive.receive_models}
    return ", ".join(kind for kind, holds in kinds.items() if holds) or "nothing"
