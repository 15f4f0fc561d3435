"""`ringrift-data export npz`: a training set straight from databases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ringrift_dagster.cli.output import Exit, as_json, complain, print_json, print_table, progress
from ringrift_dagster.datasets.npz_export import ExportError, export_databases
from ringrift_dagster.games.config import CONFIG_KEYS

VALUE_TARGETS = ("canonical", "ringrift")


@click.group()
def export() -> None:
    """Write training sets."""


@export.command()
@click.option("--config", required=True, type=click.Choice(CONFIG_KEYS), metavar="CONFIG", help="e.g. hex8_2p")
@click.option("--db", "databases", required=True, multiple=True, type=click.Path(path_type=Path), help="May be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The NPZ; its manifest lies beside it.")
@click.option(
    "--value-targets",
    type=click.Choice(VALUE_TARGETS),
    default=VALUE_TARGETS[0],
    show_default=True,
    help="Who ranks where at the end: as the rules say, or as RingRift's exporter says.",
)
@as_json
def npz(config: str, databases: tuple[Path, ...], out: Path, value_targets: str, json_output: bool) -> int:
    """Judge the games of the databases and encode the canonical ones of CONFIG into one NPZ.

    Nothing is published under --out unless all of it is there and valid.
    """
    try:
        with progress("games") as step:
            result = export_databases(config, databases, out, value_targets=value_targets, progress=step)
    except ExportError as error:
        if json_output:
            print_json({"error": error.code, "detail": str(error)})
        complain(str(error))
        return Exit.USAGE if error.code == "unreadable" else Exit.BAD_NEWS
    if json_output:
        print_json(asdict(result))
        return Exit.GOOD
    print_table(
        str(result.path),
        ["config", "games", "samples", "bytes", "value targets", "newest game", "sha256", "seconds"],
        [
            [
                result.config,
                result.games,
                result.samples,
                result.bytes,
                result.value_targets,
                result.newest_game,
                result.sha256[:16],
                f"{result.seconds:.2f}",
            ]
        ],
    )
    print_table("Left out", ["reason", "games"], result.rejected.items())
    return Exit.GOOD
