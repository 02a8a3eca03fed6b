"""The pretraining mix of PPO-ptx: windows of documents whose gradient joins PPO's in one step
(InstructGPT, C.4).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.packing import documents_apart

__all__ = [
    "next_tokens",
]


class NextTokens(NamedTuple):
    """What a policy is called on to read the targets of windows: ids (R, L), attention mask,
    targets (R, L), positions; `window` (R,) says whose each row is.
    """

    ids: Tensor
    attention_mask: Any
    targets: Tensor
    positions: Tensor | None
    window: Tensor


def next_tokens(ids: Tensor, separator_id: int | None, model: Any) -> NextTokens:
    """Every token of full windows (D, T) but the first is a target.

    No document sees another, as in pretraining (`data.packing.documents_apart`); `separator_id`
    None: a window is one document.
    """
    if separator_id is None:
        targets = torch.ones_like(ids, dtype=torch.bool)
        targets[:, 0] = False
        window = torch.arange(len(ids), device=ids.device)
        return NextTokens(ids, torch.ones_like(targets), targets, None, window)
    inputs, targets, window = documents_apart(ids, separator_id, model)
    rows = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(rows, dtype=torch.bool))
    return NextTokens(rows, mask, targets, inputs.get("position_ids"), window)
