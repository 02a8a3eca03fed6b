"""Intervals and estimators against published values, planted truth and brute force."""

from itertools import combinations

import numpy as np
import pytest

from podium.statistics import (
    bon_kl,
    bon_unbiased,
    bradley_terry,
    clopper_pearson,
    cluster_bootstrap,
    mean_with_interval,
    paired_difference,
)


def test_clopper_pearson_gives_the_textbook_intervals():
    """Seen red with the two beta quantiles' shape parameters swapped."""
    assert clopper_pearson(170, 200) == pytest.approx((0.793, 0.896), abs=5e-4)
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 0.168), abs=5e-4)
    assert clopper_pearson(20, 20) == pytest.approx((1 - 0.168, 1.0), abs=5e-4)
    with pytest.raises(ValueError, match="no proportion"):
        clopper_pearson(3, 2)


def test_cluster_bootstrap_widens_when_samples_of_a_prompt_repeat_each_other():
    """Ten copies of an outcome tell no more than one. Seen red when rows are resampled instead of
    prompts.
    """
    outcome = np.random.default_rng(0).integers(0, 2, size=100).astype(float)
    single = cluster_bootstrap(outcome, range(100))
    copied = cluster_bootstrap(np.repeat(outcome, 10), np.repeat(np.arange(100), 10))
    assert copied == pytest.approx(single)
    naive = cluster_bootstrap(np.repeat(outcome, 10), range(1000))
    assert naive[1] - naive[0] < 0.5 * (single[1] - single[0])


def test_cluster_bootstrap_of_any_statistic_agrees_with_the_closed_path_for_the_mean():
    rng = np.random.default_rng(1)
    outcome, prompts = rng.normal(size=60), rng.integers(0, 20, size=60)
    closed = cluster_bootstrap(outcome, prompts, draws=500)
    assert cluster_bootstrap(outcome, prompts, np.mean, draws=500) == pytest.approx(closed)
    pairs = np.stack([outcome, outcome * 2], axis=1)
    assert cluster_bootstrap(
        pairs, prompts, lambda rows: float(rows[:, 1].mean()), draws=500
    ) == pytest.approx(tuple(2 * x for x in closed))


def test_cluster_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        # four samples a prompt share the prompt's difficulty
        quality = np.repeat(rng.normal(0.0, 1.0, size=50), 4)
        outcome = quality + rng.normal(size=200)
        low, high = cluster_bootstrap(outcome, np.repeat(np.arange(50), 4), draws=300, seed=trial)
        covered += low <= 0.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_cluster_bootstrap_refuses_ids_that_do_not_match():
    with pytest.raises(ValueError, match="one id per outcome"):
        cluster_bootstrap([1.0, 0.0], [1])


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
    assert 5 < error[1:].min() < error[1:].max() < 35


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
    with pytest.raises(ValueError, match="number of samples"):
        bon_unbiased([1.0, 2.0], [1.0, 2.0], 3)


def test_best_of_n_kl_is_the_exact_kl_of_the_maximum():
    """Against a Monte Carlo KL: the favourite's density is n F^(n-1), so KL = E[log n + (n - 1) log
    F].
    """
    assert bon_kl(1) == 0.0
    favourite = np.random.default_rng(5).uniform(size=(100_000, 16)).max(axis=1)
    assert bon_kl(16) == pytest.approx(np.mean(np.log(16) + 15 * np.log(favourite)), abs=0.01)
