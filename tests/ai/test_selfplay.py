"""Self-play: what a seed determines, whatever plays it and however it is interrupted, and what is recorded of it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ringrift_dagster.ai import selfplay
from ringrift_dagster.ai.findings import findings
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves, Policy
from ringrift_dagster.ai.registry import parse_specs
from ringrift_dagster.ai.seeds import Generator, seed
from ringrift_dagster.ai.selfplay import ENGINE_VERSION, Player, SelfPlay, record
from ringrift_dagster.canonical.gate import Gate, judged_games
from ringrift_dagster.datasets.npz_export import export_databases
from ringrift_dagster.datasets.soft_policy import soft_targets
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.games.moves import MoveType
from ringrift_dagster.games.position import Position, empty_position
from ringrift_dagster.games.recording import SOURCE, RecordingRefused, game_rows
from tests.transfer.processes import children, wait_until

pytestmark = pytest.mark.timeout(900)  # where machine code has to be compiled first, on a machine that others share

PROJECT = Path(__file__).parents[2]
GENEROUS = 400.0
"""Seconds: how long anything may take on a busy machine, where machine code may have to be compiled first."""

GOLDEN = {
    ("square8_2p", "random", False): "b82f151a81384857",
    ("square8_2p", "heuristic", False): "3138f9320968d331",
    ("square8_2p", "mcts:8", False): "ff6d4dadf44abc15",
    ("square8_2p", "heuristic,mcts:4", True): "254025e67172373f",
    ("square8_3p", "heuristic", False): "c377f8568a25710d",
    ("square8_4p", "mcts:8", False): "13696c4a306c5337",
    ("hex8_2p", "random", False): "1506297d0c6ec01a",
    ("hex8_2p", "mcts:8", False): "0ef540ae0bb3366c",
    ("hex8_3p", "heuristic", False): "6f1108ee54e5da9f",
    ("hex8_4p", "random", False): "3cb4b926da57ccb4",
    ("square19_2p", "random", False): "c5312e0f071d14a1",
    ("square19_3p", "heuristic", False): "633bc764225fd067",
    ("hexagonal_2p", "random", False): "be7e0ad3701f322b",
}
"""The beginning of the digest of game 0 from seed 1, as engine version GOLDEN_VERSION plays it."""
GOLDEN_VERSION = "1"


def self_play(key: str, ais: str, root: int = 1, swap_rule: bool = False) -> SelfPlay:
    config = parse_config(key)
    return SelfPlay(config, root, parse_specs(ais, config), swap_rule)


RUN = self_play("square8_2p", "heuristic,mcts:8", root=7)
GAMES = 10


@pytest.fixture(scope="module")
def digests() -> tuple[str, ...]:
    """The digests of the games of RUN, each played by itself."""
    return tuple(game_rows(Player(RUN).game(index)).digest for index in range(GAMES))


@pytest.mark.parametrize(("key", "ais", "swap_rule"), GOLDEN)
def test_a_seed_gives_the_game_that_it_always_gave(key: str, ais: str, swap_rule: bool) -> None:
    """Another game without another ENGINE_VERSION would be recorded, resumed and replayed as if it were the same."""
    assert ENGINE_VERSION == GOLDEN_VERSION, "record GOLDEN anew: its games are those of another engine"
    found = game_rows(Player(self_play(key, ais, swap_rule=swap_rule)).game(0)).digest[:16]
    assert found == GOLDEN[key, ais, swap_rule], "the engine changed: raise ENGINE_VERSION, then record GOLDEN anew"


def test_uncompiled_rules_give_the_same_game() -> None:
    """One game in plain Python; the policies have tests of their own decisions compiled or not."""
    program = "from tests.ai.test_selfplay import *; print(game_rows(Player(self_play('hex8_2p', 'random')).game(0)).digest)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NUMBA_DISABLE_JIT": "1"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (ended.stdout[:16], ended.stderr) == (GOLDEN["hex8_2p", "random", False], "")


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_games_do_not_depend_on_the_number_of_workers(workers: int, digests: tuple[str, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = record(RUN, GAMES, tmp_path / "games.db", workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert written.digests == digests
    assert (written.games, written.resumed) == (GAMES, 0)
    assert seen == [(done, GAMES) for done in range(GAMES + 1)]
    assert list(accepted(tmp_path / "games.db").values()) == list(digests), "in the database, too, in their order"


def test_a_game_depends_on_neither_the_number_of_games_nor_those_before_it(digests: tuple[str, ...], tmp_path: Path) -> None:
    assert record(RUN, 3, tmp_path / "games.db").digests == digests[:3]
    player = Player(RUN)
    assert [game_rows(player.game(index)).digest for index in (5, 2, 5)] == [digests[5], digests[2], digests[5]]


def test_what_is_resumed_is_played_once(digests: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    record(RUN, 3, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM games WHERE game_id = ?", (RUN.game_id(1),))
    with pytest.raises(RecordingRefused, match="add --resume"):
        record(RUN, 5, path)
    written = record(RUN, 5, path, resume=True)
    assert (written.games, written.resumed, written.digests) == (5, 2, digests[:5])
    assert record(RUN, 2, path, resume=True).digests == digests[:2]
    assert sorted(accepted(path).values()) == sorted(digests[:5]), "asking for fewer takes none away"


@pytest.mark.parametrize(
    "other",
    [
        self_play("square8_2p", "heuristic,mcts:8", root=8),
        self_play("square8_2p", "mcts:8,heuristic", root=7),
        self_play("square8_2p", "heuristic,mcts:8", root=7, swap_rule=True),
        self_play("hex8_2p", "heuristic,mcts:8", root=7),
    ],
    ids=["seed", "ais", "swap_rule", "config"],
)
def test_a_database_of_another_run_is_not_resumed(other: SelfPlay, tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    record(RUN, 1, path)
    before = path.read_bytes()
    with pytest.raises(RecordingRefused, match="write to another file") as refused:
        record(other, 2, path, resume=True)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert not {other.game_id(index) for index in range(50)} & {RUN.game_id(index) for index in range(50)}


# Interrupted runs -------------------------------------------------------------------------------------------------------


@contextmanager
def command(path: Path, *options: str, config: str = "square8_2p", games: int = 100_000) -> Iterator[subprocess.Popen[str]]:
    """`ringrift-data selfplay` of the games of RUN, in a process group of its own that ends with the block."""
    words = ["--config", config, "--seed", "7", "--games", str(games), "--out", str(path), *options]
    process = subprocess.Popen(
        # whoever runs the tests in the background of a shell has Ctrl-C ignored
        ["env", "--default-signal=INT", sys.executable, "-m", "ringrift_dagster.cli.main", "selfplay", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that play for it, as soon as there are two."""

    def found() -> list[int]:
        return [pid for pid in children(process.pid) if b"spawn_main" in _proc(pid, "cmdline")]

    assert wait_until(lambda: len(found()) == 2 or process.poll() is not None, GENEROUS)
    return found()


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie: an orphan's may stay for as long as nobody asks for its status."""
    return _proc(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"], [b"X"])


def count_of(path: Path) -> int:
    """How many games another process has committed so far."""
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT COUNT(*) FROM games").fetchone()[0]
    except sqlite3.OperationalError:  # the tables are being made
        return 0


def accepted(path: Path) -> dict[str, str | None]:
    """Ids and digests of the games in a database, in the order of writing; the gate accepts all, under the rule."""
    with GameDatabase(path) as database:
        verdicts = [judged.verdict for judged in judged_games(database, Gate())]
    assert [verdict for verdict in verdicts if verdict.reason is not None or verdict.variant != "rule"] == []
    with closing(sqlite3.connect(path)) as connection:
        order = [game_id for (game_id,) in connection.execute("SELECT game_id FROM games ORDER BY rowid")]
    digests = {verdict.game_id: verdict.digest for verdict in verdicts}
    return {game_id: digests[game_id] for game_id in order}


def wait_for_games(process: subprocess.Popen[str], path: Path, games: int) -> None:
    """Return when the process has committed so many games."""
    assert wait_until(lambda: count_of(path) >= games or process.poll() is not None, GENEROUS)
    assert process.poll() is None, process.communicate()


def test_a_killed_run_is_resumed_and_its_workers_end(tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with command(path, "--ai", "heuristic,mcts:8", "--workers", "2") as process:
        workers = workers_of(process)
        wait_for_games(process, path, 3)
        process.kill()
        assert process.wait(GENEROUS) == -signal.SIGKILL
    assert len(workers) == 2
    assert wait_until(lambda: not any(map(running, workers)), GENEROUS), "orphans go on"
    there = len(accepted(path))
    assert there >= 3
    written = record(RUN, there + 2, path, workers=2, resume=True)
    assert (written.games, written.resumed) == (there + 2, there)
    assert list(accepted(path).values()) == list(written.digests), "no game twice, none left out, in their order"
    assert record(RUN, 3, tmp_path / "whole.db").digests == written.digests[:3]
    player = Player(RUN)
    assert [game_rows(player.game(index)).digest for index in range(there - 1, there + 2)] == list(written.digests[-3:])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_leaves_whole_games_and_one_line(workers: str, digests: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with command(path, "--ai", "heuristic,mcts:8", "--workers", workers) as process:
        wait_for_games(process, path, 2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes in the foreground
        out, err = process.communicate(timeout=GENEROUS)
    assert (process.returncode, out) == (130, "")
    assert err == f"ringrift-data: {path}: interrupted, the games in it are whole: run this again with --resume\n"
    there = len(accepted(path))
    assert record(RUN, there + 1, path, resume=True).digests[:2] == digests[:2]


def test_ctrl_c_does_not_wait_for_long_games(tmp_path: Path) -> None:
    """Games that are being played are given up, also while processes are still starting, and none of these says a word."""
    path = tmp_path / "games.db"
    with command(path, "--ai", "mcts:500", "--workers", "2", config="hexagonal_4p") as process:
        workers = workers_of(process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=GENEROUS)
    assert (process.returncode, out, err.count("\n"), "interrupted" in err) == (130, "", 1, True), err
    assert not any(map(running, workers))
    assert accepted(path) == {}


def test_a_worker_that_is_killed_ends_the_run_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with command(path, "--ai", "mcts:500", "--workers", "2", config="hexagonal_4p") as process:
        workers = workers_of(process)
        os.kill(workers[0], signal.SIGKILL)
        out, err = process.communicate(timeout=GENEROUS)
    assert (process.returncode, out) == (1, "")
    assert err.endswith("a worker process ended unexpectedly (out of memory?): run this again with --resume\n")
    assert err.count("\n") == 1
    assert not any(map(running, workers))
    assert accepted(path) == {}


# Who plays what ---------------------------------------------------------------------------------------------------------


def test_ais_take_the_seats_in_turn() -> None:
    two = self_play("square8_2p", "random,heuristic")
    assert [[str(spec) for spec in two.seats(index)] for index in range(3)] == [
        ["random", "heuristic"],
        ["heuristic", "random"],
        ["random", "heuristic"],
    ]
    three = self_play("hex8_3p", "random,heuristic")
    assert [[str(spec) for spec in three.seats(index)] for index in range(2)] == [
        ["random", "heuristic", "random"],
        ["heuristic", "random", "heuristic"],
    ]
    four = self_play("hex8_4p", "random,heuristic,mcts:4,mcts:8")
    assert {four.seats(index)[0] for index in range(4)} == set(four.ais)


@dataclass
class Watched:
    """Policies that note who was asked for which player; the first to be offered a swap of sides takes it if `swaps`."""

    swaps: bool
    asked: list[tuple[str, int, bool]]
    """(AI, player, whether sides were exchanged before)."""

    def factory(self, name: str) -> Callable[[Config, int | None], Policy]:
        def make(config: Config, budget: int | None) -> Policy:
            def choose(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
                self.asked.append((name, int(position.player), bool(position.swapped)))
                swap = np.flatnonzero(moves.rows[:, m.TYPE] == MoveType.SWAP_SIDES)
                return Choice(int(swap[0]) if len(swap) and self.swaps else 0)

            return choose

        return make


@pytest.mark.parametrize("swaps", [True, False])
def test_after_a_swap_of_sides_each_plays_the_other_colour(swaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(swaps, [])
    for name in ("random", "heuristic"):
        monkeypatch.setitem(selfplay.POLICIES, name, watched.factory(name))
    game = Player(self_play("square8_2p", "random,heuristic", swap_rule=True)).game(0)
    assert (MoveType.SWAP_SIDES in game.moves.rows[:, m.TYPE]) == swaps
    before = {(name, player) for name, player, swapped in watched.asked if not swapped}
    after = {(name, player) for name, player, swapped in watched.asked if swapped}
    assert before == {("random", 1), ("heuristic", 2)}
    assert after == ({("heuristic", 1), ("random", 2)} if swaps else set())
    assert [seat.ai_type for seat in game.players] == ["random", "heuristic"], "as they sat down"


def test_without_the_swap_rule_nobody_is_offered_a_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(True, [])
    monkeypatch.setitem(selfplay.POLICIES, "random", watched.factory("random"))
    game = Player(self_play("square8_2p", "random")).game(0)
    assert MoveType.SWAP_SIDES not in game.moves.rows[:, m.TYPE]


# What is recorded -------------------------------------------------------------------------------------------------------

RECORDED = (
    self_play("square8_2p", "heuristic,mcts:8", swap_rule=True),
    self_play("square8_3p", "mcts:4"),
    self_play("hex8_4p", "random,heuristic"),
    self_play("square19_2p", "random"),
    self_play("hexagonal_2p", "random"),
)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[SelfPlay, Path]:
    """Two games of every run of RECORDED, and more of the first, in which sides are swapped."""
    root = tmp_path_factory.mktemp("recorded")
    paths = {run: root / f"{run.config.key}.db" for run in RECORDED}
    for run, path in paths.items():
        record(run, 8 if run is RECORDED[0] else 2, path)
    return paths


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("run", RECORDED, ids=lambda run: run.config.key)
def test_the_gate_accepts_the_games_with_the_digest_that_they_record(run: SelfPlay, databases: dict[SelfPlay, Path]) -> None:
    recorded = {
        game_id: orjson.loads(metadata)["game_digest"]
        for game_id, metadata in rows_of(databases[run], "SELECT game_id, metadata_json FROM games")
    }
    assert accepted(databases[run]) == recorded
    with GameDatabase(databases[run]) as database:
        assert [finding for game in database.games() for finding in findings(game)] == []


@pytest.mark.parametrize("run", RECORDED, ids=lambda run: run.config.key)
def test_a_game_says_who_played_it_and_from_which_seeds(run: SelfPlay, databases: dict[SelfPlay, Path]) -> None:
    columns = "game_id, source, rng_seed, board_type, num_players, metadata_json"
    rows = rows_of(databases[run], f"SELECT {columns} FROM games ORDER BY rowid")
    for index, (game_id, source, root, board, players, text) in enumerate(rows):
        assert (game_id, source, root, f"{board}_{players}p") == (run.game_id(index), SOURCE, run.root, run.config.key)
        metadata = orjson.loads(text)
        path = (run.root, run.config.key, index)
        assert metadata["seed_path"] == "/".join(map(str, path))
        assert (metadata["source"], metadata["rng_seed"]) == (SOURCE, run.root)
        assert {name.removeprefix("selfplay_"): value for name, value in metadata.items() if name.startswith("selfplay_")} == {
            "seed": str(run.root),
            "ais": ",".join(map(str, run.ais)),
            "swap_rule": str(run.swap_rule).lower(),
            "engine_version": ENGINE_VERSION,
        }
        seats = [(number, spec.name, str(spec)) for number, spec in enumerate(run.seats(index), start=1)]
        query = f"SELECT player_number, ai_type, ai_profile_id FROM game_players WHERE game_id = '{game_id}' ORDER BY 1"
        assert rows_of(databases[run], query) == seats
        for number, name, profile in seats:
            said = {key: metadata[f"player_{number}_{key}"] for key in ("ai_type", "profile_id", "rng_seed")}
            assert said == {"ai_type": name, "profile_id": profile, "rng_seed": seed(*path, number)}


def test_a_search_records_its_probabilities_and_they_become_targets(databases: dict[SelfPlay, Path], tmp_path: Path) -> None:
    run = RECORDED[1]
    query = "SELECT phase, move_probs FROM game_moves WHERE move_probs IS NOT NULL"
    searched = rows_of(databases[run], query)
    assert len(searched) > 20
    assert all(abs(sum(orjson.loads(text).values()) - 1.0) < 1e-9 for _, text in searched)
    targets: list[tuple[np.ndarray, np.ndarray]] = []
    with GameDatabase(databases[run]) as database:
        for judged in judged_games(database, Gate()):
            assert judged.moves is not None
            start = empty_position(run.config, swap_rule=judged.swap_rule)
            targets += [target for _, target in soft_targets(run.config, start, judged.moves, judged.record.probabilities)]
    assert len(targets) == sum(phase != "chain_capture" for phase, _ in searched), "no probability names a move that is not legal"
    assert all(abs(weights.sum() - 1.0) < 1e-6 for _, weights in targets)
    export_databases(run.config.key, [databases[run]], tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=True) as arrays:
        widths = [len(indices) for indices in arrays["policy_indices"]]
    assert sum(width > 1 for width in widths) == sum(len(indices) > 1 for indices, _ in targets) > 20


def test_policies_that_do_not_search_record_no_probabilities(databases: dict[SelfPlay, Path]) -> None:
    assert rows_of(databases[RECORDED[2]], "SELECT 1 FROM game_moves WHERE move_probs IS NOT NULL") == []


def test_boards_whose_games_exceed_ringrifts_cap_of_moves_are_recorded_whole(databases: dict[SelfPlay, Path]) -> None:
    """RingRift's recorder ends a game after 500 moves and then has no winner to store."""
    for run in RECORDED[3:]:
        totals: Sequence[tuple[int, int]] = rows_of(databases[run], "SELECT total_moves, winner FROM games")
        assert all(moves > 500 and winner in (1, 2) for moves, winner in totals)
