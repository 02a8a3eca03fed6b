"""Intervals and estimators for comparing models: pure numpy and scipy, no torch.

Rules the callers keep: ties count half and their share is printed; an interval is over prompts,
because several samples of one prompt are not independent; a difference whose interval includes zero
is not called a difference.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, gammaln
from scipy.stats import beta

ELO_PER_NAT = 400 / np.log(10)  # 173.7: one nat of reward difference in Elo points


class Estimate(NamedTuple):
    """A point estimate with the two ends of its interval."""

    value: float
    low: float
    high: float


def clopper_pearson(successes: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Exact binomial interval of a proportion; only for one untied comparison per prompt.

    ValueError when `trials` is not positive or `successes` is outside 0..trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is no proportion")
    low = 0.0 if successes == 0 else float(beta.ppf(alpha / 2, successes, trials - successes + 1))
    high = (
        1.0
        if successes == trials
        else float(beta.ppf(1 - alpha / 2, successes + 1, trials - successes))
    )
    return low, high


def cluster_bootstrap(
    outcome: ArrayLike,
    prompt_id: ArrayLike,
    statistic: Callable[[np.ndarray], float] | None = None,
    draws: int = 2000,
    seed: int = 0,
    alpha: float = 0.05,
) -> tuple[float, float]:
    """Percentile interval of a statistic of `outcome` (N, ...) when whole prompts are resampled.

    `prompt_id` (N) names the prompt each row belongs to. The statistic takes the resampled rows (M,
    ...) and defaults to the mean of a one-dimensional outcome, which is computed without building
    the resamples.
    """
    values = np.asarray(outcome, dtype=float)
    _, cluster = np.unique(np.asarray(prompt_id), return_inverse=True)
    if len(values) == 0 or len(values) != len(cluster):
        raise ValueError(
            f"{len(values)} outcomes, {len(cluster)} prompt ids: need one id per outcome and "
            f"at least one"
        )
    clusters = int(cluster.max()) + 1
    picks = np.random.default_rng(seed).integers(clusters, size=(draws, clusters))
    if statistic is None:
        sums, counts = np.bincount(cluster, weights=values), np.bincount(cluster)
        resampled = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    else:
        rows = [np.flatnonzero(cluster == c) for c in range(clusters)]
        resampled = np.array(
            [statistic(values[np.concatenate([rows[c] for c in pick])]) for pick in picks]
        )
    low, high = np.quantile(resampled, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def mean_with_interval(
    outcome: ArrayLike, prompt_id: ArrayLike, draws: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of `outcome` (N) with its 95 % interval over prompts."""
    low, high = cluster_bootstrap(outcome, prompt_id, draws=draws, seed=seed)
    return Estimate(float(np.mean(np.asarray(outcome, dtype=float))), low, high)


def paired_difference(
    first: ArrayLike, second: ArrayLike, prompt_id: ArrayLike, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of `first` - `second` (both N, measured on the same rows) with its 95 % interval over
    prompts.

    Pairing removes what the two measurements share (a hard prompt is hard for both), so the
    interval is narrower than the one of two separate means.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired measurements differ in shape: {a.shape} and {b.shape}")
    return mean_with_interval(a - b, prompt_id, draws=draws, seed=seed)


def bradley_terry(wins: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Elo ratings (M) and their standard errors (M) by maximum likelihood, model 0 anchored at 0.

    `wins[i, j]` counts the wins of model i over model j, half a win to each for a tie. Fitted at
    once, not by sequential Elo updates, whose result depends on the order of the games. ValueError
    when some models never lose to the rest (or were never compared with it): the likelihood then
    has no maximum.
    """
    table = np.asarray(wins, dtype=float)
    if connected_components(table > 0, directed=True, connection="strong")[0] > 1:
        raise ValueError(
            "some models never lost to the others or never met them, so their ratings are unbounded"
        )

    def negative_log_likelihood(free: np.ndarray) -> float:
        ratings = np.r_[0.0, free]
        return float((table * np.logaddexp(0, ratings[None] - ratings[:, None])).sum())

    ratings = np.r_[
        0.0, minimize(negative_log_likelihood, np.zeros(len(table) - 1), method="BFGS").x
    ]
    probability = expit(ratings[:, None] - ratings[None])
    information = (table + table.T) * probability * (1 - probability)
    hessian = np.diag(information.sum(axis=1)) - information
    errors = np.r_[0.0, np.sqrt(np.diag(np.linalg.inv(hessian[1:, 1:])))]
    return ratings * ELO_PER_NAT, errors * ELO_PER_NAT


def bon_unbiased(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Expected gold score of the proxy's favourite of n samples, from N >= n scored samples of one
    prompt.

    Averages over all C(N, n) subsets in closed form (WebGPT, section 3.2; Gao et al. 2022, appendix
    I): sum over i >= n of C(i - 1, n - 1) / C(N, n) * gold of the i-th lowest proxy. A larger n
    than N is a ValueError.
    """
    ordered = np.asarray(gold, dtype=float)[np.argsort(np.asarray(proxy), kind="stable")]
    total = len(ordered)
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} needs 1 <= n <= {total}, the number of samples")
    rank = np.arange(n, total + 1)
    log_favourite = gammaln(rank) - gammaln(n) - gammaln(rank - n + 1)  # log C(rank - 1, n - 1)
    log_subsets = gammaln(total + 1) - gammaln(n + 1) - gammaln(total - n + 1)  # log C(N, n)
    return float((np.exp(log_favourite - log_subsets) * ordered[n - 1 :]).sum())


def bon_kl(n: int) -> float:
    """KL in nats of best-of-n from the model it samples: log n - (n - 1) / n, an upper bound when
    samples tie.
    """
    if n < 1:
        raise ValueError(f"best of {n}: n must be at least 1")
    return float(np.log(n) - (n - 1) / n)
