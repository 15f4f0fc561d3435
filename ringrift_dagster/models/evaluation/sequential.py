"""Sequential probability ratio test of block scores: is a candidate stronger than its opponents, or not by enough?

A block is one opening played once with the candidate in every seat, `players` games in all. A game's score is 1 for a win, 0 for a
defeat, and 1/players where nobody wins. A block's score is the sum: one of `players`**2 + 1 values, so that with two players the
counts are the pentanomial frequencies of chess engine testing. Games of one block depend on each other through the opening, which
is why blocks are counted and not games.

Strength is normalised Elo, which is a t-value: (mean score - 1/players) / (standard deviation of a game) * 800 / ln 10. The
likelihood ratio is generalised: both hypotheses take the distribution that is most likely among those with their t-value.
Sources: M. Van den Bergh, "Normalized Elo" and "Comments on the normalized Elo" (cantate.be/Fishtest); D. Siegmund, "Sequential
Analysis" (1985) for estimates after a test that stopped early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log10, sqrt
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

ELO_PER_T: Final = 800 / log(10)
"""Normalised Elo of a t-value of 1 for a single game."""
MOST_ELO: Final = 1000.0
"""Estimates are at most this far from zero, in logistic Elo."""
_EMPTY: Final = 1e-3
"""The count of a score that never occurred: without any, the distributions would not be comparable."""
_ITERATIONS: Final = 200
_TOLERANCE: Final = 1e-10

Outcome = Literal["accept", "reject", "continue"]


@dataclass(frozen=True)
class Hypotheses:
    """H0: the strength is `elo0`; H1: it is `elo1`, both in normalised Elo. `alpha` and `beta` bound the errors of either kind."""

    elo0: float
    elo1: float
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not self.elo0 < self.elo1:
            raise ValueError(f"elo0 is to be less than elo1: {self.elo0} and {self.elo1}")
        if not (0 < self.alpha < 0.5 and 0 < self.beta < 0.5):
            raise ValueError(f"alpha and beta are between 0 and 0.5: {self.alpha} and {self.beta}")

    @property
    def lower(self) -> float:
        """The log-likelihood ratio at which H0 is accepted."""
        return log(self.beta / (1 - self.alpha))

    @property
    def upper(self) -> float:
        """The log-likelihood ratio at which H1 is accepted."""
        return log((1 - self.beta) / self.alpha)


@dataclass(frozen=True)
class Estimate:
    """Logistic Elo, median-unbiased after a sequential test, with its 95 % confidence interval."""

    elo: float
    lowest: float
    highest: float


def scores(players: int) -> NDArray[np.floating]:
    """The possible scores of a block as a share of its games, 0 to 1, in the order of the counts."""
    return np.linspace(0.0, 1.0, players**2 + 1)


def log_likelihood_ratio(counts: Sequence[float], players: int, hypotheses: Hypotheses) -> float:
    """The generalised log-likelihood ratio of H1 to H0, 0 without blocks. `counts` has an entry for each of `scores(players)`."""
    observed, blocks = _distribution(counts, players)
    if blocks == 0:
        return 0.0
    values, level = scores(players), 1 / players
    logs = [
        np.log(_most_likely(values, observed, level, elo / ELO_PER_T * sqrt(players))) for elo in (hypotheses.elo0, hypotheses.elo1)
    ]
    return float(blocks * observed @ (logs[1] - logs[0]))


def outcome(llr: float, hypotheses: Hypotheses) -> Outcome:
    """What the test says: `accept` H1, `reject` it, or `continue`."""
    if llr >= hypotheses.upper:
        return "accept"
    return "reject" if llr <= hypotheses.lower else "continue"


def course(
    block_scores: Sequence[int], players: int, hypotheses: Hypotheses, least: int, step: int = 10, after: int = 0
) -> list[tuple[int, float]]:
    """The log-likelihood ratio in the course of a test, as (blocks, ratio): looked at from `least` blocks on, every `step`.

    `block_scores` has the score of every block, as an index into `scores(players)`. The course ends where the test does, at the
    first look beyond a bound: what was played afterwards no longer counts. Without enough blocks for a look it is empty. Looks at
    up to `after` blocks are left out, for a caller that has taken them.
    """
    looks: list[tuple[int, float]] = []
    counts = np.zeros(players**2 + 1)
    for number, block in enumerate(block_scores, start=1):
        counts[block] += 1
        if number > after and number >= least and (number - least) % step == 0:
            ratio = log_likelihood_ratio(counts.tolist(), players, hypotheses)
            looks.append((number, ratio))
            if outcome(ratio, hypotheses) != "continue":
                break
    return looks


def expected_blocks(counts: Sequence[float], players: int, hypotheses: Hypotheses) -> int | None:
    """How many more blocks the test takes if the scores remain as they are; None while they point nowhere."""
    llr, blocks = log_likelihood_ratio(counts, players, hypotheses), sum(counts)
    if outcome(llr, hypotheses) != "continue":
        return 0
    bound = hypotheses.upper if llr > 0 else hypotheses.lower
    return int(np.ceil(blocks * (bound - llr) / llr)) if blocks and abs(llr) > 1e-6 else None


def estimate(counts: Sequence[float], players: int, hypotheses: Hypotheses, level: float = 0.95) -> Estimate:
    """The strength that the blocks show, corrected for the test's stopping when they looked good or bad.

    The log-likelihood ratio is taken as a Brownian motion between the bounds. A strength's probability is that of a worse
    outcome than the observed one: a quicker rejection, a later acceptance, or a rejection instead of an acceptance.
    """
    observed, blocks = _distribution(counts, players)
    values = scores(players)
    mean = float(observed @ values)
    variance = float(observed @ (values - mean) ** 2)
    deviation = sqrt(players * variance)
    s0, s1 = (1 / players + elo / ELO_PER_T * deviation for elo in (hypotheses.elo0, hypotheses.elo1))
    slope = (mean - (s0 + s1) / 2) * (s1 - s0) / variance
    position = min(max(blocks * slope, hypotheses.lower), hypotheses.upper)
    time = position / slope if abs(blocks * slope) > abs(position) else blocks

    def worse(elo: float) -> float:
        score = score_of(elo, players)
        spread = float(observed @ (values - score) ** 2)
        drift, diffusion = (score - (s0 + s1) / 2) * (s1 - s0) / spread, (s1 - s0) ** 2 / spread
        return _worse_outcome(drift, diffusion, time, position, hypotheses.lower, hypotheses.upper)

    def bound(probability: float) -> float:
        centre = float(np.clip(elo_of(mean, players), -MOST_ELO, MOST_ELO))
        below = _first(lambda elo: worse(elo) > probability, centre, -1.0)
        above = _first(lambda elo: worse(elo) < probability, centre, 1.0)
        if below is None or above is None:
            return -MOST_ELO if below is None else MOST_ELO
        return _root(lambda elo: worse(elo) - probability, below, above)

    return Estimate(bound(0.5), bound((1 + level) / 2), bound((1 - level) / 2))


def score_of(elo: float, players: int) -> float:
    """The expected score of a game against `players` - 1 opponents that are `elo` weaker, in logistic Elo."""
    return 1 / (1 + (players - 1) * 10 ** (-elo / 400))


def elo_of(score: float, players: int) -> float:
    """The inverse of `score_of`; infinite for 0 and 1."""
    if not 0 < score < 1:
        return -np.inf if score <= 0 else np.inf
    return 400 * log10(score * (players - 1) / (1 - score))


def _first(holds: Callable[[float], bool], centre: float, direction: float) -> float | None:
    """The nearest of ever larger steps from `centre` at which a condition holds; None if it does not up to MOST_ELO."""
    step = 1.0
    while True:
        elo = float(np.clip(centre + direction * step, -MOST_ELO, MOST_ELO))
        if holds(elo):
            return elo
        if abs(elo) >= MOST_ELO:
            return None
        step *= 2


def _distribution(counts: Sequence[float], players: int) -> tuple[NDArray[np.floating], float]:
    """The observed distribution of block scores, none of them impossible, and the number of blocks."""
    values = np.asarray(counts, dtype=np.float64)
    if values.shape != (players**2 + 1,) or (values < 0).any():
        raise ValueError(f"{players} players have {players**2 + 1} counts, none negative: {list(counts)}")
    filled = np.where(values == 0, _EMPTY, values)
    return filled / filled.sum(), float(values.sum() and filled.sum())


def _most_likely(values: NDArray[np.floating], observed: NDArray[np.floating], level: float, t: float) -> NDArray[np.floating]:
    """The distribution on `values` that makes what was observed most likely, of those whose mean is `t` deviations above `level`.

    Linearising the t-value about the last distribution makes the constraint that some weights have the expectation zero, for
    which the answer is known up to one multiplier. Repeated until nothing changes.
    """
    current = np.full(len(values), 1 / len(values))
    for _ in range(_ITERATIONS):
        mean = current @ values
        deviation = sqrt(current @ (values - mean) ** 2)
        weights = values - level - t * deviation * (1 + ((mean - values) / deviation) ** 2) / 2
        following = observed / (1 + _multiplier(weights, observed) * weights)
        change = np.abs(following - current).max()
        current = following
        if change < _TOLERANCE:
            break
    return current


def _multiplier(weights: NDArray[np.floating], observed: NDArray[np.floating]) -> float:
    """The x for which observed / (1 + x * weights) gives the weights the expectation zero."""
    least, most = weights.min(), weights.max()
    if not least < 0 < most:
        raise ValueError("no distribution of the scores is as strong as a hypothesis: its Elo is out of range")
    margin = 1e-9
    low, high = -1 / most, -1 / least
    return _root(lambda x: float(observed @ (weights / (1 + x * weights))), low + margin, high - margin)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is zero between two places at which it has different signs."""
    from scipy.optimize import brentq

    root, _ = brentq(function, low, high, xtol=1e-14, full_output=True)
    return float(root)


def _worse_outcome(drift: float, diffusion: float, time: float, position: float, lower: float, upper: float) -> float:
    """P(stopped at `lower` by `time`) + P(not stopped, and at most at `position`), for a Brownian motion from 0.

    By reflection: a path that touches the bounds in a given order ends as one that starts at an image of 0. The images of the
    paths that touch `lower` first are at 2*lower - 2jA and -2(j+1)A, A being the distance of the bounds.
    """
    from scipy.special import log_ndtr

    width, deviation, gamma = upper - lower, sqrt(diffusion * time), drift / diffusion
    steps = np.arange(int(4 + 6 * deviation / width))

    def ends(images: NDArray[np.floating], sign: float) -> float:
        """Weight of the paths from these images that end below (1) or above (-1) the position."""
        return float(np.exp(gamma * images + log_ndtr(sign * (position - images - drift * time) / deviation)).sum())

    below = ends(np.zeros(1), 1)
    lower_first = ends(2 * lower - 2 * steps * width, -1) - ends(-2 * (steps + 1) * width, -1)
    upper_first = ends(2 * upper + 2 * steps * width, 1) - ends(2 * (steps + 1) * width, 1)
    return min(max(below + lower_first - upper_first, 0.0), 1.0)
