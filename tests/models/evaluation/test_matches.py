"""Evaluation games: played in blocks, judged by the gate, never trained on; what goes wrong is never a defeat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.heuristic import heuristic_policy
from ringrift_dagster.ai.policies.interface import Choice, Factory, LegalMoves, Policy
from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.canonical.gate import GameVerdict, Gate, judge_holdout, judged_games, verify
from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.datasets.npz_export import ExportError, export_databases
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.games.position import Position
from ringrift_dagster.games.recording import GameRecorder, RecordingRefused
from ringrift_dagster.home import Home
from ringrift_dagster.models.evaluation import matches
from ringrift_dagster.models.evaluation.matches import (
    SOURCE,
    Match,
    UnknownParticipant,
    evaluate,
    play_block,
    registry_participant,
)
from ringrift_dagster.models.evaluation.records import (
    MAX_ATTEMPTS,
    Blocks,
    EvaluationGame,
    Participant,
    Series,
    blocks_of,
    exhausted_block,
)
from ringrift_dagster.models.evaluation.store import ConflictingEvidence, EvidenceStore
from tests.models.checkpoints.files import good
from tests.models.evaluation.making import game


@pytest.fixture(autouse=True)
def _no_policies_of_other_tests() -> Iterator[None]:
    matches._players.cache_clear()
    yield
    matches._players.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EvidenceStore]:
    with EvidenceStore(tmp_path / "evidence.db") as opened:
        yield opened


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "games.db"


def match_of(key: str, candidate: str = "heuristic", opponent: str = "random") -> Match:
    config = parse_config(key)
    names = (registry_participant(parse_spec(name, config)) for name in (candidate, opponent))
    return Match(Series(key, *names))


HEX = match_of("hex8_2p")


def outcomes(games: list[EvaluationGame]) -> list[tuple[object, ...]]:
    """What has to be the same however often and by how many processes games were played."""
    ordered = sorted(games, key=lambda game: (game.block, game.attempt, game.seat))
    return [
        (game.block, game.attempt, game.seat, game.game_id, game.result, game.moves, game.digest, game.opening_seed)
        for game in ordered
    ]


def records(database: Path) -> dict[str, GameRecord]:
    with GameDatabase(database) as opened:
        return {record.game_id: record for record in opened.games()}


@pytest.mark.parametrize("key", ["hex8_2p", "square8_2p", "square8_3p"])
def test_every_seat_is_played_from_one_opening_and_every_game_is_recorded(key: str, store: EvidenceStore, database: Path) -> None:
    match = match_of(key)
    config = match.config
    assert evaluate(match, 3, store, database) == 3
    games = store.games(match.series)
    assert [(entry.block, entry.seat) for entry in games] == [(b, s) for b in range(3) for s in range(1, config.players + 1)]
    recorded = records(database)
    assert recorded.keys() == {entry.game_id for entry in games}
    for entry in games:
        record = recorded[entry.game_id]
        verdict = judge_holdout(record)
        assert (verdict.reason, verdict.digest) == (None, entry.digest)
        assert (record.row["winner"] or 0, len(record.moves)) == (entry.winner_seat, entry.moves)
        assert entry.result == ("drawn" if not entry.winner_seat else "won" if entry.winner_seat == entry.seat else "lost")
        names = [player.ai_type for player in record.players]
        assert names == ["heuristic" if seat == entry.seat else "random" for seat in range(1, config.players + 1)]
    openings = {
        block: {tuple(str(move.record.get("to")) for move in recorded[entry.game_id].moves[: config.players]) for entry in of_block}
        for block in range(3)
        if (of_block := [entry for entry in games if entry.block == block])
    }
    assert all(len(opening) == 1 for opening in openings.values())
    assert len(set.union(*openings.values())) == 3


def test_a_heuristic_beats_chance(store: EvidenceStore, database: Path) -> None:
    evaluate(HEX, 10, store, database)
    assert blocks_of(store.games(HEX.series), HEX.config).mean() > 0.9


def test_several_processes_play_the_same_games_as_one(store: EvidenceStore, database: Path, tmp_path: Path) -> None:
    evaluate(HEX, 6, store, database)
    with EvidenceStore(tmp_path / "other.db") as other:
        seen: list[tuple[int, int]] = []
        evaluate(HEX, 6, other, tmp_path / "others.db", workers=2, progress=lambda *numbers: seen.append(numbers))
        assert outcomes(other.games(HEX.series)) == outcomes(store.games(HEX.series))
        assert seen == [(number, 6) for number in range(1, 7)]


def test_what_is_there_is_not_played_again(store: EvidenceStore, database: Path) -> None:
    evaluate(HEX, 2, store, database)
    first = store.games(HEX.series)
    assert evaluate(HEX, 2, store, database) == 0
    assert evaluate(HEX, 4, store, database) == 2
    assert store.games(HEX.series)[:4] == first


@pytest.mark.parametrize(("blocks", "workers"), [(0, 1), (matches.MAX_BLOCKS + 1, 1), (1, 0), (1, 65)])
def test_numbers_out_of_range_are_refused(blocks: int, workers: int, store: EvidenceStore, database: Path) -> None:
    with pytest.raises(ValueError, match="the number of"):
        evaluate(HEX, blocks, store, database, workers=workers)
    assert not database.exists()


# What the games may be used for


def test_evaluation_games_are_kept_out_of_training(store: EvidenceStore, database: Path, tmp_path: Path) -> None:
    evaluate(HEX, 3, store, database)
    assert {record.row["source"] for record in records(database).values()} == {SOURCE}
    (report,) = verify([database])
    assert (report.verdict, report.reasons) == ("rejected", {"holdout_source": 6})
    with pytest.raises(ExportError, match=r"no canonical hex8_2p game .*6 holdout_source"):
        export_databases("hex8_2p", [database], tmp_path / "out.npz")
    result = append_canonical("hex8_2p", [database], Home(tmp_path / "home"))
    assert (result.accepted, result.games_total, result.reasons) == (0, 0, {"holdout_source": 6})


def test_a_game_is_for_training_or_for_evaluation_and_never_for_both(store: EvidenceStore, database: Path) -> None:
    evaluate(HEX, 1, store, database)
    with GameDatabase(database) as opened:
        judged = list(judged_games(opened, Gate()))
        for one in judged:
            as_training = replace(one.record, row={**one.record.row, "source": "selfplay"})
            assert (one.verdict.reason, judge_holdout(one.record).reason) == ("holdout_source", None)
            assert (Gate().judge(as_training).verdict.reason, judge_holdout(as_training).reason) == (None, "holdout_source")


def test_nothing_but_evaluation_asks_for_games_that_are_kept_for_it() -> None:
    package = Path(matches.__file__).parents[2]
    users = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "judge_holdout" in path.read_text()}
    assert users == {"canonical/gate.py", "models/evaluation/matches.py"}


# Games without a result


class Crash(Exception):
    """The failure of a policy."""


def failing(when: Callable[[Position], bool], error: Exception | int) -> Factory:
    """The heuristic, which raises an error, or chooses an alternative that is not there, when something holds."""

    def make(config: Config, budget: int | None) -> Policy:
        actual = heuristic_policy(config, None)

        def choose(position: Position, moves: LegalMoves, generator: Generator, /) -> Choice:
            if not when(position):
                return actual(position, moves, generator)
            if isinstance(error, int):
                return Choice(error)
            raise error

        return choose

    return make


@pytest.mark.parametrize(
    "error", [Crash("the GPU\nis gone"), Crash("\ud800" * 1000), MemoryError(), RecursionError(), -1, 4000, 10**9], ids=ascii
)
def test_a_policy_that_fails_gets_no_result_and_no_defeat(
    error: Exception | int, store: EvidenceStore, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "heuristic", failing(lambda position: True, error))
    assert evaluate(HEX, 5, store, database) == 5 * MAX_ATTEMPTS
    games = store.games(HEX.series)
    assert {entry.result for entry in games} == {"void"}
    assert all((entry.digest, entry.winner_seat, entry.moves) == (None, 0, 0) for entry in games)
    assert all(entry.detail and "\n" not in entry.detail for entry in games)
    assert records(database) == {}
    assert blocks_of(games, HEX.config).scores == ()
    assert exhausted_block(games, store.attempts(HEX.series), HEX.config) == 0
    assert evaluate(HEX, 9, store, database) == 0, "no block behind one that cannot be completed would count"


def test_a_policy_that_fails_in_one_seat_gets_no_block(
    store: EvidenceStore, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "heuristic", failing(lambda position: position.player == 2, Crash("second")))
    evaluate(HEX, 2, store, database)
    games = store.games(HEX.series)
    assert {(entry.seat, entry.result == "void") for entry in games} == {(1, False), (2, True)}
    assert blocks_of(games, HEX.config).complete == 0
    assert records(database).keys() == {entry.game_id for entry in games if entry.seat == 1}
    results = {(entry.block, entry.digest) for entry in games if entry.seat == 1}
    assert len(results) == 2, "a further attempt is the same game: nobody can play until the result pleases"


def test_a_block_with_a_failure_that_passes_is_played_again(
    store: EvidenceStore, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True])
    actual = matches.Players.game

    def once(self: matches.Players, block: int, attempt: int, seat: int) -> object:
        with monkeypatch.context() as patched:
            if block == 1 and seat == 2 and next(failures, False):
                patched.setattr(self, "_candidate", failing(lambda position: True, Crash("once"))(self.match.config, None))
                patched.setattr(self, "_opponent", self._candidate)
            return actual(self, block, attempt, seat)

    monkeypatch.setattr(matches.Players, "game", once)
    assert evaluate(HEX, 3, store, database) == 4
    games = store.games(HEX.series)
    assert [(entry.block, entry.attempt, entry.seat) for entry in games if entry.result == "void"] == [(1, 0, 2)]
    monkeypatch.undo()
    with EvidenceStore(tmp_path / "other.db") as other:
        evaluate(HEX, 3, other, tmp_path / "others.db")
        assert blocks_of(other.games(HEX.series), HEX.config).scores == blocks_of(games, HEX.config).scores


def test_what_the_gate_rejects_is_no_evidence(store: EvidenceStore, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rejecting(record: GameRecord) -> GameVerdict:
        verdict = judge_holdout(record)
        return verdict if record.players[0].ai_type == "random" else replace(verdict, reason="illegal_move", detail="no such move")

    monkeypatch.setattr(matches, "judge_holdout", rejecting)
    evaluate(HEX, 1, store, database)
    games = store.games(HEX.series)
    assert {(entry.seat, entry.result == "void") for entry in games} == {(1, True), (2, False)}
    assert {entry.detail for entry in games if entry.seat == 1} == {"the gate rejects the game: illegal_move: no such move"}


def test_a_retracted_game_is_played_again_and_is_the_same(store: EvidenceStore, database: Path) -> None:
    evaluate(HEX, 3, store, database)
    first = store.games(HEX.series)
    assert store.retract(first[2].game_id, "anna", "a host with a broken GPU", 5.0)
    assert blocks_of(store.games(HEX.series), HEX.config).complete == 1
    assert evaluate(HEX, 3, store, database) == 1
    games = store.games(HEX.series)
    assert blocks_of(games, HEX.config).scores == blocks_of(first, HEX.config).scores
    again = next(entry for entry in games if (entry.block, entry.attempt, entry.seat) == (1, 1, first[2].seat))
    assert (again.digest, again.game_id == first[2].game_id) == (first[2].digest, False)


# Interruptions, and several at once


@pytest.mark.parametrize("after", range(1, 7))
def test_a_game_without_evidence_is_harmless(
    after: int, store: EvidenceStore, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks are six steps: a game is written, another one, then their evidence, twice. It ends after one of them."""
    steps = count(1)

    def interrupted(actual: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            result = actual(*arguments)
            if next(steps) == after:
                raise KeyboardInterrupt
            return result

        return step

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GameRecorder, "write", interrupted(GameRecorder.write))
        patched.setattr(EvidenceStore, "add", interrupted(EvidenceStore.add))
        evaluate(HEX, 3, store, database)
    assert (len(store.games(HEX.series)), len(records(database))) == (after // 3 * 2, after - after // 3)
    evaluate(HEX, 3, store, database)
    assert {entry.game_id for entry in store.games(HEX.series)} == records(database).keys()
    with EvidenceStore(tmp_path / "other.db") as other:
        evaluate(HEX, 3, other, tmp_path / "others.db")
        assert outcomes(other.games(HEX.series)) == outcomes(store.games(HEX.series))


def test_a_participant_that_does_not_follow_its_seed_gets_a_new_attempt(store: EvidenceStore, database: Path) -> None:
    """Its game was recorded by an evaluation that was interrupted, and is now another one: neither result is evidence."""
    other = match_of("hex8_2p", "random", "heuristic")
    block = play_block(HEX, (0, 0))
    foreign = [replace(rows, game_id=mine.game_id) for rows, mine in zip(play_block(other, (0, 0)).rows, block.rows, strict=True)]
    with GameRecorder(database, HEX.config, {"purpose": SOURCE}) as recorder:
        recorder.write(foreign[0])
    evaluate(HEX, 1, store, database)
    games = store.games(HEX.series)
    assert [(entry.attempt, entry.seat, entry.result == "void") for entry in games] == [
        (0, 1, True),
        (0, 2, False),
        (1, 1, False),
        (1, 2, False),
    ]
    assert "other moves" in str(games[0].detail)


SCRIPT = """
import sys
from pathlib import Path
from ringrift_dagster.models.evaluation.matches import evaluate
from ringrift_dagster.models.evaluation.store import EvidenceStore
from tests.models.evaluation.test_matches import HEX

with EvidenceStore(Path(sys.argv[1])) as store:
    evaluate(HEX, int(sys.argv[3]), store, Path(sys.argv[2]), progress=lambda *numbers: print(*numbers, flush=True))
"""


def started(store: Path, database: Path, blocks: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SCRIPT, str(store), str(database), str(blocks)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_after_a_kill_evidence_has_its_games_and_the_rest_is_played(store: EvidenceStore, database: Path, tmp_path: Path) -> None:
    with started(tmp_path / "evidence.db", database, 1000) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    killed = store.games(HEX.series)
    assert len(killed) >= 6
    assert {entry.game_id for entry in killed} <= records(database).keys()
    blocks = len(killed) // 2 + 1
    evaluate(HEX, blocks, store, database)
    with EvidenceStore(tmp_path / "other.db") as other:
        evaluate(HEX, blocks, other, tmp_path / "others.db")
        assert outcomes(other.games(HEX.series)) == outcomes(store.games(HEX.series))


def test_processes_that_evaluate_one_series_at_once_agree(store: EvidenceStore, tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(tmp_path / "evidence.db", tmp_path / f"games-{number}.db", 8)) for number in range(2)
        ]
        ended = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    games = store.games(HEX.series)
    assert [(entry.block, entry.attempt) for entry in games if entry.seat == 1] == [(block, 0) for block in range(8)]
    both = [records(tmp_path / f"games-{number}.db") for number in range(2)]
    assert all(entry.game_id in both[0] or entry.game_id in both[1] for entry in games)


def test_one_process_at_a_time_writes_to_a_database(store: EvidenceStore, database: Path) -> None:
    with GameRecorder(database, HEX.config, {"purpose": SOURCE}), pytest.raises(RecordingRefused, match="another process"):
        evaluate(HEX, 1, store, database)
    assert store.games(HEX.series) == []


def test_another_outcome_of_a_recorded_game_is_refused(store: EvidenceStore, database: Path) -> None:
    """Somebody else records the second block, with another outcome, while it is played here."""
    first, *_ = play_block(HEX, (1, 0)).games
    other = {"won": ("lost", first.seat % 2 + 1)}.get(first.result, ("won", first.seat))
    conflict = replace(first, result=other[0], winner_seat=other[1], digest="0" * 64)

    def meanwhile(blocks: Blocks) -> bool:
        if blocks.complete == 1:
            store.add([conflict])
        return False

    with pytest.raises(ConflictingEvidence):
        evaluate(HEX, 2, store, database, stop=meanwhile)
    assert [entry.block for entry in store.games(HEX.series)] == [0, 0, 1]
    assert conflict in store.games(HEX.series)


# Stopping early


@pytest.mark.parametrize("workers", [1, 2])
def test_it_stops_when_the_caller_has_decided(workers: int, store: EvidenceStore, database: Path) -> None:
    seen: list[Blocks] = []

    def stop(blocks: Blocks) -> bool:
        seen.append(blocks)
        return blocks.complete >= 4

    assert evaluate(HEX, 1000, store, database, workers=workers, stop=stop) == 4
    numbers = [blocks.complete for blocks in seen]
    assert (numbers[0], numbers[-1], numbers) == (0, 4, sorted(numbers))
    assert len(store.games(HEX.series)) == 8
    assert evaluate(HEX, 1000, store, database, stop=stop) == 0


# Participants


def test_participants_that_cannot_play_are_refused_before_anything_is_written(store: EvidenceStore, database: Path) -> None:
    unknown = Match(replace(HEX.series, opponent=Participant("grandmaster", "1")))
    model = Match(replace(HEX.series, candidate=Participant("net", "1", "a" * 64)))
    for match, line in ((unknown, "grandmaster"), (model, "the file of model aaaaaaaaaaaa is not here")):
        with pytest.raises(UnknownParticipant, match=line) as refused:
            evaluate(match, 1, store, database)
        assert "\n" not in str(refused.value)
    assert not database.exists()


def test_a_file_with_other_content_than_the_models_does_not_play(store: EvidenceStore, database: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(good("hex_v3_flat_hex8_2p"))
    sha256 = "0" * 64
    match = Match(replace(HEX.series, candidate=Participant("policy_only", "1", sha256)), ((sha256, path),))
    with pytest.raises(UnknownParticipant, match=f"not {sha256[:12]}"):
        evaluate(match, 1, store, database)
    path.write_bytes(b"no model")
    with pytest.raises(UnknownParticipant, match="unknown_format: "):
        evaluate(match, 1, store, database)
    assert not database.exists()


def test_openings_follow_from_the_participants_alone() -> None:
    one, other = game(3, 1).series, replace(game(3, 1).series, candidate=Participant("net", "1", "d" * 64))
    assert one.seed_words != other.seed_words
    assert one.seed_words == Series(one.config, one.candidate, one.opponent).seed_words
