"""`ringrift-data verify`: the gate's verdict on databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from ringrift_dagster.ai.findings import MEANINGS, FindingCode, FindingsReport
from ringrift_dagster.ai.replay import CANNOT, DIFFERENT, AiReplay, replay_ais
from ringrift_dagster.canonical.gate import DatabaseVerdict, Observer
from ringrift_dagster.canonical.gate import verify as judge
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.cli.output import Exit, Unreadable, as_json, print_json, print_table, progress
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, GameRecord

EXITS = {"canonical": Exit.GOOD, "unreadable": Exit.USAGE}
"""Exit status by verdict; every other verdict is bad news. The gravest of all databases counts."""


@click.command()
@click.argument("databases", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Choice(CONFIG_KEYS),
    metavar="CONFIG",
    help="Games of any other config are rejected.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep verdicts in this file and reuse those it has.",
)
@click.option("--replay-ai", is_flag=True, help="Also replay the AIs of every game, with the recorded seeds.")
@as_json
def verify(databases: tuple[Path, ...], config: str | None, store: Path | None, replay_ai: bool, json_output: bool) -> int:
    """Replay every game of DATABASES under the canonical rules and say which are canonical.

    Databases are judged together: a game that two of them have is a duplicate in the second. Exits with 0
    only if every game of every database is canonical, with 2 if a database cannot be read, and otherwise with
    1. Findings on the recorded AIs are shown beside the verdicts and change none.

    With --replay-ai this project's own AIs choose their moves again; a game in which a choice differs from the record
    counts as bad news. RingRift's AIs cannot be replayed: they are not implemented here.
    """
    reports: list[FindingsReport] = []

    def observer(_: Path) -> Observer:
        reports.append(report := FindingsReport())
        return lambda game: report.add(game.record)

    with VerdictStore(store) if store else nullcontext() as verdicts, progress("games") as step:
        judged = judge(databases, config=config, store=verdicts, progress=step, observer=observer)
    reported = [
        (verdict, FindingsReport() if verdict.verdict == "unreadable" else report)
        for verdict, report in zip(judged, reports, strict=True)
    ]
    replays = {verdict.path: replay(Path(verdict.path)) for verdict in judged if replay_ai and verdict.verdict != "unreadable"}
    if json_output:
        replay_entries = {path: {"ai_replay": [game.to_dict() for game in games]} for path, games in replays.items()}
        print_json(
            [
                {**verdict.to_dict(), "ai_findings": report.to_dict(), **replay_entries.get(verdict.path, {})}
                for verdict, report in reported
            ]
        )
    else:
        print_verdicts(judged)
        print_findings(reported)
        print_replays(replays)
    differ = any(game.outcome == DIFFERENT for games in replays.values() for game in games)
    return max(Exit.BAD_NEWS if differ else Exit.GOOD, *(EXITS.get(verdict.verdict, Exit.BAD_NEWS) for verdict in judged))


def replay(path: Path) -> list[AiReplay]:
    """Replay the AIs of every game of a readable database. Raises Unreadable if it no longer is."""
    try:
        with GameDatabase(path, check=False) as database, progress("AIs replayed") as step:
            total = database.count()

            def records() -> Iterator[GameRecord]:
                for number, record in enumerate(database.games(), start=1):
                    yield record
                    step(str(path), number, total)

            return replay_ais(records())
    except DatabaseUnreadable as error:
        raise Unreadable(f"{path}: {error.detail}") from error


def print_replays(replays: Mapping[str, Sequence[AiReplay]]) -> None:
    """Print the AI replays: a row for each database and outcome, then a row for each game that differs."""
    rows: Counter[tuple[str, str, str]] = Counter()
    decisions: Counter[tuple[str, str, str]] = Counter()
    for path, games in replays.items():
        for game in games:
            key = (Path(path).name, game.outcome, game.detail or "" if game.outcome == CANNOT else "")
            rows[key] += 1
            decisions[key] += game.decisions
    print_table(
        "AI replay",
        ["database", "outcome", "games", "decisions", "reason"],
        ([name, outcome, rows[key], decisions[key], detail] for key in rows for name, outcome, detail in [key]),
    )
    print_table(
        "Games in which an AI chooses another move",
        ["database", "game", "move", "detail"],
        (
            [Path(path).name, game.game_id, game.move_number, game.detail]
            for path, games in replays.items()
            for game in games
            if game.outcome == DIFFERENT
        ),
    )


def print_verdicts(judged: Sequence[DatabaseVerdict]) -> None:
    """One row a database, then one row a rejected game."""
    print_table(
        "Databases",
        [
            "database",
            "config",
            "verdict",
            "games",
            "canonical",
            "rejected",
            "unfinished",
            "moves",
            "hashes",
            "seconds",
        ],
        (
            [
                Path(verdict.path).name,
                verdict.config,
                verdict.verdict,
                *(verdict.games[kind] for kind in ("total", "canonical", "rejected", "unfinished")),
                verdict.moves,
                verdict.hashes_checked,
                f"{verdict.seconds:.2f}",
            ]
            for verdict in judged
        ),
    )
    print_table(
        "Not canonical",
        ["database", "game", "reason", "move", "detail"],
        (
            [Path(verdict.path).name, game["game_id"], game["reason"], game["move_number"], game["detail"]]
            for verdict in judged
            for game in verdict.rejected
        ),
    )


def print_findings(reported: Iterable[tuple[DatabaseVerdict, FindingsReport]]) -> None:
    """Print the findings on recorded AIs: a row for each database and code, with the number of players."""
    print_table(
        "Findings on recorded AIs (no verdict depends on them)",
        ["database", "finding", "players", "meaning"],
        (
            [Path(verdict.path).name, code.value, report.counts[code.value], MEANINGS[code]]
            for verdict, report in reported
            for code in FindingCode
            if report.counts[code.value]
        ),
    )
