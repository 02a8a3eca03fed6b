"""Intervals and estimators against published values, planted truth and brute force."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import t as student

from benchmarks.coverage import simulated_wins
from podium.statistics import (
    ELO_PER_NAT,
    FEWEST_PROMPTS,
    SHARE,
    bon_kl,
    bon_unbiased,
    bradley_terry,
    elo_over_prompts,
    holm,
    mean_with_interval,
    p_value,
    paired_difference,
    standard_error,
)

COVERAGE_TRIALS = 2000
# Every setting below covers 94 % of the time or more. One that does exactly so falls under this
# share with a chance of 1 in 1000; an interval that covers 90 % passes with a chance of 1 in 4000.
COVERAGE_LEAST = 0.94 - 3.1 * (0.94 * 0.06 / COVERAGE_TRIALS) ** 0.5


def test_an_interval_over_unanimous_prompts_has_a_width():
    """The fault: [1, 1] for one prompt and for ten that agree. By hand for six wins: two more
    prompts, a win and a loss, make a mean of 7/8 and a standard error of 1/8; t_5 = 2.5706. Seen
    red without the two prompts.
    """
    assert mean_with_interval([1.0], [0], SHARE) == (1.0, 0.0, 1.0)
    assert mean_with_interval([1.0] * 4, [7] * 4, SHARE) == (1.0, 0.0, 1.0)
    six = mean_with_interval([1.0] * 6, range(6), SHARE)
    assert six.value == 1 and six.high == 1
    assert six.low == pytest.approx(7 / 8 - 2.5706 / 8, abs=1e-4)
    # the rule of three: nothing among 300 leaves about 3 / 300
    none = mean_with_interval([0.0] * 300, range(300), SHARE)
    assert none.low == 0 and none.high == pytest.approx(3 / 300, rel=0.1)
    # 600 differences of right answers, all 0
    same = paired_difference([1.0] * 600, [1.0] * 600, range(600), (-1.0, 1.0))
    assert -0.01 < same.low < 0 < same.high < 0.01


def test_one_prompt_says_nothing_of_an_unbounded_mean():
    assert mean_with_interval([3.0, 5.0], ["a", "a"]) == (4.0, None, None)


def test_an_unbounded_mean_has_the_interval_of_student():
    """Prompt means 1, 2, 6 by hand: mean 3, standard error sqrt(7 / 3), t_2 = 4.3027. Seen red with
    n instead of n - 1 below the variance.
    """
    found = mean_with_interval([0.0, 2.0, 2.0, 2.0, 5.0, 7.0], [0, 0, 1, 1, 2, 2])
    half = 4.3027 * (7 / 3) ** 0.5
    assert found == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-3)


@pytest.mark.parametrize("bounds", [(0.0, 7.0), None])
def test_the_standard_error_is_what_the_interval_and_p_are_made_of(bounds):
    """By hand without bounds: prompt means 1, 2, 6 have a mean of 3 and an error of sqrt(7 / 3).
    Mutations seen red: the bounds left out; one prompt has an error of 0.
    """
    outcome, prompts = [0.0, 2.0, 2.0, 2.0, 5.0, 7.0], ["a", "a", "b", "b", "c", "c"]
    error = standard_error(outcome, prompts, bounds)
    centre = 3.0 if bounds is None else (9 + 7) / 5
    if bounds is None:
        assert error == pytest.approx((7 / 3) ** 0.5)
    else:  # two more prompts, at 0 and at 7
        squares = sum((x - 3.2) ** 2 for x in (1, 2, 6, 0, 7))
        assert error == pytest.approx((squares / (5 * 4)) ** 0.5)
    found = mean_with_interval(outcome, prompts, bounds)
    quantile = student.ppf(0.975, 2)
    assert found.low == pytest.approx(
        max(centre - quantile * error, -100.0 if bounds is None else 0.0)
    )
    p = p_value(outcome, prompts, 1.0, bounds)
    assert p == pytest.approx(2 * student.sf((centre - 1) / error, 2))
    assert standard_error([3.0, 5.0], ["a", "a"], bounds) is None
    half = mean_with_interval(outcome, prompts, None, confidence=0.5)
    assert half.high - half.value == pytest.approx(student.ppf(0.75, 2) * (7 / 3) ** 0.5)


@pytest.mark.parametrize("bounds", [SHARE, None])
def test_copies_of_an_outcome_tell_no_more_than_one(bounds):
    """Seen red with rows as the units instead of prompts."""
    outcome = np.random.default_rng(0).integers(0, 2, size=100).astype(float)
    single = mean_with_interval(outcome, range(100), bounds)
    copied = mean_with_interval(np.repeat(outcome, 10), np.repeat(np.arange(100), 10), bounds)
    assert copied == pytest.approx(single)


def test_a_prompt_with_most_of_the_rows_leaves_little_to_count_on():
    """101 rows of one prompt and one of each of 4 others are about one prompt, not five or 105.
    Seen red with all prompts of weight 1 in the standard error.
    """
    outcome = np.r_[np.ones(101), 0.0, 1.0, 0.0, 1.0]
    found = mean_with_interval(outcome, np.r_[np.zeros(101), 1, 2, 3, 4], SHARE)
    assert (found.low, found.high) == (0.0, 1.0)


def test_prompts_of_unequal_size_by_hand():
    """Means 0, 1 and 2 of 1, 1 and 2 rows: centre 5/4; 16/6 effective prompts of weights 2/3, 2/3
    and 4/3, so a variance of (4/9 * 1.625 + 16/9 * 0.5625) / (8/3 * 5/3). Seen red with weights not
    squared.
    """
    found = mean_with_interval([0.0, 1.0, 1.5, 2.5], ["a", "b", "c", "c"])
    error = ((4 / 9 * 1.625 + 16 / 9 * 0.5625) / (8 / 3 * 5 / 3)) ** 0.5
    half = student.ppf(0.975, 5 / 3) * error
    assert found == pytest.approx((1.25, 1.25 - half, 1.25 + half))


@pytest.mark.parametrize("prompts", [5, 10, 50])
@pytest.mark.parametrize("rate", [0.7, 0.9])
@pytest.mark.parametrize(
    ("answers", "correlation", "ties"), [(1, 0.0, 0.0), (1, 0.0, 0.2), (4, 0.5, 0.1)]
)
def test_intervals_of_a_win_rate_cover_it(prompts, rate, answers, correlation, ties):
    """False alarms: 1 in 1000 a setting, see COVERAGE_LEAST. Seen red with the percentile bootstrap
    (66 % with 10 prompts at a rate of 0.9) and with normal quantiles; `benchmarks.coverage` has
    more settings.
    """
    rng = np.random.default_rng([prompts, int(100 * rate), answers])
    wins = simulated_wins(rng, COVERAGE_TRIALS, prompts, answers, rate, correlation, ties)
    names = np.repeat(np.arange(prompts), answers)
    found = [mean_with_interval(trial.ravel(), names, SHARE) for trial in wins]
    assert np.mean([e.low <= rate <= e.high for e in found]) > COVERAGE_LEAST


def test_intervals_hold_their_own_estimate_and_agree_with_p():
    """Any outcomes, prompts of any size: low <= value <= high, and p < 0.05 exactly where the
    interval leaves the null out. Seen red with the p-value taken from the plain mean.
    """
    rng = np.random.default_rng(3)
    for _ in range(300):
        rows = int(rng.integers(2, 30))
        outcome = rng.choice([0.0, 0.5, 1.0], size=rows, p=rng.dirichlet([0.5, 0.5, 0.5]))
        prompts = rng.integers(0, rng.integers(1, rows), size=rows)
        found = mean_with_interval(outcome, prompts, SHARE)
        assert 0 <= found.low <= found.value <= found.high <= 1 and found.low < found.high
        inside = found.low <= 0.5 <= found.high
        assert (p_value(outcome, prompts, 0.5, SHARE) >= 0.05) == inside


def test_fewer_prompts_than_six_never_differ_from_an_even_rate():
    assert p_value([1.0] * 5, range(5), 0.5, SHARE) > 0.05
    assert p_value([1.0] * FEWEST_PROMPTS, range(FEWEST_PROMPTS), 0.5, SHARE) < 0.05
    assert p_value([1.0] * 9, [0] * 9, 0.5, SHARE) == 1.0
    assert (p_value([2.0, 2.0], [0, 1], 2.0), p_value([2.0, 2.0], [0, 1], 1.0)) == (1.0, 0.0)


def test_holm_by_hand():
    """Smallest first: times 4, 3, 2, 1, and never below the one before. Seen red with Bonferroni
    (times 4 throughout) and without the running maximum.
    """
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


def test_ids_must_match_the_outcomes():
    with pytest.raises(ValueError, match="one id per outcome"):
        mean_with_interval([1.0, 0.0], [1])
    with pytest.raises(ValueError, match="at least one"):
        mean_with_interval([], [])


def test_pairing_removes_the_difficulty_both_models_share():
    """Seen red with `first` and `second` exchanged (the sign flips)."""
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0, 5, size=100)
    better, worse = difficulty + 0.5 + rng.normal(0, 0.1, 100), difficulty + rng.normal(0, 0.1, 100)
    difference = paired_difference(better, worse, range(100))
    assert difference.low > 0.4 and difference.high < 0.6
    # unpaired: overlap
    assert mean_with_interval(better, range(100)).low < mean_with_interval(worse, range(100)).high


def test_bradley_terry_recovers_planted_ratings():
    """Six pairs of four models, 400 games each. Seen red with the sign inside the logistic
    flipped.
    """
    truth = np.array([0.0, 87.0, 208.0, 347.0])
    rng, wins = np.random.default_rng(0), np.zeros((4, 4))
    for i, j in combinations(range(4), 2):
        won = rng.binomial(400, 1 / (1 + 10 ** ((truth[j] - truth[i]) / 400)))
        wins[i, j], wins[j, i] = won, 400 - won
    elo, error = bradley_terry(wins)
    assert elo[0] == 0 and error[0] == 0
    assert np.abs(elo[1:] - truth[1:]).max() < 2 * error[1:].max()
    # About 14 Elo each; 1.4 times that where a game counts for one side only.
    assert 10 < error[1:].min() < error[1:].max() < 18


def test_bradley_terry_refuses_a_model_that_never_lost():
    with pytest.raises(ValueError, match="unbounded"):
        bradley_terry([[0, 5], [0, 0]])


@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_best_of_n_equals_the_mean_over_all_subsets(n):
    """Brute force over every subset. Seen red with `rank` starting at n + 1, and with proxy and
    gold exchanged.
    """
    rng = np.random.default_rng(4)
    proxy = rng.normal(size=9)
    gold = proxy + rng.normal(size=9)
    subsets = [list(subset) for subset in combinations(range(9), n)]
    brute = np.mean([gold[max(subset, key=lambda i: proxy[i])] for subset in subsets])
    assert bon_unbiased(proxy, gold, n) == pytest.approx(brute)


def test_best_of_n_needs_n_samples():
    for n in (0, 3):
        with pytest.raises(ValueError, match="number of samples"):
            bon_unbiased([1.0, 2.0], [1.0, 2.0], n)
    with pytest.raises(ValueError, match="at least 1"):
        bon_kl(0)


def test_of_equal_scores_the_one_drawn_last_is_the_favourite():
    """Always the same one, on any machine. Mutation seen red: a sort that is not stable."""
    gold = np.arange(64.0)
    assert bon_unbiased(np.zeros(64), gold, 64) == pytest.approx(63.0)
    assert bon_unbiased(np.zeros(64), gold, 1) == pytest.approx(gold.mean())


def test_best_of_n_kl_is_the_exact_kl_of_the_maximum():
    """Against a Monte Carlo KL: the favourite's density is n F^(n-1), so KL = E[log n + (n - 1) log
    F].
    """
    assert bon_kl(1) == 0.0
    favourite = np.random.default_rng(5).uniform(size=(100_000, 16)).max(axis=1)
    assert bon_kl(16) == pytest.approx(np.mean(np.log(16) + 15 * np.log(favourite)), abs=0.01)


@pytest.mark.parametrize("prompts", [20, 100, 400])
def test_elo_has_an_interval_at_every_size_of_data(prompts):
    """The sandwich by hand for two models: each rating is half the gap, whose variance is that of
    the share won over the curvature squared. Seen red with the pseudo-inverse that took a Hessian
    of 100 prompts and more for one without a free direction: its intervals had no width.
    """
    won = (np.arange(prompts * 4) % 3 == 0).astype(float)
    prompt = np.repeat(np.arange(prompts), 4)
    first, second = np.zeros(len(won), dtype=int), np.ones(len(won), dtype=int)
    found = elo_over_prompts(first, second, won, prompt, 2)[0]
    share = won.mean()
    spread = np.array([(won[prompt == i] - share).sum() for i in range(prompts)])
    error = np.sqrt((spread**2).sum() * prompts / (prompts - 1)) / (len(won) * share * (1 - share))
    half = ELO_PER_NAT * error / 2 * student.ppf(0.975, prompts - 1)
    assert found.high - found.value == pytest.approx(half, rel=1e-4)
    won = np.random.default_rng(0).integers(2, size=3 * len(prompt)).astype(float)
    three = elo_over_prompts(
        np.r_[first, first, second], np.r_[second, 2 * second, 2 * second],
        won, np.r_[prompt, prompt, prompt], 3,
    )  # fmt: skip
    assert all(rating.high - rating.low > half / 10 for rating in three)


def test_elo_over_prompts_are_the_ratings_that_were_planted_around_zero():
    """Three models, 600 prompts of three games each, half a win for a tie. Mutations seen red: the
    wins counted for the loser; the ratings anchored at the first; ties lost.
    """
    truth = np.array([-100.0, 20.0, 80.0])
    rng = np.random.default_rng(1)
    pairs = np.array(list(combinations(range(3), 2)) * 600)
    chance = 1 / (1 + 10 ** ((truth[pairs[:, 1]] - truth[pairs[:, 0]]) / 400))
    won = (rng.random(len(pairs)) < chance).astype(float)
    found = elo_over_prompts(pairs[:, 0], pairs[:, 1], won, np.repeat(np.arange(600), 3), 3)
    assert sum(one.value for one in found) == pytest.approx(0.0, abs=1e-6)
    for one, planted in zip(found, truth, strict=True):
        assert abs(one.value - planted) < 3 * (one.high - one.value) / 1.96 < 60
    table = np.zeros((3, 3))
    np.add.at(table, (pairs[:, 0], pairs[:, 1]), won)
    np.add.at(table, (pairs[:, 1], pairs[:, 0]), 1 - won)
    ratings, _ = bradley_terry(table)
    assert [one.value for one in found] == pytest.approx(ratings - ratings.mean(), abs=1e-3)
    even = elo_over_prompts([0, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5], ["a", "b", "c"], 2)
    assert [one.value for one in even] == pytest.approx([0.0, 0.0], abs=1e-6)
    with pytest.raises(ValueError, match="one prompt alone"):
        elo_over_prompts([0, 1], [1, 0], [1.0, 1.0], ["a", "a"], 2)
