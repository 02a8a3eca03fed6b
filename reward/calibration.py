"""How far a reward model's score gaps can be read as probabilities: pure numpy, no model inside.

A preference model says that the better response wins with probability sigmoid(gap). Every function
takes `gaps` (P,): score of the response that people preferred minus score of the other, one entry
an untied pair. A positive gap is a right call, |gap| is how sure the model was. Source of the
picture: Bai et al. 2022 (Anthropic HH), figure 9.

The pairs of one ranking are not independent (who beats the best also beats the second more often),
so whatever is said about chance here is drawn or reckoned by whole rankings.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

__all__ = [
    "Reliability",
    "accuracy",
    "accuracy_by",
    "expected_calibration_error",
    "fitted_temperature",
    "negative_log_likelihood",
    "overconfidence",
    "reference_ece",
    "reliability",
]

Floats = NDArray[np.float64]
BINS = 10


class Reliability(NamedTuple):
    """One row a bin of confidence between 0.5 and 1, empty bins left out."""

    confidence: Floats  # (B,) mean sigmoid(|gap|)
    accuracy: Floats  # (B,) share of right calls
    pairs: NDArray[np.int64]  # (B,)


def accuracy(gaps: Floats) -> Floats:
    """(P,) 1 where the model prefers what people preferred, 1/2 where it scores both alike, 0
    elsewhere.
    """
    return (np.sign(gaps) + 1) / 2


def negative_log_likelihood(gaps: Floats) -> Floats:
    """(P,) -log sigmoid(gap) in nats; log 2 = 0.693 is a model that knows nothing."""
    return np.logaddexp(0.0, -gaps)


def reliability(gaps: Floats, bins: int = BINS) -> Reliability:
    """Confidence against accuracy in equal-width bins on [0.5, 1]."""
    confidence, right = expit(np.abs(gaps)), accuracy(gaps)
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    held = count > 0
    sums = [
        np.bincount(index, weights=values, minlength=bins)[held] for values in (confidence, right)
    ]
    return Reliability(sums[0] / count[held], sums[1] / count[held], count[held])


def expected_calibration_error(gaps: Floats, bins: int = BINS) -> float:
    """Mean |confidence - accuracy| over pairs, by bin. 0 is perfect, but see `reference_ece`.

    It has no interval: chance alone raises it, a resample's chance comes on top of the data's, and
    so the percentile interval of a bootstrap lies above the truth and may leave out the estimate
    itself. `overconfidence` has one.
    """
    table = reliability(gaps, bins)
    return float(
        (table.pairs * np.abs(table.confidence - table.accuracy)).sum() / table.pairs.sum()
    )


def overconfidence(gaps: Floats) -> Floats:
    """(P,) confidence less right call; the mean is above 0 where the model is surer than it is
    right, and 0 where it is calibrated on the whole. Unlike the ECE its mean has no bias.
    """
    return expit(np.abs(gaps)) - accuracy(gaps)


def reference_ece(
    gaps: Floats,
    preferred: NDArray[np.int64],
    other: NDArray[np.int64],
    draws: int = 400,
    seed: int = 0,
    bins: int = BINS,
) -> tuple[float, float]:
    """(mean, 95th percentile) of the ECE that a perfectly calibrated model with these gaps would
    show by chance.

    With few pairs the ECE is well above 0 however good the model is; only a value above the second
    number says more. `preferred` and `other` (P,) number the two texts of each pair.

    Each draw ranks all texts anew by score plus Gumbel noise, one number a text: an order from
    Plackett-Luce, under which any two texts are ordered as sigmoid(gap) says. So the pairs of a
    ranking vary together as a ranking's do. Several labelers of one prompt are drawn as if they
    agreed, which can only raise the second number.
    """
    rng = np.random.default_rng(seed)
    texts, number = np.unique(np.r_[preferred, other], return_inverse=True)
    first, second = np.split(number, 2)
    values = []
    for _ in range(draws):
        noise = rng.gumbel(size=len(texts))
        ahead = gaps + noise[first] - noise[second] > 0
        values.append(expected_calibration_error(np.where(ahead, gaps, -gaps), bins))
    # Not interpolated: a calibrated model is the 401st draw and exceeds 380 others 1 time in 20.
    return float(np.mean(values)), float(np.quantile(values, 0.95, method="higher"))


def fitted_temperature(gaps: Floats) -> float:
    """The T for which sigmoid(gap / T) has the lowest NLL: above 1 = over-confident, below 1 =
    under-confident.

    Pairs that are all right (or all wrong) have no best T; the search ends at its edges, 1/1000 and
    1000.
    """
    edge = np.log(1000)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(gaps * np.exp(-log_t)).mean(),
        bounds=(-edge, edge),
        method="bounded",
    )
    return float(np.exp(found.x))


def accuracy_by(
    values: Floats, gaps: Floats, bins: int = 8
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Accuracy against any property of the pairs (P,), in bins of equal count: (mean value,
    accuracy, count) a bin.

    With the pairs' mean score: Bai et al. 2022 found accuracy to fall where both responses score
    high.
    """
    order = np.argsort(values, kind="stable")
    pieces = [piece for piece in np.array_split(order, bins) if len(piece)]
    right = accuracy(gaps)
    return (
        np.array([values[piece].mean() for piece in pieces]),
        np.array([right[piece].mean() for piece in pieces]),
        np.array([len(piece) for piece in pieces]),
    )
