"""The pretraining mix of PPO-ptx: windows of documents whose gradient joins PPO's in one step
(InstructGPT, C.4).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from data.packing import packed_inputs

__all__ = [
    "next_tokens",
]


def next_tokens(
    ids: Tensor, bos_id: int | None, config: PretrainedConfig
) -> tuple[Any, Tensor | None, Tensor]:
    """Attention mask, positions and target mask of full windows (D, T): every token but the first
    is a target.

    No document sees another, as in pretraining (`data.packing.packed_inputs`); `bos_id` None: a
    window is one document.
    """
    target_mask = torch.ones_like(ids, dtype=torch.bool)
    target_mask[:, 0] = False
    if bos_id is None:
        return torch.ones_like(target_mask), None, target_mask
    inputs = packed_inputs(ids, bos_id, config)
    return inputs["attention_mask"], inputs["position_ids"], target_mask
