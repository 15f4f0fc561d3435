"""Playthroughs as text: positions of the rules corpus as readable boards, their legal moves, and the move that was played.

`python -m tests.games.playthroughs` chooses the scenes of `tests/data/playthroughs` anew and writes them; with
RINGRIFT_WRITE_PLAYTHROUGHS=1 the test writes the files that there are instead of comparing them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIGS, Config
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.move_records import move_text
from ringrift_dagster.games.moves import MoveType, Phase
from ringrift_dagster.games.position import ACTIVE, STATUSES, Position, empty_position
from ringrift_dagster.games.rules.listing import MoveBuffers, buffers, list_moves
from ringrift_dagster.games.rules.turns import Ending, ending_of, play
from tests.games.rules_corpus import FOLDER as CORPUS
from tests.games.rules_corpus import Comparison, CorpusGame, compare, read_corpus

FOLDER = Path(__file__).parents[1] / "data" / "playthroughs"
_HEADER = re.compile(r"game (?P<game>\S+), moves (?P<first>\d+) to (?P<last>\d+) of \d+: (?P<shows>.+)\n")
_LETTERS = " ABCD"


def playthrough(game: CorpusGame, first: int, last: int, shows: str) -> str:
    """The moves `first` to `last` (counted from 1) of a game, each with the position before it; the result if the game ends."""
    tables, listed = topology(game.config.board), buffers(game.config.board)
    position, packed = empty_position(game.config, swap_rule=game.swap_rule), game.packed()
    lines = [f"game {game.game_id}, moves {first} to {last} of {len(packed)}: {shows}"]
    board = ""
    for index, row in enumerate(packed.rows[:last]):
        if index >= first - 1:
            count = int(list_moves(tables, position, listed.rows, listed.cells))
            lines += ["", f"{index + 1}. player {_LETTERS[position.player]}, {Phase(int(position.phase)).name.lower()}"]
            before, board = board, "\n".join(_drawn(game.config, position))
            lines += [board] if board != before else ["(the same position)"]
            lines += [f"legal: {count}", *(f"  {line}" for line in _listing(game.config, listed, count))]
            lines += [f"played: {move_text(game.config, row.tolist(), packed.cells.tolist())}"]
        play(tables, position, row, packed.cells)
    if position.status != ACTIVE:
        ending = Ending(int(ending_of(tables, position, packed.rows[-1, m.TYPE]))).name.lower()
        lines += ["", f"{STATUSES[position.status]}: {ending}, player {_LETTERS[position.winner]} wins"]
        lines += _drawn(game.config, position)
    return "\n".join(lines) + "\n"


def _drawn(config: Config, position: Position) -> Iterator[str]:
    """Players, then the board: A3 is a stack of three rings that A controls, a a marker of A's, # its collapsed space."""
    for seat in range(1, config.players + 1):
        counts = f"hand {position.hand[seat]}, eliminated {position.eliminated[seat]}, territory {position.territory[seat]}"
        yield f"  {_LETTERS[seat]}: {counts}"
    if position.pending_line:
        yield "  a line reward is unpaid"
    tables, size = topology(config.board), config.spec.size
    grid = [["" for _ in range(size)] for _ in range(size)]
    for cell in range(config.spec.cells):
        grid[tables.y[cell]][tables.x[cell]] = _cell(position, cell)
    shift = (size - 1) // 2 if config.spec.hexagonal else 0
    for y, row in enumerate(grid):
        # Rows of a hexagonal board are shifted by half a cell, so that neighbours stand beside each other.
        if config.spec.hexagonal:
            yield f"{y - shift:>4}  {'  ' * abs(y - shift)}{' '.join(f'{text:<3}' for text in row if text)}".rstrip()
        else:
            yield f"{y:>4}  {' '.join(f'{text:<3}' for text in row)}".rstrip()
    buried = [cell for cell in range(config.spec.cells) if position.height[cell] > position.cap[cell]]
    if buried:
        keys = coordinates(config.board).key_of
        rings = {cell: position.rings[cell, : position.height[cell]] for cell in buried}
        stacks = (f"{keys[cell]} {''.join(_LETTERS[ring] for ring in rings[cell])}" for cell in buried)
        yield f"  mixed stacks, bottom first: {', '.join(stacks)}"


def _cell(position: Position, cell: int) -> str:
    if position.height[cell]:
        return f"{_LETTERS[position.owner[cell]]}{position.height[cell]}"
    if position.collapsed[cell]:
        return f"#{_LETTERS[position.collapsed[cell]]}"
    return _LETTERS[position.marker[cell]].lower() if position.marker[cell] else "."


def _listing(config: Config, listed: MoveBuffers, count: int) -> Iterator[str]:
    """The legal moves, one line each, but those of a stack or of placements together."""
    keys = coordinates(config.board).key_of
    rings: dict[int, list[str]] = {}
    groups: dict[str, list[str]] = {}
    for row in listed.rows[:count].tolist():
        kind = MoveType(row[m.TYPE])
        if kind == MoveType.PLACE_RING:
            rings.setdefault(row[m.TO], []).append(str(row[m.COUNT]))
        elif kind in (MoveType.MOVE_STACK, MoveType.OVERTAKING_CAPTURE, MoveType.CONTINUE_CAPTURE_SEGMENT):
            text, to = move_text(config, row, listed.cells.tolist()).rsplit(" ", 1)
            groups.setdefault(text, []).append(to)
        else:
            groups.setdefault(move_text(config, row, listed.cells.tolist()), [])
    counts: dict[str, list[int]] = {}
    for cell, numbers in rings.items():
        counts.setdefault("/".join(numbers), []).append(cell)
    for numbers, cells in counts.items():
        yield f"place_ring rings {numbers} at {', '.join(_runs(cells, keys))}"
    for text, places in groups.items():
        yield " ".join([text, *places])


def _runs(cells: Sequence[int], keys: Sequence[str]) -> Iterator[str]:
    """Cells as ranges of neighbours in the order of the board's cells: columns from top to bottom."""
    breaks = np.flatnonzero(np.diff(cells) != 1) + 1
    for run in np.split(np.asarray(cells), breaks):
        first, last = keys[int(run[0])], keys[int(run[-1])]
        yield first if len(run) == 1 else f"{first} to {last}"


def again(text: str, games: dict[str, CorpusGame]) -> str:
    """What a playthrough file should have, by its first line."""
    header = _HEADER.match(text)
    if header is None:
        raise ValueError("no playthrough")
    return playthrough(games[header["game"]], int(header["first"]), int(header["last"]), header["shows"])


def shows(text: str) -> str:
    """What a playthrough file is an example of."""
    header = _HEADER.match(text)
    return header["shows"] if header else ""


# ── Choosing scenes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_SCENES = (
    "played recovery_slide line option 2", "played recovery_slide line option 1", "played recovery_slide stack_strike",
    "played recovery_slide fallback", "played choose_line_option", "played eliminate_rings_from_stack line",
    "played eliminate_rings_from_stack recovery", "played forced_elimination", "played swap_sides", "region beside another",
    "played skip_territory_processing", "line beside another", "played continue_capture_segment", "played process_line",
    "played no_movement_action", "played skip_capture", "played skip_recovery", "played eliminate_rings_from_stack territory",
)  # fmt: skip
_PER_CONFIG = 6


def _write_scenes() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    used: dict[str, int] = {}
    for config in CONFIGS:
        games = {game.game_id: game for game in read_corpus(CORPUS / f"{config.key}.jsonl.xz")}
        result = Comparison()
        for game in games.values():
            compare(game, result)
        endings = sorted(name for name in result.occurred if name.startswith("ending"))
        # What has been shown least, and then what occurs least: so rare scenes come on many boards.
        scenes = sorted(
            (name for name in _SCENES if name in result.occurred),
            key=lambda name: (used.get(name, 0), len(result.occurred[name]), name),
        )
        for name in endings + scenes[: _PER_CONFIG - len(endings)]:
            used[name] = used.get(name, 0) + 1
            game_id, index = min(result.occurred[name], key=lambda at: (len(games[at[0]].hashes), at))
            game = games[game_id]
            first, last = _around(game, index)
            path = FOLDER / f"{config.key}.{name.removeprefix('played ').replace(' ', '_')}.txt"
            path.write_text(playthrough(game, first, last, name))


def _around(game: CorpusGame, index: int) -> tuple[int, int]:
    """First and last move, counted from 1, of the scene around position `index`; on large boards it is shorter."""
    small = game.config.spec.cells < 100
    last = min(index + (2 if small else 1), len(game.moves))
    first = max(last - (5 if small else 1), 1)
    while not small and first < last and game.phases[first - 1] == Phase.RING_PLACEMENT:
        first += 1
    return first, last


if __name__ == "__main__":
    _write_scenes()
