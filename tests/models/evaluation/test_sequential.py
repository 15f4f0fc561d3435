"""The sequential test: published values, symmetries, and how often it errs."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.models.evaluation.sequential import (
    MOST_ELO,
    Hypotheses,
    elo_of,
    estimate,
    expected_blocks,
    log_likelihood_ratio,
    outcome,
    score_of,
    scores,
)

NARROW = Hypotheses(0.5, 2.5)
WIDE = Hypotheses(0.0, 200.0)
DEGENERATE = ([100, 0, 0, 0, 0], [0, 0, 100, 0, 0], [0, 0, 0, 0, 100], [1, 0, 0, 0, 1], [0, 0, 0, 0, 1])


def test_the_ratio_that_others_publish() -> None:
    """OpenBench's worked example, in normalised Elo."""
    assert log_likelihood_ratio([39, 8843, 26675, 9240, 44], 2, NARROW) == pytest.approx(2.941675, abs=5e-7)


@pytest.mark.parametrize(
    ("counts", "elo", "lowest", "highest"),
    [([1, 60, 500, 1200, 600], 188.3595, 170.7252, 214.8484), ([1, 20, 300, 900, 779], 245.4729, 223.6370, 289.7981)],
)
def test_the_estimates_that_others_publish(counts: list[int], elo: float, lowest: float, highest: float) -> None:
    """Fishtest's reference values, for bounds of 0 and 2."""
    result = estimate(counts, 2, Hypotheses(0, 2))
    assert (result.elo, result.lowest, result.highest) == pytest.approx((elo, lowest, highest), abs=5e-5)


@pytest.mark.parametrize("counts", DEGENERATE)
@pytest.mark.parametrize("hypotheses", [NARROW, WIDE, Hypotheses(-100, 0)])
def test_scores_that_never_vary_break_nothing(counts: list[int], hypotheses: Hypotheses) -> None:
    assert isfinite(log_likelihood_ratio(counts, 2, hypotheses))
    result = estimate(counts, 2, hypotheses)
    assert -MOST_ELO <= result.lowest <= result.elo <= result.highest <= MOST_ELO


@settings(max_examples=60)
@given(players=st.integers(2, 4), bounds=st.sampled_from([(0, 30), (-30, 0), (0, 200)]), data=st.data())
def test_any_counts_give_a_ratio_and_an_estimate(players: int, bounds: tuple[int, int], data: st.DataObject) -> None:
    size = players**2 + 1
    counts = data.draw(st.lists(st.integers(0, 5000) | st.just(0), min_size=size, max_size=size).filter(any))
    assert isfinite(log_likelihood_ratio(counts, players, Hypotheses(*bounds)))
    result = estimate(counts, players, Hypotheses(*bounds))
    assert -MOST_ELO <= result.lowest <= result.elo <= result.highest <= MOST_ELO


@pytest.mark.parametrize("players", [2, 3, 4])
def test_without_blocks_nothing_is_known(players: int) -> None:
    counts = [0] * (players**2 + 1)
    assert log_likelihood_ratio(counts, players, WIDE) == 0
    assert expected_blocks(counts, players, WIDE) is None
    assert outcome(0, WIDE) == "continue"


@settings(max_examples=50)
@given(counts=st.lists(st.integers(0, 500), min_size=5, max_size=5).filter(any), elo=st.floats(1, 150))
def test_exchanged_sides_exchange_the_hypotheses(counts: list[int], elo: float) -> None:
    forwards = log_likelihood_ratio(counts, 2, Hypotheses(-elo, elo))
    backwards = log_likelihood_ratio(counts[::-1], 2, Hypotheses(-elo, elo))
    assert forwards == pytest.approx(-backwards, abs=1e-6, rel=1e-6)


@settings(max_examples=50)
@given(players=st.integers(2, 4), blocks=st.data())
def test_more_of_the_same_multiplies_the_ratio(players: int, blocks: st.DataObject) -> None:
    size = players**2 + 1
    counts = np.array(blocks.draw(st.lists(st.integers(1, 300), min_size=size, max_size=size)))
    once, thrice = (log_likelihood_ratio((n * counts).tolist(), players, Hypotheses(0, 50)) for n in (1, 3))
    assert thrice == pytest.approx(3 * once, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("players", [2, 3, 4])
def test_more_won_games_never_lower_the_ratio(players: int) -> None:
    size = players**2 + 1
    ratios = []
    for won in range(0, 60, 6):
        counts = np.full(size, 5.0)
        counts[-1] += won
        ratios.append(log_likelihood_ratio(counts.tolist(), players, Hypotheses(0, 50)))
    assert all(first < second for first, second in pairwise(ratios))


@pytest.mark.parametrize("players", [2, 3, 4])
def test_the_ratio_is_positive_between_the_hypotheses_means(players: int) -> None:
    """A distribution with exactly H1's strength speaks for H1, one with H0's for H0."""
    rng = np.random.default_rng(1)
    for elo, sign in ((-60, -1), (160, 1)):
        counts = played(players, elo, 3000, rng)
        assert sign * log_likelihood_ratio(counts.tolist(), players, Hypotheses(0, 60)) > 3


@given(players=st.integers(2, 4), elo=st.floats(-800, 800))
def test_elo_and_score_are_inverse(players: int, elo: float) -> None:
    assert elo_of(score_of(elo, players), players) == pytest.approx(elo, abs=1e-6)
    assert score_of(0, players) == pytest.approx(1 / players)


def test_scores_of_blocks() -> None:
    assert scores(2).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert len(scores(3)) == 10
    assert len(scores(4)) == 17


@pytest.mark.parametrize("counts", [[1, 2, 3], [1, 2, -3, 4, 5], [1] * 10])
def test_other_counts_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="counts"):
        log_likelihood_ratio(counts, 2, NARROW)


@pytest.mark.parametrize(
    ("elo0", "elo1", "alpha", "beta"), [(1, 1, 0.05, 0.05), (2, 1, 0.05, 0.05), (0, 1, 0, 0.05), (0, 1, 0.05, 0.5)]
)
def test_hypotheses_that_mean_nothing_are_refused(elo0: float, elo1: float, alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match=r"elo0|alpha"):
        Hypotheses(elo0, elo1, alpha, beta)


def test_bounds_beyond_every_distribution_are_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        log_likelihood_ratio([1, 1, 1, 1, 1], 2, Hypotheses(0, 100_000))


def test_how_many_blocks_are_still_expected() -> None:
    counts = [2, 8, 20, 12, 6]
    left = expected_blocks(counts, 2, Hypotheses(0, 40))
    assert left
    grown = [n * (48 + left) / 48 for n in counts]
    assert outcome(log_likelihood_ratio(grown, 2, Hypotheses(0, 40)), Hypotheses(0, 40)) == "accept"


def played(players: int, elo: float, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Counts of blocks between players of known strength, in logistic Elo, without games that nobody wins."""
    won = rng.binomial(players, score_of(elo, players), blocks)
    return np.bincount(won * players, minlength=players**2 + 1)


@pytest.mark.parametrize("players", [2, 3, 4])
def test_the_errors_stay_within_their_bounds(players: int) -> None:
    """A few hundred tests of known strengths, looked at every ten blocks; ten thousand are in the benchmark."""
    hypotheses = Hypotheses(0, 100)
    rng = np.random.default_rng(players)
    deviation = np.sqrt(1 / players * (1 - 1 / players))
    wrong = {"accept": 0, "reject": 0}
    for truth, error in ((0.0, "accept"), (100.0, "reject")):
        elo = elo_of(1 / players + truth / 347.4355855 * deviation, players)
        for _ in range(150):
            counts, verdict = np.zeros(players**2 + 1), "continue"
            while verdict == "continue":
                counts += played(players, elo, 10, rng)
                verdict = outcome(log_likelihood_ratio(counts.tolist(), players, hypotheses), hypotheses)
            wrong[error] += verdict == error
    assert max(wrong.values()) <= 17, "more than 5 % of 150 by more than the three deviations of chance"
