"""`ringrift-data registry`: RingRift's own evidence for each database beside our verdict, and the state of every config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ringrift_dagster.canonical.evidence import gather
from ringrift_dagster.canonical.gate import DatabaseVerdict, verify
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.cli.output import Exit, as_json, print_json, print_table, progress
from ringrift_dagster.datasets.overview import ConfigState, overview
from ringrift_dagster.games.snapshots import discover
from ringrift_dagster.home import Home


@click.command()
@click.argument("databases", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--registry",
    "directories",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where TRAINING_DATA_REGISTRY.md and the gate summaries are; may be repeated. Default: the home's registry/.",
)
@as_json
def registry(databases: tuple[Path, ...], directories: tuple[Path, ...], json_output: bool) -> int:
    """Show what RingRift claims about DATABASES (default: all of the home) beside what the gate found.

    Claims are bound to file names and prove nothing; verdicts are bound to content. Exits with 1 if RingRift
    approves of a database that is not canonical.
    """
    home = Home.from_env()
    paths = databases or tuple(discover(home.selfplay))
    with VerdictStore(home.verdicts) as store, progress("games") as step:
        verdicts = [verify([path], store=store, progress=step)[0] for path in paths]
    evidence = [gather(path, registry_dirs=directories or (home.registry,)) for path in paths]
    states = list(overview(home))
    if json_output:
        print_json(
            {
                "databases": [{**verdict.to_dict(), "evidence": found} for verdict, found in zip(verdicts, evidence, strict=True)],
                "configs": [asdict(state) for state in states],
            }
        )
    else:
        print_table(
            "Databases",
            ["database", "verdict", "canonical", "games", "RingRift's registry", "its gate summary", "its parity marks"],
            (_row(verdict, found) for verdict, found in zip(verdicts, evidence, strict=True)),
        )
        print_configs(states)
    disagree = any(verdict.verdict != "canonical" and _approved(found) for verdict, found in zip(verdicts, evidence, strict=True))
    return Exit.BAD_NEWS if disagree else Exit.GOOD


def print_configs(states: list[ConfigState]) -> None:
    """One row a config that has anything."""
    print_table(
        "Configs",
        ["config", "judged", "accepted", "rejected", "samples", "bytes", "sha256", "newest game"],
        (
            [
                state.config,
                state.judged,
                state.canonical,
                ", ".join(f"{count} {reason}" for reason, count in state.rejected.items()),
                state.training_set and state.training_set.samples,
                state.training_set and state.training_set.bytes,
                state.training_set and state.training_set.sha256[:12],
                (state.newest_game or "")[:19],
            ]
            for state in states
            if state.databases or state.judged
        ),
    )


def _row(verdict: DatabaseVerdict, evidence: Mapping[str, Any]) -> list[object]:
    row, summary, marks = (evidence[kind] or {} for kind in ("registry", "gate_summary", "parity_status"))
    return [
        Path(verdict.path).name,
        verdict.verdict,
        verdict.games["canonical"],
        verdict.games["total"],
        row.get("status"),
        summary and ("accepted" if summary["accepted"] else "not accepted"),
        ", ".join(f"{count} {mark}" for mark, count in marks.items()),
    ]


def _approved(evidence: Mapping[str, Any]) -> bool:
    return any((evidence[kind] or {}).get("accepted") for kind in ("registry", "gate_summary"))
