"""`ringrift-data selfplay`: playing games with our own AIs."""

from __future__ import annotations

from pathlib import Path

import click

from ringrift_dagster.cli.output import BadNews, Exit, Unreadable, as_json, complain, print_json, print_table, progress
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.home import Home


@click.command()
@click.option("--config", required=True, type=click.Choice(CONFIG_KEYS), metavar="CONFIG", help="e.g. hex8_2p")
@click.option("--games", required=True, type=click.IntRange(min=1), help="Games in the database at the end.")
@click.option("--seed", "root", required=True, type=click.IntRange(min=0), help="The same seed gives the same games.")
@click.option(
    "--ai",
    "ais",
    default="heuristic",
    show_default=True,
    metavar="AI[,AI…]",
    help="Who plays: random, heuristic, mcts:SIMULATIONS. Several take the seats in turn, from game to game.",
)
@click.option("--swap-rule", is_flag=True, help="Player 2 may take over the first player's side (two players only).")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that play.  [default: one a core]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The database.  [default: selfplay/ringrift_dagster_CONFIG_SEED.db below $RINGRIFT_DATA_HOME]",
)
@click.option("--resume", is_flag=True, help="Continue a database of the same config, seed and AIs.")
@as_json
def selfplay(
    config: str,
    games: int,
    root: int,
    ais: str,
    swap_rule: bool,
    workers: int | None,
    out: Path | None,
    resume: bool,
    json_output: bool,
) -> int:
    """Play complete games under the canonical rules into a database that RingRift's own tools can read.

    A game depends on seed, config, its number and the AIs only, not on the number of workers or on interruptions. The database
    contains whole games only, however the command ends; --resume plays those that are missing.
    """
    from ringrift_dagster.ai.registry import InvalidSpec, parse_specs
    from ringrift_dagster.ai.selfplay import InvalidRun, SelfPlay, database_name, record
    from ringrift_dagster.ai.workers import WorkerLost, default_workers
    from ringrift_dagster.games.config import parse_config
    from ringrift_dagster.games.recording import RecordingError

    parsed = parse_config(config)
    path = out or Home.from_env().selfplay / database_name(parsed, root)
    try:
        run = SelfPlay(parsed, root, parse_specs(ais, parsed), swap_rule)
        with progress("games") as step:
            written = record(
                run,
                games,
                path,
                workers=workers or default_workers(),
                resume=resume,
                progress=lambda done, total: step(str(path), done, total),
            )
    except (InvalidSpec, InvalidRun) as error:
        raise click.UsageError(str(error)) from error
    except RecordingError as error:
        raise Unreadable(str(error)) from error
    except WorkerLost as error:
        raise BadNews(f"{path}: {error}: run this again with --resume") from error
    except KeyboardInterrupt:
        complain(f"{path}: interrupted, the games in it are whole: run this again with --resume")
        return Exit.INTERRUPTED
    if json_output:
        print_json({**vars(written), "config": config, "seed": root, "ais": [str(spec) for spec in run.ais]})
        return Exit.GOOD
    print_table(
        str(path),
        ["config", "games", "already there", "moves played", "seconds", "games/s"],
        [
            [
                config,
                written.games,
                written.resumed,
                written.moves,
                f"{written.seconds:.1f}",
                f"{(written.games - written.resumed) / max(written.seconds, 1e-9):.1f}",
            ]
        ],
    )
    return Exit.GOOD
