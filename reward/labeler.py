"""A reward in the labelers' place: rankings by a function or another reward model (AI feedback)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.records import Prompt
from podium.rewards.protocol import Reward


@dataclass(frozen=True)
class Order:
    """What a reward says about K responses: their order and no more."""

    ranks: list[int]  # 1 = best, equal = tie
    likert: None = None
    flags: None = None
    skipped: None = None


@dataclass(frozen=True)
class RewardLabeler:
    """Ranks by score. Equal scores are a tie."""

    reward: Reward
    name: str = "reward"
    cohort: str = "train"

    @torch.no_grad()
    def rank(self, prompt: Prompt, responses: Sequence[str], rng: random.Random) -> Order:
        """The order of the responses to one prompt."""
        scores = self.reward([prompt] * len(responses), responses).tolist()
        return Order([1 + sum(other > own for other in scores) for own in scores])
