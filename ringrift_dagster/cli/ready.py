"""`ringrift-data ready`: whether a training job could begin on a host now, and if not, why not and what is being done about it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from ringrift_dagster.cli.output import Exit, as_json, print_json, print_table
from ringrift_dagster.cli.plane import ago, opened, span, when, with_hosts_file
from ringrift_dagster.games.config import CONFIG_KEYS


@click.command()
@click.option("--config", type=click.Choice(CONFIG_KEYS), metavar="CONFIG", required=True)
@click.option("--host", required=True, help="As the hosts file names it.")
@with_hosts_file
@as_json
def ready(config: str, host: str, hosts_file: Path | None, json_output: bool) -> int:
    """What a training job of CONFIG would get on a host, what is missing, what is being done. Exits with 1 if it is not ready."""
    from ringrift_dagster.transfer.readiness import readiness

    with opened(hosts_file) as plane:
        try:
            found = readiness(plane, config, host, at=time.time())
        except KeyError:
            raise click.UsageError(f"the hosts file names no host {host!r}") from None
    if json_output:
        print_json(asdict(found) | {"ready": found.ready})
        return Exit.GOOD if found.ready else Exit.BAD_NEWS
    click.echo(f"{config} on {host}: {'ready' if found.ready else 'NOT READY'}")
    for line in found.missing:
        click.echo(f"  missing   {line}")
    if found.item is not None:
        click.echo(f"  would get {found.item.sha256[:16]}, {found.item.samples or 0:,} samples, {found.item.size:,} bytes")
        click.echo(f"  newest    {when(found.verdict.newest_game)} ({span(found.verdict.age)} old)")
    if found.verdict.override is not None:
        granted = found.verdict.override
        click.echo(f"  override  by {granted.who} until {when(granted.until)}: {granted.why}")
    if found.path is not None:
        click.echo(f"  at        {found.path}")
    print_table(
        "Being done",
        ["operation", "what", "is", "since", "detail"],
        ([each.operation, each.what, each.state, ago(each.since), each.detail] for each in found.doing),
        empty="" if found.ready else "  nothing is being done: `ringrift-data events emit DATA_NEEDED` asks for it",
    )
    return Exit.GOOD if found.ready else Exit.BAD_NEWS
