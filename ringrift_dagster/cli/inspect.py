"""`ringrift-data inspect db|npz|model`: what a file holds, and whether it is sound.

Does not judge games (`verify` does).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ringrift_dagster.cli.output import BadNews, Exit, Unreadable, as_json, print_json, print_table
from ringrift_dagster.datasets.npz_validator import inspect_npz
from ringrift_dagster.games.database import DatabaseUnreadable, describe

FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def inspect() -> None:
    """Look into a database, a training set or a model file."""


@inspect.command()
@FILE
@as_json
def db(file: Path, json_output: bool) -> int:
    """What a game database holds: games by config, schema, newest game.

    Exits with 1 if it has no finished game.
    """
    try:
        summary = describe(file)
    except DatabaseUnreadable as error:
        if json_output:
            print_json({"path": file, "readable": False, "detail": error.detail})
        raise Unreadable(f"{file}: {error.detail}") from error
    if json_output:
        print_json({"readable": True, **asdict(summary)})
    else:
        print_table(
            str(file),
            ["schema", "games", "finished", "moves", "bytes", "newest game"],
            [
                [
                    summary.schema_version,
                    summary.games,
                    summary.finished,
                    summary.moves,
                    summary.size,
                    summary.newest_game,
                ]
            ],
        )
        print_table("Finished games", ["config", "games"], summary.configs.items())
        print_table("Engine modes", ["mode", "games"], summary.engine_modes.items())
    return Exit.GOOD if summary.finished else Exit.BAD_NEWS


@inspect.command()
@FILE
@click.option(
    "--manifest/--no-manifest",
    default=True,
    show_default=True,
    help="Compare it with the manifest beside it.",
)
@as_json
def npz(file: Path, manifest: bool, json_output: bool) -> int:
    """Whether RingRift can train on an NPZ, and why not. Nothing in it is unpickled."""
    report = inspect_npz(file, manifest=manifest)
    if json_output:
        print_json(report.to_dict())
    else:
        print_table(
            str(file),
            ["valid", "config", "samples", "bytes", "sha256"],
            [
                [
                    "yes" if report.valid else "no",
                    report.config,
                    report.samples,
                    report.bytes,
                    (report.sha256 or "")[:16],
                ]
            ],
        )
        print_table("Errors", ["code", "detail"], ([found.code, found.detail] for found in report.errors))
        print_table("Warnings", ["code", "detail"], ([found.code, found.detail] for found in report.warnings))
        print_table(
            "Arrays",
            ["name", "type", "shape"],
            ([name, a["dtype"], a["shape"]] for name, a in report.arrays.items()),
        )
    if "unreadable" in report.codes:
        return Exit.USAGE
    return Exit.GOOD if report.valid else Exit.BAD_NEWS


@inspect.command()
@FILE
@click.option("--deep", is_flag=True, help="Then have torch load it too, in a process with limits and, where possible, no network.")
@as_json
def model(file: Path, deep: bool, json_output: bool) -> int:
    """What a model file (torch, safetensors, ONNX) says about its model. Nothing in it is executed; only --deep needs torch.

    Exits with 1 if it is refused, with a reason code.
    """
    from ringrift_dagster.models.checkpoints.deep_check import UNUSABLE, deep_check
    from ringrift_dagster.models.checkpoints.description import read_with_tensors
    from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused

    try:
        checkpoint, tensors = read_with_tensors(file)
    except CheckpointRefused as refused:
        if json_output:
            print_json({"path": file, "accepted": False, "reason": refused.reason, "detail": refused.detail})
        if refused.reason == "unreadable":
            raise Unreadable(refused.detail) from refused
        raise BadNews(f"{file}: {refused}") from refused
    try:
        checked = deep_check(file, checkpoint, tensors) if deep else None
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror or error}") from error
    if json_output:
        print_json({"path": file, "accepted": True, **checkpoint.to_dict(), **({"deep": checked.to_dict()} if checked else {})})
    else:
        facts = {name.replace("_", " "): value for name, value in checkpoint.to_dict().items() if name != "metadata"}
        print_table(str(file), ["property", "value"], ([name, value] for name, value in facts.items() if value is not None))
    if checked is None:
        return Exit.GOOD
    if checked.reason is not None:
        raise (Unreadable if checked.reason in UNUSABLE else BadNews)(f"{file}: {checked.reason}: {checked.detail}")
    if not json_output:
        found = {
            "torch": checked.torch,
            "weights loaded": checked.tensors,
            "answers": checked.answers and "yes",
            "network": checked.network,
        }
        print_table("Deep check: passed", ["property", "value"], ([name, value] for name, value in found.items() if value))
    return Exit.GOOD
