"""`ringrift-data rules …`: what the canonical rules allow."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson

from ringrift_dagster.cli.output import MAX_NUMBER, Exit, Unreadable, as_json, print_json, print_table
from ringrift_dagster.games import perft as counting
from ringrift_dagster.games.config import CONFIG_KEYS, Config, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase
from ringrift_dagster.games.geometry import coordinates
from ringrift_dagster.games.move_records import move_record, move_text
from ringrift_dagster.games.moves import PackedMoves, UnreadableMove, pack
from ringrift_dagster.games.position import Position, UnreadableState, empty_position, read_position
from ringrift_dagster.games.replay import replay
from ringrift_dagster.games.rules.legality import FAULT_TEXT

_SHOWN = 3
"""Games that a message names."""
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def rules() -> None:
    """What the canonical rules allow."""


@rules.command()
@click.option("--config", type=click.Choice(CONFIG_KEYS), metavar="CONFIG", help="Needed without --db.")
@click.option("--depth", type=click.IntRange(1, counting.MAX_DEPTH), required=True, help="Moves to look ahead.")
@click.option("--divide", is_flag=True, help="Count below each legal move.")
@click.option("--swap-rule", is_flag=True, help="The second of two players may swap sides (not with --db).")
@click.option("--moves", type=_FILE, help="Play these moves first: a JSON list of RingRift's move records.")
@click.option("--db", type=_FILE, help="Begin in a recorded game of this database.")
@click.option("--game", metavar="ID", help="The game in it; not needed if there is one only.")
@click.option("--after", type=click.IntRange(0, MAX_NUMBER), metavar="N", help="Play the first N moves only.")
@as_json
def perft(
    config: str | None,
    depth: int,
    divide: bool,
    swap_rule: bool,
    moves: Path | None,
    db: Path | None,
    game: str | None,
    after: int | None,
    json_output: bool,
) -> int:
    """Count the positions after 1 to DEPTH legal moves (perft, the usual test of move generators).

    Begins where games of CONFIG begin, or where the moves of a file or of a recorded game lead to. A position
    that is reached in two ways counts twice. Counts grow fast: 192 positions after one move on square8, nearly
    ten million after six.
    """
    if db is not None and (moves is not None or swap_rule):
        raise click.UsageError("--db has moves and rules of its own: leave out --moves and --swap-rule")
    if game is not None and db is None:
        raise click.UsageError("--game needs --db")
    if after is not None and db is None and moves is None:
        raise click.UsageError("--after needs --db or --moves")
    if db is not None:
        parsed, position, packed = _recorded(db, game)
        if config not in (None, parsed.key):
            raise click.UsageError(f"the game is of {parsed.key}, not {config}: leave out --config")
    elif config is None:
        raise click.UsageError("--config is needed: one of " + ", ".join(CONFIG_KEYS))
    else:
        parsed = parse_config(config)
        if swap_rule and parsed.players != 2:
            raise click.UsageError("--swap-rule is for two players")
        position, packed = empty_position(parsed, swap_rule=swap_rule), _packed(parsed, _records(moves) if moves else [])
    played = len(packed) if after is None else after
    if played > len(packed):
        raise click.UsageError(f"--after {after}: there are {len(packed)} moves")
    _advance(parsed, position, PackedMoves(packed.rows[:played], packed.cells))

    counting.perft(parsed, position, 1)  # compiles the rules if need be: what is timed is counting
    began = time.perf_counter()
    if divide:
        moves_below = [
            (move_text(parsed, row.tolist(), cells.tolist()), move_record(parsed, row.tolist(), cells.tolist(), played + 1), leaves)
            for row, cells, leaves in counting.divide(parsed, position, depth)
        ]
        total = sum(leaves for _, _, leaves in moves_below)
        answer: dict[str, Any] = {"leaves": total, "moves": [{"move": move, "leaves": leaves} for _, move, leaves in moves_below]}
        columns, lines = ["move", "positions"], [[text, leaves] for text, _, leaves in moves_below]
    else:
        counts = counting.perft(parsed, position, depth)
        total = sum(counts)
        answer = {"counts": counts}
        columns, lines = ["depth", "positions"], [[level, count] for level, count in enumerate(counts, start=1)]
    seconds = time.perf_counter() - began
    speed = round(total / seconds) if seconds else total
    if json_output:
        about = {"config": parsed.key, "after": played, "depth": depth}
        print_json({**about, **answer, "seconds": seconds, "positions_per_second": speed})
        return Exit.GOOD
    print_table("", columns, lines, "the game is over")
    click.echo(f"{parsed.key}, {played} moves played: {total:,} positions in {seconds:.2f} s, {speed:,} per second")
    return Exit.GOOD


def _recorded(path: Path, game_id: str | None) -> tuple[Config, Position, PackedMoves]:
    """Config, first position and moves of a recorded game. Raises Unreadable."""
    try:
        with GameDatabase(path) as database:
            games = [game for game in database.games() if game_id in (None, game.game_id)]
            ids = ", ".join(game.game_id for game in islice(database.games(), _SHOWN))
    except DatabaseUnreadable as error:
        raise Unreadable(f"{path}: {error.detail}") from error
    if len(games) != 1:
        problem = f"no game {game_id!r}" if game_id is not None else "--game has to say which game"
        raise Unreadable(f"{path}: {problem}; the newest are: {ids or 'none'}")
    record = games[0]
    if record.damage is not None or record.initial_state is None:
        raise Unreadable(f"{path}: game {record.game_id}: {record.damage or 'no initial state was recorded'}")
    try:
        config, position = read_position(orjson.loads(record.initial_state))
    except (UnreadableState, orjson.JSONDecodeError) as error:
        raise Unreadable(f"{path}: game {record.game_id}: the initial state cannot be read: {error}") from error
    return config, position, _packed(config, [move.record for move in record.moves])


def _records(path: Path) -> list[dict[str, Any]]:
    """The move records of a JSON file: a list, or an object that has one as `moves`. Raises Unreadable."""
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"{path}: no JSON: {error}") from error
    records = value.get("moves") if isinstance(value, dict) else value
    if not isinstance(records, list):
        raise Unreadable(f"{path}: no list of move records")
    return records


def _packed(config: Config, records: list[Any]) -> PackedMoves:
    try:
        return pack(records, coordinates(config.board))
    except UnreadableMove as error:
        raise Unreadable(f"the moves cannot be read: {error}") from error


def _advance(config: Config, position: Position, moves: PackedMoves) -> None:
    """Play legal moves. Raises Unreadable at one that is not."""
    result = replay(config, position, moves, np.zeros(len(moves) + 1, dtype=np.uint8))
    if result.fault:
        raise Unreadable(f"move {result.played} is illegal: {FAULT_TEXT[result.fault]}")
