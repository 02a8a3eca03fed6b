"""Scaling laws fitted to runs: loss against parameters, tokens and compute, and what pretraining on
other text is worth in tokens.

    joint     L(N, D) = E + A / N^alpha + B / D^beta      Hoffmann et al. 2022, section 3.3
    one       L(x) = E + (x0 / x)^exponent                Kaplan et al. 2020, eq. 1.1 to 1.3, with a
                                                          floor E, which they leave out
    transfer  D_T = k D_F^a N^b                           Hernandez et al. 2021, eq. 1.1

N counts parameters without embeddings, D tokens that were read, C = 6 N D operations, L nats a
token. Fits minimise the Huber loss of log L, so that one run that went wrong does not bend the law;
intervals are percentiles over bootstrapped residuals. Both hold inside the range of the runs; what
a law says beyond it is a guess.

Pure numbers, no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from podium.errors import PodiumError

__all__ = [
    "Effective",
    "Fit",
    "Point",
    "compute_frontier",
    "effective_tokens",
    "fit_joint",
    "fit_one",
    "fit_transfer",
]

HUBER = 1e-2  # of log L; larger residuals count by their size, not its square
DRAWS = 400


class Point(NamedTuple):
    """One run."""

    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        """Operations, 6 N D."""
        return 6 * self.parameters * self.tokens


@dataclass(frozen=True)
class Fit:
    """A law's numbers by name, the 95 % interval of each, and what it leaves unexplained.

    residual: the root mean square of log L - log of the law; runs: how many it was fitted to.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    residual: float
    runs: int


Law = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (theta, x of shape (V, n)) -> log L (n,)


def fit_joint(points: Sequence[Point], seed: int = 0, draws: int = DRAWS) -> Fit:
    """E, A, alpha, B, beta of L(N, D), and three things that follow:

    `tokens exponent` alpha / beta: D must grow as N to this power for the two terms to keep their
    proportion (Kaplan: 0.74); `data for 8 N`: how much more data eight times the parameters need;
    `allocation` beta / (alpha + beta): the best N grows as C to this power (Kaplan 0.73, Hoffmann
    0.5).

    Raises:
        PodiumError: fewer than six runs, two sizes or two amounts.
    """
    sizes, amounts = {p.parameters for p in points}, {p.tokens for p in points}
    if len(points) < 6 or len(sizes) < 2 or len(amounts) < 2:
        raise PodiumError(
            f"a law of parameters and tokens needs six runs of several sizes and amounts; there "
            f"are {len(points)} runs, {len(sizes)} sizes, {len(amounts)} amounts",
            "train more: benchmarks/scaling.py makes a ladder of twenty",
        )
    x = np.log(np.array([[p.parameters for p in points], [p.tokens for p in points]]))
    centre = x.mean(axis=1, keepdims=True)  # fitted around the middle of the runs, then moved

    def law(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        floor, size, alpha, data, beta = theta
        terms = [
            np.full(x.shape[1], floor),
            size - np.exp(alpha) * (x[0] - centre[0]),
            data - np.exp(beta) * (x[1] - centre[1]),
        ]
        return np.asarray(np.logaddexp.reduce(terms))

    def named(theta: np.ndarray) -> dict[str, float]:
        alpha, beta = np.exp(theta[2]), np.exp(theta[4])
        return {
            "E": float(np.exp(theta[0])),
            "A": float(np.exp(theta[1] + alpha * centre[0, 0])),
            "alpha": float(alpha),
            "B": float(np.exp(theta[3] + beta * centre[1, 0])),
            "beta": float(beta),
            "tokens exponent": float(alpha / beta),
            "data for 8 N": float(8 ** (alpha / beta)),
            "allocation": float(beta / (alpha + beta)),
        }

    y = np.log([p.loss for p in points])
    starts = [
        (y.min() + np.log(floor), y.min() + np.log(1 - floor), a, y.min() + np.log(1 - floor), b)
        for floor, a, b in product((0.3, 0.8), np.log([0.2, 0.8]), np.log([0.2, 0.8]))
    ]
    return _fitted(law, named, x, y, starts, seed, draws)


def fit_one(
    x: Sequence[float], loss: Sequence[float], floor: bool = True, seed: int = 0, draws: int = DRAWS
) -> Fit:
    """E, x0 and the exponent of L(x); with `floor=False` E is 0, as Kaplan et al. have it.

    Raises:
        PodiumError: fewer values of x than the law has numbers, and one more.
    """
    least = 4 if floor else 3
    if len(set(x)) < least:
        raise PodiumError(
            f"a law in one quantity needs {least} values of it; there are {len(set(x))}",
            "train more runs in which only this differs",
        )
    logs = np.log(np.array([x]))
    centre = float(logs.mean())

    def law(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        power = theta[0] - np.exp(theta[1]) * (x[0] - centre)
        return np.logaddexp(theta[2], power) if floor else np.asarray(power)

    def named(theta: np.ndarray) -> dict[str, float]:
        exponent = float(np.exp(theta[1]))
        values = {"exponent": exponent, "x0": float(np.exp(theta[0] / exponent + centre))}
        return values | ({"E": float(np.exp(theta[2]))} if floor else {})

    y = np.log(loss)
    starts = [
        (y.min() + np.log(1 - share), exponent, *([y.min() + np.log(share)] * floor))
        for share, exponent in product((0.3, 0.8) if floor else (0.5,), np.log([0.1, 0.3, 0.9]))
    ]
    return _fitted(law, named, logs, y, starts, seed, draws)


def _fitted(
    law: Law,
    named: Callable[[np.ndarray], dict[str, float]],
    x: np.ndarray,
    y: np.ndarray,
    starts: Sequence[Sequence[float]],
    seed: int,
    draws: int,
) -> Fit:
    """The best fit from several starts, and percentiles of refits to y (n,) drawn from the law and
    its own residuals, which are stretched for the numbers that were fitted.
    """

    def minimise(y: np.ndarray, start: Any) -> tuple[float, np.ndarray]:
        def gap(theta: np.ndarray) -> np.ndarray:
            return np.asarray(np.clip(law(theta, x) - y, -50, 50))

        found = least_squares(gap, start, loss="huber", f_scale=HUBER)
        return float(found.cost), found.x

    _, best = min((minimise(y, start) for start in starts), key=lambda found: found[0])
    expected, rng = law(best, x), np.random.default_rng(seed)
    residuals = y - expected
    spread = residuals * np.sqrt(len(y) / max(len(y) - len(best), 1))
    drawn = [named(minimise(expected + rng.choice(spread, len(y)), best)[1]) for _ in range(draws)]
    values = named(best)
    ends = {
        name: tuple(float(v) for v in np.percentile([draw[name] for draw in drawn], (2.5, 97.5)))
        for name in values
    }
    intervals = {name: (low, high) for name, (low, high) in ends.items()}
    return Fit(values, intervals, float(np.sqrt(np.mean(residuals**2))), len(y))


def compute_frontier(points: Sequence[Point]) -> list[Point]:
    """The runs that no cheaper run beats, the cheapest first: what L(C) is fitted to."""
    frontier: list[Point] = []
    for point in sorted(points, key=lambda p: (p.flops, p.loss)):
        if not frontier or point.loss < frontier[-1].loss:
            frontier.append(point)
    return frontier


class Effective(NamedTuple):
    """A run that started from a model of other text: `transferred` tokens of its own kind of text
    are what that start was worth; None where no run from scratch was as good, or as bad.
    """

    parameters: float
    tokens: float
    loss: float
    transferred: float | None


def effective_tokens(tuned: Sequence[Point], scratch: Sequence[Point]) -> list[Effective]:
    """D_T of each tuned run: the tokens with which a run of its size from scratch reaches its loss,
    less its own; between the runs from scratch, on a straight line of log D against log L.
    """
    found = []
    for run in tuned:
        same = sorted((p for p in scratch if p.parameters == run.parameters), key=lambda p: -p.loss)
        inside = len(same) > 1 and same[-1].loss <= run.loss <= same[0].loss
        transferred = None
        if inside:
            losses = np.log([p.loss for p in reversed(same)])
            needed = np.interp(np.log(run.loss), losses, np.log([p.tokens for p in reversed(same)]))
            transferred = float(np.exp(needed)) - run.tokens
        found.append(Effective(run.parameters, run.tokens, run.loss, transferred))
    return found


def fit_transfer(runs: Sequence[Effective], seed: int = 0, draws: int = DRAWS) -> Fit:
    """k, a and b of D_T = k D_F^a N^b by least squares of logs.

    Raises:
        PodiumError: fewer than five runs whose D_T is known and positive, or one size alone.
    """
    known = [run for run in runs if run.transferred is not None and run.transferred > 0]
    if len(known) < 5 or len({run.parameters for run in known}) < 2:
        raise PodiumError(
            f"the law of transfer needs five runs of two sizes; of {len(known)} it is known what "
            f"their start was worth",
            "train runs from scratch on more tokens of the same text, so that one is as good",
        )
    x = np.log(np.array([[r.tokens for r in known], [r.parameters for r in known]]))
    centre = x.mean(axis=1, keepdims=True)

    def law(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(theta[0] + theta[1:] @ (x - centre))

    def named(theta: np.ndarray) -> dict[str, float]:
        k = float(np.exp(theta[0] - theta[1:] @ centre[:, 0]))
        return {"k": k, "a": float(theta[1]), "b": float(theta[2])}

    y = np.log([float(run.transferred or 0) for run in known])
    return _fitted(law, named, x, y, [(y.mean(), 0.2, 0.4)], seed, draws)
