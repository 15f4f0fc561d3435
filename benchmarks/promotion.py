"""How often decisions on candidates of known strength are wrong, beside RingRift's rule at as many games.

Blocks are drawn, not played: every opening favours seats by chance, so that the games of a block depend on each other, and some
games end without a winner. A candidate is exactly as strong as a hypothesis says, in normalised Elo. RingRift's rule is written
down from its description: win rates against `random` and `heuristic` that depend on the candidate's own Elo, or fixed ones; the
incumbent does not occur in it. Source: RingRift's `app/config/thresholds.py` and `app/training/game_gauntlet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.workers import default_workers, results
from ringrift_dagster.models.evaluation.records import Blocks
from ringrift_dagster.models.evaluation.sequential import ELO_PER_T, scores
from ringrift_dagster.models.promotion.decision import INCUMBENT, PromotionRules, decide, default_rules

DECISIONS: Final = 10_000
BATCH: Final = 250
"""Decisions that one task simulates."""
OPENINGS: Final = 2_000
SEAT_ELO: Final = 120.0
"""Standard deviation of what an opening is worth to a seat."""
DRAWS: Final = 0.02
"""Share of games that nobody wins."""
RATES: Final = {2: (0.60, 0.50), 3: (0.45, 1 / 3), 4: (0.36, 0.25)}
"""True win rates against `random` and `heuristic` of the candidate that is judged by RingRift's rule, by number of players."""
RINGRIFT_GAMES: Final = 50
"""Games against each baseline that RingRift's daemon plays."""

_BASE: Final = {2: (0.85, 0.85), 3: (0.55, 0.45), 4: (0.45, 0.35)}
_ASPIRATIONAL: Final = {2: (0.90, 0.85), 3: (0.65, 0.55), 4: (0.60, 0.50)}
_STEPS: Final = (1200, 1400, 1600, 1800)
_FACTORS: Final = ((0.60, 0.80, 1.0, 1.1, 1.2), (0.50, 0.75, 1.0, 1.15, 1.3))
_CLAMPS: Final = ((0.30, 0.95), (0.10, 0.85))
_BASELINE_ELO: Final = (400.0, 1200.0)


@dataclass(frozen=True)
class Truth:
    """A candidate whose strength against the incumbent is `elo`, in normalised Elo."""

    players: int
    elo: float


@dataclass(frozen=True)
class Outcomes:
    """What became of some candidates: how many were promoted, the blocks against the incumbent, and RingRift's promotions.

    `ringrift` counts those that RingRift's rule promotes at as many games, `ringrift_50` those at RINGRIFT_GAMES a baseline.
    """

    decisions: int
    promoted: int
    blocks: int
    ringrift: int
    ringrift_50: int

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def block_distribution(truth: Truth) -> NDArray[np.floating]:
    """The probabilities of the scores of a block, in the order of `sequential.scores`, for a candidate of exactly this strength."""
    from scipy.optimize import brentq

    rng = np.random.default_rng(truth.players)
    favours = rng.normal(0.0, SEAT_ELO, (OPENINGS, truth.players))

    def excess(strength: float) -> float:
        return normalised_elo(_distribution(favours, strength), truth.players) - truth.elo

    return _distribution(favours, float(brentq(excess, -400, 400)))  # type: ignore[arg-type]


def normalised_elo(distribution: NDArray[np.floating], players: int) -> float:
    """The strength of a candidate whose blocks have this distribution of scores."""
    values = scores(players)
    mean = float(distribution @ values)
    return (mean - 1 / players) / sqrt(players * float(distribution @ (values - mean) ** 2)) * ELO_PER_T


def _distribution(favours: NDArray[np.floating], strength: float) -> NDArray[np.floating]:
    openings, players = favours.shape
    weights = 10 ** (favours / 400)
    total = np.zeros((openings, players**2 + 1))
    total[:, 0] = 1.0
    for seat in range(players):
        own = weights[:, seat] * 10 ** (strength / 400)
        won = (1 - DRAWS) * own / (own + weights.sum(axis=1) - weights[:, seat])
        following = total * (1 - DRAWS - won)[:, None]
        following[:, 1:] += DRAWS * total[:, :-1]
        following[:, players:] += won[:, None] * total[:, :-players]
        total = following
    return total.mean(axis=0)


def simulate(truth: Truth, rules: PromotionRules, task: tuple[int, int]) -> Outcomes:
    """Decide on `task[1]` candidates against the incumbent alone; the random numbers are those of batch `task[0]`."""
    number, decisions = task
    rng = np.random.default_rng([truth.players, round(truth.elo * 100) + 10_000, number])
    distribution = block_distribution(truth)
    without_floors = replace(rules, floors={})
    promoted = 0
    blocks = np.zeros(decisions, dtype=np.int64)
    for index in range(decisions):
        drawn = tuple(rng.choice(len(distribution), rules.max_blocks, p=distribution).tolist())
        decision = decide({INCUMBENT: Blocks(truth.players, drawn, 0, 0, 0.0)}, without_floors, 0.0, has_incumbent=True)
        assert decision.verdict != "continue"
        assert decision.incumbent is not None
        promoted += decision.verdict == "promote"
        blocks[index] = decision.incumbent.blocks
    games = (blocks + len(rules.floors) * rules.floor_blocks) * truth.players
    return Outcomes(
        decisions,
        promoted,
        int(blocks.sum()),
        int(ringrift_promotes(rng, truth.players, games // 2).sum()),
        int(ringrift_promotes(rng, truth.players, np.full(decisions, RINGRIFT_GAMES)).sum()),
    )


def ringrift_promotes(rng: np.random.Generator, players: int, games: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether RingRift's rule promotes a candidate with the rates of RATES, by the number of games against each baseline."""
    rates = [rng.binomial(games, rate) / games for rate in RATES[players]]
    with np.errstate(divide="ignore"):
        shifts = [np.clip(-400 * np.log10(1 / np.maximum(rate, 1e-9) - 1), -400, 400) for rate in rates]
    tier = np.digitize(np.mean([base + shift for base, shift in zip(_BASELINE_ELO, shifts, strict=True)], axis=0), _STEPS)
    adaptive = [
        np.clip(base * np.asarray(factors)[tier], *clamp)
        for base, factors, clamp in zip(_BASE[players], _FACTORS, _CLAMPS, strict=True)
    ]
    return _reached(rates, adaptive) | _reached(rates, _ASPIRATIONAL[players])


def _reached(rates: Sequence[NDArray[np.floating]], bars: Sequence[NDArray[np.floating] | float]) -> NDArray[np.bool_]:
    return np.logical_and(*(rate >= bar for rate, bar in zip(rates, bars, strict=True)))


def rates(truth: Truth, rules: PromotionRules, decisions: int, workers: int) -> Outcomes:
    """The outcomes of `decisions` decisions."""
    tasks = [(number, min(BATCH, decisions - first)) for number, first in enumerate(range(0, decisions, BATCH))]
    with results(partial(simulate, truth, rules), tasks, workers) as batches:
        total = Outcomes(0, 0, 0, 0, 0)
        for batch in batches:
            total += batch
    return total


def floors_reached(players: int, decisions: int) -> Iterator[tuple[str, float]]:
    """Every baseline, and how often a candidate whose score is exactly the floor is judged to be above it."""
    rules = default_rules(players)
    for name, floor in rules.floors.items():
        rng = np.random.default_rng([players, len(name)])
        alone = replace(rules, floors={name: floor})
        reached = 0
        for _ in range(decisions):
            drawn = tuple((players * rng.binomial(players, floor, rules.floor_blocks)).tolist())
            reached += decide({name: Blocks(players, drawn, 0, 0, 0.0)}, alone, 0.0, has_incumbent=False).floors[name].reached
        yield name, reached / decisions


def run(decisions: int = DECISIONS) -> Iterator[tuple[str, str, str]]:
    """All figures, as (name, here, beside)."""
    for players in (2, 3, 4):
        rules = default_rules(players)
        h0, h1 = rules.hypotheses.elo0, rules.hypotheses.elo1
        for text, elo, bound in (
            ("as strong as the incumbent", h0, f"at most {rules.hypotheses.alpha} (alpha)"),
            (f"stronger by {h1:.0f} (normalised Elo)", h1, f"at least {1 - rules.hypotheses.beta} (1 - beta)"),
            (f"weaker by {h1:.0f}", -h1, "as few as possible"),
        ):
            total = rates(Truth(players, elo), rules, decisions, default_workers())
            ringrift = (
                f"RingRift's rule {total.ringrift / decisions:.3f}, with 50 games a baseline {total.ringrift_50 / decisions:.3f}"
            )
            yield (
                f"promoted of {decisions:,}, {players} players, {text}",
                f"{total.promoted / decisions:.4f}",
                f"{bound}; {total.blocks / decisions:.0f} blocks; {ringrift}",
            )
        for name, share in floors_reached(players, decisions):
            yield (
                f"above the floor of {decisions:,}, {players} players, exactly at {name}'s",
                f"{share:.4f}",
                f"at most {rules.floor_alpha}",
            )
