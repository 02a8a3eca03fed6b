"""Win rates and the alignment tax against counts made by hand."""

import numpy as np
import pytest

from evals.tax import alignment_tax
from evals.winrate import judge_arms, length_matched_win_rate, win_rate


def test_ties_count_half_and_their_share_is_told():
    """Seen red with ties as losses, and with the two models exchanged."""
    first, second = np.array([[2.0], [1.0], [0.0], [3.0]]), np.array([[1.0], [1.0], [1.0], [2.0]])
    result = win_rate(first, second)
    assert (result.rate, result.ties, result.comparisons, result.prompts) == (2.5 / 4, 1 / 4, 4, 4)
    assert win_rate(first, first + 1e-12).ties == 1.0  # float noise is a tie


def test_every_answer_of_a_prompt_meets_every_answer_of_the_other_model():
    first, second = np.array([[2.0, 0.0]]), np.array([[1.0, 1.0, 3.0]])
    result = win_rate(first, second)
    assert result.rate == pytest.approx(2 / 6) and result.comparisons == 6 and result.prompts == 1


def test_a_verdict_needs_prompts_and_counts_the_arms():
    """The fault: one prompt won was "beats SFT", with the interval [100, 100]. Seen red without
    Holm (three arms of p = 0.03 each beat), and with the sides exchanged.
    """
    rate = win_rate(np.ones((1, 1)), np.zeros((1, 1)))
    assert (rate.rate, rate.low, rate.high, rate.p) == (1.0, 0.0, 1.0, 1.0)

    def row(rate: float, p: float, prompts: int = 100) -> dict:
        return {"win_rate": rate, "win_rate_p": p, "win_rate_prompts": prompts}

    lone, even = row(0.6, 0.03), row(0.5, 0.9)
    assert judge_arms({"ppo": lone}) == {"ppo": "beats"}
    assert set(judge_arms({"ppo": lone, "ppo_ptx": lone, "kl10": lone}).values()) == {
        "is not shown to differ from"
    }
    assert judge_arms({"base": row(0.1, 0.0), "sft": even, "ppo": row(0.4, 0.04)}) == {
        "ppo": "loses to"
    }
    edge = judge_arms({"ppo": row(0.6, 0.05)}), judge_arms({"ppo": row(1.0, 0.01, prompts=6)})
    assert edge == ({"ppo": "is not shown to differ from"}, {"ppo": "beats"})
    few = judge_arms({"ppo": row(1.0, 0.06, prompts=5), "old": {"win_rate": 0.9}})
    assert few == {"ppo": "met too few prompts (5) to be compared with"}


def test_more_samples_of_the_same_prompts_do_not_shrink_the_interval_as_more_prompts_would():
    """Seen red with each comparison as its own cluster."""
    rng = np.random.default_rng(0)
    skill = np.repeat(rng.choice([-1.0, 1.0], size=(40, 1), p=[0.3, 0.7]), 5, axis=1)
    several, single = win_rate(skill, np.zeros((40, 1))), win_rate(skill[:, :1], np.zeros((40, 1)))
    assert several.rate == single.rate
    assert several.high - several.low > 0.8 * (single.high - single.low)
    # five copies of an answer are no more evidence than one; 0.5 is what p asks about
    assert several.p == pytest.approx(single.p)
    assert (single.p < 0.05) == (not single.low <= 0.5 <= single.high)
    even = win_rate(np.array([[1.0], [-1.0]] * 20), np.zeros((40, 1)))
    assert even.p == pytest.approx(1.0)


def test_a_judge_that_likes_length_is_seen_through_when_lengths_are_matched():
    """Score = length: the longer model wins 95 %, and about half of the pairs of equal length. Seen
    red unmatched.
    """
    rng = np.random.default_rng(1)
    long, short = rng.integers(20, 60, size=(200, 4)), rng.integers(10, 40, size=(200, 4))
    raw = win_rate(long.astype(float), short.astype(float))
    matched = length_matched_win_rate(
        long + rng.normal(size=long.shape), short.astype(float), long, short, 0.05
    )
    assert raw.rate > 0.8 and matched is not None and abs(matched.rate - 0.5) < 0.12
    assert (
        length_matched_win_rate(
            np.ones((2, 1)), np.ones((2, 1)), np.full((2, 1), 50), np.full((2, 1), 10)
        )
        is None
    )


def test_lengths_match_within_a_share_of_the_longer_one():
    """100 and 90 match at 10 %, 100 and 89 do not. Seen red with the share of the shorter one."""
    lengths = np.full((2, 1), 100)
    found = length_matched_win_rate(
        np.array([[1.0], [0.0]]), np.zeros((2, 1)), lengths, np.array([[90], [89]])
    )
    assert found is not None and (found.rate, found.comparisons) == (1.0, 1)


def test_where_all_lengths_match_the_matched_win_rate_is_the_raw_one():
    """Interval, p-value and prompts too. Seen red with the prompt of a pair taken from another
    axis, and with every pair as a prompt of its own.
    """
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    same = length_matched_win_rate(first, second, np.ones((5, 3)), np.ones((5, 4)))
    assert same == win_rate(first, second)
    assert same.prompts == 5 and same.comparisons == 60


def test_the_tax_is_relative_in_loss_and_positive_when_paid():
    """Seen red with model and reference exchanged."""
    rng = np.random.default_rng(2)
    reference = rng.uniform(0.5, 0.7, size=100)
    right = np.arange(50) < 45
    tax = alignment_tax(reference * 1.10, reference, np.arange(50) < 30, right)
    assert tax.loss_increase.value == pytest.approx(0.10, abs=0.002)
    assert tax.accuracy_drop is not None and tax.accuracy_drop.value == pytest.approx(0.30)
    assert tax.accuracy_drop.low > 0
    untouched = alignment_tax(reference + rng.normal(0, 0.01, 100), reference)
    assert (
        untouched.loss_increase.low < 0 < untouched.loss_increase.high
        and untouched.accuracy_drop is None
    )


def test_the_taxs_intervals_by_hand():
    """Losses up by 0.01, 0.02 and 0.03 from 0.5: 4 % with t_2 = 4.3027 standard errors of
    0.01 / sqrt(3). No question changed: an interval on both sides of 0. Seen red with ends in nats,
    and with bounds of 0 and 1 for the drop.
    """
    reference, right = np.full(3, 0.5), np.arange(60) < 30
    tax = alignment_tax(reference + np.array([0.01, 0.02, 0.03]), reference, right, right)
    half = 4.3027 * 0.01 / 3**0.5 / 0.5
    assert tax.loss_increase == pytest.approx((0.04, 0.04 - half, 0.04 + half), abs=1e-4)
    assert tax.accuracy_drop is not None
    assert tax.accuracy_drop.low == pytest.approx(-tax.accuracy_drop.high)
    assert tax.accuracy_drop.low < 0
