"""The pretraining mix of PPO-ptx: windows of documents whose gradient joins PPO's in one step
(InstructGPT, C.4).
"""

import torch
from torch import Tensor

from data.packing import apart


def next_tokens(ids: Tensor, bos_id: int | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Attention mask, positions and target mask of full windows (D, T): every token but the first
    is a target.

    Documents are kept apart as in pretraining; `bos_id` None: a window is one document.
    """
    target_mask = torch.ones_like(ids, dtype=torch.bool)
    target_mask[:, 0] = False
    if bos_id is None:
        return torch.ones_like(target_mask), None, target_mask
    inputs = apart(ids, bos_id)
    return inputs["attention_mask"], inputs["position_ids"], target_mask
