"""`ringrift-data health`: one screen that says whether all is well."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from ringrift_dagster.cli.output import as_json, print_json, print_table
from ringrift_dagster.cli.plane import opened, outcome, with_hosts_file


@click.command()
@with_hosts_file
@as_json
def health(hosts_file: Path | None, json_output: bool) -> int:
    """Whether all is well: locations, brakes, orphans, queue, breakers, backpressure, freshness, overrides; what to do where not.

    Asks the manifest and this machine only, no host. Exits with 1 if anything is bad, or is not known.
    """
    from ringrift_dagster.transfer.health import Verdict
    from ringrift_dagster.transfer.health import health as judged

    with opened(hosts_file) as plane:
        lines = judged(plane.store, plane.cluster, plane.home, at=time.time())
    wrong = [line for line in lines if line.verdict != Verdict.GOOD]
    if json_output:
        print_json({"healthy": not wrong, "lines": [asdict(line) for line in lines]})
        return outcome(wrong)
    print_table(
        "All is well" if not wrong else f"{len(wrong)} of {len(lines)} are not well",
        ["", "", "found", "what to do"],
        ([line.verdict.upper() if line in wrong else line.verdict, line.what, line.told, line.action] for line in lines),
    )
    return outcome(wrong)
