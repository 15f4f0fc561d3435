"""Playing evaluation games in blocks: one opening, the candidate once in every seat, by several processes.

The games are canonical games like any others: recorded in a database of their own with the source `evaluation`, so that the gate
can judge them, and never part of a training set. What the results mean is for `records` and `models.promotion`.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Final

from ringrift_dagster.ai.playing import Arena, Stopped
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Policy
from ringrift_dagster.ai.registry import PolicySpec, parse_spec
from ringrift_dagster.ai.seeds import path_of, seed
from ringrift_dagster.ai.selfplay import ENGINE_VERSION
from ringrift_dagster.ai.workers import results, stopped
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.recording import GameRecorder, GameRows, PlayedGame, Seat, game_rows
from ringrift_dagster.models.evaluation.records import (
    HARNESS,
    EvaluationGame,
    Participant,
    Result,
    Series,
    next_blocks,
)
from ringrift_dagster.models.evaluation.store import EvidenceStore

SOURCE: Final = "evaluation"
"""The source that evaluation games record."""
OPENING_ROUNDS: Final = 2
"""How many moves every player makes at random before the policies begin."""
MAX_BLOCKS: Final = 100_000

_IDS: Final = uuid.UUID("0e7c7a52-8f5d-5d0e-9a43-5a7a0b1f5c11")
"""Namespace of the ids of evaluation games."""

Progress = Callable[[int, int], None]
"""Called with (blocks that were played, blocks to play)."""


class UnknownParticipant(ValueError):
    """A participant that cannot play; the message is one line."""


def registry_participant(spec: PolicySpec) -> Participant:
    """An AI of the registry as a participant."""
    return Participant(str(spec), f"{HARNESS}-{ENGINE_VERSION}")


@dataclass(frozen=True)
class Match:
    """A series and where its models' files are, by SHA-256. Picklable, for the processes that play."""

    series: Series
    files: tuple[tuple[str, Path], ...] = ()

    @property
    def config(self) -> Config:
        """The config of all games. Raises UnknownConfig."""
        return parse_config(self.series.config)


@dataclass(frozen=True)
class PlayedBlock:
    """The games of a block: the evidence of each, and its rows for a game database unless it is void."""

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
) -> int:
    """Play until the series has `blocks` blocks, as far as they can be played; returns how many were played now.

    Every block is written to `database` first and becomes evidence then: evidence without its games does not exist. Blocks that an
    interruption lost are played again, with the same result. Raises UnknownParticipant, RecordingError, WorkerLost,
    ConflictingEvidence, and ValueError for a number out of range.
    """
    if not 1 <= blocks <= MAX_BLOCKS:
        raise ValueError(f"the number of blocks is 1 to {MAX_BLOCKS:,}, not {blocks}")
    config = match.config
    Players(match)  # says what cannot play before anything is written
    done = 0
    todo = next_blocks(store.games(match.series), store.attempts(match.series), config, blocks)
    while todo:
        with (
            GameRecorder(database, config, {"purpose": SOURCE}) as recorder,
            results(partial(play_block, match), todo, workers) as played,
        ):
            for block in played:
                known = recorder.digests()
                for rows in block.rows:
                    if rows.game_id not in known:
                        recorder.write(rows)
                store.add(block.games)
                done += 1
                if progress is not None:
                    progress(done, len(todo))
        todo = next_blocks(store.games(match.series), store.attempts(match.series), config, blocks)
    return done


def play_block(match: Match, task: tuple[int, int]) -> PlayedBlock:
    """Play block and attempt `task`. A game that fails is void, and so is one that cannot be recorded."""
    games: list[EvaluationGame] = []
    rows: list[GameRows] = []
    for seat in range(1, match.config.players + 1):
        game, recorded = _players(match).game(*task, seat)
        games.append(game)
        if recorded is not None:
            rows.append(recorded)
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
            harness=f"{HARNESS}-{ENGINE_VERSION}",
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
            detail = f"{type(error).__name__}: {error}".replace("\n", " ")[:500]
            return replace(game, finished=time.time(), detail=detail), None
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


_players = cache(Players)
"""The players of a match in a worker process."""


def make_policy(participant: Participant, config: Config, files: Mapping[str, Path]) -> Policy:
    """The policy of a participant. Raises UnknownParticipant."""
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
