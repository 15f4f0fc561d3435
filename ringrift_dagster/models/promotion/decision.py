"""The decision on a candidate: promote it, refuse it, or go on collecting evidence. Pure: evidence in, decision out.

A candidate is promoted when all hold: it is a readable model of its config whose training data are known and were not stale; no
evaluation game is among the canonical games of the config; a sequential test says that it is stronger than the incumbent; and
against the fixed baselines, each in a sample of fixed size, it is above a floor. What is missing is never in its favour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from ringrift_dagster.cluster.topology import AgeLimits, PromotionLimits
from ringrift_dagster.models.candidates import CLOCK_TOLERANCE
from ringrift_dagster.models.evaluation.records import Blocks
from ringrift_dagster.models.evaluation.sequential import (
    Estimate,
    Hypotheses,
    course,
    estimate,
    expected_blocks,
    outcome,
)

INCUMBENT: Final = "incumbent"
Verdict = Literal["promote", "refuse", "continue"]

REASONS: Final = {
    "unfit": "The candidate's file, config, encoder or provenance does not qualify it.",
    "contaminated": "Evaluation games are among the canonical games of the config.",
    "already_current": "The candidate is the incumbent.",
    "not_stronger": "The sequential test says that the candidate is not stronger than the incumbent by enough.",
    "below_floor": "The candidate does not reach a floor against a baseline.",
    "undecided": "The sequential test has not reached a bound yet.",
    "too_few_blocks": "There are fewer complete blocks than are required.",
    "too_many_blocks": "The sequential test has reached no bound in the most blocks that are played.",
    "no_result": "A block has ended without a result as often as it is tried.",
    "stale_evidence": "The newest game against an opponent that counts is older than is permitted.",
    "future_evidence": "A game ended in the future: a clock is wrong.",
    "rolled_back": "An operator has rolled this model back.",
}
"""What each reason code of a decision means, in one line."""
_CONTINUE: Final = frozenset({"undecided", "too_few_blocks", "future_evidence"})
"""Reasons that more games, or time, can remove. Old evidence stays old: the same blocks would be the same games."""


@dataclass(frozen=True)
class PromotionRules:
    """What a promotion requires. `hypotheses` are in normalised Elo, scores are shares of a game, ages in seconds.

    `max_age` is that of the newest evaluation game against an opponent, `max_data_age` that of the newest game of the training set
    when training began. `floors` has, by baseline, the score that the candidate is to exceed with a one-sided error of
    `floor_alpha`, judged once, on the first `floor_blocks` blocks. `player` is the AI that plays with a model.
    """

    floors: Mapping[str, float]
    hypotheses: Hypotheses = field(default_factory=lambda: Hypotheses(0.0, 30.0))
    min_blocks: int = 40
    max_blocks: int = 5000
    floor_blocks: int = 100
    floor_alpha: float = 0.05
    max_age: float = 30 * 86400.0
    max_data_age: float = AgeLimits().fail.total_seconds()
    player: str = PromotionLimits().player


def rules_of(limits: PromotionLimits, freshness: AgeLimits, players: int) -> PromotionRules:
    """The rules for a number of players, as the hosts file has them."""
    key: Any = f"{players}p"
    return PromotionRules(
        floors={"random": limits.random_floor[key], "heuristic": limits.heuristic_floor[key]},
        hypotheses=Hypotheses(limits.elo0, limits.elo1, limits.alpha, limits.beta),
        min_blocks=limits.min_blocks,
        max_blocks=limits.max_blocks,
        floor_blocks=limits.floor_blocks,
        floor_alpha=limits.floor_alpha,
        max_age=limits.evidence_days * 86400.0,
        max_data_age=freshness.fail_hours * 3600.0,
        player=limits.player,
    )


def default_rules(players: int) -> PromotionRules:
    """The rules for a number of players where the hosts file says nothing."""
    return rules_of(PromotionLimits(), AgeLimits(), players)


@dataclass(frozen=True)
class SequentialResult:
    """The test against the incumbent: log-likelihood ratio and its bounds, and the strength that the blocks show.

    `blocks` are those that the test looked at, which may be fewer than were played; `course` are its looks, as (blocks, ratio).
    """

    blocks: int
    counts: tuple[int, ...]
    score: float
    llr: float
    lower: float
    upper: float
    outcome: str
    more_blocks: int | None
    estimate: Estimate
    course: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class FloorResult:
    """The test against one baseline: the lower confidence bound of the score beside the floor."""

    blocks: int
    score: float
    lower_bound: float
    floor: float
    reached: bool


@dataclass(frozen=True)
class Reason:
    """Why a candidate is not promoted, or not yet: a key of REASONS, and one line."""

    code: str
    text: str


@dataclass(frozen=True)
class Decision:
    """The decision on a candidate, with everything that it rests on."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    incumbent: SequentialResult | None
    floors: Mapping[str, FloorResult] = field(default_factory=dict)

    @property
    def rationale(self) -> str:
        """The decision in words, a sentence a line."""
        return "\n".join(_sentences(self))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rationale": self.rationale}


def decide(
    evidence: Mapping[str, Blocks],
    rules: PromotionRules,
    now: float,
    *,
    has_incumbent: bool,
    exhausted: Sequence[str] = (),
    objections: Sequence[Reason] = (),
) -> Decision:
    """Decide on a candidate.

    `evidence` has the blocks against each opponent: the baselines by name, and INCUMBENT. `exhausted` names opponents against whom
    a block can no longer be completed. `objections` are reasons that have nothing to do with games; any of them refuses.
    """
    reasons = list(objections)
    sequential: SequentialResult | None = None
    if has_incumbent:
        blocks = evidence.get(INCUMBENT)
        sequential = _sequential(blocks, rules) if blocks else None
        reasons += _against_incumbent(sequential, blocks.complete if blocks else 0, rules)
    floors: dict[str, FloorResult] = {}
    for name, floor in rules.floors.items():
        blocks = evidence.get(name)
        if blocks is None or blocks.complete < rules.floor_blocks:
            complete = blocks.complete if blocks else 0
            reasons.append(Reason("too_few_blocks", f"{complete} of {rules.floor_blocks} blocks against {name}"))
            continue
        floors[name] = result = _floor(blocks, floor, rules)
        if not result.reached:
            bound = f"{result.score:.3f} in {result.blocks} blocks, at least {result.lower_bound:.3f}"
            reasons.append(Reason("below_floor", f"the score against {name} is {bound}; the floor is {floor:.3f}"))
    unfinished = {name for name in rules.floors if name not in floors}
    if has_incumbent and (sequential is None or sequential.outcome == "continue"):
        unfinished.add(INCUMBENT)
    no_result = "a block against {} has ended without a result too often"
    reasons += [Reason("no_result", no_result.format(name)) for name in exhausted if name in unfinished]
    judged = {name: floor.blocks for name, floor in floors.items()} | ({INCUMBENT: sequential.blocks} if sequential else {})
    for name, number in judged.items():
        reasons += _of_another_time(name, evidence[name], number, rules, now)
    if not reasons:
        verdict: Verdict = "promote"
    else:
        verdict = "continue" if all(reason.code in _CONTINUE for reason in reasons) else "refuse"
    return Decision(verdict, tuple(reasons), sequential, floors)


def until_decided(rules: PromotionRules) -> Callable[[Blocks], bool]:
    """When to stop playing against the incumbent, for `evaluation.matches.evaluate`: at a bound, or with the most blocks.

    Every look is taken once; blocks that were looked at are expected to stay as they are.
    """
    looked, ended = 0, False

    def decided(blocks: Blocks) -> bool:
        nonlocal looked, ended
        if not ended:
            scores = blocks.scores[: rules.max_blocks]
            looks = course(scores, blocks.players, rules.hypotheses, rules.min_blocks, after=looked)
            looked = looks[-1][0] if looks else looked
            ended = len(scores) >= rules.max_blocks or bool(looks and outcome(looks[-1][1], rules.hypotheses) != "continue")
        return ended

    return decided


def _sequential(blocks: Blocks, rules: PromotionRules) -> SequentialResult | None:
    """The test, as far as it came; None before its first look."""
    hypotheses, players = rules.hypotheses, blocks.players
    looks = course(blocks.scores[: rules.max_blocks], players, hypotheses, rules.min_blocks)
    if not looks:
        return None
    number, ratio = looks[-1]
    counts = blocks.counts(number)
    return SequentialResult(
        blocks=number,
        counts=counts,
        score=blocks.mean(number),
        llr=ratio,
        lower=hypotheses.lower,
        upper=hypotheses.upper,
        outcome=outcome(ratio, hypotheses),
        more_blocks=expected_blocks(counts, players, hypotheses),
        estimate=estimate(counts, players, hypotheses),
        course=tuple(looks),
    )


def _against_incumbent(result: SequentialResult | None, played: int, rules: PromotionRules) -> list[Reason]:
    if result is None:
        return [Reason("too_few_blocks", f"{played} of at least {rules.min_blocks} blocks against the incumbent")]
    if result.outcome == "reject":
        return [Reason("not_stronger", f"the log-likelihood ratio is {result.llr:.2f}, the bound {result.lower:.2f}")]
    if result.outcome == "continue":
        if played >= rules.max_blocks:
            return [Reason("too_many_blocks", f"no bound was reached in {played} blocks")]
        more = f"about {result.more_blocks} more blocks" if result.more_blocks is not None else "no end in sight"
        return [Reason("undecided", f"the log-likelihood ratio is {result.llr:.2f} after {result.blocks} blocks; {more}")]
    return []


def _floor(blocks: Blocks, floor: float, rules: PromotionRules) -> FloorResult:
    """The first blocks, as many as the sample has. The bound is Clopper and Pearson's, with a block as one trial.

    Of all distributions between 0 and 1 with the same mean, wins and defeats vary most, so that a block's score, whatever its
    distribution, is not judged too well.
    """
    from scipy.stats import beta

    sample = rules.floor_blocks
    mean = blocks.mean(sample)
    won = mean * sample
    lower = float(beta.ppf(rules.floor_alpha, won, sample - won + 1)) if won > 0 else 0.0
    return FloorResult(sample, mean, lower, floor, lower > floor)


def _of_another_time(name: str, blocks: Blocks, number: int, rules: PromotionRules, now: float) -> Iterator[Reason]:
    """What is wrong with the times of the first `number` blocks, those that the decision rests on."""
    newest = max(blocks.ended[:number], default=0.0)
    if now - newest > rules.max_age:
        yield Reason("stale_evidence", f"the newest game against {name} that counts is {(now - newest) / 86400:.0f} days old")
    if newest - now > CLOCK_TOLERANCE:
        yield Reason("future_evidence", f"the newest game against {name} ended {(newest - now) / 3600:.0f} hours from now")


def _sentences(decision: Decision) -> list[str]:
    first = {"promote": "Promoted.", "refuse": "Refused.", "continue": "More games are needed."}[decision.verdict]
    lines = [first, *(f"{REASONS[reason.code]} {reason.text[:1].upper()}{reason.text[1:]}." for reason in decision.reasons)]
    if (test := decision.incumbent) is not None:
        strength = f"{test.estimate.elo:+.0f} Elo, between {test.estimate.lowest:+.0f} and {test.estimate.highest:+.0f}"
        lines.append(f"Against the incumbent it scores {test.score:.3f} in {test.blocks} blocks ({strength}).")
    for name, result in decision.floors.items():
        if result.reached:
            lines.append(f"Against {name} it scores {result.score:.3f}, at least {result.lower_bound:.3f}.")
    return lines
