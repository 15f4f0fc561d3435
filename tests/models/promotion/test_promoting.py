"""From candidates and evidence to recorded decisions; rollback and pin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ringrift_dagster.datasets.canonical_games import stored_digests
from ringrift_dagster.datasets.training_sets import TrainingSet
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Candidate, UnknownCandidate, directory, register
from ringrift_dagster.models.checkpoints.description import read_checkpoint
from ringrift_dagster.models.evaluation.records import EvaluationGame, Participant, Result, Series
from ringrift_dagster.models.evaluation.store import EvidenceStore
from ringrift_dagster.models.promotion.decision import PromotionRules
from ringrift_dagster.models.promotion.log import CurrentChanged, DecisionLog, Pinned
from ringrift_dagster.models.promotion.promoting import (
    Assessment,
    NothingToDo,
    assess,
    evidence_path,
    log_path,
    model_participant,
    opponents_of,
    pin,
    publish_current,
    published_path,
    record,
    rollback,
)
from ringrift_dagster.models.publishing.published_set import read_set
from tests.models.conftest import CONFIG
from tests.models.evaluation.making import block, game
from tests.models.making import model_file

PARSED = parse_config(CONFIG)
RULES = PromotionRules(floors={"random": 0.3}, min_blocks=10, max_blocks=60, floor_blocks=10)
STRONG: tuple[Result, ...] = ("won", "won", "won", "lost")
EVEN: tuple[Result, ...] = ("won", "lost", "lost", "lost")
WEAK: tuple[Result, ...] = ("lost", "lost", "lost", "lost")

Make = Callable[..., Candidate]


@pytest.fixture
def make(home: Home, trained: TrainingSet, tmp_path: Path) -> Make:
    """Registers a model that qualifies; another seed is another model."""

    def register_one(seed: int) -> Candidate:
        assert trained.newest_game is not None
        began = (trained.newest_game + timedelta(hours=1)).timestamp()
        file = model_file(tmp_path / "model.pth", CONFIG, seed)
        return register(
            home, file, PARSED, origin="test", who="anna", training_data_sha256=trained.sha256, training_began=began
        )  # fmt: skip

    return register_one


def played(home: Home, sha256: str, opponent: Participant, *results: Sequence[Result], ended: float = 1000.0) -> None:
    """Evidence of 100 blocks: with these results in turn, or, if they are one, varied a little so that they have a variance."""
    series = Series(CONFIG, model_participant(sha256, RULES), opponent)
    turns = results if len(results) > 1 else (("won", *results[0][1:]), results[0], results[0])
    with EvidenceStore(evidence_path(home)) as store:
        for number in range(100):
            games = block(number, turns[number % len(turns)], series=series, finished=ended + number)
            store.add([_named(entry, f"{sha256[:8]}-{opponent.key}") for entry in games])


def _named(entry: EvaluationGame, prefix: str) -> EvaluationGame:
    return replace(entry, game_id=f"{prefix}-{entry.game_id}", digest=f"{prefix}-{entry.digest}")


def judged(home: Home, candidate: Candidate) -> Assessment:
    return assess(home, candidate, rules=RULES, now=2000.0)


def reasons(assessment: Assessment) -> list[str]:
    return [reason.code for reason in assessment.decision.reasons]


def baseline(home: Home) -> Participant:
    return opponents_of(PARSED, None, RULES)["random"]


def promoted(home: Home, candidate: Candidate) -> Candidate:
    """Make a candidate current as the first model of its config."""
    played(home, candidate.sha256, baseline(home), STRONG)
    assert record(home, judged(home, candidate), "anna") is not None
    return candidate


def test_the_first_model_needs_the_floors_only(home: Home, make: Make) -> None:
    candidate = make(1)
    assert judged(home, candidate).decision.verdict == "continue"
    played(home, candidate.sha256, baseline(home), STRONG)
    assessment = judged(home, candidate)
    assert (assessment.decision.verdict, assessment.current) == ("promote", None)
    entry = record(home, assessment, "anna")
    assert entry is not None
    assert (entry.kind, entry.sha256, entry.who, entry.why) == ("promote", candidate.sha256, "anna", assessment.decision.rationale)
    assert entry.record["training_set"]["game_digests_root"] == assessment.qualification.training_set.game_digests_root  # type: ignore[union-attr]
    assert entry.record["decision"]["floors"]["random"]["blocks"] == 10


@pytest.mark.parametrize(
    ("results", "verdict", "codes"),
    [(STRONG, "promote", []), (WEAK, "refuse", ["not_stronger"]), (None, "continue", ["too_few_blocks"])],
    ids=["stronger", "weaker", "not played"],
)
def test_a_later_one_has_to_beat_the_current_one(
    results: Sequence[Result] | None, verdict: str, codes: list[str], home: Home, make: Make
) -> None:
    current, candidate = promoted(home, make(1)), make(2)
    played(home, candidate.sha256, baseline(home), STRONG)
    if results:
        played(home, candidate.sha256, model_participant(current.sha256, RULES), results)
    assessment = judged(home, candidate)
    assert (assessment.decision.verdict, reasons(assessment)) == (verdict, codes)
    entry = record(home, assessment, "anna")
    assert (entry and entry.kind) == {"promote": "promote", "refuse": "refuse", "continue": None}[verdict]
    with DecisionLog(log_path(home)) as log:
        now_current = log.current(CONFIG)
    assert now_current is not None
    assert now_current.sha256 == (candidate.sha256 if verdict == "promote" else current.sha256)


def test_evidence_about_other_weights_or_another_config_counts_for_nothing(home: Home, make: Make) -> None:
    candidate, other = make(1), make(2)
    played(home, other.sha256, baseline(home), STRONG)
    series = Series("square8_3p", model_participant(candidate.sha256, RULES), baseline(home))
    with EvidenceStore(evidence_path(home)) as store:
        store.add([entry for number in range(60) for entry in block(number, STRONG[:3], series=series)])
    assert reasons(judged(home, candidate)) == ["too_few_blocks"]


def test_a_model_that_does_not_qualify_is_refused_whatever_it_wins(home: Home, trained: TrainingSet, tmp_path: Path) -> None:
    candidate = register(home, model_file(tmp_path / "m.pth", CONFIG), PARSED, origin="test", who="anna")
    played(home, candidate.sha256, baseline(home), STRONG)
    assessment = judged(home, candidate)
    assert (assessment.decision.verdict, reasons(assessment)) == ("refuse", ["unfit", "unfit"])


def test_an_evaluation_game_among_the_canonical_games_contaminates(home: Home, make: Make) -> None:
    candidate = make(1)
    played(home, candidate.sha256, baseline(home), STRONG)
    digest = min(stored_digests(PARSED, home))
    series = Series(CONFIG, model_participant(candidate.sha256, RULES), Participant("heuristic", "other"))
    with EvidenceStore(evidence_path(home)) as store:
        store.add([replace(game(0, 1, series=series), digest=digest)])
    assessment = judged(home, candidate)
    assert (assessment.decision.verdict, reasons(assessment)) == ("refuse", ["contaminated"])
    assert digest[:12] in assessment.decision.rationale


def test_the_same_refusal_is_recorded_once_and_the_current_model_is_not_judged_anew(home: Home, make: Make) -> None:
    current, candidate = promoted(home, make(1)), make(2)
    played(home, candidate.sha256, baseline(home), WEAK)
    assert record(home, judged(home, candidate), "anna") is not None
    assert record(home, judged(home, candidate), "anna") is None
    again = judged(home, current)
    assert reasons(again) == ["already_current"]
    assert record(home, again, "anna") is None
    with DecisionLog(log_path(home)) as log:
        assert [entry.kind for entry in log.history(CONFIG)] == ["refuse", "promote"]


def test_the_published_entry_says_what_the_model_file_says(home: Home, make: Make) -> None:
    candidate = promoted(home, make(1))
    checkpoint = read_checkpoint(directory(home, CONFIG) / candidate.file)
    entry = publish_current(home).manifest.models[CONFIG]
    assert (entry.sha256, entry.bytes, entry.encoder) == (checkpoint.sha256, checkpoint.bytes, "square_v2")
    assert (entry.in_channels, entry.policy_size, entry.architecture) == (56, 7000, checkpoint.architecture)
    assert (entry.training_data_sha256, entry.decision) == (candidate.training_data_sha256, "1")
    assert read_set(published_path(home)).models == {CONFIG: entry}


def test_of_two_decisions_on_the_same_evidence_one_counts(home: Home, make: Make) -> None:
    first, second = make(1), make(2)
    for candidate in (first, second):
        played(home, candidate.sha256, baseline(home), STRONG)
    assessments = [judged(home, candidate) for candidate in (first, second)]
    assert record(home, assessments[0], "anna") is not None
    with pytest.raises(CurrentChanged, match="decide again"):
        record(home, assessments[1], "ben")
    assert reasons(judged(home, second)) == ["too_few_blocks"]


def test_rollback_and_pin_are_decisions_too(home: Home, make: Make) -> None:
    first, second = promoted(home, make(1)), make(2)
    played(home, second.sha256, baseline(home), STRONG)
    played(home, second.sha256, model_participant(first.sha256, RULES), STRONG)
    record(home, judged(home, second), "anna")
    entry = rollback(home, PARSED, None, who="ben", why="it hung")
    assert (entry.kind, entry.sha256, entry.record) == ("rollback", first.sha256, {"from": second.sha256})
    pin(home, PARSED, who="ben", why="until fixed")
    with pytest.raises(Pinned):
        rollback(home, PARSED, second.sha256[:12], who="anna", why="fixed")
    with pytest.raises(NothingToDo, match="is pinned to"):
        pin(home, PARSED, who="ben", why="again")
    pin(home, PARSED, who="anna", why="fixed", release=True)
    rollback(home, PARSED, second.sha256[:12], who="anna", why="fixed")
    with DecisionLog(log_path(home)) as log:
        assert [(entry.kind, entry.sha256) for entry in log.history(CONFIG)][:4] == [
            ("rollback", second.sha256), ("unpin", first.sha256), ("pin", first.sha256), ("rollback", first.sha256),
        ]  # fmt: skip


def test_what_was_rolled_back_is_not_promoted_again_on_the_same_evidence(home: Home, make: Make) -> None:
    first, second = promoted(home, make(1)), make(2)
    played(home, second.sha256, baseline(home), STRONG)
    played(home, second.sha256, model_participant(first.sha256, RULES), STRONG)
    record(home, judged(home, second), "anna")
    rollback(home, PARSED, None, who="ben", why="it hung")
    assert (judged(home, second).decision.verdict, reasons(judged(home, second))) == ("refuse", ["rolled_back"])


@pytest.mark.parametrize("other", [{"version": "ringrift_dagster-0"}, {"name": "policy_only"}])
def test_evidence_of_another_engine_or_player_counts_for_nothing(other: dict[str, str], home: Home, make: Make) -> None:
    candidate = make(1)
    series = Series(CONFIG, replace(model_participant(candidate.sha256, RULES), **other), baseline(home))
    with EvidenceStore(evidence_path(home)) as store:
        store.add([entry for number in range(60) for entry in block(number, STRONG, series=series)])
    assert reasons(judged(home, candidate)) == ["too_few_blocks"]


def test_a_block_that_never_ends_with_a_result_refuses(home: Home, make: Make) -> None:
    candidate = make(1)
    series = Series(CONFIG, model_participant(candidate.sha256, RULES), baseline(home))
    with EvidenceStore(evidence_path(home)) as store:
        for attempt in range(3):
            store.add([game(0, seat, "void", attempt=attempt, series=series) for seat in range(1, 5)])
    assert (judged(home, candidate).decision.verdict, reasons(judged(home, candidate))) == (
        "refuse",
        ["too_few_blocks", "no_result"],
    )


def test_what_cannot_be_rolled_back_to(home: Home, make: Make) -> None:
    with pytest.raises(NothingToDo, match="was ever promoted"):
        rollback(home, PARSED, None, who="a", why="b")
    with pytest.raises(NothingToDo, match="none to pin"):
        pin(home, PARSED, who="a", why="b")
    first, never = promoted(home, make(1)), make(2)
    for prefix, error, message in (
        (None, NothingToDo, "is the first model"),
        (first.sha256, NothingToDo, "is the current model"),
        (never.sha256, NothingToDo, "was never promoted"),
        ("0" * 12, UnknownCandidate, "no candidate"),
    ):
        with pytest.raises(error, match=message):
            rollback(home, PARSED, prefix, who="a", why="b")


def test_a_model_whose_file_is_damaged_is_not_rolled_back_to(home: Home, make: Make) -> None:
    first, second = promoted(home, make(1)), make(2)
    played(home, second.sha256, baseline(home), STRONG)
    played(home, second.sha256, model_participant(first.sha256, RULES), STRONG)
    record(home, judged(home, second), "anna")
    (directory(home, CONFIG) / first.file).write_bytes(b"")
    with pytest.raises(NothingToDo, match="cannot be made current"):
        rollback(home, PARSED, None, who="a", why="b")
