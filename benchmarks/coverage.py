"""How often the intervals of `podium.statistics` and `reward.calibration` cover what they estimate,
beside the usual ones, where the truth is known.

    python -m benchmarks.coverage [--trials 2000]     prints the tables of docs/lab/intervals.md

Prompts are the units. Wins are drawn so that the answers of a prompt are correlated (a
beta-binomial of that intra-class correlation) and some comparisons tie; a ranking's pairs follow
Plackett-Luce. Every method but ours is written here, on the prompts' means, for all trials at once.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm
from scipy.stats import t as student

from podium.statistics import SHARE, holm, mean_with_interval, p_value
from reward.calibration import expected_calibration_error, overconfidence, reference_ece

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]  # (trials,) lower and upper ends
PROMPTS = (5, 10, 20, 50, 100, 200)
RATES = (0.5, 0.7, 0.9, 0.97)
ANSWERS = (  # label, answers a prompt, correlation inside a prompt, share of ties
    ("1 answer", 1, 0.0, 0.0),
    ("1 answer, ties", 1, 0.0, 0.2),
    ("4 answers, alike", 4, 0.5, 0.0),
    ("4 answers, ties", 4, 0.1, 0.2),
    ("4 answers, independent", 4, 0.0, 0.0),
)
DRAWS = 500  # resamples of a bootstrap


def simulated_wins(
    rng: np.random.Generator,
    trials: int,
    prompts: int,
    answers: int,
    rate: float,
    correlation: float = 0.0,
    ties: float = 0.0,
) -> Floats:
    """Outcomes (trials, prompts, answers): 1 won, 0.5 tied, 0 lost, of mean `rate`. `ties` is
    lowered to 1 - rate where that is less.
    """
    tied = min(ties, 1 - rate)
    wins = (rate - tied / 2) / (1 - tied)  # among the untied
    chance = np.full((trials, prompts, 1), wins)
    if correlation:
        pseudo = 1 / correlation - 1
        chance = rng.beta(wins * pseudo, (1 - wins) * pseudo, size=chance.shape)
    shape = (trials, prompts, answers)
    return np.where(rng.random(shape) < tied, 0.5, rng.random(shape) < chance)


def ranked_pairs(
    rng: np.random.Generator, rankings: int, k: int
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What a perfectly calibrated model meets: all pairs of rankings of k texts, drawn by
    Plackett-Luce from its scores. Gap, number of the preferred and of the other text, and ranking,
    (P,) each.
    """
    scores = rng.normal(size=(rankings, k))
    order = np.argsort(-(scores + rng.gumbel(size=scores.shape)), axis=1)  # best first
    better, worse = np.triu_indices(k, 1)
    preferred, other = order[:, better], order[:, worse]  # (rankings, pairs)
    gaps = np.take_along_axis(scores, preferred, 1) - np.take_along_axis(scores, other, 1)
    ranking = np.repeat(np.arange(rankings), len(better))
    return gaps.ravel(), k * ranking + preferred.ravel(), k * ranking + other.ravel(), ranking


def ours(means: Floats, bounds: tuple[float, float] | None = SHARE) -> Ends:
    """`mean_with_interval` of prompts' means (trials, n). (Rows of equal number a prompt, so their
    means say all.)
    """
    names = np.arange(means.shape[1])
    found = np.array([mean_with_interval(row, names, bounds) for row in means])
    return found[:, 1], found[:, 2]


def wald(means: Floats) -> Ends:
    """mean +- t standard errors over prompts."""
    n = means.shape[1]
    half = student.ppf(0.975, n - 1) * means.std(axis=1, ddof=1) / n**0.5
    return means.mean(axis=1) - half, means.mean(axis=1) + half


def wilson(means: Floats) -> Ends:
    """Wilson's interval with the effective number of answers; n where prompts agree."""
    p, n, z = means.mean(axis=1), effective(means), norm.ppf(0.975)
    centre = (p + z * z / 2 / n) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / 4 / n**2)
    return centre - half, centre + half


def korn_graubard(means: Floats) -> Ends:
    """Clopper and Pearson's with the effective number, lowered for its own uncertainty."""
    n = effective(means) * (norm.ppf(0.975) / student.ppf(0.975, means.shape[1] - 1)) ** 2
    won = means.mean(axis=1) * n
    lost = n - won
    low = np.where(won < 1e-9, 0, beta.ppf(0.025, np.maximum(won, 1e-9), lost + 1))
    return low, np.where(lost < 1e-9, 1, beta.ppf(0.975, won + 1, np.maximum(lost, 1e-9)))


def effective(means: Floats) -> Floats:
    """Independent answers that would vary as much as the prompts' means do."""
    p, n = means.mean(axis=1), means.shape[1]
    variance = means.var(axis=1, ddof=1) / n
    return np.where(variance > 1e-12, p * (1 - p) / np.maximum(variance, 1e-12), n)


def resamples(means: Floats) -> Floats:
    """(draws, n) shares with which each prompt enters each resample."""
    n = means.shape[1]
    return np.random.default_rng(0).multinomial(n, [1 / n] * n, size=DRAWS) / n


def percentile(means: Floats) -> Ends:
    low, high = np.quantile(means @ resamples(means).T, [0.025, 0.975], axis=1)
    return low, high


def bca(means: Floats) -> Ends:
    """Bias-corrected and accelerated (Efron 1987)."""
    drawn = np.sort(means @ resamples(means).T, axis=1)  # (trials, draws)
    away = means - means.mean(axis=1, keepdims=True)
    spread = np.maximum((away**2).sum(axis=1), 1e-12)
    skew = (away**3).sum(axis=1) / 6 / spread**1.5
    below = (drawn < means.mean(axis=1, keepdims=True)).mean(axis=1)
    bias = norm.ppf(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS))
    ends = []
    for z in norm.ppf([0.025, 0.975]):
        level = norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        place = np.clip(np.round(level * DRAWS).astype(int), 0, DRAWS - 1)
        ends.append(np.take_along_axis(drawn, place[:, None], axis=1)[:, 0])
    return ends[0], ends[1]


def studentised(means: Floats) -> Ends:
    """Bootstrap of the t statistic."""
    shares, n = resamples(means), means.shape[1]
    drawn = means @ shares.T
    error = np.sqrt(np.maximum(means**2 @ shares.T - drawn**2, 1e-12) / (n - 1))
    centre, own = means.mean(axis=1), means.std(axis=1, ddof=1) / n**0.5
    low, high = np.quantile((drawn - centre[:, None]) / error, [0.025, 0.975], axis=1)
    return centre - high * own, centre - low * own


def covered(ends: Ends, truth: float) -> float:
    return float(((ends[0] <= truth + 1e-9) & (truth - 1e-9 <= ends[1])).mean())


SHARE_METHODS: dict[str, Callable[[Floats], Ends]] = {
    "percentile": percentile,
    "BCa": bca,
    "t": wald,
    "studentised": studentised,
    "Wilson": wilson,
    "Korn-Graubard": korn_graubard,
    "ours": ours,
}


def share_table(trials: int) -> list[str]:
    """Lowest coverage over the four rates, and the mean; then our mean width."""
    rows = ["| prompts | | " + " | ".join(SHARE_METHODS) + " | width |"]
    rows.append("|---|---|" + "---|" * (len(SHARE_METHODS) + 1))
    rng = np.random.default_rng(0)
    for n in PROMPTS:
        for label, answers, correlation, ties in ANSWERS:
            found: dict[str, list[float]] = {name: [] for name in SHARE_METHODS}
            widths = []
            for rate in RATES:
                wins = simulated_wins(rng, trials, n, answers, rate, correlation, ties)
                for name, method in SHARE_METHODS.items():
                    ends = method(wins.mean(axis=2))
                    found[name].append(covered(ends, rate))
                widths.append((ends[1] - ends[0]).mean())
            cells = [f"{100 * min(v):.1f} ({100 * np.mean(v):.1f})" for v in found.values()]
            rows.append(f"| {n} | {label} | {' | '.join(cells)} | {np.mean(widths):.2f} |")
    return rows


def agreement_table(trials: int) -> list[str]:
    """Labelers' agreement: prompts of 1 to 15 pairs, judgements alike (0.3); the percentile
    bootstrap over prompts beside `data.agreement`'s interval; lowest and mean over three rates.
    """
    rows = ["| prompts | percentile | ours | width |", "|---|---|---|---|"]
    rng, pseudo = np.random.default_rng(0), 1 / 0.3 - 1
    for n in PROMPTS:
        found: dict[str, list[float]] = {"percentile": [], "ours": []}
        drawn = resamples(np.zeros((1, n)))
        widths = []
        for rate in (0.6, 0.75, 0.95):
            hits = np.zeros(2)
            for _ in range(trials):
                judged = rng.choice([1, 3, 6, 10, 15], size=n)
                agreed = rng.binomial(judged, rng.beta(rate * pseudo, (1 - rate) * pseudo, size=n))
                ratios = (drawn @ agreed) / (drawn @ judged)
                low, high = np.quantile(ratios, [0.025, 0.975])
                shares, prompt = np.repeat(agreed / judged, judged), np.repeat(np.arange(n), judged)
                interval = mean_with_interval(shares, prompt, SHARE)
                left, right = interval.low or 0.0, interval.high or 0.0
                hits += [low <= rate <= high, left <= rate <= right]
                widths.append(right - left)
            for name, hit in zip(found, hits / trials, strict=True):
                found[name].append(100 * float(hit))
        cells = [f"{min(x):.1f} ({np.mean(x):.1f})" for x in found.values()]
        rows.append(f"| {n} | {' | '.join(cells)} | {np.mean(widths):.2f} |")
    return rows


def unbounded_table(trials: int) -> list[str]:
    """Coverage of the mean of an unbounded figure, such as a KL or a loss."""
    rng = np.random.default_rng(1)
    methods = (percentile, bca, studentised, wald)
    shapes: dict[str, tuple[Callable[[tuple[int, int]], Floats], float]] = {
        "normal": (lambda size: rng.normal(size=size), 0.0),
        "exponential": (lambda size: rng.exponential(size=size), 1.0),
        "log-normal": (lambda size: rng.lognormal(size=size), float(np.exp(0.5))),
    }
    rows = [
        "| prompts | | percentile | BCa | studentised | t (ours) |",
        "|---|---|---|---|---|---|",
    ]
    for n in PROMPTS:
        for name, (draw, mean) in shapes.items():
            values = draw((trials, n))
            cells = [f"{100 * covered(method(values), mean):.1f}" for method in methods]
            rows.append(f"| {n} | {name} | {' | '.join(cells)} |")
    return rows


def arms_table(trials: int, arms: int = 4, prompts: int = 50) -> list[str]:
    """How often at least one of several arms that are as good as SFT is said to differ from it."""
    rng = np.random.default_rng(2)
    names = np.arange(prompts)
    wins = simulated_wins(rng, trials * arms, prompts, 4, 0.5, 0.3, 0.2).mean(axis=2)
    p = np.array([p_value(row, names, 0.5, SHARE) for row in wins]).reshape(trials, arms)
    corrected = np.array([holm(row) for row in p])
    single, alone, family = ((x < 0.05).any(axis=1).mean() for x in (p[:, :1], p, corrected))
    return [
        "| | false verdicts |",
        "|---|---|",
        f"| one arm | {100 * single:.1f} % |",
        f"| any of {arms} arms, uncorrected | {100 * alone:.1f} % |",
        f"| any of {arms} arms, Holm | {100 * family:.1f} % |",
    ]


def calibration_table(trials: int) -> list[str]:
    """A perfectly calibrated model on rankings of 6: how often its ECE passes the 95 % bound of
    chance, how often a bootstrap's interval leaves the ECE itself out, how often the interval of
    overconfidence covers 0.
    """
    rows = [
        "| rankings | above the bound, pairs drawn alone | by ranking | bootstrap interval "
        "without its own ECE | overconfidence covers, pairs as units | over rankings |",
        "|---|---|---|---|---|---|",
    ]
    trials = max(1, trials // 4)
    for rankings in (20, 50, 200):
        seen = np.zeros(5)
        for trial in range(trials):
            rng = np.random.default_rng([rankings, trial])
            gaps, preferred, other, ranking = ranked_pairs(rng, rankings, 6)
            ece, pair = expected_calibration_error(gaps), np.arange(len(gaps))
            alone = reference_ece(gaps, 2 * pair, 2 * pair + 1, 100, trial)[1]
            together = reference_ece(gaps, preferred, other, 100, trial)[1]
            seen += [ece > alone, ece > together, not in_bootstrap(gaps, rankings, rng), 0, 0]
            for place, unit in ((3, pair), (4, ranking)):
                found = mean_with_interval(overconfidence(gaps), unit)
                seen[place] += (found.low or 0) <= 0 <= (found.high or 0)
        rows.append(
            f"| {rankings} | " + " | ".join(f"{100 * x / trials:.1f} %" for x in seen) + " |"
        )
    return rows


def in_bootstrap(gaps: Floats, rankings: int, rng: np.random.Generator) -> bool:
    """Whether the percentile interval of the ECE, whole rankings resampled, holds the ECE."""
    by_ranking = gaps.reshape(rankings, -1)
    picks = rng.integers(rankings, size=(100, rankings))
    drawn = [expected_calibration_error(by_ranking[pick].ravel()) for pick in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low <= expected_calibration_error(gaps) <= high)


def main(trials: int) -> None:
    for title, rows in (
        ("Shares: lowest (mean) coverage of 95 % over rates 0.5, 0.7, 0.9, 0.97", share_table),
        (
            "Agreement of labelers: lowest (mean) coverage over rates 0.6, 0.75, 0.95",
            agreement_table,
        ),
        ("Unbounded means", unbounded_table),
        ("Several arms, 50 prompts, 4 answers each", arms_table),
        ("Calibration: a perfectly calibrated model, rankings of 6", calibration_table),
    ):
        print(f"## {title}\n\n" + "\n".join(rows(trials)) + "\n", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Coverage of the intervals, by simulation.")
    parser.add_argument("--trials", type=int, default=2000, help="data sets a setting")
    main(parser.parse_args().trials)
