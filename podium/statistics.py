"""Intervals and estimators for comparing models: pure numpy and scipy, no torch.

Rules the callers keep: ties count half and their share is printed; an interval is over prompts,
because several samples of one prompt are not independent; a difference whose interval includes zero
is not called a difference, nor one among several that Holm's correction does not leave standing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, gammaln
from scipy.stats import t as student

__all__ = [
    "FEWEST_PROMPTS",
    "SHARE",
    "Estimate",
    "bon_kl",
    "bon_unbiased",
    "bradley_terry",
    "elo_over_prompts",
    "holm",
    "mean_with_interval",
    "p_value",
    "paired_difference",
]

ELO_PER_NAT = 400 / np.log(10)  # 173.7: one nat of reward difference in Elo points
# With fewer not even unanimous prompts differ from an even rate at 5 %: 2 * 0.5**5 = 6 %.
FEWEST_PROMPTS = 6
SHARE = (0.0, 1.0)  # the bounds of an outcome whose mean is a share: a win, a right answer


class Estimate(NamedTuple):
    """A point estimate with the two ends of its 95 % interval.

    The ends are None where one prompt alone was measured on an unbounded scale: it says nothing
    about how far prompts differ.
    """

    value: float
    low: float | None
    high: float | None


class _Location(NamedTuple):
    """Where a t interval lies: its centre, standard error and degrees of freedom."""

    centre: float
    error: float
    degrees: float


def mean_with_interval(
    outcome: ArrayLike,
    prompt_id: ArrayLike,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """The mean of `outcome` (N) with its interval over prompts; `prompt_id` (N) names each row's
    prompt.

    `bounds`: the lowest and highest value an outcome can have; `SHARE` is the usual pair. With them
    the interval has a width also where all prompts agree, stays inside the bounds, and with one
    prompt is the bounds themselves. See `_locate` for how, docs/lab/intervals.md for how often it
    covers. ValueError without outcomes, or when the ids do not match them.
    """
    values, prompt = np.asarray(outcome, dtype=float), np.asarray(prompt_id)
    mean, found = float(values.mean()) if len(values) else 0.0, _locate(values, prompt, bounds)
    if found is None:
        return Estimate(mean, *(bounds or (None, None)))
    half = float(student.ppf((1 + confidence) / 2, found.degrees)) * found.error
    low, high = found.centre - half, found.centre + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(mean, low, high)


def standard_error(
    outcome: ArrayLike, prompt_id: ArrayLike, bounds: tuple[float, float] | None = None
) -> float | None:
    """The standard error that `mean_with_interval` has its half width from; None with one
    prompt.
    """
    found = _locate(np.asarray(outcome, dtype=float), np.asarray(prompt_id), bounds)
    return None if found is None else found.error


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    prompt_id: ArrayLike,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Mean of `first` - `second` (both N, measured on the same rows) with its 95 % interval over
    prompts.

    Pairing removes what the two measurements share (a hard prompt is hard for both), so the
    interval is narrower than the one of two separate means. `bounds` are the difference's: (-1, 1)
    where both are right or wrong.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired measurements differ in shape: {a.shape} and {b.shape}")
    return mean_with_interval(a - b, prompt_id, bounds)


def p_value(
    outcome: ArrayLike,
    prompt_id: ArrayLike,
    null: float,
    bounds: tuple[float, float] | None = None,
) -> float:
    """Two-sided p of the mean of `outcome` (N) being `null`: below 0.05 exactly where the 95 %
    interval of `mean_with_interval` leaves `null` out. 1 with a single prompt.
    """
    found = _locate(np.asarray(outcome, dtype=float), np.asarray(prompt_id), bounds)
    if found is None:
        return 1.0
    if found.error == 0:
        return float(found.centre == null)
    return float(2 * student.sf(abs(found.centre - null) / found.error, found.degrees))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values (M) of M tests asked at once: rejecting those below 0.05 calls a
    true null false in at most 5 % of families, whatever the dependence (Holm 1979).
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _locate(
    values: np.ndarray, prompt_id: np.ndarray, bounds: tuple[float, float] | None
) -> _Location | None:
    """A t interval over prompts of the mean of values (N); None with a single prompt.

    Prompts are the independent units: a prompt enters with the mean and the number of its rows, and
    n prompts of unequal size count as the (sum m)^2 / (sum m^2) equal ones that would vary as much.
    A bounded outcome gets two more prompts of average size, one at each bound. They are what keeps
    few or unanimous prompts from an interval that is too narrow (Bonett and Price 2012 do so for
    paired proportions; Agresti and Coull 1998 add two of each for single ones) and move the centre
    by less than 1 / n.
    """
    _, cluster = np.unique(prompt_id, return_inverse=True)
    if len(values) == 0 or len(values) != len(cluster):
        raise ValueError(
            f"{len(values)} outcomes, {len(cluster)} prompt ids: need one id per outcome and "
            f"at least one"
        )
    sizes = np.bincount(cluster).astype(float)  # (n,)
    means = np.bincount(cluster, weights=values) / sizes
    if len(means) == 1:
        return None
    weights = sizes * sizes.sum() / (sizes**2).sum()  # sum to the effective number of prompts
    degrees = float(weights.sum()) - 1
    if bounds is not None:
        means, weights = np.r_[means, bounds], np.r_[weights, 1.0, 1.0]
    total = weights.sum()
    centre = float(weights @ means / total)
    variance = (weights**2 @ (means - centre) ** 2) / (total * (total - 1))
    return _Location(centre, float(np.sqrt(variance)), degrees)


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


def elo_over_prompts(
    first: ArrayLike, second: ArrayLike, outcome: ArrayLike, prompt_id: ArrayLike, models: int
) -> list[Estimate]:
    """Elo ratings of `models` from games, with 95 % intervals over prompts; their mean is 0.

    The estimate is Bradley and Terry's by maximum likelihood. The pairs of one ranking are not
    independent games, so the interval comes from the spread of each prompt's share of the gradient
    (the sandwich of Huber 1967, by cluster), with a t quantile of one degree less than prompts.

    Args:
        first, second: (N) the models that met. outcome: (N) 1 where the first won, 0 where it lost,
            0.5 for a tie. prompt_id: (N) which prompt the game was about.

    Raises:
        ValueError: as `bradley_terry`, or fewer than two prompts.
    """
    a, b = np.asarray(first), np.asarray(second)
    won = np.asarray(outcome, dtype=float)
    _, cluster = np.unique(prompt_id, return_inverse=True)
    prompts = int(cluster.max()) + 1
    if prompts < 2:
        raise ValueError("one prompt alone does not tell how far prompts differ")
    wins = np.zeros((models, models))
    np.add.at(wins, (a, b), won)
    np.add.at(wins, (b, a), 1 - won)
    ratings = bradley_terry(wins)[0] / ELO_PER_NAT
    chance = expit(ratings[a] - ratings[b])
    gradient = np.zeros((prompts, models))
    np.add.at(gradient, (cluster, a), won - chance)
    np.add.at(gradient, (cluster, b), chance - won)
    hessian = np.zeros((models, models))
    for i, j, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
        np.add.at(hessian, (i, j), sign * chance * (1 - chance))
    # The ratings' mean is free: along it the Hessian is 0 but for rounding, which no cut-off tells
    # from a small eigenvalue at every size of data. No gradient points that way either, so any
    # curvature may stand there.
    inverse = np.linalg.inv(hessian + hessian.trace() / models**2)
    covariance = inverse @ (gradient.T @ gradient) @ inverse * prompts / (prompts - 1)
    errors = np.sqrt(np.diag(covariance))
    half = student.ppf(0.975, prompts - 1) * errors * ELO_PER_NAT
    centred = (ratings - ratings.mean()) * ELO_PER_NAT
    return [
        Estimate(float(r), float(r - h), float(r + h)) for r, h in zip(centred, half, strict=True)
    ]


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
    """Upper bound in nats of the KL of best-of-n from the model it samples: log n - (n - 1) / n.

    It is the KL where no two of the n answers can be the same or score alike, else more than the
    KL: of n equal answers the favourite is the model's own answer, at a KL of 0 (Beirami et al.
    2024).
    """
    if n < 1:
        raise ValueError(f"best of {n}: n must be at least 1")
    return float(np.log(n) - (n - 1) / n)
