"""The guard: a run that goes wrong is noticed, taken back to its last good step, slowed down, and
told about.

OPT's authors restarted by hand from an earlier checkpoint with a lower learning rate whenever
training diverged (Zhang et al. 2022, section 2.5); for PPO the signs are other ones: KL, ratios,
endings, lengths, entropy, the value model's fit, and many prompts getting the same answer, which is
what over-optimised policies do.
"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from podium.metrics import metric_text

__all__ = [
    "LIMITS",
    "GuardConfig",
    "breaches",
]


class GuardConfig(BaseModel):
    """Thresholds (null switches one off) and what to do when one is crossed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_kl: float | None = Field(
        15.0, description="nats a response from the reference; far away is over-optimised"
    )
    max_ratio: float | None = Field(
        2.0, description="mean ratio of new to old probabilities within one update"
    )
    max_approx_kl: float | None = Field(
        0.3, description="mean squared log ratio / 2 within one update"
    )
    max_first_error: float | None = Field(
        0.1,
        description="largest |ratio - 1| before an iteration's first step, where all must be 1; "
        "above, log-probabilities are recomputed from now on",
    )
    min_eos_rate: float | None = Field(0.1, description="share of responses that end by themselves")
    min_length: float | None = Field(2.0, description="mean tokens a response")
    max_length: float | None = Field(None, description="mean tokens a response")
    min_entropy: float | None = Field(
        0.02, description="nats a token, as sampled; 0 = always the same text"
    )
    min_explained_variance: float | None = Field(
        -5.0, description="value model; below 0 is worse than a constant"
    )
    max_near_identical: float | None = Field(
        0.5, description="share of pairs of prompts with nearly the same answer"
    )
    grace: int = Field(
        3,
        ge=0,
        description="iterations before the explained variance counts; value models start raw",
    )
    on_breach: Literal["rollback", "stop"] = Field(
        "rollback", description="go back and go on slower, or stop"
    )
    max_rollbacks: int = Field(4, ge=0, description="then stop with the reason")
    lr_factor: float = Field(
        0.3, gt=0, lt=1, description="learning rates are multiplied by it at a rollback"
    )


LIMITS = (  # threshold, metric, what a breach means
    ("max_kl", "objective/kl", "KL from the reference"),
    ("max_ratio", "val/ratio", "mean probability ratio"),
    ("max_approx_kl", "policy/approxkl_avg", "approximate KL of the update"),
    ("min_eos_rate", "rollout/eos_rate", "share of ended responses"),
    ("min_length", "rollout/length", "mean response length"),
    ("max_length", "rollout/length", "mean response length"),
    ("min_entropy", "policy/entropy_avg", "entropy"),
    ("min_explained_variance", "val/explained_variance", "explained variance of the value model"),
    (
        "max_near_identical",
        "rollout/near_identical",
        "share of near-identical answers across prompts",
    ),
)
ALWAYS_FINITE = (
    "objective/scores",
    "objective/kl",
    "loss/policy_avg",
    "loss/value_avg",
    "grad_norm/policy",
    "grad_norm/value",
)


def breaches(metrics: Mapping[str, float], config: GuardConfig, iteration: int) -> list[str]:
    """What is wrong with an iteration's metrics, in words; empty when all is well.

    `iteration` counts from 1. Metrics that are not there (before the update) are not judged. A
    number that is not finite is always a breach.
    """
    found = [
        f"{name} is {metrics[name]}"
        for name in ALWAYS_FINITE
        if not math.isfinite(metrics.get(name, 0.0))
    ]
    for threshold, name, meaning in LIMITS:
        limit, value = getattr(config, threshold), metrics.get(name)
        if limit is None or value is None or not math.isfinite(value):
            continue
        if threshold == "min_explained_variance" and iteration <= config.grace:
            continue
        if value > limit if threshold.startswith("max") else value < limit:
            side = "above" if threshold.startswith("max") else "below"
            found.append(f"{meaning} {metric_text(value)} is {side} {limit:g} (guard.{threshold})")
    return found
