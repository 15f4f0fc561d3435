"""The corpus of games in `tests/data/rules_corpus`: its format, and how RingRift's list of legal moves is compared with ours.

A *key* identifies a legal move: an integer where a few cells or numbers do, else a tuple that ends with lists of cells. Asking
RingRift's engine, and choosing which games are shipped, is in `tests/data/rules_corpus/make_corpus.py`.
"""

from __future__ import annotations

import lzma
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.fingerprint import buffer_for, hash_position, hash_text_of
from ringrift_dagster.games.geometry import NO_CELL, topology
from ringrift_dagster.games.moves import MOVE_TYPES, PHASES, EliminationContext, MoveType, PackedMoves, Phase, RecoveryMode
from ringrift_dagster.games.position import ACTIVE, STATUSES, Position, empty_position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import Ending, ending_of, play

FOLDER = Path(__file__).parents[1] / "data" / "rules_corpus"

Key: TypeAlias = int | tuple[Any, ...]

FIELDS = {
    MoveType.PLACE_RING: (m.TO, m.COUNT),
    MoveType.MOVE_STACK: (m.ORIGIN, m.TO),
    MoveType.OVERTAKING_CAPTURE: (m.ORIGIN, m.TARGET, m.TO),
    MoveType.CONTINUE_CAPTURE_SEGMENT: (m.ORIGIN, m.TARGET, m.TO),
    MoveType.ELIMINATE_RINGS_FROM_STACK: (m.TO, m.CONTEXT),
    MoveType.FORCED_ELIMINATION: (m.TO,),
}
"""The columns that make a move of a type the move it is; types that are not here have none, or lists of cells."""
LISTED = {MoveType.RECOVERY_SLIDE: 5, MoveType.PROCESS_LINE: 1, MoveType.CHOOSE_LINE_OPTION: 2, MoveType.CHOOSE_TERRITORY_OPTION: 1}
"""Types whose keys are tuples, and how many fields follow the type."""
_WIDTH = {kind: len(columns) for kind, columns in FIELDS.items()} | LISTED
_BASE = 512
_COLUMNS = np.full((len(MoveType), 3), NO_CELL, dtype=np.int64)
for _type, _columns in FIELDS.items():
    _COLUMNS[_type, : len(_columns)] = _columns


@compiled
def _write_keys(rows, count, columns, keys):
    """Write the integer keys of the first `count` rows."""
    for index in range(count):
        key = rows[index, 0]
        for place in range(3):
            column = columns[rows[index, 0], place]
            key = key * _BASE + (rows[index, column] + 1 if column >= 0 else 0)
        keys[index] = key


def _cells(row: Sequence[int], cells: NDArray[np.int64], first: int, length: int) -> tuple[int, ...]:
    return tuple(sorted(cells[row[first] : row[first] + row[length]].tolist()))


def key_of(row: NDArray[np.int64], cells: NDArray[np.int64]) -> Key:
    """The key of a packed move.

    A line that collapses whole has one key, whichever type says so; a plain recovery slide has no option.
    """
    kind, first = MoveType(int(row[m.TYPE])), _cells(row.tolist(), cells, m.FIRST, m.FIRST_LENGTH)
    if kind == MoveType.RECOVERY_SLIDE:
        option = max(int(row[m.OPTION]), 0) if row[m.MODE] == RecoveryMode.LINE else 0
        return int(kind), int(row[m.MODE]), int(row[m.ORIGIN]), int(row[m.TO]), option, first if option == 2 else ()
    if kind == MoveType.CHOOSE_LINE_OPTION:
        return _line_key(first, _cells(row.tolist(), cells, m.SECOND, m.SECOND_LENGTH))
    if kind in LISTED:
        return int(kind), first
    keys = np.zeros(1, dtype=np.int64)
    _write_keys(row.reshape(1, -1), 1, _COLUMNS, keys)
    return int(keys[0])


def _line_key(line: tuple[int, ...], collapsing: tuple[int, ...]) -> Key:
    if line == collapsing:
        return int(MoveType.PROCESS_LINE), line
    return int(MoveType.CHOOSE_LINE_OPTION), line, collapsing


def key_from(kind: MoveType, fields: Sequence[Any]) -> Key:
    """The key of a move from its fields as they stand in the corpus (README.md there)."""
    if kind in LISTED:
        return int(kind), *(tuple(value) if isinstance(value, list) else value for value in fields)
    key = int(kind)
    for place in range(3):
        key = key * _BASE + (fields[place] + 1 if place < len(fields) else 0)
    return key


def fields_of(key: Key) -> tuple[MoveType, list[Any]]:
    """Type and fields of a key: the inverse of `key_from`."""
    if isinstance(key, tuple):
        return MoveType(key[0]), list(key[1:])
    digits = []
    for _ in range(3):
        key, digit = divmod(key, _BASE)
        digits.append(digit - 1)
    return MoveType(key), digits[::-1][: len(FIELDS.get(MoveType(key), ()))]


def described(key: Key) -> str:
    """A key as text."""
    kind, fields = fields_of(key)
    return " ".join([kind.name.lower(), *map(str, fields)])


# ── RingRift's list ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def key_from_oracle(move: Sequence[Any]) -> Key:
    """The key of a move as `oracle.mjs` writes it."""
    kind, fields = MOVE_TYPES[move[0]], list(move[1:])
    if kind == MoveType.RECOVERY_SLIDE:
        fields[0], fields[3] = RecoveryMode[fields[0].upper()].value, fields[3] or 0
    elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        fields[1] = EliminationContext[fields[1].upper()].value
    elif kind == MoveType.CHOOSE_LINE_OPTION:
        return _line_key(tuple(fields[0]), tuple(fields[1]))
    return key_from(kind, fields)


def normalised(moves: Iterable[Sequence[Any]], applied: Counter[str]) -> set[Key]:
    """RingRift's list with each decision once, by two rules that are counted in `applied`:

    - `whole lines`: RingRift lists process_line for every line, and choose_line_option for the same choice.
    - `unpaid line`: it lists lines while a line reward is unpaid, which comes first (R123).
    """
    moves = list(moves)
    keys = {key_from_oracle(move) for move in moves}
    applied["whole lines"] += len(keys) < len(moves)
    if any(move[0] == "eliminate_rings_from_stack" and move[2] == "line" for move in moves):
        unpaid = {key for key in keys if fields_of(key)[0] in (MoveType.PROCESS_LINE, MoveType.CHOOSE_LINE_OPTION)}
        applied["unpaid line"] += bool(unpaid)
        keys -= unpaid
    return keys


# ── Games ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class CorpusGame:
    """A game, and what RingRift's TypeScript engine said of its positions: one before each move and the last.

    `changes[i]` has the keys by which the list of position i differs from that of the last position with the same player and
    phase. `sources` are the stacks that recoveries take their ring from, by the index of the move.
    """

    game_id: str
    config: Config
    swap_rule: bool
    moves: list[Key]
    sources: dict[int, int]
    hashes: list[str]
    players: list[int]
    phases: list[Phase]
    changes: list[set[Key]]
    status: str
    winner: int | None

    def lists(self) -> Iterator[set[Key]]:
        """The legal moves of every position; each set is changed for a later one."""
        last: dict[tuple[int, int], set[Key]] = {}
        for player, phase, change in zip(self.players, self.phases, self.changes, strict=True):
            current = last.setdefault((player, phase), set())
            current ^= change
            yield current

    def packed(self) -> PackedMoves:
        """The moves as the rules take them."""
        rows = np.full((len(self.moves), len(m.COLUMNS)), m.NOT_GIVEN, dtype=np.int64)
        rows[:, [m.MODE, m.CONTEXT]] = 0
        rows[:, m.FIRST :] = 0
        cells: list[int] = []
        for index, key in enumerate(self.moves):
            row = rows[index]
            kind, fields = fields_of(key)
            row[m.TYPE], row[m.PLAYER], row[m.PHASE] = kind, self.players[index], self.phases[index]
            lists: list[Sequence[int]] = []
            if kind == MoveType.RECOVERY_SLIDE:
                row[[m.MODE, m.ORIGIN, m.TO]], row[m.OPTION] = fields[:3], fields[3] or m.NOT_GIVEN
                lists = [fields[4], [self.sources[index]] if index in self.sources else []]
            elif kind in LISTED:
                row[m.TO], lists = fields[0][0], fields
                if kind == MoveType.CHOOSE_TERRITORY_OPTION:
                    row[m.REGION_PLAYER] = row[m.PLAYER]  # whose stacks are inside decides nothing
            else:
                row[list(FIELDS.get(kind, ()))] = fields
            for column, numbers in zip((m.FIRST, m.SECOND), lists, strict=False):
                row[column], row[column + 1] = len(cells), len(numbers)
                cells += numbers
        return PackedMoves(rows, np.array(cells, dtype=np.int64))


def game_to_json(game: CorpusGame) -> bytes:
    """One line of a corpus file."""
    return orjson.dumps(
        {
            "id": game.game_id,
            "config": game.config.key,
            "swap_rule": game.swap_rule,
            "status": game.status,
            "winner": game.winner,
            "moves": [[kind.name.lower(), *fields] for kind, fields in map(fields_of, game.moves)],
            "sources": {str(index): cell for index, cell in game.sources.items()},
            "players": game.players,
            "phases": [phase.name.lower() for phase in game.phases],
            "hashes": game.hashes,
            "changes": [_grouped(change) for change in game.changes],
        }
    )


def _grouped(change: set[Key]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for kind, fields in sorted(map(fields_of, change)):
        groups.setdefault(kind.name.lower(), []).extend(fields)
    return groups


def game_from_json(line: bytes) -> CorpusGame:
    """The inverse of `game_to_json`."""
    entry = orjson.loads(line)
    return CorpusGame(
        game_id=entry["id"],
        config=parse_config(entry["config"]),
        swap_rule=entry["swap_rule"],
        moves=[key_from(MOVE_TYPES[kind], fields) for kind, *fields in entry["moves"]],
        sources={int(index): cell for index, cell in entry["sources"].items()},
        hashes=entry["hashes"],
        players=entry["players"],
        phases=[PHASES[phase] for phase in entry["phases"]],
        changes=[set(_ungrouped(change)) for change in entry["changes"]],
        status=entry["status"],
        winner=entry["winner"],
    )


def _ungrouped(groups: dict[str, list[Any]]) -> Iterator[Key]:
    for name, fields in groups.items():
        kind = MOVE_TYPES[name]
        width = _WIDTH.get(kind, 0)
        if width == 0:
            yield key_from(kind, ())
        for start in range(0, len(fields), max(width, 1)):
            yield key_from(kind, fields[start : start + width])


def read_corpus(path: Path) -> list[CorpusGame]:
    """The games of a corpus file."""
    return [game_from_json(line) for line in lzma.decompress(path.read_bytes()).splitlines()]


# ── Comparing ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Comparison:
    """What was compared: positions, the rules that brought lists together, what occurred and where, and what did not agree."""

    positions: int = 0
    applied: Counter[str] = field(default_factory=Counter)
    occurred: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    disagreements: list[str] = field(default_factory=list)


def compare(game: CorpusGame, result: Comparison) -> None:
    """Replay a game by our rules, and compare every position with what RingRift's engine says of it.

    Three rules bring what is compared together; how often is counted:

    - `finished`: in some endings RingRift leaves player and phase of a finished game as they were; its hash takes neither.
    - `runs of a recovery`: RingRift lists the first run of a longer line that a recovery may collapse, we list all that contain
      the marker's new place (R112).
    - `stalemate of several`: with three or four players RingRift compares all players anew at each step of the ladder that
      decides a stalemate, instead of those that the step before left (R173).

    Stops at the first position that has another hash: what follows is another game.
    """
    tables, listed = topology(game.config.board), buffers(game.config.board)
    buffer, keys = buffer_for(tables), np.zeros(len(listed.rows), dtype=np.int64)
    position = empty_position(game.config, swap_rule=game.swap_rule)
    packed = game.packed()

    def disagree(index: int, text: str) -> None:
        result.disagreements.append(f"{game.game_id}, position {index}: {text}")

    for index, theirs in enumerate(game.lists()):
        result.positions += 1
        if (ours := hash_text_of(hash_position(tables, position, buffer))) != game.hashes[index]:
            disagree(index, f"the hash is {ours}, not {game.hashes[index]}, after {described(game.moves[index - 1])}")
            return
        last = index == len(packed)
        where = int(position.player), int(position.phase)
        if where != (game.players[index], game.phases[index]):
            if position.status == ACTIVE:
                disagree(index, f"player {where[0]} in {Phase(where[1]).name}, not player {game.players[index]}")
            result.applied["finished"] += 1
        if STATUSES[position.status] != (game.status if last else "active"):
            disagree(index, f"the status is {STATUSES[position.status]}")
        count = int(list_moves(tables, position, listed.rows, listed.cells))
        _write_keys(listed.rows, count, _COLUMNS, keys)
        own: set[Key] = set(keys[:count].tolist())
        rows = listed.rows[:count]
        if phase_has_lists(position.phase) and (found := np.flatnonzero(np.isin(rows[:, m.TYPE], list(LISTED)))).size:
            own.difference_update(keys[found].tolist())
            own.update(key_of(rows[at], listed.cells) for at in found)
        if own != theirs:
            own, applied = _as_first_runs(own, theirs)
            result.applied["runs of a recovery"] += applied
            if own != theirs:
                disagree(index, _difference(own, theirs))
        for name in _shown(game, index, position, rows, theirs):
            result.occurred.setdefault(name, []).append((game.game_id, index))
        if not last:
            if game.moves[index] not in theirs and not _a_further_run(game.moves[index], theirs):
                disagree(index, f"the move played, {described(game.moves[index])}, is not in RingRift's list")
            play(tables, position, packed.rows[index], packed.cells)
    ending = Ending(int(ending_of(tables, position, packed.rows[-1, m.TYPE])))
    if ending:
        result.occurred.setdefault(f"ending {_ending_name(ending, position)}", []).append((game.game_id, len(packed)))
    winner = int(position.winner) or None
    if winner != game.winner:
        if ending == Ending.STALEMATE and game.config.players > 2 and game.winner == _stalemate_winner_anew(position):
            result.applied["stalemate of several"] += 1
        else:
            disagree(len(packed), f"the winner is {winner}, not {game.winner}")


def phase_has_lists(phase: int) -> bool:
    """Whether moves of a phase may have lists of cells."""
    return phase in (Phase.MOVEMENT, Phase.LINE_PROCESSING, Phase.TERRITORY_PROCESSING)


def _without_run(key: Key) -> Key:
    return key[:5] if isinstance(key, tuple) and key[0] == MoveType.RECOVERY_SLIDE and key[4] == 2 else key


def _as_first_runs(ours: set[Key], theirs: set[Key]) -> tuple[set[Key], bool]:
    """Our list without the runs of a recovery that RingRift's has another run of."""
    runs = {_without_run(key) for key in theirs if _without_run(key) != key}
    further = {key for key in ours - theirs if _without_run(key) in runs}
    return ours - further, bool(further)


def _a_further_run(key: Key, theirs: set[Key]) -> bool:
    return _without_run(key) != key and _without_run(key) in {_without_run(other) for other in theirs}


def _difference(ours: set[Key], theirs: set[Key]) -> str:
    parts = []
    for who, keys in (("only RingRift lists", theirs - ours), ("only we list", ours - theirs)):
        if keys:
            parts.append(f"{who} {len(keys)}: " + ", ".join(sorted(map(described, keys))[:3]))
    return "; ".join(parts)


def _stalemate_winner_anew(position: Position) -> int:
    """Who wins a stalemate where each step of the ladder compares all players."""
    seats = range(1, int(position.players) + 1)
    for score in (
        lambda seat: np.count_nonzero(position.collapsed == seat),
        lambda seat: position.eliminated[seat] + position.hand[seat],
        lambda seat: np.count_nonzero(position.marker == seat),
    ):
        scores = [int(score(seat)) for seat in seats]
        if max(scores) > 0 and scores.count(max(scores)) == 1:
            return scores.index(max(scores)) + 1
    return int(position.last_player)


def _shown(game: CorpusGame, index: int, position: Position, rows: NDArray[np.int64], theirs: set[Key]) -> Iterator[str]:
    """What a position is an example of."""
    phase = Phase(int(position.phase))
    yield f"phase {phase.name.lower()}"
    if index < len(game.moves):
        yield f"played {_kind(game.moves[index])}"
    if phase == Phase.MOVEMENT:
        recoveries = rows[rows[:, m.TYPE] == MoveType.RECOVERY_SLIDE]
        for mode, option in sorted(set(zip(recoveries[:, m.MODE].tolist(), recoveries[:, m.OPTION].tolist(), strict=True))):
            yield f"recovery {RecoveryMode(mode).name.lower()}" + (f" option {option}" if mode == RecoveryMode.LINE else "")
    elif phase == Phase.LINE_PROCESSING:
        lengths = [len(line) for line in {key[1] for key in theirs if isinstance(key, tuple)}]
        if game.config.line_length in lengths:
            yield "line of the required length"
        if any(length > game.config.line_length for length in lengths):
            yield "line that is longer"
        if len(lengths) > 1:
            yield "line beside another"
        if position.pending_line:
            yield "line to be paid for"
    elif phase == Phase.TERRITORY_PROCESSING:
        regions = sum(isinstance(key, tuple) for key in theirs)
        if regions:
            yield "region" if regions == 1 else "region beside another"
        if (rows[:, m.TYPE] == MoveType.ELIMINATE_RINGS_FROM_STACK).any():
            yield f"region to be paid for, context {EliminationContext(int(rows[0, m.CONTEXT])).name.lower()}"
    elif (rows[:, m.TYPE] == MoveType.SWAP_SIDES).any():
        yield "swap offered"


def _ending_name(ending: Ending, position: Position) -> str:
    name = ending.name.lower()
    if ending == Ending.LAST_PLAYER_STANDING:
        rings = position.hand + position.on_board
        return f"{name} by {'rounds' if rings.sum() > rings[position.winner] else 'rings'}"
    if ending == Ending.STALEMATE:
        return f"{name} with{'' if position.hand.sum() else 'out'} rings in hand"
    return name


def _kind(key: Key) -> str:
    """The type of a move with what tells its variants apart."""
    kind, fields = fields_of(key)
    name = kind.name.lower()
    if kind == MoveType.RECOVERY_SLIDE:
        return f"{name} {RecoveryMode(fields[0]).name.lower()}" + (f" option {fields[3]}" if fields[3] else "")
    if kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        return f"{name} {EliminationContext(fields[1]).name.lower()}"
    if kind == MoveType.PLACE_RING:
        return f"{name} {fields[1]}"
    return name
