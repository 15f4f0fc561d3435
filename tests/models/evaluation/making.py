"""Evidence for tests."""

from __future__ import annotations

from collections.abc import Sequence

from ringrift_dagster.models.evaluation.records import EvaluationGame, Participant, Result, Series

CANDIDATE = Participant("net", "1", "c" * 64)
HEURISTIC = Participant("heuristic", "ringrift_dagster-1")
SERIES = Series("square8_2p", CANDIDATE, HEURISTIC)


def game(
    block: int,
    seat: int,
    result: Result = "won",
    *,
    attempt: int = 0,
    host: str = "a",
    finished: float = 1000.0,
    series: Series = SERIES,
) -> EvaluationGame:
    """One game of a series."""
    name = f"{series.opponent.name}-{block}-{attempt}-{seat}"
    return EvaluationGame(
        series=series,
        block=block,
        attempt=attempt,
        seat=seat,
        game_id=name,
        opening_seed=2**64 - 1 - block,
        harness="ringrift_dagster-1",
        host=host,
        result=result,
        winner_seat={"won": seat, "lost": seat % 2 + 1}.get(result, 0),
        moves=0 if result == "void" else 50,
        termination="",
        digest=None if result == "void" else f"digest of {name}",
        started=finished - 5,
        finished=finished,
        detail="ValueError: no" if result == "void" else None,
    )


def block(number: int, results: Sequence[Result], **values: object) -> list[EvaluationGame]:
    """The games of one block."""
    return [game(number, seat, result, **values) for seat, result in enumerate(results, start=1)]  # type: ignore[arg-type]
