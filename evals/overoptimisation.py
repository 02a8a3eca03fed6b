"""Gao et al. 2022: how gold reward rises and falls with the distance from where optimisation began.

    d = sqrt(KL)
    best of n    R(d) = d (a - b d)          peak at a / 2b
    RL           R(d) = d (a - b ln d)       peak at exp(a / b - 1)

R is gold less the gold at the start. Both are linear in a and b, so the fit is least squares;
intervals are over seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from evals.runs import read_run
from podium.statistics import mean_with_interval

Form = Literal["best of n", "RL"]
SMOOTH = 10  # iterations a point: one iteration's gold is of 128 answers


class Curve(NamedTuple):
    """a and b of one curve; `peak` is the d of the highest gold, None where it only rises or
    falls.
    """

    a: float
    b: float
    peak: float | None
    points: int


def fit_curve(kl: Sequence[float], gain: Sequence[float], form: Form) -> Curve:
    """a and b from KL (nats, 0 left out) and gold over the start.

    Raises:
        ValueError: fewer than two points with a KL above 0.
    """
    pairs = [(k, g) for k, g in zip(kl, gain, strict=True) if k > 0]
    if len(pairs) < 2:
        raise ValueError(f"a curve needs two points with a KL above 0; there are {len(pairs)}")
    d = np.sqrt([k for k, _ in pairs])
    second = d**2 if form == "best of n" else d * np.log(d)
    (a, minus_b), *_ = np.linalg.lstsq(
        np.stack([d, second], axis=1), np.array([g for _, g in pairs]), rcond=None
    )
    a, b = float(a), float(-minus_b)
    peak = None
    if b > 0:
        peak = a / (2 * b) if form == "best of n" else float(np.exp(a / b - 1))
    return Curve(a, b, peak if peak is None or peak > 0 else None, len(pairs))


def curves_of(run: Path, stage: str = "ppo_free") -> dict[str, Curve]:
    """The curve of best-of-n from the evaluation, and of a stage of PPO from its log, by stretches
    of ten iterations; gold over SFT's. Without what the run does not have.
    """
    found, read = {}, read_run(run)
    rows = read.results.get("best_of_curve") or []
    known = [r for r in rows if r.get("gold") is not None and r.get("kl") is not None]
    start = next((row["gold"] for row in known if row["n"] == 1), None)
    if start is not None and len(known) > 2:
        kl, gold = [r["kl"] - known[0]["kl"] for r in known], [r["gold"] - start for r in known]
        found["best of n"] = fit_curve(kl, gold, "best of n")
    steps = [
        line
        for line in read.metrics.get(stage, [])
        if {"objective/kl", "objective/gold"} <= line.keys()
    ]
    groups = [steps[i : i + SMOOTH] for i in range(0, len(steps), SMOOTH)]
    if start is not None and len(groups) > 2:
        found["RL"] = fit_curve(
            [float(np.mean([line["objective/kl"] for line in g])) for g in groups],
            [float(np.mean([line["objective/gold"] for line in g])) - start for g in groups],
            "RL",
        )
    return found


def over_seeds(curves: Sequence[Curve]) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval over seeds of a, b and the peak."""
    told = {}
    for name in ("a", "b", "peak"):
        values = [getattr(curve, name) for curve in curves if getattr(curve, name) is not None]
        if values:
            told[name] = dict(mean_with_interval(values, range(len(values)))._asdict())
    return told
