"""`ringrift-data node serve|mark`: the agent on a host, and the names of drives."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import click

from ringrift_dagster.cli.output import Exit, Unreadable

_LOCATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")


def _places(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """NAME=PATH options as a mapping."""
    places: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not path or not _LOCATION.fullmatch(name) or name == "tree":
            raise click.BadParameter(f"{value!r} is not NAME=PATH", ctx, parameter)
        if name in places:
            raise click.BadParameter(f"{name} is given twice", ctx, parameter)
        places[name] = Path(path).absolute()
    return places


@click.group()
def node() -> None:
    """The agent that runs on every host."""


@node.command()
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), required=True, help="The host's RingRift tree.")
@click.option("--name", default=socket.gethostname, help="The host's name in the hosts file.  [default: the hostname]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8766, show_default=True, help="0 takes a free one.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Seconds between two looks at the files."
)
@click.option(
    "--snapshot-interval",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    help="Seconds between two snapshots of one database, at least.",
)
@click.option(
    "--scrub-rest",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Hours in which a file that was verified is not scrubbed again.",
)
@click.option("--drive", "drives", multiple=True, callback=_places, metavar="NAME=PATH", help="A drive that hangs on this host.")
@click.option("--shared", multiple=True, callback=_places, metavar="NAME=PATH", help="A file system that other hosts see too.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the agent keeps what it remembers and its snapshots.  [default: ROOT/.ringrift-node]",
)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="This project's own home, if it is on this host: its datasets are served as location `home`.",
)
@click.option(
    "--coordinator",
    metavar="URL",
    help="The agent that runs with the coordinator's home: events are pushed there.  [default: they wait, or go to --home]",
)
@click.option("--uplink", type=click.FloatRange(min=0.01), metavar="MB/S", help="What is sent at most.  [default: no limit]")
@click.option(
    "--keep-free",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    metavar="GIB",
    help="What stays free on every disk that is written to.",
)
@click.option(
    "--bittorrent",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Share large items with hosts that fetch them too, from this port; 0 takes a free one.  [default: not]",
)
def serve(
    root: Path,
    name: str,
    host: str,
    port: int,
    interval: float,
    snapshot_interval: float,
    scrub_rest: float,
    drives: dict[str, Path],
    shared: dict[str, Path],
    state: Path | None,
    home: Path | None,
    coordinator: str | None,
    uplink: float | None,
    keep_free: float,
    bittorrent: int | None,
) -> int:
    """Tell what this host holds, serve it by hash, and pull what is ordered, until stopped.

    Prints `listening URL` once it answers. Whoever asks needs the token in $RINGRIFT_NODE_TOKEN, if it is set; on an address that
    others reach there has to be one. It is also what other agents are shown when something is pulled from them. Where
    $RINGRIFT_MODEL_VERIFYING_KEY names a key, promoted models get their names only by a manifest that was signed with it.
    """
    from ringrift_dagster.models.publishing.reasons import PublishingRefused
    from ringrift_dagster.models.publishing.signature import VERIFYING_KEY, configured_verifier
    from ringrift_dagster.node.agent import AgentConfig
    from ringrift_dagster.node.serve import Unprotected, token_from_env
    from ringrift_dagster.node.serve import serve as run
    from ringrift_dagster.transfer.transports.protocol import TransportFailure

    if not _LOCATION.fullmatch(name):
        raise click.UsageError(f"not a host's name: {name!r}")
    if both := drives.keys() & shared.keys():
        raise click.UsageError(f"{sorted(both)[0]} is both a drive and shared")
    if home is not None and "home" in drives.keys() | shared.keys():
        raise click.UsageError("home is the name of the project's own home")
    if coordinator is not None and not re.match(r"https?://[^/]", coordinator):
        raise click.UsageError(f"not an agent's URL: {coordinator!r}")
    try:
        verify = configured_verifier()
    except PublishingRefused as error:
        raise Unreadable(f"{VERIFYING_KEY}: {error}") from None
    config = AgentConfig(
        name=name,
        root=root.absolute(),
        interval=interval,
        snapshot_interval=snapshot_interval,
        scrub_rest=scrub_rest * 3600,
        drives=drives,
        shared=shared,
        state=state.absolute() if state else None,
        token=token_from_env(),
        home=home.absolute() if home else None,
        coordinator=coordinator,
        verify=verify,
        uplink=uplink * 1e6 if uplink else None,
        min_free_bytes=int(keep_free * 2**30),
        bittorrent=None if bittorrent is None else (host, bittorrent),
    )
    try:
        run(config, host, port)
    except (Unprotected, TransportFailure) as error:
        raise Unreadable(str(error)) from None
    except OSError as error:
        raise Unreadable(f"{host}:{port}: {error.strerror or error}") from None
    return Exit.GOOD


@node.command()
@click.argument("path", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("name")
def mark(path: Path, name: str) -> int:
    """Say that the drive or shared file system at PATH is NAME.

    Without this file an empty mount point would look like a drive that lost everything.
    """
    from ringrift_dagster.manifest.sources.tree import mark_location

    try:
        sentinel = mark_location(path, name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from None
    click.echo(str(sentinel))
    return Exit.GOOD
