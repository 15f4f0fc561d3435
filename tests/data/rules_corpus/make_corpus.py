"""Record games with RingRift's engine, compare them with our rules, and choose those that are shipped (README.md).

    python tests/data/rules_corpus/make_corpus.py record --ringrift CHECKOUT --out FOLDER [--positions N] [--seed S]
    python tests/data/rules_corpus/make_corpus.py compare FOLDER
    python tests/data/rules_corpus/make_corpus.py choose FOLDER [--positions N]
    python tests/data/rules_corpus/make_corpus.py perft --ringrift CHECKOUT

Run from the project's root, with it on PYTHONPATH.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import chain, count, islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click
import numpy as np
import orjson

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import LegalMoves, Policy
from ringrift_dagster.ai.seeds import below, generator
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIG_KEYS, Config, parse_config
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.move_records import move_records
from ringrift_dagster.games.moves import PHASES, MoveLog, MoveType, PackedMoves, Phase, pack
from ringrift_dagster.games.perft import perft
from ringrift_dagster.games.position import ACTIVE, Position, empty_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play
from tests.games.rule_playouts import playout
from tests.games.rules_corpus import (
    FOLDER,
    Comparison,
    CorpusGame,
    Key,
    compare,
    game_from_json,
    game_to_json,
    key_of,
    normalised,
    read_corpus,
)

ORACLE = Path(__file__).with_name("oracle.mjs")
FAVOURED = (
    (MoveType.RECOVERY_SLIDE, MoveType.FORCED_ELIMINATION, MoveType.OVERTAKING_CAPTURE),
    (MoveType.CHOOSE_TERRITORY_OPTION, MoveType.CONTINUE_CAPTURE_SEGMENT, MoveType.SKIP_PLACEMENT),
    (MoveType.CHOOSE_LINE_OPTION, MoveType.MOVE_STACK, MoveType.SKIP_CAPTURE),
)
"""Types of moves that random games of ours prefer, so that rare positions occur."""
BY_SEAT = (("heuristic",), ("random", "heuristic"))
"""Policies by seat: our games are played by these and with the favoured types, in turn."""
_CROSSINGS = 4


# ── Recording ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def own_game(config: Config, number: int, seed: int) -> dict[str, Any]:
    """A game played by us, as the oracle's mode `legal` reads it. Same seed and number, same game."""
    swap_rule = config.players == 2 and number % 2 == 1
    turn = number % (len(BY_SEAT) + len(FAVOURED))
    log = MoveLog()
    if turn < len(BY_SEAT):
        _play_policies(config, log, swap_rule, BY_SEAT[turn], seed + number)
    else:
        for _, _, listed, _, chosen in playout(config, seed + number, swap_rule=swap_rule, favour=FAVOURED[turn - len(BY_SEAT)]):
            if chosen >= 0:
                log.append(listed.rows[chosen], listed.cells)
    records = move_records(config, log.packed())
    return {"id": f"own-{config.key}-{seed}-{number}", "config": config.key, "swap_rule": swap_rule, "moves": records}


def _play_policies(config: Config, log: MoveLog, swap_rule: bool, names: tuple[str, ...], seed: int) -> None:
    tables, listed = topology(config.board), buffers(config.board)
    position = empty_position(config, swap_rule=swap_rule)
    policies: dict[str, Policy] = {name: POLICIES[name](config, None) for name in names}
    draws = generator(seed, config.key)
    while size := int(list_moves(tables, position, listed.rows, listed.cells)):
        policy = policies[names[int(position.player) % len(names)]]
        row = listed.rows[policy(position, LegalMoves(listed.rows[:size], listed.cells), draws).index].copy()
        log.append(row, listed.cells)
        play(tables, position, row, listed.cells)


def rare_game(config: Config, number: int, seed: int) -> tuple[dict[str, Any], bool]:
    """A game played by us that takes the rarest choices where it can, and whether there was one.

    These are a run of a longer line, by a recovery or not: random games have few.
    """
    swap_rule, log, rare = config.players == 2 and number % 2 == 1, MoveLog(), False
    tables, listed = topology(config.board), buffers(config.board)
    position = empty_position(config, swap_rule=swap_rule)
    draws = generator(seed, config.key, number)
    favoured = FAVOURED[number % len(FAVOURED)]
    while size := int(list_moves(tables, position, listed.rows, listed.cells)):
        rows = listed.rows[:size]
        kinds = rows[:, m.TYPE]
        recovered = (kinds == MoveType.RECOVERY_SLIDE) & (rows[:, m.OPTION] == 2)
        rarest = np.flatnonzero((kinds == MoveType.CHOOSE_LINE_OPTION) | recovered)
        candidates = rarest if len(rarest) else np.flatnonzero(np.isin(kinds, favoured))
        if len(candidates) == 0 or (not len(rarest) and below(draws, 4) == 0):
            candidates = np.arange(size)
        row = rows[candidates[below(draws, len(candidates))]].copy()
        rare = rare or (len(rarest) > 0 and (config.players == 2 or int(row[m.TYPE]) != MoveType.CHOOSE_LINE_OPTION))
        log.append(row, listed.cells)
        play(tables, position, row, listed.cells)
    records = move_records(config, log.packed())
    return {"id": f"rare-{config.key}-{seed}-{number}", "config": config.key, "swap_rule": swap_rule, "moves": records}, rare


def crossing_game(config: Config, number: int, seed: int) -> dict[str, Any]:
    """The beginning of a game in which player 1 makes two lines with one move, unless the others, who play at random, hinder it."""
    tables, listed = topology(config.board), buffers(config.board)
    position, after, log = empty_position(config), empty_position(config), MoveLog()
    draws = generator(seed, config.key, number)
    cell_of, middle = coordinates(config.board).cell_of, 0 if config.spec.hexagonal else config.spec.size // 2
    arms = range(1, config.line_length)
    wanted = [(middle + arm, middle) for arm in arms] + [(middle, middle + arm) for arm in arms] + [(middle, middle)]
    left = [cell_of[place] for place in wanted]
    while left or position.player == 1:
        size = int(list_moves(tables, position, listed.rows, listed.cells))
        rows = listed.rows[:size]
        candidates = []
        if position.player == 1 and left and position.phase == Phase.RING_PLACEMENT:
            candidates = [at for at in range(size) if rows[at, m.TO] == left[0] and rows[at, m.COUNT] == 1]
        elif position.player == 1 and position.phase == Phase.MOVEMENT:
            for at in range(size):  # a marker where the stack stood, and no other marker gone
                copy_position(position, after)
                play(tables, after, rows[at], listed.cells)
                if rows[at, m.TYPE] == MoveType.MOVE_STACK and np.count_nonzero(after.marker) > np.count_nonzero(position.marker):
                    candidates.append(at)
            left = left[1:]
        elif position.player == 1 and position.phase == Phase.CAPTURE:
            candidates = [at for at in range(size) if rows[at, m.TYPE] == MoveType.SKIP_CAPTURE]
        chosen = candidates or range(size)
        row = rows[chosen[int(below(draws, len(chosen)))]].copy()
        log.append(row, listed.cells)
        play(tables, position, row, listed.cells)
        if position.status != ACTIVE:
            break
    records = move_records(config, log.packed())
    return {"id": f"crossing-{config.key}-{seed}-{number}", "config": config.key, "swap_rule": False, "moves": records}


def corpus_game(moves: PackedMoves, answer: Mapping[str, Any], swap_rule: bool, applied: Counter[str]) -> CorpusGame:
    """A game with the oracle's answer, in the form that is kept.

    The game is cut before a line that RingRift's engine processes while a line reward is unpaid: that is not legal (R123).
    """
    changes: list[set[Key]] = []
    last: dict[tuple[int, str], set[Key]] = {}
    played = [key_of(row, moves.cells) for row in moves.rows]
    for index, entry in enumerate(answer["positions"]):
        unpaid = applied["unpaid line"]
        keys = normalised(entry["legal"], applied)
        owner = entry["player"], entry["phase"]
        changes.append(keys ^ last.get(owner, set()))
        last[owner] = keys
        if applied["unpaid line"] > unpaid and played[index] not in keys:
            del played[index:]
            break
    positions = answer["positions"][: len(played) + 1]
    rows = moves.rows[: len(played)]
    recoveries = np.flatnonzero((rows[:, m.TYPE] == MoveType.RECOVERY_SLIDE) & (rows[:, m.SECOND_LENGTH] > 0))
    return CorpusGame(
        game_id=answer["id"],
        config=parse_config(answer["config"]),
        swap_rule=swap_rule,
        moves=played,
        sources={int(at): int(moves.cells[rows[at, m.SECOND]]) for at in recoveries},
        hashes=[entry["hash"] for entry in positions],
        players=[entry["player"] for entry in positions],
        phases=[PHASES[entry["phase"]] for entry in positions],
        changes=changes,
        status=positions[-1]["status"],
        winner=positions[-1]["winner"],
    )


def read_answers(lines: Iterable[bytes], games: Mapping[str, Mapping[str, Any]], applied: Counter[str]) -> Iterator[CorpusGame]:
    """The games of the oracle's output; `games` has the moves where its output does not. A game that it gave up is an error."""
    for line in lines:
        answer = orjson.loads(line)
        if answer.get("error") or answer.get("coercions"):
            raise click.ClickException(f"{answer['id']}: {answer.get('error') or 'the engine mended moves'}")
        game = games.get(answer["id"], answer)
        moves = pack(game["moves"], coordinates(parse_config(answer["config"]).board))
        yield corpus_game(moves, answer, bool(game["swap_rule"]), applied)


def _oracle(checkout: Path, *arguments: str, stdin: Path | None = None) -> subprocess.Popen[bytes]:
    command = ["node", str(ORACLE), "--ringrift", str(checkout), *arguments]
    return subprocess.Popen(command, stdin=stdin.open("rb") if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE)


def own_games(config: Config, seed: int, positions: int) -> Iterator[dict[str, Any]]:
    """Games of ours until they have so many positions."""
    for number in count():
        yield (game := own_game(config, number, seed))
        positions -= len(game["moves"]) + 1
        if positions <= 0:
            return


def rare_games(config: Config, seed: int, tries: int, most: int = 8) -> Iterator[dict[str, Any]]:
    """Those of so many games of ours in which something rare was played, `most` of them at most."""
    games = (rare_game(config, number, seed) for number in range(tries))
    return islice((game for game, rare in games if rare), most)


@click.group()
def main() -> None:
    """Record, compare and choose the games of the rules corpus."""


@main.command()
@click.option("--ringrift", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--config", "configs", multiple=True, default=CONFIG_KEYS)
@click.option("--positions", default=10_000, help="At least so many of each config, and a quarter as many of our own games.")
@click.option("--tries", default=400, help="Games of ours among which rare ones are looked for.")
@click.option("--seed", default=10_001)
def record(ringrift: Path, out: Path, configs: tuple[str, ...], positions: int, tries: int, seed: int) -> None:
    """Games of RingRift's engine, and games of ours that it is asked about; a file for each config and kind of game."""
    out.mkdir(parents=True, exist_ok=True)
    limits = "--games", "1000000", "--max-positions", str(positions), "--seed", str(seed)
    for key in configs:
        config = parse_config(key)
        _keep(out, key, "ringrift", _oracle(ringrift, "play", "--config", key, *limits), {})
        for kind, played in (
            ("own", own_games(config, seed, positions // 4)),
            ("rare", rare_games(config, seed, tries)),
            ("crossing", (crossing_game(config, number, seed) for number in range(_CROSSINGS))),
        ):
            games = {game["id"]: game for game in played}
            request = out / f"{key}.{kind}.jsonl"
            request.write_bytes(b"\n".join(map(orjson.dumps, games.values())))
            _keep(out, key, kind, _oracle(ringrift, "legal", stdin=request), games)


def _keep(out: Path, key: str, kind: str, oracle: subprocess.Popen[bytes], games: Mapping[str, Mapping[str, Any]]) -> None:
    assert oracle.stdout is not None
    applied: Counter[str] = Counter()
    lines = [game_to_json(game) for game in read_answers(oracle.stdout, games, applied)]
    if oracle.wait():
        raise click.ClickException("the oracle failed")
    (out / f"{key}.{kind}.jsonl.xz").write_bytes(lzma.compress(b"\n".join(lines), preset=3))
    (out / f"{key}.{kind}.applied.json").write_bytes(orjson.dumps(applied))
    click.echo(f"{key} {kind}: {len(lines)} games")


# ── Comparing ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _candidates(folder: Path, key: str) -> Iterator[CorpusGame]:
    for path in sorted(folder.glob(f"{key}.*.jsonl.xz")):
        for line in lzma.decompress(path.read_bytes()).splitlines():
            yield game_from_json(line)


@main.command("compare")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def compare_all(folder: Path) -> None:
    """Compare all recorded games with our rules; exits with 1 if anything disagrees."""
    disagreements = 0
    for key in CONFIG_KEYS:
        result, began = Comparison(), time.perf_counter()
        for path in sorted(folder.glob(f"{key}.*.applied.json")):
            result.applied.update(orjson.loads(path.read_bytes()))
        games = 0
        for game in _candidates(folder, key):
            compare(game, result)
            games += 1
        seconds = time.perf_counter() - began
        rules = ", ".join(f"{rule} {times}" for rule, times in sorted(result.applied.items()) if times)
        compared = f"{games} games, {result.positions} positions, {len(result.disagreements)} disagreements"
        click.echo(f"{key}: {compared}; {rules}; {seconds:.0f} s")
        for text in result.disagreements[:10]:
            click.echo(f"  {text}")
        disagreements += len(result.disagreements)
    sys.exit(1 if disagreements else 0)


# ── Choosing ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--positions", default=2_000, help="At least so many of each config.")
def choose(folder: Path, positions: int) -> None:
    """Write the games that are shipped: first those that show what no other shows yet, then any."""
    for key in CONFIG_KEYS:
        pool: list[tuple[CorpusGame, set[str]]] = []
        for game in _candidates(folder, key):
            result = Comparison()
            compare(game, result)
            if result.disagreements:
                raise click.ClickException(result.disagreements[0])
            pool.append((game, set(result.occurred)))
        chosen = _chosen(pool, positions)
        lines = b"\n".join(map(game_to_json, chosen))
        path = FOLDER / f"{key}.jsonl.xz"
        path.write_bytes(lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME))
        click.echo(f"{key}: {len(chosen)} games, {sum(len(game.hashes) for game in chosen)} positions, {path.stat().st_size} bytes")


def _chosen(pool: list[tuple[CorpusGame, set[str]]], positions: int) -> list[CorpusGame]:
    chosen: list[CorpusGame] = []
    shown: set[str] = set()
    # In an order that has nothing to do with the games.
    remaining = sorted(pool, key=lambda entry: sha256(entry[0].game_id.encode()).digest())
    while remaining:
        best = max(remaining, key=lambda entry: len(entry[1] - shown) / len(entry[0].hashes))
        if not best[1] - shown:
            missing = positions - sum(len(game.hashes) for game in chosen)
            if missing <= 0:
                break
            best = next((entry for entry in remaining if len(entry[0].hashes) <= missing + 100), remaining[0])
        remaining.remove(best)
        chosen.append(best[0])
        shown |= best[1]
    return sorted(chosen, key=lambda game: game.game_id)


# ── Perft ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

RICH = (
    "phase chain_capture", "line that is longer", "line beside another", "line of the required length", "region beside another",
    "region to be paid for, context recovery", "recovery line option 2", "recovery line option 1", "recovery stack_strike",
    "recovery fallback", "phase forced_elimination", "swap offered", "phase capture", "played process_line",
    "played choose_territory_option", "played no_movement_action", "played skip_placement", "played move_stack",
)  # fmt: skip
"""What a position has to be an example of, so that counts begin there."""
DOZEN = 12
ASKED = {"square8": 500, "hex8": 400, "square19": 200, "hexagonal": 120}
ASKED_INITIAL = {"square8": 10_000, "hex8": 10_000, "square19": 1_500, "hexagonal": 1_500}
"""Lists that RingRift's engine is asked for about one position, at most."""
LISTS = {"square8": 25_000, "hex8": 25_000, "square19": 6_000, "hexagonal": 4_000}
"""Lists that we need for the counts from one position, at most: the test's time."""


def _depths(config: Config, position: Position, asked: int) -> tuple[list[int], int]:
    """Counts as deep as they are recorded, and to which depth RingRift's engine is asked."""
    counts: list[int] = []
    confirmed = 1
    for depth in range(1, 9):
        now = list(perft(config, position, depth))
        if depth > 1 and (1 + sum(now[:-1]) > LISTS[config.board] or now[-1] == 0):
            break
        counts = now
        if 1 + sum(counts[:-1]) <= asked:
            confirmed = depth
    return counts, confirmed


def _ask_perft(checkout: Path, config: Config, swap_rule: bool, moves: PackedMoves, depth: int) -> list[int]:
    with NamedTemporaryFile(suffix=".json") as file:
        file.write(orjson.dumps(move_records(config, moves)))
        file.flush()
        options = ["--swap-rule"] if swap_rule else []
        arguments = ("perft", "--config", config.key, "--depth", str(depth), "--moves", file.name, *options)
        out, _ = _oracle(checkout, *arguments).communicate()
    return [orjson.loads(line)["leaves"] for line in out.splitlines()]


def _rich_positions(games: dict[str, CorpusGame]) -> Iterator[tuple[CorpusGame, int, str]]:
    """Positions of shipped games, one for each of RICH and then further ones."""
    result = Comparison()
    for game in games.values():
        compare(game, result)
    given = set()
    for turn in count():
        for name in RICH:
            places = sorted(result.occurred.get(name, []), key=lambda at: sha256(repr(at).encode()).digest())
            if turn < len(places) and places[turn] not in given:
                given.add(places[turn])
                yield games[places[turn][0]], places[turn][1], name


@main.command("perft")
@click.option("--ringrift", type=click.Path(path_type=Path, exists=True), required=True)
def record_perft(ringrift: Path) -> None:
    """Count from the initial position and a dozen others of each config, and have RingRift's engine confirm the first depths."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for key in CONFIG_KEYS:
        config = parse_config(key)
        entries = answers.setdefault(key, [])
        games = {game.game_id: game for game in read_corpus(FOLDER / f"{key}.jsonl.xz")}
        places: Iterator[tuple[CorpusGame | None, int, str]] = chain([(None, 0, "initial")], _rich_positions(games))
        for game, after, shows in places:
            position = empty_position(config, swap_rule=game.swap_rule if game else False)
            moves = game.packed() if game else MoveLog().packed()
            moves = PackedMoves(moves.rows[:after], moves.cells)
            for row in moves.rows:
                play(topology(config.board), position, row, moves.cells)
            counts, confirmed = _depths(config, position, (ASKED if game else ASKED_INITIAL)[config.board])
            theirs = _ask_perft(ringrift, config, bool(game and game.swap_rule), moves, confirmed)
            game_id = game.game_id if game else None
            if theirs != counts[:confirmed]:
                click.echo(f"{key} {game_id} after {after} ({shows}) differs: {counts[:confirmed]}, RingRift {theirs}")
                continue
            entries.append({"game": game_id, "after": after, "shows": shows, "counts": counts, "confirmed": confirmed})
            if len(entries) > DOZEN:
                break
        click.echo(f"{key}: {len(entries)} positions, {sum(sum(entry['counts']) for entry in entries)} counted")
    text = ",\n".join(
        f"{orjson.dumps(key).decode()}: [\n" + ",\n".join(orjson.dumps(entry).decode() for entry in entries) + "\n]"
        for key, entries in answers.items()
    )
    (FOLDER / "perft.json").write_text(f"{{\n{text}\n}}\n")


if __name__ == "__main__":
    main()
