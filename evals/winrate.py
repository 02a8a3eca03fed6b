"""Win rate of one model over another on the same prompts, with ties as half a win and an interval
over prompts.

A win rate comes with the p-value of an even one. Several models against the same SFT model are
several chances to be lucky, so what is said about each rests on p-values corrected for all
(`judge_arms`).

Longer answers please most judges, so the length-matched win rate stands beside the raw one: only
pairs of answers of nearly equal length are compared.
"""

from typing import Any, NamedTuple

import numpy as np

from podium.statistics import FEWEST_PROMPTS, SHARE, holm, mean_with_interval, p_value

TIE = 1e-9  # scores this close are equal; gold scores are sums of floats


class WinRate(NamedTuple):
    """`rate` counts ties half; `low` and `high` are its 95 % interval over prompts, `p` is the
    two-sided p-value of an even rate, uncorrected.
    """

    rate: float
    low: float | None
    high: float | None
    p: float
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
    matched = near_lengths(first_lengths[:, :, None], second_lengths[:, None, :], tolerance)
    if not matched.any():
        return None
    return _summarise(outcomes(first, second)[matched], np.nonzero(matched)[0])


def near_lengths(first: np.ndarray, second: np.ndarray, tolerance: float = 0.1) -> np.ndarray:
    """Whether lengths differ by at most `tolerance` of the longer one; shapes broadcast."""
    return np.abs(first - second) <= tolerance * np.maximum(first, second)


def judged_win_rate(
    outcome: np.ndarray, prompt: np.ndarray, among: np.ndarray | None = None
) -> WinRate | None:
    """Win rate of pairs that a judge compared: `outcome` (N,) of the first model, 1 to 0, and the
    `prompt` (N,) of each; of some pairs alone with `among` (N,) bool. None where there is none.
    """
    if among is not None:
        outcome, prompt = outcome[among], prompt[among]
    return _summarise(outcome, prompt) if len(outcome) else None


def judge_arms(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What may be said of each tuned row of results.json against SFT, at a family-wise error of
    5 %: "beats", "loses to", "is not shown to differ from", or that it met too few prompts.

    A row without wins is left out; so is `base`, of which nothing is claimed.
    """
    arms = {
        row: values
        for row, values in rows.items()
        if row not in ("base", "sft") and values.get("win_rate_p") is not None
    }
    adjusted = holm([values["win_rate_p"] for values in arms.values()])
    return {row: _said(arms[row], p) for row, p in zip(arms, adjusted, strict=True)}


def _said(values: dict[str, Any], adjusted_p: float) -> str:
    if values["win_rate_prompts"] < FEWEST_PROMPTS:
        return f"met too few prompts ({values['win_rate_prompts']}) to be compared with"
    if adjusted_p >= 0.05:
        return "is not shown to differ from"
    return "beats" if values["win_rate"] > 0.5 else "loses to"


def _summarise(outcome: np.ndarray, prompt: np.ndarray) -> WinRate:
    found = mean_with_interval(outcome, prompt, SHARE)
    ties, prompts = float(np.mean(outcome == 0.5)), len(np.unique(prompt))
    p = p_value(outcome, prompt, 0.5, SHARE)
    return WinRate(*found, p, ties, len(outcome), prompts)
