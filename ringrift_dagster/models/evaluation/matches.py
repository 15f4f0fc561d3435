"""Playing evaluation games in blocks: one opening, the candidate once in every seat, by several processes.

The games are canonical games like any others, recorded in a database of their own and judged by the gate; their source keeps them
out of every training set. What the results mean is for `records` and `models.promotion`.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from ringrift_dagster.ai.playing import Arena, Stopped
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Policy
from ringrift_dagster.ai.registry import PolicySpec, parse_spec
from ringrift_dagster.ai.seeds import path_of, seed
from ringrift_dagster.ai.selfplay import ENGINE_VERSION
from ringrift_dagster.ai.workers import MAX_WORKERS, results, stopped
from ringrift_dagster.canonical.gate import judge_holdout
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.games.recording import GameRecorder, GameRows, PlayedGame, RecordingError, Seat, game_rows
from ringrift_dagster.models.evaluation.records import (
    HARNESS,
    Blocks,
    EvaluationGame,
    Participant,
    Result,
    Series,
    blocks_of,
    next_blocks,
)
from ringrift_dagster.models.evaluation.store import EvidenceStore

SOURCE: Final = "evaluation"
"""The source that evaluation games record."""
OPENING_ROUNDS: Final = 2
"""How many moves every player makes at random before the policies begin."""
MAX_BLOCKS: Final = 100_000
HARNESS_VERSION: Final = f"{HARNESS}-{ENGINE_VERSION}"
"""The version of who plays here: games of another engine are no evidence beside these."""
MAX_DETAIL: Final = 500
"""Characters of the reason of a void game."""
BATCH: Final = 50
"""Blocks that a worker is given before those without a result are tried again."""

_IDS: Final = uuid.UUID("0e7c7a52-8f5d-5d0e-9a43-5a7a0b1f5c11")
"""Namespace of the ids of evaluation games."""

Progress = Callable[[int, int], None]
"""Called with (blocks that count, blocks that are to count)."""


class UnknownParticipant(ValueError):
    """A participant that cannot play; the message is one line."""


def registry_participant(spec: PolicySpec) -> Participant:
    """An AI of the registry as a participant."""
    return Participant(str(spec), HARNESS_VERSION)


@dataclass(frozen=True)
class Match:
    """A series and where its models' files are, by SHA-256. Picklable, for the processes that play."""

    series: Series
    files: tuple[tuple[str, Path], ...] = ()

    @property
    def config(self) -> Config:
        """The config of all games."""
        return parse_config(self.series.config)


@dataclass(frozen=True)
class PlayedBlock:
    """The games of a block: for every game its evidence, and its rows for a game database unless it is void."""

    games: tuple[EvaluationGame, ...]
    rows: tuple[GameRows, ...]


def evaluate(
    match: Match,
    blocks: int,
    store: EvidenceStore,
    database: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    stop: Callable[[Blocks], bool] | None = None,
) -> int:
    """Play until the series has `blocks` blocks, as far as they can be played; returns how many were played now.

    `stop` is asked, before the first block and after every one, with the blocks that count by then; when it holds, the games in
    progress are given up. A block becomes evidence once all its games are in `database` and the gate accepts what it reads there:
    evidence without a canonical game does not exist. Blocks that an interruption lost are played again, with the same result.
    Raises UnknownParticipant, RecordingError, DatabaseUnreadable, WorkerLost, ConflictingEvidence, sqlite3.Error, and ValueError
    for a number out of range.
    """
    if not 1 <= blocks <= MAX_BLOCKS:
        raise ValueError(f"the number of blocks is 1 to {MAX_BLOCKS:,}, not {blocks}")
    if not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"the number of workers is 1 to {MAX_WORKERS}, not {workers}")
    series, config = match.series, match.config
    _players(match)  # says what cannot play before anything is written
    games = store.games(series)

    def missing() -> list[tuple[int, int]]:
        """The next blocks to play. They are few, so that a block that ended without a result is soon tried again."""
        if stop is not None and stop(blocks_of(games, config)):
            return []
        return next_blocks(games, store.attempts(series), config, blocks)[: BATCH * workers]

    if not missing():
        return 0
    played = 0
    with GameRecorder(database, config, {"purpose": SOURCE}, durable=True) as recorder:
        recorded = recorder.digests()
        games = store.games(series)  # whoever had the database before may have added some
        while todo := missing():
            with results(partial(play_block, match), todo, workers) as batch:
                for block in batch:
                    evidence = _keep(block, recorder, recorded)
                    store.add(evidence)
                    games += evidence
                    played += 1
                    if progress is not None:
                        progress(blocks_of(games, config).complete, blocks)
                    if stop is not None and stop(blocks_of(games, config)):
                        return played
            games = store.games(series)
    return played


def _keep(block: PlayedBlock, recorder: GameRecorder, recorded: dict[str, str]) -> list[EvaluationGame]:
    """Write the games of a block and return its evidence: what the gate does not accept, or was recorded otherwise, is void.

    `recorded` has the digests of all games that the database has, by their ids.
    """
    for rows in block.rows:
        if recorded.setdefault(rows.game_id, rows.digest) == rows.digest:
            recorder.write(rows)
    with GameDatabase(recorder.path, check=False) as database:
        return [
            game if game.result == "void" else _verified(game, database.game(game.game_id), recorder.path) for game in block.games
        ]


def _verified(game: EvaluationGame, record: GameRecord | None, database: Path) -> EvaluationGame:
    if record is None:
        raise RecordingError(database, f"game {game.game_id} was written to it and is not there: run this again")
    verdict = judge_holdout(record)
    if verdict.reason is not None:
        return _void(game, f"the gate rejects the game: {verdict.reason}: {verdict.detail}")
    if verdict.digest != game.digest:
        return _void(game, "the game was played before and recorded with other moves: a participant does not follow its seed")
    return game


def _void(game: EvaluationGame, detail: str) -> EvaluationGame:
    """A game without a result, for this reason."""
    line = " ".join(detail.split())[:MAX_DETAIL].encode(errors="replace").decode()
    return replace(game, result="void", winner_seat=0, moves=0, termination="", digest=None, detail=line)


def play_block(match: Match, task: tuple[int, int]) -> PlayedBlock:
    """Play block and attempt `task`. A game that fails is void, and so is one that cannot be recorded."""
    games: list[EvaluationGame] = []
    rows: list[GameRows] = []
    for seat in range(1, match.config.players + 1):
        game, recorded = _players(match).game(*task, seat)
        games.append(game)
        if recorded is not None:
            rows.append(recorded)
        else:
            _players.cache_clear()  # a policy that failed may have left its scratch space in any state
    return PlayedBlock(tuple(games), tuple(rows))


class Players:
    """The participants of a match in this process; policies are made once."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self._arena = Arena(match.config, stopped)
        files = dict(match.files)
        self._candidate = make_policy(match.series.candidate, match.config, files)
        self._opponent = make_policy(match.series.opponent, match.config, files)

    def game(self, block: int, attempt: int, seat: int) -> tuple[EvaluationGame, GameRows | None]:
        """Play one game; `seat` is the candidate's, from 1."""
        series, config = self.match.series, self.match.config
        opening = (*series.seed_words, block)
        game_id = str(uuid.uuid5(_IDS, path_of(*opening, attempt, seat)))
        game = EvaluationGame(
            series=series,
            block=block,
            attempt=attempt,
            seat=seat,
            game_id=game_id,
            opening_seed=seed(*opening, "opening"),
            harness=HARNESS_VERSION,
            host=socket.gethostname(),
            result="void",
            winner_seat=0,
            moves=0,
            termination="",
            digest=None,
            started=time.time(),
            finished=0.0,
        )
        policies = [self._candidate if number == seat else self._opponent for number in range(1, config.players + 1)]
        try:
            rows = self._play(policies, opening, game_id, seat)
        except Stopped:
            raise
        except Exception as error:  # whatever a policy does must not become a result
            return replace(_void(game, f"{type(error).__name__}: {error}"), finished=time.time()), None
        winner = int(rows.game["winner"] or 0)
        result: Result = "drawn" if not winner else "won" if winner == seat else "lost"
        return replace(
            game,
            result=result,
            winner_seat=winner,
            moves=len(rows.moves),
            termination=str(rows.game["termination_reason"]),
            digest=rows.digest,
            finished=time.time(),
        ), rows

    def _play(self, policies: list[Policy], opening: tuple[str | int, ...], game_id: str, seat: int) -> GameRows:
        config, series = self.match.config, self.match.series
        played = self._arena.play(
            policies,
            (*opening, seat),
            opening=(*opening, "opening"),
            opening_moves=OPENING_ROUNDS * config.players,
        )
        participants = [series.candidate if number == seat else series.opponent for number in range(1, config.players + 1)]
        return game_rows(
            PlayedGame(
                game_id=game_id,
                config=config,
                swap_rule=False,
                moves=played.moves,
                players=tuple(
                    Seat(participant.name.partition(":")[0], profile=participant.key, seed=seed(*opening, seat, number))
                    for number, participant in enumerate(participants, start=1)
                ),
                started=played.started,
                finished=played.finished,
                probabilities=played.probabilities,
                think_ms=played.think_ms,
                source=SOURCE,
                metadata={"seed_path": path_of(*opening, seat), "opening_moves": OPENING_ROUNDS * config.players},
            )
        )


_players = lru_cache(maxsize=1)(Players)
"""The players of a match in this process."""


def make_policy(participant: Participant, config: Config, files: Mapping[str, Path]) -> Policy:
    """The policy of a participant. Raises UnknownParticipant, for a file that is not this model or of another config too."""
    if participant.sha256 is None:
        try:
            spec = parse_spec(participant.name, config)
        except ValueError as error:
            raise UnknownParticipant(str(error)) from error
        return POLICIES[spec.name](config, spec.budget)
    path = files.get(participant.sha256)
    if path is None:
        raise UnknownParticipant(f"the file of model {participant.sha256[:12]} is not here")
    from ringrift_dagster.models.playing import UnplayableModel, model_policy

    try:
        return model_policy(participant.name, config, path, participant.sha256)
    except UnplayableModel as error:
        raise UnknownParticipant(str(error)) from error
