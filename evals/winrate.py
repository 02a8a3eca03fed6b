"""Win rate of one model over another on the same prompts, with ties as half a win and an interval
over prompts.

Longer answers please most judges, so the length-matched win rate stands beside the raw one: only
pairs of answers of nearly equal length are compared.
"""

from typing import NamedTuple

import numpy as np

from podium.statistics import clopper_pearson, cluster_bootstrap

TIE = 1e-9  # scores this close are equal; gold scores are sums of floats


class WinRate(NamedTuple):
    """`rate` counts ties half; `low` and `high` are its 95 % interval over prompts."""

    rate: float
    low: float
    high: float
    ties: float  # share of all comparisons
    comparisons: int
    prompts: int


def outcomes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Every answer of the first model against every answer of the second: 1 win, 0.5 tie, 0 loss.

    `first` (P, S) and `second` (P, R) are scores by prompt; the result is (P, S, R).
    """
    gap = first[:, :, None] - second[:, None, :]
    return np.where(np.abs(gap) <= TIE, 0.5, gap > 0)


def win_rate(first: np.ndarray, second: np.ndarray) -> WinRate:
    """Win rate of the model with scores `first` (P, S) over the one with `second` (P, R), all S x R
    pairs a prompt.
    """
    result = outcomes(first, second)
    return _summarise(result.reshape(-1), np.repeat(np.arange(len(result)), result[0].size))


def length_matched_win_rate(
    first: np.ndarray,
    second: np.ndarray,
    first_lengths: np.ndarray,
    second_lengths: np.ndarray,
    tolerance: float = 0.1,
) -> WinRate | None:
    """Win rate over the pairs whose lengths differ by at most `tolerance` of the longer one; None
    without such a pair.

    Lengths are shaped as the scores, (P, S) and (P, R).
    """
    a, b = first_lengths[:, :, None], second_lengths[:, None, :]
    matched = np.abs(a - b) <= tolerance * np.maximum(a, b)  # (P, S, R)
    if not matched.any():
        return None
    return _summarise(outcomes(first, second)[matched], np.nonzero(matched)[0])


def _summarise(outcome: np.ndarray, prompt: np.ndarray) -> WinRate:
    """One comparison a prompt without ties has an exact interval; all else is bootstrapped over
    prompts.
    """
    prompts, ties = len(np.unique(prompt)), float(np.mean(outcome == 0.5))
    if ties == 0 and prompts == len(outcome):
        low, high = clopper_pearson(int(outcome.sum()), len(outcome))
    else:
        low, high = cluster_bootstrap(outcome, prompt)
    return WinRate(float(outcome.mean()), low, high, ties, len(outcome), prompts)
