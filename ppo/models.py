"""The four models of PPO: policy, reference, reward and value (InstructGPT, section 3.5 and
appendix C.4).

The policy starts from the RL initialisation, which stays as the reference; the value model starts
from the reward model, bias and all, with weights of its own. With LoRA the reference is the policy
with its adapters switched off. The reward is any of `podium.rewards.kinds`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from podium.engine import make_frozen_engine
from podium.models import inside_peft
from podium.rewards.score import token_values
from podium.runtime import Dtype, autocast
from podium.sampling.logprobs import token_logprobs

Placement = Literal["resident", "offload", "sharded"]


class Policy(nn.Module):
    """A causal LM as PPO trains it: the log-probabilities of target tokens, which is all that the
    losses need.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        target_mask: Tensor,
        temperature: float,
        positions: Tensor | None = None,
    ) -> Tensor:
        """All (B, T) -> (N,) fp32 log-probabilities of the N target tokens, row by row."""
        return token_logprobs(
            self.model, input_ids, attention_mask, target_mask, temperature, positions
        )


class ValueFunction(nn.Module):
    """A reward model read at every token: V of the state before each target token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, target_mask: Tensor) -> Tensor:
        """All (B, T) -> (N,) fp32. The state before token t ends with token t - 1, so that is where
        it is read.
        """
        return token_values(inside_peft(self.model), input_ids, attention_mask)[:, :-1][
            target_mask[:, 1:]
        ]


@dataclass
class Frozen:
    """A model that is only read, and where it lives.

    `resident` stays on the device; `offload` visits it from CPU memory for each rollout; `sharded`
    is spread over the processes by ZeRO-3, which gathers one layer at a time.
    """

    module: nn.Module
    placement: Placement
    device: torch.device
    dtype: Dtype

    def __post_init__(self) -> None:
        self.module.requires_grad_(False)
        self.module.eval()
        # a reward without weights has nothing to share out
        if self.placement == "sharded" and any(True for _ in self.module.parameters()):
            self.module = make_frozen_engine(self.module, self.dtype)
        else:
            self.module.to("cpu" if self.placement == "offload" else self.device)

    @contextmanager
    def ready(self) -> Iterator[nn.Module]:
        """The module, callable on the device without gradients."""
        if self.placement == "offload":
            self.module.to(self.device)
        try:
            with torch.no_grad(), autocast(self.device, self.dtype):
                yield self.module
        finally:
            if self.placement == "offload":
                self.module.to("cpu")


class AdapterOff:
    """The reference of a LoRA policy: the same weights with the adapters switched off, so no second
    copy.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    @contextmanager
    def ready(self) -> Iterator[nn.Module]:
        """The policy's engine, acting as the reference inside."""
        with torch.no_grad(), self.engine.module.model.disable_adapter():
            yield self.engine
