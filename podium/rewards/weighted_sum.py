"""The weighted sum of rewards: what people like, and what a rule demands."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.records import Prompt
from podium.rewards.protocol import Reward

__all__ = [
    "WeightedSum",
]


class WeightedSum(Reward):
    """sum_i weight_i * reward_i, of any kinds."""

    def __init__(self, rewards: Sequence[tuple[Reward, float]]) -> None:
        super().__init__()
        self.rewards = nn.ModuleList(reward for reward, _ in rewards)
        self.weights = [weight for _, weight in rewards]
        self.reads_text = any(reward.reads_text for reward, _ in rewards)
        self.context = min((r.context for r, _ in rewards if r.context is not None), default=None)

    def forward(
        self,
        prompts: Sequence[Prompt] | None,
        responses: Sequence[str] | None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(B,) fp32, on the device of the first part's scores. Every part takes what it reads, text
        or ids, so the sum hands on all it was given.
        """
        scores = [
            reward(prompts, responses, input_ids, attention_mask).float() for reward in self.rewards
        ]
        weighted = [s.to(scores[0].device) * w for s, w in zip(scores, self.weights, strict=True)]
        return torch.stack(weighted).sum(dim=0)
